"""Checked tables as languages of a corpus: the step from rows of text to rows of numbers.

Two shapes of source remain after reading. *Items* (JSONL, data sets, pairs, questions on contexts) hold a query, a
passage or both under one id; `add_items` stores a passage that repeats once. *Judged* sets (BEIR) hold queries and
documents apart and join them by judgments; `add_judged` makes an item of each positive one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_hybrid.data.storage import CorpusWriter, Negatives
from hf_hybrid.utils.strict_json import read_json

from .rows import ITEM, NUMBER, BadRows, Field, Judged, RowError, Rows, checked_table, identifier, integer, text

Source = Callable[[BadRows], Rows]

_QUESTION = {"id": Field(identifier), "question": Field(text), "row": Field(integer, pa.int32())}


# Items


def item_table(source: Rows, bad: BadRows) -> pa.Table:
    """Checked items, the title before the passage as in BEIR."""
    return with_titles(checked_table(source, ITEM, bad, key="id"))


def with_titles(items: pa.Table) -> pa.Table:
    """The passage becomes title, space, passage where there is a title."""
    titled = pc.binary_join_element_wise(items["title"], items["passage"], " ")
    return items.set_column(items.column_names.index("passage"), "passage", pc.coalesce(titled, items["passage"]))


def ids_of(sources: Iterable[Source]) -> set[str]:
    """Item ids in all the sources, to tell negatives that are ids from those that are texts."""
    return {str(row.get("id")) for source in sources for _, row in source(BadRows("skip")).rows}


def joined(tables: Mapping[Path, pa.Table], column: str, bad: BadRows) -> pa.Table | None:
    """One table of several files; an item that is in more than one must have the same text in all."""
    known: dict[str, tuple[str, Path]] = {}
    parts = []
    for path, table in tables.items():
        new = []
        for item_id, given, number in zip(*(table[name].to_pylist() for name in ("id", column, NUMBER)), strict=True):
            before, first = known.setdefault(item_id, (given, path))
            new.append(first == path)
            if before != given:
                message = f"item {item_id!r} has another {column} than in {first}; allowed is one in each language"
                bad("conflicting_text", f"{path}, line {number}", message)
        parts.append(table.filter(pa.array(new)))
    return pa.concat_tables(parts) if parts else None


def add_items(
    writer: CorpusWriter,
    language: str,
    queries: pa.Table | None,
    passages: pa.Table | None,
    known_ids: Callable[[], set[str]],
) -> None:
    """Add a language from the items that have a query and the items that have a passage in it.

    Args:
        writer (`CorpusWriter`): the corpus.
        language (`str`): the language.
        queries (`pa.Table`, *optional*): as from `item_table`; its column `passage` is not used.
        passages (`pa.Table`, *optional*): as from `item_table`; its column `query` is not used.
        known_ids (`Callable`): all item ids of the source; only called where there are negatives.
    """
    query_ids, passage_ids = _column(queries, "id"), _column(passages, "id")
    items = {item_id: item for item, item_id in enumerate(dict.fromkeys([*query_ids, *passage_ids]))}
    owners, targets, extra = _negatives(writer, passages, known_ids)
    # each text once: the code of a passage is its row
    chunks = [*(passages["passage"].chunks if passages else ()), pa.array(extra, pa.string())]
    texts = pa.chunked_array(chunks).cast(pa.large_string()).combine_chunks().dictionary_encode()
    codes = texts.indices.to_numpy()
    item_of_passage = np.array([items[item_id] for item_id in passage_ids], dtype=np.int64)
    other = codes[owners] != codes[targets]
    if same := int((~other).sum()):
        writer.report["negatives_equal_to_passage"] += same
    negatives = Negatives.from_pairs(item_of_passage[owners[other]], codes[targets[other]], len(items))
    writer.add_language(
        language,
        list(items),
        queries["query"] if queries else [],
        texts.dictionary,
        query_rows=_rows(items, query_ids, np.arange(len(query_ids))),
        passage_rows=_rows(items, passage_ids, codes),
        groups=_labels(items, queries, passages),
        negatives=negatives if len(targets) else None,
    )


def _column(table: pa.Table | None, name: str) -> list[Any]:
    return table[name].to_pylist() if table else []


def _rows(items: Mapping[str, int], ids: list[str], rows: np.ndarray) -> np.ndarray:
    """int32 [items], the row of each item that has one."""
    of_item = np.full(len(items), -1, dtype=np.int32)
    of_item[[items[item_id] for item_id in ids]] = rows[: len(ids)]
    return of_item


def _labels(items: Mapping[str, int], *tables: pa.Table | None) -> list[str | None] | None:
    groups = {
        item_id: group
        for table in tables
        for item_id, group in zip(_column(table, "id"), _column(table, "group"), strict=True)
        if group is not None
    }
    return [groups.get(item_id) for item_id in items] if groups else None


def _negatives(
    writer: CorpusWriter, passages: pa.Table | None, known_ids: Callable[[], set[str]]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pairs of passages, owner and negative, and the texts that follow the last passage."""
    owners: list[int] = []
    targets: list[int] = []
    extra: list[str] = []
    if passages and passages["negatives"].null_count < len(passages):
        own = {item_id: row for row, item_id in enumerate(passages["id"].to_pylist())}
        for owner, names in enumerate(passages["negatives"].to_pylist()):
            for name in names or ():
                if name not in own and name in known_ids():
                    writer.report["negatives_without_translation"] += 1
                    continue
                if name not in own:
                    own[name] = len(passages) + len(extra)
                    extra.append(name)
                owners.append(owner)
                targets.append(own[name])
    return np.array(owners, dtype=np.int64), np.array(targets, dtype=np.int64), extra


