"""What holds of every ranking, whatever the scores and judgments: Hypothesis looks for one where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from hf_hybrid.metrics.beir_cross_lingual import bias
from hf_hybrid.metrics.beir_cross_lingual.policies import POLICIES, Policy
from hf_hybrid.metrics.beir_cross_lingual.ranking import Evaluation, average_known, evaluate_runs, macro
from hf_hybrid.metrics.beir_cross_lingual.settings import Languages, by_pair
from tests.metrics.test_ranking import prediction, reference

LANGUAGES = ("de", "en", "sw", "zh")
every = settings(max_examples=60, deadline=None, derandomize=True)


NAMES = ["MAP", "MAP@3", "nDCG@3", "nDCG", "MRR", "MRR@2", "Recall@3", "P@3", "R-precision", "success@2"]
DOCUMENTS = "abcdefghij"
Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


@st.composite
def judged_runs(draw: st.DrawFn) -> tuple[Run, Qrels]:
    """Up to three queries with up to ten documents, tied or not, retrieved or not, graded or not; one is relevant."""
    run, qrels = {}, {}
    for query in "abc"[: draw(st.integers(1, 3))]:  # ids of documents too
        scores = st.integers(-3, 3) if draw(st.booleans()) else st.integers(-(2**20), 2**20)
        run[query] = draw(st.dictionaries(st.sampled_from(DOCUMENTS), scores.map(float), max_size=10))
        qrels[query] = draw(st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1, max_size=10))
        assume(any(qrels[query].values()))
    return run, qrels


def evaluated(run: Run, qrels: Qrels, policy: str | Policy = "hf_hybrid") -> Evaluation:
    predictions = [prediction(query, scores) for query, scores in run.items()]
    return evaluate_runs(predictions, [reference(query, grades) for query, grades in qrels.items()], NAMES, policy)


def values(run: Run, qrels: Qrels, policy: str | Policy = "hf_hybrid") -> np.ndarray:
    """`(Q, len(NAMES))`, NaN where a query does not count, queries by id."""
    found = evaluated(run, qrels, policy)
    order = np.argsort(found.query_ids)
    return np.stack([found.per_query[name][order] for name in NAMES], axis=1)


def naive(scores: dict[str, float], grades: dict[str, int], rules: Policy, own_id: str) -> list[float]:
    """The measures by their definition, on a ranking that is sorted and walked through."""
    keys = {
        "pessimistic": lambda name: grades.get(name, 0),
        "id_ascending": lambda name: name,
        "id_descending": lambda name: -ord(name),
        "as_given": list(scores).index,
    }
    ranking = sorted(scores, key=lambda name: (-scores[name], keys[rules.ties](name)))
    if rules.own_id == "drop":
        ranking = [name for name in ranking if name != own_id]
    gains = [grades.get(name, 0) for name in ranking]
    relevant = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    if rules.gain == "binary":
        gains, relevant = [int(gain > 0) for gain in gains], [1] * len(relevant)
    n, hits = len(relevant), [i for i, gain in enumerate(gains, start=1) if gain > 0]

    def precision(k: float, most: float = math.inf) -> float:
        return sum(number / rank for number, rank in enumerate(hits, start=1) if rank <= k) / min(n, most)

    def dcg(gains: Sequence[int]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))

    first = hits[0] if hits else math.inf
    within_3 = sum(rank <= 3 for rank in hits)
    most = 3 if rules.average_precision_over == "cutoff" else math.inf
    return [
        *(precision(math.inf), precision(3, most), dcg(gains[:3]) / dcg(relevant[:3]), dcg(gains) / dcg(relevant)),
        *(1 / first, 1 / first if first <= 2 else 0, within_3 / n, within_3 / 3),
        *(sum(rank <= n for rank in hits) / n, float(first <= 2)),
    ]


@pytest.mark.parametrize("name", POLICIES)
@every
@given(judged_runs())
def test_measures_are_those_of_a_ranking_that_is_walked_through(name: str, judged: tuple[Run, Qrels]) -> None:
    run, qrels = judged
    found = evaluated(run, qrels, name)
    rules = [POLICIES[name].of(measure.split("@")[0]) for measure in NAMES]
    for place, query in enumerate(found.query_ids):
        expected = [naive(run[query], qrels[query], rule, query)[i] for i, rule in enumerate(rules)]
        assert [found.per_query[measure][place] for measure in NAMES] == pytest.approx(expected, abs=1e-12)
        assert all(0 <= value <= 1 for value in expected)


@every
@given(judged_runs(), st.randoms(use_true_random=False))
def test_neither_order_nor_scale_of_scores_matters(judged: tuple[Run, Qrels], random: Any) -> None:
    """Not of the documents, nor of the queries; and any other scores in the same order will do."""
    run, qrels = judged
    levels = sorted({score for scores in run.values() for score in scores.values()})
    other = dict(zip(levels, sorted(random.sample(range(-(10**6), 10**6), len(levels))), strict=True))

    def shuffled(table: dict[str, Any]) -> dict[str, Any]:
        return dict(random.sample(list(table.items()), len(table)))

    again = shuffled({query: shuffled({n: other[s] / 3 for n, s in scores.items()}) for query, scores in run.items()})
    references = shuffled({query: shuffled(grades) for query, grades in qrels.items()})
    for policy in (name for name, rules in POLICIES.items() if rules.of("MRR").ties != "as_given"):
        np.testing.assert_allclose(values(run, qrels, policy), values(again, references, policy), atol=1e-12)


@every
@given(judged_runs())
def test_a_query_has_the_same_measures_alone_and_among_others(judged: tuple[Run, Qrels]) -> None:
    run, qrels = judged
    alone = [values({query: run[query]}, {query: qrels[query]}) for query in sorted(qrels)]
    np.testing.assert_allclose(values(run, qrels), np.concatenate(alone), atol=1e-12)


@every
@given(judged_runs())
def test_the_best_order_has_one_and_the_worst_none(judged: tuple[Run, Qrels]) -> None:
    _, qrels = judged
    best = {query: {name: float(grade) for name, grade in grades.items()} for query, grades in qrels.items()}
    relevant = np.array([sum(grade > 0 for grade in qrels[query].values()) for query in sorted(qrels)])
    expected = np.ones((len(qrels), len(NAMES)))
    at_3 = np.minimum(relevant, 3)
    expected[:, NAMES.index("MAP@3")] = expected[:, NAMES.index("Recall@3")] = at_3 / relevant
    expected[:, NAMES.index("P@3")] = at_3 / 3
    np.testing.assert_allclose(values(best, qrels), expected)
    nothing = {query: {name: 1.0 for name in DOCUMENTS if not qrels[query].get(name)} for query in qrels}
    assert not values(nothing, qrels).any()


@every
@given(judged_runs(), st.data())
def test_no_measure_falls_when_a_relevant_document_rises(judged: tuple[Run, Qrels], data: st.DataObject) -> None:
    run, qrels = judged
    query = data.draw(st.sampled_from(sorted(qrels)))
    name = data.draw(st.sampled_from([name for name, grade in qrels[query].items() if grade]))
    # past documents that are less relevant, or into the ranking
    less = [other for other in run[query] if qrels[query].get(other, 0) < qrels[query][name]]
    above = max([run[query][other] for other in less] + [run[query].get(name, -math.inf)], default=0.0)
    assume(math.isfinite(above))
    between = [run[query][other] for other in run[query] if other not in less and other != name]
    assume(all(score > above or score < run[query].get(name, -math.inf) for score in between))
    risen = {**run, query: {**run[query], name: above + 0.5}}
    assert np.all(values(risen, qrels) >= values(run, qrels) - 1e-12)


@every
@given(judged_runs(), st.randoms(use_true_random=False))
def test_ties_count_against_the_system(judged: tuple[Run, Qrels], random: Any) -> None:
    """However they are broken, no measure is lower."""
    run, qrels = judged
    broken = {query: {name: score + random.random() / 2 for name, score in run[query].items()} for query in run}
    assert np.all(values(broken, qrels) >= values(run, qrels) - 1e-12)


@every
@given(st.lists(st.dictionaries(st.sampled_from(["MAP", "PEER"]), st.floats(0, 1)), max_size=6))
def test_means_leave_out_what_is_missing(found: list[dict[str, float]]) -> None:
    columns = {name: [means[name] for means in found if name in means] for name in ("MAP", "PEER")}
    expected = {name: math.fsum(column) / len(column) for name, column in columns.items() if column}
    assert macro(found) == pytest.approx(expected)
    arrays = {name: np.array([means.get(name, np.nan) for means in found]) for name in ("MAP", "PEER")}
    assert average_known(arrays) == pytest.approx(expected)


@every
@given(judged_runs(), st.lists(st.sampled_from(LANGUAGES), min_size=13, max_size=13))
def test_pairs_of_languages_part_the_rankings(judged: tuple[Run, Qrels], drawn: list[str]) -> None:
    run, _ = judged
    languages = Languages(dict(zip("abc", drawn, strict=False)), dict(zip(DOCUMENTS, drawn[3:], strict=True)))
    merged: Run = {query: {} for query in run}
    for (source, target), rows in by_pair([prediction(q, s) for q, s in run.items()], "scores", languages).items():
        for query, row in rows.items():
            assert languages.of_query[query] == source
            assert {languages.of_document[name] for name in row["doc_ids"]} == {target}
            assert row["doc_ids"] == [name for name in run[query] if name in row["doc_ids"]], "in their order"
            merged[query].update(zip(row["doc_ids"], row["scores"], strict=True))
    assert merged == run


# Language bias


@st.composite
def ranked(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Queries, ranks (some infinite) and languages of up to 16 relevant documents."""
    size = draw(st.integers(1, 16))
    query = draw(np_st.arrays(np.int64, size, elements=st.integers(0, 2)))
    rank = draw(np_st.arrays(np.float64, size, elements=st.integers(1, 150).map(float) | st.just(math.inf)))
    return query, rank, draw(np_st.arrays(np.int64, size, elements=st.integers(0, 3)))


