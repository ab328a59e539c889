"""The few collectives that training and evaluation need; on one process each returns its input.

Between processes go embeddings and their gradients, which are counted here, and what the wrapper of the model (DDP,
FSDP, DeepSpeed) sends of weights and their gradients, which `weight_bytes_sent` computes; texts and tokens never do.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist

WEIGHT_BYTES_FORMULA = (
    "of a rank, for a batch in n chunks, in a ring: (W - 1) / W times "
    "DDP: 2g at the last batch of a step; ZeRO 1: 3g at the last; ZeRO 2: 2gn, and g at the last; "
    "ZeRO 3: w + g, in several chunks 3wn + gn; FSDP2: 2w, in several chunks 3wn, and g at the last; "
    "W processes, w bytes of weights, g bytes of gradients"
)
_PATIENCE = timedelta(hours=12)  # an upload may take long
_embedding_bytes = 0  # since `take_embedding_bytes` was last called


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
    global _embedding_bytes
    _embedding_bytes += (world_size() - 1) * block.numel() * block.element_size()


def take_embedding_bytes() -> int:
    """What this process sent of embeddings and their gradients since it was last asked, in bytes, padding included."""
    global _embedding_bytes
    taken, _embedding_bytes = _embedding_bytes, 0
    return taken


def weight_bytes_sent(
    strategy: str,
    weight_bytes: int,
    gradient_bytes: int,
    world_size: int,
    *,
    chunks: int = 1,
    last: bool = True,
    replicas: int = 1,
) -> int:
    """What one process sends of weights and gradients for one batch: a formula, as no one counts it.

    In a ring of W processes each sends (W - 1) / W of the bytes in an all-gather or a reduce-scatter, and twice that
    in an all-reduce (Patarasuk and Yuan 2009).  With n chunks, an encoder goes forward once and back once where n is
    1, and 2n times forward and n times back where it is more.  As torch 2.13, accelerate 1.15 and DeepSpeed 0.19 do:

    - `ddp`: gradients are all-reduced, once a step.
    - `zero1`: the same, and the updated weights are all-gathered.
    - `zero2`: gradients are all-reduced in every backward pass (by default whole buckets are, not reduce-scattered:
      `use_multi_rank_bucket_allreduce`), and the updated weights are all-gathered once a step.
    - `zero3`: gradients are reduce-scattered in every backward pass.  Weights are all-gathered in every pass of
      several chunks, and once for a batch in one chunk: they stay until the backward pass, being fewer than
      `stage3_max_reuse_distance`.  The first steps, when DeepSpeed learns the order of the layers, gather more.
    - `fsdp2`: weights are all-gathered in every pass (with `fsdp_reshard_after_forward`), gradients are
      reduce-scattered once a step.  With R replicas, rings are those of a replica's W / R processes, and the gradients
      of a process's share are all-reduced between the replicas.

    Small messages (norms, flags), the start of a run, checkpoints and evaluation are left out, and that some small
    weights are gathered less often.

    Args:
        strategy (`str`): One of the above.
        weight_bytes (`int`): Of all weights, in the precision in which they are sent: as they are, but with mixed
            precision FSDP2 and DeepSpeed send 2 bytes each, of weights and of gradients.
        gradient_bytes (`int`): Of the gradients of weights that are trained.
        world_size (`int`): Number of processes.
        chunks (`int`, *optional*, defaults to 1): Parts in which the batch is encoded.
        last (`bool`, *optional*, defaults to `True`): Whether it is the last batch of an optimizer step.
        replicas (`int`, *optional*, defaults to 1): Copies of the model that FSDP2 keeps.

    Returns:
        `int`: Bytes.

    Example:

        >>> weight_bytes_sent("ddp", 1000, 1000, world_size=4)
        1500
        >>> weight_bytes_sent("fsdp2", 1000, 1000, world_size=4, chunks=2)
        5250
    """
    several, ring = chunks > 1, world_size // replicas
    copies = {
        "ddp": 2 * last * gradient_bytes,
        "zero1": 3 * last * gradient_bytes,
        "zero2": (2 * chunks + last) * gradient_bytes,
        "zero3": (3 * chunks if several else 1) * weight_bytes + chunks * gradient_bytes,
        "fsdp2": (3 * chunks if several else 2) * weight_bytes + last * gradient_bytes,
    }
    between = 2 * last * gradient_bytes * (replicas - 1) / replicas / ring
    return round(copies[strategy] * (ring - 1) / ring + between)


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


@contextmanager
def others_wait() -> Iterator[None]:
    """While the first process does what takes long the others stay, for hours if need be, and no device waits.

    Those that left would have NCCL end the first one too.  What it raises ends their waiting.
    """
    group = dist.new_group(backend="gloo", timeout=_PATIENCE) if world_size() > 1 else None
    try:
        yield
    finally:
        if group is not None:
            dist.barrier(group)
            dist.destroy_process_group(group)


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def leave_at_exit() -> None:
    """Take leave of the other processes when this one ends, all being well.

    Threads that wait for messages may end with an abort where the process is taken down under them.
    """
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


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
