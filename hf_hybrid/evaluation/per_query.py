"""Files of an evaluation beside `eval.json`: values of single queries, rankings and qrels in TREC format.

| file | content |
|---|---|
| `per_query.parquet` | a row for each query and passage language (`*`: all), a column for each measure |
| `runs/de-en.trec` | `query Q0 passage rank score tag`, German queries over English passages; `de-all.trec` over all |
| `qrels/de-en.qrels` | `query 0 passage relevance`, the qrels of `runs/de-en.trec` |

A value that a query has not is null in `per_query.parquet`, and the queries of one language are a row group there: of
more than one language nothing is held in memory.

A passage is `<language>:<id>`, so that the pool's names are unique. White space in ids is percent-encoded, since
TREC's columns are parted by it, and so are quotes, and `%` where it reads like that: `urllib.parse.unquote` gives the
id back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.schema import PER_QUERY_NAME
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import delete_unfinished

from .aggregate import KEYS, POOL

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.retrieval.search import TopK

    from .aggregate import LanguageRanks, QueryValues

_TREC = pyarrow.csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")


class _Ranking(NamedTuple):
    """Rankings of the queries of one language over the passages of another, or over all."""

    name: str  # of the files, `de-en`
    best: TopK
    first: int  # place in the pool of the first passage
    chosen_R: np.ndarray  # which judgments of the queries count


class EvaluationFiles:
    """Writes these files language by language; use it as a context manager, which leaves nothing half-written.

    Args:
        folder (`str`, `Path` or `OutputFolder`): Where to.
        corpus (`ParallelCorpus`): What is evaluated on.
        save_runs (`bool`, *optional*, defaults to `False`): Write rankings and judgments too.
        run_depth (`int`, *optional*, defaults to 1000): Places of each ranking that are written.
        tag (`str`, *optional*, defaults to `"hf_hybrid"`): Last column of the rankings.

    Raises:
        ValueError: When `run_depth` is below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        corpus: ParallelCorpus,
        save_runs: bool = False,
        run_depth: int = 1000,
        tag: str = "hf_hybrid",
    ) -> None:
        if run_depth < 1:
            raise ValueError(f"run_depth={run_depth}: give at least 1.")
        self.outputs, self.corpus, self.tag = OutputFolder.of(folder), corpus, _word(tag)
        self.folder = self.outputs.path
        self.run_depth = run_depth if save_runs else 0
        self._ids = cache(self._read_ids)
        self._schema = pa.schema([(name, pa.string()) for name in KEYS])
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._opened = ExitStack()  # what is to be closed, and the file to be named, or deleted after an error

    def __enter__(self) -> EvaluationFiles:
        if distributed.rank() == 0:  # rankings of an earlier evaluation would stand beside those of this one
            self.outputs.delete("runs", "qrels")
            delete_unfinished(self.folder, older_than_s=0.0)  # of an evaluation that was killed here
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer = None
        self._opened.__exit__(*error)

    def begin(self, names: Sequence[str]) -> None:
        """Take the names of all values that any language may have: each is a column."""
        self._schema = pa.schema([(name, pa.string()) for name in KEYS] + [(name, pa.float64()) for name in names])

    def add(self, ranks: LanguageRanks, values: Sequence[QueryValues]) -> None:
        """Write what the queries of one language gave."""
        if not values:  # it has no pair that the settings ask for
            return
        queries = self._read_ids(self.corpus.QUERY, ranks.query_language)
        query_ids = [queries[row] for row in ranks.query_rows]
        self._add_values(ranks.query_language, query_ids, values)
        rankings = _rankings(ranks, {found.passage_language for found in values}) if self.run_depth else []
        names = [name for ranking in rankings for name in (_run_name(ranking), _qrels_name(ranking))]
        self.outputs.claim(*names)  # at once: each time waits for the disk
        for ranking in rankings:
            self._write_run(ranking, ranks, query_ids)
            self._write_qrels(ranking, ranks, query_ids)

    def _passages(self, ranks: LanguageRanks, k: np.ndarray) -> pa.Array:
        """Names of passages by place in the pool; only those that are asked for are made."""
        wanted, index = np.unique(k, return_inverse=True)
        starts = np.cumsum([0, *map(len, ranks.candidates)])
        numbers = np.searchsorted(starts, wanted, side="right") - 1
        names = []
        for place, number in zip(wanted.tolist(), numbers.tolist(), strict=True):
            language, row = ranks.passage_languages[number], ranks.candidates[number][place - starts[number]]
            names.append(_word(f"{language}:{self._ids(self.corpus.PASSAGE, language)[row]}"))
        return pa.array(names, pa.string()).take(pa.array(index))

    def _read_ids(self, side: int, language: str) -> list[str]:
        """For each text row the source's own id; else, of a query the id of its item, of a passage its row."""
        known = self.corpus.row_ids(side, language)
        if known is not None:
            return known.to_pylist()
        texts = self.corpus.queries(language) if side == self.corpus.QUERY else self.corpus.passages(language)
        ids = [str(row) for row in range(len(texts))]
        if side == self.corpus.QUERY:
            rows = self.corpus.rows[:, self.corpus.languages.index(language), side]
            for item, row in zip(self.corpus.item_ids, rows.tolist(), strict=True):
                if row >= 0:
                    ids[row] = item
        return ids

    def _add_values(self, language: str, query_ids: list[str], values: Sequence[QueryValues]) -> None:
        """A row group: what is held in memory is of one language."""
        if self._writer is None:
            unfinished = self._opened.enter_context(self.outputs.writing(PER_QUERY_NAME))
            self._writer = self._opened.enter_context(pyarrow.parquet.ParquetWriter(unfinished, self._schema))
        ids, tables = pa.array(query_ids, pa.string()), []
        for found in values:
            count = len(found.query_V)
            keys = (pa.repeat(language, count), pa.repeat(found.passage_language, count), ids.take(found.query_V))
            columns = dict(zip(KEYS, keys, strict=True))
            for name in self._schema.names[len(KEYS) :]:
                value_V = found.values.get(name)
                columns[name] = pa.nulls(count) if value_V is None else pa.array(value_V, from_pandas=True)
            tables.append(pa.table(columns, schema=self._schema))
        table = pa.concat_tables(tables)
        self._writer.write_table(table, row_group_size=max(1, len(table)))

    def _write_run(self, ranking: _Ranking, ranks: LanguageRanks, query_ids: list[str]) -> None:
        passage_BP, score_BP = ranking.best
        query, place = np.nonzero(passage_BP >= 0)
        table = pa.table(
            {
                "query": pa.array([_word(name) for name in query_ids]).take(pa.array(query)),
                "Q0": pa.repeat("Q0", len(query)),
                "passage": self._passages(ranks, passage_BP[query, place] + ranking.first),
                "rank": place + 1,
                "score": score_BP[query, place],
                "tag": pa.repeat(self.tag, len(query)),
            }
        )
        self._write(_run_name(ranking), table)

    def _write_qrels(self, ranking: _Ranking, ranks: LanguageRanks, query_ids: list[str]) -> None:
        relevant = ranks.relevant.take(ranking.chosen_R)
        table = pa.table(
            {
                "query": pa.array([_word(query_ids[number]) for number in relevant.query_R]),
                "0": pa.repeat("0", len(relevant.query_R)),
                "passage": self._passages(ranks, relevant.passage_R),
                "relevance": relevant.gain_R,
            }
        )
        self._write(_qrels_name(ranking), table)

    def _write(self, name: str, table: pa.Table) -> None:
        with self.outputs.writing(name) as unfinished:
            pyarrow.csv.write_csv(table, unfinished, _TREC)


def _run_name(ranking: _Ranking) -> str:
    return f"runs/{ranking.name}.trec"


def _qrels_name(ranking: _Ranking) -> str:
    return f"qrels/{ranking.name}.qrels"


def _rankings(ranks: LanguageRanks, passage_languages: set[str]) -> list[_Ranking]:
    found, first = [], 0
    for number, (language, rows) in enumerate(zip(ranks.passage_languages, ranks.candidates, strict=True)):
        if language in passage_languages:
            chosen_R = ranks.relevant.language_R == number
            found.append(_Ranking(f"{ranks.query_language}-{language}", ranks.best[language], first, chosen_R))
        first += len(rows)
    if POOL in passage_languages:
        every_R = np.ones(len(ranks.relevant.query_R), dtype=bool)
        found.append(_Ranking(f"{ranks.query_language}-all", ranks.best[POOL], 0, every_R))
    return found


def _word(name: str) -> str:
    return re.sub(r'\s|"|%(?=[0-9a-fA-F]{2})', lambda found: quote(found[0]), name)
