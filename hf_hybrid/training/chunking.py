"""Batches that do not fit: how they are cut into chunks, and what is done when memory runs out all the same.

Memory that runs out is told from other errors, and all ranks learn of it while they can still turn back together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import nn
from transformers import Trainer

from hf_hybrid.data.batches import packing
from hf_hybrid.records.events import event
from hf_hybrid.utils import distributed

from . import gradcache
from .finite_guard import mark_not_finite

if TYPE_CHECKING:
    from hf_hybrid.data.batches.collator import HybridInputs

Result = TypeVar("Result")


class OutOfMemory(RuntimeError, MemoryError):
    """This rank or another ran out of memory; all ranks raise it at the same place."""


def attempt_together(work: Callable[[], Result]) -> Result:
    """The result of what each rank does for itself, where no rank ran out of memory in it.

    Args:
        work (`Callable`): Without collective operations.

    Raises:
        OutOfMemory: On all ranks, when one ran out of memory.

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
        problem = str(error)  # not the error itself: its traceback holds the tensors that must go
    if distributed.any_rank(bool(problem)):
        raise OutOfMemory(problem or "another process ran out of memory")
    return result


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the host or the device has no memory left."""
    kinds = (MemoryError, OutOfMemory, torch.OutOfMemoryError)
    return isinstance(error, kinds) or should_reduce_batch_size(error)


class Chunking:
    """Cuts a batch into chunks of a bounded number of tokens, equally many on all ranks.

    Args:
        max_tokens (`int`, *optional*): Most tokens of a chunk; by default all are one chunk, until that does not fit.

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
        """First sequence and end of each chunk, for each rank."""
        return [packing.cut(own, self.max_tokens or int(own.sum())) for own in lengths]

    def chunks(self, packed: dict[str, Any], lengths: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """This rank's packed sequences in chunks.

        Ranks go forward and back equally often: where this one has fewer chunks, its first sequence fills up, and its
        further embeddings, after all others, are to be left out.
        """
        bounds = self.bounds(lengths)
        own = bounds[distributed.rank()]
        missing = max(map(len, bounds)) - len(own)
        return [packing.part(packed, first, end) for first, end in own + [(0, 1)] * missing]

    def shrink(self, lengths: Sequence[np.ndarray]) -> int | None:
        """Halve the largest chunk, down to the longest sequence.

        Returns:
            `int`, *optional*: The new number of tokens; None where no chunk can be smaller.
        """
        ranks = zip(lengths, self.bounds(lengths), strict=True)
        largest = max(int(own[first:end].sum()) for own, bounds in ranks for first, end in bounds)
        longest = max(int(own.max()) for own in lengths)
        if largest <= longest:
            return None
        self.max_tokens = max(largest // 2, longest)
        return self.max_tokens

    def advice(self, lengths: Sequence[np.ndarray]) -> str:
        """What a user can do where memory ran out for good."""
        tokens, longest = (max(int(take(own)) for own in lengths) for take in (np.sum, np.max))
        return (
            f"Out of memory with {min(self.max_tokens or tokens, tokens)} tokens in one pass of a process. Set "
            f"--chunk_tokens to less, {longest} (the longest text) at the least; shorten texts with "
            "--max_passage_length; or add --gradient_checkpointing true. global_batch_size need not change."
        )


class ChunkedTrainer(Trainer):
    """Gradients of a batch by GradCache: the loss of all embeddings at once, the encoder one chunk after the other.

    The batches are `HybridInputs`, and `compute_loss` is called with something that gives all embeddings of a batch.
    """

    chunking: Chunking

    def record_batch(self, inputs: HybridInputs) -> None:
        """Called once for each batch that has been gone through."""

    @property
    def _is_sharded(self) -> bool:
        """Whether ranks hold parts of the model, and meet in each layer."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: HybridInputs, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Add the gradients of a batch; where memory runs out, once more in smaller chunks.

        Args:
            model (`nn.Module`): The wrapped encoder.
            inputs (`HybridInputs`): This rank's share of the batch.
            num_items_in_batch (`int`, *optional*): Not used.

        Returns:
            `torch.Tensor`: The loss of this rank's share, without gradient.

        Raises:
            OutOfMemory: When memory runs out and no smaller chunk can help, or another rank already waits for this
                one; the message says what to set.
        """
        model.train()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "train", None)):  # a schedule-free one
            optimizer.train()
        inputs = self._prepare_input(inputs)
        restore = self._restore_point(model)
        while True:
            try:
                loss = self._add_gradients(model, inputs)
                break
            except OutOfMemory as error:
                problem = str(error)  # not the error: its traceback holds the tensors that must go
            except Exception as error:
                if is_out_of_memory(error):
                    raise OutOfMemory(f"{error}\n{self.chunking.advice(inputs['lengths'])}") from error
                raise
            self._take_smaller_chunks(inputs, problem)
            restore()
        self.record_batch(inputs)
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:
            clear_device_cache()
        return loss / self.current_gradient_accumulation_steps

    def _add_gradients(self, model: nn.Module, inputs: HybridInputs) -> torch.Tensor:
        chunks = self.chunking.chunks(inputs["tokens"], inputs["lengths"])
        scale, compute_loss = self.current_gradient_accumulation_steps, cast(Any, self.compute_loss)
        options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}

        def loss(embeddings: torch.Tensor) -> torch.Tensor:
            return mark_not_finite(compute_loss(lambda **_: embeddings, inputs))

        step = partial(
            gradcache.backward_in_chunks,
            chunks,
            lambda tokens: model(**tokens),
            loss,
            backward=lambda value: self.accelerator.backward(value / scale, **options),
            without_exchange=partial(self._without_exchange, model),
            device=self.args.device,
        )
        if self._is_sharded:  # ranks meet inside the model: one that fails there cannot tell the others
            return step()
        return attempt_together(step) if self.args.world_size == 1 else step(attempt=attempt_together)

    @contextmanager
    def _without_exchange(self, model: Any) -> Iterator[None]:
        """Forward and backward passes in it leave gradients on their rank, to be exchanged with those that follow."""
        state = self.accelerator.gradient_state
        exchanges = state.sync_gradients
        state._set_sync_gradients(False)  # what DeepSpeed goes by
        try:
            if self.is_deepspeed_enabled:
                yield
            else:
                with self.accelerator.no_sync(model):
                    yield
        finally:
            state._set_sync_gradients(exchanges)
            if self.is_fsdp_enabled and not exchanges:  # accelerate turns it on again, whatever it was
                model.set_requires_gradient_sync(False)

    def _restore_point(self, model: nn.Module) -> Callable[[], None]:
        """What undoes a step that did not come to its end."""
        encoder, device = self.accelerator.unwrap_model(self.model), self.args.device
        reducer = getattr(model, "reducer", None)
        state, padding_tokens = gradcache.random_state(device), encoder.padding_tokens
        earlier = {}  # gradients of earlier batches of this optimizer step
        if self.current_gradient_accumulation_steps > 1 and not self._is_sharded:
            earlier = {weight: weight.grad.clone() for weight in model.parameters() if weight.grad is not None}

        def restore() -> None:
            if reducer is not None:  # DDP still waits for the backward pass of the forward pass that was given up
                reducer._reset_state()
            for weight in model.parameters():
                weight.grad = earlier.get(weight)
            clear_device_cache(garbage_collection=True)
            gradcache.set_random_state(state, device)
            encoder.padding_tokens = padding_tokens

        return restore

    def _take_smaller_chunks(self, inputs: HybridInputs, problem: str) -> None:
        if (tokens := self.chunking.shrink(inputs["lengths"])) is None:
            raise OutOfMemory(f"{problem}\n{self.chunking.advice(inputs['lengths'])}")
        event(
            "retry",
            logging.WARNING,
            step=self.state.global_step + 1,
            chunk_tokens=tokens,
            reason=f"out of memory ({problem}). This step is done again, and the later ones are done, in chunks of at "
            f"most {tokens} tokens: slower, with the same loss. A run with --chunk_tokens {tokens} begins with that.",
        )

    def _prepare_input(self, data: Any) -> Any:
        """Copies from pinned memory go on while the host does other work."""
        return data.to(self.args.device, non_blocking=True) if torch.is_tensor(data) else super()._prepare_input(data)
