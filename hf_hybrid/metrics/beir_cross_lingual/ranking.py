"""Retrieval measures from the ranks of the relevant documents alone (numpy only).

1. `rank_runs` reads runs and references: each relevant document's rank is one more than the number of documents that
   are placed before it, which a count over the scores gives without sorting a ranking. Who has the scores in another
   form counts there, and calls `relevant_ranks`.
2. `measures` turns ranks into values of each query; no measure sees a whole ranking.
3. `evaluate_ranked` averages them by a policy; `evaluate_runs` does all three. Of the queries of one language
   `average_known` are plain means, and `macro` takes means of those.

Unless a policy says otherwise ties count against the system: of documents with the same score those that are not
relevant stand first, then the relevant ones from the lowest grade to the highest. So no measure depends on the order
of the corpus, and a system that gives every document the same score has all that is relevant at the end.

Shape letters: Q queries, R relevant documents of all queries together, L languages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .policies import MEASURES, POLICIES, Policy, find_policy, parse_measure
from .runs import Counts, Hits, Judged

__all__ = [
    "MEASURES",
    "POLICIES",
    "Evaluation",
    "Policy",
    "Ranked",
    "average_known",
    "evaluate_ranked",
    "evaluate_runs",
    "macro",
    "measures",
    "parse_measure",
    "rank_runs",
    "relevant_ranks",
]


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


def measures(
    query_R: np.ndarray,
    rank_R: np.ndarray,
    gain_R: np.ndarray,
    num_queries: int,
    names: Iterable[str] = MEASURES,
    policy: str | Policy = "hf_hybrid",
) -> dict[str, np.ndarray]:
    """Measures of each query, each in [0, 1], higher is better.

    With the relevant documents of a query at ranks r(1) < r(2) < ... < r(n), unretrieved ones at infinity:

    * `MAP`, `MAP@k`: sum of i / r(i) over r(i) <= k, divided by n: average precision (Buckley and Voorhees 2000).
    * `nDCG`, `nDCG@k`: sum of gain / log2(r + 1) over r <= k, divided by the same sum of the best order (Järvelin and
      Kekäläinen 2002).
    * `MRR`, `MRR@k`: 1 / r(1), or 0 if r(1) > k (Voorhees 1999).
    * `Recall@k`, `P@k`, `success@k`: how many r <= k, divided by n, by k; whether there is any.
    * `R-precision`: how many r <= n, divided by n.

    Args:
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
        rank_R (`np.ndarray` of shape `(R,)`): Its 1-based rank in the full ranking, `np.inf` if it was not retrieved.
        gain_R (`np.ndarray` of shape `(R,)`): Its relevance, above 0.
        num_queries (`int`): Q. A query without relevant documents has 0; who takes a mean decides if it counts.
        names (`Iterable[str]`, *optional*, defaults to `MEASURES`): As `parse_measure` reads them.
        policy (`str` or `Policy`, *optional*, defaults to `"hf_hybrid"`): Of it only `gain` and
            `average_precision_over` matter here: ranks are given.

    Returns:
        `dict[str, np.ndarray]`: For each name an array of shape `(Q,)`, float64.

    Raises:
        ValueError: When a name or the policy is not known, or a gain is not above 0.

    Example:

        >>> found = measures(np.array([0, 0]), np.array([1, 4]), np.array([1, 1]), 1)
        >>> {name: round(float(value[0]), 4) for name, value in found.items()}
        {'MAP': 0.75, 'nDCG@10': 0.8772, 'MRR@10': 1.0, 'Recall@100': 1.0}
    """
    if not (gain_R > 0).all():
        raise ValueError(f"gain_R has {np.min(gain_R)}: give relevant documents only, with a relevance above 0.")
    order = np.lexsort((rank_R, query_R))
    ranks = _SortedRanks(query_R[order], rank_R[order], gain_R[order], num_queries)
    rules = find_policy(policy)
    return {name: ranks.values(*parse_measure(name), rules) for name in names}


class _SortedRanks:
    """Ranks of relevant documents by query and rank, so that sums run down each ranking."""

    def __init__(self, query_R: np.ndarray, rank_R: np.ndarray, gain_R: np.ndarray, num_queries: int) -> None:
        self.query_R, self.rank_R, self.gain_R, self.num_queries = query_R, rank_R, gain_R, num_queries
        self.relevant_Q = np.bincount(query_R, minlength=num_queries)
        self.number_R = 1 + _place_in_block(query_R, rank_R)

    def values(self, name: str, cutoff: int | None, policy: Policy) -> np.ndarray:
        """One measure of each query."""
        rules, k = policy.of(name), np.inf if cutoff is None else cutoff
        if name == "nDCG":
            return self._ndcg(k, self.gain_R if rules.gain == "linear" else np.ones(len(self.gain_R)))
        if name == "MAP":
            most = k if rules.average_precision_over == "cutoff" else np.inf
            precision_R = np.where(self.rank_R <= k, self.number_R / self.rank_R, 0.0)
            return _ratio(self._sums(precision_R), np.minimum(self.relevant_Q, most))
        if name == "R-precision":
            return _ratio(self._sums(self.rank_R <= self.relevant_Q[self.query_R]), self.relevant_Q)
        if name in ("MRR", "success"):
            first_Q = np.full(self.num_queries, np.inf)
            np.minimum.at(first_Q, self.query_R, self.rank_R)
            return np.where(first_Q <= k, 1 / first_Q if name == "MRR" else np.isfinite(first_Q), 0.0)
        found_Q = self._sums(self.rank_R <= k)
        return found_Q / k if name == "P" else _ratio(found_Q, self.relevant_Q)

    def _ndcg(self, k: float, gain_R: np.ndarray) -> np.ndarray:
        best = np.lexsort((-gain_R, self.query_R))
        return _ratio(
            self._sums(_discounted(gain_R, self.rank_R, k)),
            self._sums(_discounted(gain_R[best], self.number_R, k)),
        )

    def _sums(self, values_R: np.ndarray) -> np.ndarray:
        return np.bincount(self.query_R, weights=values_R, minlength=self.num_queries)


class Ranked(NamedTuple):
    """Runs as `measures` and the bias measures take them: where the relevant documents stand.

    Args:
        query_ids (`tuple[str, ...]` of length Q): Queries of the references, in their order.
        query_R (`np.ndarray` of shape `(R,)`): Query of each relevant document, from 0.
        doc_ids_R (`list[str]` of length R): Its id.
        rank_R (`np.ndarray` of shape `(R,)`): Its 1-based rank by the policy, `np.inf` if it was not retrieved.
        gain_R (`np.ndarray` of shape `(R,)`): Its relevance, above 0.
        exception_rank_R (`dict[str, np.ndarray]`): Its rank for each measure that the policy excepts.
        place_in_run_Q (`np.ndarray` of shape `(Q,)`): Where the query came in the predictions, -1 if it did not.
        num_judged_Q (`np.ndarray` of shape `(Q,)`): Documents that the references of a query list, relevant or not.
        unjudged (`tuple[str, ...]`): Queries of the predictions without references; they count nowhere.
        score_R (`np.ndarray` of shape `(R,)`): Score of each relevant document, `-np.inf` if it was not retrieved.
    """

    query_ids: tuple[str, ...]
    query_R: np.ndarray
    doc_ids_R: list[str]
    rank_R: np.ndarray
    gain_R: np.ndarray
    exception_rank_R: dict[str, np.ndarray]
    place_in_run_Q: np.ndarray
    num_judged_Q: np.ndarray
    unjudged: tuple[str, ...]
    score_R: np.ndarray


class Evaluation(NamedTuple):
    """Measures by a policy.

    Args:
        means (`dict[str, float]`): Of each measure, over the queries that count, rounded if the policy rounds.
        per_query (`dict[str, np.ndarray]`): Of each measure an array of shape `(Q,)`, NaN where a query does not
            count.
        query_ids (`tuple[str, ...]` of length Q): Queries of the references, in their order.
    """

    means: dict[str, float]
    per_query: dict[str, np.ndarray]
    query_ids: tuple[str, ...]


def rank_runs(
    predictions: Iterable[Mapping[str, Any]],
    references: Iterable[Mapping[str, Any]],
    policy: str | Policy = "hf_hybrid",
) -> Ranked:
    """Rank the relevant documents in runs.

    Args:
        predictions (`Iterable[Mapping]`): One `{"query_id", "doc_ids", "scores"}` a query, higher scores first
            whatever the order; read once, so a generator will do.
        references (`Iterable[Mapping]`): One `{"query_id", "doc_ids", "relevance"}` a query; relevance above 0 is
            relevant.
        policy (`str` or `Policy`, *optional*, defaults to `"hf_hybrid"`): Ties, rounding of scores, and a document
            with the query's id.

    Returns:
        `Ranked`: With one row for each relevant document, in the order of the references.

    Raises:
        ValueError: When an id is not a string or comes twice, lengths differ, or a score or relevance is not a finite
            number; the message names the query.

    Example:

        >>> ranked = rank_runs([{"query_id": "q", "doc_ids": ["a", "b", "c"], "scores": [0.1, 0.9, 0.1]}],
        ...                    [{"query_id": "q", "doc_ids": ["a", "z"], "relevance": [1, 2]}])
        >>> dict(zip(ranked.doc_ids_R, ranked.rank_R.tolist()))
        {'a': 3.0, 'z': inf}
    """
    rules, qrels = find_policy(policy), Judged(references)
    wanted = (rules, *(exception for _, exception in rules.exceptions))
    counts = {(one.ties, one.score_type): Counts(one.ties, one.score_type, len(qrels.gain_R)) for one in wanted}
    place_Q, unjudged = np.full(len(qrels.rows), -1), []
    seen: set[str] = set()
    for place, prediction in enumerate(predictions):
        hits = Hits(prediction, rules.own_id == "drop")
        if hits.query_id in seen:
            raise ValueError(f"predictions, query {hits.query_id!r}: comes twice. Put its documents into one entry.")
        seen.add(hits.query_id)
        if hits.query_id not in qrels.rows:
            unjudged.append(hits.query_id)
            continue
        number, rows = qrels.rows[hits.query_id]
        place_Q[number], found = place, hits.find(rows)
        for count in counts.values():
            count.add(hits, found)
    main_R, *others = (_ranks(counts[one.ties, one.score_type], qrels) for one in wanted)
    exceptions = {name: rank_R for (name, _), rank_R in zip(rules.exceptions, others, strict=True)}
    columns = (qrels.query_R, qrels.doc_ids_R, main_R, qrels.gain_R, exceptions)
    score_R = counts[rules.ties, rules.score_type].score_R
    return Ranked(tuple(qrels.rows), *columns, place_Q, qrels.num_judged_Q, tuple(unjudged), score_R)


def _ranks(counts: Counts, qrels: Judged) -> np.ndarray:
    rank_R = counts.count_R.copy()
    if counts.ties == "pessimistic":
        found_R = np.isfinite(rank_R)
        columns = (qrels.query_R, counts.score_R, qrels.gain_R)
        rank_R[found_R] = relevant_ranks(rank_R[found_R], *(column[found_R] for column in columns))
    return rank_R


def evaluate_ranked(ranked: Ranked, names: Iterable[str] = MEASURES, policy: str | Policy = "hf_hybrid") -> Evaluation:
    """Measures of ranked runs, and their means by a policy.

    Args:
        ranked (`Ranked`): What `rank_runs` made of the runs, by the same policy.
        names (`Iterable[str]`, *optional*, defaults to `MEASURES`): As `parse_measure` reads them.
        policy (`str` or `Policy`, *optional*, defaults to `"hf_hybrid"`): Which queries count, and how a mean is
            rounded.

    Returns:
        `Evaluation`: Means and values of each query.

    Raises:
        ValueError: When no query counts, or a name is not known.
    """
    rules, num_queries = find_policy(policy), len(ranked.query_ids)
    names_of: dict[str, list[str]] = {}  # by measure if that is an exception, all others together
    for name in names:
        measure = parse_measure(name).name
        names_of.setdefault(measure if measure in ranked.exception_rank_R else "", []).append(name)
    means, per_query = {}, {}
    for measure, alike in names_of.items():
        rank_R = ranked.exception_rank_R.get(measure, ranked.rank_R)
        counts_Q = _counting(ranked, rules.of(measure))
        if not counts_Q.any():
            raise ValueError(
                f"{alike[0]} by the policy {rules.name!r}: no query of {num_queries} references counts, "
                f"{(ranked.place_in_run_Q >= 0).sum()} are in the run. Are the query ids of both the same?"
            )
        for name, found_Q in measures(ranked.query_R, rank_R, ranked.gain_R, num_queries, alike, rules).items():
            per_query[name] = np.where(counts_Q, found_Q, np.nan)
            means[name] = _mean_by_policy(found_Q[counts_Q], ranked.place_in_run_Q[counts_Q], rules.of(measure))
    return Evaluation(means, per_query, ranked.query_ids)


def evaluate_runs(
    predictions: Iterable[Mapping[str, Any]],
    references: Iterable[Mapping[str, Any]],
    names: Iterable[str] = MEASURES,
    policy: str | Policy = "hf_hybrid",
) -> Evaluation:
    """Measures of runs and their means: `rank_runs`, then `evaluate_ranked`, which have the arguments and errors.

    Example:

        >>> found = evaluate_runs([{"query_id": "q", "doc_ids": ["a", "b"], "scores": [0.1, 0.9]}],
        ...                       [{"query_id": "q", "doc_ids": ["a"], "relevance": [1]},
        ...                        {"query_id": "of no use", "doc_ids": ["a"], "relevance": [0]}], ["MRR@10"])
        >>> found.means, found.per_query["MRR@10"].tolist(), found.query_ids
        ({'MRR@10': 0.5}, [0.5, nan], ('q', 'of no use'))
    """
    return evaluate_ranked(rank_runs(predictions, references, policy), names, policy)


def average_known(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean of each measure over the queries that have it.

    Args:
        values (`Mapping[str, np.ndarray]`): For each name an array of shape `(Q,)`, NaN where it is not defined.

    Returns:
        `dict[str, float]`: Without the names that no query has.

    Example:

        >>> average_known({"MAP": np.array([0.5, 1.0]), "PEER": np.array([0.25, np.nan])})
        {'MAP': 0.75, 'PEER': 0.25}
    """
    known = {name: found_Q[~np.isnan(found_Q)] for name, found_Q in values.items()}
    return {name: float(found.mean()) for name, found in known.items() if len(found)}


