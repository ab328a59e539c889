"""Batches that do not fit: how they are cut into chunks, and what is done when memory runs out all the same.

Memory that runs out is told from other errors, and all ranks learn of it while they can still turn back together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size

from . import distributed, packing

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
