"""From ranks to means: measures of each query, then over the queries of a pair of languages, then over the pairs.

Shape letters: Q queries of a language, V those of them that a pair judges, L languages, R relevant passages, P places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .judgements import Relevant
from .metrics.beir_cross_lingual import bias, ranking

if TYPE_CHECKING:
    from .corpus import ParallelCorpus
    from .records import Scores
    from .search import Best

POOL = "*"  # what stands for all passage languages together
# Places that measures of bias look at: the share of the query's language and MRC, PEER, recall inside the pool.
FIRST_PLACES, PEER_PLACES, RECALL_PLACES = 10, 20, 100


class LanguageRanks(NamedTuple):
    """Where the relevant passages of the queries of one language stand.

    Args:
        query_language (`str`): The language of the queries.
        passage_languages (`tuple[str, ...]`): Those of the pool, which `relevant.language_R` counts.
        query_rows (`np.ndarray` of shape `(Q,)`): Rows of the queries in the corpus.
        candidates (`list[np.ndarray]`): For each language the rows of its passages: places of the pool, in order.
        relevant (`Relevant`): The judgements.
        own_rank_R (`np.ndarray` of shape `(R,)`): Rank among the passages of the same language.
        pool_rank_R (`np.ndarray` of shape `(R,)`): Rank among all.
        pool_last_R (`np.ndarray` of shape `(R,)`): The last of the places that the passages tied with it share there.
        same_language_share_Q (`np.ndarray` of shape `(Q,)`): Share of the query's own language in the first places.
        first_QP (`np.ndarray` of shape `(Q, P)`): Passages at the first places of the pool, -1 for none.
        best (`dict[str, Best]`): Longer rankings by passage language and `"*"`, by place in that language or the pool;
            empty where nobody asked for rankings.
    """

    query_language: str
    passage_languages: tuple[str, ...]
    query_rows: np.ndarray
    candidates: list[np.ndarray]
    relevant: Relevant
    own_rank_R: np.ndarray
    pool_rank_R: np.ndarray
    pool_last_R: np.ndarray
    same_language_share_Q: np.ndarray
    first_QP: np.ndarray
    best: dict[str, Best]


class QueryValues(NamedTuple):
    """Measures of single queries: `query_V` says which of `LanguageRanks.query_rows`, `values` an array a name."""

    passage_language: str
    query_V: np.ndarray
    values: dict[str, np.ndarray]


def query_values(ranks: LanguageRanks, settings: Sequence[str], measures: Sequence[str]) -> list[QueryValues]:
    """Measures of each query in each pair that the settings ask for, and in the pool with what says of bias."""
    found, relevant, pooled = [], ranks.relevant, "multilingual" in settings
    for number in np.unique(relevant.language_R).tolist():
        name = ranks.passage_languages[number]
        if ("monolingual" if name == ranks.query_language else "cross_lingual") in settings:
            chosen = relevant.language_R == number
            query_V, query_R = np.unique(relevant.query_R[chosen], return_inverse=True)
            judged = (query_R, ranks.own_rank_R[chosen], relevant.gain_R[chosen], len(query_V))
            found.append(QueryValues(name, query_V, ranking.measures(*judged, names=measures)))
    if pooled:
        num_queries = len(ranks.query_rows)
        judged = (relevant.query_R, ranks.pool_rank_R, relevant.gain_R, num_queries)
        values = {**ranking.measures(*judged, names=measures), **_bias(ranks)}
        found.append(QueryValues(POOL, np.arange(num_queries), values))
    return found


def _bias(ranks: LanguageRanks) -> dict[str, np.ndarray]:
    """What says of language bias, by query; NaN for queries whose relevant passages are in one language."""
    relevant, num_queries = ranks.relevant, len(ranks.query_rows)
    judged = (relevant.query_R, ranks.pool_rank_R)
    pairs = np.unique(np.stack([relevant.query_R, relevant.language_R]), axis=1)
    several_Q = np.bincount(pairs[0], minlength=num_queries) > 1
    own_R = relevant.language_R == ranks.passage_languages.index(ranks.query_language)
    recall_Q2 = bias.recall_by_language(*judged, own_R.astype(np.int64), num_queries, 2, RECALL_PLACES)
    # relevant passages that tie have the same rank here, lest the order of the languages decide
    peer_Q = bias.peer(relevant.query_R, ranks.pool_last_R, relevant.language_R, num_queries, PEER_PLACES)
    found = {
        f"same_language_share@{FIRST_PLACES}": ranks.same_language_share_Q,
        f"same_language_recall@{RECALL_PLACES}": recall_Q2[:, 1],
        f"other_language_recall@{RECALL_PLACES}": recall_Q2[:, 0],
        "PEER": np.where(several_Q, peer_Q, np.nan),
    }
    if np.isfinite(ranks.pool_rank_R).all():  # else the ranking is not known to its end
        distance_Q = ranking.rank_distance(*judged, num_queries)
        found["rank_distance"] = np.where(several_Q, distance_Q, np.nan)
    return found


class Tally:
    """Means over queries, by pair and by query language, then over those."""

    def __init__(self, corpus: ParallelCorpus, settings: Sequence[str]) -> None:
        self.num_queries = 0
        self.pairs: dict[tuple[str, str], dict[str, float]] = {}
        self._pool: list[tuple[dict[str, float], dict[str, float]]] = []  # measures and bias of each query language
        self._parallel = _ParallelQueries(corpus) if "multilingual" in settings else None

    def add(self, ranks: LanguageRanks, values: Sequence[QueryValues], measures: Sequence[str]) -> None:
        """Take in the queries of one language."""
        self.num_queries += len(ranks.query_rows)
        for found in values:
            means = {name: _mean(value_V) for name, value_V in found.values.items() if not np.isnan(value_V).all()}
            if found.passage_language == POOL:
                bias_means = {name: mean for name, mean in means.items() if name not in measures}
                self._pool.append(({name: means[name] for name in measures}, bias_means))
            else:
                self.pairs[ranks.query_language, found.passage_language] = means
        if self._parallel is not None:
            self._parallel.add(ranks)

    def scores(self) -> Scores:
        """The means of the means."""
        bias_means = _macro([found for _, found in self._pool])
        if self._parallel is not None:
            bias_means |= self._parallel.correlation()
        return {
            "monolingual": _macro([found for (query, passage), found in self.pairs.items() if query == passage]),
            "cross_lingual": _macro([found for (query, passage), found in self.pairs.items() if query != passage]),
            "multilingual": _macro([found for found, _ in self._pool]),
            "bias": bias_means,
            "pairs": {f"{query}-{passage}": found for (query, passage), found in self.pairs.items()},
            "num_queries": self.num_queries,
        }


class _ParallelQueries:
    """The first places of each query in each of its languages, for MRC."""

    def __init__(self, corpus: ParallelCorpus) -> None:
        self._languages = corpus.languages
        self._rows_QL = np.unique(corpus.rows[:, :, corpus.QUERY], axis=0)
        self._rows_QL = self._rows_QL[(self._rows_QL >= 0).sum(axis=1) > 1]
        self._first_QLP = np.full((*self._rows_QL.shape, FIRST_PLACES), -1, dtype=np.int32)

    def add(self, ranks: LanguageRanks) -> None:
        """Take in the queries of one language."""
        column = self._languages.index(ranks.query_language)
        wanted_Q = self._rows_QL[:, column]
        place_Q = np.minimum(np.searchsorted(ranks.query_rows, wanted_Q), len(ranks.query_rows) - 1)
        known_Q = ranks.query_rows[place_Q] == wanted_Q
        self._first_QLP[known_Q, column, : ranks.first_QP.shape[1]] = ranks.first_QP[place_Q[known_Q]]

    def correlation(self) -> dict[str, float]:
        """MRC, nothing where no query is in two languages."""
        found_QL = bias.mrc(self._first_QLP) if len(self._first_QLP) else np.full((1, 1), np.nan)
        return {} if np.isnan(found_QL).all() else {f"MRC@{FIRST_PLACES}": float(np.nanmean(found_QL))}


def _mean(value_V: np.ndarray) -> float:
    """Mean of those that are known."""
    return float(value_V[~np.isnan(value_V)].mean())


def _macro(found: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each measure over those that have it."""
    names = dict.fromkeys(name for scores in found for name in scores)
    return {name: float(np.mean([scores[name] for scores in found if name in scores])) for name in names}
