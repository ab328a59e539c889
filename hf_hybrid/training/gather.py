"""Gather embeddings of all ranks with their gradients, and count what that sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from hf_hybrid.utils.distributed import rank, world_size

_embedding_bytes = 0  # since `take_embedding_bytes` was last called


class _GatherRows(torch.autograd.Function):
    """All-gather of row blocks of unequal height; backward sums over ranks what each says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows_ND: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
        ctx.counts = counts
        padded = _padded(rows_ND, max(counts))
        blocks = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(blocks, padded)
        _count_sent(padded)
        return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad_GD = grad_outputs[0]
        blocks = [_padded(part, max(ctx.counts)) for part in grad_GD.split(ctx.counts)]
        own = torch.empty_like(blocks[0])
        dist.reduce_scatter(own, blocks)
        _count_sent(own)
        return own[: ctx.counts[rank()]], None


def _padded(rows_ND: torch.Tensor, height: int) -> torch.Tensor:
    """The rows, and zeros below them; a tensor of its own, as collectives need it."""
    padded = rows_ND.new_zeros(height, *rows_ND.shape[1:])
    padded[: len(rows_ND)] = rows_ND
    return padded


def _count_sent(block: torch.Tensor) -> None:
    """A ring, as NCCL makes one, passes each rank's block by every other rank."""
    global _embedding_bytes
    _embedding_bytes += (world_size() - 1) * block.numel() * block.element_size()


def take_embedding_bytes() -> int:
    """What this process sent of embeddings and their gradients since it was last asked, in bytes, padding included."""
    global _embedding_bytes
    taken, _embedding_bytes = _embedding_bytes, 0
    return taken


def gather_rows(rows_ND: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Rows of all ranks, rank after rank, with gradient.

    Args:
        rows_ND (`torch.Tensor` of shape `(N, D)`): This rank's rows; N may differ between ranks and be 0.
        counts (`Sequence[int]`): N of each rank.

    Returns:
        `torch.Tensor` of shape `(sum(counts), D)`.
    """
    if world_size() == 1:
        return rows_ND
    return _GatherRows.apply(rows_ND, tuple(counts))
