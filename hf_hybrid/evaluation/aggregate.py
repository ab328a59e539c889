"""From ranks to means: measures of each query, then over the queries of a pair of languages, then over the pairs.

Shape letters: Q queries of a language, V those of them that a pair judges, I items, L languages, R relevant passages,
P places, B queries of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hf_hybrid.metrics.beir_cross_lingual import bias, ranking

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.records.run_folder import Scores
    from hf_hybrid.retrieval.search import Best, Relevant

POOL = "*"  # what stands for all passage languages together
FIRST_PLACES = bias.FIRST_PLACES  # what `LanguageRanks` needs of each ranking, beside the ranks
_POOL_RECALL = f"pool_recall@{bias.RECALL_PLACES}"
_BLOCK_QUERIES = 4096  # parallel queries whose rankings are compared at once


class LanguageRanks(NamedTuple):
    """Where the relevant passages of the queries of one language stand.

    Args:
        query_language (`str`): The language of the queries.
        passage_languages (`tuple[str, ...]`): Those of the pool, which `relevant.language_R` counts.
        query_rows (`np.ndarray` of shape `(Q,)`): Rows of the queries in the corpus, increasing.
        candidates (`list[np.ndarray]`): For each language the rows of its passages: places of the pool, in order.
        relevant (`Relevant`): The judgements.
        own_rank_R (`np.ndarray` of shape `(R,)`): Rank among the passages of the same language.
        pool_rank_R (`np.ndarray` of shape `(R,)`): Rank among all, `np.inf` where an approximate search did not find
            it.
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
    """Measures of single queries of one language, in a pair of languages or in the pool.

    Args:
        passage_language (`str`): Of the pair, or `POOL`.
        query_V (`np.ndarray` of shape `(V,)`): Which of `LanguageRanks.query_rows`.
        values (`dict[str, np.ndarray]`): For each name an array of shape `(V,)`, NaN where it is not defined: the
            measures that were asked for, and what goes beside them.
    """

    passage_language: str
    query_V: np.ndarray
    values: dict[str, np.ndarray]


def value_names(settings: Sequence[str], measures: Sequence[str]) -> list[str]:
    """Names of all values that `query_values` may give, whatever the language.

    Example:

        >>> value_names(["monolingual"], ["MAP"]), value_names(["monolingual", "multilingual"], ["MAP"])[:3]
        (['MAP'], ['MAP', 'pool_recall@100', 'rank_distance'])
    """
    pooled = "multilingual" in settings
    beside = [_POOL_RECALL] if pooled and len(settings) > 1 else []
    return list(dict.fromkeys([*measures, *beside, *(bias.BY_QUERY if pooled else ())]))


def query_values(ranks: LanguageRanks, settings: Sequence[str], measures: Sequence[str]) -> list[QueryValues]:
    """Measures of each query, in each pair and in the pool as far as the settings ask for them.

    Args:
        ranks (`LanguageRanks`): Of the queries of one language.
        settings (`Sequence[str]`): Some of `"monolingual"`, `"cross_lingual"` and `"multilingual"`.
        measures (`Sequence[str]`): Names as in `ranking.parse_measure`.

    Returns:
        `list[QueryValues]`: For each passage language that has relevant passages the measures among its passages, and
        `pool_recall@100`, how many of them are in the first places of the pool, if the settings ask for that too. Last
        the pool with its measures and those of `bias.bias_by_query`.
    """
    found, relevant, num_queries = [], ranks.relevant, len(ranks.query_rows)
    pooled = "multilingual" in settings
    columns = (relevant.query_R, ranks.pool_rank_R, relevant.language_R)
    recall_QL = bias.recall_by_language(*columns, num_queries, len(ranks.passage_languages), bias.RECALL_PLACES)
    for number in np.unique(relevant.language_R).tolist():
        name = ranks.passage_languages[number]
        if ("monolingual" if name == ranks.query_language else "cross_lingual") in settings:
            chosen = relevant.language_R == number
            query_V, query_R = np.unique(relevant.query_R[chosen], return_inverse=True)
            judged = (query_R, ranks.own_rank_R[chosen], relevant.gain_R[chosen], len(query_V))
            values = ranking.measures(*judged, names=measures)
            if pooled:
                values[_POOL_RECALL] = recall_QL[query_V, number]
            found.append(QueryValues(name, query_V, values))
    if pooled:
        judged = (relevant.query_R, ranks.pool_rank_R, relevant.gain_R, num_queries)
        values = {**ranking.measures(*judged, names=measures), **_bias(ranks)}
        found.append(QueryValues(POOL, np.arange(num_queries), values))
    return found


def _bias(ranks: LanguageRanks) -> dict[str, np.ndarray]:
    """What says of language bias, by query."""
    return bias.bias_by_query(
        ranks.relevant.query_R,
        ranks.pool_rank_R,
        ranks.pool_last_R,
        ranks.relevant.language_R,
        ranks.passage_languages.index(ranks.query_language),
        len(ranks.query_rows),
        ranks.same_language_share_Q,
    )


