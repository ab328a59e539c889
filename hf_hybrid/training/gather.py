"""Gather embeddings of all ranks with their gradients, and count the bytes that this sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from hf_hybrid.utils.distributed import rank, world_size


class _GatherRows(torch.autograd.Function):
    """All-gather row blocks of unequal height; the backward pass sums the gradients of this rank's rows over ranks."""

    @staticmethod
    def forward(ctx: Any, rows_ND: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
        ctx.counts = counts
        padded = _pad_rows(rows_ND, max(counts))
        blocks = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(blocks, padded)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad_GD = grad_outputs[0]
        blocks = [_pad_rows(part, max(ctx.counts)) for part in grad_GD.split(ctx.counts)]
        own = torch.empty_like(blocks[0])
        dist.reduce_scatter(own, blocks)
        return own[: ctx.counts[rank()]], None


def _pad_rows(rows_ND: torch.Tensor, height: int) -> torch.Tensor:
    """Return a new tensor with zeros below the rows: collectives need equal, contiguous blocks."""
    padded = rows_ND.new_zeros(height, *rows_ND.shape[1:])
    padded[: len(rows_ND)] = rows_ND
    return padded


def gather_rows(rows_ND: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Concatenate the rows of all ranks in rank order, with gradient.

    Args:
        rows_ND (`torch.Tensor` of shape `(N, D)`): Rows of this rank. N may differ between ranks and may be 0.
        counts (`Sequence[int]`): N of each rank.

    Returns:
        `torch.Tensor` of shape `(sum(counts), D)`.
    """
    if world_size() == 1:
        return rows_ND
    return _GatherRows.apply(rows_ND, tuple(counts))


def count_gathered_bytes(counts: Sequence[int], row_bytes: int) -> int:
    """Count the bytes that a rank sends for `gather_rows` and its backward pass, padding included.

    In a ring, as NCCL uses, a rank sends one block to its neighbor for each other rank, once forward and once
    backward.

    Args:
        counts (`Sequence[int]`): Rows of each rank.
        row_bytes (`int`): Bytes of a row.

    Example:

        >>> count_gathered_bytes([2, 0, 3], row_bytes=8)
        96
    """
    return 2 * (len(counts) - 1) * max(counts) * row_bytes
