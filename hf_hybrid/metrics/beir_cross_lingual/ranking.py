"""Retrieval measures from the ranks of the relevant documents alone (numpy only).

A measure of this module never sees a whole ranking: each relevant document's rank is one more than the number of documents
that are placed before it, which a count over the scores gives without sorting the corpus for each query.

Ties count against the relevant document: of documents with its score, those that are not relevant stand before it.

Shape letters: Q queries, N documents, R relevant documents of all queries together.
"""

from __future__ import annotations

import numpy as np

MEASURES = ("MAP", "nDCG@10", "MRR@10", "Recall@100")


def relevant_ranks(before_R: np.ndarray, query_R: np.ndarray, score_R: np.ndarray) -> np.ndarray:
    """1-based ranks of relevant documents, from how many documents (themselves included) score at least as high.

    Relevant documents of one query that tie share the places between them: the last of them has the rank of the whole
    tied block, each other one place less.

    Args:
        before_R (`np.ndarray` of shape `(R,)`): Documents of the query's ranking that score at least as high.
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document.
        score_R (`np.ndarray` of shape `(R,)`): Score of each relevant document.

    Example:

        >>> relevant_ranks(np.array([3, 3, 1]), np.array([0, 0, 1]), np.array([0.5, 0.5, 0.9])).tolist()
        [3, 2, 1]
    """
    _, block = np.unique(np.stack([query_R.astype(np.float64), score_R.astype(np.float64)]), axis=1, return_inverse=True)
    block = block.reshape(-1)
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block[order], block[order], side="left")
    place_in_block = np.empty(len(block), dtype=np.int64)
    place_in_block[order] = np.arange(len(block)) - starts
    return before_R - place_in_block


def measures(
    query_R: np.ndarray, rank_R: np.ndarray, gain_R: np.ndarray, num_queries: int
) -> dict[str, np.ndarray]:
    """MAP, nDCG@10, MRR@10 and Recall@100 of each query, each in [0, 1], higher is better.

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document.
        rank_R (`np.ndarray` of shape `(R,)`): Its 1-based rank in the full ranking.
        gain_R (`np.ndarray` of shape `(R,)`): Its relevance, above 0, used by nDCG as it is (linear gain).
        num_queries (`int`): Q; every query must have a relevant document.

    Returns:
        `dict[str, np.ndarray]`: For each of `MEASURES` an array of shape `(Q,)`.

    Example:

        >>> found = measures(np.array([0, 0]), np.array([1, 4]), np.array([1, 1]), 1)
        >>> {name: round(float(value[0]), 4) for name, value in found.items()}
        {'MAP': 0.75, 'nDCG@10': 0.8772, 'MRR@10': 1.0, 'Recall@100': 1.0}
    """

    def sums(values_R: np.ndarray) -> np.ndarray:
        return np.bincount(query_R, weights=values_R, minlength=num_queries)

    order = np.lexsort((rank_R, query_R))
    number_R = np.empty(len(rank_R))
    number_R[order] = _numbers_from_one(query_R[order])
    relevant_Q = sums(np.ones(len(rank_R)))
    ideal_order = np.lexsort((-gain_R, query_R))
    ideal_number_R = np.empty(len(rank_R))
    ideal_number_R[ideal_order] = _numbers_from_one(query_R[ideal_order])
    first_Q = np.full(num_queries, np.inf)
    np.minimum.at(first_Q, query_R, rank_R)
    return {
        "MAP": sums(number_R / rank_R) / relevant_Q,
        "nDCG@10": sums(_discounted(gain_R, rank_R)) / sums(_discounted(gain_R, ideal_number_R)),
        "MRR@10": np.where(first_Q <= 10, 1 / first_Q, 0.0),
        "Recall@100": sums(rank_R <= 100) / relevant_Q,
    }


def rank_distance(query_R: np.ndarray, rank_R: np.ndarray, num_queries: int) -> np.ndarray:
    """Highest minus lowest rank of each query's parallel relevant documents in the pooled ranking; lower is better.

    Source: Elmahdy, Lin and Ahmad 2024 (arXiv 2408.10536), after Huang et al. 2023 (arXiv 2305.09025).

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document.
        rank_R (`np.ndarray` of shape `(R,)`): Its rank in the pool of all languages, not cut off.
        num_queries (`int`): Q.

    Returns:
        `np.ndarray` of shape `(Q,)`: 0 for a query with one relevant document.

    Example:

        >>> rank_distance(np.array([0, 0, 0]), np.array([2, 40, 7]), 1).tolist()
        [38.0]
    """
    lowest_Q, highest_Q = np.full(num_queries, np.inf), np.zeros(num_queries)
    np.minimum.at(lowest_Q, query_R, rank_R)
    np.maximum.at(highest_Q, query_R, rank_R)
    return highest_Q - lowest_Q


def _discounted(gain_R: np.ndarray, rank_R: np.ndarray) -> np.ndarray:
    return np.where(rank_R <= 10, gain_R / np.log2(rank_R + 1), 0.0)


def _numbers_from_one(sorted_values: np.ndarray) -> np.ndarray:
    return np.arange(len(sorted_values)) - np.searchsorted(sorted_values, sorted_values, side="left") + 1
