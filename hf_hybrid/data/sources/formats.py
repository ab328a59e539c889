"""The formats on disk: what their files are called, and how one fills a corpus, language by language."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hf_hybrid.data.languages import (
    check_language,
    choose_languages,
    refuse_packed,
    refuse_twins,
    split_pair,
    unique_languages,
)
from hf_hybrid.data.storage import CorpusWriter
from hf_hybrid.utils.strict_json import read_json

from .rows import NUMBER, BadRows, Judged, Rows, judged, read_jsonl, read_tsv
from .tables import Source, add_items, add_judged, ids_of, in_language, item_table, joined, usable, with_titles

StrPath = str | os.PathLike[str]


def build_items(writer: CorpusWriter, bad: BadRows, sources: Mapping[str, Source]) -> None:
    known_ids = cache(lambda: ids_of(sources.values()))
    for language, source in sources.items():
        table = item_table(source(bad), bad)
        add_items(writer, language, table, table, known_ids)


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
        add_items(writer, language, joined(queries, "query", bad), joined(passages, "passage", bad), known_ids)


def build_judged(
    writer: CorpusWriter,
    bad: BadRows,
    read: Callable[[str, BadRows], pa.Table | Judged],
    languages: Sequence[str],
) -> None:
    for language in languages:
        data = read(language, bad)
        if isinstance(data, Judged):
            add_judged(writer, language, usable(data, bad))
        else:
            table = with_titles(data)
            add_items(writer, language, table, table, set)


def build_mixed(
    writer: CorpusWriter,
    bad: BadRows,
    paths: Sequence[Path],
    maps: Sequence[Mapping[str, str] | None],
    languages: Sequence[str] | None,
) -> None:
    """One BEIR folder in many languages: an item may have its query in one and its passage in another."""
    data = read_beir(paths, bad)
    only = languages[0] if languages and len(languages) == 1 else None
    documents, queries = (
        _with_languages(table, path, given, only, bad)
        for table, path, given in zip((data.documents, data.queries), paths[:2], maps, strict=True)
    )
    data = usable(data._replace(documents=documents, queries=queries), bad)
    found = sorted(set(pc.unique(documents["language"]).to_pylist() + pc.unique(queries["language"]).to_pylist()))
    unique_languages({f"language {code!r}": code for code in found})
    for language in choose_languages(dict.fromkeys(found), languages, paths[0].parent):
        add_judged(writer, language, in_language(data, language))


def _with_languages(
    table: pa.Table, path: Path, given: Mapping[str, str] | None, only: str | None, bad: BadRows
) -> pa.Table:
    """The table with a language for each text; texts without one are bad rows."""
    codes = [
        (given or {}).get(name) or own or only
        for name, own in zip(table["_id"].to_pylist(), table["language"].to_pylist(), strict=True)
    ]
    for row, code in enumerate(codes):
        if code is None:
            name = table["_id"][row].as_py()
            message = f"no language for id {name!r}; add a field 'language', or give a map from id to language"
            bad("missing_language", f"{path}, line {table[NUMBER][row]}", message)
    for code in set(codes) - {None}:
        check_language(str(code), str(path))
    column = pa.array(codes, pa.string())
    table = table.set_column(table.column_names.index("language"), "language", column)
    return table.filter(column.is_valid())


def pair_files(folder: Path, languages: Sequence[str] | None) -> dict[tuple[str, str], Path]:
    refuse_packed(folder)
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jsonl", ".tsv"))
    refuse_twins(paths)
    files: dict[tuple[str, str], Path] = {}
    for path in paths:
        pair = split_pair(path.stem)
        if pair is None:
            raise ValueError(
                f"{path}: the name is not a pair of languages; allowed are names such as en-de{path.suffix}."
            )
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


def beir_folders(folders: StrPath | Mapping[str, StrPath]) -> Path | dict[str, Path]:
    """One folder in many languages, or a folder for each."""
    if isinstance(folders, Mapping):
        found = {language: Path(path) for language, path in folders.items()}
    elif (Path(folders) / "corpus.jsonl").exists():
        return Path(folders)
    else:
        found = {path.parent.name: path.parent for path in sorted(Path(folders).glob("*/corpus.jsonl"))}
    if not found:
        raise ValueError(f"{folders} holds no corpus.jsonl and no <lang>/corpus.jsonl; a BEIR folder needs one.")
    unique_languages({path: check_language(language, str(path)) for language, path in found.items()})
    refuse_twins([path / "corpus.jsonl" for path in found.values()])
    return found


def beir_paths(folder: Path, split: str | None) -> list[Path]:
    """Documents, queries and judgments of a BEIR folder."""
    splits = sorted(path.stem for path in folder.glob("qrels/*.tsv"))
    if split is None and len(splits) == 1:
        split = splits[0]
    if split not in splits:
        raise ValueError(
            f"{folder}: split={split!r}; qrels/ has {', '.join(splits) or 'no .tsv file'}. Name one of them."
        )
    paths = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"]
    for path in paths:
        if not path.is_file():
            raise ValueError(
                f"{path} is missing; a BEIR folder has the files corpus.jsonl, queries.jsonl and qrels/<split>.tsv."
            )
    return paths


def read_beir(paths: Sequence[Path], bad: BadRows) -> Judged:
    documents, queries, judgments = paths
    rows = read_tsv(judgments, bad, ["query-id", "corpus-id", "score"])
    return judged(read_jsonl(documents, bad), read_jsonl(queries, bad), rows, bad)


def language_map(given: StrPath | Mapping[str, str] | None) -> Mapping[str, str] | None:
    """A map from id to language, read from its file."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        found: Any = given
    elif Path(given).suffix == ".tsv":
        rows = read_tsv(Path(given), BadRows(), ["id", "language"]).rows
        found = {row["id"]: row["language"] for _, row in rows}
    else:
        found = read_json(Path(given))
    if not isinstance(found, Mapping) or not all(isinstance(code, str) for code in found.values()):
        name = "The map of languages" if isinstance(given, Mapping) else given
        raise ValueError(f"{name}: allowed is one JSON object from id to language, or a .tsv file with such a header.")
    return found
