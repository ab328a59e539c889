"""What is relevant to the queries of one language, read from the items of a corpus.

Shape letters: Q queries of a language, N passages of the pool, I items, R relevant passages of all the queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .corpus import ParallelCorpus


class Relevant(NamedTuple):
    """What is relevant to the queries of one language, by query; a passage by its place in the pool."""

    query_R: np.ndarray
    language_R: np.ndarray
    passage_R: np.ndarray
    gain_R: np.ndarray

    def take(self, chosen: np.ndarray | slice) -> Relevant:
        """Some of them."""
        return Relevant(*(column[chosen] for column in self))


def judgements(
    corpus: ParallelCorpus, language: int, candidates: list[np.ndarray], max_queries: int | None
) -> tuple[np.ndarray, Relevant]:
    """The queries of one language that have a relevant passage anywhere, and those passages.

    Args:
        corpus (`ParallelCorpus`): Its items are the judgements.
        language (`int`): Number of the language.
        candidates (`list[np.ndarray]`): For each language the rows of its passages in the pool, increasing.
        max_queries (`int`, *optional*): The first so many of them only.

    Returns:
        `tuple[np.ndarray, Relevant]`: Rows of the queries `(Q,)`, and what is relevant to them.
    """
    passages = corpus.rows[..., corpus.PASSAGE]
    query_rows = corpus.rows[:, language, corpus.QUERY]
    judged = (query_rows >= 0) & (corpus.relevance > 0) & (passages >= 0).any(axis=1)
    items = np.flatnonzero(judged)
    rows, query_I = np.unique(query_rows[items], return_inverse=True)
    item_R, language_R = np.nonzero(passages[items] >= 0)
    passage_R = _places_in_pool(passages[items][item_R, language_R], language_R, candidates)
    gain_R = corpus.relevance[items][item_R]
    # a query may have the same passage through several items: it counts once, with the highest grade
    order = np.lexsort((-gain_R, passage_R, query_I[item_R]))
    found = Relevant(query_I[item_R], language_R, passage_R, gain_R).take(order)
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(found.query_R) > 0) | (np.diff(found.passage_R) > 0)
    found = found.take(new)
    return rows[:max_queries], found if max_queries is None else found.take(found.query_R < max_queries)


def _places_in_pool(rows_R: np.ndarray, language_R: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    places_R = np.empty(len(rows_R), dtype=np.int64)
    start = 0
    for language, known in enumerate(candidates):
        here = language_R == language
        places_R[here] = start + np.searchsorted(known, rows_R[here])
        start += len(known)
    return places_R
