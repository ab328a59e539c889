"""The resource log: sums that add up, one clock, exact totals over a resume and over ranks, nothing invented."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    Trainer,
    TrainingArguments,
)

from hf_hybrid.models.flops import flops_terms
from hf_hybrid.records.resources import build_resources, empty_line, training_flops
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training import meters, resource_log
from hf_hybrid.training.resource_log import ResourceLogCallback, StepRecord

WAIT_S = 0.001
PAIRS = [("mono", "de->de"), ("cross", "de->zh"), ("pool", "de->*")]


def record_of(step: int, padding_tokens: int = 0) -> StepRecord:
    """What batch `step` of a run over three language pairs holds; every step differs."""
    batch_type, pair = PAIRS[step % 3]
    languages = {"de->de": ["de"], "de->zh": ["de", "zh"], "de->*": ["de", "fr", "zh"]}[pair]
    tokens = {language: 10 * (step + 1) + index for index, language in enumerate(languages)}
    squares = sum(n * n for n in tokens.values())
    sent = {"embedding_bytes": 3 * padding_tokens, "weight_bytes": 1000 * (padding_tokens > 0)}
    return StepRecord(batch_type, pair, step + 2, tokens, squares, padding_tokens, WAIT_S, **sent)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.linear(x).square().mean()}


class RecordingTrainer(Trainer):
    """Says what its batches hold, as the callback asks; optionally slow, and slow to evaluate."""

    resource_log: ResourceLogCallback
    step_s = 0.0
    padding_tokens = 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.resource_log.record_step(record_of(self.state.global_step, self.padding_tokens))
        time.sleep(self.step_s)
        return super().training_step(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        time.sleep(0.3)
        return {"eval_loss": 1.0}


def train(folder: Path, resume: str | None = None, padding_tokens: int = 0, **settings: Any) -> ResourceLogCallback:
    defaults = {"max_steps": 7, "logging_steps": 2, "save_strategy": "no", "use_cpu": True}
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        report_to=[],
        disable_tqdm=True,
        **{**defaults, **{key: value for key, value in settings.items() if key not in ("energy", "step_s")}},
    )
    rows = [{"x": torch.ones(2)} for _ in range(40)]
    trainer = RecordingTrainer(model=Model(), args=args, train_dataset=rows, eval_dataset=rows)
    trainer.resource_log = ResourceLogCallback(folder, energy=settings.get("energy", "none"))
    trainer.step_s, trainer.padding_tokens = settings.get("step_s", 0.0), padding_tokens
    trainer.add_callback(trainer.resource_log)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.resource_log


def without_times(totals: Any) -> Any:
    """The part of a summary that does not depend on the clock or on this process's memory."""
    if isinstance(totals, dict):
        unsteady = ("_s", "_gib", "mfu", "energy_wh")
        return {key: without_times(value) for key, value in totals.items() if not key.endswith(unsteady)}
    return totals


def test_lines_and_languages_and_language_pairs_add_up_to_the_totals(tmp_path: Path) -> None:
    train(tmp_path)
    folder = RunFolder(tmp_path)
    lines, _ = folder.read_resource_lines()
    totals = folder.read_resources()
    expected = [record_of(step) for step in range(7)]

    assert totals["num_steps"] == 7
    assert totals["num_pairs"] == sum(record.pairs for record in expected) == sum(line["pairs"] for line in lines)
    tokens = sum(sum(record.tokens_per_language.values()) for record in expected)
    assert totals["tokens"] == tokens == sum(line["tokens"] for line in lines)
    for shares in (totals["per_language"], totals["per_language_pair"]):
        assert sum(share["tokens"] for share in shares.values()) == tokens
        assert sum(share["time_s"] for share in shares.values()) == pytest.approx(totals["train_time_s"])
    assert sum(line["time_s"] for line in lines) == pytest.approx(totals["train_time_s"])
    assert sum(line["data_wait_s"] for line in lines) == pytest.approx(7 * WAIT_S)
    assert {pair: share["steps"] for pair, share in totals["per_language_pair"].items()} == {
        "de->de": 3,
        "de->zh": 2,
        "de->*": 2,
    }
    assert {name: share["steps"] for name, share in totals["per_language"].items()} == {"de": 7, "fr": 2, "zh": 4}
    assert totals["tokens_per_s"] == pytest.approx(tokens / totals["train_time_s"])


