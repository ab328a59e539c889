"""Policies against the packages that they are named after, on random runs, and the names of measures.

`PARITY_RUNS=1000 pytest -s tests/metrics/test_policies.py -k parity` compares on so many runs and prints how
far they are apart.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import pytrec_eval
from beir.retrieval.evaluation import EvaluateRetrieval
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from hf_hybrid.metrics.beir_cross_lingual.policies import POLICIES, Measure, Policy, find_policy, parse_measure
from hf_hybrid.metrics.beir_cross_lingual.ranking import evaluate_runs

NUM_RUNS = int(os.environ.get("PARITY_RUNS", "50"))
K_VALUES = [1, 3, 10]

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]
Means = dict[str, float]


def random_run(seed: int) -> tuple[Run, Qrels]:
    """A run and judgments with all that packages treat differently, each often enough.

    Queries and documents have ids in common; scores tie, or do so in float32 only; relevance goes from 0 to 3.
    """
    rng = np.random.default_rng(seed)
    documents = (
        [f"q{number}" for number in range(6)] + [f"d{number}" for number in range(24)] + ["ä", "Z", "z é", "文"]
    )
    run: Run = {}
    qrels: Qrels = {}
    for number in rng.permutation(8).tolist():
        kind = rng.choice(["plain", "empty", "missing", "no relevant", "no judgments"], p=[0.6, 0.1, 0.1, 0.1, 0.1])
        retrieved = rng.choice(documents, size=rng.integers(1, len(documents)), replace=False).tolist()
        scores = rng.integers(-4, 4, size=len(retrieved)) / 4 + rng.integers(0, 2, size=len(retrieved)) * 1e-9
        run[f"q{number}"] = {} if kind == "empty" else dict(zip(retrieved, scores.tolist(), strict=True))
        judged = rng.choice(
            documents, size=0 if kind == "no judgments" else rng.integers(1, 9), replace=False
        ).tolist()
        grades = rng.integers(0, 4, size=len(judged)) * (kind != "no relevant")
        qrels[f"q{number}"] = dict(zip(judged, grades.tolist(), strict=True))
        if kind == "missing":
            del run[f"q{number}"]
    run["q8"], qrels["q8"] = {"q8": 0.5, "a": 0.5, "b": 0.25}, {"b": 2, "q8": 1}  # some query counts everywhere
    return run, qrels


def random_runs() -> list[tuple[Run, Qrels]]:
    return [random_run(seed) for seed in range(NUM_RUNS)]


def as_rows(entries: Run | Qrels, values: str) -> list[dict[str, Any]]:
    return [{"query_id": query, "doc_ids": list(row), values: list(row.values())} for query, row in entries.items()]


def ours(run: Run, qrels: Qrels, names: list[str], policy: str | Policy) -> Means:
    return evaluate_runs(as_rows(run, "scores"), as_rows(qrels, "relevance"), names, policy).means


def trec_eval(run: Run, qrels: Qrels) -> Means:
    """Means of what pytrec_eval gives; MRR@k is `recip_rank` of the first k documents, which trec_eval cannot cut."""
    names = {"MAP": "map", "nDCG": "ndcg", "MRR": "recip_rank", "R-precision": "Rprec"}
    for k in K_VALUES:
        names |= {f"MAP@{k}": f"map_cut_{k}", f"nDCG@{k}": f"ndcg_cut_{k}", f"Recall@{k}": f"recall_{k}"}
        names |= {f"P@{k}": f"P_{k}", f"success@{k}": f"success_{k}"}
    found = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    means = {name: float(np.mean([values[theirs] for values in found.values()])) for name, theirs in names.items()}
    for k in K_VALUES:
        cut = {
            query: dict(sorted(row.items(), key=lambda hit: (np.float32(hit[1]), hit[0]), reverse=True)[:k])
            for query, row in run.items()
        }
        values = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(cut).values()
        means[f"MRR@{k}"] = float(np.mean([value["recip_rank"] for value in values]))
    return means


def beir(run: Run, qrels: Qrels) -> Means:
    """`evaluate`, then `evaluate_custom` on the same results, as BEIR's examples do: the first drops the own ids."""
    results = copy.deepcopy(run)
    found: Means = {}
    for values in EvaluateRetrieval.evaluate(qrels, results, K_VALUES):
        found |= {name.replace("NDCG", "nDCG"): value for name, value in values.items()}
    found |= EvaluateRetrieval.evaluate_custom(qrels, results, K_VALUES, "mrr")
    accuracy = EvaluateRetrieval.evaluate_custom(qrels, results, K_VALUES, "accuracy")
    return found | {name.replace("Accuracy", "success"): value for name, value in accuracy.items()}


