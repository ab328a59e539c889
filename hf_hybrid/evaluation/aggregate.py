"""From ranks to means: measures of each query, then over the queries of a language pair, then over the pairs.

Shape letters: Q queries of a language, V those of them that a pair judges, I items, L languages, R relevant passages,
P top-k passages, B queries of a block.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hf_hybrid.metrics.beir_cross_lingual import bias, ranking
from hf_hybrid.records.schema import Scores

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.records.schema import Scores
    from hf_hybrid.retrieval.search import Relevant, TopK

POOL = "*"  # what stands for all passage languages together
BIAS_TOP_K = bias.BIAS_TOP_K  # what `LanguageRanks` needs of each ranking, beside the ranks
_POOL_RECALL = f"pool_recall@{bias.RECALL_TOP_K}"
_BLOCK_QUERIES = 4096  # parallel queries whose rankings are compared at once
KEYS = ("query_language", "passage_language", "query_id")


class LanguageRanks(NamedTuple):
    """Ranks of the relevant passages of the queries of one language.

    Args:
        query_language (`str`): The language of the queries.
        passage_languages (`tuple[str, ...]`): Those of the pool, which `relevant.language_R` counts.
        query_rows (`np.ndarray` of shape `(Q,)`): Rows of the queries in the corpus, increasing.
        candidates (`list[np.ndarray]`): For each language the rows of its passages, in the order of the pool.
        relevant (`Relevant`): The judgments.
        own_rank_R (`np.ndarray` of shape `(R,)`): Rank among the passages of the same language.
        pool_rank_R (`np.ndarray` of shape `(R,)`): Rank among all, `np.inf` where an approximate search did not find
            it.
        pool_last_R (`np.ndarray` of shape `(R,)`): The last rank that the passages tied with it share there.
        same_language_share_Q (`np.ndarray` of shape `(Q,)`): Share of the query's own language in its top k.
        first_QP (`np.ndarray` of shape `(Q, P)`): Top-k passages of the pool, -1 for none.
        best (`dict[str, TopK]`): Longer rankings by passage language and `"*"`, by place in that language or the pool;
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
    best: dict[str, TopK]


class QueryValues(NamedTuple):
    """Measures of single queries of one language, in a language pair or in the pool.

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
        `pool_recall@100`, how many of them are in the top k of the pool, if the settings ask for that too. Last
        the pool with its measures and those of `bias.bias_by_query`.
    """
    found, relevant, num_queries = [], ranks.relevant, len(ranks.query_rows)
    pooled = "multilingual" in settings
    columns = (relevant.query_R, ranks.pool_rank_R, relevant.language_R)
    recall_QL = bias.recall_by_language(*columns, num_queries, len(ranks.passage_languages), bias.RECALL_TOP_K)
    for number in np.unique(relevant.language_R).tolist():
        name = ranks.passage_languages[number]
        if ("monolingual" if name == ranks.query_language else "cross_lingual") in settings:
            chosen = relevant.language_R == number
            query_V, query_R = np.unique(relevant.query_R[chosen], return_inverse=True)
            qrels = (query_R, ranks.own_rank_R[chosen], relevant.gain_R[chosen], len(query_V))
            values = ranking.measures(*qrels, names=measures)
            if pooled:
                values[_POOL_RECALL] = recall_QL[query_V, number]
            found.append(QueryValues(name, query_V, values))
    if pooled:
        qrels = (relevant.query_R, ranks.pool_rank_R, relevant.gain_R, num_queries)
        values = {**ranking.measures(*qrels, names=measures), **_bias(ranks)}
        found.append(QueryValues(POOL, np.arange(num_queries), values))
    return found


def _bias(ranks: LanguageRanks) -> dict[str, np.ndarray]:
    """Return the values of language bias of each query."""
    return bias.bias_by_query(
        ranks.relevant.query_R,
        ranks.pool_rank_R,
        ranks.pool_last_R,
        ranks.relevant.language_R,
        ranks.passage_languages.index(ranks.query_language),
        len(ranks.query_rows),
        ranks.same_language_share_Q,
    )


class _Means:
    """Means over queries, by pair and by query language, then over those: every score of `eval.json` is made here."""

    def __init__(self) -> None:
        # what was asked for, and other values, of each pair and of each query language in the pool
        self.pairs: dict[tuple[str, str], tuple[dict[str, float], dict[str, float]]] = {}
        self.pool: list[tuple[dict[str, float], dict[str, float]]] = []
        self._all_have_distances = True

    def add(self, pair: tuple[str, str], values: Mapping[str, np.ndarray], measures: Sequence[str]) -> None:
        """Add the queries of a language pair, or of a language in the pool."""
        others = ranking.average_known(values)
        asked = {name: others.pop(name) for name in dict.fromkeys(measures) if name in others}
        if pair[1] == POOL:
            self.pool.append((asked, others))
            self._all_have_distances &= "rank_distance" in values and not bias.lacks_rank_distance(values).any()
        else:
            self.pairs[pair] = asked, others

    def scores(self, num_queries: int, more_bias: Mapping[str, float]) -> Scores:
        """Return the means of the means; `more_bias` is added to those of `bias`.

        There is no rank distance where a query has relevant passages in several languages and not all of them were
        found: a mean over the others would favor the model that finds less.
        """
        bias_means = ranking.macro(others for _, others in self.pool)
        if not self._all_have_distances:
            bias_means.pop("rank_distance", None)
        pairs = self.pairs.items()
        return {
            "monolingual": ranking.macro(asked for (query, passage), (asked, _) in pairs if query == passage),
            "cross_lingual": ranking.macro(asked for (query, passage), (asked, _) in pairs if query != passage),
            "multilingual": ranking.macro(asked for asked, _ in self.pool),
            "bias": {**bias_means, **more_bias},
            "pairs": {"-".join(pair): {**asked, **others} for pair, (asked, others) in pairs},
            "num_queries": num_queries,
        }


