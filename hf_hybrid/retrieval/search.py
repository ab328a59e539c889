"""Exact search over the passages of all languages, a block of queries at a time, in bounded memory.

1. `DensePool` holds the passages of each language as shards, memory-mapped or on the device where they are few.
2. The pool is cut into tiles, so that of all scores only those of a block of queries against one tile exist. A pool of
   usual size is one tile; a large one takes few large blocks, since all of it is read for each.
3. The scores of the relevant passages are read from the tiles: computed apart they could be off by a rounding.
4. `_TopKCounter` takes in tile after tile: how many passages score at least as high as each relevant one, in its own
   language and in the pool, and the top k. Those counts are ranks, so that no ranking is ever sorted whole.

With several tiles each is computed twice, in steps 3 and 4, from the same numbers in the same shape. `ScoredPool` is
steps 2 to 4 for whatever has scores; `bm25.TermPool` is another one.

Shape letters: B queries of a block, N passages of the pool, T of a tile, D size of an embedding, R relevant passages,
S some of them or some queries, P passages of a top k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate, pairwise
from math import isqrt
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

# Scores held at once: 512 MiB.
_BLOCK_SCORES = 2**27
# With at least so many queries in a block, products are as fast as with more, and the pool may be read for each block.
_ENOUGH_QUERIES = 256
# Passages multiplied at once: on a CPU a product that stays in its caches, and is then copied, is made 20% faster.
_PRODUCT_ROWS = 2**10
# Scores that are compared at once on a GPU: 256 MiB, copied for each relevant passage.
_COMPARED_SCORES = 2**26
# A pool of at most so many bytes is kept in memory (on a GPU, of half of what is free there); a larger one is read
# again for each block of queries.
_RESIDENT_BYTES = 2**30


class Relevant(NamedTuple):
    """Relevant passages of the queries of one language, by query; a passage is its position in the pool."""

    query_R: np.ndarray
    language_R: np.ndarray
    passage_R: np.ndarray
    gain_R: np.ndarray

    def take(self, chosen: np.ndarray | slice) -> Relevant:
        """Some of them."""
        return Relevant(*(column[chosen] for column in self))


class TopK(NamedTuple):
    """The top k of each query: passages by their place in what was ranked, -1 where there are fewer.

    Args:
        passage_BP (`np.ndarray` of shape `(B, P)`): int64.
        score_BP (`np.ndarray` of shape `(B, P)`): float32.
    """

    passage_BP: np.ndarray
    score_BP: np.ndarray


class Block(NamedTuple):
    """Ranks and top-k passages of a block of queries.

    Args:
        own_R (`np.ndarray` of shape `(R,)`): Passages of its language that score at least as high as each relevant
            one.
        pool_R (`np.ndarray` of shape `(R,)`): Passages of the pool that do.
        score_R (`np.ndarray` of shape `(R,)`): Its score.
        share_B (`np.ndarray` of shape `(B,)`): Share of the query language in the top k.
        first_BP (`np.ndarray` of shape `(B, P)`): Top-k passages, by position in the pool, -1 for none.
        best (`list[TopK]`): The top k in each language, then in the pool; empty where nobody asked.
    """

    own_R: np.ndarray
    pool_R: np.ndarray
    score_R: np.ndarray
    share_B: np.ndarray
    first_BP: np.ndarray
    best: list[TopK]


class Pool(Protocol):
    """The passages of all languages, one language after the other, `sizes` of them, and a way to rank them."""

    sizes: list[int]

    @property
    def block_height(self) -> int:
        """The most queries that it is best asked for at once."""
        ...

    def rank(self, language: int, queries: slice, relevant: Relevant, num_first: int, top_k: int) -> Block:
        """Rank the pool for some queries of one language.

        Args:
            language (`int`): Number of the language of the queries.
            queries (`slice`): Which of its queries.
            relevant (`Relevant`): What is relevant to them, its `query_R` counted from the first of them.
            num_first (`int`): Places that `Block.share_B` and `Block.first_BP` look at.
            top_k (`int`): Places that `Block.best` has, 0 for none.
        """
        ...


def block_height(sizes: Sequence[int]) -> int:
    """Return how many queries to rank at once: more for a large pool, so that it is read less often."""
    whole = _BLOCK_SCORES // sum(sizes)
    return whole if whole >= _ENOUGH_QUERIES else isqrt(_BLOCK_SCORES)


class ScoredPool:
    """A `Pool` that has a score for each passage; here one whose scores are all there at once, in one tile."""

    sizes: list[int]

    @property
    def block_height(self) -> int:
        """Number of queries whose scores fit in memory."""
        return max(1, _BLOCK_SCORES // sum(self.sizes))

    def scores(self, language: int, queries: slice, passages: slice = slice(None)) -> torch.Tensor:
        """Scores `(B, T)` of some queries of one language against some of the pool, float32, higher is better.

        The same arguments give the same bits.
        """
        raise NotImplementedError

    def rank(self, language: int, queries: slice, relevant: Relevant, num_first: int, top_k: int) -> Block:
        """Rank the pool; see `Pool`."""
        tiles = self._tiles(queries.stop - queries.start)
        only = self.scores(language, queries, tiles[0]) if len(tiles) == 1 else None

        def scores(tile: slice) -> torch.Tensor:
            return self.scores(language, queries, tile) if only is None else only

        # Step 3
        score_R = np.empty(len(relevant.query_R), dtype=np.float32)
        for tile in tiles:
            here = np.flatnonzero((relevant.passage_R >= tile.start) & (relevant.passage_R < tile.stop))
            if len(here):
                chosen = relevant.query_R[here], relevant.passage_R[here] - tile.start
                score_R[here] = scores(tile)[chosen].cpu().numpy()
        # Step 4
        k = _TopKCounter(self.sizes, language, relevant, score_R, num_first, top_k)
        for tile in tiles:
            k.add(scores(tile), tile.start)
        return k.block()

    def _tiles(self, num_queries: int) -> list[slice]:
        return [slice(0, sum(self.sizes))]


class DensePool(ScoredPool):
    """Embeddings of the passages of all languages, and of the queries of each.

    Args:
        queries (`Sequence[Sequence[Path]]`): For each language the `.npy` shards `(n, D)` of its queries, float32.
        passages (`Sequence[Sequence[Path]]`): Likewise its passages.
        device (`torch.device`): Where scores are computed.

    Example:

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "q.npy", np.eye(2, dtype=np.float32))
        >>> np.save(folder / "p.npy", np.array([[3, 4], [5, 6]], dtype=np.float32))
        >>> pool = DensePool([[folder / "q.npy"]], [[folder / "p.npy"]], torch.device("cpu"))
        >>> pool.sizes, pool.scores(0, slice(0, 1)).tolist()
        ([2], [[3.0, 5.0]])
    """

    def __init__(
        self, queries: Sequence[Sequence[Path]], passages: Sequence[Sequence[Path]], device: torch.device
    ) -> None:
        self._device = device
        self._queries = lru_cache(1)(  # of a block, for all its tiles
            lambda language, start, stop: torch.from_numpy(read_rows(queries[language], slice(start, stop))).to(device)
        )
        self._shards = [path for paths in passages for path in paths]
        heights = [[len(_mapped(path)) for path in paths] for paths in passages]
        self.sizes = [sum(found) for found in heights]
        self._bounds = list(accumulate((height for found in heights for height in found), initial=0))
        num_bytes = sum(path.stat().st_size for path in self._shards)
        self._resident = [_mapped(path).to(device) for path in self._shards] if num_bytes <= _room(device) else None

    @property
    def block_height(self) -> int:
        return block_height(self.sizes)

    def scores(self, language: int, queries: slice, passages: slice = slice(None)) -> torch.Tensor:
        """Inner products `(B, T)` of some queries of a language with some of the pool, in float32."""
        first, end, _ = passages.indices(self._bounds[-1])
        queries_BD = self._queries(language, queries.start, queries.stop)
        scores_BT = torch.empty(len(queries_BD), end - first, device=self._device)
        with _full_float32(self._device):
            for start, some_TD in self._passages(first, end):
                scores_BT[:, start - first : start - first + len(some_TD)] = torch.mm(queries_BD, some_TD.T)
        return scores_BT

    def _tiles(self, num_queries: int) -> list[slice]:
        total, width = self._bounds[-1], max(1, _BLOCK_SCORES // num_queries)
        return [slice(start, min(start + width, total)) for start in range(0, total, width)]

    def _passages(self, first: int, end: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Return the parts of the shards between two positions of the pool, and where each begins."""
        for number, (start, stop) in enumerate(pairwise(self._bounds)):
            if start < end and stop > first:
                # a mapping ends with its turn, so that its pages do not stay resident
                shard_ND = self._resident[number] if self._resident else _mapped(self._shards[number])
                some_TD = shard_ND[max(first - start, 0) : end - start].to(self._device)
                for offset in range(0, len(some_TD), _PRODUCT_ROWS):
                    yield max(start, first) + offset, some_TD[offset : offset + _PRODUCT_ROWS]


