"""The benchmark scripts of training, run tiny: what they measure is checked, not how fast it is."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
QUERY, SHORT, LONG = 8, 24, 40  # tokens of the made-up texts
TINY = ["--size", "tiny", "--device", "cpu", "--precision", "float32", "--threads", "1", "--rounds", "1"]
TERMS = {"num_matmul_parameters": 10, "num_layers": 1, "hidden_size": 2, "num_head_parameters": 0}


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("measuring")


@pytest.fixture
def throughput(measuring: ModuleType) -> ModuleType:
    return importlib.import_module("train_throughput")


def test_the_readme_has_a_row_for_each_script() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.py)` \|", readme, flags=re.MULTILINE)
    scripts = [
        path.name for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    assert len(scripts) > 8
    assert sorted(rows) == sorted(scripts)


def rows_of(script: str, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What a script writes, run on texts of two lengths."""
    lengths, result = folder / "lengths.json", folder / "rows.json"
    lengths.write_text(json.dumps([[QUERY, SHORT], [QUERY, LONG]]))
    command = [sys.executable, str(FOLDER / script), "--json", str(result), "--lengths", str(lengths), *arguments]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    return json.loads(result.read_text())["rows"]


def test_rows_of_other_runs_stay(measuring: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    for batch_size, value in ((32, 1.0), (64, 2.0), (32, 3.0)):
        row = {"batch_size": batch_size, "sides": ("ours",), "value": value}
        measuring.write_row(path, row, ["batch_size", "sides"])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["batch_size"], row["value"]) for row in rows] == [(64, 2.0), (32, 3.0)]


@pytest.mark.slow
def test_a_child_answers_runs_out_of_memory_or_fails(measuring: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "from measuring import answer_child\n"
        "def work(job):\n"
        "    print('noise')\n"
        "    if job['raises'] == 'memory':\n"
        "        raise RuntimeError('CUDA out of memory. Tried to allocate 20 GiB')\n"
        "    return {'twice': 2 * job['number'], 'failed': 1 / job['divisor']}\n"
        "assert answer_child(work)\n"
    )
    job = {"number": 4, "divisor": 1, "raises": ""}
    assert measuring.run_child(str(script), job) == {"twice": 8, "failed": 1.0}
    assert measuring.run_child(str(script), {**job, "raises": "memory"}) is None
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        measuring.run_child(str(script), {**job, "divisor": 0})


def test_the_matrix_rate_is_of_operations_not_of_calls(measuring: ModuleType, one_thread: None) -> None:
    import torch

    small, large = (measuring.matrix_rate("cpu", torch.float32, size, seconds=0.2) for size in (64, 512))
    assert 1e8 < small < 1e13  # a product of size 512 takes about 500 times as long as one of 64
    assert small / 20 < large < small * 100


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"loss": 2.5}, r"differs by 0.4.*'ours': 2.1.*'peer': 2.5"), ({"digest": "other"}, "do not do the same work")],
)
def test_a_comparison_of_different_work_is_refused(
    throughput: ModuleType, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], message: str
) -> None:
    figures = {"loss": 2.1, "digest": "same", "pairs_per_step": [4]}
    monkeypatch.setattr(throughput, "run_child", lambda _, job: figures | (changed if job["side"] == "peer" else {}))
    with pytest.raises(SystemExit, match=message):
        throughput.check_first_step(two_jobs(throughput))


def test_a_side_that_runs_out_of_memory_is_recorded(throughput: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"loss": 2.1, "digest": "same", "pairs_per_step": [4], "dropout": {}}
    figures |= {"time_s": 2.0, "step_time_s": [2.0], "tokens": 8, "sum_squared_lengths": 16, "peak_memory_gib": 1.0}
    figures |= {"padding_share": 0.0}
    answers = iter([figures, None, figures])  # by turns; who has failed once is not asked again
    monkeypatch.setattr(throughput, "run_child", lambda *_: next(answers))
    rounds = throughput.run_rounds(two_jobs(throughput), 2)
    ours, peer = (throughput.summary(rounds[side], TERMS, 1e3) for side in ("ours", "peer"))
    assert ours["pairs_per_s"] == 2.0
    assert peer == "out of memory"
    assert throughput.ratio_of(ours, peer) is None


