"""JSONL: a file for each language, `<lang>.jsonl`; lines with the same `id` in several files are one item."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.languages import (
    choose_languages,
    language_files,
)

from .build import build_once, source_of, stamp_files
from .items import StrPath, build_items
from .rows import read_jsonl


def from_jsonl(
    folder: StrPath,
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """A folder of `<lang>.jsonl`; lines with the same `id` in several files are one item.

    A passage text that repeats within a language is stored once. `negatives` are item ids, or texts where no file has
    such an id.
    """
    files = choose_languages(language_files(Path(folder), ".jsonl"), languages, folder)
    sources = {language: partial(read_jsonl, path) for language, path in files.items()}
    build = partial(build_items, sources=sources)
    return build_once(
        build, source_of("jsonl", folder), [list(files), *stamp_files(files.values())], on_bad_row, cache_dir
    )
