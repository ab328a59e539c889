"""The gradient of one batch: in one pass, or in chunks where it does not fit in memory.

All ranks learn that memory ran out on one of them while they can still repeat the batch together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn

from hf_hybrid.data.batches import packing
from hf_hybrid.records.events import event
from hf_hybrid.utils import distributed

from . import gradcache

Result = TypeVar("Result")


class OutOfMemory(RuntimeError, MemoryError):
    """Raised on all ranks, at the same place, when one of them runs out of memory."""


def attempt_together(work: Callable[[], Result]) -> Result:
    """Run `work` on every rank and return its result, unless a rank runs out of memory.

    Args:
        work (`Callable`): Work without collective operations.

    Raises:
        OutOfMemory: On all ranks, when one of them runs out of memory.

    Example:

        >>> attempt_together(lambda: 1 + 1)
        2
    """
    problem = ""
    try:
        result = work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = str(error)  # not the error: its traceback keeps the tensors alive
    if distributed.any_rank(bool(problem)):
        raise OutOfMemory(problem or "another process ran out of memory")
    return result


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that the host or the device has no memory left."""
    types = (MemoryError, OutOfMemory, torch.OutOfMemoryError)
    return isinstance(error, types) or should_reduce_batch_size(error)


class Chunking:
    """Cuts a batch into chunks of a bounded number of tokens, the same number of chunks on all ranks.

    Args:
        max_tokens (`int`, *optional*): Most tokens of a chunk. By default the whole batch is one chunk until it does
            not fit.

    Example:

        >>> chunking = Chunking(max_tokens=10)
        >>> lengths = [np.array([4, 5, 6]), np.array([7])]  # of the sequences of two ranks
        >>> chunking.bounds(lengths)
        [[(0, 2), (2, 3)], [(0, 1)]]
        >>> chunking.shrink(lengths), chunking.bounds(lengths)[0]
        (7, [(0, 1), (1, 2), (2, 3)])
    """

    def __init__(self, max_tokens: int | None = None) -> None:
        self.max_tokens = max_tokens

    def bounds(self, lengths: Sequence[np.ndarray]) -> list[list[tuple[int, int]]]:
        """Return the first sequence and the end of each chunk, for each rank."""
        return [packing.cut_by_tokens(own, self.max_tokens or int(own.sum())) for own in lengths]

    def chunks(self, packed: dict[str, Any], bounds: Sequence[list[tuple[int, int]]]) -> list[dict[str, Any]]:
        """Cut this rank's packed sequences at `bounds`, those of all ranks.

        All ranks must run equally many forward passes. A rank with fewer chunks repeats its first sequence; the caller
        ignores these embeddings, which come after all others.
        """
        own = bounds[distributed.rank()]
        missing = max(map(len, bounds)) - len(own)
        return [packing.part(packed, first, end) for first, end in own + [(0, 1)] * missing]

    def shrink(self, lengths: Sequence[np.ndarray]) -> int | None:
        """Halve the largest chunk, but not below the longest sequence.

        Returns:
            `int`, *optional*: The new number of tokens; `None` if no chunk can be smaller.
        """
        ranks = zip(lengths, self.bounds(lengths), strict=True)
        largest = max(int(own[first:end].sum()) for own, bounds in ranks for first, end in bounds)
        longest = max(int(own.max()) for own in lengths)
        if largest <= longest:
            return None
        self.max_tokens = max(largest // 2, longest)
        return self.max_tokens

    def advice(self, lengths: Sequence[np.ndarray]) -> str:
        """Say what a user can do when smaller chunks do not help."""
        tokens, longest = (max(int(take(own)) for own in lengths) for take in (np.sum, np.max))
        return (
            f"Out of memory with {min(self.max_tokens or tokens, tokens)} tokens in one pass of a process. Set "
            f"--chunk_tokens to less, {longest} (the longest text) at the least; shorten texts with "
            "--max_passage_length; or add --gradient_checkpointing true. global_batch_size need not change."
        )


class ChunkedBackward:
    """Computes the gradients of batches by GradCache: the loss over all embeddings, the encoder one chunk at a time.

    Args:
        accelerator (`Accelerator`): The accelerator of the trainer.
        chunking (`Chunking`): How batches are cut; it shrinks when memory runs out.
    """

    def __init__(self, accelerator: Accelerator, chunking: Chunking) -> None:
        self.accelerator, self.chunking = accelerator, chunking
        self._with_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        self._with_fsdp = accelerator.distributed_type == DistributedType.FSDP

    @property
    def is_sharded(self) -> bool:
        """Whether ranks hold shards of the model and communicate in every layer."""
        return self._with_deepspeed or self._with_fsdp

    def run(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        loss: Callable[[torch.Tensor], torch.Tensor],
        num_batches: int,
        step: int,
    ) -> tuple[torch.Tensor, list[list[tuple[int, int]]]]:
        """Add the gradients of a batch to the weights, again in smaller chunks if memory runs out.

        Args:
            model (`nn.Module`): The wrapped encoder.
            inputs (`Mapping`): The batch: `tokens`, this rank's packed sequences, and `lengths`, those of all ranks.
            loss (`Callable`): Computes this rank's loss from all its embeddings `(N, D)`.
            num_batches (`int`): Batches of this optimizer step; gradients are averaged over them.
            step (`int`): Number of the optimizer step, for the event log.

        Returns:
            `torch.Tensor`: The loss of this rank's shard, without gradient.
            `list[list[tuple[int, int]]]`: The chunks that fit, of all ranks; see `Chunking.bounds`.

        Raises:
            OutOfMemory: When no smaller chunk can help, or another rank already waits for this one. The message says
                what to set.
        """
        restore = self._restore_point(model, num_batches)
        while True:
            bounds = self.chunking.bounds(inputs["lengths"])
            try:
                return self._add_gradients(model, inputs["tokens"], bounds, loss, num_batches), bounds
            except OutOfMemory as error:
                problem = str(error)  # not the error: its traceback keeps the tensors alive
            except Exception as error:
                if is_out_of_memory(error):
                    raise OutOfMemory(f"{error}\n{self.chunking.advice(inputs['lengths'])}") from error
                raise
            self._shrink_chunks(inputs, problem, step)
            restore()

    def _add_gradients(
        self,
        model: nn.Module,
        tokens: dict[str, Any],
        bounds: list[list[tuple[int, int]]],
        loss: Callable[[torch.Tensor], torch.Tensor],
        num_batches: int,
    ) -> torch.Tensor:
        options = {"scale_wrt_gas": False} if self._with_deepspeed else {}
        run = partial(
            gradcache.backward_in_chunks,
            self.chunking.chunks(tokens, bounds),
            lambda chunk: model(**chunk),
            loss,
            backward=lambda value: self.accelerator.backward(value / num_batches, **options),
            without_exchange=partial(self._without_exchange, model),
            device=self.accelerator.device,
        )
        if self.is_sharded:  # ranks communicate inside the model: a rank that fails there cannot tell the others
            return run()
        return attempt_together(run) if self.accelerator.num_processes == 1 else run(attempt=attempt_together)

    @contextmanager
    def _without_exchange(self, model: Any) -> Iterator[None]:
        """Keep gradients on their rank; the next backward pass outside of this context exchanges them."""
        state = self.accelerator.gradient_state
        exchanges = state.sync_gradients
        state._set_sync_gradients(False)  # DeepSpeed reads this
        try:
            if self._with_deepspeed:
                yield
            else:
                with self.accelerator.no_sync(model):
                    yield
        finally:
            state._set_sync_gradients(exchanges)
            if self._with_fsdp and not exchanges:  # accelerate turns it on, whatever it was before
                model.set_requires_gradient_sync(False)

    def _restore_point(self, model: nn.Module, num_batches: int) -> Callable[[], None]:
        """Return a function that rolls back a partial batch: gradients and random state."""
        device = self.accelerator.device
        reducer = getattr(model, "reducer", None)
        state = gradcache.random_state(device)
        earlier = {}  # gradients of earlier batches of this optimizer step
        if num_batches > 1 and not self.is_sharded:
            earlier = {weight: weight.grad.clone() for weight in model.parameters() if weight.grad is not None}

        def restore() -> None:
            if reducer is not None:  # DDP still waits for the backward pass of the abandoned forward pass
                reducer._reset_state()
            for weight in model.parameters():
                weight.grad = earlier.get(weight)
            clear_device_cache(garbage_collection=True)
            gradcache.set_random_state(state, device)

        return restore

    def _shrink_chunks(self, inputs: Mapping[str, Any], problem: str, step: int) -> None:
        if (tokens := self.chunking.shrink(inputs["lengths"])) is None:
            raise OutOfMemory(f"{problem}\n{self.chunking.advice(inputs['lengths'])}")
        event(
            "retry",
            logging.WARNING,
            step=step,
            chunk_tokens=tokens,
            reason=f"out of memory ({problem}). This step is repeated, and later steps run, in chunks of at most "
            f"{tokens} tokens: slower, with the same loss. Start the next run with --chunk_tokens {tokens}.",
        )
