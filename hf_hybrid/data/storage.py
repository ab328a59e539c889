"""The files of a built corpus: how they are opened and how they are written.

`CorpusWriter` works in these steps, and holds the text of one language at a time:

1. `add_language` writes the texts of a language, remembers which of its items have which row, and links items that
   share a passage or a group.
2. `write` joins the languages in the row matrix, numbers the groups, and writes the items and the manifest.
3. The folder, written under another name until then, is renamed: a corpus is complete or it is not seen.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from hf_hybrid.utils.strict_json import read_json

from .sides import SIDE_PLURALS

FORMAT = 1
BATCH_ROWS = 65_536  # rows of an Arrow record batch, and items of a block of the row matrix
MANIFEST = "corpus.json"
_KEYS = {"languages": list, "num_items": int, "counts": dict, "fingerprint": str, "source": dict, "report": dict}

Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


class Negatives(NamedTuple):
    """Hard negatives of one language in CSR form: those of item `i` are `rows[offsets[i]:offsets[i + 1]]`.

    Args:
        offsets (`np.ndarray`): int64 [num_items + 1].
        rows (`np.ndarray`): int32, passage rows of that language.
    """

    offsets: np.ndarray
    rows: np.ndarray

    def take(self, items: np.ndarray, allowed: np.ndarray | None = None) -> Negatives:
        """Negatives of `items`, in their order; of those only the rows where `allowed` [passage rows] is true."""
        starts, counts = self.offsets[items], np.diff(self.offsets)[items]
        owners = np.repeat(np.arange(len(items)), counts)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self.rows[np.repeat(starts, counts) + within]
        if allowed is not None:
            owners, rows = owners[allowed[rows]], rows[allowed[rows]]
        return Negatives.from_pairs(owners, rows, len(items))

    @classmethod
    def from_pairs(cls, owners: np.ndarray, rows: np.ndarray, num_items: int) -> Negatives:
        """Negatives from pairs of an item and a passage row, in any order; an item's rows keep theirs."""
        ends = np.cumsum(np.bincount(owners, minlength=num_items))
        return cls(
            np.concatenate([[0], ends]).astype(np.int64), rows[np.argsort(owners, kind="stable")].astype(np.int32)
        )


