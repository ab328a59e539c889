"""Queries and documents apart, joined by judgments: BEIR folders and presets.

An item is a positive judgment. Judgments with score 0 are hard negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_hybrid.data.storage import CorpusWriter, Negatives

from .items import add_items, with_titles
from .rows import NUMBER, BadRows, Judged


def add_judged(writer: CorpusWriter, language: str, data: Judged) -> None:
    """Add a language from its documents, its queries and judgments that may also name those of other languages.

    An item is a positive qrel. Queries without qrels are dropped.
    """
    query_row = _lookup(data.judgments, "query-id", data.queries)
    document_row = _lookup(data.judgments, "corpus-id", data.documents)
    score = data.judgments["score"].to_numpy()
    positive = score > 0
    if not positive.any():
        raise ValueError(f"{data.where(1)}: no judgment has a score above 0, which is what makes an item; add some.")
    asked = np.zeros(len(data.queries), dtype=bool)
    asked[query_row[positive & (query_row >= 0)]] = True
    if unasked := int((~asked).sum()):
        writer.report["queries_without_judgment"] += unasked
    row_of_query = np.append(np.where(asked, np.cumsum(asked) - 1, -1), -1)  # the last one is for row -1
    judgments, queries = data.judgments.filter(pa.array(positive)), data.queries.filter(pa.array(asked))
    writer.add_language(
        language,
        pc.binary_join_element_wise(judgments["query-id"], judgments["corpus-id"], "/").to_pylist(),
        queries["text"],
        data.documents["text"],
        query_rows=row_of_query[query_row[positive]],
        passage_rows=document_row[positive],
        groups=judgments["query-id"].to_pylist(),
        relevance=score[positive],
        negatives=_judged_negatives(data.judgments, document_row, positive),
        query_ids=queries["_id"],
        passage_ids=data.documents["_id"],
    )


def drop_unusable(data: Judged, bad: BadRows) -> Judged:
    """Drop qrels that name unknown queries or documents, and duplicates."""
    rows = {}
    keep = np.ones(len(data.judgments), dtype=bool)
    for column, noun, table in (("query-id", "query", data.queries), ("corpus-id", "document", data.documents)):
        rows[noun] = _lookup(data.judgments, column, table)
        for row in np.flatnonzero(rows[noun] < 0):
            name = data.judgments[column][int(row)].as_py()
            bad(
                f"unknown_{noun}",
                _where(data, int(row)),
                f"{column} {name!r} names no {noun}; allowed are ids of the {noun} file",
            )
        keep &= rows[noun] >= 0
    pairs = rows["query"].astype(np.int64) * len(data.documents) + rows["document"]
    _, first = np.unique(pairs, return_index=True)
    again = np.ones(len(pairs), dtype=bool)
    again[first] = False
    for row in np.flatnonzero(again & keep):
        bad("duplicate_judgment", _where(data, int(row)), "judges the same query and document as an earlier line")
    return data._replace(judgments=data.judgments.filter(pa.array(keep & ~again)))


def in_language(data: Judged, language: str) -> Judged:
    """The texts of one language and all the judgments."""
    documents, queries = (
        table.filter(pc.equal(table["language"], language)) for table in (data.documents, data.queries)
    )
    return data._replace(documents=documents, queries=queries)


def _lookup(judgments: pa.Table, column: str, table: pa.Table) -> np.ndarray:
    """int64 [judgments], row of the table that each names, -1 where it names none."""
    return pc.fill_null(pc.index_in(judgments[column], value_set=table["_id"]), -1).to_numpy().astype(np.int64)


def _where(data: Judged, row: int) -> str:
    return data.where(data.judgments[NUMBER][int(row)].as_py())


def _judged_negatives(judgments: pa.Table, document_row: np.ndarray, positive: np.ndarray) -> Negatives | None:
    """Return the documents with relevance 0, for each item of the same query."""
    negative = (judgments["score"].to_numpy() <= 0) & (document_row >= 0)
    if not negative.any():
        return None
    queries = judgments["query-id"].combine_chunks().dictionary_encode()
    query = queries.indices.to_numpy()
    return Negatives.from_pairs(query[negative], document_row[negative], len(queries.dictionary)).take(query[positive])


def build_judged(
    writer: CorpusWriter,
    bad: BadRows,
    read: Callable[[str, BadRows], pa.Table | Judged],
    languages: Sequence[str],
) -> None:
    for language in languages:
        data = read(language, bad)
        if isinstance(data, Judged):
            add_judged(writer, language, drop_unusable(data, bad))
        else:
            table = with_titles(data)
            add_items(writer, language, table, table, set)
