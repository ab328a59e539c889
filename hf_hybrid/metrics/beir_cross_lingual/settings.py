"""Runs and references taken apart by language.

A pair is a query language and a document language. For it every ranking of a query in the one is restricted to the
documents in the other, and those of them that are relevant are what there is to find: the monolingual and the
cross-lingual setting. In the multilingual setting the whole ranking of a query counts.

1. `check_languages` sees that every id has a language.
2. `by_pair` takes rankings and references apart in one pass over each.
3. `score_pairs` and `score_pool` score the parts, `pool_bias` says how far languages lie apart in the whole rankings;
   `macro` takes means of means.

Shape letters: Q queries of a language, R their relevant documents, L languages, N their retrieved documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .bias import peer, recall_by_language, same_language_share
from .policies import find_policy
from .ranking import Ranked, rank_distance, rank_runs

_SHARE_DEPTH = 10
_SHARE = f"same_language_share@{_SHARE_DEPTH}"
_PEER_DEPTH = 20
_RECALL_DEPTH = 100
_RECALL = f"recall_by_language@{_RECALL_DEPTH}"

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
    """For each pair of languages the rows of its queries by query id, with its documents alone.

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
    """Scores of each pair of languages, over its queries with a relevant document in it.

    Args:
        predictions, references (`Sequence[Mapping]`): Whole rankings and all judgements.
        languages (`Languages`): Language of each id.
        score (`Callable`): Scores of predictions and references; `{}` if none of the queries counts.

    Returns:
        `dict`: Scores by pair, in alphabetical order; pairs without relevant documents are absent.
    """
    ranked, judged = by_pair(predictions, "scores", languages), by_pair(references, "relevance", languages)
    predicted = [row["query_id"] for row in predictions]
    found = {}
    for pair in sorted(judged):
        wanted = {query_id: row for query_id, row in judged[pair].items() if max(row["relevance"]) > 0}
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
        predictions, references (`Sequence[Mapping]`): Whole rankings and all judgements.
        languages (`Languages`): Language of each id.
        score (`Callable`): Scores of predictions and references.

    Returns:
        `list[dict]`: One a query language, in alphabetical order.
    """
    judged: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in references:
        if any(value > 0 for value in row["relevance"]):
            judged.setdefault(languages.of_query[row["query_id"]], {})[row["query_id"]] = row
    ranked: dict[str, list[Mapping[str, Any]]] = {name: [] for name in judged}
    for row in predictions:
        name = languages.of_query[row["query_id"]]
        if row["query_id"] in judged.get(name, {}):
            ranked[name].append(row)
    return [score(ranked[name], list(judged[name].values())) for name in sorted(judged)]


def macro(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each measure over those that have it.

    Example:

        >>> macro([{"MAP": 0.5, "MRR@10": 1.0}, {"MAP": 1.0}])
        {'MAP': 0.75, 'MRR@10': 1.0}
    """
    values: dict[str, list[float]] = {}
    for scores in found:
        for name, value in scores.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(column)) for name, column in values.items()}


def pool_bias(predictions: Rows, references: Rows, languages: Languages, policy: str) -> dict[str, Any]:
    """Language bias of whole rankings: means over the queries of a language, then over query languages.

    Args:
        predictions, references (`Sequence[Mapping]`): Whole rankings and all judgements.
        languages (`Languages`): Language of each id.
        policy (`str`): Of it ties and documents with the query's id matter here.

    Returns:
        `dict`: `rank_distance` and `PEER` of the queries with relevant documents in several languages, the former of
        those alone that retrieved every relevant document (`rank_distance_num_queries`; `rank_distance_num_undefined`
        is how many did not), the latter within the first 20 places; `same_language_share@10`; `recall_by_language@100`
        of each document language. What no query has is absent.
    """

    def of_language(hits: Rows, judged: Rows) -> dict[str, Any]:
        share_Q = _same_language_share(hits, languages, drop_own_id=find_policy(policy).own_id == "drop")
        return {**_rank_bias(rank_runs(hits, judged, policy), hits, languages), **_mean(_SHARE, share_Q)}

    parts = score_pool(predictions, references, languages, of_language)
    recall = macro(part.pop(_RECALL) for part in parts)
    counts = [name for name in ("rank_distance_num_queries", "rank_distance_num_undefined") if parts]
    totals = {name: sum(part.pop(name) for part in parts) for name in counts}
    return {**macro(parts), **totals, _RECALL: dict(sorted(recall.items()))}


