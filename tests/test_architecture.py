"""The shape of the code base: which room may import which, what an import costs, what no file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_hybrid"

# The rooms. A room imports only rooms above it.
ROOMS = [
    "utils",
    "metrics.beir_cross_lingual",
    "data",
    "records",
    "models",
    "retrieval",
    "evaluation",
    "hub",
    "training",
    "scaling",
    "verification",
    "commands",
]
# What importing a module of a place must not load.
MAY_NOT_LOAD = {
    "utils": {"torch"},
    "data.corpus": {"torch"},
    "data.sources": {"torch"},
    "data.batches.schedule": {"torch"},
    "records": {"torch"},
    "models": {"datasets", "evaluate"},
    "hub": {"torch"},
    "scaling.planner": {"torch"},
    "scaling.report": {"torch"},
    "verification": {"torch"},
}
# What the model side needs of the libraries: nothing else, so that it runs on a bare machine.
NEEDS_ONLY_TORCH_AND_TRANSFORMERS = ["models.encoder", "data.batches.collator", "training.losses"]
HEAVY = {"torch", "transformers", "datasets", "evaluate", "beir", "deepspeed", "sentence_transformers", "codecarbon"}
MOST_LINES = 600  # of a module; a longer one says in its docstring why it is one concept


@cache
def modules() -> dict[str, Path]:
    """The modules of the package, by their names relative to it."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def room_of(module: str) -> str | None:
    """The room of a module; None of the ones that belong to none (`__init__`, `__main__`)."""
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


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


@cache
def imported_by(module: str) -> dict[str, list[int]]:
    """What a module imports when it runs, with the lines."""
    found: dict[str, list[int]] = {}
    for node, typing_only in imports_of(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        for name in resolve(module, node) if not typing_only else ():
            found.setdefault(name, []).append(node.lineno)
    return found


def test_every_module_lives_in_a_room() -> None:
    homeless = {module for module in modules() if room_of(module.removesuffix(".__init__")) is None}
    assert homeless <= {"__init__", "__main__", "metrics.__init__"}
    assert {room_of(module) for module in modules()} >= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    above = ROOMS[: ROOMS.index(room)]
    refused, arrows = [], 0
    for module in (module for module in modules() if room_of(module) == room):
        for name, lines in imported_by(module).items():
            other = room_of(name)
            arrows += other in above
            if other != room and other not in above and name != "__init__":
                refused.append(f"{module}, line {lines[0]}: {name}")
    assert refused == []
    assert arrows or room in ("utils", "metrics.beir_cross_lingual")


def test_the_metric_imports_nothing_of_the_package() -> None:
    here = [module for module in modules() if room_of(module) == "metrics.beir_cross_lingual"]
    assert here
    assert {room_of(name) for module in here for name in imported_by(module)} <= {"metrics.beir_cross_lingual"}


def test_no_room_has_a_cycle_inside() -> None:
    arrows = {module: set(imported_by(module)) - {module} for module in modules()}
    assert sum(map(len, arrows.values())) > 100
    while leaves := {module for module, names in arrows.items() if not names & set(arrows)}:
        arrows = {module: names for module, names in arrows.items() if module not in leaves}
    assert arrows == {}


def test_no_two_folders_of_a_room_import_each_other() -> None:
    def folder(module: str) -> str:
        return ".".join(module.split(".")[:2]) if module.count(".") == 2 else module

    arrows: dict[str, set[str]] = {}
    for module in modules():
        arrows.setdefault(folder(module), set()).update(map(folder, imported_by(module)))
    arrows = {name: names - {name} for name, names in arrows.items()}
    assert "data.corpus" in arrows["data.batches"]
    while leaves := {name for name, names in arrows.items() if not names & set(arrows)}:
        arrows = {name: names for name, names in arrows.items() if name not in leaves}
    assert arrows == {}


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_is_one_concept(module: str) -> None:
    text = modules()[module].read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert len(text.splitlines()) <= MOST_LINES or "one module because" in docstring


@pytest.mark.parametrize(
    "package", sorted(path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*/__init__.py"))
)
def test_a_room_lists_its_modules_in_reading_order_and_does_nothing_else(package: str) -> None:
    if package in ("metrics", "metrics/beir_cross_lingual"):
        return  # the metric's folder is copied to where `evaluate.load` is called, with a README of its own
    folder = PACKAGE / package
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1, "only a docstring belongs there"
    listed = re.findall(r"^\* `(\w+)`: \S", ast.get_docstring(tree) or "", re.MULTILINE)
    there = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert sorted(listed) == sorted(there - {"__init__"})


def test_the_check_sees_every_form_of_import() -> None:
    source = """
import hf_hybrid.training.trainer
from hf_hybrid.hub import push
from ..records.run_folder import RunFolder
from . import checkpoints
if TYPE_CHECKING:
    from hf_hybrid.data.batches.schedule import HybridSchedule
def lazily():
    from hf_hybrid.models.encoder import HybridEncoder
import numpy
from ... import elsewhere
"""
    found = [(resolve("training.losses", node), typing_only) for node, typing_only in imports_of(ast.parse(source))]
    names = {name for resolved, _ in found for name in resolved}
    wanted = {"training.trainer", "hub.push", "records.run_folder", "training.checkpoints", "models.encoder"}
    assert wanted <= names
    assert names.isdisjoint({"numpy", "elsewhere"})
    assert [resolved for resolved, typing_only in found if typing_only] == [{"data.batches.schedule"}]


def loaded_by(*names: str) -> set[str]:
    """Modules that a fresh Python has loaded after importing some of the package: names and dotted names."""
    code = f"import importlib, sys; [importlib.import_module(name) for name in {list(names)!r}]; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(output.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("hf_hybrid") & (HEAVY | {"numpy", "pyarrow"}) == set()


@pytest.mark.parametrize("place", sorted(MAY_NOT_LOAD))
def test_a_place_loads_no_more_than_it_may(place: str) -> None:
    here = [module for module in modules() if module == place or module.startswith(f"{place}.")]
    here = [module.removesuffix(".__init__") for module in here if not module.endswith((".app", ".tests"))]
    assert here
    assert loaded_by(*(f"hf_hybrid.{module}" for module in here)) & MAY_NOT_LOAD[place] == set()


@pytest.mark.parametrize("module", NEEDS_ONLY_TORCH_AND_TRANSFORMERS)
def test_the_model_side_needs_only_torch_and_transformers(module: str) -> None:
    loaded = loaded_by(f"hf_hybrid.{module}")
    assert "torch" in loaded
    assert loaded & (HEAVY - {"torch", "transformers"}) == set()


@pytest.mark.parametrize("module", ["data.corpus", "data.sources.load", "records.run_folder", "verification.verify"])
def test_files_are_read_without_any_heavy_library(module: str) -> None:
    assert loaded_by(f"hf_hybrid.{module}") & HEAVY == set()


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


def test_every_module_that_the_map_names_exists() -> None:
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+\.py)`", text)
    assert len(named) > 20
    assert [name for name in named if not (PACKAGE / name).is_file() and not (ROOT / name).is_file()] == []


def test_the_map_lists_the_rooms_in_order() -> None:
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z_/]+)/` \|", text, re.MULTILINE)
    assert [name.replace("/", ".") for name in listed] == ROOMS