def test_one_line_for_each_logging_step_and_one_for_the_rest(tmp_path: Path) -> None:
    train(tmp_path)
    lines, _ = RunFolder(tmp_path).read_resource_lines()
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    assert [line["loss"] is None for line in lines] == [False, False, False, True]
    # Two steps of different language pairs have no one batch type; the last line is one step's.
    assert [line["batch_type"] for line in lines] == [None, None, None, "mono"]
    assert lines[-1]["language_pair"] == "de->de"


def test_a_line_of_one_step_names_its_batch_type_and_language_pair(tmp_path: Path) -> None:
    train(tmp_path, logging_steps=1)
    lines, _ = RunFolder(tmp_path).read_resource_lines()
    assert [(line["batch_type"], line["language_pair"]) for line in lines] == [PAIRS[step % 3] for step in range(7)]


def test_logging_once_an_epoch_works_too(tmp_path: Path) -> None:
    train(tmp_path, logging_strategy="epoch", max_steps=40)  # 20 steps an epoch
    lines, _ = RunFolder(tmp_path).read_resource_lines()
    assert [line["step"] for line in lines] == [20, 40]
    assert sum(line["tokens"] for line in lines) == RunFolder(tmp_path).read_resources()["tokens"]


def test_training_time_has_the_steps_and_the_wait_but_not_the_evaluation(tmp_path: Path) -> None:
    log = train(tmp_path, step_s=0.02, eval_strategy="steps", eval_steps=3)  # two evaluations of 0.3 s
    assert 7 * (0.02 + WAIT_S) < log.summary()["train_time_s"] < 0.3


def test_gradient_accumulation_counts_one_step_of_several_batches(tmp_path: Path) -> None:
    train(tmp_path, gradient_accumulation_steps=2, max_steps=3)
    totals = RunFolder(tmp_path).read_resources()
    assert totals["num_steps"] == 3
    assert totals["num_pairs"] == sum(2 * record_of(step).pairs for step in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("saved_step", [3, 4])  # within a line, and at the end of one
def test_a_resumed_run_ends_with_the_totals_of_one_that_was_not_stopped(tmp_path: Path, saved_step: int) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": saved_step, "padding_tokens": 5}
    train(tmp_path / "whole", **settings)
    train(tmp_path / "stopped", **settings)
    stopped = RunFolder(tmp_path / "stopped")
    before = json.loads((stopped.path / f"checkpoint-{saved_step}" / "trainer_state.json").read_text())
    (stopped.path / "resources.json").unlink()  # a kill leaves no totals, but lines after the checkpoint
    with open(stopped.resource_lines_path, "a") as file:
        file.write('{"step": 8, "ti')
    train(stopped.path, resume=str(stopped.path / f"checkpoint-{saved_step}"), **settings)

    whole = RunFolder(tmp_path / "whole")
    assert without_times(stopped.read_resources()) == without_times(whole.read_resources())
    assert stopped.read_resources()["padding_tokens"] == 7 * 5
    sent = stopped.read_resources()["bytes_sent"]
    assert sent is not None
    assert (sent["embeddings"], sent["weights"]) == (7 * 15, 7 * 1000)
    lines, torn = stopped.read_resource_lines()
    wanted, _ = whole.read_resource_lines()
    steady = ("step", "pairs", "tokens", "padding_tokens", "batch_type", "language_pair")
    assert torn == 0
    assert [[line[key] for key in steady] for line in lines] == [[line[key] for key in steady] for line in wanted]  # type: ignore[literal-required]
    # Times resume from those of the checkpoint, and its set-up is not forgotten.
    lines_saved = before["stateful_callbacks"]["ResourceLogCallback"]["attributes"]["saved"]
    saved = build_resources([line for line in lines_saved.values() if line])
    totals = stopped.read_resources()
    assert totals["train_time_s"] > saved["train_time_s"] > 0
    assert totals["setup_time_s"] > saved["setup_time_s"] > 0
    assert sum(line["time_s"] for line in lines) == pytest.approx(totals["train_time_s"])


def test_a_checkpoint_does_not_say_where_the_folder_lies(tmp_path: Path) -> None:
    train(tmp_path / "run", save_strategy="steps", save_steps=2)
    states = [*(tmp_path / "run").glob("checkpoint-*/trainer_state.json")]
    assert states
    assert not any(str(tmp_path) in path.read_text() for path in states)


def test_a_new_run_in_an_old_folder_starts_from_nothing(tmp_path: Path) -> None:
    train(tmp_path)
    train(tmp_path, max_steps=3)
    assert RunFolder(tmp_path).read_resources()["num_steps"] == 3
    assert [line["step"] for line in RunFolder(tmp_path).read_resource_lines()[0]] == [2, 3]


def test_a_checkpoint_without_a_log_is_resumed_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, save_strategy="steps", save_steps=4)
    path = tmp_path / "checkpoint-4" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["ResourceLogCallback"]
    path.write_text(json.dumps(state))
    log = train(tmp_path, resume=str(path.parent), save_strategy="steps", save_steps=4, max_steps=8)
    assert "totals begin at step 4" in caplog.text
    assert log.summary()["num_steps"] == 4
    assert "ResourceLogCallback" in (tmp_path / "checkpoint-8" / "trainer_state.json").read_text()