class CorpusFiles:
    """The files of one built corpus, each mapped when first asked for; pickles as its folder.

    Args:
        folder (`str` or `os.PathLike`): a folder written by `CorpusWriter`.

    Raises:
        ValueError: if the folder holds no complete corpus, or one of another format.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self.manifest = _read_manifest(self.folder)
        self.languages: list[str] = self.manifest["languages"]
        self._tables: dict[str, pa.Table] = {}

    def __reduce__(self) -> tuple[type[CorpusFiles], tuple[str]]:
        return CorpusFiles, (str(self.folder),)

    @property
    def items(self) -> pa.Table:
        """Columns `id`, `group` and `relevance`."""
        return self._table("items.arrow")

    @cached_property
    def rows(self) -> np.ndarray:
        """int32 [num_items, num_languages, 2]."""
        return self.open_rows()

    def open_rows(self) -> np.ndarray:
        """A second memory map: pages read through it leave memory with it."""
        return np.load(self.folder / "rows.npy", mmap_mode="r")

    def texts(self, side: int, language: str) -> pa.Table:
        """Column `text`, and `id` where the source has ids; `side` 0 for queries, 1 for passages."""
        return self._table(f"{language}.{SIDE_PLURALS[side]}.arrow")

    def negatives(self, language: str) -> Negatives | None:
        """Hard negatives of all items in `language`, if the source has any."""
        paths = [self.folder / f"{language}.negatives.{part}.npy" for part in Negatives._fields]
        if not paths[0].exists():
            return None
        return Negatives(*(np.load(path, mmap_mode="r") for path in paths))

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            self._tables[name] = pa.ipc.open_file(pa.memory_map(str(self.folder / name))).read_all()
        return self._tables[name]


class CorpusWriter:
    """Writes a corpus folder one language at a time; use it as a context manager, which leaves nothing half-built.

    Args:
        folder (`str` or `os.PathLike`): where the corpus will be; an older corpus there is replaced.
        source (`dict`, *optional*): where the text is from: format, path or id, revision, license, url.

    Raises:
        ValueError: if `folder` exists and is not a built corpus.
    """

    def __init__(self, folder: str | os.PathLike[str], source: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder).absolute()
        if self.folder.exists() and not (self.folder / MANIFEST).exists() and any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} exists and is not a built corpus; give a new or an empty folder.")
        self.source = dict(source or {})
        self.report: Counter[str] = Counter()
        self._unfinished = self.folder.with_name(f".{self.folder.name}.{uuid.uuid4().hex}")
        self._counts: dict[str, dict[str, int]] = {}
        self.items: dict[str, int] = {}  # number of each id
        self._labels: dict[str, int] = {}
        self._links: list[np.ndarray] = []
        self._digests: list[str] = []

    def __enter__(self) -> CorpusWriter:
        self._unfinished.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def add_language(
        self,
        language: str,
        item_ids: Sequence[str],
        queries: Texts,
        passages: Texts,
        *,
        query_rows: Sequence[int] | np.ndarray | None = None,
        passage_rows: Sequence[int] | np.ndarray | None = None,
        groups: Sequence[str | int | None] | None = None,
        relevance: Sequence[int] | np.ndarray | None = None,
        negatives: Negatives | None = None,
        query_ids: Texts | None = None,
        passage_ids: Texts | None = None,
    ) -> None:
        """Write the texts of one language, the next column of the row matrix.

        Args:
            language (`str`): its code, which names the files.
            item_ids (`Sequence[str]`): the items that have text in this language; the same id in another language is
                the same item.
            queries (`Sequence[str]` or `pa.ChunkedArray`): query texts.
            passages (`Sequence[str]` or `pa.ChunkedArray`): passage texts, also those that no item points to.
            query_rows (`Sequence[int]`, *optional*): [len(item_ids)], row of each item's query, -1 for none; by
                default query `i` is that of item `i`.
            passage_rows (`Sequence[int]`, *optional*): [len(item_ids)], likewise for the passages.
            groups (`Sequence[str]`, *optional*): [len(item_ids)], items with the same label are one group.
            relevance (`Sequence[int]`, *optional*): [len(item_ids)], at least 1; an item's first language counts.
            negatives (`Negatives`, *optional*): hard negatives, [len(item_ids) + 1] offsets.
            query_ids (`Sequence[str]`, *optional*): the source's own id of each query.
            passage_ids (`Sequence[str]`, *optional*): the source's own id of each passage.

        Raises:
            ValueError: if the language is not a file name, was added before or is empty, if an id occurs twice, or if
                a row is out of range.
        """
        self._check_language(language, item_ids)
        columns = [_chunked(queries), _chunked(passages)]
        rows = [
            _checked_rows(f"Language {language!r}, {side}", given, len(item_ids), len(column))
            for side, column, given in zip(SIDE_PLURALS, columns, (query_rows, passage_rows), strict=True)
        ]
        items = np.fromiter((self.items.setdefault(i, len(self.items)) for i in item_ids), np.int64, len(item_ids))
        for side, column, ids in zip(SIDE_PLURALS, columns, (query_ids, passage_ids), strict=True):
            table = pa.table({"text": column} if ids is None else {"text": column, "id": _chunked(ids)})
            _write_table(self._unfinished / f"{language}.{side}.arrow", table)
            self._digests.append(content_digest(column))
        grades = np.ones(len(items), np.int32) if relevance is None else np.asarray(relevance, dtype=np.int32)
        part = {"items": items, "queries": rows[0], "passages": rows[1], "relevance": grades}
        part.update({} if negatives is None else negatives._asdict())
        np.savez(self._unfinished / f"{language}.part.npz", allow_pickle=False, **part)
        self._link_items(items, _codes(rows[1], columns[1]))
        if groups is not None:
            self._link_labels(items, groups)
        counts = [int((np.maximum(*rows) >= 0).sum()), *map(len, columns)]
        self._counts[language] = dict(zip(("items", *SIDE_PLURALS), counts, strict=True))

    def write(self) -> Path:
        """Join the languages and publish the folder.

        Returns:
            `Path`: the folder.

        Raises:
            ValueError: if no language was added.
        """
        if not self._counts:
            raise ValueError(f"{self.folder}: no language was added; call add_language first.")
        rows, relevance = self._join_languages()
        groups = _groups(len(self.items), self._links)
        ids = pa.chunked_array([pa.array(self.items, pa.string())])
        _write_table(self._unfinished / "items.arrow", pa.table({"id": ids, "group": groups, "relevance": relevance}))
        if len(self._counts) > 1:
            self.report["single_language_items"] = int(((rows >= 0).any(axis=2).sum(axis=1) == 1).sum())
        self._write_manifest(content_digest(*self._counts, ids, groups, relevance, rows, *self._digests))
        _publish(self._unfinished, self.folder)
        return self.folder

    def _check_language(self, language: str, item_ids: Sequence[str]) -> None:
        if not re.fullmatch("[A-Za-z0-9-]+", language) or language in self._counts:
            raise ValueError(f"Language {language!r}: give each once, as letters, digits and hyphens.")
        if not len(item_ids):
            raise ValueError(f"Language {language!r} has no items; omit it.")
        if len(set(item_ids)) < len(item_ids):
            twice = Counter(item_ids).most_common(1)[0][0]
            raise ValueError(f"Language {language!r}: item id {twice!r} occurs twice; give each item its own id.")

    def _link_items(self, items: np.ndarray, codes: np.ndarray) -> None:
        """Items with the same code (>= 0) become one group: each is linked to the first of them."""
        items, codes = items[codes >= 0], codes[codes >= 0]
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        if len(first) < len(items):
            links = np.stack([items[first[inverse]], items])
            self._links.append(links[:, links[0] != links[1]])

    def _link_labels(self, items: np.ndarray, labels: Sequence[str | int | None]) -> None:
        given = [(str(label), int(item)) for label, item in zip(labels, items, strict=True) if label is not None]
        first = [self._labels.setdefault(label, item) for label, item in given]
        links = np.array([first, [item for _, item in given]], dtype=np.int64).reshape(2, -1)
        self._links.append(links[:, links[0] != links[1]])

    def _join_languages(self) -> tuple[np.ndarray, np.ndarray]:
        """Step 2: the row matrix, filled column by column from the parts, and the relevance of the items."""
        shape = (len(self.items), len(self._counts), len(SIDE_PLURALS))
        rows = np.lib.format.open_memmap(self._unfinished / "rows.npy", mode="w+", dtype=np.int32, shape=shape)
        relevance = np.zeros(len(self.items), np.int32)
        for column, language in enumerate(self._counts):
            rows[:, column] = -1
            path = self._unfinished / f"{language}.part.npz"
            with np.load(path) as part:
                items, grades = part["items"], part["relevance"]
                rows[items, column] = np.stack([part["queries"], part["passages"]], axis=1)
                known = relevance[items] > 0
                if differs := int((relevance[items] != grades)[known].sum()):
                    self.report["relevance_differs"] += differs
                relevance[items[~known]] = grades[~known]
                if "offsets" in part:
                    self._write_negatives(language, items, Negatives(part["offsets"], part["rows"]))
            path.unlink()
        rows.flush()
        return rows, relevance

    def _write_negatives(self, language: str, items: np.ndarray, negatives: Negatives) -> None:
        """Order the negatives of one language by item, as the row matrix is."""
        owners = np.repeat(items, np.diff(negatives.offsets))
        joined = Negatives.from_pairs(owners, negatives.rows, len(self.items))
        for name, values in joined._asdict().items():
            np.save(self._unfinished / f"{language}.negatives.{name}.npy", values)
        self._digests.append(content_digest(language, *joined))

    def _write_manifest(self, fingerprint: str) -> None:
        manifest = {
            "format": FORMAT,
            "languages": list(self._counts),
            "num_items": len(self.items),
            "counts": self._counts,
            "fingerprint": fingerprint,
            "source": self.source,
            "report": {reason: count for reason, count in sorted(self.report.items()) if count},
        }
        (self._unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not (path := folder / MANIFEST).is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: not a built corpus. Build one with `load_corpus`.")
    manifest = read_json(path)
    if (found := manifest.get("format") if isinstance(manifest, dict) else None) != FORMAT:
        raise ValueError(f"{path}: format {found}, this version reads {FORMAT}. Build it again from its source.")
    wrong = [key for key, expected in _KEYS.items() if not isinstance(manifest.get(key), expected)]
    if wrong or not re.fullmatch(r"\[('[A-Za-z0-9-]+'(, )?)+\]", str(manifest["languages"])):
        raise ValueError(f"{path} is damaged: {', '.join(wrong) or 'languages'} missing or wrong. Build it again.")
    return manifest


def _publish(unfinished: Path, folder: Path) -> None:
    """Rename a finished folder into place; where another process already put the same content, keep that."""
    for _ in range(100):
        try:
            os.rename(unfinished, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):  # another process moved it away first: try again
            if (folder / MANIFEST).read_bytes() == (unfinished / MANIFEST).read_bytes():
                return
            replaced = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
            os.rename(folder, replaced)
            shutil.rmtree(replaced)
    raise OSError(f"{folder} is being replaced by other processes again and again; build into another folder.")


def _chunked(texts: Texts) -> pa.ChunkedArray:
    if isinstance(texts, pa.ChunkedArray):
        return texts
    return pa.chunked_array([texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())])


def _checked_rows(what: str, given: Sequence[int] | np.ndarray | None, num_items: int, num_texts: int) -> np.ndarray:
    """int32 [num_items], the given rows or one after the other."""
    rows = np.arange(num_items, dtype=np.int32) if given is None else np.asarray(given, dtype=np.int32)
    if len(rows) != num_items or not -1 <= rows.min() <= rows.max() < num_texts:
        raise ValueError(
            f"{what}: give one row for each of the {num_items} items, from -1 (none) to {num_texts - 1} (the last "
            f"text); got {len(rows)} rows from {rows.min()} to {rows.max()}."
        )
    return rows


def _batches(column: pa.ChunkedArray) -> Iterator[pa.StringArray]:
    """The column in arrays of `BATCH_ROWS`, however it was cut before, so that digests do not depend on that."""
    for start in range(0, len(column), BATCH_ROWS):
        yield pa.concat_arrays(column.slice(start, BATCH_ROWS).chunks).cast(pa.string())


def _write_table(path: Path, table: pa.Table) -> None:
    strings = {pa.large_string(): pa.string(), pa.string_view(): pa.string()}
    schema = pa.schema([(field.name, strings.get(field.type, field.type)) for field in table.schema])
    with pa.ipc.new_file(str(path), schema) as file:
        for start in range(0, len(table), BATCH_ROWS):
            file.write_table(table.slice(start, BATCH_ROWS).combine_chunks().cast(schema))


def content_digest(*parts: str | np.ndarray | pa.ChunkedArray) -> str:
    """sha256 over strings, arrays and text columns, each with its length."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(f"{type(part).__name__}:{len(part)}:".encode())
        if isinstance(part, str):
            sha.update(part.encode())
        elif isinstance(part, np.ndarray):
            for start in range(0, len(part), BATCH_ROWS):
                sha.update(np.ascontiguousarray(part[start : start + BATCH_ROWS]).data)
        else:
            for batch in _batches(part):
                _, offsets, data = batch.buffers()
                ends = np.frombuffer(offsets, np.int32)[batch.offset : batch.offset + len(batch) + 1]
                sha.update(np.diff(ends).data)
                sha.update(memoryview(data or b"")[ends[0] : ends[-1]])
    return sha.hexdigest()


