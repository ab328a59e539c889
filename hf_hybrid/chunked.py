"""A `transformers.Trainer` whose step may be done in chunks, and again in smaller ones where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn
from transformers import Trainer

from . import gradcache
from .events import event
from .guard import mark_not_finite
from .memory import Chunking, OutOfMemory, attempt_together, is_out_of_memory

if TYPE_CHECKING:
    from .collator import HybridInputs


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
