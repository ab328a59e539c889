"""Measures by hand, against whole rankings sorted and walked through, and against trec_eval."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import pytrec_eval

from hf_hybrid.metrics.beir_cross_lingual.ranking import MEASURES, measures, rank_distance, relevant_ranks


def measured(ranks: list[int], gains: list[int] | None = None) -> dict[str, float]:
    """The measures of one query."""
    found = measures(np.zeros(len(ranks), int), np.array(ranks), np.array(gains or [1] * len(ranks)), 1)
    return {name: float(value) for name, (value,) in found.items()}


def from_scores(scores_QN: np.ndarray, gains_QN: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of whole score matrices, by counting."""
    query, document = np.nonzero(gains_QN)
    score, gain = scores_QN[query, document], gains_QN[query, document]
    at_least = (scores_QN[query] >= score[:, None]).sum(axis=1)
    return measures(query, relevant_ranks(at_least, query, score, gain), gain, len(scores_QN))


def walked(gains: list[int]) -> dict[str, float]:
    """The measures of one query, by their definition, from the gains of all documents in the order of the ranking."""

    def discounted(gains: list[int]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:10], start=1))

    ranks = [rank for rank, gain in enumerate(gains, start=1) if gain > 0]
    return {
        "MAP": sum(sum(gain > 0 for gain in gains[:rank]) / rank for rank in ranks) / len(ranks),
        "nDCG@10": discounted(gains) / discounted(sorted(gains, reverse=True)),
        "MRR@10": next((1 / rank for rank in ranks if rank <= 10), 0.0),
        "Recall@100": sum(rank <= 100 for rank in ranks) / len(ranks),
    }


