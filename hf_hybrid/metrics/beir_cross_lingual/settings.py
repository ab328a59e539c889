"""Runs and references taken apart by language.

A pair is a query language and a document language. For it every ranking of a query in the one is restricted to the
documents in the other, and those of them that are relevant are what there is to find: the monolingual and the
cross-lingual setting. In the multilingual setting the whole ranking of a query counts.

1. `check_languages` sees that every id has a language.
2. `by_pair` takes rankings and references apart in one pass over each.
3. `score_pairs` and `score_pool` score the parts, `pool_bias` says how far languages lie apart in the whole rankings.

Shape letters: Q queries of a language, R their relevant documents, L languages, N their retrieved documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .bias import (
    BIAS_TOP_K,
    RECALL_TOP_K,
    bias_by_query,
    lacks_rank_distance,
    recall_by_language,
    same_language_share,
)
from .policies import Policy, find_policy
from .ranking import Ranked, average_known, macro, rank_runs

_RECALL = f"recall_by_language@{RECALL_TOP_K}"
_COUNTS = ("rank_distance_num_queries", "rank_distance_num_undefined")

Rows = Sequence[Mapping[str, Any]]
Pair = tuple[str, str]


class Languages(NamedTuple):
    """Language of each query id and of each document id."""

    of_query: Mapping[str, str]
    of_document: Mapping[str, str]


def check_languages(predictions: Rows, references: Rows, languages: Languages) -> None:
    """Refuse ids without a language.

    Args:
        predictions (`Sequence[Mapping]`): One `{"query_id", "doc_ids", "scores"}` a query.
        references (`Sequence[Mapping]`): One `{"query_id", "doc_ids", "relevance"}` a query.
        languages (`Languages`): Language of each id.

    Raises:
        ValueError: When an id has no language; the message has one of them and how many there are.
    """
    rows = [*references, *predictions]
    unknown = {
        "query_languages": {row["query_id"] for row in rows} - languages.of_query.keys(),
        "doc_languages": {document for row in rows for document in row["doc_ids"]} - languages.of_document.keys(),
    }
    for name, ids in unknown.items():
        if ids:
            raise ValueError(
                f"{name}: {len(ids)} of the ids in predictions and references have no language, {min(ids)!r} is the "
                "first. Give the language of each."
            )


def by_pair(rows: Rows, values: str, languages: Languages) -> dict[Pair, dict[str, dict[str, Any]]]:
    """For each language pair the rows of its queries by query id, with its documents alone.

    Args:
        rows (`Sequence[Mapping]`): Predictions or references.
        values (`str`): Name of what goes with each document: `"scores"` or `"relevance"`.
        languages (`Languages`): Language of each id.

    Returns:
        `dict`: `{(query language, document language): {query id: row}}`; a query is only where it has documents.

    Example:

        >>> row = {"query_id": "q", "doc_ids": ["a", "b", "c"], "scores": [0.3, 0.2, 0.1]}
        >>> found = by_pair([row], "scores", Languages({"q": "en"}, {"a": "de", "b": "en", "c": "de"}))
        >>> found["en", "de"]
        {'q': {'query_id': 'q', 'doc_ids': ['a', 'c'], 'scores': [0.3, 0.1]}}
    """
    pairs: dict[Pair, dict[str, dict[str, Any]]] = {}
    for row in rows:
        query_id = row["query_id"]
        parts: dict[str, dict[str, Any]] = {}
        for document, value in zip(row["doc_ids"], row[values], strict=True):
            language = languages.of_document[document]
            if language not in parts:
                parts[language] = {"query_id": query_id, "doc_ids": [], values: []}
            parts[language]["doc_ids"].append(document)
            parts[language][values].append(value)
        for language, part in parts.items():
            pairs.setdefault((languages.of_query[query_id], language), {})[query_id] = part
    return pairs


def score_pairs(
    predictions: Rows, references: Rows, languages: Languages, score: Callable[[Rows, Rows], dict[str, float]]
) -> dict[Pair, dict[str, float]]:
    """Scores of each language pair, over its queries with a relevant document in it.

    Args:
        predictions, references (`Sequence[Mapping]`): Whole rankings and all judgments.
        languages (`Languages`): Language of each id.
        score (`Callable`): Scores of predictions and references; `{}` if none of the queries counts.

    Returns:
        `dict`: Scores by pair, in alphabetical order; pairs without relevant documents are absent.
    """
    ranked, qrels = by_pair(predictions, "scores", languages), by_pair(references, "relevance", languages)
    predicted = [row["query_id"] for row in predictions]
    found = {}
    for pair in sorted(qrels):
        wanted = {query_id: row for query_id, row in qrels[pair].items() if max(row["relevance"]) > 0}
        hits = ranked.get(pair, {})
        # who ranked no document of this language found nothing there, which is not the same as not having been asked
        rows = [
            hits.get(query_id, {"query_id": query_id, "doc_ids": [], "scores": []})
            for query_id in predicted
            if query_id in wanted
        ]
        scores = score(rows, list(wanted.values())) if wanted else {}
        if scores:
            found[pair] = scores
    return found


def score_pool(
    predictions: Rows, references: Rows, languages: Languages, score: Callable[[Rows, Rows], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Scores of the whole rankings, for each query language over its queries with a relevant document.

    Args:
        predictions, references (`Sequence[Mapping]`): Whole rankings and all judgments.
        languages (`Languages`): Language of each id.
        score (`Callable`): Scores of predictions and references.

    Returns:
        `list[dict]`: One a query language, in alphabetical order.
    """
    qrels: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in references:
        if any(value > 0 for value in row["relevance"]):
            qrels.setdefault(languages.of_query[row["query_id"]], {})[row["query_id"]] = row
    ranked: dict[str, list[Mapping[str, Any]]] = {name: [] for name in qrels}
    for row in predictions:
        name = languages.of_query[row["query_id"]]
        if row["query_id"] in qrels.get(name, {}):
            ranked[name].append(row)
    return [score(ranked[name], list(qrels[name].values())) for name in sorted(qrels)]


