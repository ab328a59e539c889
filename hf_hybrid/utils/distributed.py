"""The few collectives that training and evaluation need; on one process each returns its input.

Nothing here loads torch: where it is not loaded there is no process group.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PATIENCE = timedelta(hours=12)  # an upload may take long
RESUME_ME = 75  # exit status EX_TEMPFAIL of sysexits.h: start the same command again


def _dist() -> Any:
    """`torch.distributed`, where this process has joined a group; else None."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def rank() -> int:
    """Number of this process, 0 where nothing is distributed."""
    return dist.get_rank() if (dist := _dist()) else 0


def world_size() -> int:
    """Number of processes, 1 where nothing is distributed."""
    return dist.get_world_size() if (dist := _dist()) else 1


def local_rank() -> int:
    """Number of this process on its machine: the first writes files that the others there read."""
    return int(os.environ.get("LOCAL_RANK", rank())) if world_size() > 1 else 0


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of all ranks' tensors, of one shape, without gradient; in place."""
    if world_size() > 1:
        _dist().all_reduce(tensor)
    return tensor


def device() -> torch.device:
    """Return the device for tensors of a collective: NCCL needs a GPU."""
    import torch

    on_gpu = world_size() > 1 and _dist().get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def any_rank(here: bool) -> bool:
    """Return whether something holds on any rank. The hosts communicate, so that nobody waits for a device."""
    if world_size() == 1:
        return here
    import torch

    found = torch.tensor([int(here)])
    _dist().all_reduce(found, op=_dist().ReduceOp.MAX, group=_host_group())
    return bool(found)


@lru_cache
def _host_group() -> Any:
    return None if _dist().get_backend() == "gloo" else _dist().new_group(backend="gloo")


@contextmanager
def others_wait() -> Iterator[None]:
    """While the first process does what takes long the others stay, for hours if need be, and no device waits.

    Those that left would have NCCL end the first one too. What it raises ends their waiting.
    """
    group = _dist().new_group(backend="gloo", timeout=_PATIENCE) if world_size() > 1 else None
    try:
        yield
    finally:
        if group is not None:
            _dist().barrier(group)
            _dist().destroy_process_group(group)


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        _dist().barrier()


def leave_at_exit() -> None:
    """Destroy the process group at exit.

    Threads that wait for messages may end with an abort where the process is taken down under them.
    """
    atexit.register(lambda: dist.destroy_process_group() if (dist := _dist()) else None)


def from_first(value: Any) -> Any:
    """Return the value of the first process, on all processes."""
    if world_size() == 1:
        return value
    values = [value]
    _dist().broadcast_object_list(values)
    return values[0]


def from_all(value: Any) -> list[Any]:
    """Return the values of all processes by rank, on all processes."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    _dist().all_gather_object(values, value)
    return values


def to_first(value: Any) -> list[Any]:
    """Return the values of all processes by rank, on the first; an empty list on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    _dist().gather_object(value, values)
    return values or []
