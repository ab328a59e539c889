"""Two processes equal one: the shipped Accelerate configurations, over gloo, on the recipe that users run."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from hf_hybrid.training import communication, gather
from hf_hybrid.utils import distributed
from tests.support.recipe_runs import losses, run_recipe, shipped, weights, write_jsonl_corpus, write_model

pytestmark = pytest.mark.distributed
STEPS = 6
# The shipped configuration, and what accelerate must say that it ran: on CPU it may leave a part out without a word.
TWO_PROCESSES = {
    "ddp": ("MULTI_CPU", None, 2),
    "fsdp2": ("FSDP", 2, 2),
    "deepspeed_zero1": ("DEEPSPEED", 1, 2),
    "deepspeed_zero2": ("DEEPSPEED", 2, 2),
    "deepspeed_zero3": ("DEEPSPEED", 3, 2),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Options of a run with all batch types, hard negatives and uneven slices, without dropout.

    SGD without momentum or clipping: each weight's change over the run is the sum of its gradients.
    """
    folder = tmp_path_factory.mktemp("inputs")
    options: dict[str, object] = {
        "model_name_or_path": write_model(folder / "model"),
        "train_corpus": write_jsonl_corpus(folder / "corpus", num_items=40, missing=0.3),
        "held_out": 8,
        "cache_dir": folder / "cache",
        "mix": "mono=1,cross=1,pool=1",
        "global_batch_size": 15,
        "num_negatives": 1,
        "symmetric": True,
        "max_steps": STEPS,
        "save_strategy": "no",
        "optim": "sgd",
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "temperature": 0.1,
        "logging_steps": 1,
        "evaluate_before": False,
        "energy": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def one_process(inputs: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    printed = run_recipe(*inputs, "--output_dir", folder).stdout
    assert "sends" not in printed
    assert bytes_sent(folder) is None
    assert len(set(losses(folder))) == STEPS
    return folder


def strategy_of_run(folder: Path) -> tuple[str, int | None, int]:
    found = json.loads((folder / "run.json").read_text())
    distributed = found["environment"]["distributed"]
    return distributed["type"], distributed["stage"], found["world_size"]


def assert_same_run(folder: Path, reference: Path) -> None:
    torch.testing.assert_close(losses(folder), losses(reference), rtol=1e-5, atol=1e-6)
    start, found, expected = weights_before(reference), weights(folder), weights(reference)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        moved = (weight - start[name]).norm()
        assert (found[name] - weight).norm() <= 1e-4 * moved + 1e-7, name
    total = sum(float((weight - start[name]).norm()) for name, weight in expected.items())
    assert total > 0.1, "the weights must have moved for their equality to mean anything"


def bytes_sent(folder: Path) -> dict[str, Any] | None:
    return json.loads((folder / "resources.json").read_text())["bytes_sent"]


def weights_before(reference: Path) -> dict[str, torch.Tensor]:
    config = json.loads((reference / "run.json").read_text())["config"]
    return load_file(Path(config["model_name_or_path"]) / "model.safetensors")


@pytest.mark.parametrize("name", TWO_PROCESSES)
def test_two_processes_equal_one(name: str, inputs: list[object], one_process: Path, tmp_path: Path) -> None:
    printed = run_recipe(*inputs, "--output_dir", tmp_path, launch=shipped(name)).stdout
    assert strategy_of_run(tmp_path) == TWO_PROCESSES[name]
    assert_same_run(tmp_path, one_process)
    # Halves of the weights that each process sends: see `weight_bytes_sent`.
    halves = {"ddp": 2, "fsdp2": 3, "deepspeed_zero1": 3, "deepspeed_zero2": 3, "deepspeed_zero3": 2}[name]
    sent, num_weights = bytes_sent(tmp_path), sum(weight.numel() for weight in weights(tmp_path).values())
    assert sent is not None
    assert sent["weights"] == 2 * STEPS * halves * 4 * num_weights // 2
    # At the least one passage and one query of 32 numbers, and their gradients, both ways in each step.
    assert 2 * STEPS * 4 * 32 * 4 < sent["embeddings"] < sent["weights"]
    step = 2 * STEPS * 2**20
    embeddings, others = sent["embeddings"] / step, sent["weights"] / step
    assert f"process: embeddings {embeddings:.2f} MiB, gradients and weights {others:.2f} MiB (by formula)." in printed


def test_seen_embeddings_are_trained_alike(inputs: list[object], one_process: Path, tmp_path: Path) -> None:
    run_recipe(*inputs, "--output_dir", tmp_path, "--seen_embeddings_only", "true", launch=shipped("ddp"))
    assert_same_run(tmp_path, one_process)


def test_sharded_weights_train_and_evaluate_in_half_precision(
    inputs: list[object], one_process: Path, tmp_path: Path
) -> None:
    options = ("--output_dir", tmp_path, "--bf16", "true", "--chunk_tokens", 60)
    run_recipe(*inputs, *options, launch=shipped("fsdp2"))
    assert losses(tmp_path) == pytest.approx(losses(one_process), rel=0.05)
    after = json.loads((tmp_path / "eval.json").read_text())["after"]
    assert 0 < after["multilingual"]["MAP"] < 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_attention_equals_packed(
    attention: str, inputs: list[object], one_process: Path, tmp_path: Path
) -> None:
    run_recipe(*inputs, "--output_dir", tmp_path, "--attention", attention, launch=shipped("cpu"))
    assert_same_run(tmp_path, one_process)


def test_padded_attention_makes_equal_calls_under_sharding(
    inputs: list[object], one_process: Path, tmp_path: Path
) -> None:
    run_recipe(*inputs, "--output_dir", tmp_path, "--attention", "sdpa", launch=shipped("fsdp2"))
    assert_same_run(tmp_path, one_process)


def _gathered(rank: int, file: str) -> None:
    """Each rank gives rows of its own; the loss of rank r is r + 1 times the sum of all gathered rows, squared."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=3)
    counts = (2, 0, 3)
    rows = torch.full((counts[rank], 2), rank + 1.0, requires_grad=True)
    gathered = gather.gather_rows(rows, counts)
    assert gathered.tolist() == [[1.0, 1.0]] * 2 + [[3.0, 3.0]] * 3
    ((rank + 1) * gathered.square().sum()).backward()
    assert rows.grad is not None
    assert torch.equal(rows.grad, torch.full_like(rows, 2 * (rank + 1) * (1 + 2 + 3)))
    # Blocks have 3 rows of 2 numbers of 4 bytes; a rank sends one for each of 2 others, there and back.
    assert gather.count_gathered_bytes(counts, 2 * 4) == 2 * (2 * 3 * 2 * 4)
    assert distributed.sum_over_ranks(torch.tensor([rank])).item() == 3
    torch.distributed.destroy_process_group()
    Path(f"{file}.{rank}").touch()


def test_gather_adds_the_gradients_of_all_ranks(tmp_path: Path) -> None:
    mp.spawn(_gathered, args=(str(tmp_path / "meet"),), nprocs=3)
    assert {path.suffix for path in tmp_path.glob("meet.*")} == {".0", ".1", ".2"}, "each rank finished"


def _waiting(rank: int, file: str) -> None:
    """The first works on, and fails; the other is told neither when nor how, and only finishes later."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    start = time.perf_counter()
    with pytest.raises(OSError, match="no network") if rank == 0 else nullcontext(), distributed.others_wait():
        if rank == 0:
            time.sleep(0.5)
            raise OSError("no network")
    assert time.perf_counter() - start >= 0.5
    torch.distributed.destroy_process_group()
    Path(f"{file}.{rank}").touch()


def test_others_wait_for_the_first_whatever_becomes_of_it(tmp_path: Path) -> None:
    mp.spawn(_waiting, args=(str(tmp_path / "meet"),), nprocs=2)
    assert {path.suffix for path in tmp_path.glob("meet.*")} == {".0", ".1"}, "each rank finished"


def test_one_process_gathers_nothing() -> None:
    rows = torch.ones(2, 3)
    assert gather.gather_rows(rows, (2,)) is rows
    assert gather.count_gathered_bytes((2,), 12) == 0
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


@pytest.mark.parametrize(
    ("strategy", "one_chunk", "three_chunks", "not_last"),
    [
        ("ddp", 300, 300, 0),
        ("zero1", 450, 450, 0),
        ("zero2", 450, 2 * 3 * 150 + 150, 300),
        ("zero3", 600 + 150, 9 * 600 + 3 * 150, 600 + 150),
        ("fsdp2", 2 * 600 + 150, 9 * 600 + 150, 2 * 600),
    ],
)
def test_bytes_of_weights(strategy: str, one_chunk: int, three_chunks: int, not_last: int) -> None:
    """Four processes, 800 bytes of weights and 200 of gradients: one sends 600 and 150 in a ring."""

    def sent(**options: Any) -> int:
        return communication.weight_bytes_sent(strategy, 800, 200, 4, **options)

    assert (sent(), sent(chunks=3), sent(last=False)) == (one_chunk, three_chunks, not_last)
    assert communication.weight_bytes_sent(strategy, 800, 200, 1) == 0


def test_bytes_of_weights_with_a_copy_on_each_machine() -> None:
    """Rings of two: half of 800 bytes in each of two passes and of 200; 100 of these go to the other copy and back."""
    assert communication.weight_bytes_sent("fsdp2", 800, 200, 4, replicas=2) == 2 * 400 + 100 + 100
