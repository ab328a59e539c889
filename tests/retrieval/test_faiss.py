"""Approximate search against exact search over the same shards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.records.schema import Scores
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.retrieval import faiss as approximate
from hf_hybrid.retrieval import search
from hf_hybrid.retrieval.faiss import FaissPool
from hf_hybrid.retrieval.search import Block, DensePool, Relevant
from tests.support.toys import toy_corpus, toy_encoder

pytestmark = pytest.mark.usefixtures("one_thread")
NUM_QUERIES = 12


def unit_vectors(number: int, seed: int) -> np.ndarray:
    """Scores of these hardly ever tie."""
    found = np.random.default_rng(seed).standard_normal((number, 16))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def whole_numbers(number: int, seed: int) -> np.ndarray:
    """Many scores of these tie, and float32 holds each exactly."""
    return np.random.default_rng(seed).integers(-1, 2, size=(number, 4)).astype(np.float32)


def clusters(number: int, seed: int) -> np.ndarray:
    """Unit vectors near to one of forty; every fortieth to the same."""
    centers, noise = unit_vectors(40, seed=99), np.random.default_rng(seed).standard_normal((number, 16))
    found = centers[np.arange(number) % 40] + 0.1 * noise
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def saved(folder: Path, name: str, whole_ND: np.ndarray) -> list[Path]:
    """In three shards of different height, none where there is nothing."""
    parts = np.split(whole_ND, [len(whole_ND) // 5, len(whole_ND) // 2]) if len(whole_ND) else []
    paths = [folder / f"{name}.{number}.npy" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        np.save(path, part)
    return paths


class Pools:
    """The same vectors in both pools; each language's queries are the same."""

    def __init__(self, folder: Path, queries: np.ndarray, passages: Sequence[np.ndarray]) -> None:
        self.sizes = [len(part) for part in passages]
        asked = [saved(folder, "queries", queries)] * len(passages)
        shards = [saved(folder, f"passages{number}", part) for number, part in enumerate(passages)]
        self.exact = DensePool(asked, shards, torch.device("cpu"))
        self.approximate = FaissPool(asked, shards)

    def rank(self, relevant: Relevant, queries: slice = slice(0, NUM_QUERIES), language: int = 0) -> list[Block]:
        """Of both, the approximate one first."""
        return [pool.rank(language, queries, relevant, 10, 30) for pool in (self.approximate, self.exact)]


def random_relevant(sizes: Sequence[int], each: int = 6, seed: int = 0) -> Relevant:
    rng = np.random.default_rng(seed)
    query_R = np.repeat(np.arange(NUM_QUERIES), each)
    passage_R = np.concatenate([np.sort(rng.permutation(sum(sizes))[:each]) for _ in range(NUM_QUERIES)])
    language_R = np.searchsorted(np.cumsum(sizes), passage_R, side="right")
    return Relevant(query_R, language_R, passage_R, np.ones(len(query_R), dtype=np.int32))


# Exact indexes


def test_small_languages_are_ranked_as_in_exact_search(tmp_path: Path) -> None:
    sizes = [120, 0, 300, 7]
    pools = Pools(tmp_path, unit_vectors(NUM_QUERIES, 0), [unit_vectors(size, 1 + size) for size in sizes])
    assert pools.approximate.sizes == sizes
    for language in (0, 2, 3):
        found, expected = pools.rank(random_relevant(sizes), language=language)
        np.testing.assert_array_equal(found.own_R, expected.own_R)
        np.testing.assert_array_equal(found.pool_R, expected.pool_R)
        np.testing.assert_allclose(found.score_R, expected.score_R, rtol=1e-5)
        np.testing.assert_allclose(found.share_B, expected.share_B)
        np.testing.assert_array_equal(found.first_BP, expected.first_BP)
        for one, other in zip(found.best, expected.best, strict=True):
            np.testing.assert_array_equal(one.passage_BP, other.passage_BP)
            np.testing.assert_allclose(one.score_BP, other.score_BP, rtol=1e-5, atol=1e-6)
    assert expected.pool_R.max() > 300
    assert {part.passage_BP.shape[1] for part in found.best} == {30, 0, 7}


def test_a_block_of_queries_is_that_part_of_the_whole(tmp_path: Path) -> None:
    pools = Pools(tmp_path, unit_vectors(NUM_QUERIES, 0), [unit_vectors(50, 1), unit_vectors(60, 2)])
    relevant = random_relevant(pools.sizes)
    here = (relevant.query_R >= 4) & (relevant.query_R < 9)
    part = relevant.take(here)
    found, _ = pools.rank(part._replace(query_R=part.query_R - 4), slice(4, 9))
    whole, _ = pools.rank(relevant)
    np.testing.assert_array_equal(found.pool_R, whole.pool_R[here])
    np.testing.assert_array_equal(found.first_BP, whole.first_BP[4:9])


