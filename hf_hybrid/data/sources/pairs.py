"""Bilingual pair files: `en-de.jsonl` or `en-de.tsv` holds English queries and their German passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.languages import (
    choose_languages,
    refuse_packed,
    refuse_twins,
    split_pair,
    unique_languages,
)
from hf_hybrid.data.storage import CorpusWriter

from .build import build_once, source_of, stamp_files
from .items import StrPath, add_items, ids_of, item_table, join_tables
from .rows import BadRows, Rows, read_jsonl, read_tsv


def build_pairs(
    writer: CorpusWriter, bad: BadRows, files: Mapping[tuple[str, str], Path], languages: Sequence[str]
) -> None:
    known_ids = cache(lambda: ids_of(partial(_read_pairs, path) for path in files.values()))
    # each file is read for its queries and again for its passages: count its bad rows once
    again = bad if bad.refuse else BadRows("skip")
    for language in languages:
        queries = {
            path: item_table(_read_pairs(path, bad), bad) for pair, path in files.items() if pair[0] == language
        }
        passages = {
            path: item_table(_read_pairs(path, again), again) for pair, path in files.items() if pair[1] == language
        }
        add_items(
            writer, language, join_tables(queries, "query", bad), join_tables(passages, "passage", bad), known_ids
        )


def pair_files(folder: Path, languages: Sequence[str] | None) -> dict[tuple[str, str], Path]:
    refuse_packed(folder)
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jsonl", ".tsv"))
    refuse_twins(paths)
    files: dict[tuple[str, str], Path] = {}
    for path in paths:
        pair = split_pair(path.stem)
        if pair is None:
            raise ValueError(f"{path}: the name is not a language pair; allowed are names such as en-de{path.suffix}.")
        if pair in files:
            raise ValueError(f"{files[pair]} and {path} are the same pair given twice; keep one, or join them.")
        files[pair] = path
    found = {language: language for pair in files for language in pair}
    unique_languages(found)
    wanted = choose_languages(found, languages, folder)
    files = {pair: path for pair, path in files.items() if set(pair) <= wanted.keys()}
    if missing := wanted.keys() - {language for pair in files for language in pair}:
        raise ValueError(f"{folder} has no pair file of {', '.join(missing)} with another of the wanted languages.")
    return files


def _read_pairs(path: Path, bad: BadRows) -> Rows:
    return read_jsonl(path, bad) if path.suffix == ".jsonl" else read_tsv(path, bad, ["id", "query", "passage"])


def from_pairs(
    folder: StrPath,
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """A folder of pair files: `en-de.jsonl` or `en-de.tsv` holds English queries and their German passages.

    Columns are those of JSONL; a `.tsv` names them in its header. The same id in several files is one item: with
    `en-de` and `fr-it`, an item in both has queries in two languages and passages in two.
    """
    files = pair_files(Path(folder), languages)
    order = languages if languages is not None else sorted({language for pair in files for language in pair})

    build = partial(build_pairs, files=files, languages=order)
    return build_once(
        build, source_of("pairs", folder), [list(order), *stamp_files(files.values())], on_bad_row, cache_dir
    )
