"""Language bias: do documents, and queries, fare the same in every language? (numpy and a SciPy tail, leaf)

* `peer`: relevant documents of all languages have the same expected rank.
* `recall_by_language`: the share of the relevant documents of each language that is in the top k.
* `same_language_share`: the share of the top k in the query's language.
* `mrc`: parallel queries get the same ranking.
* `rank_distance`: how far the first and the last relevant document of a query lie apart.
* `mlrs`: documents rise when they are translated into the language of the query.

All of them say how far languages lie apart, none how good a ranking is: read them beside MAP. `bias_by_query` is those
that a single evaluation of a pool gives, under the names and at the depths that results have.

Shape letters: Q queries, R relevant documents of all queries together, L languages, N retrieved documents of all
queries together, K documents of a top k.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import chdtrc

# Places of a ranking that are looked at: for the share of the query's language and MRC, for PEER, for recall.
BIAS_TOP_K, PEER_TOP_K, RECALL_TOP_K = 10, 20, 100
# What `bias_by_query` gives.
BY_QUERY = (
    "rank_distance",
    "PEER",
    f"same_language_share@{BIAS_TOP_K}",
    f"same_language_recall@{RECALL_TOP_K}",
    f"other_language_recall@{RECALL_TOP_K}",
)


def bias_by_query(
    query_R: np.ndarray,
    rank_R: np.ndarray,
    last_rank_R: np.ndarray,
    language_R: np.ndarray,
    own_language: int,
    num_queries: int,
    same_language_share_Q: np.ndarray,
) -> dict[str, np.ndarray]:
    """Ranks of relevant documents in one pool, for the bias of the queries of one language.

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
        rank_R (`np.ndarray` of shape `(R,)`): Its 1-based rank in the pool, `np.inf` if it was not retrieved.
        last_rank_R (`np.ndarray` of shape `(R,)`): The last rank that it and the documents tied with it
            share, the same for all that tie, so that no order of documents tells their languages apart.
        language_R (`np.ndarray` of shape `(R,)`): Its language, a number from 0.
        own_language (`int`): Number of the language of the queries; -1 if no relevant document is in it.
        num_queries (`int`): Q.
        same_language_share_Q (`np.ndarray` of shape `(Q,)`): By `same_language_share` or from elsewhere, of the first
            `BIAS_TOP_K`.

    Returns:
        `dict[str, np.ndarray]`: By the names in `BY_QUERY` arrays of shape `(Q,)`, NaN where a measure is not defined.
        `rank_distance` of queries that retrieved all their relevant documents, in several languages; `PEER` of all
        with relevant documents in several languages; `same_language_share@10`; `same_language_recall@100` and
        `other_language_recall@100` of the relevant documents in the query's language, in all others.

    Example:

        >>> # the first query has its two documents at the ranks 1 and 150, the second one a single one
        >>> query, rank, language = np.array([0, 0, 1]), np.array([1, 150, 3]), np.array([0, 1, 1])
        >>> found = bias_by_query(query, rank, rank, language, 0, 2, np.array([0.5, 0.1]))
        >>> {name: value.round(3).tolist() for name, value in found.items()}
        {'rank_distance': [149.0, nan], 'PEER': [0.317, nan], 'same_language_share@10': [0.5, 0.1],
         'same_language_recall@100': [1.0, nan], 'other_language_recall@100': [0.0, 1.0]}
    """
    several_Q = rank_distance(query_R, language_R, num_queries) > 0  # of their numbers
    distance_Q = rank_distance(query_R, rank_R, num_queries)
    peer_Q = peer(query_R, last_rank_R, language_R, num_queries, PEER_TOP_K)
    own_R = (language_R == own_language).astype(np.int64)
    recall_Q2 = recall_by_language(query_R, rank_R, own_R, num_queries, 2, RECALL_TOP_K)
    values = (
        np.where(several_Q & np.isfinite(distance_Q), distance_Q, np.nan),
        np.where(several_Q, peer_Q, np.nan),
        same_language_share_Q,
        recall_Q2[:, 1],
        recall_Q2[:, 0],
    )
    return dict(zip(BY_QUERY, values, strict=True))


def lacks_rank_distance(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the queries with relevant documents in several languages that did not retrieve all of them.

    Args:
        found (`Mapping[str, np.ndarray]`): What `bias_by_query` gave.

    Returns:
        `np.ndarray` of shape `(Q,)`, bool: A mean of `rank_distance` is one without them.

    Example:

        >>> peer_Q, distance_Q = np.array([0.5, 1.0, np.nan]), np.array([9.0, np.nan, np.nan])
        >>> lacks_rank_distance({"PEER": peer_Q, "rank_distance": distance_Q}).tolist()
        [False, True, False]
    """
    return ~np.isnan(found["PEER"]) & np.isnan(found["rank_distance"])


