"""The options of a command, read from the source text of its module, so that nothing heavy is imported.

The options are fields of dataclasses, and one of these derives from `transformers.TrainingArguments`: to import them
takes seconds. The names of the fields stand in the source files. This module follows the import statements from the
module of a command to these files, and parses them with `ast`.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hf_hybrid.utils.options import LAUNCH_OPTIONS

HERE = Path(__file__).parent


class OptionNames(NamedTuple):
    """Names of options, with underscores.

    Args:
        yaml (`set[str]`): What a YAML file may name, and what is refused there with a message of its own.
        command_line (`set[str]`): The same, and `no_evaluate_before` and its like.
    """

    yaml: set[str]
    command_line: set[str]


class _Field(NamedTuple):
    is_option: bool
    has_negation: bool  # whether `--no_NAME` is an option too


@cache
def option_names(command: str, launch: bool = False) -> OptionNames | None:
    """Find the options of a command.

    Args:
        command (`str`): Name of a module of `commands`.
        launch (`bool`, *optional*, defaults to `False`): Whether the command has the `LAUNCH_OPTIONS`.

    Returns:
        `OptionNames`, *optional*: None where a source file is not there or has another form than expected. Then only
        the parser of the command can tell.

    Example:

        >>> names = option_names("train")
        >>> {"mix", "learning_rate", "like", "dry_run"} <= names.yaml, "no_evaluate_before" in names.command_line
        (True, True)
    """
    try:
        path = HERE / f"{command}.py"
        tree = _parse(path)
        fields: dict[str, _Field] = {}
        for name in _tuple_of_names(tree, "ARGUMENTS"):
            fields.update(_fields_of(name, path))
        flags = _keys_of(tree, "FLAGS")
    except (OSError, ValueError, SyntaxError, LookupError):
        return None
    known = {name for name, field in fields.items() if field.is_option} | {*flags, "config", "help"}
    known |= (
        {"like"}
        if any(isinstance(node, ast.keyword) and node.arg == "read_like" for node in ast.walk(tree))
        else set()
    )
    known |= {*LAUNCH_OPTIONS} if launch else set()
    negations = {f"no_{name}" for name, field in fields.items() if field.is_option and field.has_negation}
    return OptionNames(known, known | negations | {"h"})


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """The value of a constant of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return node.value
    return None


def _tuple_of_names(tree: ast.Module, name: str) -> list[str]:
    value = _assigned(tree, name)
    if not isinstance(value, ast.Tuple) or not all(isinstance(element, ast.Name) for element in value.elts):
        raise ValueError(f"{name} is not a tuple of names")
    return [ast.unparse(element) for element in value.elts]


def _keys_of(tree: ast.Module, name: str) -> list[str]:
    """The keys of a dictionary of a module; none where there is no such dictionary."""
    value = _assigned(tree, name)
    if value is None:
        return []
    if not isinstance(value, ast.Dict):
        raise ValueError(f"{name} is not a dictionary")
    return [ast.literal_eval(key) for key in value.keys if key is not None]


def _fields_of(name: str, path: Path) -> dict[str, _Field]:
    """The fields of a dataclass that a module defines or imports, with those of its parents."""
    for node in _parse(path).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            found: dict[str, _Field] = {}
            for base in node.bases:
                found.update(_fields_of(ast.unparse(base), path))
            return {**found, **dict(_own_fields(node))}
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _fields_of(alias.name, _source_of(node, path))
    raise LookupError(f"{path} has no class {name}")


def _own_fields(node: ast.ClassDef) -> Iterator[tuple[str, _Field]]:
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        annotation, value = ast.unparse(statement.annotation), statement.value
        if annotation.startswith("ClassVar"):
            continue
        default, is_option = value, True
        if isinstance(value, ast.Call):
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            default = given.get("default", value.args[0] if value.args else None)
            without = isinstance(init := given.get("init"), ast.Constant) and init.value is False
            is_option = not without
        is_true = isinstance(default, ast.Constant) and default.value is True
        yield (
            statement.target.id,
            _Field(is_option, is_true and annotation in ("bool", "bool | None", "Optional[bool]")),
        )


def _source_of(node: ast.ImportFrom, path: Path) -> Path:
    """The file of the module that an import statement names. The module is not imported."""
    if node.level:
        folder, parts = path.parents[node.level - 1], (node.module or "").split(".")
    else:
        top, *parts = (node.module or "").split(".")
        spec = importlib.util.find_spec(top)  # of the top package alone: this imports nothing
        if spec is None or not spec.submodule_search_locations:
            raise LookupError(f"there is no package {top}")
        folder = Path(next(iter(spec.submodule_search_locations)))
    target = folder.joinpath(*filter(None, parts))
    return target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
