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

# Who may import whom, inside the package. A module that is not here has no place yet: decide on it here first.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "approximate": {"search"},
    "arguments": {"files", "machine", "mix", "parsing", "vocabulary"},
    "attention": {"dropout"},
    "bm25": {"search"},
    "bundle": {"cards", "environment", "files", "manifest", "records", "redaction", "strict_json"},
    "card_command": {"markdown"},
    "card_metadata": {"markdown", "presets", "records"},
    "card_sections": {"card_metadata", "markdown", "records", "scores"},
    "cards": {
        "card_command",
        "card_metadata",
        "card_sections",
        "events",
        "files",
        "markdown",
        "records",
        "redaction",
        "report",
    },
    "cells": {"sides"},
    "checking": {"evidence", "findings"},
    "checkpoints": {"distributed", "files", "manifest"},
    "collator": {"packing", "schedule", "sides", "token_cache"},
    "communication": set(),
    "comparison": {"files", "metrics.beir_cross_lingual.significance", "records", "tally"},
    "corpus": {"corpus_files", "sides"},
    "corpus_files": {"strict_json"},
    "cost_checks": {"evidence", "findings", "records", "tally"},
    "distributed": set(),
    "dropout": set(),
    "embeddings": {"distributed", "files", "fingerprint", "sides", "token_cache"},
    "encoder": {"attention", "dropout", "model_folder", "packing", "scratch", "token_cache"},
    "environment": set(),
    "evaluation": {
        "approximate",
        "bm25",
        "distributed",
        "embeddings",
        "judgements",
        "metrics.beir_cross_lingual.ranking",
        "records",
        "scores",
        "search",
        "tally",
    },
    "evaluation_files": {"distributed", "files", "records", "tally"},
    "event_checks": {"evidence", "findings", "records"},
    "events": {"records", "redaction"},
    "evidence": {"records", "sources", "strict_json"},
    "file_checks": {
        "bundle",
        "cards",
        "evidence",
        "files",
        "findings",
        "manifest",
        "records",
        "redaction",
        "strict_json",
    },
    "files": set(),
    "findings": {"markdown"},
    "fingerprint": {"token_cache"},
    "fit_words": {"fits"},
    "fits": set(),
    "flops": set(),
    "formats": {"corpus_files", "languages", "readers", "strict_json", "tables"},
    "gather": {"distributed"},
    "gradcache": set(),
    "guard": {"distributed", "events", "files", "records"},
    "hardware": set(),
    "hub": {"files", "hub_card", "hub_commit", "hub_errors", "hub_files", "records"},
    "hub_card": {"bundle", "cards", "events", "files", "hub_errors", "hub_files", "markdown", "records"},
    "hub_commit": {"events", "files", "hub_errors", "redaction"},
    "hub_errors": {"events", "redaction"},
    "hub_files": {
        "card_command",
        "card_metadata",
        "cards",
        "files",
        "hub_commit",
        "hub_errors",
        "manifest",
        "markdown",
        "records",
        "redaction",
    },
    "identity": {"arguments", "records", "sides"},
    "judgements": {"search"},
    "languages": set(),
    "losses": {"gather"},
    "machine": set(),
    "manifest": {"files", "records", "strict_json"},
    "markdown": set(),
    "measured_runs": {"hardware", "mix", "workload"},
    "memory": {"distributed", "events", "gradcache", "guard", "packing"},
    "metrics.__init__": set(),
    "metrics.beir_cross_lingual.__init__": set(),
    "metrics.beir_cross_lingual.app": set(),
    "metrics.beir_cross_lingual.beir_cross_lingual": {
        "metrics.beir_cross_lingual.bias",
        "metrics.beir_cross_lingual.policies",
        "metrics.beir_cross_lingual.ranking",
        "metrics.beir_cross_lingual.runs",
        "metrics.beir_cross_lingual.settings",
        "metrics.beir_cross_lingual.trec",
    },
    "metrics.beir_cross_lingual.bias": set(),
    "metrics.beir_cross_lingual.policies": set(),
    "metrics.beir_cross_lingual.ranking": {"metrics.beir_cross_lingual.policies", "metrics.beir_cross_lingual.runs"},
    "metrics.beir_cross_lingual.runs": set(),
    "metrics.beir_cross_lingual.settings": {
        "metrics.beir_cross_lingual.bias",
        "metrics.beir_cross_lingual.policies",
        "metrics.beir_cross_lingual.ranking",
    },
    "metrics.beir_cross_lingual.significance": set(),
    "metrics.beir_cross_lingual.tests": set(),
    "metrics.beir_cross_lingual.trec": set(),
    "mix": set(),
    "mlm": {"corpus", "mix", "schedule", "sides", "token_cache"},
    "mlm_arguments": {"arguments", "parsing", "records"},
    "mlm_collator": {"collator", "mlm", "packing"},
    "mlm_model": {"encoder", "events", "mlm_collator", "model_folder"},
    "mlm_trainer": {
        "arguments",
        "distributed",
        "flops",
        "identity",
        "mlm",
        "mlm_arguments",
        "mlm_collator",
        "mlm_model",
        "token_cache",
        "trainer",
    },
    "model_folder": {"strict_json"},
    "packing": set(),
    "parsing": {"redaction"},
    "plan_checks": {"evidence", "findings", "mix", "redaction", "schedule", "tally"},
    "planner": {
        "hardware",
        "measured_runs",
        "mix",
        "parsing",
        "planner_advice",
        "planner_model",
        "records",
        "workload",
    },
    "planner_advice": {"planner_model", "workload"},
    "planner_model": set(),
    "presets": {"readers"},
    "push_command": {"card_metadata", "events", "hub", "hub_card", "hub_commit", "parsing", "records"},
    "pushing": {
        "cards",
        "distributed",
        "events",
        "files",
        "hub",
        "hub_commit",
        "hub_errors",
        "hub_files",
        "manifest",
        "records",
        "resumable",
    },
    "readers": {"strict_json"},
    "records": {"files", "strict_json"},
    "redaction": set(),
    "report": {"files", "scores"},
    "reruns": {"evidence", "findings", "records"},
    "resources": {"communication", "distributed", "flops", "machine", "records"},
    "resumable": {"checkpoints", "distributed", "events", "files", "guard", "memory", "records", "supervision"},
    "runs": {
        "bundle",
        "cards",
        "checkpoints",
        "corpus",
        "distributed",
        "encoder",
        "environment",
        "evaluation",
        "evaluation_files",
        "events",
        "records",
        "redaction",
        "supervision",
    },
    "sample": {"corpus", "files"},
    "scaling": {"mix"},
    "schedule": {"cells", "mix", "sides"},
    "score_checks": {
        "evidence",
        "findings",
        "metrics.beir_cross_lingual.bias",
        "metrics.beir_cross_lingual.ranking",
        "records",
        "reruns",
        "scores",
        "tally",
    },
    "scores": {"languages", "records"},
    "scratch": set(),
    "search": set(),
    "sides": set(),
    "sources": {"corpus", "corpus_files", "files", "formats", "languages", "presets", "readers", "sample", "tables"},
    "strict_json": set(),
    "study_arguments": {"parsing", "scaling"},
    "study_budget": {
        "collator",
        "encoder",
        "measured_runs",
        "records",
        "scaling",
        "schedule",
        "study_arguments",
        "study_folder",
        "study_inputs",
        "token_cache",
    },
    "study_cells": {"findings", "mix", "redaction", "scaling", "study_copy", "study_evidence", "study_folder"},
    "study_charts": set(),
    "study_checks": {
        "cards",
        "checking",
        "cost_checks",
        "environment",
        "event_checks",
        "evidence",
        "file_checks",
        "files",
        "findings",
        "manifest",
        "metrics.beir_cross_lingual.ranking",
        "plan_checks",
        "records",
        "score_checks",
        "study_cells",
        "study_copy",
        "study_evidence",
        "study_fits",
        "study_folder",
        "study_report",
    },
    "study_copy": {
        "files",
        "manifest",
        "records",
        "redaction",
        "scaling",
        "strict_json",
        "study_figures",
        "study_folder",
        "study_report",
    },
    "study_evidence": {"checking", "evidence", "findings", "records", "scaling", "study_folder", "study_table"},
    "study_figures": {
        "fits",
        "markdown",
        "records",
        "redaction",
        "scaling",
        "scores",
        "strict_json",
        "study_charts",
        "study_fits",
        "study_folder",
    },
    "study_fits": {"fit_words", "fits", "scaling", "study_folder", "study_table"},
    "study_folder": {"files", "records", "scaling", "strict_json"},
    "study_inputs": {
        "arguments",
        "corpus",
        "encoder",
        "files",
        "languages",
        "mlm_arguments",
        "parsing",
        "redaction",
        "runs",
        "scaling",
        "sources",
        "study_arguments",
    },
    "study_report": {"files", "markdown", "study_charts", "study_figures", "study_sections"},
    "study_sections": {"card_metadata", "scaling", "study_charts", "study_figures"},
    "study_setup": {
        "environment",
        "files",
        "scaling",
        "study_arguments",
        "study_budget",
        "study_folder",
        "study_inputs",
        "supervision",
        "sweep",
    },
    "study_table": {"measured_runs", "records", "scaling", "scores", "study_folder"},
    "supervision": {"distributed", "events", "files", "records"},
    "sweep": {"files", "redaction", "scaling", "study_folder", "supervision"},
    "tables": {"corpus_files", "readers", "strict_json"},
    "tally": {"metrics.beir_cross_lingual.bias", "metrics.beir_cross_lingual.ranking", "search"},
    "token_cache": {"files", "sides"},
    "trainer": {
        "arguments",
        "collator",
        "communication",
        "distributed",
        "encoder",
        "evaluation",
        "fingerprint",
        "gather",
        "identity",
        "losses",
        "memory",
        "pushing",
        "records",
        "resources",
        "schedule",
        "scores",
        "token_cache",
        "vocabulary",
    },
    "verification": {
        "bundle",
        "card_metadata",
        "cards",
        "checking",
        "cost_checks",
        "environment",
        "event_checks",
        "evidence",
        "file_checks",
        "files",
        "findings",
        "plan_checks",
        "records",
        "reruns",
        "score_checks",
        "study_checks",
    },
    "vocabulary": set(),
    "workload": {"communication", "flops", "mix"},
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
