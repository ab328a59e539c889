"""Corpora from files, data sets and the Hub; `load_corpus` is the one door to all of them.

| source | what it looks like | function |
|---|---|---|
| JSONL | `<lang>.jsonl`, lines `{"id", "query", "passage"}` and optionally `title`, `group`, `negatives` | `from_jsonl` |
| pairs | `<lang>-<lang>.jsonl` or `.tsv`, queries in the first language, passages in the second | `from_pairs` |
| BEIR | folders with `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` | `from_beir` |
| XQuAD-R | `<lang>.json`, SQuAD's form with `sentences` and `sentence_breaks` | `from_xquad_r` |
| datasets | a `Dataset` with a `language` column, or one `Dataset` a language; columns as JSONL | `from_dataset` |
| Hub | a name in `PRESETS` | `from_preset` |

Each is read, checked and written once as a corpus folder in the cache, one language at a time; after that, and in every
other process, the folder is only mapped. All of these functions take

    languages (`Sequence[str]`, *optional*): which to take, and their order; all of them, sorted, by default.
    on_bad_row (`str`, *optional*, defaults to `"refuse"`): `"refuse"` raises `ValueError` at the first bad row, with its
        file and line; `"skip"` leaves bad rows out and counts each kind in `corpus.report`.
    cache_dir (`str` or `os.PathLike`, *optional*): where built corpora are kept; `$HF_HYBRID_CACHE` by default, else
        `hf_hybrid` in the cache of Hugging Face.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .corpus import CorpusBuilder, ParallelCorpus
from .corpus_files import FORMAT, MANIFEST, Negatives
from .languages import check_language, language_files, refuse_twins, split_pair, unique_languages
from .presets import PRESETS, read_preset
from .readers import (
    ITEM,
    NUMBER,
    BadRows,
    Judged,
    Rows,
    checked_table,
    dataset_rows,
    judged,
    read_json,
    read_jsonl,
    read_tsv,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

StrPath = str | os.PathLike[str]
Build = Callable[[CorpusBuilder, BadRows], None]


def load_corpus(
    path_or_preset: StrPath,
    corpus_format: str = "auto",
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
    split: str | None = None,
    **options: Any,
) -> ParallelCorpus:
    """Load a corpus from wherever it is.

    Args:
        path_or_preset (`str` or `os.PathLike`): a folder, or a name in `PRESETS`.
        corpus_format (`str`, *optional*, defaults to `"auto"`): `"jsonl"`, `"pairs"`, `"beir"`, `"xquad_r"`, `"hub"` or
            `"built"`; `"auto"` looks at the names in the folder.
        languages, on_bad_row, cache_dir: see the module.
        split (`str`, *optional*): of BEIR folders and presets.
        options: further arguments of the function for that format.

    Raises:
        ValueError: if there is no such folder or preset, if the format cannot be told, or if the data are refused.

    Example:

        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "en.jsonl").write_text('{"id": "1", "query": "Who?", "passage": "Ada."}')
        >>> _ = (folder / "de.jsonl").write_text('{"id": "1", "query": "Wer?", "passage": "Es war Ada."}')
        >>> load_corpus(folder, cache_dir=folder / "cache")
        ParallelCorpus(1 items, 2 languages: de, en)
    """
    folder = Path(path_or_preset)
    if corpus_format == "auto":
        corpus_format = "hub" if str(path_or_preset) in PRESETS and not folder.exists() else _format_of(folder)
    if corpus_format == "built":
        corpus = ParallelCorpus.load(folder)
        return corpus if languages is None else corpus.select_languages(languages)
    if corpus_format not in _LOADERS:
        raise ValueError(f"corpus_format={corpus_format!r}: give one of auto, built, {', '.join(_LOADERS)}.")
    if split is not None:
        options["split"] = split
    source = str(path_or_preset) if corpus_format == "hub" else folder
    return _LOADERS[corpus_format](
        source, languages=languages, on_bad_row=on_bad_row, cache_dir=cache_dir, **options
    )


def from_jsonl(
    folder: StrPath,
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """A folder of `<lang>.jsonl`; lines with the same `id` in several files are one item.

    The same passage text in one language is stored once. `negatives` are item ids, or texts where no file has such an id.
    """
    files = _chosen(language_files(Path(folder), ".jsonl"), languages, str(folder))

    def build(builder: CorpusBuilder, bad: BadRows) -> None:
        tables = {name: _lazy(checked_table, read_jsonl, path, ITEM, bad) for name, path in files.items()}
        _add_item_tables(builder, tables, lambda: _ids(read_jsonl(path, BadRows("skip")) for path in files.values()))

    return _built(build, "jsonl", folder, files.values(), [list(files)], on_bad_row, cache_dir)
