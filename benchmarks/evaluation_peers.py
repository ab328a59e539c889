"""A corpus in the form of MTEB and of BEIR, and the evaluation of an encoder by each, for `evaluation.py`.

A peer knows data sets: queries, passages and judgments. So all language pairs are as many data sets, the pool is
one more, and each is encoded, searched and scored by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_hybrid.data.corpus import ParallelCorpus

POOL = "pool"
K_VALUES = (1, 10, 100, 1000)  # what MTEB cannot do without, and the cutoffs of our measures
Embed = Callable[[list[str], str], np.ndarray]


class Job(NamedTuple):
    """Queries of a language against passages of a language, or all against all: what a peer calls a data set."""

    name: str
    queries: dict[str, str]
    passages: dict[str, str]
    relevant: dict[str, dict[str, int]]


class PeerRun(NamedTuple):
    """Seconds and nDCG@10 of each job."""

    time_s: dict[str, float]
    values: dict[str, float]


def jobs_of(corpus: ParallelCorpus) -> list[Job]:
    """The pool, then the pairs diagonal by diagonal: in L pairs each language is once on each side."""
    size = len(corpus.languages)
    queries = {language: texts_of(corpus, corpus.QUERY, language) for language in corpus.languages}
    passages = {language: texts_of(corpus, corpus.PASSAGE, language) for language in corpus.languages}
    found = []
    for step in range(1, size + 1):
        for first in range(size):
            pair = corpus.languages[first], corpus.languages[(first + step) % size]
            relevant = judgments(corpus, *pair)
            asked = {query: queries[pair[0]][query] for query in relevant}
            found.append(Job("-".join(pair), asked, passages[pair[1]], relevant))
    pool = Job(POOL, {}, {key: text for texts in passages.values() for key, text in texts.items()}, {})
    for job in found:
        pool.queries.update(job.queries)
        for query, gold in job.relevant.items():
            pool.relevant.setdefault(query, {}).update(gold)
    return [pool, *found]


def texts_of(corpus: ParallelCorpus, side: int, language: str) -> dict[str, str]:
    """Texts that can be asked or retrieved, by id."""
    column = corpus.queries(language) if side == corpus.QUERY else corpus.passages(language)
    rows = corpus.rows[:, corpus.languages.index(language), corpus.QUERY]
    chosen = np.unique(rows[rows >= 0]) if side == corpus.QUERY else corpus.candidates(language)
    return {f"{'qp'[side]}-{language}-{row}": column[row].as_py() for row in chosen.tolist()}


def judgments(corpus: ParallelCorpus, query_language: str, passage_language: str) -> dict[str, dict[str, int]]:
    """The items that have both, as the peers read them."""
    places = [corpus.languages.index(language) for language in (query_language, passage_language)]
    rows = corpus.rows[:, places, [corpus.QUERY, corpus.PASSAGE]]
    found: dict[str, dict[str, int]] = {}
    for (query, passage), grade in zip(rows.tolist(), corpus.relevance.tolist(), strict=True):
        if query >= 0 and passage >= 0 and grade > 0:
            found.setdefault(f"q-{query_language}-{query}", {})[f"p-{passage_language}-{passage}"] = grade
    return found


def run_mteb(embed: Embed, jobs: list[Job], cache: Path | None = None) -> PeerRun:
    """A task with a subset for each job; with `cache` through MTEB's own cache of embeddings."""
    from mteb.models.cache_wrappers import CachedEmbeddingWrapper

    task = mteb_task(jobs)
    model = mteb_encoder(embed)
    model = model if cache is None else CachedEmbeddingWrapper(model, cache)
    options: Any = {"batch_size": 32, "show_progress_bar": False}
    found = PeerRun({}, {})
    for job in jobs:
        start = time.perf_counter()
        scores = task.evaluate(model, "test", subsets_to_run=[job.name], encode_kwargs=options)
        found.time_s[job.name] = time.perf_counter() - start
        found.values[job.name] = scores[job.name]["ndcg_at_10"]
    return found


def mteb_task(jobs: list[Job]) -> Any:
    from datasets import Dataset, disable_progress_bars
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    def table(texts: dict[str, str]) -> Dataset:
        return Dataset.from_dict({"id": list(texts), "text": list(texts.values())})

    class Pairs(AbsTaskRetrieval):
        k_values = K_VALUES
        metadata = TaskMetadata(
            name="Pairs",
            description="All language pairs, and the pool.",
            dataset={"path": "none", "revision": "none"},
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs={job.name: ["eng-Latn"] for job in jobs},  # whatever they are: nothing is computed from it
            main_score="ndcg_at_10",
        )

    disable_progress_bars()
    task: Any = Pairs()
    task.dataset, task.data_loaded = {}, True
    for job in jobs:
        tables = {"queries": table(job.queries), "corpus": table(job.passages)}
        task.dataset[job.name] = {"test": {**tables, "relevant_docs": job.relevant, "top_ranked": None}}
    return task


def mteb_encoder(embed: Embed) -> Any:
    from mteb.models import ModelMeta
    from mteb.types import PromptType

    class Encoder:
        mteb_model_meta = ModelMeta.create_empty()

        def __init__(self, *_: Any, **__: Any) -> None:
            """As MTEB's protocol wants it."""

        def encode(self, inputs: Any, *, prompt_type: Any, **_: Any) -> torch.Tensor:
            texts = [text for batch in inputs for text in batch["text"]]
            return torch.from_numpy(embed(texts, "query" if prompt_type == PromptType.query else "passage"))

        def similarity(self, first: Any, second: Any) -> torch.Tensor:
            return torch.as_tensor(first) @ torch.as_tensor(second).T

        def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
            return (torch.as_tensor(first) * torch.as_tensor(second)).sum(dim=1)

    return Encoder()


def run_beir(embed: Embed, jobs: list[Job]) -> PeerRun:
    from beir.retrieval.evaluation import EvaluateRetrieval
    from beir.retrieval.search.dense import DenseRetrievalExactSearch

    class Encoder:
        def encode_queries(self, queries: list[str], **_: Any) -> torch.Tensor:
            return torch.from_numpy(embed(queries, "query"))

        def encode_corpus(self, corpus: list[dict[str, str]], **_: Any) -> torch.Tensor:
            return torch.from_numpy(embed([passage["text"] for passage in corpus], "passage"))

    depths = list(K_VALUES)
    search = DenseRetrievalExactSearch(Encoder(), show_progress_bar=False)
    retrieval = EvaluateRetrieval(search, k_values=depths, score_function="dot")
    found = PeerRun({}, {})
    for job in jobs:
        passages = {key: {"title": "", "text": text} for key, text in job.passages.items()}
        start = time.perf_counter()
        results = retrieval.retrieve(passages, job.queries)
        values = retrieval.evaluate(job.relevant, results, depths, ignore_identical_ids=False)
        retrieval.evaluate_custom(job.relevant, results, depths[1:2], "mrr")
        found.time_s[job.name], found.values[job.name] = time.perf_counter() - start, values[0]["NDCG@10"]
    return found