def read_rows(paths: Sequence[Path], rows: slice) -> np.ndarray:
    """Some rows `(n, D)` of shards one after the other, without a look at the rest."""
    parts, start = [], 0
    for path in paths:
        shard_ND = np.load(path, mmap_mode="r")
        parts.append(np.asarray(shard_ND[max(0, rows.start - start) : max(0, rows.stop - start)]))
        start += len(shard_ND)
    return np.concatenate(parts)


def _room(device: torch.device) -> int:
    """Bytes of embeddings that may stay on a device."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _RESIDENT_BYTES


def _mapped(path: Path) -> torch.Tensor:
    # copy-on-write, since torch warns of memory that it must not write to
    return torch.from_numpy(np.load(path, mmap_mode="c"))


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """No autocast, TF32 or bf16 inside products, which would make ties of near scores."""
    products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = "none"  # as `torch.backends.fp32_precision` says
            if product.fp32_precision != precision:
                product.fp32_precision = precision


class _Top(NamedTuple):
    """The top k of each query, best first; of equal scores the earlier passage comes first."""

    score_BP: torch.Tensor
    passage_BP: torch.Tensor

    def cut(self, k: int) -> TopK:
        return TopK(self.passage_BP[:, :k].cpu().numpy(), self.score_BP[:, :k].cpu().numpy())


class _TopKCounter:
    """Collects a `Block` from tiles, which come in order."""

    def __init__(
        self, sizes: Sequence[int], language: int, relevant: Relevant, score_R: np.ndarray, num_first: int, top_k: int
    ) -> None:
        self._bounds = list(pairwise(accumulate(sizes, initial=0)))
        self._query_R, self._score_R = relevant.query_R, score_R
        self._bounds_R2 = np.array(self._bounds)[relevant.language_R]
        self._count_R2 = np.zeros((len(score_R), 2), dtype=np.int64)
        self._num_first, self._top_k = num_first, top_k
        self._share = _Share(num_first, *self._bounds[language])
        self._pool: _Top | None = None
        self._languages: list[_Top | None] = [None] * len(sizes)

    def add(self, scores_BT: torch.Tensor, start: int) -> None:
        """Take in the scores of a tile that starts at some place of the pool."""
        end = start + scores_BT.shape[1]
        bounds_R2 = np.clip(self._bounds_R2, start, end) - start
        count = _count_in_rows if scores_BT.device.type == "cpu" else _count_on_device
        self._count_R2 += count(scores_BT, self._query_R, self._score_R, bounds_R2)
        # one more place than asked for, to see whether others tie with the last
        k = max(self._num_first + 1, self._top_k)
        tile, before = _top(scores_BT, k, start), self._pool
        self._pool = _merged(before, tile, k)
        self._share.add(scores_BT, start, before, tile, self._pool)
        for number, (first, last) in enumerate(self._bounds):
            known = self._languages[number]
            if self._top_k and (known is None or (first < end and last > start)):
                some_BT = scores_BT[:, max(first - start, 0) : max(last - start, 0)]
                found = _top(some_BT, self._top_k, max(start - first, 0))
                self._languages[number] = _merged(known, found, self._top_k)

    def block(self) -> Block:
        assert self._pool is not None, "a pool has passages"
        lists = [top.cut(self._top_k) for top in (*self._languages, self._pool) if top is not None and self._top_k]
        first_BP = self._pool.cut(self._num_first).passage_BP
        own_R, pool_R = self._count_R2.T
        return Block(own_R, pool_R, self._score_R, self._share.values(self._pool), first_BP, lists)


class _Share:
    """The share of one language, the passages from `first` to `end`, in the top k.

    Passages that tie at rank k share it, so all of them are counted: (all, own) for each query.
    """

    def __init__(self, k: int, first: int, end: int) -> None:
        self._k, self._first, self._end = k, first, end
        self._last_B1, self._tied_B2 = torch.tensor([[torch.nan]]), torch.zeros(1, 2, dtype=torch.int64)

    def add(self, scores_BT: torch.Tensor, start: int, before: _Top | None, tile: _Top, now: _Top) -> None:
        """Add a tile, given its top k and the top k of all passages up to it."""
        last_B1 = now.score_BP[:, : self._k][:, -1:]
        tied_B2 = self._listed(tile, last_B1)
        if tile.score_BP.shape[1] < scores_BT.shape[1]:
            own = slice(max(self._first - start, 0), max(self._end - start, 0))
            for row in (tile.score_BP[:, -1:] == last_B1).nonzero()[:, 0].tolist():  # others may follow
                equal_T = scores_BT[row] == last_B1[row]
                tied_B2[row] = torch.stack([equal_T.sum(), equal_T[own].sum()])
        if before is not None:
            # those that tie with a new last place were before it until now
            tied_B2 += torch.where(last_B1 == self._last_B1, self._tied_B2, self._listed(before, last_B1))
        self._last_B1, self._tied_B2 = last_B1, tied_B2

    def values(self, now: _Top) -> np.ndarray:
        """The share `(B,)` for each query."""
        first = _Top(now.score_BP[:, : self._k], now.passage_BP[:, : self._k])
        above_BP = first.score_BP > self._last_B1
        own_B, above_B = (above_BP & self._own(first)).sum(dim=1), above_BP.sum(dim=1)
        k = first.score_BP.shape[1]  # fewer where the pool is small
        all_B, own_tied_B = self._tied_B2.double().unbind(dim=1)
        return ((own_B + (k - above_B) * own_tied_B / all_B) / k).cpu().numpy()

    def _own(self, top: _Top) -> torch.Tensor:
        return (top.passage_BP >= self._first) & (top.passage_BP < self._end)

    def _listed(self, top: _Top, last_B1: torch.Tensor) -> torch.Tensor:
        equal_BP = top.score_BP == last_B1
        return torch.stack([equal_BP.sum(dim=1), (equal_BP & self._own(top)).sum(dim=1)], dim=1)


def _top(scores_BT: torch.Tensor, k: int, start: int) -> _Top:
    """The top k of a tile, whose passages are counted from `start`."""
    width = scores_BT.shape[1]
    k = min(k, width)
    top = scores_BT.topk(min(k + 1, width), dim=1)
    score_BP, passage_BP = top.values[:, :k], top.indices[:, :k]
    # `topk` takes any of the passages that tie for the last place, and returns equal scores in any order; here the
    # first are
    if 0 < k < width:
        for row in (top.values[:, k - 1] == top.values[:, k]).nonzero()[:, 0].tolist():
            inside_P = score_BP[row] == score_BP[row, -1]
            passage_BP[row, inside_P] = (scores_BT[row] == score_BP[row, -1]).nonzero()[: int(inside_P.sum()), 0]
    rows = (score_BP[:, 1:] == score_BP[:, :-1]).any(dim=1).nonzero()[:, 0]
    if len(rows):
        passage_SP, order_SP = passage_BP[rows].sort(dim=1)
        order_SP = score_BP[rows].gather(1, order_SP).argsort(dim=1, descending=True, stable=True)
        passage_BP[rows] = passage_SP.gather(1, order_SP)
    return _Top(score_BP, passage_BP + start)


def _merged(before: _Top | None, tile: _Top, k: int) -> _Top:
    """The top k of the passages seen before and of those of a tile, which come after them."""
    if before is None:
        return tile
    score_BP, passage_BP = (torch.cat(pair, dim=1) for pair in zip(before, tile, strict=True))
    order_BP = score_BP.argsort(dim=1, descending=True, stable=True)[:, :k]
    return _Top(score_BP.gather(1, order_BP), passage_BP.gather(1, order_BP))


def _count_in_rows(
    scores_BT: torch.Tensor, query_R: np.ndarray, score_R: np.ndarray, bounds_R2: np.ndarray
) -> np.ndarray:
    """Count the passages of a tile that reach a score, in one language and in all: `(R, 2)`, int64.

    Args:
        scores_BT (`torch.Tensor` of shape `(B, T)`): Finite scores.
        query_R (`np.ndarray` of shape `(R,)`): Row that each count is about.
        score_R (`np.ndarray` of shape `(R,)`): Score to be reached, of this tile or another.
        bounds_R2 (`np.ndarray` of shape `(R, 2)`): Where the passages of the language begin and end in the tile.
    """
    # numpy counts what is true in one row ten times faster than torch in a block of rows
    rows_BT, count_R2 = scores_BT.numpy(), np.empty((len(query_R), 2), dtype=np.int64)
    for number, (query, (first, end)) in enumerate(zip(query_R.tolist(), bounds_R2.tolist(), strict=True)):
        at_least_T = rows_BT[query] >= score_R[number]
        count_R2[number] = np.count_nonzero(at_least_T[first:end]), np.count_nonzero(at_least_T)
    return count_R2


def _count_on_device(
    scores_BT: torch.Tensor, query_R: np.ndarray, score_R: np.ndarray, bounds_R2: np.ndarray
) -> np.ndarray:
    query, reach, bounds = (torch.from_numpy(column).to(scores_BT.device) for column in (query_R, score_R, bounds_R2))
    place_T = torch.arange(scores_BT.shape[1], device=scores_BT.device)
    count_R2 = torch.empty(len(query_R), 2, dtype=torch.int64, device=scores_BT.device)
    height = max(1, _COMPARED_SCORES // scores_BT.shape[1])
    for start in range(0, len(query_R), height):
        some = slice(start, start + height)
        at_least_ST = scores_BT[query[some]] >= reach[some, None]
        count_R2[some, 1] = at_least_ST.count_nonzero(dim=1)
        own_ST = (place_T >= bounds[some, :1]) & (place_T < bounds[some, 1:])
        count_R2[some, 0] = at_least_ST.logical_and_(own_ST).count_nonzero(dim=1)
    return count_R2.cpu().numpy()
