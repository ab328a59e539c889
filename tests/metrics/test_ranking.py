"""Measures by hand, against whole rankings sorted and walked through, and against trec_eval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import pytrec_eval

from hf_hybrid.metrics.beir_cross_lingual.policies import Policy
from hf_hybrid.metrics.beir_cross_lingual.ranking import (
    MEASURES,
    average_known,
    evaluate_ranked,
    evaluate_runs,
    macro,
    measures,
    rank_runs,
    relevant_ranks,
)

ALL = [*MEASURES, "MAP@5", "nDCG", "MRR", "Recall@3", "P@5", "R-precision", "success@2", "success@1"]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def measured(
    ranks: Sequence[float], gains: list[int] | None = None, names: Iterable[str] = MEASURES, policy: str = "hf_hybrid"
) -> dict[str, float]:
    """The measures of one query."""
    gains = gains or [1] * len(ranks)
    found = measures(np.zeros(len(ranks), int), np.array(ranks), np.array(gains), 1, names, policy)
    return {name: float(value) for name, (value,) in found.items()}


def from_scores(scores_QN: np.ndarray, gains_QN: np.ndarray, names: Iterable[str] = MEASURES) -> dict[str, np.ndarray]:
    """The measures of whole score matrices, by counting."""
    query, document = np.nonzero(gains_QN)
    score, gain = scores_QN[query, document], gains_QN[query, document]
    at_least = (scores_QN[query] >= score[:, None]).sum(axis=1)
    return measures(query, relevant_ranks(at_least, query, score, gain), gain, len(scores_QN), names)


def walked(gains: list[int]) -> dict[str, float]:
    """`ALL` of one query, by their definition, from the gains of all documents in the order of the ranking."""

    def discounted(gains: list[int]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))

    best = sorted(gains, reverse=True)
    ranks = [rank for rank, gain in enumerate(gains, start=1) if gain > 0]
    precisions = {rank: sum(gain > 0 for gain in gains[:rank]) / rank for rank in ranks}
    return {
        "MAP": sum(precisions.values()) / len(ranks),
        "MAP@5": sum(precision for rank, precision in precisions.items() if rank <= 5) / len(ranks),
        "nDCG@10": discounted(gains[:10]) / discounted(best[:10]),
        "nDCG": discounted(gains) / discounted(best),
        "MRR@10": next((1 / rank for rank in ranks if rank <= 10), 0.0),
        "MRR": 1 / ranks[0],
        "Recall@100": sum(rank <= 100 for rank in ranks) / len(ranks),
        "Recall@3": sum(rank <= 3 for rank in ranks) / len(ranks),
        "P@5": sum(rank <= 5 for rank in ranks) / 5,
        "R-precision": sum(rank <= len(ranks) for rank in ranks) / len(ranks),
        "success@2": float(ranks[0] <= 2),
        "success@1": float(ranks[0] == 1),
    }


def prediction(query: str, scores: dict[str, float]) -> dict[str, Any]:
    return {"query_id": query, "doc_ids": list(scores), "scores": list(scores.values())}


def reference(query: str, relevance: dict[str, int]) -> dict[str, Any]:
    return {"query_id": query, "doc_ids": list(relevance), "relevance": list(relevance.values())}


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


def test_what_was_not_retrieved_by_hand() -> None:
    found = measured([2, np.inf, np.inf], names=ALL)
    assert found == pytest.approx(
        {
            **{"MAP": 1 / 2 / 3, "MAP@5": 1 / 2 / 3, "MRR": 1 / 2, "MRR@10": 1 / 2, "Recall@3": 1 / 3},
            **{"Recall@100": 1 / 3, "P@5": 1 / 5, "R-precision": 1 / 3, "success@1": 0, "success@2": 1},
            "nDCG": (1 / math.log2(3)) / (1 + 1 / math.log2(3) + 1 / 2),
            "nDCG@10": (1 / math.log2(3)) / (1 + 1 / math.log2(3) + 1 / 2),
        }
    )
    assert set(measured([np.inf], names=ALL).values()) == {0}


def test_r_precision_by_hand() -> None:
    assert measured([3, 1, 4], names=["R-precision"]) == {"R-precision": pytest.approx(2 / 3)}
    assert measured([2], names=["R-precision"]) == {"R-precision": 0}


def test_denominators_and_gains_by_hand() -> None:
    # five relevant documents, two of the top three: (1 / 1 + 2 / 3) over 5 or over 3
    ranks, gains = [1, 3, 40, 50, 60], [1, 3, 1, 1, 1]
    assert measured(ranks, gains, ["MAP@3"])["MAP@3"] == pytest.approx((1 + 2 / 3) / 5)
    assert measured(ranks, gains, ["MAP@3"], "sentence-transformers")["MAP@3"] == pytest.approx((1 + 2 / 3) / 3)
    binary = (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2)
    graded = (1 + 3 / 2) / (3 + 1 / math.log2(3) + 1 / 2)
    assert measured(ranks, gains, ["nDCG@3"])["nDCG@3"] == pytest.approx(graded)
    assert measured(ranks, gains, ["nDCG@3"], "sentence-transformers")["nDCG@3"] == pytest.approx(binary)


def test_a_query_without_relevant_documents_has_nothing() -> None:
    found = measures(np.array([1]), np.array([1]), np.array([1]), 3, ALL)
    assert {name for name, value in found.items() if value.tolist() != [0, value[1], 0]} == set()
    assert found["MAP"].tolist() == [0, 1, 0]
    none = np.zeros(0, dtype=int)
    assert measures(none, none, none, 2)["MAP"].tolist() == [0, 0]


def test_relevance_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="gain_R has 0"):
        measured([1, 2], [1, 0])


def test_queries_do_not_mix() -> None:
    found = measures(np.array([1, 0, 1]), np.array([2, 1, 4]), np.array([1, 1, 1]), 2)
    assert found["MAP"].tolist() == [1.0, 0.5]
    assert found["MRR@10"].tolist() == [1.0, 0.5]
    assert tuple(found) == MEASURES


def test_means_are_of_those_that_have_a_value() -> None:
    values = {"MAP": np.array([0.25, 0.75]), "PEER": np.array([np.nan, 0.5]), "none": np.full(2, np.nan)}
    assert average_known(values) == {"MAP": 0.5, "PEER": 0.5}
    assert average_known({"infinite": np.array([1.0, np.inf])}) == {"infinite": np.inf}
    assert macro([{"MAP": 0.25, "PEER": 0.5}, {}, {"MAP": 0.75}]) == {"MAP": 0.5, "PEER": 0.5}
    assert macro([]) == {}


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
    found = from_scores(scores, gains, ALL)
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


TIES = {
    # what comes first: higher scores, then this
    "pessimistic": lambda place, document, gain: gain,
    "id_descending": lambda place, document, gain: [-ord(letter) for letter in document],
    "id_ascending": lambda place, document, gain: document,
    "as_given": lambda place, document, gain: place,
}


@pytest.mark.parametrize("num_relevant", [3, 30])
@pytest.mark.parametrize("ties", TIES)
def test_runs_are_ranked_as_if_they_were_sorted(ties: str, num_relevant: int) -> None:
    rng = np.random.default_rng(num_relevant)
    predictions, references, expected = [], [], []
    for query in map(str, range(30)):
        documents = [f"{number:02d}" for number in rng.permutation(60)]
        scores = dict(zip(documents[:50], (rng.integers(0, 8, 50) / 8).tolist(), strict=True))
        grades = dict(zip(rng.permutation(documents)[:num_relevant].tolist(), [2, 1, 1] * 20, strict=False))
        places = {document: place for place, document in enumerate(scores)}
        order = sorted(scores, key=lambda name: (-scores[name], TIES[ties](places[name], name, grades.get(name, 0))))
        predictions.append(prediction(query, scores))
        references.append(reference(query, grades))
        expected.append([order.index(name) + 1.0 if name in scores else np.inf for name in grades])
    ranked = rank_runs(predictions, references, Policy("sorted", ties=ties))  # type: ignore[arg-type]
    for number, ranks in enumerate(expected):
        own = ranked.query_R == number
        found, gains = ranked.rank_R[own], ranked.gain_R[own]
        if ties == "pessimistic":  # which of several with the same score and grade stands first is not said
            assert sorted(zip(found, gains, strict=True)) == sorted(zip(ranks, gains, strict=True))
        else:
            assert found.tolist() == ranks
    assert np.isinf(ranked.rank_R).any()
    assert len(set(ranked.rank_R.tolist())) > 20
    if ties != "as_given":
        assert (
            ranked.rank_R.tolist() != rank_runs(predictions, references, Policy("", ties="as_given")).rank_R.tolist()
        )


def test_ranked_says_what_was_given() -> None:
    predictions = [prediction("b", {"x": 0.5, "y": 0.25}), prediction("?", {}), prediction("a", {})]
    references = [reference("a", {"x": 1}), reference("b", {"z": 3, "x": 0, "y": 2}), reference("c", {})]
    ranked = rank_runs(iter(predictions), iter(references))
    assert ranked.query_ids == ("a", "b", "c")
    assert ranked.query_R.tolist() == [0, 1, 1]
    assert ranked.doc_ids_R == ["x", "z", "y"]
    assert ranked.rank_R.tolist() == [np.inf, np.inf, 2]
    assert ranked.gain_R.tolist() == [1, 3, 2]
    assert ranked.score_R.tolist() == [-np.inf, -np.inf, 0.25]
    assert ranked.place_in_run_Q.tolist() == [2, 0, -1]
    assert ranked.num_judged_Q.tolist() == [1, 3, 0]
    assert ranked.unjudged == ("?",)


def test_which_queries_count_and_which_do_not() -> None:
    predictions = [prediction("found", {"x": 0.5}), prediction("empty", {}), prediction("nothing to find", {"x": 1.0})]
    references = [reference(query, {"x": 1}) for query in ("found", "empty", "not in the run")]
    references += [reference("nothing to find", {"x": 0}), reference("not judged", {})]
    means, per_query, query_ids = evaluate_runs(predictions, references, ["MAP"])
    assert means == {"MAP": pytest.approx(1 / 3)}
    assert query_ids == ("found", "empty", "not in the run", "nothing to find", "not judged")
    np.testing.assert_array_equal(per_query["MAP"], [1, 0, 0, np.nan, np.nan])


def test_ranks_are_evaluated_alike_once_or_name_by_name() -> None:
    rng = np.random.default_rng(0)
    predictions = [
        prediction(query, dict(zip("abcdefg", rng.integers(0, 3, 7).tolist(), strict=True))) for query in "abc"
    ]
    ranked = rank_runs(predictions, [reference(query, {"a": 1, "c": 2}) for query in "abc"], "beir")
    together = evaluate_ranked(ranked, ALL, "beir").means
    assert together == {name: evaluate_ranked(ranked, [name], "beir").means[name] for name in ALL}
    assert together.keys() == set(ALL)


def test_arrays_and_tuples_will_do() -> None:
    given = [{"query_id": "q", "doc_ids": ("a", "b"), "scores": np.array([0.1, 0.2], dtype=np.float32)}]
    judged = [{"query_id": "q", "doc_ids": np.array(["a"]), "relevance": np.array([True])}]
    assert evaluate_runs(given, judged, ["MRR"]).means == {"MRR": 0.5}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"query_id": 7}, r"query 7: an id must be a string, give '7'"),
        ({"doc_ids": ["a", 7]}, r"query 'q': document id 7 must be a string, give '7'"),
        ({"doc_ids": ["a", "a"]}, r"query 'q': document 'a' comes 2 times"),
        ({"doc_ids": ["a"]}, r"query 'q': 1 doc_ids and 2 {values}"),
        ({"{values}": [1, float("nan")]}, r"query 'q': {values} must be finite numbers, number 2 is nan"),
        ({"{values}": [float("inf"), 1]}, r"query 'q': {values} must be finite numbers, number 1 is inf"),
        ({"{values}": [1, "high"]}, r"query 'q': {values} must be finite numbers, found \[1, 'high'\]"),
    ],
)
@pytest.mark.parametrize("side", ["predictions", "references"])
def test_what_cannot_be_ranked_is_refused(side: str, changed: dict[str, Any], message: str) -> None:
    rows = {"predictions": [prediction("q", {"a": 1, "b": 2})], "references": [reference("q", {"a": 1, "b": 2})]}
    values = {"predictions": "scores", "references": "relevance"}[side]
    rank_runs(rows["predictions"], rows["references"])
    rows[side][0] |= {name.format(values=values): value for name, value in changed.items()}
    with pytest.raises(ValueError, match=f"{side}, {message.format(values=values)}"):
        rank_runs(rows["predictions"], rows["references"])


def test_other_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions: found str, give query_id, doc_ids and scores"):
        rank_runs({"q": {"a": 1.0}}, [])  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"references: found \['doc_ids', 'query_id', 'scores'\]"):
        rank_runs([], [prediction("q", {"a": 1})])
    for twice in ([prediction("q", {}), prediction("q", {})], [reference("q", {}), reference("q", {})]):
        sides = ([], twice) if "relevance" in twice[0] else (twice, [])
        with pytest.raises(ValueError, match="query 'q': comes twice"):
            rank_runs(*sides)


def test_no_query_that_counts_is_refused() -> None:
    with pytest.raises(
        ValueError, match="MAP by the policy 'beir': no query of 1 references counts, 0 are in the run"
    ):
        evaluate_runs([prediction("1", {"a": 1.0})], [reference("01", {"a": 1})], policy="beir")
    with pytest.raises(ValueError, match="no query of 0 references counts"):
        evaluate_runs([], [])