def rank_distance(query_R: np.ndarray, rank_R: np.ndarray, num_queries: int) -> np.ndarray:
    """Highest minus lowest rank of each query's parallel relevant documents in the pooled ranking; lower is better.

    It says how far languages lie apart, not how good the ranking is: a system that gives every document the same score
    has parallel documents next to each other, at the end. Read it beside the multilingual MAP.

    Source: Elmahdy, Lin and Ahmad 2024 (arXiv 2408.10536), after Huang et al. 2023 (arXiv 2305.09025).

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
        rank_R (`np.ndarray` of shape `(R,)`): Its rank in the pool of all languages, `np.inf` if it was not retrieved:
            rank the whole pool.
        num_queries (`int`): Q.

    Returns:
        `np.ndarray` of shape `(Q,)`: From 0, which a query with one document that was retrieved, or without documents,
        has. `np.inf` for a query with a document that was not retrieved, also where none was: its distance is not
        known, and a mean over such queries is infinite.

    Raises:
        IndexError: When a number in `query_R` is not below `num_queries`.

    Example:

        >>> rank_distance(np.array([0, 0, 0, 1, 1]), np.array([2, 40, 7, 3, np.inf]), 2).tolist()
        [38.0, inf]
    """
    lowest_Q, highest_Q = np.full(num_queries, np.inf), np.zeros(num_queries)
    np.minimum.at(lowest_Q, query_R, rank_R)
    np.maximum.at(highest_Q, query_R, rank_R)
    return np.subtract(highest_Q, lowest_Q, out=highest_Q, where=np.isfinite(lowest_Q))


def peer(
    query_R: np.ndarray,
    rank_R: np.ndarray,
    language_R: np.ndarray,
    num_queries: int,
    cutoff: int | None = None,
    level_R: np.ndarray | None = None,
    weights: Mapping[int, float] | None = None,
    unretrieved_after: int | None = None,
) -> np.ndarray:
    """PEER@k: probability that documents of all languages have the same expected rank; in [0, 1], higher is fairer.

    For each relevance level of a query the ranks of its documents, grouped by language, go through the Kruskal-Wallis
    test: `H = (M - 1) * sum_l n_l (mean_l - mean)^2 / sum_i (rank_i - mean)^2` over M documents, n_l of them in
    language l, and the p-value is the upper tail of chi-square with one degree of freedom less than there are
    languages. PEER is the mean of the p-values by the weights of the levels. Of the M documents the U that were not
    retrieved among the first k share one rank, `M + (U + 1) / 2`. The p-value is 1 where there is nothing to tell
    apart: no document was retrieved, all are in one language, or all ranks are the same.

    Few documents cannot be significant: two languages with one document each have 0.317 whatever their ranks, so
    compare systems on the same queries only.

    Source: Yang, Jänich, Mayfield and Lawrie 2024 (arXiv 2405.00978) and their package peer_measure 0.0.1. Two things
    to know. The shared rank is that of the package; it depends on M, not on the length of the ranking, so that a
    retrieved document may have a higher number than one that was not: `unretrieved_after` mends that. And a level
    without documents counts as 1 here, like one with a single language; the package adds nothing for it, so that such
    a query cannot reach 1.

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each document, from 0.
        rank_R (`np.ndarray` of shape `(R,)`): Its 1-based rank in the pool of all languages, `np.inf` if it was not
            retrieved.
        language_R (`np.ndarray` of shape `(R,)`): Its language, a number from 0.
        num_queries (`int`): Q.
        cutoff (`int`, *optional*): k: a document behind it was not retrieved. The whole ranking by default.
        level_R (`np.ndarray` of shape `(R,)`, *optional*): Relevance level of each document; all one level by default.
            Level 0 may be among them, where only retrieved documents count.
        weights (`Mapping[int, float]`, *optional*): Weight of each level, 1 in sum; needed with `level_R`. Levels that
            it does not name do not count.
        unretrieved_after (`int`, *optional*): Last place of the ranking, behind which documents that were not
            retrieved share a rank; M by default.

    Returns:
        `np.ndarray` of shape `(Q,)`: 1 for a query without documents.

    Raises:
        ValueError: When levels come without weights or the weights do not sum to 1.

    Example:

        >>> # two English documents at the top, two German ones behind them: H = 3 * 4 / 5 = 2.4
        >>> query, language = np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1])
        >>> peer(query, np.array([1, 2, 3, 4]), language, 1).round(3).tolist()
        [0.121]
        >>> peer(query, np.array([1, 4, 2, 3]), language, 1).tolist()
        [1.0]
    """
    if level_R is None:
        level_R, weights = np.ones(len(query_R), dtype=np.int64), {1: 1.0} if weights is None else weights
    if weights is None or abs(sum(weights.values()) - 1) > 1e-8:
        raise ValueError(
            f"weights={weights}: give each relevance level its weight, such as {{1: 0.5, 2: 0.5}}, 1 in sum."
        )
    found_R = np.isfinite(rank_R) if cutoff is None else rank_R <= cutoff
    probabilities = np.zeros(num_queries)
    for level, weight in weights.items():
        chosen = (level_R == level) & (found_R | (level > 0))
        columns = (query_R[chosen], np.where(found_R, rank_R, np.inf)[chosen], language_R[chosen])
        probabilities += weight * _same_rank_probability(*columns, num_queries, unretrieved_after)
    return probabilities


