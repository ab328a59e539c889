"""Dropout that does not hold up a CPU.

torch draws a Bernoulli number for each element with a generator that takes most of the time of a dropout there. Four
16-bit numbers cut from each 64-bit one of a faster generator are as good: an element is dropped where its number is
below `p * 2^16`, rounded, and what is left is divided by just the share that is kept, so the mean stays what it was.
The seed comes from torch's generator, so anyone who sets that back gets the same elements.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

_LEVELS = 2**16


def dropout(tensor: torch.Tensor, p: float) -> torch.Tensor:
    """Zeros in place of a share `p` of the elements, the others scaled up; torch's own off the CPU.

    Args:
        tensor (`torch.Tensor`): Of any floating type.
        p (`float`): From 0 to 1; rounded to a multiple of 2^-16 on a CPU.

    Example:

        >>> torch.manual_seed(0) and sorted(set(dropout(torch.ones(100), 0.5).tolist()))
        [0.0, 2.0]
    """
    dropped = round(p * _LEVELS)
    if tensor.device.type != "cpu" or not 0 < dropped < _LEVELS or torch.compiler.is_compiling():
        return nn.functional.dropout(tensor, p)
    count = tensor.numel()
    drawn = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw(math.ceil(count / 4))
    numbers = torch.from_numpy(drawn.view(np.int16))[:count].view(tensor.shape)
    # Written as 0 and 1 of the tensor's type at once: a comparison and a cast would take twice the time.
    keep = torch.ge(numbers, dropped - _LEVELS // 2, out=tensor.new_empty(tensor.shape))
    return tensor * keep.mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return dropout(input, self.p) if self.training and self.p else input


def replace_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of every `nn.Dropout` of a model."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