# Judged sets


def add_judged(writer: CorpusWriter, language: str, data: Judged) -> None:
    """Add a language from its documents, its queries and judgments that may also name those of other languages.

    An item is a positive judgment, here or elsewhere; only judged queries are kept.
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


def usable(data: Judged, bad: BadRows) -> Judged:
    """The same set without judgments that name what is not there, or that say something twice."""
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
    """Documents judged not relevant, for each item of the same query."""
    negative = (judgments["score"].to_numpy() <= 0) & (document_row >= 0)
    if not negative.any():
        return None
    queries = judgments["query-id"].combine_chunks().dictionary_encode()
    query = queries.indices.to_numpy()
    return Negatives.from_pairs(query[negative], document_row[negative], len(queries.dictionary)).take(query[positive])


# XQuAD-R


def add_xquad_r(writer: CorpusWriter, language: str, path: Path, bad: BadRows) -> None:
    """Add a language from LAReQA's json: all sentences are passages, gold is the one in which the answer starts."""
    sentences: list[str] = []
    table = checked_table(Rows(str(path), "question", _questions(path, sentences, bad)), _QUESTION, bad, key="id")
    ids, rows = table["id"].to_pylist(), table["row"].to_numpy()
    writer.add_language(language, ids, table["question"], sentences, passage_rows=rows)


def _questions(path: Path, sentences: list[str], bad: BadRows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered questions with the row of their sentence; `sentences` grows by the paragraphs that have been passed."""
    number = 0
    for where, paragraph in _paragraphs(path):
        first = len(sentences)
        breaks = _list(paragraph, "sentence_breaks", where)
        sentences.extend(_list(paragraph, "sentences", where))
        try:
            list(map(text, sentences[first:]))
        except RowError as error:
            raise ValueError(f"{where}: a sentence is {error}.") from None
        if len(breaks) != len(sentences) - first:
            raise ValueError(
                f"{where}: {len(sentences) - first} sentences but {len(breaks)} sentence_breaks; give as many of both."
            )
        if not all(isinstance(ends, list) and [type(end) for end in ends] == [int, int] for ends in breaks):
            raise ValueError(f"{where}: sentence_breaks are pairs of integers, such as [[0, 6], [7, 14]].")
        for question in _list(paragraph, "qas", where):
            number += 1
            start = _answer_start(question)
            row = next((first + i for i, (begin, end) in enumerate(breaks) if begin <= start < end), None)
            if row is None:
                message = f"answer_start {start} is in none of the sentence_breaks {breaks}"
                bad("answer_outside_sentences", f"{path}, question {number} ({where[len(str(path)) + 2 :]})", message)
            else:
                yield number, {**question, "row": row}


def _paragraphs(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for a, article in enumerate(_list(read_json(path), "data", str(path))):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}, data[{a}]")):
            yield f"{path}, data[{a}].paragraphs[{p}]", paragraph


def _list(parent: Any, key: str, where: str) -> list[Any]:
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list):
        raise ValueError(
            f"{where}: no list {key!r}; allowed is LAReQA's form: data[].paragraphs[] with sentences, sentence_breaks "
            "and qas[] of id, question and answers[0].answer_start."
        )
    return found


def _answer_start(question: Any) -> int:
    """-1, which no sentence contains, where there is no answer."""
    try:
        start = question["answers"][0]["answer_start"]
    except (KeyError, IndexError, TypeError):
        return -1
    return start if type(start) is int else -1
