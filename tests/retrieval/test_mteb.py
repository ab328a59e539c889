"""A saved encoder in MTEB: it comes in as a `SentenceTransformer`, its prompts are used, and the values are ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.models.encoder import HybridEncoder
from tests.support.toys import toy_corpus, toy_encoder

pytestmark = pytest.mark.usefixtures("one_thread")
CODES = {"de": "deu-Latn", "en": "eng-Latn", "zh": "zho-Hans"}
PAIRS = [f"{query}-{passage}" for query in CODES for passage in CODES]
PROMPTS: dict[str, Any] = {"query_prompt": "query: ", "passage_prompt": "passage: "}
# how MTEB calls what `evaluate_retrieval` reports; it keeps five decimals, so the test also takes means of its own
NAMES = {"MAP": ("map_at_1000", "map_cut_1000"), "nDCG@10": ("ndcg_at_10", "ndcg_cut_10")}


class ToyRetrieval(AbsTaskRetrieval):
    """All language pairs of a corpus as the subsets of one cross-lingual task, from memory."""

    metadata = TaskMetadata(
        name="ToyRetrieval",
        description="Made-up text.",
        dataset={"path": "none", "revision": "none"},
        type="Retrieval",
        category="t2t",
        eval_splits=["test"],
        eval_langs={pair: [CODES[code] for code in pair.split("-")] for pair in PAIRS},
        main_score="ndcg_at_10",
    )

    def __init__(self, corpus: ParallelCorpus) -> None:
        super().__init__()
        self.dataset = {pair: {"test": subset(corpus, *pair.split("-"))} for pair in PAIRS}
        self.data_loaded = True

    def task_specific_scores(self, scores: dict[str, dict[str, float]], *args: Any, **kwargs: Any) -> dict[str, float]:
        """Means that are not rounded."""
        return {f"exact {name}": float(np.mean([of[name] for of in scores.values()])) for _, name in NAMES.values()}


def subset(corpus: ParallelCorpus, query_language: str, passage_language: str) -> Any:
    """One language pair in MTEB's form; every item is a judgment."""
    query_rows = corpus.rows[:, corpus.languages.index(query_language), corpus.QUERY].tolist()
    passage_rows = corpus.rows[:, corpus.languages.index(passage_language), corpus.PASSAGE].tolist()
    texts = {"q": corpus.queries(query_language), "p": corpus.passages(passage_language)}
    tables = {
        kind: Dataset.from_dict({"id": [f"{kind}{row}" for row in range(len(column))], "text": column.to_pylist()})
        for kind, column in texts.items()
    }
    relevant: dict[str, dict[str, int]] = {f"q{row}": {} for row in query_rows if row >= 0}
    for query, passage in zip(query_rows, passage_rows, strict=True):
        if query >= 0 and passage >= 0:
            relevant[f"q{query}"][f"p{passage}"] = 1
    return {"queries": tables["q"], "corpus": tables["p"], "relevant_docs": relevant, "top_ranked": None}


def in_mteb(model: SentenceTransformer, corpus: ParallelCorpus) -> dict[str, Mapping[str, Any]]:
    """MTEB's values, by language pair."""
    task = ToyRetrieval(corpus)
    results = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return {scores["hf_subset"]: scores for scores in results.task_results[0].scores["test"]}


@pytest.fixture
def corpus() -> ParallelCorpus:
    return toy_corpus(24, tuple(CODES), seed=6)  # no passage scores nearly as a relevant one: rounding moves no rank


@pytest.fixture
def encoder(corpus: ParallelCorpus) -> HybridEncoder:
    return toy_encoder(corpus, **PROMPTS)


def test_values_of_all_pairs_are_those_of_evaluate_retrieval(
    tmp_path: Path, corpus: ParallelCorpus, encoder: HybridEncoder
) -> None:
    encoder.save_pretrained(tmp_path)
    found = in_mteb(SentenceTransformer(str(tmp_path), device="cpu"), corpus)
    expected = evaluate_retrieval(encoder, corpus)["pairs"]
    assert set(found) == set(expected) == set(PAIRS)
    for pair in PAIRS:
        for ours, (rounded, exact) in NAMES.items():
            assert 0.02 < expected[pair][ours] < 0.98  # equal by chance it cannot be
            assert found[pair][f"exact {exact}"] == pytest.approx(expected[pair][ours], abs=1e-6)
            assert found[pair][rounded] == pytest.approx(expected[pair][ours], abs=6e-6)
    assert len({round(expected[pair]["MAP"], 6) for pair in PAIRS}) == len(PAIRS)


@pytest.mark.slow
def test_prompts_of_the_model_are_used(
    tmp_path: Path, corpus: ParallelCorpus, encoder: HybridEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder.save_pretrained(tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    embedded: list[dict[str, np.ndarray]] = []
    encode = model.encode

    def remember(inputs: list[str], **options: Any) -> np.ndarray:
        embeddings = encode(inputs, **options)
        embedded.append(dict(zip(inputs, embeddings, strict=True)))
        return embeddings

    monkeypatch.setattr(model, "encode", remember)
    in_mteb(model, corpus)
    assert len(embedded) == 2 * len(PAIRS)  # queries, then passages of each pair
    without = toy_encoder(corpus)
    for number, of_texts in enumerate(embedded):
        side, texts = ("query", "passage")[number % 2], list(of_texts)
        np.testing.assert_allclose(list(of_texts.values()), encoder.encode(texts, side), atol=1e-6)
        assert not np.allclose(without.encode(texts, side), encoder.encode(texts, side), atol=1e-2)