def random_run(seed: int, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores and gains of 40 queries x 150 documents, one to six of them relevant, with grades.

    A query's scores have so many `levels`; without, no two are the same.
    """
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(150.0), (40, 1)), axis=1)
    if levels is not None:
        scores = np.floor(scores * levels / 150)
    gains = np.zeros((40, 150), dtype=np.int64)
    for row in gains:
        relevant = rng.choice(150, size=rng.integers(1, 7), replace=False)
        row[relevant] = rng.integers(1, 4, size=len(relevant))
    return scores, gains


def test_average_precision_by_hand() -> None:
    assert measured([1])["MAP"] == 1
    assert measured([4])["MAP"] == 1 / 4
    assert measured([5, 2])["MAP"] == pytest.approx((1 / 2 + 2 / 5) / 2)
    assert measured([1, 2, 3])["MAP"] == 1
    assert measured([2000])["MAP"] == 1 / 2000  # the full ranking counts


def test_ndcg_by_hand() -> None:
    assert measured([1])["nDCG@10"] == 1
    assert measured([3])["nDCG@10"] == pytest.approx(1 / 2)  # 1 / log2(4)
    assert measured([10])["nDCG@10"] == pytest.approx(1 / math.log2(11))
    assert measured([11])["nDCG@10"] == 0
    # the better document second: (1 / log2(2) + 3 / log2(3)) of (3 / log2(2) + 1 / log2(3))
    assert measured([1, 2], [1, 3])["nDCG@10"] == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))
    # more relevant documents than places: the ideal has the ten best only
    assert measured(list(range(1, 13)), [2] * 11 + [9])["nDCG@10"] < 1
    assert measured(list(range(1, 13)), [9] + [2] * 11)["nDCG@10"] == pytest.approx(1)


def test_reciprocal_rank_by_hand() -> None:
    assert measured([7, 3])["MRR@10"] == pytest.approx(1 / 3)
    assert measured([10])["MRR@10"] == pytest.approx(1 / 10)
    assert measured([11])["MRR@10"] == 0


def test_recall_by_hand() -> None:
    assert measured([100])["Recall@100"] == 1
    assert measured([101])["Recall@100"] == 0
    assert measured([1, 100, 101, 5000])["Recall@100"] == 1 / 2


def test_queries_do_not_mix() -> None:
    found = measures(np.array([1, 0, 1]), np.array([2, 1, 4]), np.array([1, 1, 1]), 2)
    assert found["MAP"].tolist() == [1.0, 0.5]
    assert found["MRR@10"].tolist() == [1.0, 0.5]
    assert tuple(found) == MEASURES


def test_rank_distance_by_hand() -> None:
    query, rank = np.array([1, 0, 1, 0, 1, 2]), np.array([5, 9, 300, 9, 41, 7])
    assert rank_distance(query, rank, 3).tolist() == [0, 295, 0]


def test_a_relevant_document_stands_behind_others_of_its_score() -> None:
    # Scores 3 2 2 2 1, the second, third and fifth relevant: the one other document of score 2 has rank 2.
    ranks = relevant_ranks(np.array([4, 4, 5]), np.zeros(3, int), np.array([2.0, 2.0, 1.0]), np.array([1, 1, 1]))
    assert sorted(ranks.tolist()) == [3, 4, 5]


def test_equal_scores_of_two_queries_do_not_tie() -> None:
    assert relevant_ranks(np.array([3, 3]), np.array([0, 1]), np.array([0.5, 0.5]), np.array([1, 1])).tolist() == [
        3,
        3,
    ]


def test_zero_ties_with_minus_zero() -> None:
    assert relevant_ranks(np.array([2, 2]), np.array([0, 0]), np.array([0.0, -0.0]), np.array([1, 1])).tolist() == [
        2,
        1,
    ]


def test_a_constant_scorer_has_everything_relevant_at_the_end() -> None:
    gains = np.zeros((1, 500), dtype=np.int64)
    gains[0, [0, 1]] = 1  # first in the corpus, which must not help
    found = {name: value.item() for name, value in from_scores(np.ones((1, 500)), gains).items()}
    assert found == {"MAP": pytest.approx((1 / 499 + 2 / 500) / 2), "nDCG@10": 0, "MRR@10": 0, "Recall@100": 0}


def test_no_order_of_tied_documents_gives_less() -> None:
    scores, gains = [2, 1, 1, 1, 1, 0], [0, 2, 0, 1, 0, 3]
    found = from_scores(np.array([scores]), np.array([gains]))
    every_order = [
        walked([gains[0], *(gains[document] for document in tied), gains[5]]) for tied in permutations(range(1, 5))
    ]
    for name in MEASURES:
        values = [order[name] for order in every_order]
        assert found[name].item() == pytest.approx(min(values))
    assert min(order["nDCG@10"] for order in every_order) < max(order["nDCG@10"] for order in every_order)


@pytest.mark.parametrize("levels", [1, 2, 7, 60, None])
@pytest.mark.parametrize("seed", range(3))
def test_counting_equals_sorting_the_whole_ranking(seed: int, levels: int | None) -> None:
    scores, gains = random_run(seed, levels)
    found = from_scores(scores, gains)
    for query in range(len(scores)):
        # the policy: higher scores first, and of equal ones the least relevant
        order = sorted(range(150), key=lambda document: (-scores[query, document], gains[query, document]))
        expected = walked([int(gains[query, document]) for document in order])
        assert {name: value[query] for name, value in found.items()} == pytest.approx(expected, abs=1e-12)


def test_the_order_of_the_corpus_changes_nothing() -> None:
    scores, gains = random_run(5, 7)
    shuffle = np.random.default_rng(0).permutation(scores.shape[1])
    first, second = from_scores(scores, gains), from_scores(scores[:, shuffle], gains[:, shuffle])
    for name in MEASURES:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_trec_eval_gives_the_same_on_runs_without_ties(seed: int) -> None:
    scores, gains = random_run(seed, None)
    run = {str(q): {str(d): float(score) for d, score in enumerate(row)} for q, row in enumerate(scores)}
    qrels = {str(q): {str(d): int(gain) for d, gain in enumerate(row) if gain} for q, row in enumerate(gains)}
    top_10 = {q: dict(sorted(row.items(), key=lambda pair: -pair[1])[:10]) for q, row in run.items()}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"map", "ndcg_cut_10", "recip_rank", "recall_100"})
    whole, cut = evaluator.evaluate(run), evaluator.evaluate(top_10)
    found = from_scores(scores, gains)
    for name, theirs, results in [
        ("MAP", "map", whole),
        ("nDCG@10", "ndcg_cut_10", whole),
        ("MRR@10", "recip_rank", cut),
        ("Recall@100", "recall_100", whole),
    ]:
        expected = [results[str(query)][theirs] for query in range(len(scores))]
        assert len(set(expected)) > 2  # or it would say little
        np.testing.assert_allclose(found[name], expected, atol=1e-9)
