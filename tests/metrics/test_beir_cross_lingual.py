"""The metric folder: loaded three ways, against `evaluate_retrieval`, `beir` and figures worked by hand."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib
import importlib.util
import json
import math
import os
import random
import shutil
import subprocess
import sys
import types
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import yaml
from beir.retrieval.evaluation import EvaluateRetrieval
from evaluate.loading import get_imports

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.metrics.beir_cross_lingual import beir_cross_lingual, tests
from hf_hybrid.metrics.beir_cross_lingual.beir_cross_lingual import BeirCrossLingual
from hf_hybrid.metrics.beir_cross_lingual.policies import POLICIES
from hf_hybrid.metrics.beir_cross_lingual.ranking import evaluate_runs
from tests.evaluation.test_evaluate import tangled_corpus
from tests.support.toys import toy_corpus

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "hf_hybrid" / "metrics" / "beir_cross_lingual"
README = FOLDER / "README.md"
EN, DE = tests.test_cases[0]["predictions"]
JUDGED_DE, JUDGED_EN = tests.test_cases[0]["references"]
LANGUAGES = tests.test_cases[1]["arguments"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `evaluate` keeps goes to a folder of these tests."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        yield folder


@pytest.fixture
def metric() -> Any:
    return BeirCrossLingual()


def random_run(seed: int, levels: int = 6) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """30 queries over 60 documents with ties, grades, empty rankings, queries on one side only, a query's own id."""
    rng = random.Random(seed)
    documents = [f"d{number}" for number in range(58)] + ["q3", "q4"]
    predictions, references = [], []
    for number in range(30):
        query = f"q{number}"
        ranked = rng.sample(documents, rng.choice([0, 5, 20, 60]))
        judged = rng.sample(documents, rng.randint(1, 9))
        if number == 3:
            ranked, judged = documents, ["q3", "d1"]
        if number % 11 != 5:
            scores = [rng.randrange(levels) / levels for _ in ranked]
            predictions.append({"query_id": query, "doc_ids": ranked, "scores": scores})
        if number % 13 != 7:
            relevance = [0] * len(judged) if number % 9 == 4 else [rng.choice([0, 1, 1, 2, 3]) for _ in judged]
            references.append({"query_id": query, "doc_ids": judged, "relevance": relevance})
    rng.shuffle(references)
    return predictions, references