def two_jobs(throughput: ModuleType) -> dict[str, Any]:
    fields = dict.fromkeys(throughput.Job.__dataclass_fields__)
    fields |= {"first_step_only": False, "precision": "float32", "model": "model"}
    return {side: throughput.Job(**{**fields, "side": side}) for side in ("ours", "peer")}


@pytest.mark.slow
def test_train_throughput_does_the_same_work_on_both_sides(tmp_path: Path) -> None:
    arguments = ["--batch_sizes", "4", "--steps", "2", "--warmup_steps", "1"]
    (row,) = rows_of("train_throughput.py", tmp_path, *TINY, *arguments)
    ours, peer, num_pairs = row["ours"], row["peer"], 8
    assert ours["pairs_per_step"] == peer["pairs_per_step"] == [4, 4]
    assert ours["tokens"] == peer["tokens"]
    long = (ours["tokens"] - num_pairs * (QUERY + SHORT)) / (LONG - SHORT)
    assert long in range(1, num_pairs)  # texts of both lengths, and of no other
    assert ours["dropout"] == peer["dropout"] == {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1}
    assert row["first_step_loss"]["ours"] > 0.1
    assert row["first_step_loss"]["difference"] <= row["first_step_loss"]["allowed"] == 1e-4

    # Each batch of the peer is as long as its longest passage; ours has no padding.
    assert ours["padding_share"] == 0
    positions = peer["tokens"] / (1 - peer["padding_share"])
    assert positions == pytest.approx(num_pairs * (QUERY + LONG))

    # Operations by hand: two layers of width 32, four square matrices and two to four times the width and back.
    squares = num_pairs * QUERY**2 + (num_pairs - long) * SHORT**2 + long * LONG**2
    flops = 6 * 2 * (4 * 32**2 + 2 * 32 * 128) * ours["tokens"] + 12 * 2 * 32 * squares
    for side in (ours, peer):
        time_s = num_pairs / side["pairs_per_s"]
        assert time_s == pytest.approx(sum(side["step_time_s"]["rounds"][0]))
        assert side["mfu"] == pytest.approx(flops / time_s / row["matrix_rate_flops_per_s"])
        assert 0.1 < side["peak_memory_gib"] < 10
    assert row["ratio"]["pairs_per_s"] == pytest.approx(ours["pairs_per_s"] / peer["pairs_per_s"])
    assert row["versions"]["sentence-transformers"]


@pytest.mark.slow
def test_gradcache_memory_measures_chunks_beside_the_whole(tmp_path: Path) -> None:
    arguments = ["--batch_sizes", "8", "--steps", "1", "--peer_mini_batch", "2", "--loss_batch_sizes", "16384"]
    loss, row = rows_of("gradcache_memory.py", tmp_path, *TINY, *arguments, "--embedding_size", "8")
    assert row["sides"] == ["plain", "ours", "peer"]
    assert row["plain"]["chunk_tokens"] is None
    assert row["ours"]["chunk_tokens"] == 2 * (QUERY + LONG)
    assert "mini_batch_size=2" in row["peer_name"]
    losses = row["first_step_loss"]
    assert losses["plain"] > 0.1
    assert losses["difference"] <= 1e-4
    assert row["plain"]["tokens"] == row["ours"]["tokens"] == row["peer"]["tokens"] >= 8 * (QUERY + SHORT)
    assert loss["score_matrix_gib"] == 1.0
    assert 0 < loss["ours"]["memory_gib"] < 0.6


def test_the_cost_of_keeping_a_run_is_of_functions_that_the_trainer_calls(
    measuring: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = importlib.import_module("resume_overhead")
    sizes = ["--steps", "6", "--warmup_steps", "2", "--rounds", "1", "--batch_size", "8", "--device", "cpu"]
    places = ["--json", str(tmp_path / "rows.json"), "--cache", str(tmp_path / "cache"), "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["resume_overhead.py", *places, *sizes])
    script.main()
    step, checkpoint = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (step["comparison"], checkpoint["comparison"]) == ("step", "checkpoint")
    assert 0 < step["share"] < 0.5  # of a function that is not called it would be 0
    assert all(len(seconds) == 1 for seconds in step["seconds_of_rounds"].values())
    assert checkpoint["gib"] > 0
    assert checkpoint["verify_s"] > 0
