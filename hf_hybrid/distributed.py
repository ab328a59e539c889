"""The few collectives that training and evaluation need; on one process each returns its input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist

embedding_bytes_sent = 0  # by this process so far, for embeddings and their gradients


def rank() -> int:
    """Number of this process, 0 where nothing is distributed."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def local_rank() -> int:
    """Number of this process on its machine: the first writes files that the others there read."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world_size() > 1 else 0


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
    global embedding_bytes_sent
    embedding_bytes_sent += (world_size() - 1) * block.numel() * block.element_size()


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


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of all ranks' tensors, of one shape, without gradient; in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def device() -> torch.device:
    """Where tensors must be for a collective: NCCL takes those on a GPU alone."""
    on_gpu = world_size() > 1 and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def any_rank(here: bool) -> bool:
    """Whether something is so on any rank. The hosts ask each other: no one waits for a device."""
    if world_size() == 1:
        return here
    found = torch.tensor([int(here)])
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_host_group())
    return bool(found)


@lru_cache
def _host_group() -> dist.ProcessGroup | None:
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def from_first(value: Any) -> Any:
    """What the first process has, on all of them."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def from_all(value: Any) -> list[Any]:
    """What each process has, by rank, on all of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def to_first(value: Any) -> list[Any]:
    """What each process has, by rank, on the first; an empty list on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []
