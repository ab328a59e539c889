"""Exact search against rankings written out, one score at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_hybrid.retrieval import search
from hf_hybrid.retrieval.search import Block, DensePool, Relevant, ScoredPool, block_height, read_rows
from tests.support.toys import LargestTensor

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = {
    "several languages": [5, 9, 3, 7],
    "languages without passages": [0, 6, 0, 4, 0],
    "one language": [12],
    "a passage each": [1, 1, 1],
}


def random_scores(sizes: Sequence[int], num_queries: int = 8, seed: int = 0) -> torch.Tensor:
    """Few different numbers, so that many tie."""
    scores = np.random.default_rng(seed).integers(-2, 3, size=(num_queries, sum(sizes)))
    return torch.from_numpy(scores.astype(np.float32))


def random_relevant(sizes: Sequence[int], num_queries: int = 8, seed: int = 0) -> Relevant:
    """Up to four relevant passages a query, none for the first and the third."""
    rng, chosen = np.random.default_rng(seed), []
    for query in range(num_queries):
        number = 0 if query in (0, 2) else 1 + query % 4
        k = rng.permutation(sum(sizes))[:number]
        chosen += [(query, language_of(int(place), sizes), int(place)) for place in sorted(k)]
    query_R, language_R, passage_R = np.array(chosen, dtype=np.int64).reshape(-1, 3).T
    return Relevant(query_R, language_R, passage_R, np.ones(len(query_R), dtype=np.int32))


def language_of(place: int, sizes: Sequence[int]) -> int:
    return int(np.searchsorted(np.cumsum(sizes), place, side="right"))


def counts_written_out(scores: torch.Tensor, relevant: Relevant, sizes: Sequence[int]) -> list[tuple[int, int, float]]:
    """For each relevant passage: how many reach its score in its language and in the pool, and the score."""
    found = []
    for query, language, passage in zip(relevant.query_R, relevant.language_R, relevant.passage_R, strict=True):
        row = scores[int(query)].tolist()
        reach = [language_of(place, sizes) for place, score in enumerate(row) if score >= row[passage]]
        found.append((reach.count(language), len(reach), row[passage]))
    return found


class GivenPool(ScoredPool):
    """A pool with scores from a table, in tiles of a width."""

    def __init__(self, scores_QN: torch.Tensor, sizes: Sequence[int], width: int | None = None) -> None:
        self.scores_QN, self.sizes, self.width = scores_QN, list(sizes), width or sum(sizes)

    def scores(self, language: int, queries: slice, passages: slice = slice(None)) -> torch.Tensor:
        return self.scores_QN[queries, passages]

    def _tiles(self, num_queries: int) -> list[slice]:
        total = sum(self.sizes)
        return [slice(start, min(start + self.width, total)) for start in range(0, total, self.width)]


NOTHING = Relevant(*np.zeros((4, 0), dtype=np.int64))
WIDTHS = [None, 1, 4, 5]  # of tiles; None for one tile


def counted(
    scores: torch.Tensor, relevant: Relevant, sizes: Sequence[int], width: int | None = None
) -> list[tuple[int, int, float]]:
    columns = GivenPool(scores, sizes, width).rank(0, slice(0, len(scores)), relevant, 3, 0)[:3]
    assert [column.dtype for column in columns] == [np.int64, np.int64, np.float32]
    return list(zip(*(column.tolist() for column in columns), strict=True))


# Counts


@pytest.fixture(params=["rows", "device"])
def counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of counting, also the one that is for GPUs."""
    if request.param == "device":
        monkeypatch.setattr(search, "_count_in_rows", search._count_on_device)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SIZES)
def test_counts_are_those_written_out(name: str, seed: int, width: int | None) -> None:
    sizes = SIZES[name]
    scores, relevant = random_scores(sizes, seed=seed), random_relevant(sizes, seed=seed)
    assert counted(scores, relevant, sizes, width) == counts_written_out(scores, relevant, sizes)


def test_the_random_scores_have_what_makes_counting_hard() -> None:
    sizes = SIZES["several languages"]
    scores, relevant = random_scores(sizes), random_relevant(sizes)
    assert set(range(8)) - set(relevant.query_R.tolist()) == {0, 2}
    assert np.bincount(relevant.query_R).max() == 4
    assert len(set(relevant.language_R.tolist())) == 4
    relevant_scores = [
        (int(query), float(scores[query, place]))
        for query, place in zip(relevant.query_R, relevant.passage_R, strict=True)
    ]
    assert len(set(relevant_scores)) < len(relevant_scores)  # relevant passages of one query that tie
    assert any(
        (scores[query] == score).sum() > relevant_scores.count((query, score)) for query, score in relevant_scores
    )