def mteb(run: Run, qrels: Qrels) -> Means:
    metrics = pytest.importorskip("mteb._evaluators.retrieval_metrics")
    # nAUC is not compared, and fails on queries without judgments
    with mock.patch.object(metrics, "evaluate_abstention", return_value={}):
        found = metrics.calculate_retrieval_scores(run, qrels, K_VALUES)
    means = found.map | found.recall | found.precision | found.mrr
    means |= {name.replace("NDCG", "nDCG"): value for name, value in found.ndcg.items()}
    return means | {name.replace("HitRate", "success"): value for name, value in found.hit_rate.items()}


def sentence_transformers(run: Run, qrels: Qrels) -> Means:
    """It has no grades and no judged documents that are not relevant; a query it did not search has no hits."""
    depths: dict[str, Any] = {f"{name}_at_k": K_VALUES for name in ("mrr", "ndcg", "accuracy", "map")}
    evaluator = InformationRetrievalEvaluator(
        queries=dict.fromkeys(qrels, ""),
        corpus={document: "" for row in run.values() for document in row},
        relevant_docs={query: {name for name, grade in row.items() if grade > 0} for query, row in qrels.items()},
        precision_recall_at_k=K_VALUES,
        **depths,
    )
    hits: list[object] = [
        [{"corpus_id": document, "score": score} for document, score in run.get(query, {}).items()]
        for query in evaluator.queries_ids
    ]
    found = evaluator.compute_metrics(hits)
    names = {"accuracy": "success", "precision": "P", "recall": "Recall", "ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}
    return {f"{ours}@{k}": float(found[f"{theirs}@k"][k]) for theirs, ours in names.items() for k in K_VALUES}


PACKAGES: dict[str, Callable[[Run, Qrels], Means]] = {
    "trec_eval": trec_eval,
    "beir": beir,
    "mteb": mteb,
    "sentence-transformers": sentence_transformers,
}


@pytest.mark.parametrize("policy", PACKAGES)
def test_parity_on_random_runs(policy: str) -> None:
    largest, compared, unlike_ours = 0.0, set(), Counter[str]()
    for run, qrels in random_runs():
        expected = PACKAGES[policy](run, qrels)
        found = ours(run, qrels, list(expected), policy)
        for name, value in ours(run, qrels, list(expected), "hf_hybrid").items():
            unlike_ours[parse_measure(name).name] += abs(value - expected[name]) > 1e-3
        assert found == pytest.approx(expected, abs=1e-9, rel=0)
        largest = max(largest, *(abs(found[name] - value) for name, value in expected.items()))
        compared |= set(expected)
    print(f"\n{policy}: largest difference {largest:.2g} over {NUM_RUNS} runs and {len(compared)} measures")
    assert len(compared) >= 6 * len(K_VALUES)
    for kind in ("MAP", "nDCG", "Recall", "P", "MRR", "success"):
        assert unlike_ours[kind] > NUM_RUNS / 10, kind  # the policies matter on these runs


def test_parity_of_each_query_with_trec_eval() -> None:
    compared = 0
    for run, qrels in random_runs():
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"map", "ndcg_cut_10"}).evaluate(run)
        found = evaluate_runs(as_rows(run, "scores"), as_rows(qrels, "relevance"), ["MAP", "nDCG@10"], "trec_eval")
        for name, key in (("MAP", "map"), ("nDCG@10", "ndcg_cut_10")):
            values = dict(zip(found.query_ids, found.per_query[name].tolist(), strict=True))
            counted = {query: value for query, value in values.items() if not np.isnan(value)}
            assert counted == pytest.approx({query: row[key] for query, row in theirs.items()}, abs=1e-9)
            compared += sum(0 < value < 1 for value in counted.values())
    assert compared > NUM_RUNS


def test_parity_with_beir_that_keeps_own_ids() -> None:
    rules = replace(POLICIES["beir"], own_id="keep")
    rules = replace(rules, exceptions=tuple((kind, replace(rule, own_id="keep")) for kind, rule in rules.exceptions))
    unlike = 0
    for run, qrels in random_runs():
        ndcg = EvaluateRetrieval.evaluate(qrels, copy.deepcopy(run), [10], ignore_identical_ids=False)[0]["NDCG@10"]
        assert ours(run, qrels, ["nDCG@10"], rules)["nDCG@10"] == pytest.approx(ndcg, abs=1e-9)
        unlike += ndcg != ours(run, qrels, ["nDCG@10"], "beir")["nDCG@10"]
    assert unlike > NUM_RUNS / 10


