"""`benchmarks/kill_test.py` at the size of a test: a run that is killed ends as one that no one disturbed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.recipe_runs import REPOSITORY

pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "benchmarks" / "kill_test.py"
KILLS, STEPS = 4, 24


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script says of a few kills."""
    result = tmp_path_factory.mktemp("kills") / "rows.json"
    size = ["--processes", "1", "--kills", str(KILLS), "--max_steps", str(STEPS)]
    command = [sys.executable, str(SCRIPT), "--json", str(result), "--parts", "kills", "--forked", *size]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    (row,) = json.loads(result.read_text())["rows"]
    return row


def test_a_killed_run_ends_as_one_left_alone(row: dict[str, Any]) -> None:
    equal = {name: value for name, value in row.items() if name.startswith("equal_")}
    assert set(equal) >= {"equal_weights", "equal_losses", "equal_scores", "equal_batches"}
    assert all(equal.values()), row
    assert row["leftovers"] == row["damaged_after_a_kill"] == []
    assert row["always_from_the_newest_checkpoint"]


def test_the_kills_could_have_made_a_difference(row: dict[str, Any]) -> None:
    assert row["kills"] == len(row["kill_list"]) == KILLS
    assert row["kills_in_checkpoint"] >= KILLS / 2
    assert row["steps_done"] > STEPS  # some were lost, and done again
    assert row["resumes_inside_a_log_window"] > 0  # the sum of the losses continues over a checkpoint
    assert row["dropout"] > 0  # the random state continues


@pytest.fixture
def kill_test(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("kill_test")


def steps_of(kill_test: ModuleType, place: Path, batches: list[tuple[int, int, list[int]]]) -> Any:
    """A run that has written down (attempt, step, items)."""
    place.mkdir()
    lines = [json.dumps({"attempt": attempt, "step": step, "items": items}) for attempt, step, items in batches]
    (place / "steps-0.jsonl").write_text("".join(line + "\n" for line in lines))
    (place / "steps-1.jsonl").write_text("".join(line + "\n" for line in lines))
    return kill_test.Run(place, [])


def test_a_replayed_pass_is_found(kill_test: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill_test, "BATCHES_A_PASS", 2)
    first, second = [(1, 1, [1, 2]), (1, 2, [3, 4])], [(1, 3, [4, 1]), (1, 4, [2, 3])]
    whole = steps_of(kill_test, tmp_path / "whole", first + second)
    right = steps_of(kill_test, tmp_path / "right", [*first, (1, 3, [4, 1]), (1, 4, [2, 3]), (2, 4, [2, 3])])
    wrong = steps_of(kill_test, tmp_path / "wrong", [*first, (1, 3, [4, 1]), (2, 4, [3, 4])])
    assert kill_test.same_batches(right.steps(), whole.steps())
    assert not kill_test.same_batches(wrong.steps(), whole.steps())
    assert not kill_test.same_batches(right.steps()[:3], whole.steps())  # a step is missing
    found = {run.place.name: kill_test.pass_facts(run, whole) for run in (right, wrong)}
    assert [found[name]["passes"] for name in ("right", "wrong")] == [[2], [2]]
    assert [found["right"][key] for key in ("resumed_batches", "right_batches", "repeated", "missed")] == [1, 1, 0, 0]
    assert [found["wrong"][key] for key in ("resumed_batches", "right_batches", "repeated", "missed")] == [1, 0, 1, 1]