@pytest.mark.parametrize("vectors", [unit_vectors, whole_numbers])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_what_is_beyond_the_first_places_is_not_found(
    k: int, vectors: Callable[[int, int], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count is exact or infinite, and infinite only where it has to be."""
    monkeypatch.setattr(approximate, "NUM_RANKED", k)
    sizes = [50, 10, 200, k]
    passages = [vectors(size, 1 + size) for size in sizes]
    queries = vectors(NUM_QUERIES, 0)
    pools, relevant = Pools(tmp_path, queries, passages), random_relevant(sizes, each=12)
    found, expected = pools.rank(relevant)
    truth_RL = reach_written_out(queries @ np.concatenate(passages).T, relevant, sizes)

    own_truth_R = truth_RL[np.arange(len(relevant.query_R)), relevant.language_R]
    assert own_truth_R.tolist() == expected.own_R.tolist()
    whole_L = np.array(sizes) <= k + 1
    own_known_R = (own_truth_R <= k) | whole_L[relevant.language_R]
    np.testing.assert_array_equal(found.own_R, np.where(own_known_R, own_truth_R, np.inf))

    pool_known_R = ((truth_RL <= k) | whole_L).all(axis=1)
    np.testing.assert_array_equal(found.pool_R, np.where(pool_known_R, truth_RL.sum(axis=1), np.inf))
    assert 0 < np.isfinite(found.pool_R).sum() < np.isfinite(found.own_R).sum() < len(found.own_R) or k == 1
    assert np.isfinite(found.own_R).any()


def reach_written_out(scores_QN: np.ndarray, relevant: Relevant, sizes: Sequence[int]) -> np.ndarray:
    """`(R, L)`: how many passages of each language reach the score of each relevant one."""
    ends = np.cumsum(sizes)
    rows = []
    for query, passage in zip(relevant.query_R, relevant.passage_R, strict=True):
        reach = scores_QN[query] >= scores_QN[query, passage]
        rows.append([int(part.sum()) for part in np.split(reach, ends[:-1])])
    return np.array(rows)


def test_rankings_are_as_long_as_asked_and_change_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [50, 5]
    pools = Pools(tmp_path, unit_vectors(NUM_QUERIES, 0), [unit_vectors(size, 1 + size) for size in sizes])
    monkeypatch.setattr(approximate, "NUM_RANKED", 8)
    relevant = random_relevant(sizes)
    short = pools.approximate.rank(0, slice(0, NUM_QUERIES), relevant, 10, 0)
    found, expected = pools.rank(relevant)  # 30 places
    assert [part.passage_BP.shape[1] for part in found.best] == [30, 5, 30]
    for one, other in zip(found.best, expected.best, strict=True):
        np.testing.assert_array_equal(one.passage_BP, other.passage_BP)
    for column in ("own_R", "pool_R", "score_R"):
        np.testing.assert_array_equal(getattr(found, column), getattr(short, column))
    assert 0 < np.isinf(found.own_R).sum() < len(found.own_R)


class NotingIndex:
    """An index that remembers what it was asked."""

    def __init__(self, index: Any, asked: list[np.ndarray]) -> None:
        self._index, self._asked = index, asked
        self.ntotal = index.ntotal

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self._asked.append(queries)
        return self._index.search(queries, k)


def test_only_the_rows_that_are_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = Pools(tmp_path, unit_vectors(NUM_QUERIES, 0), [unit_vectors(20, 1)])
    modes, load = [], np.load

    def noted_load(path: Path, mmap_mode: Any = None) -> np.ndarray:
        modes.append(mmap_mode)
        return load(path, mmap_mode=mmap_mode)

    monkeypatch.setattr(np, "load", noted_load)
    asked: list[np.ndarray] = []
    index = pools.approximate._indexes[0]
    monkeypatch.setattr(pools.approximate, "_indexes", [NotingIndex(index, asked)])
    pools.approximate.rank(0, slice(5, 7), random_relevant([20]).take(slice(0, 0)), 10, 0)
    assert modes == ["r"] * 3
    np.testing.assert_array_equal(asked[0], unit_vectors(NUM_QUERIES, 0)[5:7])


def test_its_blocks_do_not_shrink_with_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = Pools(tmp_path, unit_vectors(NUM_QUERIES, 0), [unit_vectors(20, 1)])
    monkeypatch.setattr(search, "_BLOCK_SCORES", 1)
    assert pools.exact.block_height == 1
    assert pools.approximate.block_height == 1024


# Inverted lists


def clustered_pools(folder: Path, monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int] = (1200, 60)) -> Pools:
    """The first language is past the limit for exact search."""
    monkeypatch.setattr(approximate, "_EXACT_UP_TO", 100)
    pools = Pools(folder, clusters(NUM_QUERIES, 0), [clusters(size, 1 + size) for size in sizes])
    kinds = [type(index) for index in pools.approximate._indexes]
    assert kinds == [faiss.IndexIVFFlat if size > 100 else faiss.IndexFlatIP for size in sizes]
    return pools


def test_inverted_lists_find_most_of_the_first_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = clustered_pools(tmp_path, monkeypatch)
    index = pools.approximate._indexes[0]
    assert index.nprobe < index.nlist / 10
    found, expected = pools.rank(random_relevant(pools.sizes))
    for one, other in zip(found.best, expected.best, strict=True):
        both = [
            len(np.intersect1d(*rows)) for rows in zip(one.passage_BP[:, :10], other.passage_BP[:, :10], strict=True)
        ]
        assert np.mean(both) > 9
    np.testing.assert_array_equal(found.best[1].passage_BP, expected.best[1].passage_BP)  # this one is exact


def test_passages_in_lists_that_are_not_looked_at_are_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = clustered_pools(tmp_path, monkeypatch)
    relevant = random_relevant(pools.sizes, each=40)
    found, expected = pools.rank(relevant)
    _, k = pools.approximate._indexes[0].search(clusters(NUM_QUERIES, 0), 1001)
    assert (k < 0).any(axis=1).all()  # the lists hold fewer
    for query, language, passage, own, pool, score, exact in zip(
        relevant.query_R,
        relevant.language_R,
        relevant.passage_R,
        found.own_R,
        found.pool_R,
        found.score_R,
        expected.score_R,
        strict=True,
    ):
        if language == 1 or passage in k[query]:
            assert np.isfinite([own, pool]).all()
            assert score == pytest.approx(exact, abs=1e-5)
        else:
            assert (own, pool, score) == (np.inf, np.inf, -np.inf)
    assert 0 < np.isinf(found.own_R).sum() < len(found.own_R)


def test_places_that_nothing_was_found_for_are_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "_PROBED", 1e-9)  # one list
    pools = clustered_pools(tmp_path, monkeypatch, sizes=(2, 300))
    shares, relevant = [], random_relevant(pools.sizes, each=40)
    for language in range(2):
        block = pools.approximate.rank(language, slice(0, NUM_QUERIES), relevant, 10, 30)
        for passages_BP, scores_BP in block.best:
            np.testing.assert_array_equal(passages_BP < 0, np.isneginf(scores_BP))
            assert (np.diff((passages_BP < 0).astype(int), axis=1) >= 0).all()  # the last ones
        held_BP = block.first_BP >= 0
        own_BP = held_BP & ((block.first_BP < 2) if language == 0 else (block.first_BP >= 2))
        assert block.share_B == pytest.approx(own_BP.sum(axis=1) / held_BP.sum(axis=1))
        assert (block.share_B > 0).all()
        shares.append(block.share_B)
    assert not held_BP.all()
    np.testing.assert_allclose(shares[0] + shares[1], 1)
    # as many places as passages, and yet some passages are not found
    np.testing.assert_array_equal(np.isinf(block.own_R), np.isinf(block.pool_R))
    assert 0 < np.isinf(block.own_R).sum() < len(block.own_R)


# In an evaluation


def evaluated(index: str, **options: object) -> Scores:
    corpus = toy_corpus(40, ("de", "en", "zh"))
    return evaluate_retrieval(toy_encoder(corpus), corpus, index=index, **options)  # type: ignore[arg-type]


def every_value(scores: Scores) -> dict[str, float]:
    pairs = {f"{pair}/{name}": value for pair, found in scores["pairs"].items() for name, value in found.items()}
    return {**flatten_scores(scores), **pairs}


def test_an_evaluation_of_small_languages_has_the_scores_of_exact_search() -> None:
    found, expected = every_value(evaluated("faiss")), every_value(evaluated("exact"))
    assert found == pytest.approx(expected)
    assert 0 < found["multilingual/MAP"] < 1


def test_measures_of_the_first_places_do_not_need_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    measures = ["MRR@5", "nDCG@5", "Recall@5", "P@3", "success@1", "MAP"]
    exact = every_value(evaluated("exact", measures=measures))
    monkeypatch.setattr(approximate, "NUM_RANKED", 5)
    found = every_value(evaluated("faiss", measures=measures))
    cut = [name for name in found if name.split("/")[1] in measures[:-1]]
    assert len(cut) == 5 * (3 + 9)
    assert {name: found[name] for name in cut} == pytest.approx({name: exact[name] for name in cut})
    assert found["monolingual/MAP"] < exact["monolingual/MAP"]
    assert found["multilingual/MAP"] < exact["multilingual/MAP"]
    assert "bias/rank_distance" in exact
    assert "bias/rank_distance" not in found  # nobody knows the ranks at the end


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[faiss\]"'):
        evaluated("faiss")
