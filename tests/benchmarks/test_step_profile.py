"""`benchmarks/step_profile.py` finds the time where it was put, and the waits that were put there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.training import trainer as training
from hf_hybrid.training.arguments import HybridTrainingArguments
from tests.support.toys import toy_corpus, toy_encoder

FOLDER = Path(__file__).parents[2] / "benchmarks"
WARMUP, STEPS, PROFILED = 1, 3, 2
PAUSE_S = 0.05


@pytest.fixture
def profiling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("step_profile")


@pytest.fixture
def take_apart(profiling: ModuleType, tmp_path: Path, one_thread: None) -> Callable[..., dict[str, Any]]:
    """Figures of a tiny training run."""

    def run(attention: str = "auto", **options: Any) -> dict[str, Any]:
        corpus = toy_corpus(missing=0.0)
        arguments = HybridTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=WARMUP + STEPS + PROFILED + 1,
            global_batch_size=12,
            use_cpu=True,
            cpu_threads=1,
            logging_strategy="no",
            report_to="none",
            energy="none",
            disable_tqdm=True,
            **options,
        )
        encoder = toy_encoder(corpus, attention=attention)
        trainer = training.HybridTrainer(encoder, arguments, corpus, cache_dir=tmp_path)
        found = profiling.StepProfile(trainer, WARMUP, STEPS, PROFILED)
        assert found.num_steps == arguments.max_steps
        found.train()
        return found.figures()

    return run


def test_a_part_does_not_count_the_parts_inside_it(profiling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Moment:
        def __init__(self, cuda: bool) -> None:
            self.host_s = clock[0]

        def until(self, end: Moment, wait_s: float) -> Callable[[], float]:
            return lambda: end.host_s - self.host_s

    monkeypatch.setattr(profiling, "Moment", Moment)
    stopwatch = profiling.Stopwatch(cuda=False)
    for slow in (100, 1, 2, 100):  # two steps between one that warms up and one that ends
        stopwatch.begin_step()
        clock[0] += slow
        with stopwatch.part("loss"):
            clock[0] += 10
            with stopwatch.part("encode"), stopwatch.part("encode"):
                clock[0] += 20
            clock[0] += 30
        with stopwatch.part("backward"):
            clock[0] += 5
            stopwatch.turn_into("communication")
            clock[0] += 7
    assert stopwatch.seconds(1, 3) == {"other": 1.5, "loss": 40, "encode": 20, "backward": 5, "communication": 7}
    assert stopwatch.steps_s(1, 3) == [73, 74]


def test_parts_sum_to_the_step(take_apart: Callable[..., dict[str, Any]]) -> None:
    originals = torch.autograd.backward, torch.autograd.grad, training.contrastive_loss, torch.distributed.all_reduce
    found = take_apart()
    seconds = found["seconds"]
    assert all(seconds[part] > 0 for part in ("data_wait", "copy", "encode", "loss", "backward", "clipping"))
    assert seconds["optimizer"] > 0
    assert seconds["communication"] == 0
    assert sum(seconds.values()) + found["unexplained_s"] == pytest.approx(found["step_time_s"])
    assert abs(found["unexplained_s"]) < 0.05 * found["step_time_s"]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["data_wait_share"] == pytest.approx(seconds["data_wait"] / found["step_time_s"])
    assert found["padding_share"] == 0
    assert found["flops_per_step"] > 0
    now = torch.autograd.backward, torch.autograd.grad, training.contrastive_loss, torch.distributed.all_reduce
    assert now == originals


@pytest.mark.slow
@pytest.mark.parametrize("part", ["data_wait", "loss", "optimizer"])
def test_time_is_found_where_it_was_put(
    take_apart: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    owner, name = {
        "data_wait": (training.HybridTrainer, "get_batch_samples"),
        "loss": (training, "contrastive_loss"),
        "optimizer": (torch.optim.AdamW, "step"),
    }[part]
    original = getattr(owner, name)

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(PAUSE_S)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)
    found = take_apart()
    assert PAUSE_S <= found["seconds"][part] < found["step_time_s"]


@pytest.mark.slow
def test_waits_are_counted_in_the_profiled_steps_alone(
    take_apart: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = take_apart()["host_syncs_per_step"]
    original = training.contrastive_loss

    def curious(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss = original(*args, **kwargs)
        loss.item()
        loss.isnan().nonzero()
        return loss

    monkeypatch.setattr(training, "contrastive_loss", curious)
    found = take_apart()
    assert found["host_syncs_per_step"] == before + 2
    assert found["host_sync_counts_per_step"]["aten::nonzero"] == 1


@pytest.mark.slow
def test_chunks_and_padding_show(take_apart: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = HybridEncoder.forward, []

    def slow(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        time.sleep(PAUSE_S / 5)
        return original(*args, **kwargs)

    monkeypatch.setattr(HybridEncoder, "forward", slow)
    found = take_apart(attention="sdpa", chunk_tokens=60)
    assert found["padding_share"] > 0
    assert calls.count(True) == calls.count(False)  # every chunk is embedded twice
    assert len(calls) >= 4 * (WARMUP + STEPS + PROFILED + 1)
    assert found["seconds"]["encode"] >= 4 * PAUSE_S / 5
    assert sum(found["seconds"].values()) == pytest.approx(found["step_time_s"], rel=0.05)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_are_drawn_beside_one(tmp_path: Path) -> None:
    rows, png = tmp_path / "rows.json", tmp_path / "bars.png"
    command = [sys.executable, str(FOLDER / "step_profile.py"), "--json", str(rows), "--png", str(png)]
    lengths = tmp_path / "lengths.json"
    lengths.write_text(json.dumps([[8, 24], [8, 40]]))
    command += ["--lengths", str(lengths), "--device", "cpu", "--threads", "1", "--batch_sizes", "8"]
    command += ["--processes", "1,2", "--steps", "2", "--warmup_steps", "1", "--profiled_steps", "1"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    one, two = json.loads(rows.read_text())["rows"]
    assert one["seconds"]["communication"] == 0
    assert two["seconds"]["communication"] > 0
    assert two["tokens_per_step"] == one["tokens_per_step"]  # of both together
    assert 0 < one["mfu"] < 1
    assert png.read_bytes().startswith(b"\x89PNG")
    png.unlink()
    redrawn = subprocess.run([*command, "--only_draw"], capture_output=True, text=True)
    assert redrawn.returncode == 0, redrawn.stderr[-3000:]
    assert png.stat().st_size > 10_000
    assert json.loads(rows.read_text())["rows"] == [one, two]
