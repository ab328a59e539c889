"""The shape of the code base: who may import whom, what an import costs, what no file may hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_hybrid"
METRIC = "metrics.beir_cross_lingual"
METRIC_PARTS = ("policies", "runs", "settings", "trec")
RANKING, BIAS, SIGNIFICANCE = (f"{METRIC}.{name}" for name in ("ranking", "bias", "significance"))

# Who may import whom, inside the package. A module that is not here has no place yet: decide on it here first.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    # data on disk
    "languages": set(),
    "cache_folder": set(),
    "strict_json": set(),
    "corpus_files": {"strict_json"},
    "held_out": set(),
    "corpus": {"corpus_files", "held_out"},
    "readers": {"strict_json"},
    "tables": {"corpus_files", "readers", "strict_json"},
    "formats": {"corpus_files", "languages", "readers", "strict_json", "tables"},
    "presets": {"readers"},
    "sources": {"cache_folder", "corpus", "corpus_files", "formats", "languages", "presets", "readers", "sample"}
    | {"tables"},
    "sample": {"cache_folder", "corpus"},
    # from items to gradients
    "mix": set(),
    "cells": {"corpus"},
    "schedule": {"cells", "corpus", "mix"},
    "packing": set(),
    "token_cache": {"cells", "files"},
    "collator": {"cells", "packing", "schedule", "token_cache"},
    "dropout": set(),
    "attention": {"dropout"},
    "model_folder": {"strict_json"},
    "scratch": set(),
    "encoder": {"attention", "dropout", "model_folder", "packing", "scratch", "token_cache"},
    "distributed": set(),
    "losses": {"distributed"},
    "gradcache": set(),
    "memory": {"distributed", "packing"},
    "vocabulary": set(),
    "arguments": {"cache_folder", "machine", "mix", "vocabulary"},
    "parsing": {"events"},
    "identity": {"arguments", "encoder", "schedule", "token_cache"},
    "like": {"arguments", "identity", "records"},
    "manifest": {"files", "records", "strict_json"},
    "checkpoints": {"distributed", "files", "manifest"},
    "events": {"records"},
    "supervision": {"distributed", "events", "files", "records"},
    "guard": {"distributed", "events", "files", "records"},
    "chunked": {"events", "gradcache", "guard", "memory"},
    "resumable": {"arguments", "checkpoints", "chunked", "distributed", "events", "files", "guard", "records"}
    | {"supervision"},
    "pushing": {"cards", "distributed", "events", "files", "hub", "hub_commit", "hub_errors", "hub_files", "manifest"}
    | {"records", "resumable"},
    "trainer": {"arguments", "collator", "distributed", "encoder", "evaluation", "identity", "losses", "memory"}
    | {"pushing", "records", "resources", "schedule", "token_cache", "vocabulary"},
    "mlm": {"cells", "corpus", "mix", "schedule", "token_cache"},
    "opening": {"corpus", "encoder", "mlm"},
    "mlm_collator": {"collator", "mlm", "packing"},
    "mlm_model": {"encoder", "events", "mlm_collator", "model_folder"},
    "mlm_arguments": {"arguments", "records"},
    "mlm_trainer": {"arguments", "collator", "distributed", "flops", "identity", "mlm", "mlm_arguments"}
    | {"mlm_collator", "mlm_model", "token_cache", "trainer"},
    "runs": {"arguments", "bundle", "cards", "checkpoints", "distributed", "evaluation", "evaluation_files", "events"}
    | {"machine", "records", "supervision", "trainer"},
    # what is measured, and the files that later tools read
    "metrics.__init__": set(),
    f"{METRIC}.__init__": set(),
    f"{METRIC}.policies": set(),
    f"{METRIC}.runs": set(),
    f"{METRIC}.trec": set(),
    RANKING: {f"{METRIC}.policies", f"{METRIC}.runs"},
    BIAS: set(),
    SIGNIFICANCE: set(),
    f"{METRIC}.settings": {BIAS, f"{METRIC}.policies", RANKING},
    f"{METRIC}.beir_cross_lingual": {BIAS, RANKING, *(f"{METRIC}.{name}" for name in METRIC_PARTS)},
    f"{METRIC}.app": set(),
    f"{METRIC}.tests": set(),
    "files": set(),
    "judgements": set(),
    "embeddings": {"distributed", "files", "identity", "token_cache"},
    "search": {"judgements"},
    "approximate": {"judgements", "search"},
    "tally": {"judgements", RANKING, BIAS},
    "evaluation": {"approximate", "distributed", "embeddings", "judgements", "records", "search", "tally", RANKING},
    "bm25": {"evaluation", "search"},
    "evaluation_files": {"distributed", "files", "records", "tally"},
    "comparison": {"files", "records", "tally", SIGNIFICANCE},
    "records": {"files", "strict_json"},
    "installed": set(),
    "machine": {"installed"},
    "flops": set(),
    "resources": {"distributed", "flops", "machine", "records"},
    "fits": set(),
    "fit_words": {"fits"},
    "hardware": {"records"},
    "workload": {"distributed", "flops", "mix"},
    "measured_runs": {"hardware", "mix", "records", "workload"},
    "planner_model": set(),
    "planner_advice": {"planner_model", "workload"},
    "planner": {"hardware", "measured_runs", "planner_advice", "planner_model", "records", "workload"},
    "planner_words": {"planner", "planner_model"},
    "scaling": {"mix"},
    "study_arguments": {"scaling"},
    "study_folder": {"files", "records", "scaling", "strict_json"},
    "study_inputs": {"arguments", "corpus", "encoder", "events", "files", "languages", "mlm_arguments", "opening"}
    | {"parsing", "scaling", "sources", "study_arguments"},
    "study_budget": {"collator", "encoder", "measured_runs", "records", "scaling", "schedule", "study_arguments"}
    | {"study_folder", "study_inputs", "token_cache"},
    "study_setup": {"files", "machine", "scaling", "study_arguments", "study_budget", "study_folder", "study_inputs"}
    | {"supervision", "sweep"},
    "sweep": {"events", "files", "scaling", "study_folder", "supervision"},
    "quality_curve": {"records", "scaling"},
    "study_table": {"measured_runs", "quality_curve", "records", "scaling", "study_folder"},
    "study_fits": {"fit_words", "fits", "scaling", "study_folder", "study_table"},
    "study_plan": {"hardware", "measured_runs", "mix", "planner", "records", "study_arguments", "workload"},
    "report": {"files", "languages", "records", "scaling"},
    "study_charts": set(),
    "study_figures": {"cards", "fits", "markdown", "records", "report", "scaling", "strict_json", "study_charts"}
    | {"study_fits", "study_folder"},
    "study_answer": {"study_charts", "study_figures"},
    "study_sections": {"card_metadata", "scaling", "study_answer", "study_charts", "study_figures"},
    "study_report": {"files", "markdown", "study_answer", "study_charts", "study_figures", "study_sections"},
    "markdown": set(),
    "card_command": {"markdown"},
    "card_metadata": {"markdown", "presets", "records"},
    "card_results": {"card_metadata", "markdown", "records", "report"},
    "card_sections": {"card_metadata", "card_results", "markdown"},
    "card_limits": {"card_metadata", "card_results", "markdown", "records", "report"},
    "cards": {"card_command", "card_limits", "card_metadata", "card_results", "card_sections"}
    | {"events", "files", "markdown", "records", "report"},
    "hub_errors": {"events"},
    "hub_record": {"events", "files"},
    "hub_files": {"cards", "events", "hub_errors", "hub_record", "manifest", "records"},
    "hub_study": {"card_command", "card_metadata", "cards", "files", "hub_errors", "hub_files", "markdown", "records"},
    "hub_card": {"bundle", "cards", "events", "files", "findings", "hub_errors", "hub_files", "records"},
    "hub_commit": {"events", "hub_errors", "hub_record"},
    "hub": {"cache_folder", "files", "hub_card", "hub_commit", "hub_errors", "hub_files", "hub_record", "hub_study"}
    | {"records"},
    "push_command": {"card_metadata", "events", "hub", "hub_card", "hub_commit", "records"},
    "findings": set(),
    "evidence": {"records", "sources", "strict_json"},
    "bundle": {"cards", "files", "installed", "manifest", "records", "strict_json"},
    "file_checks": {"bundle", "cards", "evidence", "files", "findings", "manifest", "records", "strict_json"},
    "plan_checks": {"cards", "evidence", "findings", "mix", "records", "schedule", "tally"},
    "cost_checks": {"evidence", "findings", "records", "tally"},
    "score_checks": {"evidence", "findings", "records", "reruns", "tally", RANKING, BIAS},
    "reruns": {"evidence", "findings", "records"},
    "checking": {"evidence", "findings"},
    "event_checks": {"evidence", "findings", "records"},
    "study_copy": {"cards", "files", "manifest", "records", "scaling", "strict_json", "study_figures", "study_folder"}
    | {"study_report"},
    "study_evidence": {"checking", "evidence", "findings", "records", "scaling", "study_folder", "study_table"},
    "study_cells": {"cards", "findings", "mix", "scaling", "study_copy", "study_evidence", "study_folder"},
    "study_checks": {
        "cards",
        "checking",
        "cost_checks",
        "event_checks",
        "evidence",
        "file_checks",
        "files",
        "findings",
    }
    | {"installed", "manifest", "plan_checks", "records", "score_checks", "study_cells", "study_copy"}
    | {"study_evidence", "study_fits", "study_folder", "study_report", RANKING},
    "verification": {"bundle", "card_metadata", "cards", "checking", "cost_checks", "event_checks", "evidence"}
    | {
        "file_checks",
        "files",
        "findings",
        "installed",
        "plan_checks",
        "records",
        "reruns",
        "score_checks",
        "study_checks",
    },
}


def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports_of(tree: ast.AST, typing_only: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import at any depth, and whether only a type checker reads it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing_only
        yield from imports_of(node, typing_only or is_for_type_checkers(node))


def resolve(module: str, node: ast.Import | ast.ImportFrom) -> set[str]:
    """Modules of the package that an import statement names, relative to the package."""
    if isinstance(node, ast.Import):
        named = [alias.name.split(".") for alias in node.names]
        return {".".join(parts[1:]) or "__init__" for parts in named if parts[0] == "hf_hybrid"}
    base = ["hf_hybrid", *module.split(".")][: -node.level] if node.level else []
    source = base + (node.module.split(".") if node.module else [])
    if source[:1] != ["hf_hybrid"]:
        return set()
    names = {".".join([*source[1:], alias.name]) for alias in node.names}
    return {name if name in modules() else ".".join(source[1:]) or "__init__" for name in names}


def reachable(module: str) -> set[str]:
    """All that the arrows lead to from a module."""
    found: set[str] = set()
    todo = {module}
    while todo:
        new = set().union(*(MAY_IMPORT[name] for name in todo)) - found
        found |= new
        todo = new
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_what_the_table_allows(module: str) -> None:
    assert module in MAY_IMPORT, f"{module} is not in the table: say there what it may import"
    refused = []
    for node, typing_only in imports_of(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        for name in resolve(module, node) - MAY_IMPORT[module] - {"__init__"}:
            # What only a type checker reads may come from anywhere that does not lead back here.
            if not typing_only or module in reachable(name):
                refused.append(f"line {node.lineno}: {name}")
    assert not refused, f"{module} imports {refused}; allowed: {sorted(MAY_IMPORT[module])}"


def test_the_check_sees_every_form_of_import() -> None:
    source = """
