"""BEIR folders: one for each language, or one in many languages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.languages import (
    check_language,
    choose_languages,
    refuse_twins,
    unique_languages,
)
from hf_hybrid.data.storage import CorpusWriter
from hf_hybrid.utils.strict_json import read_json

from .build import Build, build_once, source_of, stamp_files
from .items import StrPath
from .judgments import add_judged, build_judged, drop_unusable, in_language
from .rows import NUMBER, BadRows, Judged, check_retrieval_set, read_jsonl, read_tsv


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
    data = drop_unusable(data._replace(documents=documents, queries=queries), bad)
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
    return check_retrieval_set(read_jsonl(documents, bad), read_jsonl(queries, bad), rows, bad)


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


def from_beir(
    folders: StrPath | Mapping[str, StrPath],
    document_languages: StrPath | Mapping[str, str] | None = None,
    query_languages: StrPath | Mapping[str, str] | None = None,
    languages: Sequence[str] | None = None,
    split: str | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """BEIR folders; each positive judgment is an item with the id `<query id>/<document id>`.

    Judgments with score 0 are hard negatives. All positives of a query are one group: never negatives of another.

    Args:
        folders (`str`, `os.PathLike` or `dict`): a folder with a BEIR folder for each language in it, a mapping from
            language to BEIR folder, or one BEIR folder in many languages.
        document_languages (`str`, `os.PathLike` or `dict`, *optional*): for one folder in many languages, document id
            to language: a mapping, a `.json` file or a `.tsv` file with the header `id`, `language`. By default the
            field `language` of each line, or the one language in `languages`.
        query_languages (`str`, `os.PathLike` or `dict`, *optional*): likewise for the queries.
        split (`str`, *optional*): which `qrels/<split>.tsv`; needed where there are several.
        languages, on_bad_row, cache_dir: as for every source, see `load.py`.
    """
    found = beir_folders(folders)
    if isinstance(found, Path):
        paths = beir_paths(found, split)
        maps = (language_map(document_languages), language_map(query_languages))
        build: Build = partial(build_mixed, paths=paths, maps=maps, languages=languages)
        key: list[Any] = [maps, languages, *stamp_files(paths)]
    else:
        chosen = {
            language: beir_paths(path, split) for language, path in choose_languages(found, languages, folders).items()
        }
        build = partial(build_judged, read=lambda language, bad: read_beir(chosen[language], bad), languages=[*chosen])
        key = [list(chosen), *stamp_files(path for paths in chosen.values() for path in paths)]
    where = (
        folders if not isinstance(folders, Mapping) else os.path.commonpath([*map(os.path.abspath, folders.values())])
    )
    return build_once(build, source_of("beir", where), key, on_bad_row, cache_dir)
