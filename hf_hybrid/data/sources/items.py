"""Items: a query, a passage or both under one id, as JSONL, pairs and data sets have them.

A passage that repeats within a language is stored once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_hybrid.data.storage import CorpusWriter, Negatives

from .rows import ITEM, NUMBER, BadRows, Rows, check_table

Source = Callable[[BadRows], Rows]
StrPath = str | os.PathLike[str]


def item_table(source: Rows, bad: BadRows) -> pa.Table:
    """Checked items, the title before the passage as in BEIR."""
    return with_titles(check_table(source, ITEM, bad, key="id"))


def with_titles(items: pa.Table) -> pa.Table:
    """The passage becomes title, space, passage where there is a title."""
    titled = pc.binary_join_element_wise(items["title"], items["passage"], " ")
    return items.set_column(items.column_names.index("passage"), "passage", pc.coalesce(titled, items["passage"]))


def ids_of(sources: Iterable[Source]) -> set[str]:
    """Item ids in all the sources, to tell negatives that are ids from those that are texts."""
    return {str(row.get("id")) for source in sources for _, row in source(BadRows("skip")).rows}


def join_tables(tables: Mapping[Path, pa.Table], column: str, bad: BadRows) -> pa.Table | None:
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


def build_items(writer: CorpusWriter, bad: BadRows, sources: Mapping[str, Source]) -> None:
    known_ids = cache(lambda: ids_of(sources.values()))
    for language, source in sources.items():
        table = item_table(source(bad), bad)
        add_items(writer, language, table, table, known_ids)