import hf_hybrid.trainer
from hf_hybrid import hub
from .records import RunFolder
from . import corpus
if TYPE_CHECKING:
    from .schedule import HybridSchedule
def lazily():
    from .encoder import HybridEncoder
import numpy
from .. import elsewhere
"""
    found = [(resolve("losses", node), typing_only) for node, typing_only in imports_of(ast.parse(source))]
    names = {name for resolved, _ in found for name in resolved}
    wanted = {"trainer", "records", "corpus", "schedule", "encoder"} & set(modules())
    assert wanted <= names
    assert names.isdisjoint({"numpy", "elsewhere"})
    assert [resolved for resolved, typing_only in found if typing_only] == [{"schedule"}]


def test_the_arrows_have_no_cycle() -> None:
    assert [module for module in MAY_IMPORT if module in reachable(module)] == []
    assert {name for names in MAY_IMPORT.values() for name in names} <= set(MAY_IMPORT)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh Python has loaded after `statement`."""
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(output.stdout.split())


HEAVY = {"torch", "transformers", "datasets", "evaluate", "beir", "deepspeed", "sentence_transformers", "codecarbon"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import hf_hybrid") & (HEAVY | {"numpy", "pyarrow"}) == set()


@pytest.mark.parametrize("module", ["corpus", "schedule", "records", "sample", "sources", "verification"])
def test_the_data_side_and_the_records_need_no_torch(module: str) -> None:
    assert loaded_by(f"import hf_hybrid.{module}") & HEAVY == set()


@pytest.mark.parametrize("module", ["encoder", "collator", "losses"])
def test_the_model_side_needs_only_torch_and_transformers(module: str) -> None:
    loaded = loaded_by(f"import hf_hybrid.{module}")
    assert "torch" in loaded
    assert loaded & (HEAVY - {"torch", "transformers"}) == set()


def test_no_recipe_shadows_a_library() -> None:
    # A script that is launched by its path has its folder first in sys.path.
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.py")}
    assert recipes
    assert recipes & {"evaluate", "datasets", "transformers", "accelerate", "torch", "beir", "deepspeed"} == set()


def text_files() -> Iterator[tuple[str, str]]:
    """The files that git tracks, or would: those that hold text, with their text."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode("utf-8", errors="replace")


def test_no_file_holds_a_path_of_one_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # Put together from parts, or this file would be found.
    needles = ["/" + folder + "/" for folder in ("work", "root", "home")] + ["/tmp" + "/"]
    files = dict(text_files())
    assert "tests/test_architecture.py" in files
    found = [f"{name}: {needle}" for name, text in files.items() for needle in needles if needle in text]
    assert found == []