def random_languages(predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    rows = predictions + references
    queries, documents = {row["query_id"] for row in rows}, {name for row in rows for name in row["doc_ids"]}
    return {
        "query_languages": {name: "de" if zlib.crc32(name.encode()) % 3 else "en" for name in queries},
        "doc_languages": {name: ("de", "en", "zh")[zlib.crc32(name.encode()) % 3] for name in documents},
    }


def flat(scores: dict[str, Any], before: str = "") -> dict[str, float]:
    """Nested results as one level."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        found.update(flat(value, f"{before}{name}/") if isinstance(value, dict) else {f"{before}{name}": value})
    return found


# Figures worked by hand


@pytest.mark.parametrize("number", range(len(tests.test_cases)))
def test_cases_of_the_space(number: int, metric: Any) -> None:
    case = tests.test_cases[number]
    found = metric.compute(predictions=case["predictions"], references=case["references"], **case["arguments"])
    expected, values = flat(case["result"]), flat(found)
    assert len(expected) > 2
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_every_measure_by_hand(metric: Any) -> None:
    found = metric.compute(predictions=[EN], references=[JUDGED_EN], k_values=(1, 2, 10))
    best = 1 + 1 / math.log2(3)
    assert found == pytest.approx(
        {
            "MAP": 0.75,
            "MAP@1": 0.5,
            "MAP@2": 0.5,
            "MAP@10": 0.75,
            "nDCG@1": 1.0,
            "nDCG@2": 1 / best,
            "nDCG@10": (1 + 1 / math.log2(5)) / best,
            "Recall@1": 0.5,
            "Recall@2": 0.5,
            "Recall@10": 1.0,
            "P@1": 1.0,
            "P@2": 0.5,
            "P@10": 0.2,
            "MRR@1": 1.0,
            "MRR@2": 1.0,
            "MRR@10": 1.0,
            "num_queries": 1,
        }
    )


def test_bias_by_hand(metric: Any) -> None:
    found = metric.compute(predictions=[EN, DE], references=[JUDGED_EN, JUDGED_DE], **LANGUAGES)
    # one document in each language has the p-value of chi-square 1 at one degree of freedom, whatever the ranks
    assert found["bias"] == {
        "rank_distance": 2.0,
        "PEER": pytest.approx(math.erfc(math.sqrt(1 / 2))),
        "same_language_share@10": 0.5,
        "same_language_recall@100": 1.0,
        "other_language_recall@100": 1.0,
        "rank_distance_num_queries": 2,
        "rank_distance_num_undefined": 0,
        "recall_by_language@100": {"de": 1.0, "en": 1.0},
    }


def test_a_ranking_that_is_cut_off_has_no_rank_distance(metric: Any) -> None:
    cut = {"query_id": "en", "doc_ids": EN["doc_ids"][:3], "scores": EN["scores"][:3]}
    judged = [JUDGED_EN, JUDGED_DE]
    found = metric.compute(predictions=[cut, DE], references=judged, **LANGUAGES)
    bias = found["bias"]
    assert (bias["rank_distance"], bias["rank_distance_num_queries"], bias["rank_distance_num_undefined"]) == (
        1.0,
        1,
        1,
    )
    assert bias["recall_by_language@100"] == {"de": 0.5, "en": 1.0}
    assert found["pairs"]["en-de"]["MAP"] == 0.0
    found = metric.compute(predictions=[cut], references=judged, **LANGUAGES)
    assert "rank_distance" not in found["bias"]
    assert found["bias"]["rank_distance_num_undefined"] == 2


def test_relevant_documents_that_tie_do_not_look_apart(metric: Any) -> None:
    names = [f"{number}-{language}" for language in ("de", "en") for number in range(4)]
    judged = [{"query_id": "en", "doc_ids": names, "relevance": [1] * 8}]
    languages = {"query_languages": {"en": "en"}, "doc_languages": {name: name[-2:] for name in names}}
    for scores, expected in [([1.0] * 8, 1.0), ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0], 0.0209)]:
        predictions = [{"query_id": "en", "doc_ids": names, "scores": scores}]
        found = metric.compute(predictions=predictions, references=judged, **languages)
        # ranks 1-4 and 5-8: H = 12 / (8 * 9) * (10 ** 2 + 26 ** 2) / 4 - 3 * 9 = 5.33
        assert found["bias"]["PEER"] == pytest.approx(expected, abs=1e-4)


def test_documents_that_tie_by_the_policy_tie_for_bias(metric: Any) -> None:
    """Scores that differ in float64 alone: eight relevant documents, the German ones ahead by less than a rounding."""
    names = [f"{number}-{language}" for language in ("de", "en") for number in range(8)]
    scores = [1 - 1e-12 * place for place in range(16)]
    given = {
        "predictions": [{"query_id": "en", "doc_ids": names, "scores": scores}],
        "references": [{"query_id": "en", "doc_ids": names[4:12], "relevance": [1] * 8}],
        "query_languages": {"en": "en"},
        "doc_languages": {name: name[-2:] for name in names},
    }
    exact, rounded = metric.compute(**given)["bias"], metric.compute(**given, policy="trec_eval")["bias"]
    # ranks 5 to 8 and 9 to 12: H = 12 / (8 * 9) * (10 ** 2 + 26 ** 2) / 4 - 3 * 9 = 5.33
    assert exact["PEER"] == pytest.approx(0.0209, abs=1e-4)
    assert rounded["PEER"] == 1
    assert exact["same_language_share@10"] == 0.2  # two of the top ten
    assert rounded["same_language_share@10"] == 0.5  # of 16 documents at one place half are English


def test_queries_without_a_prediction_or_documents_have_no_share(metric: Any) -> None:
    given = {"references": [JUDGED_EN, JUDGED_DE], **LANGUAGES}
    nothing = {"query_id": "de", "doc_ids": [], "scores": []}
    for predictions in ([EN], [nothing, EN]):
        found = metric.compute(predictions=predictions, **given)["bias"]
        assert found["same_language_share@10"] == 0.5  # the English query's, not a mean with 0
        assert found["same_language_recall@100"] == 0.5
    assert "same_language_share@10" not in metric.compute(predictions=[nothing], **given)["bias"]


# Against evaluate_retrieval


class IntegerEncoder:
    """The same small vector for a text each time; of integers, so that scores tie and are exact."""

    device = "cpu"

    def encode(
        self, texts: list[str], side: str, batch_tokens: int = 0, share: tuple[int, int] = (0, 1)
    ) -> np.ndarray:
        seeds = [zlib.crc32((side + text).encode()) for text in texts]
        return np.array([np.random.default_rng(seed).integers(-2, 3, size=4) for seed in seeds], dtype=np.float32)


def full_runs(corpus: ParallelCorpus) -> dict[str, Any]:
    """Rankings of the whole pool for every query, the judgments of the items, and the languages."""
    encoder, predictions = IntegerEncoder(), []
    pool = [(name, int(row)) for name in corpus.languages for row in corpus.candidates(name)]
    passages = encoder.encode([corpus.text(corpus.PASSAGE, name, row) for name, row in pool], "passage")
    gains: dict[str, dict[str, int]] = defaultdict(dict)
    for number, name in enumerate(corpus.languages):
        rows = corpus.rows[:, number, corpus.QUERY]
        for row in np.unique(rows[rows >= 0]).tolist():
            scores = encoder.encode([corpus.text(corpus.QUERY, name, row)], "query")[0] @ passages.T
            doc_ids = [f"{language} {passage}" for language, passage in pool]
            predictions.append({"query_id": f"{name} {row}", "doc_ids": doc_ids, "scores": scores.tolist()})
        for item in np.flatnonzero(rows >= 0).tolist():
            of_query = gains[f"{name} {rows[item]}"]
            for other, language in enumerate(corpus.languages):
                passage, grade = int(corpus.rows[item, other, corpus.PASSAGE]), int(corpus.relevance[item])
                if passage >= 0:
                    of_query[f"{language} {passage}"] = max(grade, of_query.get(f"{language} {passage}", 0))
    references = [
        {"query_id": query, "doc_ids": list(found), "relevance": list(found.values())}
        for query, found in gains.items()
    ]
    return {
        "predictions": predictions,
        "references": references,
        "query_languages": {query: query.split()[0] for query in gains},
        "doc_languages": {f"{language} {passage}": language for language, passage in pool},
    }


@pytest.mark.parametrize("name", ["parallel", "languages missing", "tangled"])
def test_settings_and_bias_are_those_of_evaluate_retrieval(name: str, metric: Any) -> None:
    corpus = {
        "parallel": lambda: toy_corpus(60, ("de", "en", "zh"), missing=0.0),
        "languages missing": lambda: toy_corpus(60, missing=0.4),
        "tangled": tangled_corpus,
    }[name]()
    expected: dict[str, Any] = dict(evaluate_retrieval(IntegerEncoder(), corpus))
    found = metric.compute(**full_runs(corpus), k_values=(10, 100))
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        values = {measure: found[f"{setting}/{measure}"] for measure in expected[setting]}
        assert values == pytest.approx(expected[setting], abs=1e-9)
        assert 0 < values["MAP"] < 1
    assert set(found["pairs"]) == set(expected["pairs"])
    for pair, scores in expected["pairs"].items():
        asked = {measure: scores[measure] for measure in expected["multilingual"]}
        assert {measure: found["pairs"][pair][measure] for measure in asked} == pytest.approx(asked, abs=1e-9)
    assert found["num_queries"] == expected["num_queries"]
    shared = {measure: value for measure, value in expected["bias"].items() if measure != "MRC@10"}
    assert len(shared) == 5
    assert {measure: found["bias"][measure] for measure in shared} == pytest.approx(shared, abs=1e-9)
    assert found["bias"]["rank_distance_num_undefined"] == 0
    for language, recall in found["bias"]["recall_by_language@100"].items():
        pairs = [scores for pair, scores in expected["pairs"].items() if pair.endswith(f"-{language}")]
        assert recall == pytest.approx(np.mean([scores["pool_recall@100"] for scores in pairs]), abs=1e-9)
        assert recall < 1 or name == "tangled"  # whose pool is smaller


# Policies


@pytest.mark.parametrize("seed", range(5))
def test_the_beir_policy_is_what_beir_says(seed: int, metric: Any) -> None:
    predictions, references = random_run(seed)
    judged = {row["query_id"] for row in references}
    qrels = {row["query_id"]: dict(zip(row["doc_ids"], row["relevance"], strict=True)) for row in references}
    results = {
        row["query_id"]: dict(zip(row["doc_ids"], row["scores"], strict=True))
        for row in predictions
        if row["query_id"] in judged  # or BEIR's MRR has a KeyError
    }
    theirs = {
        key: value for group in EvaluateRetrieval.evaluate(qrels, results, [3, 10]) for key, value in group.items()
    }
    theirs |= EvaluateRetrieval.evaluate_custom(qrels, results, [3, 10], "mrr")
    found = metric.compute(predictions=predictions, references=references, k_values=[3, 10], policy="beir")
    assert {name.replace("nDCG", "NDCG"): found[name] for name in found if "@" in name} == theirs
    ours = evaluate_runs(predictions, references, [name for name in found if name != "num_queries"], "beir").means
    assert {name: found[name] for name in ours} == pytest.approx(ours, abs=1e-9)
    assert len(set(ours.values())) > 5


@pytest.mark.parametrize("policy", POLICIES)
def test_names_are_the_same_by_every_policy(policy: str, metric: Any) -> None:
    predictions, references = random_run(1)
    languages = random_languages(predictions, references)
    found = metric.compute(predictions=predictions, references=references, policy=policy, **languages)
    usual = metric.compute(predictions=predictions, references=references, **languages)
    assert list(flat(found)) == list(flat(usual))
    assert (found["MAP"] == usual["MAP"]) == (policy == "hf_hybrid")


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"beir"}))
def test_other_policies_are_those_of_ranking(policy: str) -> None:
    predictions, references = random_run(2)
    metric: Any = BeirCrossLingual(policy)
    found = metric.compute(predictions=predictions, references=references)
    num_queries = found.pop("num_queries")
    assert found == evaluate_runs(predictions, references, list(found), policy).means
    assert num_queries == sum(max(row["relevance"]) > 0 for row in references) < len(references)


def test_the_table_of_policies_in_the_readme() -> None:
    table = README.read_text(encoding="utf-8").split("### Policies")[1].split("\n\n")[1].splitlines()
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]
    rows = {row[0]: dict(zip(cells[0][1:], row[1:], strict=True)) for row in cells[2:]}
    order = {"pessimistic": "against the system", "id_descending": "higher id first", "id_ascending": "lower id first"}
    order["as_given"] = "as given"
    score = {"float32": "float32", "float64": "as given"}
    counts = {"left_out": "skipped", "zero": "0"}
    for name, policy in POLICIES.items():

        def cell(texts: dict[Any, str], field: str, policy: Any = policy) -> str:
            usual, of_mrr = texts[getattr(policy, field)], texts[getattr(policy.of("MRR"), field)]
            return usual if of_mrr == usual else f"{usual}; MRR: {of_mrr.removesuffix(' at all')}"

        assert rows["documents with the same score"][name] == cell(order, "ties")
        assert rows["scores"][name] == cell(score, "score_type")
        assert rows["a document with the query's id"][name] == cell({"keep": "kept", "drop": "dropped"}, "own_id")
        assert rows["a query without a prediction"][name] == cell(counts, "not_in_run")
        assert rows["a query without relevant documents"][name] == cell(counts, "no_relevant")
        assert rows["gain of nDCG"][name] == {"linear": "relevance", "binary": "1"}[policy.gain]
        divisor = {"all": "all relevant", "cutoff": "at most k"}[policy.average_precision_over]
        assert rows["MAP@k is divided by"][name] == divisor
        assert rows["rounded to"][name] == cell({None: "not at all", 5: "5 digits"}, "decimals")


def test_a_pair_that_was_not_asked_for_is_a_matter_of_policy(metric: Any) -> None:
    given = {"predictions": [EN], "references": [JUDGED_EN, JUDGED_DE], **LANGUAGES}
    for policy, expected in [("hf_hybrid", {"de-de", "de-en", "en-de", "en-en"}), ("trec_eval", {"en-de", "en-en"})]:
        found = metric.compute(**given, policy=policy)
        assert set(found["pairs"]) == expected
    assert metric.compute(**given, policy="hf_hybrid")["monolingual/MAP"] == 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_not_relevant_in_a_pair_does_not_count_there(policy: str, metric: Any) -> None:
    given = {"predictions": [EN, DE], "references": [JUDGED_EN, JUDGED_DE], "policy": policy, "k_values": [10]}
    expected = metric.compute(**given, **LANGUAGES)
    # judged in German alone, and of no use; and a query that nobody judged
    nothing = {"query_id": "en 2", "doc_ids": ["1-de", "2-de"], "relevance": [0, 0]}
    predictions = [{**EN, "query_id": "en 2"}, {**DE, "query_id": "en 3"}]
    queries = {**LANGUAGES["query_languages"], "en 2": "en", "en 3": "en"}
    given["predictions"], given["references"] = [EN, DE, *predictions], [JUDGED_EN, JUDGED_DE, nothing]
    found = metric.compute(**given, query_languages=queries, doc_languages=LANGUAGES["doc_languages"])
    keys = [name for name in expected if "/" in name or name in ("pairs", "bias", "num_queries")]
    assert len(keys) > 15
    assert {name: found[name] for name in keys} == {name: expected[name] for name in keys}


def test_the_share_of_a_language_is_that_of_judged_queries(metric: Any) -> None:
    given = {"references": [JUDGED_EN], "doc_languages": LANGUAGES["doc_languages"]}
    german = {"query_id": "en 2", "doc_ids": ["1-de"], "scores": [1.0]}
    found = metric.compute(predictions=[EN, german], query_languages={"en": "en", "en 2": "en"}, **given)
    assert found["bias"]["same_language_share@10"] == 0.5


# As a metric of `evaluate`


def test_three_ways_of_loading_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER, tmp_path / "beir_cross_lingual", ignore=shutil.ignore_patterns("__pycache__"))
    predictions, references = random_run(3)
    given = {"predictions": predictions, "references": references, **random_languages(predictions, references)}
    loaded = [BeirCrossLingual(), evaluate.load(str(FOLDER)), evaluate.load(str(FOLDER / "beir_cross_lingual.py"))]
    monkeypatch.chdir(tmp_path)
    loaded.append(evaluate.load("beir_cross_lingual"))
    first, *others = [metric.compute(**given) for metric in loaded]
    assert others == [first] * 3
    assert len({type(metric) for metric in loaded}) > 1
    assert {metric.name for metric in loaded} == {"beir_cross_lingual"}


# A Python that has what `pip install evaluate beir` brings and no hf_hybrid; `-P` keeps its folder out of the path.
ALONE = """
import sys
sys.modules["hf_hybrid"] = None
import evaluate
metric = evaluate.load("beir_cross_lingual")
import tests_of_the_space
for case in tests_of_the_space.test_cases:
    found = metric.compute(predictions=case["predictions"], references=case["references"], **case["arguments"])
    print(found["MAP"], found.get("cross_lingual/MAP"))
import doctest
print(doctest.testfile("beir_cross_lingual/README.md", module_relative=False))
"""


@pytest.mark.slow
def test_a_copy_of_the_folder_works_alone(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "beir_cross_lingual", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FOLDER / "tests.py", tmp_path / "tests_of_the_space.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    (tmp_path / "script.py").write_text(ALONE, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    *figures, examples = ran.stdout.splitlines()
    assert figures == ["0.875 None", "0.875 0.75", "0.5 None", "1.0 None"]
    assert examples.startswith("TestResults(failed=0, attempted=")


def test_evaluate_finds_every_sibling_that_is_needed() -> None:
    """`evaluate` reads the first file alone, line by line: what the siblings import has to be named there too."""
    imports = get_imports(str(FOLDER / "beir_cross_lingual.py"))
    assert all(
        kind in ("internal", "library") for kind, *_ in imports
    )  # a comment behind an import is taken for a link
    named = {name for kind, name, *_ in imports if kind == "internal"}
    libraries = {name for kind, name, *_ in imports if kind == "library"} - sys.stdlib_module_names
    assert libraries == {"beir", "datasets", "evaluate", "numpy"}
    needed: set[str] = set()
    todo = {"beir_cross_lingual"}
    while todo:
        tree = ast.parse((FOLDER / f"{todo.pop()}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module, "from . import name is not seen by `evaluate`"
                todo |= {node.module} - needed
                needed.add(node.module)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                assert len(names) == 1
                assert not names[0].startswith("hf_hybrid")
    assert needed == named
    assert {"ranking", "policies", "settings", "trec"} <= needed


def test_a_stream_in_any_portions_gives_the_same(metric: Any) -> None:
    predictions, references = random_run(4)
    languages = random_languages(predictions, references)
    expected = metric.compute(predictions=predictions, references=references, **languages)
    metric.add_batch(references=references[:3])
    metric.add_batch(predictions=predictions[5:], references=references[3:4])
    metric.add(prediction=predictions[0])
    metric.add(prediction=predictions[1], reference=references[4])
    metric.add(reference=references[5])
    found = metric.compute(predictions=predictions[2:5], references=references[6:], **languages)
    assert flat(found) == pytest.approx(flat(expected), rel=1e-12)  # sums of another order
    assert metric.compute(predictions=predictions, references=references, **languages) == expected


def test_numpy_arrays_and_generators_are_taken(metric: Any) -> None:
    expected = metric.compute(predictions=[EN, DE], references=[JUDGED_EN, JUDGED_DE])
    found = metric.compute(
        predictions=({**row, "scores": np.array(row["scores"])} for row in (EN, DE)),
        references=[{**row, "relevance": np.array(row["relevance"])} for row in (JUDGED_EN, JUDGED_DE)],
        k_values=np.array([10, 100]),
    )
    assert found == expected


def test_in_memory(metric: Any) -> None:
    in_memory: Any = BeirCrossLingual(keep_in_memory=True)
    given = {"predictions": [EN, DE], "references": [JUDGED_EN]}
    assert in_memory.compute(**given) == metric.compute(**given)


def test_combine_and_save(tmp_path: Path, metric: Any) -> None:
    both = evaluate.combine({"ours": BeirCrossLingual(), "beir": BeirCrossLingual("beir")}, force_prefix=True)
    tie = tests.test_cases[2]
    both.add(prediction=tie["predictions"][0], reference=tie["references"][0])
    found = both.compute(k_values=[10])
    assert (found["ours_nDCG@10"], found["beir_nDCG@10"]) == (pytest.approx(1 / math.log2(3)), 1.0)
    plain = evaluate.combine([metric, BeirCrossLingual("trec_eval")])
    found = plain.compute(predictions=[EN, DE], references=[JUDGED_EN, JUDGED_DE], **LANGUAGES)
    assert found["beir_cross_lingual_0_pairs"] == found["beir_cross_lingual_1_pairs"]
    found = metric.compute(predictions=[EN, DE], references=[JUDGED_EN, JUDGED_DE], **LANGUAGES)
    path = evaluate.save(tmp_path / "result.json", **found)
    saved = json.loads(Path(path).read_text(encoding="utf-8"))
    assert {name: saved[name] for name in found} == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "beer"}, "policy 'beer': give one of .* Did you mean 'beir'"),
        ({"k_values": [0]}, r"k_values=\[0\]: give whole numbers from 1"),
        ({"k_values": 10}, "k_values=10: give whole numbers from 1"),
        ({"k_values": []}, r"k_values=\[\]"),
        ({"k_values": [2.5]}, r"k_values=\[2.5\]"),
        ({"doc_languages": {}}, "query_languages is missing: give both"),
        ({"query_languages": {}}, "doc_languages is missing: give both"),
        ({"query_languages": ["en"], "doc_languages": {}}, "query_languages is a list: give a dict"),
    ],
)
def test_wrong_arguments_are_refused_and_the_stream_is_kept(
    arguments: dict[str, Any], message: str, metric: Any
) -> None:
    metric.add_batch(predictions=[EN, DE], references=[JUDGED_EN, JUDGED_DE])
    with pytest.raises(ValueError, match=message):
        metric.compute(**arguments)
    assert metric.compute()["MAP"] == 0.875


def test_an_unknown_policy_is_refused_on_loading() -> None:
    with pytest.raises(ValueError, match=r"policy 'trec'.*Did you mean 'trec_eval'"):
        BeirCrossLingual("trec")


@pytest.mark.parametrize(
    ("side", "row", "message"),
    [
        ("predictions", {"doc_ids": [], "scores": []}, "give query_id, doc_ids and scores"),
        ("predictions", {"query_id": 7, "doc_ids": [], "scores": []}, "predictions, query 7: "),
        ("predictions", {"query_id": "", "doc_ids": [], "scores": []}, "empty query_id"),
        ("predictions", {"query_id": "q", "doc_ids": [1], "scores": [1.0]}, "predictions, query 'q': "),
        ("predictions", {"query_id": "q", "doc_ids": ["a"], "scores": []}, "'q': 1 doc_ids and 0 scores"),
        ("predictions", {"query_id": "q", "doc_ids": ["a", "a"], "scores": [1.0, 2.0]}, "'q': document 'a' comes"),
        ("predictions", {"query_id": "q", "doc_ids": ["a"], "scores": [math.nan]}, "'q': .*finite"),
        ("references", {"query_id": "q", "doc_ids": ["a"], "relevance": [0.5]}, "'q': found the relevance 0.5"),
        ("references", {"query_id": "q", "doc_ids": ["a"], "relevance": [-1]}, "'q': found the relevance -1"),
        ("references", {"query_id": "q", "doc_ids": ["a", "a"], "relevance": [1, 1]}, "'q': document 'a' comes"),
    ],
)
def test_wrong_rows_are_refused_before_they_are_stored(
    side: str, row: dict[str, Any], message: str, metric: Any
) -> None:
    metric.add_batch(predictions=[EN, DE], references=[JUDGED_EN, JUDGED_DE])
    with pytest.raises(ValueError, match=message):
        metric.add_batch(**{side: [row]})
    assert metric.compute()["MAP"] == 0.875


@pytest.mark.parametrize("policy", ["hf_hybrid", "beir"])
def test_what_shows_only_in_the_end_is_refused(policy: str, metric: Any) -> None:
    metric.add_batch(predictions=[EN])
    metric.add_batch(predictions=[EN])
    with pytest.raises(ValueError, match="predictions: query 'en' was added more than once"):
        metric.compute(policy=policy)
    given = {"predictions": [EN, DE], "references": [JUDGED_EN], "policy": policy}
    some = {name: language for name, language in LANGUAGES["doc_languages"].items() if name != "2-de"}
    with pytest.raises(ValueError, match=r"doc_languages: 1 of the ids .* '2-de' is the first"):
        metric.compute(**given, query_languages=LANGUAGES["query_languages"], doc_languages=some)
    with pytest.raises(ValueError, match=r"query_languages: 2 of the ids .* 'de' is the first"):
        metric.compute(**given, query_languages={}, doc_languages=LANGUAGES["doc_languages"])
    assert metric.compute(predictions=[EN], references=[JUDGED_EN], policy=policy)["MAP"] == 0.75


def test_ids_of_another_kind_are_refused(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"no query of 1 references .*the same"):
        metric.compute(predictions=[EN], references=[JUDGED_DE], policy="beir")
    with pytest.raises(ValueError, match=r"no query of 1 references .*the same"):
        metric.compute(predictions=[EN], references=[JUDGED_DE], policy="trec_eval")


# Files


def written(folder: Path, name: str, lines: list[str]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


RUN = [
    f"{row['query_id']} Q0 {name} 0 {score} us"
    for row in (EN, DE)
    for name, score in zip(row["doc_ids"], row["scores"], strict=True)
]
QRELS = [f"{row['query_id']}\t0\t{name} 1" for row in (JUDGED_EN, JUDGED_DE) for name in row["doc_ids"]]


def test_trec_files(tmp_path: Path, metric: Any) -> None:
    given = metric.from_trec(written(tmp_path, "run.txt", RUN), str(written(tmp_path, "qrels.txt", ["", *QRELS])))
    assert given == {"predictions": [EN, DE], "references": [JUDGED_EN, JUDGED_DE]}
    assert metric.compute(**given)["MAP"] == 0.875


def test_beir_folders(tmp_path: Path, metric: Any) -> None:
    lines = ["query-id\tcorpus-id\tscore", "en\t1-en\t1", "en\tan id with spaces\t2"]
    written(tmp_path, "qrels/dev.tsv", lines)
    expected = [{"query_id": "en", "doc_ids": ["1-en", "an id with spaces"], "relevance": [1, 2]}]
    results = {"en": {"1-en": 0.5, "2-en": 0.25}}
    given = metric.from_beir(tmp_path, results, split="dev")
    assert given["references"] == expected
    assert given["predictions"] == [{"query_id": "en", "doc_ids": ["1-en", "2-en"], "scores": [0.5, 0.25]}]
    assert metric.from_beir(tmp_path, written(tmp_path, "run.txt", RUN), "dev")["predictions"] == [EN, DE]
    with pytest.raises(ValueError, match=r"test\.tsv: no such file; allowed splits of this folder are \['dev'\]"):
        metric.from_beir(tmp_path, results)
    written(tmp_path, "qrels/test.tsv", lines[1:])
    with pytest.raises(ValueError, match=r"test\.tsv, line 1: found \['en', '1-en', '1'\] as the header"):
        metric.from_beir(tmp_path, results)


def test_languages_of_a_file(tmp_path: Path, metric: Any) -> None:
    assert metric.languages_from(written(tmp_path, "l.tsv", ["a b\tde", "c\tpt-BR"])) == {"a b": "de", "c": "pt-BR"}
    with pytest.raises(ValueError, match="line 2: found 'a' a second time"):
        metric.languages_from(written(tmp_path, "l.tsv", ["a\tde", "a\ten"]))


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("run", b"q Q0 d 1 nan us", "found the score 'nan'; allowed is a finite number"),
        ("run", b"q Q0 d 1 inf us", "found the score 'inf'"),
        ("run", b"q Q0 d 1 high us", "found the score 'high'"),
        ("run", b"q Q0 d 1 1_0 us", "found the score '1_0'"),
        ("run", b"q Q0 d 1 0.5", r"found 5 columns \['q', 'Q0', 'd', '1', '0.5'\]; allowed is 6 columns"),
        ("run", b"q Q0 d 1 0.5 us two", "found 7 columns"),
        ("run", b"en Q0 1-en 1 0.5 us", "found document '1-en' of query 'en' a second time"),
        ("run", b"q Q0 \xff 1 0.5 us", "is not UTF-8"),
        ("qrels", b"q 0 d", "found 3 columns"),
        ("qrels", b"q 0 d -1", "found the relevance '-1'; allowed is a whole number from 0"),
        ("qrels", b"q 0 d " + b"9" * 50, "found the relevance '999"),
        ("qrels", b"q 0 d 0.5", "found the relevance '0.5'"),
        ("qrels", b"q 0 d yes", "found the relevance 'yes'"),
        ("qrels", b"en 0 1-en 1", "found document '1-en' of query 'en' a second time"),
    ],
)
def test_a_bad_line_is_named(file: str, line: bytes, message: str, tmp_path: Path, metric: Any) -> None:
    paths = {"run": written(tmp_path, "run.txt", RUN), "qrels": written(tmp_path, "qrels.txt", QRELS)}
    path = paths[file]
    number = len(path.read_bytes().splitlines()) + 1
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match=f"{file}.txt, line {number}: .*{message}"):
        metric.from_trec(paths["run"], paths["qrels"])


def test_a_byte_order_mark_and_an_empty_file_are_refused(tmp_path: Path, metric: Any) -> None:
    run, qrels = written(tmp_path, "run.txt", RUN), written(tmp_path, "qrels.txt", QRELS)
    run.write_bytes(b"\xef\xbb\xbf" + run.read_bytes())
    with pytest.raises(ValueError, match=r"run\.txt, line 1: found a byte order mark"):
        metric.from_trec(run, qrels)
    with pytest.raises(ValueError, match=r"empty\.txt: found no line"):
        metric.from_trec(written(tmp_path, "empty.txt", [""]), qrels)
    with pytest.raises(FileNotFoundError):
        metric.from_trec(tmp_path / "none.txt", qrels)


def test_white_space_of_unicode_belongs_to_an_id(tmp_path: Path, metric: Any) -> None:
    path = written(tmp_path, "run.txt", ["問\u3000一 Q0 文\u00a0書 1 0.5 us"])
    assert metric.from_trec(path, written(tmp_path, "qrels.txt", QRELS))["predictions"] == [
        {"query_id": "問\u3000一", "doc_ids": ["文\u00a0書"], "scores": [0.5]}
    ]


# What the folder says about itself


def test_the_examples_of_the_docstring_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beir_cross_lingual").symlink_to(FOLDER)
    monkeypatch.chdir(tmp_path)
    text = beir_cross_lingual._KWARGS_DESCRIPTION
    examples = doctest.DocTestParser().get_doctest(text, {}, "arguments", None, 0)
    assert len(examples.examples) > 5
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_the_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beir_cross_lingual").symlink_to(FOLDER)
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(README), module_relative=False)
    assert found.attempted > 15
    assert found.failed == 0


def test_compute_tells_its_arguments(metric: Any) -> None:
    assert "doc_languages (`dict[str, str]`" in (metric.compute.__doc__ or "")
    assert "Elmahdy" in metric.citation
    assert "language bias" in metric.description


def test_the_front_matter_is_that_of_a_space() -> None:
    front = yaml.safe_load(README.read_text(encoding="utf-8").split("---\n")[1])
    assert front["sdk"] == "gradio"
    assert front["app_file"] == "app.py"
    assert int(front["sdk_version"].split(".")[0]) >= 6
    assert {"title", "emoji", "colorFrom", "colorTo", "pinned", "description"} <= set(front)
    assert front["tags"] == ["evaluate", "metric"]
    assert {path.name for path in FOLDER.iterdir()} >= {"README.md", "app.py", "requirements.txt", "tests.py"}


def test_requirements_have_the_bounds_of_the_project() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = setup["options"]["install_requires"] + setup["options.extras_require"]["beir"]
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").split()
    assert {line.split(">=")[0] for line in lines} == {"evaluate", "beir", "numpy", "scipy"}
    assert [line for line in lines if line not in declared.split()] == []


# The Space


class FakeGradio(types.ModuleType):
    """As much of gradio as the file touches when it is read."""

    class Error(Exception):
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: (name, args, kwargs)


def load_app() -> Any:
    spec = importlib.util.spec_from_file_location("app_of_the_space", FOLDER / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_space_scores_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", FakeGradio("gradio"))
    app = load_app()
    run, qrels = str(written(tmp_path, "run.txt", RUN)), str(written(tmp_path, "qrels.txt", QRELS))
    maps = [
        str(written(tmp_path, f"{side}.tsv", [f"{name}\t{language}" for name, language in found.items()]))
        for side, found in LANGUAGES.items()
    ]
    table, everything = app.score(run, qrels, None, None, "10", "hf_hybrid")
    assert ["MAP", 0.875] in table
    assert len(table) == len(everything) == 7
    table, everything = app.score(run, qrels, *maps, "10, 100", "beir")
    assert ["cross_lingual/MAP", 0.75] in table
    assert ["bias/rank_distance", 2.0] in table
    assert everything["pairs"]["en-de"]["MAP"] == 0.5
    with pytest.raises(FakeGradio.Error, match="query_languages is missing"):
        app.score(run, qrels, None, maps[1], "10", "beir")
    with pytest.raises(FakeGradio.Error, match="Give a run"):
        app.score(None, qrels, None, None, "10", "beir")
    assert sorted(app.POLICIES) == sorted(POLICIES)
    kind, _, options = app.demo
    assert kind == "Interface"
    assert len(options["inputs"]) == app.score.__code__.co_argcount
    assert options["article"].lstrip().startswith("# BEIR by language")


def test_the_space_is_one_of_gradio() -> None:
    gradio = pytest.importorskip("gradio")
    assert isinstance(load_app().demo, gradio.Interface)