def pool_bias(predictions: Rows, references: Rows, languages: Languages, policy: str) -> dict[str, Any]:
    """Language bias of whole rankings: means over the queries of a language, then over query languages.

    Args:
        predictions, references (`Sequence[Mapping]`): Whole rankings and all judgments.
        languages (`Languages`): Language of each id.
        policy (`str`): Of it ties and documents with the query's id matter here.

    Returns:
        `dict`: Means of what `bias.bias_by_query` has; `rank_distance_num_queries`, how many queries that mean is of,
        and `rank_distance_num_undefined`, how many did not retrieve all their relevant documents, in several
        languages; `recall_by_language@100` of each document language. What no query has is absent.
    """

    def of_language(hits: Rows, qrels: Rows) -> dict[str, Any]:
        return _language_bias(rank_runs(hits, qrels, policy), hits, languages, find_policy(policy))

    parts = score_pool(predictions, references, languages, of_language)
    recall = macro(part.pop(_RECALL) for part in parts)
    totals = {name: sum(part.pop(name) for part in parts) for name in _COUNTS if parts}
    return {**macro(parts), **totals, _RECALL: dict(sorted(recall.items()))}


def _language_bias(ranked: Ranked, predictions: Rows, languages: Languages, rules: Policy) -> dict[str, Any]:
    """Score the queries of one language."""
    own_language, num_queries = languages.of_query[ranked.query_ids[0]], len(ranked.query_ids)
    found, language_R = np.unique([languages.of_document[name] for name in ranked.doc_ids_R], return_inverse=True)
    names = found.tolist()
    by_query = bias_by_query(
        ranked.query_R,
        ranked.rank_R,
        _last_ranks(ranked),
        language_R,
        names.index(own_language) if own_language in names else -1,
        num_queries,
        _same_language_share(ranked, predictions, languages, rules),
    )
    recall_QL = recall_by_language(ranked.query_R, ranked.rank_R, language_R, num_queries, len(names), RECALL_TOP_K)
    counts = (int((~np.isnan(by_query["rank_distance"])).sum()), int(lacks_rank_distance(by_query).sum()))
    return {
        **average_known(by_query),
        **dict(zip(_COUNTS, counts, strict=True)),
        _RECALL: dict(zip(names, np.nanmean(recall_QL, axis=0).tolist(), strict=True)),
    }


def _last_ranks(ranked: Ranked) -> np.ndarray:
    """Ranks where relevant documents that tie by the policy all have the last of theirs."""
    _, level_R = np.unique(ranked.score_R, return_inverse=True)
    _, block_R = np.unique(ranked.query_R * len(level_R) + level_R, return_inverse=True)
    last = np.zeros(len(block_R))
    np.maximum.at(last, block_R, ranked.rank_R)
    return last[block_R]


def _same_language_share(ranked: Ranked, predictions: Rows, languages: Languages, rules: Policy) -> np.ndarray:
    """Share of the query's language in the top k of each query's ranking, NaN without documents."""
    numbers = {query_id: number for number, query_id in enumerate(ranked.query_ids)}
    queries, scores, own = [np.zeros(0, dtype=np.int64)], [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for row in predictions:
        query_id, language = row["query_id"], languages.of_query[row["query_id"]]
        kept = [not (rules.own_id == "drop" and document == query_id) for document in row["doc_ids"]]
        queries.append(np.full(sum(kept), numbers[query_id]))
        scores.append(np.array(row["scores"], dtype=np.float64).astype(rules.score_type)[kept])
        own.append(np.array([languages.of_document[name] == language for name in row["doc_ids"]], dtype=bool)[kept])
    columns = (np.concatenate(queries), np.concatenate(scores), np.concatenate(own))
    return same_language_share(*columns, np.ones(len(numbers), dtype=bool), BIAS_TOP_K)