def macro(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each measure over those that have it: languages or language pairs count alike, large or small.

    Args:
        found (`Iterable[Mapping[str, float]]`): Means of each.

    Returns:
        `dict[str, float]`: In the order in which the names come.

    Example:

        >>> macro([{"MAP": 0.5, "MRR@10": 1.0}, {"MAP": 1.0}])
        {'MAP': 0.75, 'MRR@10': 1.0}
    """
    values: dict[str, list[float]] = {}
    for means in found:
        for name, value in means.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(column)) for name, column in values.items()}


def _counting(ranked: Ranked, rules: Policy) -> np.ndarray:
    """Return which queries count, `(Q,)`."""
    has_relevant_Q = np.bincount(ranked.query_R, minlength=len(ranked.query_ids)) > 0
    counts_Q = np.ones(len(ranked.query_ids), dtype=bool)
    if rules.not_in_run == "left_out":
        counts_Q &= ranked.place_in_run_Q >= 0
    if rules.no_judgments == "left_out":
        counts_Q &= ranked.num_judged_Q > 0
    if rules.no_relevant == "left_out":
        counts_Q &= has_relevant_Q | (ranked.num_judged_Q == 0)
    return counts_Q


def _mean_by_policy(values: np.ndarray, place_in_run: np.ndarray, rules: Policy) -> float:
    """Mean in the order of the run: with the rounding that the packages have."""
    ordered = values[np.argsort(place_in_run, kind="stable")]
    total = sum(ordered.tolist()) if rules.summation == "builtin" else float(np.cumsum(ordered)[-1])
    mean = total / len(ordered)
    return mean if rules.decimals is None else round(mean, rules.decimals)


def _ratio(upper_Q: np.ndarray, lower_Q: np.ndarray) -> np.ndarray:
    return np.divide(upper_Q, lower_Q, out=np.zeros(len(upper_Q)), where=lower_Q > 0)


def _discounted(gain_R: np.ndarray, rank_R: np.ndarray, k: float) -> np.ndarray:
    return np.where(rank_R <= k, gain_R / np.log2(rank_R + 1), 0.0)


def _place_in_block(block_R: np.ndarray, key_R: np.ndarray) -> np.ndarray:
    """Return the position of each entry in its block when blocks are sorted by key, ties in their order."""
    order = np.lexsort((key_R, block_R))
    sorted_block = block_R[order]
    place_R = np.empty(len(order), dtype=np.int64)
    place_R[order] = np.arange(len(order)) - np.searchsorted(sorted_block, sorted_block, side="left")
    return place_R
