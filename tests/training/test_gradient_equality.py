"""Gradients of 2 and 4 processes are those of one, for each batch type, with GradCache and without: one table.

`GRADIENT_TABLE=full pytest -s tests/training/test_gradient_equality.py` prints it.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.gradient_runs import BATCH_TYPES, CHUNKS, LEARNING_RATE
from tests.support.recipe_runs import run_recipe, shipped, write_jsonl_corpus, write_model

pytestmark = pytest.mark.distributed
STRATEGIES = {
    "ddp": {"type": "MULTI_CPU", "stage": None},
    "fsdp2": {"type": "FSDP", "stage": 2},
    "deepspeed_zero1": {"type": "DEEPSPEED", "stage": 1},
    "deepspeed_zero2": {"type": "DEEPSPEED", "stage": 2},
    "deepspeed_zero3": {"type": "DEEPSPEED", "stage": 3},
}
# But for DDP `make test` omits the runs on 4 processes, for time: GRADIENT_TABLE=full has them.
RUNS = [
    (name, num_processes)
    for name, num_processes in itertools.product(STRATEGIES, (2, 4))
    if num_processes == 2 or name == "ddp" or "GRADIENT_TABLE" in os.environ
]
CASES = list(itertools.product(BATCH_TYPES, CHUNKS))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("inputs")
    corpus = write_jsonl_corpus(folder / "corpus", num_items=40, missing=0.3)
    return [write_model(folder / "model"), corpus, folder / "cache"]


@pytest.fixture(scope="module")
def one_process(inputs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    run_recipe(*inputs, folder, script="tests/support/gradient_runs.py", launch=shipped("cpu"))
    return folder


def gradients(folder: Path, model: Path) -> torch.Tensor:
    """All weights' gradients, one after the other."""
    before, after = (load_file(path / "model.safetensors") for path in (model, folder / "model"))
    return torch.cat([(before[name] - after[name]).flatten() / LEARNING_RATE for name in sorted(before)])


def facts(folder: Path, batch_type: str, chunks: str) -> dict:
    return json.loads((folder / f"{batch_type}-{chunks}" / "facts.json").read_text())


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_cached_equals_plain_and_batch_types_differ(one_process: Path, inputs: list[Path]) -> None:
    found = {case: gradients(one_process / "-".join(case), inputs[0]) for case in CASES}
    for batch_type in BATCH_TYPES:
        assert found[batch_type, "plain"].norm() > 0.1
        assert difference(found[batch_type, "cached"], found[batch_type, "plain"]) <= 1e-5
        passes = {name: facts(one_process, batch_type, name)["forward_passes"] for name in CHUNKS}
        assert passes["plain"] == 2, "two batches, each in one pass"
        assert passes["cached"] >= 12, "several chunks, each embedded twice"
    for one, other in itertools.combinations(BATCH_TYPES, 2):
        assert difference(found[one, "plain"], found[other, "plain"]) > 0.1


@pytest.mark.parametrize(("name", "num_processes"), RUNS)
def test_gradients_are_those_of_one_process(
    name: str, num_processes: int, one_process: Path, inputs: list[Path], tmp_path: Path
) -> None:
    launch = shipped(name, "--num_processes", str(num_processes))
    run_recipe(*inputs, tmp_path, script="tests/support/gradient_runs.py", launch=launch)
    for batch_type, chunks in CASES:
        expected = gradients(one_process / f"{batch_type}-plain", inputs[0])
        found = difference(gradients(tmp_path / f"{batch_type}-{chunks}", inputs[0]), expected)
        print(f"| {name} | {num_processes} | {chunks} | {batch_type} | {found:.1e} |")
        ran = facts(tmp_path, batch_type, chunks)
        assert (ran["strategy"], ran["world_size"]) == (STRATEGIES[name], num_processes)
        assert ran["sharded"] == (name == "fsdp2")
        assert found <= 1e-5
    for batch_type in BATCH_TYPES:
        plain, cached = (facts(tmp_path, batch_type, chunks) for chunks in CHUNKS)
        assert cached["forward_passes"] > plain["forward_passes"]
        assert cached["exchanges"] == plain["exchanges"], "one exchange of gradients a step"
        assert (plain["exchanges"] > 0) == (name == "ddp")
