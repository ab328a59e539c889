"""Retrieval measures from the ranks of the relevant documents alone (numpy only).

A measure of this module never sees a whole ranking: each relevant document's rank is one more than the number of
documents that are placed before it, which a count over the scores gives without sorting the corpus for each query.

Ties count against the system: of documents with the same score those that are not relevant stand first, then the
relevant ones from the lowest grade to the highest. So no measure depends on the order of the corpus, and a system that
gives every document the same score has all that is relevant at the end.

Shape letters: Q queries, R relevant documents of all queries together.
"""

from __future__ import annotations

import numpy as np

MEASURES = ("MAP", "nDCG@10", "MRR@10", "Recall@100")


def relevant_ranks(at_least_R: np.ndarray, query_R: np.ndarray, score_R: np.ndarray, gain_R: np.ndarray) -> np.ndarray:
    """1-based ranks of relevant documents, from how many documents score at least as high.

    The last of the relevant documents of one query that tie has the last place of the whole tied block, the one before
    it one place less, and so on.

    Args:
        at_least_R (`np.ndarray` of shape `(R,)`): Documents of the query's ranking that score at least as high, the
            relevant document itself included.
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
        score_R (`np.ndarray` of shape `(R,)`): Score of each relevant document, finite.
        gain_R (`np.ndarray` of shape `(R,)`): Its relevance.

    Returns:
        `np.ndarray` of shape `(R,)`, int64.

    Example:

        >>> # query 0 has four documents with the score 0.5, two of them relevant; query 1 ranks its own first
        >>> at_least, query = np.array([4, 4, 1]), np.array([0, 0, 1])
        >>> score, gain = np.array([0.5, 0.5, 0.9]), np.array([2, 1, 1])
        >>> relevant_ranks(at_least, query, score, gain).tolist()
        [4, 3, 1]
    """
    _, level_R = np.unique(score_R, return_inverse=True)
    tied_R = query_R * len(score_R) + level_R
    return at_least_R - _place_in_block(tied_R, -gain_R)


def measures(query_R: np.ndarray, rank_R: np.ndarray, gain_R: np.ndarray, num_queries: int) -> dict[str, np.ndarray]:
    """MAP, nDCG@10, MRR@10 and Recall@100 of each query, each in [0, 1], higher is better.

    The policy is that of `trec_eval` but for ties: every denominator has all relevant documents that are known.

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
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

    relevant_Q = np.bincount(query_R, minlength=num_queries)
    number_R = 1 + _place_in_block(query_R, rank_R)
    ideal_rank_R = 1 + _place_in_block(query_R, -gain_R)
    first_Q = np.full(num_queries, np.inf)
    np.minimum.at(first_Q, query_R, rank_R)
    return {
        "MAP": sums(number_R / rank_R) / relevant_Q,
        "nDCG@10": sums(_discounted(gain_R, rank_R)) / sums(_discounted(gain_R, ideal_rank_R)),
        "MRR@10": np.where(first_Q <= 10, 1 / first_Q, 0.0),
        "Recall@100": sums(rank_R <= 100) / relevant_Q,
    }


def rank_distance(query_R: np.ndarray, rank_R: np.ndarray, num_queries: int) -> np.ndarray:
    """Highest minus lowest rank of each query's parallel relevant documents in the pooled ranking; lower is better.

    It says how far languages lie apart, not how good the ranking is: a system that gives every document the same score
    has parallel documents next to each other, at the end. Read it beside the multilingual MAP.

    Source: Elmahdy, Lin and Ahmad 2024 (arXiv 2408.10536), after Huang et al. 2023 (arXiv 2305.09025).

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
        rank_R (`np.ndarray` of shape `(R,)`): Its rank in the pool of all languages, not cut off.
        num_queries (`int`): Q; every query must have a relevant document.

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


def _place_in_block(block_R: np.ndarray, key_R: np.ndarray) -> np.ndarray:
    """How many entries of the same block come before each one when a block is sorted by key, ties in their order."""
    order = np.lexsort((key_R, block_R))
    sorted_block = block_R[order]
    place_R = np.empty(len(order), dtype=np.int64)
    place_R[order] = np.arange(len(order)) - np.searchsorted(sorted_block, sorted_block, side="left")
    return place_R
