"""Measures of language bias by hand, and against SciPy where it has the same."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hf_hybrid.metrics.beir_cross_lingual.bias import (
    bias_by_query,
    lacks_rank_distance,
    mlrs,
    mrc,
    peer,
    rank_distance,
    recall_by_language,
    same_language_share,
)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def peer_of(ranks: Sequence[float], languages: list[int], **settings: Any) -> float:
    """PEER of one query."""
    found = peer(np.zeros(len(ranks), int), np.array(ranks, float), np.array(languages), 1, **settings)
    return float(found.item())


def test_peer_by_hand() -> None:
    # Ranks 1 2 | 3 4: means 1.5 and 3.5 about 2.5, H = 3 * (2 * 1 + 2 * 1) / (2.25 + 0.25 + 0.25 + 2.25) = 2.4.
    # The tail of chi-square with one degree of freedom is that of a normal on both sides.
    assert peer_of([1, 2, 3, 4], [0, 0, 1, 1]) == pytest.approx(math.erfc(math.sqrt(2.4 / 2)))
    assert peer_of([1, 4, 2, 3], [0, 0, 1, 1]) == 1  # means 2.5 and 2.5
    # Three languages, ranks 1 4 | 2 5 | 3 9: means 2.5 3.5 6 about 4, squares 9 0 4 1 1 25,
    # H = 5 * 2 * (2.25 + 0.25 + 4) / 40 = 1.625; with two degrees of freedom the tail is exp(-H / 2).
    assert peer_of([1, 4, 2, 5, 3, 9], [0, 0, 1, 1, 2, 2]) == pytest.approx(math.exp(-1.625 / 2))


def test_peer_with_documents_that_were_not_retrieved_by_hand() -> None:
    # Ranks 1 3 | 2 and two that were not retrieved, which share 5 + (2 + 1) / 2 = 6.5: means 2 and 5 about 3.8,
    # squares 7.84 0.64 3.24 7.29 7.29, H = 4 * (2 * 3.24 + 3 * 1.44) / 26.3.
    expected = math.erfc(math.sqrt(4 * 10.8 / 26.3 / 2))
    assert peer_of([1, 3, 2, np.inf, np.inf], [0, 0, 1, 1, 1]) == pytest.approx(expected)
    assert peer_of([1, 3, 2, 11, 500], [0, 0, 1, 1, 1], cutoff=10) == pytest.approx(expected)
    # behind place 10 they share 11.5: means 2 and 25 / 3 about 5.8
    between = 2 * 3.8**2 + 3 * (25 / 3 - 5.8) ** 2
    within = 4.8**2 + 2.8**2 + 3.8**2 + 2 * 5.7**2
    found = peer_of([1, 3, 2, 11, 500], [0, 0, 1, 1, 1], cutoff=10, unretrieved_after=10)
    assert found == pytest.approx(math.erfc(math.sqrt(4 * between / within / 2)))


def test_peer_where_nothing_can_be_told_apart() -> None:
    assert peer_of([1, 2, 9], [1, 1, 1]) == 1
    assert peer_of([np.inf, np.inf], [0, 1]) == 1
    assert peer_of([200, 300], [0, 1], cutoff=100) == 1
    assert peer_of([4], [0]) == 1
    assert peer(np.zeros(0, int), np.zeros(0), np.zeros(0, int), 2).tolist() == [1, 1]
    # one of each can never be significant
    assert peer_of([1, 99], [0, 1]) == pytest.approx(math.erfc(math.sqrt(1 / 2))) == pytest.approx(0.3173, abs=1e-4)


def test_peer_of_levels_by_hand() -> None:
    ranks, languages, levels = [1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 0, 1], [2, 2, 2, 2, 1, 1]
    high, low = math.erfc(math.sqrt(2.4 / 2)), math.erfc(math.sqrt(1 / 2))
    for weights in ({1: 0.25, 2: 0.75}, {0: 0.0, 1: 0.25, 2: 0.75}):
        found = peer_of(ranks, languages, level_R=np.array(levels), weights=weights)
        assert found == pytest.approx(0.25 * low + 0.75 * high)
    # a level without documents has nothing to tell apart; one without weight does not count
    assert peer_of(ranks, languages, level_R=np.array(levels), weights={2: 0.5, 7: 0.5}) == pytest.approx(
        (high + 1) / 2
    )


def test_peer_of_level_zero_counts_retrieved_documents_only() -> None:
    ranks, languages, levels = [1, 2, 3, 4, np.inf, 900], [0, 0, 1, 1, 0, 0], [0] * 6
    found = peer_of(ranks, languages, cutoff=10, level_R=np.array(levels), weights={0: 1.0})
    assert found == pytest.approx(math.erfc(math.sqrt(2.4 / 2)))


def test_peer_refuses_levels_without_weights() -> None:
    with pytest.raises(ValueError, match="weights=None"):
        peer_of([1, 2], [0, 1], level_R=np.array([1, 2]))
    with pytest.raises(ValueError, match="1 in sum"):
        peer_of([1, 2], [0, 1], level_R=np.array([1, 2]), weights={1: 0.5, 2: 0.6})


@pytest.mark.parametrize("num_languages", [2, 3, 11])
def test_peer_equals_scipy_where_ranks_have_no_gaps(num_languages: int) -> None:
    """SciPy ranks what it is given anew, so the documents of a query have ranks from 1 to M here."""
    rng = np.random.default_rng(num_languages)
    queries, ranks, languages, expected = [], [], [], []
    for query in range(50):
        size = int(rng.integers(2 * num_languages, 60))
        language = rng.permutation(np.arange(size) % num_languages)
        rank = rng.permutation(size) + 1.0
        if query % 2:
            rank[language == 0] = np.sort(rank)[: (language == 0).sum()]  # ties, and the first language ahead
            rank = stats.rankdata(rank)
        expected.append(stats.kruskal(*(rank[language == number] for number in range(num_languages))).pvalue)
        queries += [query] * size
        ranks += rank.tolist()
        languages += language.tolist()
    shuffle = rng.permutation(len(queries))
    query_R, rank_R, language_R = (np.array(column)[shuffle] for column in (queries, ranks, languages))
    found = peer(query_R, rank_R, language_R, 50)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert min(expected) < 0.05 < 0.5 < max(expected)


def test_peer_is_uniform_where_languages_are_treated_alike() -> None:
    rng = np.random.default_rng(0)
    rank_QM = rng.permuted(np.tile(np.arange(1.0, 61.0), (2_000, 1)), axis=1)
    query, language = np.repeat(np.arange(2_000), 60), np.tile(np.arange(60) % 3, 2_000)
    found = peer(query, rank_QM.ravel(), language, 2_000)
    assert np.quantile(found, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
    behind = peer(query, (rank_QM + 8 * (language.reshape(2_000, 60) == 2)).ravel(), language, 2_000)
    assert behind.mean() < found.mean() - 0.1


def test_recall_by_language_by_hand() -> None:
    query, rank, language = np.array([1, 0, 0, 0, 1]), np.array([7, 100, 101, np.inf, 3]), np.array([2, 0, 0, 1, 2])
    found = recall_by_language(query, rank, language, 2, 3, 100)
    np.testing.assert_array_equal(found, [[0.5, 0, np.nan], [np.nan, np.nan, 1]])


def share(scores: list[float], languages: str, own: str, cutoff: int) -> float:
    query, language = np.zeros(len(scores), int), np.array(list(languages), dtype="U1")
    return float(same_language_share(query, np.array(scores), language, np.array([own]), cutoff).item())


def test_same_language_share_by_hand() -> None:
    assert share([3, 1, 2, 0], "abab", "a", 2) == 1  # first and third
    assert share([3, 1, 2, 0], "abab", "b", 3) == pytest.approx(1 / 3)
    assert share([3, 1, 2, 0], "abab", "c", 3) == 0
    # b has the first place; the other two go to the three that tie, two of them a: 2 * 2 / 3 of 3 places
    assert share([5, 4, 4, 4, 1], "babac", "a", 3) == pytest.approx(2 * 2 / 3 / 3)
    assert share([5, 4, 4, 4, 1], "babac", "b", 3) == pytest.approx((1 + 2 * 1 / 3) / 3)


def test_same_language_share_of_short_rankings_and_many_queries() -> None:
    query, score = np.array([2, 0, 2, 0, 0]), np.array([0.5, 0.1, 0.7, 0.2, 0.3])
    language, own = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1])
    np.testing.assert_allclose(same_language_share(query, score, language, own, 2), [0.5, np.nan, 0.5])
    np.testing.assert_allclose(same_language_share(query, score, language, own, 10), [2 / 3, np.nan, 0.5])


def test_same_language_share_does_not_depend_on_the_order_of_the_corpus() -> None:
    rng = np.random.default_rng(0)
    query, score, language = rng.integers(0, 20, 600), rng.integers(0, 4, 600) / 4, rng.integers(0, 3, 600)
    own, shuffle = rng.integers(0, 3, 20), rng.permutation(600)
    found = same_language_share(query, score, language, own, 10)
    again = same_language_share(query[shuffle], score[shuffle], language[shuffle], own, 10)
    np.testing.assert_allclose(found, again, rtol=1e-12)
    assert len(set(found.tolist())) > 10


def spearman(first: list[int], second: list[int]) -> float:
    """By SciPy, on the union of both, what a ranking lacks sharing its last places."""
    union = sorted({*first, *second})
    places = [[top.index(name) if name in top else len(top) for name in union] for top in (first, second)]
    return float(stats.spearmanr(*places).statistic)


def test_mrc_by_hand() -> None:
    assert mrc(np.array([[[7, 6, 5], [7, 6, 5]]]))[0] == pytest.approx([1, 1])
    assert mrc(np.array([[[5, 6, 7], [7, 6, 5]]]))[0] == pytest.approx([-1, -1])
    # three of one order, one swap in another: 1 - 6 * (1 + 1) / (3 * 8) = 0.5
    assert mrc(np.array([[[5, 6, 7], [6, 5, 7]]]))[0] == pytest.approx([0.5, 0.5])
    # nothing in common: ranks 1 2 3.5 3.5 and 3.5 3.5 1 2 about 2.5
    assert mrc(np.array([[[5, 6], [7, 8]]]))[0] == pytest.approx([-4.0 / 4.5, -4.0 / 4.5])
    assert mrc(np.array([[[5], [5]]])).tolist() == [[1, 1]]


def test_mrc_equals_scipy_on_unions() -> None:
    rng = np.random.default_rng(0)
    top = np.stack([[rng.permutation(12)[:6] for _ in range(3)] for _ in range(30)])
    top[3, 1, 4:] = -1  # a ranking that is shorter
    found = mrc(top)
    for rankings, values in zip(top.tolist(), found, strict=True):
        lists = [[name for name in ranking if name >= 0] for ranking in rankings]
        expected = [np.mean([spearman(lists[a], lists[b]) for b in range(3) if b != a]) for a in range(3)]
        assert values == pytest.approx(expected, abs=1e-12)
    assert found.min() < 0 < found.max()


def test_mrc_of_whole_rankings_is_spearman() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.permutation(50), rng.permutation(50)
    expected = stats.spearmanr(np.argsort(first), np.argsort(second)).statistic
    assert mrc(np.stack([first, second])[None])[0] == pytest.approx([expected, expected])


def test_mrc_leaves_out_languages_that_a_query_is_not_in() -> None:
    top = np.array([[[1, 2], [-1, -1], [2, 1]], [[1, 2], [-1, -1], [-1, -1]]])
    np.testing.assert_allclose(mrc(top), [[-1, np.nan, -1], [np.nan] * 3])


def test_rank_distance_by_hand() -> None:
    query, rank = np.array([1, 0, 1, 0, 1, 2]), np.array([5, 9, 300, 9, 41, 7])
    assert rank_distance(query, rank, 3).tolist() == [0, 295, 0]


def test_rank_distance_of_what_was_not_retrieved() -> None:
    query, rank = np.array([0, 0, 1, 1, 3]), np.array([5, np.inf, np.inf, np.inf, np.inf])
    assert rank_distance(query, rank, 4).tolist() == [np.inf, np.inf, 0, np.inf]


def test_bias_by_query_by_hand() -> None:
    """Queries of language 1: with all documents found, with one that was not, in one language, in another one."""
    query_R, language_R = np.array([0, 0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 1, 1, 2, 1, 1, 0])
    rank_R = np.array([3, 21, 101, 2, np.inf, 1, np.inf, 100])
    last_R = np.array([3, 20, 101, 2, np.inf, 1, np.inf, 100])  # the second is the first of two that tie for 20 and 21
    found = bias_by_query(query_R, rank_R, last_R, language_R, 1, 4, np.array([0.1, 0.2, np.nan, 0.4]))
    # of the first query ranks 3 | 20 and one beyond, which has 3 + (1 + 1) / 2 = 4: means 3 and 12 about 9,
    # squares 36 121 25, H = 2 * (36 + 2 * 9) / 182; of the second 2 and 2 + 1 = 3, one document a language
    first, one_each = math.erfc(math.sqrt(2 * 54 / 182 / 2)), math.erfc(math.sqrt(1 / 2))
    expected = {
        "rank_distance": [98, np.nan, np.nan, np.nan],
        "PEER": [first, one_each, np.nan, np.nan],
        "same_language_share@10": [0.1, 0.2, np.nan, 0.4],
        "same_language_recall@100": [1 / 2, 1, 1 / 2, np.nan],
        "other_language_recall@100": [1, 0, np.nan, 1],
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)
    assert lacks_rank_distance(found).tolist() == [False, True, False, False]


def test_bias_of_queries_in_a_language_that_has_no_documents() -> None:
    found = bias_by_query(np.array([0, 0]), np.array([1, 4]), np.array([1, 4]), np.array([0, 1]), -1, 1, np.zeros(1))
    assert found["rank_distance"].tolist() == [3]
    assert found["other_language_recall@100"].tolist() == [1]
    assert np.isnan(found["same_language_recall@100"]).all()


def test_mlrs_by_hand() -> None:
    # Ranks 1 2 3 4 become 3 1 4 2: they rise by 0 1 0 2, at most by 0 1 2 3. The second query has one document.
    query, rank, translated = np.array([0, 0, 1, 0, 0]), np.array([1, 2, 1, 3, 4]), np.array([3, 1, 1, 4, 2])
    assert mlrs(query, rank, translated, 3).tolist() == [50, 0, 0]
    assert mlrs(query, rank, rank, 3).tolist() == [0, 0, 0]
