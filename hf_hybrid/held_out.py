"""Which items are held out: whole groups, in an order that stays where items or languages are added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def held_out_items(item_ids: Iterable[str], groups: np.ndarray, target: int, seed: int) -> np.ndarray:
    """The first groups, in the order of the smallest hash among their items, that fit into a number of items.

    Args:
        item_ids (`Iterable[str]`): An id for each item.
        groups (`np.ndarray`): int64 [num_items]; items with the same number stay together.
        target (`int`): How many items; met up to the size of one group, and one group is taken where none fits.
        seed (`int`): Another one gives another order.

    Returns:
        `np.ndarray`: bool [num_items], true for what is held out.

    Example:

        >>> held_out_items(["a", "b", "c", "d"], np.array([0, 0, 1, 2]), target=3, seed=1).tolist()
        [True, True, False, True]
    """
    keys = (hashlib.blake2b(f"{seed}:{item_id}".encode(), digest_size=8).digest() for item_id in item_ids)
    hashes = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64)
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    smallest = np.full(len(sizes), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, inverse, hashes)
    order = np.argsort(smallest, kind="stable")
    fits = max(1, int(np.searchsorted(np.cumsum(sizes[order]), target, side="right")))
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[:fits]] = target > 0
    return chosen[inverse]