def test_a_checkpoint_of_another_folder_brings_its_totals(tmp_path: Path) -> None:
    """As one that was downloaded: its lines were left behind, and their sum is the first line."""
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3}
    train(tmp_path / "whole", **settings)
    log = train(tmp_path / "other", resume=str(tmp_path / "whole" / "checkpoint-3"), **settings)
    whole, other = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "other")
    assert without_times(other.read_resources()) == without_times(whole.read_resources())
    lines, _ = other.read_resource_lines()
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    assert build_resources(lines) == other.read_resources() == log.summary()


def test_a_batch_without_a_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResourceLogCallback, "record_step", lambda self, record: None)
    with pytest.raises(ValueError, match="call record_step"):
        train(tmp_path)


def test_nothing_is_invented(tmp_path: Path) -> None:
    totals = train(tmp_path).summary()
    unknown = ("flops", "mfu", "peak_device_memory_gib", "energy_wh", "energy_source", "bytes_sent")
    assert [totals[name] for name in unknown] == [None] * 6  # type: ignore[literal-required]
    line = RunFolder(tmp_path).read_resource_lines()[0][0]
    assert line["energy_wh"] is None
    assert line["peak_device_memory_gib"] is None
    assert [0.05 < peak < 100 for peak in totals["peak_host_memory_gib"]] == [True]


# FLOPs


def tiny(config_class: Any) -> Any:
    shape = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    return config_class(**shape, intermediate_size=16, hidden_dim=16)


def test_flops_of_an_encoder_equal_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = BertModel(tiny(BertConfig), add_pooling_layer=False)
    model.set_attn_implementation("eager")
    terms = flops_terms(model)
    assert terms is not None
    assert [*terms.values()] == [3 * (4 * 8 * 8 + 2 * 8 * 16), 3, 8, 0]
    lengths = (5, 9)
    counted = 0
    for length in lengths:
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.ones(1, length, dtype=torch.long)).last_hidden_state.sum().backward()
        counted += counter.get_total_flops()
    tokens, squares = sum(lengths), sum(length**2 for length in lengths)
    assert training_flops(terms, tokens, squares, 0) == pytest.approx(counted, rel=0.02)


def test_shape_leaves_out_poolers_and_takes_in_a_language_model_output() -> None:
    blocks = 3 * (4 * 8 * 8 + 2 * 8 * 16)
    assert shape_of(BertModel(tiny(BertConfig))) == [blocks, 3, 8, 0]
    assert shape_of(BertForMaskedLM(tiny(BertConfig))) == [blocks + 8 * 30, 3, 8, 0]
    distilbert = DistilBertConfig(vocab_size=30, dim=8, n_layers=3, n_heads=2, hidden_dim=16)
    assert shape_of(nn.Sequential(DistilBertModel(distilbert))) == [blocks, 3, 8, 0]
    assert flops_terms(Model()) is None
    assert flops_terms(None) is None


def shape_of(model: nn.Module) -> list[int]:
    return [*(flops_terms(model) or {}).values()]


def test_mfu_is_the_share_of_the_given_peak(tmp_path: Path) -> None:
    log = ResourceLogCallback(tmp_path, energy="none", peak_flops=1000.0)
    log._flops_terms = {"num_matmul_parameters": 10, "num_layers": 1, "hidden_size": 2, "num_head_parameters": 7}
    log._add_step([StepRecord("mono", "de->de", 1, {"de": 3}, sum_squared_lengths=5)], time_s=0.6)
    found = log.summary()
    assert found["flops"] == 300.0
    assert found["mfu"] == pytest.approx(0.5)
    assert found["flops_terms"] == {**log._flops_terms, "sum_squared_lengths": 5, "predicted_tokens": 0}
    assert {*found["flops_terms"], "tokens"} >= {*re.findall(r"[a-z_]{2,}", found["flops_formula"])}


