"""Plans against runs whose law is known, a run that was really made, and machines that none was made on."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.scaling.planner.cost_model import CostModel, Estimate
from hf_hybrid.scaling.planner.hardware import Hardware, hardware_of_run, read_hardware
from hf_hybrid.scaling.planner.measured_runs import Measured, read_measured, typical_step_time, workload_of
from hf_hybrid.scaling.planner.planner import Planner, Prediction, plan, prediction_table
from hf_hybrid.scaling.planner.workload import ModelSize, Workload
from hf_hybrid.training.communication import weight_bytes_sent
from tests.support.planned_runs import GIB, SECONDS, write_run_folder

SIZES: list[dict[str, Any]] = [
    dict(zip(("languages", "batch_size", "width", "layers", "vocabulary"), sizes, strict=True))
    for sizes in (
        (2, 16, 64, 1, 4000), (16, 256, 256, 4, 16000), (4, 32, 128, 2, 8000), (8, 64, 64, 3, 12000),
        (3, 128, 192, 1, 4000), (12, 48, 256, 2, 6000), (6, 96, 96, 4, 16000), (2, 192, 64, 2, 8000),
        (10, 24, 192, 3, 5000), (5, 160, 128, 1, 12000), (14, 64, 160, 2, 7000), (7, 32, 224, 4, 9000),
    )
]  # fmt: skip
LAPTOP = "Linux, 2 cores, threads of a process: 1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run_folder(folder / str(number), **sizes) for number, sizes in enumerate(SIZES)]


@pytest.fixture(scope="module")
def measured(runs: list[RunFolder]) -> list[Measured]:
    return [read_measured(run) for run in runs]


def work(**changes: object) -> Workload:
    plain = Workload(4, 500, ModelSize(2, 128, 8000), batch_size=64, tokens_per_text=12, steps=1000, length_spread=1.0)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


# What a run has to do


def test_work_by_hand() -> None:
    found = work()
    matmul = 12 * 2 * 128**2
    assert found.sequences == 128
    assert found.tokens == 128 * 12
    assert found.flops == 6 * matmul * 128 * 12 + 12 * 2 * 128 * 128 * 12**2
    assert found.model.parameters == matmul + 8000 * 128
    assert found.activations == found.kept_activations == 128 * 12 * 128 * 2
    assert found.state_bytes == 16 * found.model.parameters
    assert found.texts == 4000
    assert found.planned_pairs == 16


def test_chunks_and_checkpoints_do_the_forward_pass_again_and_keep_less() -> None:
    whole, chunked, kept = work(), work(chunk_tokens=500), work(gradient_checkpointing=True)
    assert (whole.passes, chunked.passes, work(chunk_tokens=500, batches_per_step=3).passes) == (1, 4, 12)
    assert chunked.flops == kept.flops == pytest.approx(whole.flops * 4 / 3)
    assert work(chunk_tokens=10**6).flops == whole.flops
    assert chunked.kept_activations == 500 * 128 * 2
    assert kept.kept_activations == pytest.approx(whole.tokens * 128 * (1 + 2 * 2 / 34))
    assert work(chunk_tokens=500, gradient_checkpointing=True).flops == pytest.approx(whole.flops * 5 / 3)


@pytest.mark.parametrize(
    ("strategy", "bytes_of_a_weight"), [("ddp", 16), ("zero1", 10), ("zero2", 7), ("zero3", 4), ("fsdp2", 4)]
)
def test_states_are_spread_as_the_strategy_says(strategy: str, bytes_of_a_weight: float) -> None:
    """On four devices: 4 bytes of weights, 4 of gradients, 8 of optimizer states, each whole or a quarter."""
    found = work(num_devices=4, strategy=strategy)
    assert found.state_bytes == pytest.approx(bytes_of_a_weight * found.model.parameters)
    assert found.flops == work().flops / 4
    passages = 64 / 4
    weights = weight_bytes_sent(strategy, 4 * found.model.parameters, 4 * found.model.parameters, 4)
    assert found.bytes_sent(halved=False) == weights + 2 * 3 * passages * 128 * 4
    assert work(strategy=strategy).bytes_sent(halved=False) == 0


def test_rows_that_no_text_uses_have_no_gradient_and_no_states() -> None:
    found = work(seen_rows=3000)
    assert found.trained_parameters == found.model.parameters - 5000 * 128
    assert found.state_bytes == 4 * found.model.parameters + 12 * found.trained_parameters


def test_pool_batches_have_more_passages() -> None:
    assert work(mix="pool=1").sequences == 64 * 5
    assert work(mix="pool=1", languages=2).sequences == 64 * 3
    assert work(mix="mono=1,pool=1").sequences == 64 * (1 + 2.5)
    assert work(mix="mono=1,pool=1").planned_pairs == 8
    assert work(mix="mono=1,pool=1", max_positives=3, num_negatives=2).sequences == 64 * (1 + 3 * (1 + 3) / 2)


def test_the_largest_batches_are_what_memory_must_hold() -> None:
    """Half of the batches have two texts for each query, half have five."""
    found = work(mix="mono=1,pool=1")
    assert found.kept_activations == 64 * 5 * 12 * 128 * 2
    chunked = work(mix="mono=1,pool=1", chunk_tokens=1600)
    assert chunked.passes == 0.5 * 1 + 0.5 * 3  # 1,536 and 3,840 tokens
    assert chunked.kept_activations == 1600 * 128 * 2
    assert chunked.flops == pytest.approx(found.flops * (1 + 0.5 / 3))


@pytest.mark.parametrize(("name", "value"), [("strategy", "fsdp"), ("steps", 0), ("tokens_per_text", math.nan)])
def test_work_that_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        work(**{name: value})


# What runs took


def test_a_run_is_read_as_it_was(runs: list[RunFolder]) -> None:
    found = read_measured(runs[2])
    assert found.workload == work(
        languages=4, batch_size=32, steps=20, language_pairs=16,
        model=ModelSize(2, 128, 8000, 12 * 2 * 128**2 + 8000 * 128, 12 * 2 * 128**2),
    )  # fmt: skip
    assert found.hardware == Hardware(LAPTOP, device_type="cpu")
    expected_s = SECONDS["step"] + SECONDS["flop"] * found.workload.flops + SECONDS["text"] * 64
    assert found.step_time_s == pytest.approx(expected_s + SECONDS["weight"] * found.workload.model.parameters)


def test_a_stall_and_the_warm_up_are_not_the_step_time(tmp_path: Path) -> None:
    quiet, busy = (write_run_folder(tmp_path / str(stall), stall=stall) for stall in (1.0, 50.0))
    assert busy.read_resources()["train_time_s"] > 2 * quiet.read_resources()["train_time_s"]
    assert read_measured(busy).step_time_s == read_measured(quiet).step_time_s


def test_trials_of_long_texts_do_not_move_the_step_time() -> None:
    """Nine short steps and ten long ones: the plain median is a long one, the mean step is in between."""
    tokens = [100] * 9 + [300] * 10
    lines = [{"step": step, "time_s": count / 1000, "tokens": count} for step, count in enumerate(tokens, start=6)]
    totals = {"tokens": sum(tokens), "num_steps": len(tokens), "train_time_s": 1.0}
    found = typical_step_time(lines, totals)  # type: ignore[arg-type]
    assert found == pytest.approx(np.mean(tokens) / 1000)
    assert found < np.median(tokens) / 1000


def test_a_run_without_steps_or_shape_is_refused(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run")
    resources = folder.read_resources()
    folder.write_resources({**resources, "flops_terms": None})
    with pytest.raises(ValueError, match="the blocks of the encoder were not recognized"):
        read_measured(folder)
    folder.write_resources({**resources, "num_steps": 0})
    with pytest.raises(ValueError, match="nothing to learn"):
        read_measured(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_run_that_was_really_made_is_read(tmp_path: Path) -> None:
    from hf_hybrid.training.run import run_training
    from tests.support.toy_runs import toy_trainer
    from tests.support.toys import toy_corpus

    trainer = toy_trainer(
        tmp_path, eval_corpus=toy_corpus(num_items=20, seed=1), save_strategy="no", max_eval_queries=5
    )
    folder = RunFolder(tmp_path)
    run_training(trainer, folder, [trainer.args])
    found, resources = read_measured(folder), folder.read_resources()
    made = found.workload
    assert (made.languages, made.steps, made.num_devices) == (5, 10, 1)
    assert made.evaluated_queries == 25
    assert made.model.parameters == sum(weight.numel() for weight in trainer.model.parameters())
    assert made.sequences * made.steps * made.tokens_per_text == pytest.approx(resources["tokens"], rel=0.05)
    assert made.flops * made.steps == pytest.approx(resources["flops"], rel=0.05)
    assert 0 < found.step_time_s <= resources["train_time_s"]
    assert found.host_memory_gib > 0.1


# Weights and intervals


def test_weights_are_found_again_and_none_is_negative() -> None:
    draw = np.random.default_rng(0)
    causes_NF = np.column_stack([np.ones(12), np.exp(draw.uniform(0, 3, (12, 3)))])
    exact = CostModel("abcd", causes_NF, causes_NF @ [1.0, 0.5, 0.0, 2e-9])
    assert exact.weights == pytest.approx([1.0, 0.5, 0.0, 2e-9], abs=1e-12)
    assert exact.errors_N == pytest.approx(0, abs=1e-9)
    falling = CostModel("ab", causes_NF[:, :2], 10 / causes_NF[:, 1])
    assert (falling.weights >= 0).all()


@pytest.mark.parametrize("wrong", [False, True])
def test_intervals_hold_new_runs_as_often_as_they_say(wrong: bool) -> None:
    """Twenty runs of three causes with noise of 5%, or of a law that no sum of the causes is."""
    draw, inside = np.random.default_rng(5), []

    def some_runs(count: int) -> tuple[np.ndarray, np.ndarray]:
        causes_NF = np.column_stack([np.ones(count), np.exp(draw.uniform(0, 3, (count, 3)))])
        costs_N = causes_NF @ [1.0, 0.5, 0.2, 0.05] * (causes_NF[:, 1] ** 0.3 if wrong else 1.0)
        return causes_NF, costs_N * np.exp(0.05 * draw.standard_normal(count))

    for _ in range(150):
        model = CostModel("abcd", *some_runs(20))
        for causes_F, cost in zip(*some_runs(2), strict=True):
            if (found := model.estimate(causes_F)).level:
                assert found.level == 0.9
                inside.append((found.low or 0) <= cost <= (found.high or 0))
    assert len(inside) > 200
    assert stats.binomtest(sum(inside), len(inside), 0.9, alternative="less").pvalue > 0.05
    assert 0.85 < np.mean(inside) < 0.99  # an interval that holds all says nothing


def test_few_runs_say_a_lower_level() -> None:
    causes_NF = np.array([[1.0, amount] for amount in (1, 2, 3, 4)])
    costs_N = causes_NF @ [1, 1] * [1.0, 1.1, 0.9, 1.0]
    assert CostModel("ab", causes_NF, costs_N).estimate(np.array([1.0, 2.5])).level == 4 / 5
    with pytest.raises(ValueError, match="3 measured runs are too few"):
        CostModel("ab", causes_NF[:3], costs_N[:3])


def test_beyond_what_was_measured_intervals_widen_then_end() -> None:
    draw = np.random.default_rng(0)
    causes_NF = np.array([[1.0, amount] for amount in range(1, 17)])
    model = CostModel(["fixed", "work"], causes_NF, causes_NF @ [1, 1] * np.exp(0.05 * draw.standard_normal(16)))
    inside, near, far = (model.estimate(np.array([1.0, amount])) for amount in (16.0, 64.0, 160.0))
    assert inside.level == 0.9
    assert near.level is None
    assert math.log((near.high or 0) / (near.low or 1)) > 2.9 * math.log((inside.high or 0) / (inside.low or 1))
    assert (far.low, far.high, far.level) == (None, None, None)
    assert far.value == pytest.approx(161, rel=0.1)
    assert model.beyond(np.array([1.0, 0.25])) == {"work": 4.0}


# Plans for the machine of the runs


def test_a_new_run_of_the_same_law_is_predicted(runs: list[RunFolder], tmp_path: Path) -> None:
    unseen = write_run_folder(tmp_path / "unseen", languages=9, batch_size=80, width=160, layers=3, vocabulary=10000)
    truth = read_measured(unseen)
    found = plan(runs, None, truth.workload)
    assert found.step_time_s.value == pytest.approx(truth.step_time_s, rel=0.02)
    assert found.memory_gib.value == pytest.approx(truth.host_memory_gib, rel=0.02)
    assert found.setup_time_s.value == pytest.approx(truth.setup_time_s, rel=0.02)
    assert found.total_time_s.value == pytest.approx(found.setup_time_s.value + 20 * found.step_time_s.value)
    assert found.step_time_s.level == 0.9
    assert found.total_time_s.level == pytest.approx(0.8)  # both ends of both
    assert (found.num_runs, found.measured_on, found.notes, found.fits) == (12, LAPTOP, [], None)


def test_the_weights_are_the_physical_ones(measured: list[Measured]) -> None:
    planner = Planner(measured)
    weights = dict(zip(planner.step.causes, planner.step.model.weights, strict=True))
    assert weights["operations"] == pytest.approx(SECONDS["flop"], rel=0.05)
    of_weights = weights["gradients"] + weights["updated weights"]  # which one device has equally many of
    assert of_weights == pytest.approx(SECONDS["weight"], rel=0.05)
    memory = dict(zip(planner.memory.causes, planner.memory.model.weights, strict=True))
    assert [memory[name] for name in list(memory)[:3]] == pytest.approx(list(GIB.values()), rel=0.05)


def test_noise_lies_within_the_intervals(tmp_path: Path) -> None:
    folders = [write_run_folder(tmp_path / str(n), noise=0.04, seed=n, **sizes) for n, sizes in enumerate(SIZES)]
    unseen = read_measured(write_run_folder(tmp_path / "unseen", languages=9, batch_size=80, width=160))
    found = plan(folders, None, unseen.workload)
    assert (found.step_time_s.low or 9) < unseen.step_time_s < (found.step_time_s.high or 0)
    assert (found.step_time_s.high or 0) > 1.05 * (found.step_time_s.low or 9)


def test_runs_of_two_machines_are_not_mixed(measured: list[Measured]) -> None:
    elsewhere = [run._replace(hardware=Hardware("other", device_type="cpu")) for run in measured]
    with pytest.raises(ValueError, match="got 2: Linux"):
        Planner([*measured, *elsewhere])
    planner = Planner([*measured, *elsewhere], Hardware("other", device_type="cpu"))  # those of the machine count
    assert len(planner.runs) == len(measured)
    assert planner.same


def test_energy_and_cost_follow_the_time(measured: list[Measured]) -> None:
    machine = Hardware(LAPTOP, device_type="cpu", price_per_device_hour=0.5, power_per_device_w=60)
    found = plan(measured, machine, work())
    assert found.energy_wh == found.total_time_s.times(60 / 3600)._replace(level=None)
    assert found.cost == found.total_time_s.times(0.5 / 3600)
    metered = [run._replace(power_w=30.0) for run in measured]
    assert plan(metered, machine, work()).energy_wh == found.total_time_s.times(30 / 3600)._replace(level=None)
    unknown = plan(measured, None, work())
    assert (unknown.energy_wh, unknown.cost) == (None, None)


def test_far_work_is_said_to_be_far(measured: list[Measured]) -> None:
    large = work(model=ModelSize(12, 768, 250_000), batch_size=256)
    found = plan(measured, None, large)
    assert found.step_time_s.low is None
    assert any(note.startswith("step time: operations beyond what was measured") for note in found.notes)
    evaluated = plan(measured, None, work(evaluated_queries=100))  # no run did that
    assert evaluated.setup_time_s.low is None
    assert any(
        "evaluation before training beyond what was measured (none of it was)" in note for note in evaluated.notes
    )


# Will it fit, and what to change


def small_machine(host_gib: float) -> Hardware:
    return Hardware(LAPTOP, device_type="cpu", host_memory_gib=host_gib)


def test_what_fits_is_told_from_what_may_not(measured: list[Measured]) -> None:
    memory = plan(measured, None, work()).memory_gib
    assert plan(measured, small_machine(memory.value * 1.2), work()).fits is True
    assert plan(measured, small_machine(memory.value * 0.9), work()).fits is False
    draw = np.random.default_rng(0)
    noisy = [run._replace(host_memory_gib=run.host_memory_gib * float(draw.uniform(0.9, 1.1))) for run in measured]
    memory = plan(noisy, None, work()).memory_gib
    between = (memory.value + (memory.high or 0)) / 2
    assert plan(noisy, small_machine(between), work()).fits is None


def test_advice_is_what_the_planner_says_of_the_change(measured: list[Measured]) -> None:
    large = work(batch_size=250, model=ModelSize(4, 256, 4000))
    planner = Planner(measured, small_machine(0.75))
    found = planner.predict(large)
    assert found.fits is False
    chunk = next(text for text in found.advice if text.startswith("--chunk_tokens"))
    tokens = int(chunk.split()[1].rstrip(":"))
    changed = planner.predict(dataclasses.replace(large, chunk_tokens=tokens))
    assert changed.fits is True
    assert f"{changed.memory_gib.value:.3g} GiB" in chunk
    assert "1.3 times as long, the same loss" in chunk
    assert (
        planner.predict(dataclasses.replace(large, chunk_tokens=2 * tokens)).fits is not True
    )  # no smaller than need be
    last = found.advice[-1]
    assert last.startswith("--global_batch_size")
    assert last.endswith("another loss.")
    assert planner.predict(dataclasses.replace(large, batch_size=int(last.split()[1].rstrip(":")))).fits is True


def test_what_nothing_here_makes_fit_is_said(measured: list[Measured]) -> None:
    found = plan(measured, small_machine(0.3), work())
    assert found.fits is False
    assert any(text.startswith("Nothing here makes sure that it fits") for text in found.advice)
    assert found.advice[-1].startswith("The nearest is --")


def test_a_large_table_is_told_of_its_unseen_rows(measured: list[Measured]) -> None:
    found = plan(measured, small_machine(0.5), work(model=ModelSize(2, 128, 16000)))
    assert found.advice[0].startswith("--seen_embeddings_only true")
    assert "give seen_rows" in found.advice[0]
    planned = plan(measured, small_machine(0.5), work(model=ModelSize(2, 128, 16000), seen_rows=4000))
    assert not any("seen_embeddings_only" in text for text in planned.advice)


def test_several_devices_are_told_to_share_the_states(measured: list[Measured]) -> None:
    machine = dataclasses.replace(cards(memory_gib=0.9), num_devices=8)
    large = work(model=ModelSize(12, 384, 100_000), num_devices=4)
    found = Planner(measured, machine, dataclasses.replace(measured[0].hardware, matrix_tflops=0.05)).predict(large)
    assert found.fits is False
    assert any(text.startswith("accelerate_configs/fsdp2.yaml") for text in found.advice)
    assert any(text.startswith("8 devices with accelerate_configs/fsdp2.yaml") for text in found.advice)


# Plans for another machine


def cards(memory_gib: float = 80.0, **changes: object) -> Hardware:
    plain = Hardware(
        "card", num_devices=4, memory_per_device_gib=memory_gib, matrix_tflops=0.5, interconnect_gb_per_s=10
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_another_machine_needs_the_rates_of_both(measured: list[Measured]) -> None:
    with pytest.raises(ValueError, match=r"matrix_tflops must be known of both: .* --measured_on FILE"):
        plan(measured, cards(), work())
    with pytest.raises(ValueError, match="give it that name"):
        plan(measured, dataclasses.replace(small_machine(8), precision="bf16"), work())


def test_operations_go_with_the_matrix_rate_and_the_host_does_not(measured: list[Measured]) -> None:
    here = dataclasses.replace(measured[0].hardware, matrix_tflops=0.05)
    found = plan(measured, cards(), work(), here)
    flops_s, weights_s = SECONDS["flop"] * work().flops / 10, SECONDS["weight"] * work().model.parameters
    host_s = SECONDS["step"] + SECONDS["text"] * 128
    fast, slow = host_s + flops_s + weights_s / 10, host_s + flops_s + weights_s
    assert found.step_time_s.value == pytest.approx(math.sqrt(fast * slow), rel=0.02)
    assert (found.step_time_s.low or 9) <= fast * 1.02
    assert (found.step_time_s.high or 0) >= slow * 0.98
    assert found.step_time_s.level is None
    assert any("No run was measured on card" in note for note in found.notes)
    both = (dataclasses.replace(here, memory_bandwidth_gb_per_s=10), cards(memory_bandwidth_gb_per_s=100))
    known = plan(measured, both[1], work(), both[0])
    assert known.step_time_s.value == pytest.approx(fast, rel=0.02)


def test_memory_of_another_device_is_counted_and_halved_in_16_bits(measured: list[Measured]) -> None:
    here = dataclasses.replace(measured[0].hardware, matrix_tflops=0.05)
    states, kept = work().state_bytes / 2**30, GIB["element"] * work().kept_activations
    assert plan(measured, cards(), work(), here).memory_gib.value == pytest.approx(states + kept, rel=0.02)
    half = plan(measured, cards(precision="bf16"), work(), here).memory_gib
    assert half.value == pytest.approx(states + kept / 2, rel=0.02)
    assert (half.low, half.high) == pytest.approx((states + kept / 4, states + kept), rel=0.02)


def test_what_devices_send_takes_time(measured: list[Measured]) -> None:
    here = dataclasses.replace(measured[0].hardware, matrix_tflops=0.05)
    slow = plan(measured, cards(interconnect_gb_per_s=0.001), work(num_devices=4), here)
    quick = plan(measured, cards(interconnect_gb_per_s=1000), work(num_devices=4), here)
    sent = work(num_devices=4).bytes_sent(halved=False)
    assert slow.bytes_sent_per_step == sent
    assert slow.step_time_s.value - quick.step_time_s.value == pytest.approx(sent / 1e6, rel=0.01)
    assert slow.step_time_s.low == pytest.approx(sent / 1e6)  # all of the computation hidden behind it
    with pytest.raises(ValueError, match="give its interconnect_gb_per_s"):
        plan(measured, cards(interconnect_gb_per_s=None), work(num_devices=4), here)
    with pytest.raises(ValueError, match="num_devices=8, but card has 4"):
        plan(measured, cards(), work(num_devices=8), here)


def test_the_exchange_is_learned_where_several_devices_were_measured(tmp_path: Path) -> None:
    """Runs on two processes whose step takes 1 s for each GB sent, beside those on one."""
    found = [
        read_measured(write_run_folder(tmp_path / str(number), world_size=1 + number // len(SIZES), **sizes))
        for number, sizes in enumerate(SIZES * 2)
    ]
    assert found[-1].workload.num_devices == 2
    machine = dataclasses.replace(found[0].hardware, num_devices=2)
    found = [
        run._replace(hardware=machine, step_time_s=seconds(run.workload) + run.workload.bytes_sent(False) / 1e9)
        for run in found
    ]
    planner = Planner(found)
    weights = dict(zip(planner.step.causes, planner.step.model.weights, strict=True))
    assert weights["bytes sent"] == pytest.approx(1e-9, rel=0.05)
    wanted = work(num_devices=2)
    prediction = planner.predict(wanted)
    assert prediction.step_time_s.value == pytest.approx(seconds(wanted) + wanted.bytes_sent(False) / 1e9, rel=0.02)
    assert prediction.step_time_s.level == 0.9


def seconds(work: Workload) -> float:
    """Of a step, by the law of `planned_runs`, on a device's share."""
    return (
        SECONDS["step"]
        + SECONDS["flop"] * work.flops
        + SECONDS["weight"] * work.updated_parameters
        + SECONDS["text"] * work.sequences / work.num_devices
    )