def _rank_bias(ranked: Ranked, predictions: Rows, languages: Languages) -> dict[str, Any]:
    """What the ranks of relevant documents say of bias."""
    num_queries = len(ranked.query_ids)
    names, language_R = np.unique([languages.of_document[name] for name in ranked.doc_ids_R], return_inverse=True)
    recall_QL = recall_by_language(ranked.query_R, ranked.rank_R, language_R, num_queries, len(names), _RECALL_DEPTH)
    several_Q = np.isfinite(recall_QL).sum(axis=1) > 1
    retrieved_Q = np.bincount(ranked.query_R, np.isinf(ranked.rank_R), num_queries) == 0
    known = np.isfinite(ranked.rank_R)
    distance_Q = rank_distance(ranked.query_R[known], ranked.rank_R[known], num_queries)
    peer_Q = peer(ranked.query_R, _last_ranks(ranked, predictions), language_R, num_queries, _PEER_DEPTH)
    return {
        **_mean("rank_distance", distance_Q[several_Q & retrieved_Q]),
        **_mean("PEER", peer_Q[several_Q]),
        "rank_distance_num_queries": int((several_Q & retrieved_Q).sum()),
        "rank_distance_num_undefined": int((several_Q & ~retrieved_Q).sum()),
        _RECALL: dict(zip(names.tolist(), np.nanmean(recall_QL, axis=0).tolist(), strict=True)),
    }


def _last_ranks(ranked: Ranked, predictions: Rows) -> np.ndarray:
    """Ranks where relevant documents that tie all have the last of theirs: no order may tell their languages apart."""
    rows: dict[str, dict[str, int]] = {}
    for place in np.flatnonzero(np.isfinite(ranked.rank_R)).tolist():
        rows.setdefault(ranked.query_ids[ranked.query_R[place]], {})[ranked.doc_ids_R[place]] = place
    score_R = np.full(len(ranked.rank_R), -np.inf)
    for prediction in predictions:
        wanted = rows.get(prediction["query_id"], {})
        for document, score in zip(prediction["doc_ids"], prediction["scores"], strict=True):
            if document in wanted:
                score_R[wanted[document]] = score
    block_R = np.unique(np.stack([ranked.query_R, score_R]), axis=1, return_inverse=True)[1].reshape(-1)
    last = np.zeros(len(block_R))
    np.maximum.at(last, block_R, ranked.rank_R)
    return last[block_R]


def _same_language_share(predictions: Rows, languages: Languages, drop_own_id: bool) -> np.ndarray:
    """Share of the query's language in the first places of each ranking, NaN for one without documents."""
    lengths, scores, own = [], [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for row in predictions:
        language = languages.of_query[row["query_id"]]
        kept = [not (drop_own_id and document == row["query_id"]) for document in row["doc_ids"]]
        lengths.append(sum(kept))
        scores.append(np.array(row["scores"], dtype=np.float64)[kept])
        own.append(np.array([languages.of_document[name] == language for name in row["doc_ids"]], dtype=bool)[kept])
    query_N, score_N, own_N = np.repeat(np.arange(len(lengths)), lengths), np.concatenate(scores), np.concatenate(own)
    return same_language_share(query_N, score_N, own_N, np.ones(len(predictions), dtype=bool), _SHARE_DEPTH)


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    return {name: float(known.mean())} if len(known) else {}
