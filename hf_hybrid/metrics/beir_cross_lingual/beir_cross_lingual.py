"""BEIR's measures by language, as a module of the `evaluate` library: `evaluate.load` of this folder or of its Space.

1. `add_batch` checks predictions and references and stores them as `evaluate` does. The two are matched by query id:
   they may come in any order and in different batches.
2. `compute` scores the whole rankings by a policy: "beir" is `beir`'s own evaluation, all others are `ranking.py`.
3. With the languages of queries and documents it scores each language pair, the pool of all, and language bias.

`evaluate` copies this file and the siblings that it finds in lines of this file that begin `from .name import`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
from beir.retrieval.evaluation import EvaluateRetrieval

# `evaluate` does not look into siblings: what only they need is here under its own name
from .bias import bias_by_query as bias_by_query
from .policies import find_policy
from .ranking import evaluate_runs, macro, rank_runs
from .runs import Judged as Judged
from .settings import Languages, check_languages, pool_bias, score_pairs, score_pool
from .trec import MOST_RELEVANT, predictions_of, read_beir_qrels, read_languages, read_qrels, read_run

_DESCRIPTION = """
Retrieval measures as BEIR has them (MAP, nDCG@k, Recall@k, P@k, MRR@k), by a policy that has a name: ties, documents
with the query's id and queries without results are treated differently by BEIR, MTEB, trec_eval and
sentence-transformers. With the languages of queries and documents the same rankings are also scored in the
monolingual, the cross-lingual and the multilingual setting, for each language pair, and for language bias.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[dict]`): One a query, {"query_id": `str`, "doc_ids": `list[str]`, "scores": `list[float]`}, best
        documents with the highest scores, in any order.
    references (`list[dict]`): One a query, {"query_id": `str`, "doc_ids": `list[str]`, "relevance": `list[int]`};
        relevance is 0 for what is not relevant.
    doc_languages (`dict[str, str]`, *optional*): Language of each document; together with `query_languages`.
    query_languages (`dict[str, str]`, *optional*): Language of each query.
    k_values (`Sequence[int]`, *optional*, defaults to `(10, 100)`): Depths at which measures are cut.
    policy (`str`, *optional*, defaults to `"hf_hybrid"`): "hf_hybrid", "beir", "mteb", "trec_eval" or
        "sentence-transformers"; or that which `evaluate.load(path, policy)` was given.
Returns:
    `dict`: "MAP", and for each k "MAP@k", "nDCG@k", "Recall@k", "P@k" and "MRR@k", in [0, 1], higher is better; and
        "num_queries", how many queries have a relevant document. With languages also the same measures as
        "monolingual/...", "cross_lingual/..." and "multilingual/...", "pairs" with those of each pair ("de-en": German
        queries, English documents), and "bias".
Examples:

    >>> import evaluate
    >>> metric = evaluate.load("beir_cross_lingual")  # the path of this folder
    >>> predictions = [{"query_id": "q", "doc_ids": ["a", "b", "c"], "scores": [0.9, 0.8, 0.7]}]
    >>> references = [{"query_id": "q", "doc_ids": ["b"], "relevance": [1]}]
    >>> metric.compute(predictions=predictions, references=references, k_values=[1, 10])["MRR@10"]
    0.5
    >>> found = metric.compute(predictions=predictions, references=references, query_languages={"q": "en"},
    ...                        doc_languages={"a": "en", "b": "de", "c": "de"})
    >>> found["cross_lingual/MRR@10"], found["multilingual/MRR@10"], list(found["pairs"])
    (1.0, 0.5, ['en-de'])
"""

_CITATION = """
@misc{elmahdy2024synergistic,
    title = {Synergistic Approach for Simultaneous Optimization of Monolingual, Cross-lingual, and Multilingual
        Information Retrieval},
    author = {Elmahdy, Adel and Lin, Sheng-Chieh and Ahmad, Amin},
    year = {2024},
    note = {arXiv 2408.10536}
}
@inproceedings{thakur2021beir,
    title = {{BEIR}: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models},
    author = {Thakur, Nandan and Reimers, Nils and R{\\"u}ckl{\\'e}, Andreas and Srivastava, Abhishek and
        Gurevych, Iryna},
    booktitle = {NeurIPS Datasets and Benchmarks Track},
    year = {2021},
    url = {https://openreview.net/forum?id=wCu6T5xFjeJ}
}
"""

_MEASURES = ("MAP", "nDCG", "Recall", "P", "MRR")


def _columns(values: str, dtype: str) -> dict[str, Any]:
    text, number = datasets.Value("string"), datasets.Value(dtype)
    return {"query_id": text, "doc_ids": datasets.Sequence(text), values: datasets.Sequence(number)}


class _Arguments(NamedTuple):
    """Options of `compute`."""

    policy: str
    k_values: tuple[int, ...]
    languages: Languages | None


class BeirCrossLingual(evaluate.Metric):
    """BEIR's measures by language, as a metric of `evaluate`; `compute` has the arguments.

    Args:
        config_name (`str`, *optional*): The policy that `compute` takes where it is given none, so that
            `evaluate.combine` can put several beside each other.
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name != "default":
            find_policy(self.config_name)
        return evaluate.MetricInfo(
            module_type="metric",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": _columns("scores", "float64"), "references": _columns("relevance", "int64")}
            ),
            reference_urls=["https://arxiv.org/abs/2408.10536", "https://github.com/beir-cellar/beir"],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add predictions and references, as many of either as there are: `compute` matches them by query id."""
        hits = [] if predictions is None else _predictions(predictions)
        qrels = [] if references is None else _references(references)
        # `evaluate` stores equally many of both; an entry without a query id is padding
        nothing = {"query_id": "", "doc_ids": []}
        hits += [{**nothing, "scores": []}] * (len(qrels) - len(hits))
        qrels += [{**nothing, "relevance": []}] * (len(hits) - len(qrels))
        super().add_batch(predictions=hits, references=qrels, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add a prediction, a reference or both, which need not be of the same query."""
        # `evaluate.combine` gives one of each under the names for many
        one = kwargs.pop("predictions", prediction), kwargs.pop("references", reference)
        predictions, references = ([] if row is None else [row] for row in one)
        self.add_batch(predictions=predictions, references=references, **kwargs)

    def compute(
        self,
        *,
        predictions: Any = None,
        references: Any = None,
        doc_languages: Mapping[str, str] | None = None,
        query_languages: Mapping[str, str] | None = None,
        k_values: Sequence[int] = (10, 100),
        policy: str | None = None,
    ) -> dict[str, Any] | None:
        """Scores of all that was added, and of what is given here."""
        if policy is None:
            policy = "hf_hybrid" if self.config_name == "default" else self.config_name
        # checked before `evaluate` takes what was added out of its store, where it is no more after an error
        arguments = _checked_arguments(policy, k_values, query_languages, doc_languages)
        return super().compute(predictions=predictions, references=references, arguments=arguments)

    def _compute(
        self, predictions: list[dict[str, Any]], references: list[dict[str, Any]], arguments: _Arguments
    ) -> dict[str, Any]:
        policy, k_values, languages = arguments
        predictions, references = _present(predictions, "predictions"), _present(references, "references")
        scorer = _beir_scores if policy == "beir" else _scores
        found: dict[str, Any] = scorer(predictions, references, k_values, policy)
        found["num_queries"] = sum(any(value > 0 for value in row["relevance"]) for row in references)
        if languages is None:
            return found
        check_languages(predictions, references, languages)

        def score(hits: Any, qrels: Any) -> dict[str, float]:
            counts = hits or find_policy(policy).not_in_run == "zero"
            return scorer(hits, qrels, k_values, policy) if counts else {}

        pairs = score_pairs(predictions, references, languages, score)
        settings = {
            "monolingual": macro(scores for (query, document), scores in pairs.items() if query == document),
            "cross_lingual": macro(scores for (query, document), scores in pairs.items() if query != document),
            "multilingual": macro(score_pool(predictions, references, languages, score)),
        }
        found.update({f"{name}/{key}": value for name, scores in settings.items() for key, value in scores.items()})
        found["pairs"] = {"-".join(pair): scores for pair, scores in pairs.items()}
        found["bias"] = pool_bias(predictions, references, languages, policy)
        return found

    @staticmethod
    def from_trec(run_path: str | os.PathLike[str], qrels_path: str | os.PathLike[str]) -> dict[str, Any]:
        """Predictions and references of TREC files: `metric.compute(**metric.from_trec("run.txt", "qrels.txt"))`.

        Args:
            run_path (`str` or `os.PathLike`): Lines of `query Q0 document rank score tag`; the rank is not read.
            qrels_path (`str` or `os.PathLike`): Lines of `query 0 document relevance`.

        Returns:
            `dict`: `predictions` and `references`.

        Raises:
            ValueError: When a line is not as it should be; the message has the file, the line and what is allowed.
        """
        return {"predictions": read_run(run_path), "references": read_qrels(qrels_path)}

    @staticmethod
    def from_beir(
        folder: str | os.PathLike[str],
        run: str | os.PathLike[str] | Mapping[str, Mapping[str, float]],
        split: str = "test",
    ) -> dict[str, Any]:
        """Predictions and references of a BEIR folder, whose `qrels/<split>.tsv` alone is read, and a run.

        Args:
            folder (`str` or `os.PathLike`): The folder that `qrels` is in.
            run (`str`, `os.PathLike` or `Mapping`): A TREC file, or `{query id: {document id: score}}` as the
                retrievers of `beir` give it.
            split (`str`, *optional*, defaults to `"test"`): Which judgments.

        Returns:
            `dict`: `predictions` and `references`.

        Raises:
            ValueError: As `from_trec`, and when the folder has no such split.
        """
        predictions = predictions_of(run) if isinstance(run, Mapping) else read_run(run)
        return {"predictions": predictions, "references": read_beir_qrels(folder, split)}

    @staticmethod
    def languages_from(path: str | os.PathLike[str]) -> dict[str, str]:
        """Languages of documents or queries from a file, for `doc_languages` and `query_languages`.

        Args:
            path (`str` or `os.PathLike`): Lines of id and language with a tab between.

        Returns:
            `dict[str, str]`: Language of each id.

        Raises:
            ValueError: When a line is not as it should be, or an id comes twice.
        """
        return read_languages(path)


def _checked_arguments(
    policy: str,
    k_values: Sequence[int],
    query_languages: Mapping[str, str] | None,
    doc_languages: Mapping[str, str] | None,
) -> _Arguments:
    find_policy(policy)
    depths = list(k_values) if isinstance(k_values, Iterable) else []
    if not depths or not all(isinstance(k, int | np.integer) and not isinstance(k, bool) and k > 0 for k in depths):
        raise ValueError(f"k_values={k_values!r}: give whole numbers from 1, such as (10, 100).")
    known = {"query_languages": query_languages, "doc_languages": doc_languages}
    for name, languages in known.items():
        if languages is not None and not isinstance(languages, Mapping):
            raise ValueError(f"{name} is a {type(languages).__name__}: give a dict with the language of each id.")
        if other := [code for code in (languages or {}).values() if not isinstance(code, str)]:
            raise ValueError(f"{name}: found the language {other[0]!r}, a language must be a string.")
    lacking = [name for name, languages in known.items() if languages is None]
    if len(lacking) == 1:
        raise ValueError(f"{lacking[0]} is missing: give both, for scores by language, or neither.")
    both = None if query_languages is None or doc_languages is None else Languages(query_languages, doc_languages)
    return _Arguments(policy, tuple(dict.fromkeys(map(int, depths))), both)


def _predictions(rows: Any) -> list[dict[str, Any]]:
    """Checked predictions: what `ranking` would refuse in the end is refused before it is stored."""
    rows = _listed(rows, "predictions")
    rank_runs(rows, [])
    return [_row(row["query_id"], row["doc_ids"], "scores", row["scores"]) for row in rows]


def _references(rows: Any) -> list[dict[str, Any]]:
    """Check and convert references."""
    rows = _listed(rows, "references")
    rank_runs([], rows)
    for row in rows:
        relevance = np.asarray(row["relevance"], dtype=np.float64)
        wrong = relevance[(relevance < 0) | (relevance % 1 > 0) | (relevance > MOST_RELEVANT)]
        if len(wrong):
            query_id, found = row["query_id"], wrong[0]
            raise ValueError(
                f"references, query {query_id!r}: found the relevance {found:g}; allowed are whole numbers from 0 to "
                f"{MOST_RELEVANT}."
            )
    return [_row(row["query_id"], row["doc_ids"], "relevance", row["relevance"]) for row in rows]


def _listed(rows: Any, side: str) -> list[Any]:
    if not isinstance(rows, Iterable):
        raise ValueError(f"{side} is a {type(rows).__name__}: give a list with a dict for each query.")
    return list(rows)


def _row(query_id: str, doc_ids: Iterable[str], name: str, values: Any) -> dict[str, Any]:
    if not query_id:
        raise ValueError(f"found an empty query_id beside {name}: give each query an id.")
    dtype = np.float64 if name == "scores" else np.int64
    return {"query_id": query_id, "doc_ids": list(doc_ids), name: np.asarray(values).astype(dtype).tolist()}


def _present(rows: list[dict[str, Any]], side: str) -> list[dict[str, Any]]:
    """Return the added entries, without the padding of `add_batch`."""
    found = [row for row in rows if row["query_id"]]
    twice = [name for name, count in Counter(row["query_id"] for row in found).items() if count > 1]
    if twice:
        raise ValueError(f"{side}: query {twice[0]!r} was added more than once, give all its documents in one entry.")
    return found


def _scores(predictions: Any, references: Any, k_values: tuple[int, ...], policy: str) -> dict[str, float]:
    """Measures by a policy of `ranking`."""
    names = ["MAP", *(f"{name}@{k}" for name in _MEASURES for k in k_values)]
    return evaluate_runs(predictions, references, names, policy).means


def _beir_scores(predictions: Any, references: Any, k_values: tuple[int, ...], policy: str) -> dict[str, float]:
    """BEIR's own figures under our names; MAP is theirs at the length of the longest ranking."""
    qrels = {row["query_id"]: dict(zip(row["doc_ids"], row["relevance"], strict=True)) for row in references}
    # a query without references ends BEIR's MRR with a KeyError, and counts in none of the other measures
    results = {
        row["query_id"]: dict(zip(row["doc_ids"], row["scores"], strict=True))
        for row in predictions
        if row["query_id"] in qrels
    }
    if not results:
        raise ValueError(
            f"no query of {len(references)} references is among the {len(predictions)} predictions, so BEIR has "
            "nothing to average. Do both use the same ids?"
        )
    top_k = max(1, *map(len, results.values()))
    # this takes documents with the query's id out of the results, so that MRR is without them too
    groups = EvaluateRetrieval.evaluate(qrels, results, sorted({*k_values, top_k}))
    theirs = {name: value for group in groups for name, value in group.items()}
    theirs.update(EvaluateRetrieval.evaluate_custom(qrels, results, list(k_values), "mrr"))
    ours = {f"{name}@{k}": theirs[f"{name.replace('nDCG', 'NDCG')}@{k}"] for name in _MEASURES for k in k_values}
    return {"MAP": theirs[f"MAP@{top_k}"], **ours}