@every
@given(ranked(), st.randoms(use_true_random=False))
def test_bias_knows_neither_the_order_of_documents_nor_the_names_of_languages(
    found: tuple[np.ndarray, ...], random: Any
) -> None:
    query, rank, language = found
    shuffle = np.array(random.sample(range(len(query)), len(query)))
    names = np.array(random.sample(range(4), 4))
    expected = bias.bias_by_query(query, rank, rank, language, 0, 3, np.zeros(3))
    columns = (query[shuffle], rank[shuffle], rank[shuffle], names[language[shuffle]])
    again = bias.bias_by_query(*columns, int(names[0]), 3, np.zeros(3))
    for name, column in expected.items():
        np.testing.assert_allclose(again[name], column, atol=1e-9, err_msg=name)
        known = column[~np.isnan(column)]
        assert np.all(known >= 0), name
        assert name == "rank_distance" or np.all(known <= 1), name


@every
@given(ranked(), st.integers(1, 120))
def test_recall_and_distance_by_counting(found: tuple[np.ndarray, ...], cutoff: int) -> None:
    query, rank, language = found
    recall = bias.recall_by_language(query, rank, language, 3, 4, cutoff)
    distance = bias.rank_distance(query, rank, 3)
    for number in range(3):
        ranks = rank[query == number].tolist()
        if ranks:
            assert distance[number] == (max(ranks) - min(ranks) if math.isfinite(max(ranks)) else math.inf)
        for code in range(4):
            own = rank[(query == number) & (language == code)]
            np.testing.assert_equal(recall[number, code], np.mean(own <= cutoff) if len(own) else np.nan)