def _codes(rows: np.ndarray, passages: pa.ChunkedArray) -> np.ndarray:
    """int64 [items]: a number for each item's passage, the same for the same text; -1 where it has none."""
    owned = np.zeros(len(passages), dtype=bool)
    owned[rows[rows >= 0]] = True
    # large_string: the texts of one language may pass the 2 GiB that 32-bit offsets reach
    texts = passages.filter(pa.array(owned)).cast(pa.large_string()).combine_chunks().dictionary_encode()
    code_of_row = np.full(len(passages) + 1, -1, dtype=np.int64)  # the last one is for row -1
    code_of_row[:-1][owned] = texts.indices.to_numpy()
    return code_of_row[rows]


def _groups(num_items: int, links: list[np.ndarray]) -> np.ndarray:
    """int64 [num_items]: connected components of the links, each numbered by its first item.

    Union-find on whole arrays: hook the larger of two roots under the smaller, then point every item at its root,
    until no link joins two roots.
    """
    root = np.arange(num_items)
    ends = np.concatenate(links, axis=1) if links else np.empty((2, 0), np.int64)
    while ends.shape[1]:
        np.minimum.at(root, ends.max(axis=0), ends.min(axis=0))
        while not np.array_equal(root, root[root]):
            root = root[root]
        ends = root[ends]
        ends = ends[:, ends[0] != ends[1]]
    return root