def test_gpus_have_a_memory_of_their_own_beside_the_host(measured: list[Measured]) -> None:
    card = cards(name="H100")
    on_card = [
        run._replace(hardware=card, device_memory_gib=run.workload.state_bytes / 2**30 + 0.1, host_memory_gib=2.0)
        for run in measured
    ]
    found = plan(on_card, card, work())
    assert found.memory_gib.value == pytest.approx(work().state_bytes / 2**30 + 0.1, rel=0.01)
    assert found.memory_limit_gib == 80
    assert found.fits is True
    assert found.host_memory_gib is not None
    assert found.host_memory_gib.value == pytest.approx(2.0, rel=0.01)


# Words and files


def test_the_table_has_every_figure_with_its_interval(measured: list[Measured]) -> None:
    machine = dataclasses.replace(small_machine(0.3), price_per_device_hour=0.5)
    text = prediction_table(plan(measured, machine, work()))
    assert "4 languages, 1000 steps of 64 queries, 1.4 million weights, 1 x Linux" in text
    assert "learned from 12 runs" in text
    step = next(line for line in text.splitlines() if line.startswith("step "))
    assert step.endswith("(90%)")
    assert "It will not fit: there are 0.3 GiB." in text
    assert "\n- " in text
    assert next(line for line in text.splitlines() if line.startswith("cost")).split()[2] == "USD"
    far = prediction_table(plan(measured, None, work(model=ModelSize(12, 768, 250_000))))
    assert next(line for line in far.splitlines() if line.startswith("step ")).endswith("none")
    assert "\nNote: step time" in far
    unknown = plan(measured, small_machine(64.0), work(model=ModelSize(12, 768, 250_000)))
    assert (unknown.fits, unknown.advice) == (None, [])
    assert "Whether it fits cannot be said: there are 64 GiB." in prediction_table(unknown)


