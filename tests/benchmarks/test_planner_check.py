"""`benchmarks/planner_check.py`: that what it predicts was not learned from, and that it counts what it says."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.scaling.planner.cost_model import Estimate
from hf_hybrid.scaling.planner.measured_runs import read_measured
from tests.support.planned_runs import write_run_folder

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def planner_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("planner_check")


def made_up_run(noise: float) -> Any:
    """What stands for a run of the recipe: a folder that follows a law, with noise."""

    def make(folder: Path, options: dict[str, Any], args: argparse.Namespace) -> float:
        write_run_folder(
            folder,
            languages=len(options["languages"].split(",")),
            batch_size=options["global_batch_size"],
            width=options["scratch_hidden_size"],
            layers=options["scratch_num_layers"],
            vocabulary=options["scratch_vocab_size"],
            noise=noise,
            seed=int(folder.name[-2:]) + 100 * folder.name.startswith("held"),
        )
        return 0.1

    return make


def result_of(check: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, noise: float) -> dict[str, Any]:
    words = ["planner_check.py", "--json", str(folder / "found.json"), "--folder", str(folder / "runs")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(check, "make_run", made_up_run(noise))
    check.main()
    return json.loads((folder / "found.json").read_text())


def test_held_out_runs_are_others_within_the_ranges(planner_check: ModuleType) -> None:
    measured = [*planner_check.corners(), *planner_check.draw(21, planner_check.MEASURED_SEED)]
    held_out = planner_check.draw(12, planner_check.HELD_OUT_SEED)
    assert len(held_out) >= 10
    learned = [json.dumps(options) for options in measured]
    assert not any(json.dumps(options) in learned for options in held_out)
    for name, (least, most) in planner_check.RANGES.items():
        for options in (*measured, *held_out):
            value = options[name]
            assert least <= (len(value.split(",")) if name == "languages" else value) <= most
    for name in ("global_batch_size", "scratch_hidden_size", "scratch_num_layers", "mix"):
        assert len({options[name] for options in held_out}) > 2
    assert {len(options["languages"].split(",")) for options in measured} >= {2, 16}
    assert any("chunk_tokens" in options for options in held_out)


def test_runs_that_follow_the_law_are_predicted(
    planner_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result_of(planner_check, tmp_path, monkeypatch, noise=0.03)
    assert (len(found["measured"]), len(found["held_out"])) == (24, 12)
    for name in ("step_time_s", "memory_gib"):
        summary = found["summary"][name]
        errors = [abs(row[f"{name}_predicted"]["value"] / row[name] - 1) for row in found["held_out"]]
        assert summary["median_error"] == pytest.approx(np.median(errors))
        assert summary["median_error"] < 0.05
        assert summary["largest_error"] == pytest.approx(max(errors))
        inside = [
            row[f"{name}_predicted"]["low"] <= row[name] <= row[f"{name}_predicted"]["high"]
            for row in found["held_out"]
        ]
        assert summary["num_inside"] == sum(inside) >= 9
        assert summary["probability_of_so_few"] == pytest.approx(stats.binom.cdf(sum(inside), 12, 0.9))
        middle = np.median([row[name] for row in found["measured"]])
        of_the_median = np.median([abs(middle / row[name] - 1) for row in found["held_out"]])
        assert summary["median_error_of_saying_the_median"] == pytest.approx(of_the_median)
    assert found["summary"]["step_time_s"]["median_error_of_saying_the_median"] > 0.2  # far from what is predicted
    assert "of 12 inside their 90% intervals" in capsys.readouterr().out


def test_an_interval_that_is_not_there_holds_nothing(planner_check: ModuleType) -> None:
    assert planner_check.is_inside(Estimate(1.0, 0.5, 2.0, 0.9), 0.5)
    assert not planner_check.is_inside(Estimate(1.0, 0.5, 2.0, 0.9), 2.1)
    assert not planner_check.is_inside(Estimate(1.0, None, None, None), 1.0)


def test_a_prediction_knows_nothing_of_the_time_it_is_checked_with(planner_check: ModuleType, tmp_path: Path) -> None:
    """The same run twice as slow and as large is predicted the same, and found wrong."""
    runs = []
    for number, options in enumerate(planner_check.draw(12, seed=3)):
        made_up_run(0.0)(tmp_path / f"measured-{number:02}", options, argparse.Namespace())
        runs.append(read_measured(RunFolder(tmp_path / f"measured-{number:02}")))
    *learned, unseen = runs
    slow = unseen._replace(step_time_s=2 * unseen.step_time_s, host_memory_gib=2 * unseen.host_memory_gib)
    first, second = (planner_check.check(learned, [run], 0.9)["held_out"][0] for run in (unseen, slow))
    assert first["step_time_s_predicted"] == second["step_time_s_predicted"]
    assert second["step_time_s_error"] == pytest.approx((1 + first["step_time_s_error"]) / 2 - 1)
    assert not second["step_time_s_inside"]
    assert not second["memory_gib_inside"]


@pytest.mark.slow
def test_the_recipe_takes_the_options_and_a_run_is_made_once(planner_check: ModuleType, tmp_path: Path) -> None:
    args = planner_check.parse(["--json", "x", "--folder", str(tmp_path), "--steps", "6"])
    options = {**planner_check.corners()[0], "chunk_tokens": 200, "scratch_hidden_size": 32}
    assert planner_check.make_run(tmp_path / "run", options, args) > 0
    found = read_measured(RunFolder(tmp_path / "run"))
    assert (found.workload.languages, found.workload.steps, found.workload.chunk_tokens) == (2, 6, 200)
    assert found.workload.model.hidden_size == 32
    assert found.hardware.name.endswith("threads of a process: 1")
    assert len(RunFolder(tmp_path / "run").read_resource_lines()[0]) == 6
    assert planner_check.make_run(tmp_path / "run", options, args) == 0


def test_a_run_that_fails_says_why(planner_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text("import sys\nsys.exit('refused: ' + sys.argv[1])\n")
    monkeypatch.setattr(planner_check, "TRAIN", recipe)
    args = planner_check.parse(["--json", "x", "--folder", str(tmp_path)])
    with pytest.raises(RuntimeError, match=r"run failed with exit status 1: .*\nrefused: --global_batch_size=1"):
        planner_check.make_run(tmp_path / "run", {"global_batch_size": 1}, args)