# Energy


class StubMeter:
    """Half a watt hour more at each reading."""

    source = "rapl"

    def __init__(self) -> None:
        self.readings = 0

    def read_wh(self) -> dict[str, float]:
        self.readings += 1
        return {"host/package": 0.5 * self.readings}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def stub_meter(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubMeter]:
    meter = StubMeter()
    monkeypatch.setattr(resource_log, "open_meter", lambda choice, cuda: meter)
    yield meter
    assert meter.closed


def test_energy_of_lines_adds_up_and_names_its_source(tmp_path: Path, stub_meter: StubMeter) -> None:
    totals = train(tmp_path).summary()
    assert (totals["energy_wh"], totals["energy_source"]) == (2.0, "rapl")  # three logging steps and the end
    assert [line["energy_wh"] for line in RunFolder(tmp_path).read_resource_lines()[0]] == [0.5] * 4


def test_a_meter_that_fails_makes_energy_unknown_and_training_goes_on(
    tmp_path: Path, stub_meter: StubMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> dict[str, float]:
        stub_meter.closed = True
        raise OSError("gone")

    monkeypatch.setattr(stub_meter, "read_wh", fail)
    totals = train(tmp_path).summary()
    assert (totals["num_steps"], totals["energy_wh"], totals["energy_source"]) == (7, None, None)


def test_a_device_that_two_ranks_read_counts_once() -> None:
    ranks = [
        {"energy_source": "nvml", "meters": {"GPU-a": 1.0}},
        {"energy_source": "nvml", "meters": {"GPU-a": 1.25}},
        {"energy_source": "nvml", "meters": {"GPU-b": 2.0}},
    ]
    assert resource_log._sum_energy(ranks) == (3.25, "nvml")


@pytest.mark.parametrize("source", [None, "codecarbon"])
def test_energy_is_unknown_where_a_part_of_it_is(source: str | None) -> None:
    known = {"energy_source": "nvml", "meters": {"GPU-a": 1.0}}
    other: dict[str, Any] = {"energy_source": source, "meters": {}}
    assert resource_log._sum_energy([known, other]) == (None, None)
    measured: dict[str, Any] = {"energy_wh": 1.0, "energy_source": "nvml"}
    lines: list[Any] = [empty_line(1) | measured, empty_line(2) | measured]
    assert build_resources(lines)["energy_wh"] == 2.0
    unlike: Any = {"energy_wh": source and 1.0, "energy_source": source}
    found = build_resources([*lines, {**empty_line(3), **unlike}, lines[0]])
    assert (found["energy_wh"], found["energy_source"]) == (None, None)


def make_rapl(root: Path, microjoules: int) -> None:
    for name, zone in (("package-0", "intel-rapl:0"), ("core", "intel-rapl:0:0")):
        (root / zone).mkdir(parents=True, exist_ok=True)
        (root / zone / "name").write_text(f"{name}\n")
        (root / zone / "energy_uj").write_text(f"{microjoules}\n")
        (root / zone / "max_energy_range_uj").write_text(f"{10 * 3600 * 10**6}\n")


def test_rapl_reads_packages_only_and_survives_the_counter_starting_again(tmp_path: Path) -> None:
    watt_hour = 3600 * 10**6
    make_rapl(tmp_path, 9 * watt_hour)
    meter = meters._open_rapl(tmp_path)
    make_rapl(tmp_path, watt_hour)
    assert list(meter.read_wh().values()) == [pytest.approx(2.0)]
    make_rapl(tmp_path, 4 * watt_hour)
    assert list(meter.read_wh().values()) == [pytest.approx(5.0)]


class StubNvml:
    """A GPU that has used 36 kJ at first and half a watt hour more at each reading."""

    class NVMLError(Exception):
        pass

    millijoules = 36_000_000

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> int:
        assert device == "GPU-abc"
        self.millijoules += 1_800_000
        return self.millijoules


def test_nvml_counts_from_the_opening_and_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = StubNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    meter = meters.open_meter("auto", cuda=True)
    assert meter is not None
    assert (meter.source, meter.read_wh(), meter.read_wh()) == ("nvml", {"GPU-abc": 0.5}, {"GPU-abc": 1.0})

    def fail(device: str) -> int:
        raise nvml.NVMLError("lost")

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", fail)
    with pytest.raises(OSError, match="NVML: lost"):
        meter.read_wh()
    assert meters.open_meter("auto", cuda=True) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_time_memory_and_energy_are_measured(tmp_path: Path) -> None:
    totals = train(tmp_path, use_cpu=False, energy="auto", step_s=0.05).summary()
    lines, _ = RunFolder(tmp_path).read_resource_lines()
    assert 7 * 0.05 < totals["train_time_s"] < 20
    assert sum(line["time_s"] for line in lines) == pytest.approx(totals["train_time_s"])
    assert totals["energy_source"] == "nvml"
    assert (totals["energy_wh"] or 0) > 0
    assert [0 < peak < 1 for peak in totals["peak_device_memory_gib"] or []] == [True]


def test_codecarbon_estimates_without_files_signals_or_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("codecarbon")
    import signal
    import socket

    def refuse(*args: Any) -> None:
        raise AssertionError("codecarbon opened a connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    handler = signal.getsignal(signal.SIGTERM)
    meter = meters.open_meter("codecarbon", cuda=False)
    assert meter is not None
    time.sleep(0.3)
    (first_wh,) = meter.read_wh().values()
    time.sleep(0.3)
    (second_wh,) = meter.read_wh().values()
    meter.close()
    assert 0 < first_wh < second_wh < 1
    assert signal.getsignal(signal.SIGTERM) is handler
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_rank_of_a_machine_runs_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("LOCAL_RANK", "1")
    meter = meters.open_meter("codecarbon", cuda=False)
    assert meter is not None
    assert (meter.source, meter.read_wh()) == ("codecarbon", {})


def test_auto_finds_nothing_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(meters._OPEN_METER, "rapl", lambda: meters._open_rapl(Path("/nowhere")))
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert meters.open_meter("auto", cuda=False) is None
    assert meters.open_meter("auto", cuda=True) is None
    with pytest.raises(ValueError, match=r"energy='codecarbon' does not work here .* Use 'auto' or 'none'"):
        meters.open_meter("codecarbon", cuda=False)


def test_an_unknown_meter_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'watts', allowed are auto, nvml"):
        ResourceLogCallback(tmp_path, energy="watts")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_peak_host_memory_is_this_process_s_own() -> None:
    """In a fresh process: here other tests may have left a peak above all that this one would take."""
    script = """
from hf_hybrid.training import meters
before = meters.peak_host_memory()
block = bytearray(200 * 2**20)
block[:: 2**12] = b"x" * len(block[:: 2**12])
held = meters.peak_host_memory()
del block
print(before, held, meters.peak_host_memory())
"""
    parent = bytearray(b"x" * (600 * 2**20))  # a peak that the child must not inherit
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, held, after = map(int, found.stdout.split())
    assert before < len(parent)
    assert held >= before + 190 * 2**20
    assert after == pytest.approx(held, abs=2**20)


# Several processes


def _train_rank(rank: int, folder: str, store: str) -> None:
    import torch.distributed as dist

    # accelerate asks for an address even where the group is already there, by way of a file
    os.environ.update(ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    resource_log.open_meter = lambda choice, cuda: StubMeter()
    log = train(Path(folder), padding_tokens=10 * (rank + 1))
    assert log.summary()["energy_wh"] == 2.0
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo may abort a process that ends as usual


@pytest.mark.distributed
def test_two_ranks_write_one_log(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_rank, (str(tmp_path / "run"), str(tmp_path / "store")), nprocs=2)
    folder = RunFolder(tmp_path / "run")
    totals = folder.read_resources()
    lines, _ = folder.read_resource_lines()
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    assert totals["padding_tokens"] == 7 * (10 + 20) == sum(line["padding_tokens"] for line in lines)
    assert totals["tokens"] == sum(sum(record_of(step).tokens_per_language.values()) for step in range(7))
    sent = totals["bytes_sent"]
    assert sent is not None
    assert (sent["embeddings"], sent["weights"]) == (7 * 3 * (10 + 20), 7 * 2 * 1000)
    assert len(totals["peak_host_memory_gib"]) == 2
    assert totals["energy_wh"] == 2.0  # both ranks read the same package