class Tally:
    """Scores of an evaluation, from the ranks of one language after the other.

    Args:
        corpus (`ParallelCorpus`): Says which queries are parallel.
        settings (`Sequence[str]`): What is asked for, as in `query_values`.
    """

    def __init__(self, corpus: ParallelCorpus, settings: Sequence[str]) -> None:
        self._num_queries, self._means = 0, _Means()
        self._parallel = _ParallelQueries(corpus) if "multilingual" in settings else None

    @property
    def empty(self) -> bool:
        """Whether no query has a relevant passage in any setting."""
        return not (self._means.pairs or self._means.pool)

    def add(self, ranks: LanguageRanks, values: Sequence[QueryValues], measures: Sequence[str]) -> None:
        """Add the queries of one language.

        Args:
            ranks (`LanguageRanks`): Their ranks.
            values (`Sequence[QueryValues]`): What `query_values` made of them, by the settings of this tally.
            measures (`Sequence[str]`): Those that were asked for. Other values are reported but not averaged over
                pairs.
        """
        if values:
            self._num_queries += len(np.unique(np.concatenate([found.query_V for found in values])))
        for found in values:
            self._means.add((ranks.query_language, found.passage_language), found.values, measures)
        if self._parallel is not None:
            self._parallel.add(ranks)

    def scores(self) -> Scores:
        """Return the scores as in `eval.json`.

        `num_queries` are those that have a relevant passage in one of the settings.
        """
        return self._means.scores(self._num_queries, self._parallel.correlation() if self._parallel else {})


class _ParallelQueries:
    """The top k of each query in each of its languages, for MRC; held only for queries with qrels."""

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
        return ranking.average_known({f"MRC@{BIAS_TOP_K}": found_QL})

    def _blocks(self) -> Iterator[np.ndarray]:
        """The top k of queries in the languages where they have qrels, for queries with several, by block."""
        rows_IL = self._corpus.rows[:, :, self._corpus.QUERY]
        num_judged_I = np.zeros(len(rows_IL), dtype=np.int64)
        for column, (query_rows, _) in self._judged.items():
            num_judged_I += np.isin(rows_IL[:, column], query_rows)
        rows_QL = np.unique(rows_IL[num_judged_I > 1], axis=0)  # items may share their queries
        for start in range(0, len(rows_QL), _BLOCK_QUERIES):
            rows_BL = rows_QL[start : start + _BLOCK_QUERIES]
            first_BLP = np.full((*rows_BL.shape, BIAS_TOP_K), -1, dtype=np.int32)
            for column, (query_rows, first_QP) in self._judged.items():
                place_B = np.minimum(np.searchsorted(query_rows, rows_BL[:, column]), len(query_rows) - 1)
                known_B = query_rows[place_B] == rows_BL[:, column]
                first_BLP[known_B, column, : first_QP.shape[1]] = first_QP[place_B[known_B]]
            yield first_BLP


def scores_of_queries(values: pa.Table, measures: list[str]) -> Scores:
    """Return the scores of an evaluation from its `per_query.parquet`, without the correlations of `bias`.

    Args:
        values (`pa.Table`): A row for each query and passage language.
        measures (`list[str]`): Those that were asked for.

    Example:

        >>> import pyarrow as pa
        >>> rows = {"query_language": ["de"] * 3, "passage_language": ["de", "de", "*"], "query_id": ["1", "2", "1"]}
        >>> scores = scores_of_queries(pa.table({**rows, "MAP": [0.5, 1.0, 0.25]}), ["MAP"])
        >>> scores["pairs"], scores["multilingual"], scores["num_queries"]
        ({'de-de': {'MAP': 0.75}}, {'MAP': 0.25}, 2)
    """
    means = _Means()
    for pair, found in _groups(values).items():
        means.add(pair, found, measures)
    return means.scores(values.group_by(["query_language", "query_id"]).aggregate([]).num_rows, {})


def _groups(values: pa.Table) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """For each language pair, or language and pool, the columns of its queries, NaN where there is no value."""
    import pyarrow as pa  # here: training needs none

    languages = zip(*(values[key].to_pylist() for key in KEYS[:2]), strict=True)
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, pair in enumerate(languages):
        rows[pair].append(row)
    columns = {
        name: values[name].cast(pa.float64()).fill_null(math.nan).to_numpy()
        for name in values.column_names
        if name not in KEYS
    }
    return {pair: {name: column[chosen] for name, column in columns.items()} for pair, chosen in rows.items()}
