"""A second of fuzzing for every reader, and the fuzzer finds what it is there to find."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import fuzz_readers, fuzzing
from tests.support.fuzz_readers import targets
from tests.support.fuzzing import NotNamed, StrayWrite, Target, TooSlow, fuzz

pytestmark = pytest.mark.usefixtures("one_thread")
SEED = {"a/list.json": b'{"numbers": [1, 2, 3]}'}


@pytest.mark.parametrize("name", targets())
def test_a_reader_reads_or_refuses(name: str) -> None:
    counts, findings = fuzz(name, targets()[name], seconds=1, seed=1)
    assert [str(finding) for finding in findings] == []
    assert counts["read"] > 0, "every change was refused"
    assert counts["refused"] > 0, "no change was refused"


def unguarded(folder: Path) -> None:
    """Reads JSON, but not numbers that are none."""
    try:
        content = json.loads((folder / "a/list.json").read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{folder}: not JSON") from None
    if isinstance(content, dict) and isinstance(content.get("numbers"), list):
        sum(content["numbers"])


def nameless(folder: Path) -> None:
    json.loads((folder / "a/list.json").read_bytes()[:10_000])


def stray(folder: Path) -> None:
    if b"numbers" not in (folder / "a/list.json").read_bytes():
        (folder.parents[1] / "elsewhere").write_text("")


def slow(folder: Path) -> None:
    if b"numbers" not in (folder / "a/list.json").read_bytes():
        time.sleep(0.3)


@pytest.mark.parametrize(
    ("read", "error"), [(unguarded, TypeError), (nameless, NotNamed), (stray, StrayWrite), (slow, TooSlow)]
)
def test_what_a_reader_must_not_do_is_found(
    read: Callable[[Path], None], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "SLOW_S", 0.2)
    _, findings = fuzz("planted", Target(SEED, read), seconds=3, seed=1)
    assert any(isinstance(finding.error, error) for finding in findings), findings


def test_a_finding_is_printed_small_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz_readers, "targets", lambda: {"planted": Target(SEED, unguarded)})
    assert fuzz_readers.main(["--seconds", "2", "--findings", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    content = (folder / "files/a/list.json").read_bytes()
    assert f"saved in {folder}" in printed
    assert repr(content) in printed
    assert len(content) <= len(SEED["a/list.json"]) + 4, "not made small"
    assert "in unguarded" in (folder / "error.txt").read_text()
    with pytest.raises(TypeError):
        unguarded(folder / "files")


def test_the_exit_code_says_whether_there_was_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz_readers.main(["--seconds", "0.5", "--target", "qrels"]) == 0
    assert "0 findings" in capsys.readouterr().out