class Tally:
    """Means over queries, by pair and by query language, then over those.

    Args:
        corpus (`ParallelCorpus`): Says which queries are parallel.
        settings (`Sequence[str]`): What is asked for, as in `query_values`.
    """

    def __init__(self, corpus: ParallelCorpus, settings: Sequence[str]) -> None:
        self._num_queries = 0
        # what was asked for, and what goes beside it, of each pair and of each query language in the pool
        self._pairs: dict[tuple[str, str], tuple[dict[str, float], dict[str, float]]] = {}
        self._pool: list[tuple[dict[str, float], dict[str, float]]] = []
        self._all_have_distances = True
        self._parallel = _ParallelQueries(corpus) if "multilingual" in settings else None

    @property
    def empty(self) -> bool:
        """Whether no query had a relevant passage in any of the settings."""
        return not (self._pairs or self._pool)

    def add(self, ranks: LanguageRanks, values: Sequence[QueryValues], measures: Sequence[str]) -> None:
        """Take in the queries of one language.

        Args:
            ranks (`LanguageRanks`): Their ranks.
            values (`Sequence[QueryValues]`): What `query_values` made of them, by the settings of this tally.
            measures (`Sequence[str]`): Those that were asked for; what else the values hold goes beside them, and not
                into the means of the settings.
        """
        if values:
            self._num_queries += len(np.unique(np.concatenate([found.query_V for found in values])))
        for found in values:
            means = ranking.known_means(found.values)
            asked = {name: means.pop(name) for name in dict.fromkeys(measures)}
            if found.passage_language == POOL:
                self._pool.append((asked, means))
                self._all_have_distances &= not bias.lacks_rank_distance(found.values).any()
            else:
                self._pairs[ranks.query_language, found.passage_language] = asked, means
        if self._parallel is not None:
            self._parallel.add(ranks)

    def scores(self) -> Scores:
        """The means of the means.

        Returns:
            `Scores`: As in `eval.json`. `num_queries` are those that have a relevant passage in one of the settings.
            There is no rank distance where a query has relevant passages in several languages and not all of them were
            found: a mean over the others would favour who finds less.
        """
        bias_means = ranking.macro(beside for _, beside in self._pool)
        if not self._all_have_distances:
            bias_means.pop("rank_distance", None)
        if self._parallel is not None:
            bias_means |= self._parallel.correlation()
        same = {pair: asked for pair, (asked, _) in self._pairs.items() if pair[0] == pair[1]}
        return {
            "monolingual": ranking.macro(same.values()),
            "cross_lingual": ranking.macro(asked for pair, (asked, _) in self._pairs.items() if pair not in same),
            "multilingual": ranking.macro(asked for asked, _ in self._pool),
            "bias": bias_means,
            "pairs": {"-".join(pair): {**asked, **beside} for pair, (asked, beside) in self._pairs.items()},
            "num_queries": self._num_queries,
        }


class _ParallelQueries:
    """The first places of each query in each of its languages, for MRC; held of queries that are judged alone."""

    def __init__(self, corpus: ParallelCorpus) -> None:
        self._corpus = corpus
        self._judged: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by language rows of queries, and `first_QP`

    def add(self, ranks: LanguageRanks) -> None:
        """Take in the queries of one language."""
        column = self._corpus.languages.index(ranks.query_language)
        self._judged[column] = ranks.query_rows, ranks.first_QP.astype(np.int32)

    def correlation(self) -> dict[str, float]:
        """MRC, nothing where no query is in two languages."""
        blocks = [bias.mrc(first_BLP) for first_BLP in self._blocks()]
        found_QL = np.concatenate(blocks) if blocks else np.zeros((0, 0))
        return ranking.known_means({f"MRC@{FIRST_PLACES}": found_QL})

    def _blocks(self) -> Iterator[np.ndarray]:
        """First places of queries in the languages where they are judged, of those with several, by block."""
        rows_IL = self._corpus.rows[:, :, self._corpus.QUERY]
        num_judged_I = np.zeros(len(rows_IL), dtype=np.int64)
        for column, (query_rows, _) in self._judged.items():
            num_judged_I += np.isin(rows_IL[:, column], query_rows)
        rows_QL = np.unique(rows_IL[num_judged_I > 1], axis=0)  # items may share their queries
        for start in range(0, len(rows_QL), _BLOCK_QUERIES):
            rows_BL = rows_QL[start : start + _BLOCK_QUERIES]
            first_BLP = np.full((*rows_BL.shape, FIRST_PLACES), -1, dtype=np.int32)
            for column, (query_rows, first_QP) in self._judged.items():
                place_B = np.minimum(np.searchsorted(query_rows, rows_BL[:, column]), len(query_rows) - 1)
                known_B = query_rows[place_B] == rows_BL[:, column]
                first_BLP[known_B, column, : first_QP.shape[1]] = first_QP[place_B[known_B]]
            yield first_BLP
