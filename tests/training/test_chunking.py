"""Memory that runs out: the step is done again in smaller chunks, and the run ends as if nothing had happened."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from hf_hybrid.data.batches.packing import pack
from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.training.chunking import Chunking, OutOfMemory, attempt_together, is_out_of_memory
from hf_hybrid.training.trainer import HybridTrainer
from tests.support.toys import toy_corpus, toy_encoder

MESSAGES = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    "numpy": MemoryError("Unable to allocate 8.00 GiB for an array"),
}


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return toy_corpus(num_items=80, negatives=2)


class Failing:
    """A hook that runs out of memory in a step, at the given calls of that step."""

    def __init__(self, *calls: int, step: int = 3, error: Exception = MESSAGES["cuda"]) -> None:
        self.calls, self.step, self.error = calls, step, error
        self.count, self.failed = 0, 0
        self.trainer: HybridTrainer | None = None

    def __call__(self, *_: Any) -> None:
        if self.trainer is None or self.trainer.state.global_step + 1 == self.step:
            self.count += 1
            if self.count in self.calls:
                self.failed += 1
                raise self.error


def train(
    folder: Path, corpus: ParallelCorpus, in_forward: Failing | None = None, in_backward: Failing | None = None,
    **options: Any,
) -> HybridTrainer:  # fmt: skip
    """Ten steps without dropout: other chunks would draw other masks."""
    settings: dict[str, Any] = {"max_steps": 10, "global_batch_size": 12, "logging_steps": 1, "learning_rate": 1e-3}
    settings["save_strategy"] = "no"
    settings |= {"mix": "mono=1,cross=1,pool=1", "energy": "none", "use_cpu": True, "disable_tqdm": True}
    encoder = toy_encoder(corpus)
    for hook in filter(None, [in_forward]):
        encoder.backbone.register_forward_hook(hook)
    for hook in filter(None, [in_backward]):
        encoder.get_input_embeddings().register_full_backward_hook(hook)
    args = HybridTrainingArguments(str(folder), temperature=0.1, **{**settings, **options})
    trainer = HybridTrainer(encoder, args, train_dataset=corpus, cache_dir=folder.parent / "cache")
    for hook in filter(None, [in_forward, in_backward]):
        hook.trainer = trainer
    trainer.train()
    return trainer


def assert_same_end(trainer: HybridTrainer, reference: HybridTrainer) -> None:
    start, total = dict(toy_encoder(reference.train_dataset).named_parameters()), 0.0
    for name, weight in reference.model.named_parameters():
        moved = float((weight - start[name]).norm())
        total += moved
        assert (trainer.model.get_parameter(name) - weight).norm() <= 1e-4 * moved + 1e-6, (
            name
        )  # a key bias moves by rounding alone
    assert total > 0.1, "the weights must have moved for their equality to mean anything"
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (trainer, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class TestRunsThatGoOn:
    @pytest.mark.slow
    @pytest.mark.parametrize("options", [{}, {"chunk_tokens": 100}, {"gradient_checkpointing": True}], ids=str)
    @pytest.mark.parametrize("where", ["in_forward", "in_backward"])
    def test_the_final_weights_are_those_of_an_undisturbed_run(
        self, where: str, options: dict[str, Any], corpus: ParallelCorpus, tmp_path: Path, caplog: Any
    ) -> None:
        """Memory runs out in step 3 of 10, after half of its work."""
        undisturbed = Failing()
        reference = train(tmp_path / "reference", corpus, **{where: undisturbed}, **options)
        assert undisturbed.count > 1 or "chunk_tokens" not in options
        failing = Failing((undisturbed.count + 1) // 2)
        with caplog.at_level(logging.WARNING):
            trainer = train(tmp_path / "disturbed", corpus, **{where: failing}, **options)
        assert failing.failed == 1
        assert_same_end(trainer, reference)
        (message,) = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
        assert message.startswith("retry step=3 chunk_tokens=")
        assert "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)." in message
        tokens = trainer.chunking.max_tokens
        assert f"--chunk_tokens {tokens}." in message
        assert tokens is not None
        assert tokens < options.get("chunk_tokens", 10_000)

    @pytest.mark.slow
    def test_it_may_run_out_more_than_once(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        reference = train(tmp_path / "reference", corpus)
        failing = Failing(1, 3, 6)
        trainer = train(tmp_path / "disturbed", corpus, in_forward=failing)
        assert failing.failed == 3
        assert_same_end(trainer, reference)

    @pytest.mark.slow
    def test_earlier_batches_of_the_optimizer_step_are_kept(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        reference = train(tmp_path / "reference", corpus, gradient_accumulation_steps=3)
        trainer = train(tmp_path / "disturbed", corpus, in_backward=Failing(3), gradient_accumulation_steps=3)
        assert_same_end(trainer, reference)

    @pytest.mark.slow
    def test_the_log_counts_the_batch_once(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        reference = train(tmp_path / "reference", corpus)
        trainer = train(tmp_path / "disturbed", corpus, in_forward=Failing(1))
        for name in ("num_pairs", "tokens", "padding_tokens", "flops"):
            found, expected = (one.resource_log.summary()[name] for one in (trainer, reference))
            assert found == expected, name


class TestRunsThatCannot:
    @pytest.mark.slow
    def test_advice_where_no_chunk_can_be_smaller(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"Set --chunk_tokens to less, \d+ \(the longest text\) at the least"):
            train(tmp_path, corpus, in_forward=Failing(*range(1, 50)))

    def test_other_errors_are_left_as_they_are(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match=r"^shape mismatch$"):
            train(tmp_path, corpus, in_forward=Failing(1, error=RuntimeError("shape mismatch")))


class TestChunking:
    LENGTHS = (np.array([4, 5, 6, 3]), np.array([9]), np.array([1] * 30))

    def test_all_ranks_take_equally_many_chunks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sequences = [[np.arange(length) for length in own] for own in self.LENGTHS]
        chunking, counts = Chunking(9), set()
        for rank, own in enumerate(sequences):
            monkeypatch.setattr("hf_hybrid.utils.distributed.rank", lambda rank=rank: rank)
            chunks = chunking.chunks(pack(own), chunking.bounds(self.LENGTHS))
            counts.add(len(chunks))
            ids = np.concatenate([chunk["input_ids"] for chunk in chunks])
            whole = np.concatenate(own)
            assert np.array_equal(ids[: len(whole)], whole)
            assert len(ids) - len(whole) == (len(chunks) - len(chunking.bounds(self.LENGTHS)[rank])) * len(own[0])
        assert counts == {4}

    def test_halves_down_to_the_longest_text(self) -> None:
        chunking, seen = Chunking(), []
        while (tokens := chunking.shrink(self.LENGTHS)) is not None:
            seen.append(tokens)
            assert all(
                own[first:end].sum() <= tokens
                for own, bounds in zip(self.LENGTHS, chunking.bounds(self.LENGTHS), strict=True)
                for first, end in bounds
            )
        assert seen == [15, 9]

    def test_without_a_bound_all_is_one_chunk(self) -> None:
        assert Chunking().bounds(self.LENGTHS) == [[(0, 4)], [(0, 1)], [(0, 30)]]


@pytest.mark.parametrize("name", MESSAGES)
def test_out_of_memory_is_told_from_other_errors(name: str) -> None:
    assert is_out_of_memory(MESSAGES[name])
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    with pytest.raises(OutOfMemory, match=re.escape(str(MESSAGES[name]))):
        attempt_together(Failing(1, error=MESSAGES[name]))


def _train_rank(rank: int, folder: str, calls: tuple[int, ...], options: dict[str, Any]) -> None:
    """A run in which the second of two processes runs out of memory in step 3."""
    # accelerate asks for an address even where the group is already there, by way of a file
    os.environ.update(ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    failing = Failing(*(calls if rank == 1 else ()))
    trainer = train(Path(folder) / "run", toy_corpus(num_items=80, negatives=2), in_forward=failing, **options)
    assert failing.failed == (rank == 1)
    assert failing.count > 1, "both ranks embed the batch again"
    torch.save(trainer.model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize(("options", "call"), [({}, 1), ({"chunk_tokens": 80}, 3)], ids=str)
def test_all_ranks_do_a_step_again_where_one_ran_out(
    options: dict[str, Any], call: int, corpus: ParallelCorpus, tmp_path: Path
) -> None:
    reference = train(tmp_path / "reference", corpus)
    mp.spawn(_train_rank, args=(str(tmp_path), (call,), options), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    start = toy_encoder(corpus).state_dict()
    for name, weight in reference.model.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        assert (first[name] - weight).norm() <= 1e-4 * (weight - start[name]).norm() + 1e-6, name


def _attempt(rank: int, file: str, work: Callable[[int], Any]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    with pytest.raises(OutOfMemory, match="CUDA out of memory" if rank == 1 else "another process"):
        attempt_together(lambda: work(rank))
    assert attempt_together(lambda: rank) == rank
    torch.distributed.destroy_process_group()
    Path(f"{file}.{rank}").touch()


def _second_fails(rank: int) -> None:
    if rank == 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.distributed
def test_all_ranks_learn_that_one_ran_out(tmp_path: Path) -> None:
    mp.spawn(_attempt, args=(str(tmp_path / "meet"), _second_fails), nprocs=2)
    assert {path.suffix for path in tmp_path.glob("meet.*")} == {".0", ".1"}, "each rank finished"
