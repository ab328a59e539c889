"""Exact search over the passages of all languages, a block of queries at a time, in bounded memory.

1. `DensePool` holds the passages of each language as shards, memory-mapped or on the device where they are few.
2. `DensePool.scores` multiplies a block of queries with one shard after the other: only the block's scores exist.
3. `count_at_least` reads from them how many passages score at least as high as each relevant one, in its own language
   and in the pool.  Those counts are ranks, so that no ranking is ever sorted; `best` sorts the first places alone.

`ScoredPool` is steps 2 and 3 for whatever has scores; `bm25.TermPool` is another one.

Shape letters: B queries of a block, N passages of the pool, D size of an embedding, L languages, R relevant passages
of the block, S some of them, P places that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from .judgements import Relevant

# Scores held at once, or those of one query where the pool is larger: 512 MiB.
_BLOCK_SCORES = 2**27
# Scores that are compared at once on a GPU: 256 MiB, copied for each relevant passage.
_COMPARED_SCORES = 2**26
# A pool of at most so many bytes is kept in memory (on a GPU, of half of what is free there); a larger one is read
# again for each block of queries.
_RESIDENT_BYTES = 2**30


class Best(NamedTuple):
    """The first places of each query: passages by their place in what was ranked, -1 where there are fewer.

    Args:
        passage_BP (`np.ndarray` of shape `(B, P)`): int64.
        score_BP (`np.ndarray` of shape `(B, P)`): float32.
    """

    passage_BP: np.ndarray
    score_BP: np.ndarray


class Block(NamedTuple):
    """What the rankings of a block of queries are reduced to.

    Args:
        own_R (`np.ndarray` of shape `(R,)`): Passages of its language that score at least as high as each relevant
            one.
        pool_R (`np.ndarray` of shape `(R,)`): Passages of the pool that do.
        score_R (`np.ndarray` of shape `(R,)`): Its score.
        share_B (`np.ndarray` of shape `(B,)`): Share of the query language in the first places.
        first_BP (`np.ndarray` of shape `(B, P)`): Passages at the first places, by place in the pool, -1 for none.
        best (`list[Best]`): The first places in each language, then in the pool; empty where nobody asked.
    """

    own_R: np.ndarray
    pool_R: np.ndarray
    score_R: np.ndarray
    share_B: np.ndarray
    first_BP: np.ndarray
    best: list[Best]


class Pool(Protocol):
    """The passages of all languages, one language after the other, `sizes` of them, and a way to rank them."""

    sizes: list[int]

    def rank(self, language: int, queries: slice, relevant: Relevant, num_first: int, depth: int) -> Block:
        """Rank the pool for some queries of one language.

        Args:
            language (`int`): Number of the language of the queries.
            queries (`slice`): Which of its queries.
            relevant (`Relevant`): What is relevant to them, its `query_R` counted from the first of them.
            num_first (`int`): Places that `Block.share_B` and `Block.first_BP` look at.
            depth (`int`): Places that `Block.best` has, 0 for none.
        """
        ...


def block_height(sizes: Sequence[int]) -> int:
    """How many queries are ranked at once: all their scores are held."""
    return max(1, _BLOCK_SCORES // sum(sizes))


class ScoredPool:
    """A `Pool` that has a score for each passage."""

    sizes: list[int]

    def scores(self, language: int, queries: slice) -> torch.Tensor:
        """Scores `(B, N)` of some queries of one language against the pool, float32, higher is better."""
        raise NotImplementedError

    def rank(self, language: int, queries: slice, relevant: Relevant, num_first: int, depth: int) -> Block:
        """Rank the pool; see `Pool`."""
        scores_BN = self.scores(language, queries)
        first, tied = _best_and_tied(scores_BN, num_first)
        parts = [*scores_BN.split(self.sizes, dim=1), scores_BN]
        return Block(
            *count_at_least(scores_BN, relevant.query_R, relevant.language_R, relevant.passage_R, self.sizes),
            _share(scores_BN, first, tied, self.sizes, language),
            first.passage_BP,
            [best(part_BN, depth) for part_BN in parts] if depth else [],
        )


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
        self._queries = lru_cache(1)(
            lambda language: np.concatenate([_mapped(path).numpy() for path in queries[language]])
        )
        self._shards = [path for paths in passages for path in paths]
        heights = [[len(_mapped(path)) for path in paths] for paths in passages]
        self.sizes = [sum(found) for found in heights]
        self._bounds = list(accumulate((height for found in heights for height in found), initial=0))
        num_bytes = sum(path.stat().st_size for path in self._shards)
        self._resident = [_mapped(path).to(device) for path in self._shards] if num_bytes <= _room(device) else None

    def scores(self, language: int, queries: slice) -> torch.Tensor:
        """Inner products `(B, N)` of some queries of a language with the whole pool, in float32."""
        queries_BD = torch.from_numpy(self._queries(language)[queries]).to(self._device)
        scores_BN = torch.empty(len(queries_BD), self._bounds[-1], device=self._device)
        with torch.autocast(self._device.type, enabled=False):  # bf16 would make ties of near scores
            for (start, end), shard_ND in zip(pairwise(self._bounds), self._passages(), strict=True):
                scores_BN[:, start:end] = queries_BD @ shard_ND.T
        return scores_BN

    def _passages(self) -> Iterator[torch.Tensor]:
        """Shard after shard; a mapping ends with its turn, so that its pages do not stay resident."""
        yield from self._resident or (_mapped(path).to(self._device) for path in self._shards)


def _room(device: torch.device) -> int:
    """Bytes of embeddings that may stay on a device."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _RESIDENT_BYTES


