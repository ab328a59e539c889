"""What the tables of bad inputs are made of: each row is an input, what reads it, and the answer.

`check` holds for every row: nothing that the input brings is run (it would leave a file `canary`), nothing is written
outside of the folders for it, nothing hangs, and what is refused is refused by a ValueError or an OSError, at the door
of a recipe by one line and no traceback.

    BAD_INPUTS_TABLE=bad_inputs.md pytest tests/*/test_bad_*.py

appends the rows to a Markdown table.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.recipe_runs import REPOSITORY

PATIENCE_S = 30


class Case(NamedTuple):
    """A row.

    Args:
        what (`str`): The input, in words.
        make (`Callable`): Writes it into a folder; its output, or else the folder, is what is read.
        read (`Callable`): Reads it.
        answer (`str` or `Callable`): Pattern of the message; or what is true of the result where it is accepted.
    """

    what: str
    make: Callable[[Path], Any]
    read: Callable[[Any], Any]
    answer: str | Callable[[Any], bool]


class Refused(Exception):
    """A recipe ended with exit code 2 and this one error line."""


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def recipe(name: str, *words: object) -> None:
    """Run a recipe in this process, as its command line would; a new one would take seconds to import."""
    said = io.StringIO()
    before = sys.argv
    sys.argv = [f"{name}.py", *map(str, words)]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(REPOSITORY / "recipes" / f"{name}.py"), run_name="__main__")
    except SystemExit as stopped:
        whole, line = said.getvalue(), said.getvalue().partition(": error: ")[2].strip()
        if stopped.code == 2 and "Traceback" not in whole:
            raise Refused(line) from None
        pytest.fail(f"exit {stopped.code}: {whole}")
    finally:
        sys.argv = before


def check(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the input of a row, and compare the answer."""
    folder, elsewhere = tmp_path / "input", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("HF_HYBRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(elsewhere)
    given = case.make(folder)
    present = {path.name for path in tmp_path.iterdir()} | {"cache", "output"}
    with patience(case.what):
        if isinstance(case.answer, str):
            with pytest.raises((ValueError, OSError, Refused), match=case.answer) as caught:
                case.read(folder if given is None else given)
            told = str(caught.value)
        else:
            assert case.answer(case.read(folder if given is None else given)), case.what
            told = "(accepted)"
    assert not (tmp_path / "canary").exists(), "what the input brought has run"
    assert not any(elsewhere.iterdir()), "something was written elsewhere"
    assert {path.name for path in tmp_path.iterdir()} <= present, "something was written elsewhere"
    if table := os.environ.get("BAD_INPUTS_TABLE"):
        append_row(Path(table), case.what, told.replace(str(folder), "…").replace(str(tmp_path), "…"))


def append_row(table: Path, *cells: str) -> None:
    if not table.exists():
        table.write_text("| input | answer |\n|---|---|\n", encoding="utf-8")
    shown = [re.sub(r"\s+", " ", cell)[:300].replace("|", "\\|").replace("<", "&lt;") for cell in cells]
    with table.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"| {' | '.join(shown)} |\n")


@contextlib.contextmanager
def patience(what: str) -> Iterator[None]:
    """Whatever reads a pipe to its end waits for ever."""

    def stop(*_: object) -> None:
        pytest.fail(f"{what}: no answer in {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
