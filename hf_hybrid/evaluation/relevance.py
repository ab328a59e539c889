"""Relevance judgments of the queries of one language, from the items of a corpus.

Shape letters: Q queries of a language, N passages of the pool, I items, R relevant passages of all the queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hf_hybrid.retrieval.search import Relevant

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus


def find_queries_with_qrels(corpus: ParallelCorpus, language: int, max_queries: int | None = None) -> np.ndarray:
    """Rows `(Q,)`, increasing, of the queries of one language that have a relevant passage in any.

    Args:
        corpus (`ParallelCorpus`): Its items are the judgments.
        language (`int`): Number of the language.
        max_queries (`int`, *optional*): The first so many of them only.
    """
    rows = corpus.rows[_judged_items(corpus, language), language, corpus.QUERY]
    return np.unique(rows)[:max_queries]


def judgments(corpus: ParallelCorpus, language: int, candidates: list[np.ndarray], query_rows: np.ndarray) -> Relevant:
    """Return the relevant passages of some queries of one language, in all languages.

    Args:
        corpus (`ParallelCorpus`): Its items are the judgments.
        language (`int`): Number of the language of the queries.
        candidates (`list[np.ndarray]`): For each language the rows of its passages in the pool, increasing.
        query_rows (`np.ndarray` of shape `(Q,)`): Rows of the queries, increasing.

    Returns:
        `Relevant`: By query, then by place in the pool.
    """
    items = _judged_items(corpus, language)
    rows_I = corpus.rows[items, language, corpus.QUERY]
    query_I = np.minimum(np.searchsorted(query_rows, rows_I), len(query_rows) - 1)
    wanted = query_rows[query_I] == rows_I
    items, query_I = items[wanted], query_I[wanted]
    passages = corpus.rows[items][..., corpus.PASSAGE]
    item_R, language_R = np.nonzero(passages >= 0)
    passage_R = _places_in_pool(passages[item_R, language_R], language_R, candidates)
    gain_R = corpus.relevance[items][item_R]
    # a query may have the same passage through several items: it counts once, with the highest grade
    order = np.lexsort((-gain_R, passage_R, query_I[item_R]))
    found = Relevant(query_I[item_R], language_R, passage_R, gain_R).take(order)
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(found.query_R) > 0) | (np.diff(found.passage_R) > 0)
    return found.take(new)


def _judged_items(corpus: ParallelCorpus, language: int) -> np.ndarray:
    """Items with a query in the language and a relevant passage in any."""
    items = np.flatnonzero((corpus.rows[:, language, corpus.QUERY] >= 0) & (corpus.relevance > 0))
    return items[(corpus.rows[items][..., corpus.PASSAGE] >= 0).any(axis=1)]


def _places_in_pool(rows_R: np.ndarray, language_R: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    places_R = np.empty(len(rows_R), dtype=np.int64)
    start = 0
    for language, known in enumerate(candidates):
        here = language_R == language
        places_R[here] = start + np.searchsorted(known, rows_R[here])
        start += len(known)
    return places_R
