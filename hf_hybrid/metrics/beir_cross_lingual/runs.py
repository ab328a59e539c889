"""Predictions and references as they are given, checked, and counts over the scores (numpy only, leaf).

`ranking.rank_runs` is the way in. Nothing here builds an object for a hit: the few relevant documents are looked up,
and where they stand is counted.

Shape letters: Q queries, R relevant documents of all queries together, N retrieved documents of one query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


class Judged:
    """References: a row for each relevant document, and which rows a query has."""

    def __init__(self, references: Iterable[Mapping[str, Any]]) -> None:
        self.rows: dict[str, tuple[int, dict[str, int]]] = {}  # by query its number, and by document its row
        self.doc_ids_R: list[str] = []
        num_relevant: list[int] = []
        num_judged: list[int] = []
        gains: list[float] = []
        for reference in references:
            query_id, ids, relevance = _columns(reference, "references", "relevance")
            if query_id in self.rows:
                raise ValueError(f"references, query {query_id!r}: comes twice. Put its documents into one entry.")
            if len(set(ids)) != len(ids):
                raise _twice(ids, "references", query_id)
            relevance = _numbers(relevance, "references", query_id, "relevance").tolist()
            relevant = [document for document, grade in zip(ids, relevance, strict=True) if grade > 0]
            rows = {document: len(gains) + row for row, document in enumerate(relevant)}
            self.rows[query_id] = len(num_judged), rows
            self.doc_ids_R += relevant
            gains += [grade for grade in relevance if grade > 0]
            num_relevant.append(len(relevant))
            num_judged.append(len(ids))
        self.query_R = np.repeat(np.arange(len(num_relevant)), num_relevant)
        self.gain_R, self.num_judged_Q = np.array(gains, dtype=np.float64), np.array(num_judged, dtype=np.int64)


class Hits:
    """Retrieved documents of one query; `drop_own_id` omits the one with the query's id."""

    def __init__(self, prediction: Mapping[str, Any], drop_own_id: bool) -> None:
        self.query_id, self.ids, scores = _columns(prediction, "predictions", "scores")
        self.scores_N = _numbers(scores, "predictions", self.query_id, "scores")
        self.known = set(self.ids)
        if len(self.known) != len(self.ids):
            raise _twice(self.ids, "predictions", self.query_id)
        if drop_own_id and self.query_id in self.known:
            place = self.ids.index(self.query_id)
            self.known.discard(self.query_id)
            self.ids, self.scores_N = self.ids[:place] + self.ids[place + 1 :], np.delete(self.scores_N, place)

    def find(self, rows: dict[str, int]) -> list[tuple[int, int]]:
        """Place and row of each document of `rows` that was retrieved."""
        if len(rows) < 8:
            return [(self.ids.index(document), row) for document, row in rows.items() if document in self.known]
        index = dict(zip(self.ids, range(len(self.ids)), strict=True))
        return [(index[document], row) for document, row in rows.items() if document in self.known]


class Counts:
    """For one order of documents how many come before each relevant one, and its score.

    Args:
        ties (`str`): As in a `Policy`. For pessimistic ties the relevant document and all that tie with it are
            counted;
            `ranking.relevant_ranks` makes ranks of that. For the others a count is the rank.
        score_type (`str`): Type that scores are rounded to.
        num_relevant (`int`): R. What is never found stays at infinity, with a score of -infinity.
    """

    def __init__(self, ties: str, score_type: str, num_relevant: int) -> None:
        self.ties, self.score_type = ties, score_type
        self.count_R, self.score_R = np.full(num_relevant, np.inf), np.full(num_relevant, -np.inf)

    def add(self, hits: Hits, found: list[tuple[int, int]]) -> None:
        """Count for the documents that were found among the hits."""
        scores_N = hits.scores_N.astype(self.score_type, copy=False)
        for place, row in found:
            self.count_R[row] = _count(place, scores_N, hits.ids, self.ties)
            self.score_R[row] = scores_N[place]


def _count(place: int, scores_N: np.ndarray, ids: list[str], ties: str) -> int:
    score = scores_N[place]
    at_least = int(np.count_nonzero(scores_N >= score))
    if ties == "pessimistic":
        return at_least
    rank = 1 + int(np.count_nonzero(scores_N > score))
    if rank == at_least:
        return rank
    if ties == "as_given":
        return rank + int(np.count_nonzero(scores_N[:place] == score))
    own, tied = ids[place], np.flatnonzero(scores_N == score).tolist()
    return rank + sum(ids[other] > own if ties == "id_descending" else ids[other] < own for other in tied)


def _columns(entry: Mapping[str, Any], name: str, values: str) -> tuple[str, list[str], Any]:
    """Query id, document ids and values of a prediction or a reference, ids and lengths checked."""
    try:
        query_id, ids, numbers = entry["query_id"], entry["doc_ids"], entry[values]
    except (KeyError, TypeError):
        given = sorted(entry) if isinstance(entry, Mapping) else type(entry).__name__
        raise ValueError(f"{name}: found {given}, give query_id, doc_ids and {values} for each query.") from None
    if not isinstance(query_id, str):
        raise ValueError(f"{name}, query {query_id!r}: an id must be a string, give {str(query_id)!r}.")
    if isinstance(ids, str) or not all(hasattr(given, "__len__") for given in (ids, numbers)):
        raise ValueError(f"{name}, query {query_id!r}: give lists, one of doc_ids and one of {values}.")
    if type(ids) is not list:
        ids = list(ids)
    try:
        "".join(ids)  # the fastest way to see that all are strings
    except TypeError:
        other = next(document for document in ids if not isinstance(document, str))
        raise ValueError(
            f"{name}, query {query_id!r}: document id {other!r} must be a string, give {str(other)!r}."
        ) from None
    if len(numbers) != len(ids):
        raise ValueError(
            f"{name}, query {query_id!r}: {len(ids)} doc_ids and {len(numbers)} {values}, give one for each document."
        )
    return query_id, ids, numbers


def _numbers(numbers: Any, name: str, query_id: str, values: str) -> np.ndarray:
    where = f"{name}, query {query_id!r}: {values} must be finite numbers"
    try:
        given = isinstance(numbers, np.ndarray)
        found_N = numbers.astype(np.float64) if given else np.fromiter(numbers, np.float64, len(numbers))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}, found {numbers!r:.80}.") from None
    finite_N = np.isfinite(found_N)
    if not finite_N.all():
        place = int(np.flatnonzero(~finite_N)[0])
        raise ValueError(
            f"{where}, number {place + 1} is {found_N[place]}. Leave the document out, or mend its score."
        )
    return found_N


def _twice(ids: list[str], name: str, query_id: str) -> ValueError:
    document = max(ids, key=ids.count)
    return ValueError(
        f"{name}, query {query_id!r}: document {document!r} comes {ids.count(document)} times, keep one."
    )