def _same_rank_probability(
    query_R: np.ndarray, rank_R: np.ndarray, language_R: np.ndarray, num_queries: int, after: int | None
) -> np.ndarray:
    """p-value of each query for documents of one level; what was not retrieved is at infinity."""
    missing_R = np.isinf(rank_R)
    count_Q, missing_Q = (np.bincount(query_R, weights, num_queries) for weights in (None, missing_R))
    shared_Q = (count_Q if after is None else after) + (missing_Q + 1) / 2
    rank_R = np.where(missing_R, shared_Q[query_R], rank_R)
    mean_Q = np.bincount(query_R, rank_R, num_queries) / np.maximum(count_Q, 1)
    off_R = rank_R - mean_Q[query_R]  # of deviations no digits are lost
    num_languages = int(language_R.max(initial=0)) + 1
    group_R, shape = query_R * num_languages + language_R, (num_queries, num_languages)
    count_QL, off_QL = (
        np.bincount(group_R, weights, num_queries * num_languages).reshape(shape) for weights in (None, off_R)
    )
    between_Q = (off_QL**2 / np.maximum(count_QL, 1)).sum(axis=1)
    within_Q = np.bincount(query_R, off_R**2, num_queries)
    degrees_Q = (count_QL > 0).sum(axis=1) - 1
    told_apart_Q = (degrees_Q > 0) & (missing_Q < count_Q) & (within_Q > 0)
    statistic_Q = (count_Q - 1) * between_Q / np.where(told_apart_Q, within_Q, 1)
    return np.where(told_apart_Q, chdtrc(np.maximum(degrees_Q, 1), statistic_Q), 1.0)


def recall_by_language(
    query_R: np.ndarray,
    rank_R: np.ndarray,
    language_R: np.ndarray,
    num_queries: int,
    num_languages: int,
    cutoff: int,
) -> np.ndarray:
    """Recall@k of the relevant documents of each language inside one pool; in [0, 1], higher is better.

    Of a query's relevant documents in a language, the share whose rank in the pool is at most k. A system without bias
    has the same in all languages.

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
        rank_R (`np.ndarray` of shape `(R,)`): Its 1-based rank in the pool, `np.inf` if it was not retrieved.
        language_R (`np.ndarray` of shape `(R,)`): Its language, a number from 0.
        num_queries (`int`): Q.
        num_languages (`int`): L.
        cutoff (`int`): k.

    Returns:
        `np.ndarray` of shape `(Q, L)`: NaN where a query has no relevant document in a language.

    Example:

        >>> recall_by_language(np.array([0, 0, 0]), np.array([1, 200, 3]), np.array([0, 0, 1]), 1, 3, 100).tolist()
        [[0.5, 1.0, nan]]
    """
    group_R = query_R * num_languages + language_R
    found, relevant = (
        np.bincount(group_R, weights, num_queries * num_languages) for weights in (rank_R <= cutoff, None)
    )
    recall = np.divide(found, relevant, out=np.full(len(found), np.nan), where=relevant > 0)
    return recall.reshape(num_queries, num_languages)