def test_random_runs_have_what_packages_treat_differently() -> None:
    seen = Counter[str]()
    for run, qrels in random_runs():
        seen["empty"] += any(not row for row in run.values())
        seen["missing"] += bool(qrels.keys() - run.keys())
        seen["no judgments"] += any(not row for row in qrels.values())
        seen["no relevant"] += any(row and not any(row.values()) for row in qrels.values())
        seen["own id"] += any(query in row for query, row in run.items() if query != "q8")
        seen["own id relevant"] += any(row.get(query, 0) > 0 for query, row in qrels.items() if query != "q8")
        seen["ties"] += any(len(set(row.values())) < len(row) for row in run.values())
        rounded = [{np.float32(score) for score in row.values()} for row in run.values()]
        seen["ties in float32"] += any(
            len(few) < len(set(row.values())) for few, row in zip(rounded, run.values(), strict=True)
        )
        seen["grades"] += any(len(set(row.values())) > 2 for row in qrels.values())
    assert len(seen) == 9
    assert min(seen.values()) > NUM_RUNS / 5, seen


RUN = {"q1": {"a": 1.0, "b": 1.0, "c": 0.5}, "q2": {"b": 1.0, "q2": 0.5}}
QRELS = {"q1": {"a": 2, "c": 1}, "q2": {"q2": 1}, "q3": {"a": 1}, "q4": {"a": 0}}


@pytest.mark.parametrize(
    ("policy", "mrr", "num_queries"),
    [
        ("hf_hybrid", 1 / 2 + 1 / 2, 3),  # a behind b; q3 is not in the run and counts; q4 has nothing to find
        ("trec_eval", 1 / 2 + 1 / 2, 2),  # b before a by id; q3 is not in the run
        ("beir", 1 + 0, 4),  # a before b as given; the document q2 is dropped; q3 and q4 count
        ("mteb", 1 / 2 + 1 / 2, 2),
        ("sentence-transformers", 1 + 1 / 2, 3),  # a before b by id
    ],
)
def test_reciprocal_rank_of_a_run_by_hand(policy: str, mrr: float, num_queries: int) -> None:
    assert ours(RUN, QRELS, ["MRR@10"], policy) == {"MRR@10": pytest.approx(mrr / num_queries, abs=1e-5)}


def test_own_rules() -> None:
    rules = Policy("mine", ties="id_ascending", not_in_run="left_out", decimals=1)
    assert ours(RUN, QRELS, ["MRR", "P@1"], rules) == {"MRR": 0.8, "P@1": 0.5}  # 0.75 to the even digit


def test_names_are_parsed() -> None:
    names = ["MAP", "MAP@7", "nDCG", "nDCG@10", "Recall@100", "P@1", "MRR", "MRR@10", "R-precision", "success@5"]
    assert [parse_measure(name) for name in names] == [
        *(Measure("MAP", None), Measure("MAP", 7), Measure("nDCG", None), Measure("nDCG", 10), Measure("Recall", 100)),
        *(Measure("P", 1), Measure("MRR", None), Measure("MRR", 10), Measure("R-precision", None)),
        Measure("success", 5),
    ]


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        *(("ndcg@10", "nDCG@10"), ("NDCG@5", "nDCG@5"), ("map", "MAP"), ("Recall", "Recall@10"), ("P", "P@10")),
        *(("R-precision@10", "R-precision"), ("MRR@0", "MRR@10"), ("MRR@-1", "MRR@10"), ("nDCG@ten", "nDCG@10")),
        *(("recip_rank", "MRR"), ("Precision@3", "P@3"), ("accuracy@1", "success@1"), ("hits@1", "success@1")),
        *(("recal@100", "Recall@100"), ("nDCG@१०", "nDCG@10"), ("MAP@", "MAP@10"), ("nDCG@10@5", "nDCG@10")),
    ],
)
def test_other_names_are_refused_with_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=r"give MAP or MAP@k, .*Did you mean") as caught:
        parse_measure(given)
    assert repr(given) in str(caught.value)
    suggested = str(caught.value).split("Did you mean ")[1].strip("?'")
    parse_measure(suggested)
    assert suggested == nearest


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"policy 'BEIR': give one of hf_hybrid, .* Did you mean 'beir'"):
        find_policy("BEIR")
