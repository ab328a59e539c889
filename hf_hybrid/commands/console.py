"""`hf-hybrid COMMAND OPTIONS`: check the names of the options, start the processes asked for, and run the command.

The module of a command is imported last, for it may load torch, which takes seconds: a mistyped option, here or in a
YAML file, is answered before. The recipes and `python -m hf_hybrid` call the same `main`.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_hybrid import __version__
from hf_hybrid.utils.options import (
    explain_errors,
    explain_unknown,
    find_named_options,
    find_settings,
    read_settings,
    refuse,
    value_of,
)

from .option_names import HERE, option_names

NAME = "hf-hybrid"
COMMANDS = ("train", "mlm", "eval", "push", "verify", "scale", "report")
LAUNCHED = ("train", "mlm", "eval")  # can run on several processes


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        argv (`Sequence[str]`, *optional*): The command and its options, by default those of the process.
    """
    command, *options = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(_help())
    elif command == "--version":
        print(f"{NAME} {__version__}")
    elif command in COMMANDS:
        _run(command, options)
    else:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        refuse(NAME, f"{command} is not a command; {hint}")


def introduction(command: str, program: str) -> str:
    """Return the beginning of a command's help: what it does, and examples.

    Args:
        command (`str`): One of `COMMANDS`.
        program (`str`): How it was started: `hf-hybrid train`, or the recipe `train.py`.
    """
    text = ast.get_docstring(ast.parse((HERE / f"{command}.py").read_bytes())) or ""
    if program.endswith(".py"):
        return re.sub(rf"\b{NAME} ({'|'.join(COMMANDS)})\b", r"python recipes/\1.py", text)
    return text


def _run(command: str, options: list[str]) -> None:
    recipe = Path(sys.argv[0]).name == f"{command}.py"
    program = f"{command}.py" if recipe else f"{NAME} {command}"
    settings = _check_names(command, options, program)
    if command in LAUNCHED:
        from .launch import run_launched  # not needed by the other commands

        script = [sys.argv[0]] if recipe else ["-m", "hf_hybrid", command]
        with explain_errors(program):
            options = run_launched(script, options, settings)
    importlib.import_module(f"hf_hybrid.commands.{command}").main(options, program)


def _check_names(command: str, options: list[str], program: str) -> dict[str, Any]:
    """Refuse options that the command does not have, as its parser would; return those of the YAML file."""
    known = option_names(command, command in LAUNCHED)
    if known is None:
        return {}
    if problem := explain_unknown(find_named_options(options), known.command_line, "command line", "--"):
        refuse(program, problem)
    config = value_of(options, "config")
    if config is None or value_of(options, "like") is not None or _is_a_stream(config):
        return {}
    return read_settings(config, known.yaml, lambda message: refuse(program, message))


def _is_a_stream(config: str) -> bool:
    """Whether a file can be read once only, as `<(command)` of a shell."""
    try:
        return not find_settings(config).is_file()
    except (OSError, ValueError):
        return False


def _help() -> str:
    lines = [f"  {command:<8} {introduction(command, NAME).splitlines()[0]}" for command in COMMANDS]
    return "\n".join(
        [
            f"usage: {NAME} COMMAND [--option value ...]",
            "",
            "Train multilingual retrievers with hybrid batches, and measure what each language costs.",
            "",
            *lines,
            "",
            f"`{NAME} COMMAND --help` lists the options of a command.",
        ]
    )
