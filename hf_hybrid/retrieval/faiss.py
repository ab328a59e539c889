"""Approximate search with FAISS, for corpora where a look at every passage takes too long.

Each language has an index of its own: inverted lists where it is large, exact where it is small. The top k of
the pool are those of the languages merged, so that monolingual, cross-lingual and multilingual rankings come from one
search a language. A passage beyond the first `NUM_RANKED` of its language counts as not found, in the pool one that
comes after so many of any language too, however long the rankings are that somebody wants beside.

Shape letters: B queries of a block, D size of an embedding, R relevant passages, P passages of a top k, L languages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .search import Block, Relevant, TopK, read_rows

NUM_RANKED = 1000
_EXACT_UP_TO = 20_000  # passages: a search of so few is fast as it is
_TRAINING_VECTORS_A_LIST = 64
_PROBED = 1 / 16  # of all lists are looked at
_BLOCK_QUERIES = 1024  # their top k in all languages is held at once: with 16 languages 200 MiB


class FaissPool:
    """Embeddings of the passages of all languages in FAISS indexes; a `search.Pool`.

    Args:
        queries (`Sequence[Sequence[Path]]`): For each language the `.npy` shards `(n, D)` of its queries.
        passages (`Sequence[Sequence[Path]]`): Likewise its passages.

    Raises:
        ImportError: When faiss is not installed.
    """

    block_height = _BLOCK_QUERIES

    def __init__(self, queries: Sequence[Sequence[Path]], passages: Sequence[Sequence[Path]]) -> None:
        self._queries = queries
        self._indexes = [_index(paths) for paths in passages]
        self.sizes = [index.ntotal if index is not None else 0 for index in self._indexes]
        self._starts = np.cumsum([0, *self.sizes[:-1]])

    def rank(self, language: int, queries: slice, relevant: Relevant, num_first: int, top_k: int) -> Block:
        """Rank the pool; see `search.Pool`."""
        queries_BD, k = read_rows(self._queries[language], queries), max(NUM_RANKED, top_k)
        found = [_search(index, queries_BD, k) for index in self._indexes]
        known = [TopK(*(column_BP[:, : NUM_RANKED + 1] for column_BP in part)) for part in found]
        own_R, pool_R, score_R = self._count(known, relevant)
        merged, language_BP = _merged(found, self._starts, k)
        first_BP = merged.passage_BP[:, :num_first]
        own_BP = (language_BP[:, :num_first] == language) & (first_BP >= 0)
        share_B = own_BP.sum(axis=1) / np.maximum((first_BP >= 0).sum(axis=1), 1)
        lists = [TopK(part.passage_BP[:, :top_k], part.score_BP[:, :top_k]) for part in [*found, merged]]
        return Block(own_R, pool_R, score_R, share_B, first_BP, lists if top_k else [])

    def _count(self, found: Sequence[TopK], relevant: Relevant) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts within the language and in the pool and scores, infinite where a passage is not among the found."""
        count = len(relevant.query_R)
        own_R, pool_R, score_R = np.full(count, np.inf), np.zeros(count), np.full(count, -np.inf)
        for number, (part, size) in enumerate(zip(found, self.sizes, strict=True)):
            here = np.flatnonzero(relevant.language_R == number)
            query, place = relevant.query_R[here], relevant.passage_R[here] - self._starts[number]
            hit_RP = part.passage_BP[query] == place[:, None]
            reached = hit_RP.any(axis=1)
            score_R[here[reached]] = part.score_BP[query][hit_RP]
            own_R[here[reached]] = _at_least(part, query[reached], score_R[here[reached]], size)
        for part, size in zip(found, self.sizes, strict=True):
            pool_R += _at_least(part, relevant.query_R, score_R, size)
        pool_R[np.isinf(own_R)] = np.inf
        return own_R, pool_R, score_R


def _at_least(part: TopK, query_R: np.ndarray, score_R: np.ndarray, size: int) -> np.ndarray:
    """Count the passages of a language that reach a score; infinite if the list may lack some."""
    at_least_RP = part.score_BP[query_R] >= score_R[:, None]
    unknown_R = at_least_RP.all(axis=1) & (at_least_RP.shape[1] < size)
    return np.where(unknown_R, np.inf, at_least_RP.sum(axis=1))


def _index(paths: Sequence[Path]) -> Any:
    """An index of all vectors in the shards, `None` without any."""
    try:
        import faiss
    except ImportError:
        raise ImportError('index="faiss" needs FAISS: pip install ".[faiss]", in a clone.') from None
    shards = [np.load(path, mmap_mode="r") for path in paths]
    if not shards:
        return None
    total, size = sum(map(len, shards)), shards[0].shape[1]
    if total <= _EXACT_UP_TO:
        index: Any = faiss.IndexFlatIP(size)
    else:
        num_lists = 4 * math.isqrt(total)
        index = faiss.index_factory(size, f"IVF{num_lists},Flat", faiss.METRIC_INNER_PRODUCT)
        every = max(1, total // (num_lists * _TRAINING_VECTORS_A_LIST))
        index.train(np.concatenate([shard[::every] for shard in shards]))
        index.nprobe = max(1, round(num_lists * _PROBED))
    for shard in shards:
        index.add(np.ascontiguousarray(shard))
    return index


def _search(index: Any, queries_BD: np.ndarray, k: int) -> TopK:
    if index is None:
        return TopK(np.zeros((len(queries_BD), 0), np.int64), np.zeros((len(queries_BD), 0), np.float32))
    # one more than k: passages that tie with it have no known rank
    score_BP, passage_BP = index.search(queries_BD, min(k + 1, index.ntotal))
    return TopK(passage_BP, np.where(passage_BP < 0, -np.inf, score_BP))  # -1: the probed lists held fewer


def _merged(found: Sequence[TopK], starts: np.ndarray, k: int) -> tuple[TopK, np.ndarray]:
    """The top k of the pool, by place in the pool, and the language of each."""
    widths = [part.passage_BP.shape[1] for part in found]
    score_BP = np.concatenate([part.score_BP for part in found], axis=1)
    passage_BP = np.concatenate(
        [
            np.where(part.passage_BP < 0, -1, part.passage_BP + start)
            for part, start in zip(found, starts, strict=True)
        ],
        axis=1,
    )
    order_BP = np.argsort(-score_BP, axis=1, kind="stable")[:, :k]
    language_P = np.repeat(np.arange(len(found)), widths)
    merged = TopK(np.take_along_axis(passage_BP, order_BP, 1), np.take_along_axis(score_BP, order_BP, 1))
    return merged, language_P[order_BP]