def test_a_prediction_is_json(measured: list[Measured]) -> None:
    found = plan(measured, None, work())
    assert isinstance(found, Prediction)
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert Estimate(**content["step_time_s"]) == found.step_time_s
    assert content["workload"]["model"]["hidden_size"] == 128


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_hardware_is_read_from_a_file(tmp_path: Path, form: str) -> None:
    given = {"name": "card", "num_devices": 2, "memory_per_device_gib": 79.6, "precision": "bf16", "currency": "EUR"}
    path = tmp_path / f"card.{form}"
    yaml = "".join(f"{name}: {value}\n" for name, value in given.items())
    path.write_text(json.dumps(given) if form == "json" else yaml)
    assert read_hardware(path) == Hardware(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntflops: 3", r"tflops is not known \(did you mean matrix_tflops\?\); expected name"),
        ("num_devices: 3", "there is no name; expected name"),
        ("- a", "expected name"),
        ("name: [", "not a YAML or JSON file"),
        ("name: a\nprecision: fp8", "precision: got 'fp8', allowed: float32, bf16"),
        ("name: a\nmatrix_tflops: -1", "matrix_tflops: got -1"),
        ("name: a\nmatrix_tflops: fast", "matrix_tflops: got 'fast'"),
        ("name: a\nmatrix_tflops: .inf", "matrix_tflops: got inf"),
        ("name: a\nnum_devices: 1.5", "num_devices: got 1.5"),
        ("name: a\nnum_devices: true", "num_devices: got True"),
        ("name: ''", "name: got ''"),
    ],
)
def test_hardware_that_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hardware.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_hardware(path)
    assert str(path) in str(error.value)


def test_the_machine_of_a_run_on_gpus(tmp_path: Path) -> None:
    environment = {"devices": ["NVIDIA H100"] * 8}
    config = {"use_cpu": False, "bf16": True, "peak_flops": 8e14}
    run = write_run_folder(tmp_path / "run", environment=environment, config=config, world_size=4).read_run()
    assert hardware_of_run(run) == Hardware("NVIDIA H100", num_devices=8, matrix_tflops=800, precision="bf16")


def test_how_devices_share_the_work_is_read(tmp_path: Path) -> None:
    kinds = {("DEEPSPEED", 2): "zero2", ("FSDP", 2): "fsdp2", ("MULTI_GPU", None): "ddp", ("NO", None): "ddp"}
    for number, ((device_type, stage), strategy) in enumerate(kinds.items()):
        environment = {"distributed": {"type": device_type, "stage": stage}}
        folder = write_run_folder(tmp_path / str(number), environment=environment, world_size=2)
        assert workload_of(folder).strategy == strategy
