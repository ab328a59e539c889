"""Items aligned over languages, with their text on disk.

A corpus is one integer matrix over memory-mapped text:

1. `<lang>.queries.arrow` and `<lang>.passages.arrow` hold the texts of one language, one row each.
2. `rows.npy` [num_items, num_languages, 2] says which row holds an item's query and passage there, -1 for none.
3. `items.arrow` holds the item's id, its group and its relevance.

Any language pair is a pair of columns of that matrix, so nothing grows with the square of the languages but a
table of counts. `CorpusBuilder` writes such a folder one language at a time, `ParallelCorpus.load` maps it, and a view
(`select_languages`, `split`) is a choice of columns and items over the same files.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa

from .sides import PASSAGE, QUERY
from .storage import BATCH_ROWS, CorpusFiles, CorpusWriter, Negatives, content_digest


class ItemIds(Sequence[str]):
    """Item ids of a corpus or view: a sequence of `str` whose text stays on disk."""

    def __init__(self, column: pa.ChunkedArray, items: np.ndarray | None) -> None:
        self._column = column
        self._items = items

    def __len__(self) -> int:
        return len(self._column) if self._items is None else len(self._items)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return self._column[int(index if self._items is None else self._items[index])].as_py()

    def take(self, indices: Iterable[int]) -> list[str]:
        """The ids at `indices`, in that order."""
        return [self[int(index)] for index in indices]


class ParallelCorpus:
    """Items x languages over memory-mapped text; made by `load`, by a `CorpusBuilder` or as a view of another.

    Args:
        files (`CorpusFiles`): the files.
        columns (`np.ndarray`, *optional*): int64, languages of the files to show; all by default.
        items (`np.ndarray`, *optional*): int64, increasing, items of the files to show; all by default.
        candidate_rule (`str`, *optional*, defaults to `"all"`): which passages can be retrieved: `"all"`, `"own"`
            (those of the shown items) or `"own+unowned"` (and those that no item of the files has).
        report (`dict[str, int]`, *optional*): counts of what was skipped or is noteworthy; that of the files.

    Example:

        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with CorpusBuilder(f"{folder}/corpus") as builder:
        ...     builder.add_language("en", ["1", "2"], ["Who?", "When?"], ["Ada did.", "In 1843."])
        ...     builder.add_language("de", ["1"], ["Wer?"], ["Ada war es."])
        ...     corpus = builder.finish()
        >>> corpus
        ParallelCorpus(2 items, 2 languages: en, de)
        >>> corpus.num_pairs("en", "de")
        1
        >>> corpus.text(corpus.PASSAGE, "de", 0)
        'Ada war es.'
    """

    QUERY, PASSAGE = QUERY, PASSAGE

    def __init__(
        self,
        files: CorpusFiles,
        columns: np.ndarray | None = None,
        items: np.ndarray | None = None,
        candidate_rule: str = "all",
        report: dict[str, int] | None = None,
    ) -> None:
        self._files = files
        self._columns = np.arange(len(files.languages)) if columns is None else columns
        self._items = items
        self._rule = candidate_rule
        self.languages: tuple[str, ...] = tuple(files.languages[column] for column in self._columns)
        self.num_items: int = files.manifest["num_items"] if items is None else len(items)
        self.report: dict[str, int] = dict(files.manifest["report"] if report is None else report)
        self.source: dict[str, Any] = files.manifest["source"]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ParallelCorpus:
        """Map a built corpus; no text is read.

        Raises:
            ValueError: if `folder` holds no complete corpus, or one of another format version.
        """
        return cls(CorpusFiles(folder))

    def __len__(self) -> int:
        return self.num_items

    def __repr__(self) -> str:
        return f"ParallelCorpus({self.num_items} items, {len(self.languages)} languages: {', '.join(self.languages)})"

    # Items

    @property
    def item_ids(self) -> ItemIds:
        """Ids of the items, the same in all languages."""
        return ItemIds(self._files.items["id"], self._items)

    def ids_of(self, items: np.ndarray) -> list[str]:
        """Ids of the items at the positions `items`."""
        return self.item_ids.take(items)

    @cached_property
    def groups(self) -> np.ndarray:
        """int64 [num_items]; items with the same number share a passage and are never negatives of each other."""
        return self._item_column("group")

    @cached_property
    def relevance(self) -> np.ndarray:
        """int32 [num_items]; grade of the item's passage for its query, 1 where the source does not grade."""
        return self._item_column("relevance")

    @cached_property
    def rows(self) -> np.ndarray:
        """int32 [num_items, num_languages, 2]; rows of the query and the passage, -1 where there is none."""
        if self._items is None and self._all_columns:
            return self._files.rows
        return np.concatenate(list(self._row_blocks()))

    # Texts

    def queries(self, language: str) -> pa.ChunkedArray:
        """All query texts of the files in `language`; index it by `rows[..., QUERY]`."""
        return self._texts(self.QUERY, language)["text"]

    def passages(self, language: str) -> pa.ChunkedArray:
        """All passage texts of the files in `language`; index it by `rows[..., PASSAGE]`."""
        return self._texts(self.PASSAGE, language)["text"]

    def text(self, side: int, language: str, row: int) -> str:
        """One text: `side` is `QUERY` or `PASSAGE`."""
        return self._texts(side, language)["text"][int(row)].as_py()

    def texts(self, side: int, language: str, rows: np.ndarray) -> list[str]:
        """The texts at increasing `rows`."""
        return _take(self._texts(side, language)["text"], rows).to_pylist()

    def row_ids(self, side: int, language: str) -> pa.ChunkedArray | None:
        """The source's own id of each text row (BEIR's query and document ids), `None` where it has none."""
        table = self._texts(side, language)
        return table["id"] if "id" in table.column_names else None

    # What can be paired, retrieved and contrasted

    def pair_counts(self) -> np.ndarray:
        """int64 [L, L]; items with a query in the language of the row and a passage in that of the column."""
        return self._pair_counts.copy()

    def num_pairs(self, query_language: str, passage_language: str) -> int:
        """Number of items with a query in one language and a passage in the other."""
        return int(self._pair_counts[self._position(query_language), self._position(passage_language)])

    def candidates(self, language: str) -> np.ndarray:
        """int64, increasing: passage rows that a query of this corpus or view may retrieve in `language`."""
        if self._rule == "all":
            return np.arange(len(self.passages(language)))
        shown = self._owned(self.rows[:, self._position(language), self.PASSAGE], language)
        if self._rule == "own+unowned":
            shown |= self._unowned(language)
        return np.flatnonzero(shown)

    def passage_groups(self, language: str) -> np.ndarray:
        """int64 [passage rows]; group of the items that own each passage, -1 where no item of this view does."""
        groups = np.full(len(self.passages(language)), -1, dtype=np.int64)
        rows = self.rows[:, self._position(language), self.PASSAGE]
        groups[rows[rows >= 0]] = self.groups[rows >= 0]
        return groups

    def negatives(self, language: str) -> Negatives | None:
        """Hard negatives in `language`, `None` where the source gives none.

        A view omits negatives that belong to items it does not show: training never sees a held-out passage.
        """
        column = self._columns[self._position(language)]
        negatives = self._files.negatives(language)
        if negatives is None or self._items is None:
            return negatives
        allowed = self._owned(self._files.rows[self._items, column, self.PASSAGE], language) | self._unowned(language)
        return negatives.take(self._items, allowed)

    # Identity

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the content, whatever format it came from; a view adds what it selects."""
        if self._items is None and self._all_columns and self._rule == "all":
            return self.base_fingerprint
        items = np.arange(self.num_items) if self._items is None else self._items
        return content_digest(self.base_fingerprint, *self.languages, self._rule, items.astype(np.int64))

    @property
    def base_fingerprint(self) -> str:
        """Fingerprint of the files: the same for all views that share them, so the key for caches of text rows."""
        return self._files.manifest["fingerprint"]

    # Views

    def select_languages(self, languages: Sequence[str]) -> ParallelCorpus:
        """Return the corpus in some languages, in the given order. Items without any text are dropped and counted.

        Raises:
            ValueError: if a language is unknown, given twice, or none is given.
        """
        positions = [self._position(language) for language in languages]
        if not positions or len(set(positions)) < len(positions):
            raise ValueError(f"languages={list(languages)}: give each language once, and at least one.")
        keep = np.concatenate([(block[:, positions] >= 0).any(axis=(1, 2)) for block in self._row_blocks()])
        report = dict(self.report)
        if not keep.all():
            report["items_without_selected_language"] = int((~keep).sum())
        return self._view(self._columns[positions], None if keep.all() else keep, self._rule, report)

    def split(self, held_out: float | int = 0.1, seed: int = 0) -> tuple[ParallelCorpus, ParallelCorpus]:
        """Two views, training and held-out, that share no group and therefore no passage.

        Groups are ordered by a hash of `seed` and their ids, so an item keeps its place when languages are added.

        Args:
            held_out (`float` or `int`, *optional*, defaults to `0.1`): share of the items, or their number; met up to
                the size of one group.
            seed (`int`, *optional*, defaults to `0`): another seed gives another split.

        Returns:
            `tuple[ParallelCorpus, ParallelCorpus]`: training part, whose candidates are its own passages, and held-out
            part, whose candidates are its own passages and those that no item has.

        Raises:
            ValueError: if a part would be empty.
        """
        target = held_out if isinstance(held_out, int) else round(held_out * self.num_items) if 0 < held_out < 1 else 0
        held = select_held_out_items(self.item_ids, self.groups, target, seed)
        if not 0 < held.sum() < self.num_items:
            num_groups = len(np.unique(self.groups))
            raise ValueError(
                f"held_out={held_out} of {self.num_items} items in {num_groups} groups would leave one part empty; "
                f"give a share between 0 and 1 or a number of items below {self.num_items} (a group is never divided)."
            )
        rule = "own" if self._rule == "own" else "own+unowned"
        return self._view(self._columns, ~held, "own", self.report), self._view(self._columns, held, rule, self.report)

    def save(self, folder: str | os.PathLike[str]) -> ParallelCorpus:
        """Write this corpus or view as files of its own, which is then complete or absent.

        A view is renumbered to the rows it uses, so its files have a fingerprint of their own.

        Returns:
            `ParallelCorpus`: the saved corpus, mapped.
        """
        with CorpusBuilder(folder, source=self.source) as builder:
            for language in self.languages:
                self._save_language(builder, language)
            builder.report.update(self.report)
            builder.report.pop("single_language_items", None)
            return builder.finish()

    # Private

    def _position(self, language: str) -> int:
        if language not in self.languages:
            near = difflib.get_close_matches(language, self.languages, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"The corpus has no language {language!r}; it has {', '.join(self.languages)}.{hint}")
        return self.languages.index(language)

    @property
    def _all_columns(self) -> bool:
        return np.array_equal(self._columns, np.arange(len(self._files.languages)))

    def _texts(self, side: int, language: str) -> pa.Table:
        self._position(language)
        return self._files.texts(side, language)

    def _item_column(self, name: str) -> np.ndarray:
        column = self._files.items[name].to_numpy()
        return column if self._items is None else column[self._items]

    def _row_blocks(self) -> Iterator[np.ndarray]:
        """Blocks of `rows` in order, so that anyone who only counts never holds the whole matrix."""
        for start in range(0, self.num_items, BATCH_ROWS):
            block = slice(start, start + BATCH_ROWS)
            rows = self._files.open_rows()  # a mapping for each block, or the whole matrix stays resident
            chosen = rows[block if self._items is None else self._items[block]]
            yield chosen if self._all_columns else chosen[:, self._columns]

    @cached_property
    def _pair_counts(self) -> np.ndarray:
        counts = np.zeros((len(self.languages), len(self.languages)), dtype=np.int64)
        for block in self._row_blocks():
            # float32 uses the fast matrix product and counts exactly up to 2^24, far above a block
            queries, passages = ((block[..., side] >= 0).astype(np.float32) for side in (self.QUERY, self.PASSAGE))
            counts += (queries.T @ passages).astype(np.int64)
        return counts

    def _owned(self, rows: np.ndarray, language: str) -> np.ndarray:
        """bool [passage rows], true at `rows`."""
        owned = np.zeros(len(self.passages(language)), dtype=bool)
        owned[rows[rows >= 0]] = True
        return owned

    def _unowned(self, language: str) -> np.ndarray:
        """bool [passage rows], true where no item of the files has the passage."""
        column = self._columns[self._position(language)]
        return ~self._owned(self._files.rows[:, column, self.PASSAGE], language)

    def _view(self, columns: np.ndarray, keep: np.ndarray | None, rule: str, report: dict[str, int]) -> ParallelCorpus:
        items = self._items
        if keep is not None:
            items = np.flatnonzero(keep) if items is None else items[keep]
        return ParallelCorpus(self._files, columns, items, rule, report)

    def _save_language(self, builder: CorpusBuilder, language: str) -> None:
        rows = self.rows[:, self._position(language)]
        negatives = self.negatives(language)
        queries = np.unique(rows[rows[:, self.QUERY] >= 0, self.QUERY])
        used = [self.candidates(language), rows[rows[:, self.PASSAGE] >= 0, self.PASSAGE]]
        passages = np.unique(np.concatenate(used if negatives is None else [*used, negatives.rows]))
        ids = [self.row_ids(side, language) for side in (self.QUERY, self.PASSAGE)]
        builder.add_language(
            language,
            self.item_ids[:],
            _take(self.queries(language), queries),
            _take(self.passages(language), passages),
            query_rows=_renumber(rows[:, self.QUERY], queries),
            passage_rows=_renumber(rows[:, self.PASSAGE], passages),
            groups=self.groups.tolist(),
            relevance=self.relevance,
            negatives=negatives and Negatives(negatives.offsets, _renumber(negatives.rows, passages)),
            query_ids=None if ids[0] is None else _take(ids[0], queries),
            passage_ids=None if ids[1] is None else _take(ids[1], passages),
        )


class CorpusBuilder(CorpusWriter):
    """Writes a corpus one language at a time and hands it back mapped; see `CorpusWriter.add_language`.

    Example:

        >>> import tempfile
        >>> with CorpusBuilder(f"{tempfile.mkdtemp()}/pairs") as builder:
        ...     # queries in English, passages in German: a language pair with one direction
        ...     builder.add_language("en", ["1"], ["Who?"], [], passage_rows=[-1])
        ...     builder.add_language("de", ["1"], [], ["Ada war es."], query_rows=[-1])
        ...     corpus = builder.finish()
        >>> corpus.pair_counts().tolist()
        [[0, 1], [0, 0]]
    """

    def __enter__(self) -> CorpusBuilder:
        super().__enter__()
        return self

    def finish(self) -> ParallelCorpus:
        """Publish the folder (see `CorpusWriter.write`) and load it."""
        return ParallelCorpus.load(self.write())


def _take(column: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """Texts at increasing `rows`, chunk by chunk: `take` joins the chunks, which 32-bit offsets may not hold."""
    first, last = (int(rows[0]), int(rows[-1])) if len(rows) else (0, -1)
    wanted = np.zeros(last + 1 - first, dtype=bool)
    wanted[rows - first] = True
    return column.slice(first, len(wanted)).filter(pa.array(wanted))


def _renumber(rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """`rows` as positions among the increasing `kept` rows; -1 stays."""
    return np.where(rows < 0, -1, np.searchsorted(kept, rows)).astype(np.int32)


def document_rows(corpus: ParallelCorpus, side: int, language: str) -> np.ndarray:
    """Rows of the texts of one side that items refer to, increasing: never a text that was held out."""
    rows = corpus.rows[:, corpus.languages.index(language), side]
    return np.unique(rows[rows >= 0])


def documents(corpus: ParallelCorpus, language: str) -> Iterator[str]:
    """Yield the texts of a language that items refer to, queries first."""
    for side in (QUERY, PASSAGE):
        yield from corpus.texts(side, language, document_rows(corpus, side, language))


def select_held_out_items(item_ids: Iterable[str], groups: np.ndarray, target: int, seed: int) -> np.ndarray:
    """The first groups, in the order of the smallest hash among their items, that fit into a number of items.

    Args:
        item_ids (`Iterable[str]`): An id for each item.
        groups (`np.ndarray`): int64 [num_items]; items with the same number stay together.
        target (`int`): How many items; met up to the size of one group, and one group is taken where none fits.
        seed (`int`): Another one gives another order.

    Returns:
        `np.ndarray`: bool [num_items], true for what is held out.

    Example:

        >>> select_held_out_items(["a", "b", "c", "d"], np.array([0, 0, 1, 2]), target=3, seed=1).tolist()
        [True, True, False, True]
    """
    keys = (hashlib.blake2b(f"{seed}:{item_id}".encode(), digest_size=8).digest() for item_id in item_ids)
    hashes = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64)
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    smallest = np.full(len(sizes), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(smallest, inverse, hashes)
    order = np.argsort(smallest, kind="stable")
    fits = max(1, int(np.searchsorted(np.cumsum(sizes[order]), target, side="right")))
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[:fits]] = target > 0
    return chosen[inverse]
