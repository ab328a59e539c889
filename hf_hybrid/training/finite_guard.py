"""Keep the weights free of values that are not finite, and warn of a loss or embeddings that look wrong.

1. A loss that is not finite makes the gradient NaN, on every rank, since gradients are summed (`mark_not_finite`).
2. A step whose gradient is not finite does not change weights and optimizer. On a GPU the fused optimizers skip it
   (`found_inf`), and the host reads the norm later, without waiting. Elsewhere the host checks the norm and sets the
   gradients to None, which every optimizer skips. DeepSpeed skips such steps itself.
3. A file describes each such step with its batch. After a set number in a row training stops.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_hybrid.records.events import event
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.schema import NOT_FINITE_NAME
from hf_hybrid.utils import distributed

_CONSTANT_LINES = 10
_COLLAPSED = 0.99  # mean cosine of two texts; of untrained and of well trained encoders it is well below


def mark_not_finite(loss: torch.Tensor) -> torch.Tensor:
    """Return the same loss, but with a NaN gradient if the loss is not finite."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


class _Pending(NamedTuple):
    step: int
    norm: torch.Tensor  # on the host, once `is_ready()`
    is_ready: Callable[[], bool]


class FiniteGuard:
    """Keeps gradients that are not finite away from the weights.

    Args:
        folder (`Path`): The run folder.
        limit (`int`): Number of such steps in a row that ends the run.
        describe (`Callable[[int], dict]`): Returns the content of a step's batches, for the file about it.
    """

    def __init__(self, folder: Path, limit: int, describe: Callable[[int], dict[str, Any]]) -> None:
        self.outputs, self.limit, self._describe = OutputFolder(folder), limit, describe
        self._pending: deque[_Pending] = deque()
        self._in_a_row = 0

    def check(self, step: int, norm: Any, model: nn.Module, optimizer: Any, skips: bool) -> None:
        """Check the gradient of a step before the optimizer uses it.

        Args:
            step (`int`): From 1 on.
            norm (`torch.Tensor` or `float`): Norm of the gradient, the same on all ranks.
            model (`nn.Module`): The model with the gradients.
            optimizer (`Any`): Torch's own, not accelerate's wrapper.
            skips (`bool`): Whether DeepSpeed or a gradient scaler already skips such a step.

        Raises:
            FloatingPointError: After `limit` such steps in a row. The message names the file.
        """
        norm = getattr(norm, "full_tensor", lambda: norm)()
        if not skips and _skips_by_itself(optimizer, norm):
            optimizer.found_inf, optimizer.grad_scale = (~torch.isfinite(norm)).float(), None
            host = torch.empty((), dtype=norm.dtype, pin_memory=True)
            host.copy_(norm.detach(), non_blocking=True)
            done = torch.cuda.Event()
            done.record()
            self._pending.append(_Pending(step, host, done.query))
        else:
            finite = math.isfinite(float(norm)) if norm is not None else True
            if not finite and not skips:
                for weight in model.parameters():
                    weight.grad = None
            self._count(step, finite, norm)
        while self._pending and self._pending[0].is_ready():
            self._count_oldest()

    def settle(self) -> None:
        """Wait for the norms that the device still copies, and count them. Call it at the end of training."""
        if self._pending:
            torch.cuda.synchronize()
        while self._pending:
            self._count_oldest()

    def _count_oldest(self) -> None:
        step, norm, _ = self._pending.popleft()
        self._count(step, math.isfinite(float(norm)), norm)

    def _count(self, step: int, finite: bool, norm: Any) -> None:
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if finite:
            return
        name = f"{NOT_FINITE_NAME}/step-{step:07}.json"
        path = self.outputs.path / name
        if distributed.rank() == 0:
            content = {"step": step, "gradient_norm": str(float(norm)), **self._describe(step)}
            with self.outputs.writing(name) as unfinished:
                unfinished.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            event(
                "skipped_step",
                logging.WARNING,
                step=step,
                reason="loss or gradient not finite",
                in_a_row=self._in_a_row,
                file=path,
            )
        if self._in_a_row >= self.limit:
            raise FloatingPointError(
                f"Loss or gradient was not finite in {self._in_a_row} steps in a row, up to step {step} ({path} names "
                "its batch). These steps did not change the weights. Lower the learning rate, raise the temperature, "
                "train in bf16 instead of fp16, or raise max_nonfinite_steps."
            )


def _skips_by_itself(optimizer: Any, norm: Any) -> bool:
    """Return whether this is a fused optimizer on a GPU, which reads `found_inf`: the host does not wait for it."""
    is_on_gpu = isinstance(norm, torch.Tensor) and norm.device.type == "cuda"
    is_fused = hasattr(optimizer, "param_groups") and all(group.get("fused") for group in optimizer.param_groups)
    return is_on_gpu and is_fused and getattr(optimizer, "_step_supports_amp_scaling", False)


class HealthCheck(TrainerCallback):
    """Warns once of a loss that does not change, and once of embeddings that all point one way."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_CONSTANT_LINES)
        self._warned: set[str] = set()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self._losses.append(logs["loss"])
        spread = max(self._losses) - min(self._losses)
        if len(self._losses) == _CONSTANT_LINES and spread <= 1e-6 * abs(logs["loss"]):
            self._warn("loss", f"the loss has been {logs['loss']:.6g} in {_CONSTANT_LINES} lines of the log", state)
        if logs.get("mean_cosine", 0.0) > _COLLAPSED:
            words = f"two texts of a batch have a cosine of {logs['mean_cosine']:.4f} on average: embeddings collapse"
            self._warn("mean_cosine", words, state)

    def _warn(self, about: str, words: str, state: TrainerState) -> None:
        if about not in self._warned:
            self._warned.add(about)
            event("warning", logging.WARNING, step=state.global_step, problem=words)