def same_language_share(
    query_N: np.ndarray, score_N: np.ndarray, language_N: np.ndarray, language_Q: np.ndarray, cutoff: int = 10
) -> np.ndarray:
    """Return the share of the top k in the query's own language, in [0, 1].

    Neither way is better in itself: in a pool of parallel documents a system without bias has 1 / L on average, more
    means that it prefers the query's language. Documents that tie for the last ranks share them, so the order of the
    corpus does not matter.

    Args:
        query_N (`np.ndarray` of shape `(N,)`): Query of each retrieved document, from 0.
        score_N (`np.ndarray` of shape `(N,)`): Its score.
        language_N (`np.ndarray` of shape `(N,)`): Its language, a number or a string.
        language_Q (`np.ndarray` of shape `(Q,)`): Language of each query, in the same form.
        cutoff (`int`, *optional*, defaults to `10`): k; where fewer documents were retrieved, all of them.

    Returns:
        `np.ndarray` of shape `(Q,)`: NaN for a query that retrieved nothing.

    Example:

        >>> # the third place is tied between a German and an English document
        >>> score, language = np.array([0.9, 0.8, 0.3, 0.3]), np.array(["de", "en", "de", "en"])
        >>> same_language_share(np.zeros(4, int), score, language, np.array(["de"]), cutoff=3).tolist()
        [0.5]
    """
    num_queries = len(language_Q)
    order = np.lexsort((-score_N, query_N))
    query_N, score_N, own_N = query_N[order], score_N[order], (language_N == language_Q[query_N])[order]
    retrieved_Q = np.bincount(query_N, minlength=num_queries)
    start_Q, depth_Q = np.cumsum(retrieved_Q) - retrieved_Q, np.minimum(retrieved_Q, cutoff)
    some_Q = depth_Q > 0
    last_Q = np.zeros(num_queries)
    last_Q[some_Q] = score_N[(start_Q + depth_Q - 1)[some_Q]]
    above_N, tied_N = score_N > last_Q[query_N], score_N == last_Q[query_N]

    def count(chosen_N: np.ndarray) -> np.ndarray:
        return np.bincount(query_N[chosen_N], minlength=num_queries)

    places_Q = (depth_Q - count(above_N)) / np.maximum(count(tied_N), 1)
    own_Q = count(above_N & own_N) + places_Q * count(tied_N & own_N)
    return np.divide(own_Q, depth_Q, out=np.full(num_queries, np.nan), where=some_Q)


def mrc(top_QLK: np.ndarray) -> np.ndarray:
    """MRC@k, mean rank correlation of parallel queries; in [-1, 1], higher is fairer.

    A query in language a has with the same query in language b the Spearman correlation of the two rankings of one
    collection; MRC of a query in a language is the mean over all other languages, and MRC the mean over languages and
    queries. Two rankings cut at k need not have the same documents: they are compared on the union of both, and those
    that a ranking does not have share the ranks behind the last. So equal rankings have 1, and of two that have no
    document in common each has all of the other's behind its own, which gives less than 0.

    Source: Yang, Jiang and Baldwin 2024 (arXiv 2509.06195). How it cuts rankings at k is not in what we could read of
    it; the union is ours, so compare with published figures only for whole rankings.

    Args:
        top_QLK (`np.ndarray` of shape `(Q, L, K)`, integers): For each query in each language the documents at its
            top k, best first; -1 where there are no more, or at all ranks where it is not in that language.

    Returns:
        `np.ndarray` of shape `(Q, L)`: NaN where a query has no ranking, or no other to compare with; `np.nanmean` of
        all is MRC.

    Example:

        >>> # the second language swaps the first two documents of the first; the third has one of them
        >>> mrc(np.array([[[7, 8, 9], [8, 7, 9], [7, -1, -1]]])).round(3).tolist()
        [[0.683, 0.25, 0.433]]
    """
    num_queries, num_languages, _ = top_QLK.shape
    sum_QL, others_QL = np.zeros((num_queries, num_languages)), np.zeros((num_queries, num_languages))
    for a in range(num_languages):
        for b in range(a):
            both_Q = (top_QLK[:, a] >= 0).any(axis=1) & (top_QLK[:, b] >= 0).any(axis=1)
            correlation_Q = np.where(both_Q, _spearman_on_union(top_QLK[:, a], top_QLK[:, b]), 0.0)
            for language in (a, b):
                sum_QL[:, language] += correlation_Q
                others_QL[:, language] += both_Q
    return np.divide(sum_QL, others_QL, out=np.full_like(sum_QL, np.nan), where=others_QL > 0)