def _mapped(path: Path) -> torch.Tensor:
    # copy-on-write, since torch warns of memory that it must not write to
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def count_at_least(
    scores_BN: torch.Tensor, query_R: np.ndarray, language_R: np.ndarray, passage_R: np.ndarray, sizes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many passages score at least as high as each relevant one, in its own language and in the pool.

    Each relevant score is compared with the scores of its query, from which it is read itself: computed apart it could
    be off by a rounding.

    Args:
        scores_BN (`torch.Tensor` of shape `(B, N)`): Finite scores.
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant passage, from 0, ascending.
        language_R (`np.ndarray` of shape `(R,)`): Number of its language.
        passage_R (`np.ndarray` of shape `(R,)`): Its place in the pool.
        sizes (`Sequence[int]`): Passages of each language in the pool.

    Returns:
        `tuple` of three `np.ndarray` of shape `(R,)`: the count within the language, the count in the pool (int64, the
        passage itself included), and the score (float32).

    Example:

        >>> scores = torch.tensor([[0.9, 0.1, 0.5, 0.5]])  # two languages with two passages each
        >>> own, pool, score = count_at_least(scores, np.array([0, 0]), np.array([0, 1]), np.array([1, 2]), [2, 2])
        >>> own.tolist(), pool.tolist()
        ([2, 2], [4, 3])
    """
    count = _count_in_rows if scores_BN.device.type == "cpu" else _count_on_device
    bounds_R = np.cumsum([0, *sizes])[np.stack([language_R, language_R + 1])]
    return count(scores_BN, query_R, passage_R, *bounds_R)


def _count_in_rows(
    scores_BN: torch.Tensor, query_R: np.ndarray, passage_R: np.ndarray, first_R: np.ndarray, end_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # numpy counts what is true in one row ten times faster than torch in a block of rows
    rows_BN = scores_BN.numpy()
    score_R = rows_BN[query_R, passage_R]
    own_R, pool_R = np.empty((2, len(query_R)), dtype=np.int64)
    for number, (query, first, end) in enumerate(zip(query_R, first_R, end_R, strict=True)):
        at_least_N = rows_BN[query] >= score_R[number]
        own_R[number] = np.count_nonzero(at_least_N[first:end])
        pool_R[number] = np.count_nonzero(at_least_N)
    return own_R, pool_R, score_R


def _count_on_device(
    scores_BN: torch.Tensor, query_R: np.ndarray, passage_R: np.ndarray, first_R: np.ndarray, end_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    query, passage, first, end = (
        torch.from_numpy(column).to(scores_BN.device) for column in (query_R, passage_R, first_R, end_R)
    )
    score_R, place_N = scores_BN[query, passage], torch.arange(scores_BN.shape[1], device=scores_BN.device)
    own_R, pool_R = torch.empty(2, len(query_R), dtype=torch.int64, device=scores_BN.device)
    height = max(1, _COMPARED_SCORES // scores_BN.shape[1])
    for start in range(0, len(query_R), height):
        some = slice(start, start + height)
        at_least_SN = scores_BN[query[some]] >= score_R[some, None]
        pool_R[some] = at_least_SN.count_nonzero(dim=1)
        own_SN = (place_N >= first[some, None]) & (place_N < end[some, None])
        own_R[some] = at_least_SN.logical_and_(own_SN).count_nonzero(dim=1)
    return own_R.cpu().numpy(), pool_R.cpu().numpy(), score_R.cpu().numpy()


def best(scores_BN: torch.Tensor, num_places: int) -> Best:
    """The first places of each query, best first; of equal scores the earlier passage comes first.

    Example:

        >>> best(torch.tensor([[0.1, 0.9, 0.5]]), 2).passage_BP.tolist()
        [[1, 2]]
    """
    return _best_and_tied(scores_BN, num_places)[0]


def language_share(scores_BN: torch.Tensor, sizes: Sequence[int], language: int, depth: int) -> np.ndarray:
    """Share of one language among the first `depth` places of each query; passages that tie for the last places share
    them.

    Args:
        scores_BN (`torch.Tensor` of shape `(B, N)`): Scores.
        sizes (`Sequence[int]`): Passages of each language in the pool.
        language (`int`): Number of the language.
        depth (`int`): Places that count.

    Returns:
        `np.ndarray` of shape `(B,)`.

    Example:

        >>> language_share(torch.tensor([[0.9, 0.5, 0.5, 0.1]]), [2, 2], 0, 2).tolist()
        [0.75]
    """
    return _share(scores_BN, *_best_and_tied(scores_BN, depth), sizes, language)


def _best_and_tied(scores_BN: torch.Tensor, num_places: int) -> tuple[Best, np.ndarray]:
    """The first places, and the queries in which a passage that ties for the last of them is left out."""
    places = min(num_places, scores_BN.shape[1])
    top = scores_BN.topk(min(places + 1, scores_BN.shape[1]), dim=1)
    score_BP, passage_BP = top.values[:, :places].cpu().numpy(), top.indices[:, :places].cpu().numpy()
    tied = np.zeros(0, dtype=np.int64)
    if 0 < places < scores_BN.shape[1]:
        tied = (top.values[:, places - 1] == top.values[:, places]).nonzero()[:, 0].cpu().numpy()
    for row in tied:  # `topk` takes any of them, here the first are
        inside = int(np.count_nonzero(score_BP[row] == score_BP[row, -1]))
        equal = (scores_BN[row] == float(score_BP[row, -1])).nonzero()[:inside, 0]
        passage_BP[row, places - inside :] = equal.cpu().numpy()
    order_BP = np.lexsort((passage_BP, -score_BP), axis=1)
    return Best(np.take_along_axis(passage_BP, order_BP, 1), np.take_along_axis(score_BP, order_BP, 1)), tied


def _share(scores_BN: torch.Tensor, first: Best, tied: np.ndarray, sizes: Sequence[int], language: int) -> np.ndarray:
    end = sum(sizes[: language + 1])
    start = end - sizes[language]
    own_BP = (first.passage_BP >= start) & (first.passage_BP < end)
    share_B = own_BP.mean(axis=1)
    for row in tied:
        last = first.score_BP[row, -1]
        above_P, equal_N = first.score_BP[row] > last, (scores_BN[row] == float(last)).cpu().numpy()
        places = np.count_nonzero(~above_P) * np.count_nonzero(equal_N[start:end]) / np.count_nonzero(equal_N)
        share_B[row] = (np.count_nonzero(own_BP[row] & above_P) + places) / len(above_P)
    return share_B