@every
@given(ranked(), st.integers(2, 4))
def test_peer_is_one_where_languages_fare_alike(found: tuple[np.ndarray, ...], copies: int) -> None:
    """Each rank once in every language."""
    query, rank, _ = found
    language = np.repeat(np.arange(copies), len(query))
    assert bias.peer(np.tile(query, copies), np.tile(rank, copies), language, 3).tolist() == pytest.approx([1] * 3)


@every
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12),
    st.integers(1, 14),
    st.integers(0, 2),
)
def test_share_of_the_own_language_is_the_mean_over_orders_of_ties(
    documents: list[tuple[int, int]], cutoff: int, own: int
) -> None:
    score, language = np.array(documents).T
    found = bias.same_language_share(np.zeros(len(score), int), score, language, np.array([own]), cutoff).item()
    depth = min(cutoff, len(score))
    last = sorted(score.tolist(), reverse=True)[depth - 1]
    tied = language[score == last]
    # of the tied documents each has the same chance to be among the places that are left
    chance = (depth - np.sum(score > last)) / len(tied)
    expected = (np.sum(language[score > last] == own) + chance * np.sum(tied == own)) / depth
    assert found == pytest.approx(expected)
    shares = [
        bias.same_language_share(np.zeros(len(score), int), score * 7 - 3, language, np.array([code]), cutoff).item()
        for code in range(3)
    ]
    assert shares[own] == pytest.approx(found)
    assert sum(shares) == pytest.approx(1)