def _spearman_on_union(first_QK: np.ndarray, second_QK: np.ndarray) -> np.ndarray:
    """Spearman correlation of each pair of rankings; 1 where their union is a single document."""
    same_QKK = (first_QK[:, :, None] == second_QK[:, None, :]) & (first_QK[:, :, None] >= 0)
    union_Q = (first_QK >= 0).sum(axis=1) + (second_QK >= 0).sum(axis=1) - same_QKK.sum(axis=(1, 2))
    mean_Q = (union_Q + 1) / 2
    offsets, missing, squares = [], [], []
    for top_QK in (first_QK, second_QK):
        length_Q, present_QK = (top_QK >= 0).sum(axis=1), top_QK >= 0
        off_QK = np.where(present_QK, np.arange(1, top_QK.shape[1] + 1) - mean_Q[:, None], 0.0)
        behind_Q = length_Q / 2  # length + (union - length + 1) / 2, less the mean
        offsets.append(off_QK)
        missing.append(behind_Q)
        squares.append((off_QK**2).sum(axis=1) + (union_Q - length_Q) * behind_Q**2)
    alone = [~same_QKK.any(axis=2), ~same_QKK.any(axis=1)]
    product_Q = np.einsum("qi,qij,qj->q", offsets[0], same_QKK.astype(float), offsets[1])
    for own, other in ((0, 1), (1, 0)):
        product_Q += (offsets[own] * alone[own]).sum(axis=1) * missing[other]
    scale_Q = np.sqrt(squares[0] * squares[1])
    return np.divide(product_Q, scale_Q, out=np.ones(len(scale_Q)), where=scale_Q > 0)


def mlrs(query_N: np.ndarray, rank_N: np.ndarray, translated_rank_N: np.ndarray, num_queries: int) -> np.ndarray:
    """MLRS, multilingual rank shift: how far documents rise once they are in the query's language; in [0, 100].

    `100 * sum_d max(rank_d - translated_rank_d, 0) / sum_d (rank_d - 1)` over the documents of a query: its retrieved
    documents are translated into its language and ranked again. More means that the system prefers the query's
    language; lower is fairer.

    Source: Park and Lee 2025 (arXiv 2502.11175), with the largest possible shift as in their published code.

    Args:
        query_N (`np.ndarray` of shape `(N,)`): Query of each retrieved document, from 0.
        rank_N (`np.ndarray` of shape `(N,)`): Its 1-based rank among them as it is.
        translated_rank_N (`np.ndarray` of shape `(N,)`): Its rank when all of them are in the query's language.
        num_queries (`int`): Q.

    Returns:
        `np.ndarray` of shape `(Q,)`: 0 for a query with no document that could rise.

    Example:

        >>> mlrs(np.array([0, 0, 0]), np.array([1, 2, 3]), np.array([2, 3, 1]), 1).round(2).tolist()
        [66.67]
    """
    rise_Q = np.bincount(query_N, np.maximum(rank_N - translated_rank_N, 0), num_queries)
    most_Q = np.bincount(query_N, rank_N - 1, num_queries)
    return 100 * np.divide(rise_Q, most_Q, out=np.zeros(num_queries), where=most_Q > 0)