@pytest.mark.usefixtures("counting")
def test_a_block_without_relevant_passages_has_no_counts() -> None:
    assert counted(random_scores([3, 4]), NOTHING, [3, 4]) == []


@pytest.mark.parametrize("num_scores", [1, 24, 100])
def test_counting_on_a_device_in_parts_gives_identical_counts(
    num_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = SIZES["several languages"]
    scores, relevant = random_scores(sizes), random_relevant(sizes)
    assert len(relevant.query_R) > 100 // sum(sizes)
    monkeypatch.setattr(search, "_count_in_rows", search._count_on_device)
    monkeypatch.setattr(search, "_COMPARED_SCORES", num_scores)
    assert counted(scores, relevant, sizes) == counts_written_out(scores, relevant, sizes)


def test_a_device_compares_no_more_scores_at_once_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, (query_R, _, passage_R, _) = random_scores([4000]), random_relevant([4000])
    given = (scores, query_R, scores.numpy()[query_R, passage_R], np.tile([0, 4000], (len(query_R), 1)))
    with LargestTensor() as whole:
        expected = search._count_on_device(*given)
    assert whole.elements == 4000 * len(query_R) > 40_000
    monkeypatch.setattr(search, "_COMPARED_SCORES", 9000)
    with LargestTensor() as bounded:
        assert search._count_on_device(*given).tolist() == expected.tolist()
    assert bounded.elements == 8000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("width", [None, 700])
def test_ranks_on_a_gpu_are_those_of_the_cpu(width: int | None) -> None:
    sizes = [3000, 0, 1000]
    scores, relevant = random_scores(sizes), random_relevant(sizes)
    found, expected = (
        GivenPool(part, sizes, width).rank(0, slice(0, 8), relevant, 10, 20) for part in (scores.cuda(), scores)
    )
    for one, other in zip(arrays_of(found), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(one, other)


# The share of a language


def share_written_out(row: list[float], sizes: Sequence[int], language: int, top_k: int) -> float:
    """Mean over all orders of the passages, each sorted by score: ties then are in every order."""
    shares = []
    for order in permutations(range(len(row))):
        first = sorted(order, key=lambda place: -row[place])[:top_k]
        shares.append(sum(language_of(place, sizes) == language for place in first) / len(first))
    return float(np.mean(shares))


def share(scores: torch.Tensor, sizes: Sequence[int], language: int, top_k: int, width: int | None) -> list[float]:
    return GivenPool(scores, sizes, width).rank(language, slice(0, len(scores)), NOTHING, top_k, 0).share_B.tolist()


@pytest.mark.parametrize("sizes", [[2, 3, 1], [0, 4, 2], [5]])
@pytest.mark.parametrize("top_k", [1, 3, 6, 10])
def test_the_share_of_a_language_is_the_expected_one_where_ties_come_in_any_order(
    sizes: list[int], top_k: int
) -> None:
    scores = random_scores(sizes, num_queries=4)
    for language in range(len(sizes)):
        expected = [share_written_out(row, sizes, language, top_k) for row in scores.tolist()]
        for width in WIDTHS:
            assert share(scores, sizes, language, top_k, width) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", WIDTHS)
def test_ties_share_the_last_places(width: int | None) -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    assert share(scores, [2, 3], 0, 2, width) == [(1 + 1 / 3) / 2]
    assert share(scores, [2, 3], 1, 2, width) == [(0 + 2 / 3) / 2]


@pytest.mark.parametrize("width", [None, 1, 7, 60])
@pytest.mark.parametrize("seed", range(5))
def test_shares_do_not_depend_on_the_tiles(seed: int, width: int | None) -> None:
    """Of ties with the last place some are in earlier tiles, some in later ones, some beyond what a tile lists."""
    sizes = [30, 50, 41]
    scores = torch.from_numpy(np.random.default_rng(seed).integers(0, 12, size=(20, 121)).astype(np.float32))
    for language in range(3):
        own = np.repeat(range(3), sizes) == language
        expected = []
        for row in scores.numpy():
            last = np.sort(row)[-10]
            above, level = row > last, row == last
            expected.append(((own & above).sum() + (10 - above.sum()) * (own & level).sum() / level.sum()) / 10)
        assert share(scores, sizes, language, 10, width) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 8


# The top k


def stable(scores: torch.Tensor, k: int) -> np.ndarray:
    return np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("width", [None, 1, 30, 199])
@pytest.mark.parametrize("k", [1, 2, 10, 200, 500])
def test_first_places_are_those_of_a_stable_sort(k: int, width: int | None) -> None:
    scores = random_scores([200])
    block = GivenPool(scores, [200], width).rank(0, slice(0, 8), NOTHING, 4, k)
    for found in block.best:  # of the one language, and of the pool
        np.testing.assert_array_equal(found.passage_BP, stable(scores, k))
        np.testing.assert_array_equal(found.score_BP, -np.sort(-scores.numpy(), axis=1)[:, :k])
        assert found.passage_BP.dtype == np.int64
        assert found.score_BP.dtype == np.float32
    np.testing.assert_array_equal(block.first_BP, stable(scores, 4))


@pytest.mark.parametrize("width", [None, 1, 3])
def test_first_places_where_only_some_queries_have_ties(width: int | None) -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    block = GivenPool(scores, [4], width).rank(0, slice(0, 3), NOTHING, 2, 2)
    assert block.best[0].passage_BP.tolist() == block.first_BP.tolist() == [[0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SIZES)
def test_a_pool_is_ranked_as_a_whole_and_by_language(name: str, width: int | None) -> None:
    sizes = SIZES[name]
    scores = random_scores(sizes)
    block = GivenPool(scores, sizes, width).rank(0, slice(0, 8), random_relevant(sizes), 4, 3)
    starts = np.cumsum([0, *sizes])
    for (start, end), found in zip([*pairwise(starts), (0, sum(sizes))], block.best, strict=True):
        np.testing.assert_array_equal(found.passage_BP, stable(scores[:, start:end], 3))
    np.testing.assert_array_equal(block.first_BP, stable(scores, 4))


def test_rankings_are_made_only_on_request() -> None:
    assert GivenPool(random_scores([4, 4]), [4, 4]).rank(0, slice(0, 8), random_relevant([4, 4]), 2, 0).best == []


# Embeddings in shards


def vectors(number: int, seed: int, whole_numbers: bool = True) -> np.ndarray:
    """With whole numbers many inner products tie, and float32 holds each exactly, whatever the order of the sum."""
    rng = np.random.default_rng(seed)
    found = rng.integers(-2, 3, size=(number, 6)) if whole_numbers else rng.standard_normal((number, 6))
    return found.astype(np.float32)


def saved(folder: Path, name: str, whole_ND: np.ndarray, heights: Sequence[int]) -> list[Path]:
    """Shards of these heights."""
    assert sum(heights) == len(whole_ND)
    paths = [folder / f"{name}.{number}.npy" for number in range(len(heights))]
    for path, end, height in zip(paths, np.cumsum(heights), heights, strict=True):
        np.save(path, whole_ND[end - height : end])
    return paths


QUERIES = [vectors(7, 1), vectors(0, 2), vectors(5, 3)]
PASSAGES = [vectors(9, 4), vectors(4, 5), vectors(0, 6)]
POOL_SIZES = [9, 4, 0]
CUTS = {
    "one shard a language": ([[7], [], [5]], [[9], [4], []]),
    "shards of several sizes": ([[3, 1, 3], [], [2, 3]], [[4, 1, 4], [1, 3], []]),
    "shards of one": ([[1] * 7, [], [1] * 5], [[1] * 9, [1] * 4, []]),
}


def dense_pool(folder: Path, cut: str = "shards of several sizes") -> DensePool:
    folder.mkdir(exist_ok=True)
    queries, passages = (
        [saved(folder, f"{side}{i}", *part) for i, part in enumerate(zip(whole, heights, strict=True))]
        for side, whole, heights in (("q", QUERIES, CUTS[cut][0]), ("p", PASSAGES, CUTS[cut][1]))
    )
    return DensePool(queries, passages, torch.device("cpu"))


def arrays_of(block: Block) -> list[np.ndarray]:
    return [*block[:5], *(array for part in block.best for array in part)]


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
@pytest.mark.parametrize("cut", CUTS)
def test_scores_are_inner_products_however_shards_are_cut(
    cut: str, resident_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_RESIDENT_BYTES", resident_bytes)
    pool = dense_pool(tmp_path, cut)
    assert pool.sizes == POOL_SIZES
    for language, queries in ((0, slice(0, 7)), (2, slice(1, 4)), (0, slice(5, 7)), (2, slice(0, 5))):
        for passages in (slice(None), slice(0, 4), slice(3, 10), slice(5, 7), slice(12, 13)):
            found = pool.scores(language, queries, passages)
            expected = QUERIES[language][queries] @ np.concatenate(PASSAGES)[passages].T
            assert found.dtype == torch.float32
            assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("rows", [slice(0, 7), slice(0, 3), slice(2, 5), slice(3, 4), slice(6, 7)])
def test_rows_are_read_across_shards(rows: slice, tmp_path: Path) -> None:
    paths = saved(tmp_path, "queries", QUERIES[0], [3, 1, 3])
    np.testing.assert_array_equal(read_rows(paths, rows), QUERIES[0][rows])


@pytest.mark.parametrize("block_scores", [1, 30, 1000])
@pytest.mark.parametrize("height", [1, 2, 7])
def test_blocks_and_tiles_give_the_ranks_of_all_at_once(
    height: int, block_scores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, relevant = dense_pool(tmp_path), random_relevant(POOL_SIZES, num_queries=7)
    whole = pool.rank(0, slice(0, 7), relevant, 3, 2)
    monkeypatch.setattr(search, "_BLOCK_SCORES", block_scores)
    assert len(pool._tiles(height)) == -(-13 // max(1, block_scores // height))
    blocks = []
    for first in range(0, 7, height):
        queries = slice(first, min(first + height, 7))
        here = relevant.take((relevant.query_R >= queries.start) & (relevant.query_R < queries.stop))
        blocks.append(pool.rank(0, queries, here._replace(query_R=here.query_R - first), 3, 2))
    joined = map(np.concatenate, zip(*map(arrays_of, blocks), strict=True))
    for found, expected in zip(joined, arrays_of(whole), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_no_more_scores_are_held_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [
        saved(tmp_path, name, vectors(number, 1), [40] * (number // 40)) for name, number in (("q", 40), ("p", 400))
    ]
    pool, relevant = DensePool([shards[0]], [shards[1]], torch.device("cpu")), random_relevant([400], num_queries=40)
    with LargestTensor() as whole:
        expected = pool.rank(0, slice(0, 40), relevant, 3, 5)
    assert whole.elements == 40 * 400
    monkeypatch.setattr(search, "_BLOCK_SCORES", 40 * 50)
    with LargestTensor() as bounded:
        found = pool.rank(0, slice(0, 40), relevant, 3, 5)
    assert bounded.elements == 40 * 50
    for one, other in zip(arrays_of(found), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_block_is_as_high_as_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_BLOCK_SCORES", 10_000)
    assert block_height([30, 0, 9]) == 256  # all scores of so many queries
    assert block_height([30, 0, 10]) == 100  # else as many queries as passages, and tiles of those
    assert block_height([10**9]) == 100
    assert dense_pool(tmp_path).block_height == 10_000 // 13
    assert GivenPool(random_scores([39]), [39]).block_height == 256
    assert GivenPool(random_scores([400]), [400]).block_height == 25
    assert GivenPool(torch.zeros(1, 20_000), [20_000]).block_height == 1


def test_scores_stay_in_float32_under_autocast(tmp_path: Path) -> None:
    queries, passages = (vectors(number, number, whole_numbers=False) for number in (5, 40))
    pool = DensePool([saved(tmp_path, "q", queries, [5])], [saved(tmp_path, "p", passages, [40])], torch.device("cpu"))
    expected = pool.scores(0, slice(0, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = torch.from_numpy(queries) @ torch.from_numpy(passages).T
        assert product.dtype == torch.bfloat16
        assert not torch.equal(product.float(), expected)
        found = pool.scores(0, slice(0, 5))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.fixture
def short_products() -> Iterator[list[Any]]:
    """As after `torch.set_float32_matmul_precision("medium")`, or under a `Trainer` with `tf32=True`."""
    products: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    before = [product.fp32_precision for product in products]
    for product, precision in zip(products, ("tf32", "bf16"), strict=True):
        product.fp32_precision = precision
    yield products
    for product, precision in zip(products, before, strict=True):
        product.fp32_precision = "none"  # then it is what torch says for all products
        if product.fp32_precision != precision:
            product.fp32_precision = precision


def test_products_are_not_made_of_shorter_numbers(
    short_products: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, multiply = [], torch.mm

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append([product.fp32_precision for product in short_products])
        return multiply(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", noted)
    dense_pool(tmp_path).scores(0, slice(0, 7))
    assert seen == [["ieee", "ieee"]] * NUM_SHARDS
    assert [product.fp32_precision for product in short_products] == ["tf32", "bf16"]


class Mappings:
    """Counts the shards that are opened, and how many of them are alive at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = self.most_alive = 0
        self._seen: list[weakref.ref[np.ndarray]] = []
        load = np.load

        def counted_load(*args: Any, **kwargs: Any) -> np.ndarray:
            mapped = load(*args, **kwargs)
            assert isinstance(mapped, np.memmap)  # no shard is read whole
            self.opened += 1
            self._seen.append(weakref.ref(mapped))
            self.most_alive = max(self.most_alive, self.alive)
            return mapped

        monkeypatch.setattr(np, "load", counted_load)

    @property
    def alive(self) -> int:
        return sum(reference() is not None for reference in self._seen)

    def start(self) -> None:
        self.opened = self.most_alive = 0


NUM_SHARDS = 5  # of passages, where they are of several sizes


def test_a_pool_that_is_too_large_is_read_shard_by_shard_for_each_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = sum(path.stat().st_size for path in dense_pool(tmp_path)._shards)
    monkeypatch.setattr(search, "_RESIDENT_BYTES", num_bytes - 1)
    mappings = Mappings(monkeypatch)
    pool = dense_pool(tmp_path)
    assert mappings.alive == 0
    assert mappings.most_alive == 1
    pool.scores(0, slice(0, 7))  # reads the queries
    for _ in range(2):
        mappings.start()
        pool.scores(0, slice(0, 7))
        assert mappings.opened == NUM_SHARDS
        assert mappings.most_alive <= 2
        assert mappings.alive == 0


def test_a_pool_that_is_small_enough_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_bytes = sum(path.stat().st_size for path in dense_pool(tmp_path)._shards)
    monkeypatch.setattr(search, "_RESIDENT_BYTES", num_bytes)
    mappings = Mappings(monkeypatch)
    pool = dense_pool(tmp_path)
    assert mappings.alive == NUM_SHARDS
    pool.scores(0, slice(0, 7))  # reads the queries
    mappings.start()
    pool.scores(0, slice(0, 7))
    assert mappings.opened == 0


def test_queries_of_a_block_are_read_once_for_all_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = dense_pool(tmp_path)
    mappings = Mappings(monkeypatch)
    for first in range(12):
        pool.scores(0, slice(0, 7), slice(first, first + 1))
    assert mappings.opened == 3
    pool.scores(0, slice(2, 3))
    pool.scores(2, slice(2, 3))
    assert mappings.opened == 3 + 3 + 2


class NotingPool(GivenPool):
    """Remembers which tiles it was asked for, and how many were alive at once."""

    def __init__(self, scores_QN: torch.Tensor, sizes: Sequence[int], width: int | None = None) -> None:
        super().__init__(scores_QN, sizes, width)
        self.asked: list[tuple[int, int]] = []
        self.most_alive = 0
        self._made: list[weakref.ref[torch.Tensor]] = []

    def scores(self, language: int, queries: slice, passages: slice = slice(None)) -> torch.Tensor:
        made = super().scores(language, queries, passages).clone()
        self.asked.append((passages.start, passages.stop))
        self._made.append(weakref.ref(made))
        self.most_alive = max(self.most_alive, sum(reference() is not None for reference in self._made))
        return made


@pytest.mark.parametrize(
    ("width", "relevant_in", "asked"),
    [
        (24, (0, 24), [(0, 24)]),
        (10, (0, 24), [(0, 10), (10, 20), (20, 24)] * 2),
        (10, (10, 20), [(10, 20), (0, 10), (10, 20), (20, 24)]),
        (10, (0, 0), [(0, 10), (10, 20), (20, 24)]),
    ],
)
def test_a_tile_is_computed_as_often_as_needed_and_never_held_beside_another(
    width: int, relevant_in: tuple[int, int], asked: list[tuple[int, int]]
) -> None:
    sizes = SIZES["several languages"]
    scores, relevant = random_scores(sizes), random_relevant(sizes)
    relevant = relevant.take((relevant.passage_R >= relevant_in[0]) & (relevant.passage_R < relevant_in[1]))
    pool = NotingPool(scores, sizes, width)
    pool.rank(0, slice(0, 8), relevant, 3, 4)
    assert pool.asked == asked
    assert pool.most_alive == 1


@pytest.mark.parametrize("width", [1, 5, 7])
@pytest.mark.parametrize("values", [1, 2, 5, 50, 10_000])
def test_tiles_change_nothing(values: int, width: int) -> None:
    """Where all scores tie, where most do, and where few do."""
    sizes = [0, 23, 40, 1, 57, 0]
    scores = np.random.default_rng(values).integers(0, values, size=(40, sum(sizes))).astype(np.float32)
    relevant = random_relevant(sizes, num_queries=40)
    found, expected = (
        GivenPool(torch.from_numpy(scores), sizes, tile).rank(2, slice(0, 40), relevant, 10, 20)
        for tile in (width, None)
    )
    for one, other in zip(arrays_of(found), arrays_of(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("width", [1, 3, 9])
def test_scores_that_rise_or_fall_from_tile_to_tile(width: int) -> None:
    """The last of the top k changes with each tile, or never again."""
    steps = np.repeat([0.0, 1.0, 2.0, 2.0, 3.0, 3.0], 3).astype(np.float32)
    scores = torch.from_numpy(np.stack([steps, steps[::-1], np.ones(18, dtype=np.float32)]))
    assert share(scores, [9, 9], 0, 4, width) == [0, 1, 0.5]
    assert share(scores, [9, 9], 1, 8, width) == [(6 + 2 * 1 / 2) / 8, 2 * (1 / 2) / 8, 0.5]


def test_a_relevant_score_is_that_of_the_product_it_is_compared_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a rounding could put a passage behind or before itself."""
    generator = np.random.default_rng(0)
    queries, passages = (generator.standard_normal((number, 384), dtype=np.float32) for number in (37, 501))
    paths = [saved(tmp_path, "q", queries, [20, 17]), saved(tmp_path, "p", passages, [100, 203, 198])]
    pool, relevant = DensePool([paths[0]], [paths[1]], torch.device("cpu")), random_relevant([501], num_queries=37)
    monkeypatch.setattr(search, "_BLOCK_SCORES", 37 * 64)
    monkeypatch.setattr(search, "_PRODUCT_ROWS", 50)
    tiles = pool._tiles(37)
    assert len(tiles) == 8
    products = torch.cat([pool.scores(0, slice(0, 37), tile) for tile in tiles], dim=1)
    np.testing.assert_allclose(products, queries @ passages.T, rtol=1e-4, atol=1e-4)
    found = pool.rank(0, slice(0, 37), relevant, 10, 20)
    assert (found.score_R != (queries[relevant.query_R] * passages[relevant.passage_R]).sum(axis=1)).any()
    columns = zip(found.own_R.tolist(), found.pool_R.tolist(), found.score_R.tolist(), strict=True)
    assert list(columns) == counts_written_out(products, relevant, [501])
    np.testing.assert_array_equal(found.best[1].passage_BP, stable(products, 20))


def test_a_large_pool_is_read_twice_for_a_block_in_several_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_RESIDENT_BYTES", 0)
    pool, relevant = dense_pool(tmp_path), random_relevant(POOL_SIZES, num_queries=7)
    pool.scores(0, slice(0, 7))  # reads the queries
    mappings = Mappings(monkeypatch)
    for block_scores, opened in (
        (7 * 13, NUM_SHARDS),
        (7 * 9, 2 * NUM_SHARDS),  # the tiles end with the languages
        (7 * 6, 2 * (NUM_SHARDS + 2)),  # at places 6 and 12, within shards
    ):
        monkeypatch.setattr(search, "_BLOCK_SCORES", block_scores)
        mappings.start()
        pool.rank(0, slice(0, 7), relevant, 3, 2)
        assert mappings.opened == opened
        assert mappings.most_alive <= 2
        assert mappings.alive == 0


def test_precision_is_put_back_after_an_error_and_still_follows_the_general_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    products: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    backends: Any = torch.backends
    pool, before = dense_pool(tmp_path), backends.fp32_precision
    try:
        backends.fp32_precision = "tf32"  # what a Trainer does with `tf32=True`
        monkeypatch.setattr(torch, "mm", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pool.scores(0, slice(0, 1))
        assert {product.fp32_precision for product in products} == {"tf32"}
        backends.fp32_precision = "ieee"
        assert {product.fp32_precision for product in products} == {"ieee"}
    finally:
        backends.fp32_precision = before
