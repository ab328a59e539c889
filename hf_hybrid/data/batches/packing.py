"""Sequences of token ids in one row without padding, and that row in parts of a bounded number of tokens.

Shape letters: T tokens, N sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch


def pack(sequences: Sequence[np.ndarray]) -> dict[str, Any]:
    """Join sequences of token ids into one row without padding.

    Args:
        sequences (`Sequence[np.ndarray]`): N integer arrays of token ids, none empty.

    Returns:
        `dict`: `input_ids`, `position_ids` (from 0 in each sequence) and `sequence_ids`, int64 of shape `(T,)`;
        `cu_seqlens`, int32 of shape `(N + 1,)`, where each sequence begins; `lengths`, an array of N integers, which
        stays on the host, so that no one must wait for a device to know a size.

    Example:

        >>> packed = pack([np.array([5, 6, 7]), np.array([8, 9])])
        >>> packed["cu_seqlens"].tolist(), packed["position_ids"].tolist(), packed["lengths"].tolist()
        ([0, 3, 5], [0, 1, 2, 0, 1], [3, 2])
    """
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    ends = np.cumsum(lengths)
    sequence_ids = np.repeat(np.arange(len(lengths)), lengths)
    return {
        "input_ids": torch.from_numpy(np.concatenate(sequences).astype(np.int64)),
        "position_ids": torch.from_numpy(np.arange(ends[-1]) - (ends - lengths)[sequence_ids]),
        "sequence_ids": torch.from_numpy(sequence_ids),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        "lengths": lengths,
    }


def part(packed: dict[str, Any], first: int, end: int) -> dict[str, Any]:
    """Sequences `first` to `end` (not included) of a packed row, as a packed row.

    Example:

        >>> packed = pack([np.array([5, 6, 7]), np.array([8, 9]), np.array([4])])
        >>> part(packed, 1, 3)["input_ids"].tolist(), part(packed, 1, 3)["cu_seqlens"].tolist()
        ([8, 9, 4], [0, 2, 3])
    """
    lengths = packed["lengths"]
    start = int(lengths[:first].sum())
    tokens = slice(start, start + int(lengths[first:end].sum()))
    return {
        "input_ids": packed["input_ids"][tokens],
        "position_ids": packed["position_ids"][tokens],
        "sequence_ids": packed["sequence_ids"][tokens] - first,
        "cu_seqlens": packed["cu_seqlens"][first : end + 1] - start,
        "lengths": lengths[first:end],
        **({"labels": packed["labels"][tokens]} if "labels" in packed else {}),
    }


def cut_by_tokens(lengths: Sequence[int] | np.ndarray, max_tokens: int) -> list[tuple[int, int]]:
    """Bounds of successive parts of at most `max_tokens` tokens; a sequence that is longer makes a part of its own.

    Example:

        >>> cut_by_tokens([3, 9, 4, 2], 10)
        [(0, 1), (1, 2), (2, 4)]
    """
    bounds, first, filled = [], 0, 0
    for number, length in enumerate(lengths):
        if filled + length > max_tokens and number > first:
            bounds.append((first, number))
            first, filled = number, 0
        filled += int(length)
    return [*bounds, (first, len(lengths))] if len(lengths) else []


def token_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Sequences sorted by length, longest first, cut into batches of at most `batch_tokens` tokens (one at the least).

    Example:

        >>> [batch.tolist() for batch in token_batches([3, 9, 4, 2], 10)]
        [[1], [2, 0, 3]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    for first, end in cut_by_tokens(np.asarray(lengths)[order], batch_tokens):
        yield order[first:end]
