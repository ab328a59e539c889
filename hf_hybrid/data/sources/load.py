"""Corpora from files, data sets and the Hub; `load_corpus` is the one door to all of them.

| source | what it looks like | function |
|---|---|---|
| JSONL | `<lang>.jsonl`, lines `{"id", "query", "passage"}`, perhaps `title`, `group`, `negatives` | `from_jsonl` |
| pairs | `<lang>-<lang>.jsonl` or `.tsv`, queries in the first language, passages in the second | `from_pairs` |
| BEIR | folders with `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` | `from_beir` |
| XQuAD-R | `<lang>.json`, SQuAD's form with `sentences` and `sentence_breaks` | `from_xquad_r` |
| datasets | a `Dataset` with a `language` column, or one `Dataset` a language; columns as JSONL | `from_dataset` |
| Hub | a name in `PRESETS` | `from_preset` |

Each is read, checked and written once as a corpus folder in the cache, one language at a time; after that, and in
every other process, the folder is only mapped. All of these functions take

    languages (`Sequence[str]`, *optional*): which to take, and their order; all of them, sorted, by default.
    on_bad_row (`str`, *optional*, defaults to `"refuse"`): `"refuse"` raises `ValueError` at the first bad row, with
        its file and line; `"skip"` leaves bad rows out and counts each kind in `corpus.report`.
    cache_dir (`str` or `os.PathLike`, *optional*): where built corpora are kept; `$HF_HYBRID_CACHE` by default, else
        `hf_hybrid` in the cache of Hugging Face.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub.repocard import metadata_load

from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.data.languages import (
    check_language,
    choose_languages,
    language_files,
    refuse_packed,
    split_codes,
    split_pair,
    unique_languages,
)
from hf_hybrid.data.storage import FORMAT, MANIFEST
from hf_hybrid.utils.files import cache_folder

from .formats import (
    StrPath,
    beir_folders,
    beir_paths,
    build_items,
    build_judged,
    build_mixed,
    build_pairs,
    language_map,
    pair_files,
    read_beir,
)
from .presets import PRESETS, read_preset
from .rows import BadRows, Rows, dataset_rows, read_jsonl, refuse_lookalikes
from .sample import build_sample_corpus
from .tables import add_xquad_r

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

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
        path_or_preset (`str` or `os.PathLike`): a folder, a name in `PRESETS`, or `"sample"` for the built-in corpus.
        corpus_format (`str`, *optional*, defaults to `"auto"`): `"jsonl"`, `"pairs"`, `"beir"`, `"xquad_r"`, `"hub"`
            or `"built"`; `"auto"` looks at the names in the folder.
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
    if str(path_or_preset) == "sample" and not folder.exists():
        if split is not None or corpus_format != "auto":
            raise ValueError(
                f"split={split!r}, corpus_format={corpus_format!r}: the sample corpus has neither; drop them."
            )
        return build_sample_corpus(cache_dir, languages)
    if corpus_format == "auto":
        corpus_format = "hub" if str(path_or_preset) in PRESETS and not folder.exists() else _format_of(folder)
    elif corpus_format != "hub":
        _refuse_no_folder(folder)
    if corpus_format == "built":
        corpus = ParallelCorpus.load(folder)
        return corpus if languages is None else corpus.select_languages(languages)
    if corpus_format not in _LOADERS:
        raise ValueError(f"corpus_format={corpus_format!r}: give one of auto, built, {', '.join(_LOADERS)}.")
    if split is not None:
        if corpus_format not in ("beir", "hub"):
            raise ValueError(
                f"split={split!r}: only BEIR folders and presets have splits, not {corpus_format}; drop it."
            )
        options["split"] = split
    load = _LOADERS[corpus_format]
    return load(str(path_or_preset), languages=languages, on_bad_row=on_bad_row, cache_dir=cache_dir, **options)


def open_corpora(
    train_corpus: StrPath,
    eval_corpus: StrPath | None = None,
    corpus_format: str = "auto",
    eval_corpus_format: str = "auto",
    languages: str | None = None,
    eval_languages: str | None = None,
    held_out: float = 0.1,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> tuple[ParallelCorpus, ParallelCorpus]:
    """The training and the evaluation corpus of a run, from the arguments of `arguments.DataArguments`.

    Without an evaluation corpus it is made of items held out of the training corpus: a share of them, or from 1 on
    their number.  Languages are comma-separated codes.

    Raises:
        ValueError: When a corpus is not what it should be, or the two are the same.
    """
    options: dict[str, Any] = {"on_bad_row": on_bad_row, "cache_dir": cache_dir}
    train = load_corpus(train_corpus, corpus_format, split_codes(languages), **options)
    wanted = split_codes(eval_languages)
    if eval_corpus is not None:
        other = load_corpus(eval_corpus, eval_corpus_format, wanted, **options)
        if other.fingerprint == train.fingerprint:
            raise ValueError("--eval_corpus is the training corpus: leave it out to evaluate on items held out of it.")
        return train, other
    train, held = train.split(held_out=int(held_out) if float(held_out).is_integer() else held_out)
    return train, held.select_languages(wanted) if wanted else held


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
    return _built(build, _local("jsonl", folder), [list(files), *_stamps(files.values())], on_bad_row, cache_dir)


def from_dataset(
    dataset: Dataset | DatasetDict | Mapping[str, Dataset],
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """A `datasets.Dataset` with a `language` column, or a mapping (a `DatasetDict`) from language to `Dataset`.

    The columns are those of JSONL. The same content gives the same fingerprint as from files.

    Example:

        >>> import tempfile
        >>> from datasets import Dataset
        >>> columns = {"language": ["en", "de"], "id": [1, 1], "query": ["Who?", "Wer?"], "passage": ["A.", "B."]}
        >>> from_dataset(Dataset.from_dict(columns), cache_dir=tempfile.mkdtemp()).num_pairs("de", "en")
        1
    """
    if isinstance(dataset, Mapping):
        parts: dict[str, tuple[Dataset, str | None]] = {language: (part, None) for language, part in dataset.items()}
    elif "language" in dataset.column_names:
        parts = {str(language): (dataset, language) for language in dataset.unique("language")}
    else:
        raise ValueError(
            f"The data set has the columns {', '.join(dataset.column_names)}; add a column `language`, or give a "
            "mapping from language to data set."
        )
    unique_languages({f"data set {code!r}": check_language(code, f"data set {code!r}") for code in parts})
    parts = choose_languages(parts, languages, "the data set")

    def rows(language: str, bad: BadRows) -> Rows:
        return dataset_rows(parts[language][0], f"data set {language!r}", parts[language][1])

    build = partial(build_items, sources={language: partial(rows, language) for language in parts})
    # the key by which `datasets` itself tells its caches apart
    key = [[language, part._fingerprint] for language, (part, _) in parts.items()]
    return _built(build, {"format": "dataset"}, key, on_bad_row, cache_dir)


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
    return _built(build, _local("pairs", folder), [list(order), *_stamps(files.values())], on_bad_row, cache_dir)


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
        languages, on_bad_row, cache_dir: see the module.
    """
    found = beir_folders(folders)
    if isinstance(found, Path):
        paths = beir_paths(found, split)
        maps = (language_map(document_languages), language_map(query_languages))
        build: Build = partial(build_mixed, paths=paths, maps=maps, languages=languages)
        key: list[Any] = [maps, languages, *_stamps(paths)]
    else:
        chosen = {
            language: beir_paths(path, split) for language, path in choose_languages(found, languages, folders).items()
        }
        build = partial(build_judged, read=lambda language, bad: read_beir(chosen[language], bad), languages=[*chosen])
        key = [list(chosen), *_stamps(path for paths in chosen.values() for path in paths)]
    where = (
        folders if not isinstance(folders, Mapping) else os.path.commonpath([*map(os.path.abspath, folders.values())])
    )
    return _built(build, _local("beir", where), key, on_bad_row, cache_dir)


def from_xquad_r(
    folder: StrPath,
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """LAReQA's `<lang>.json`: questions are items, all sentences are passages, gold is the one with `answer_start`."""
    files = choose_languages(language_files(Path(folder), ".json"), languages, folder)

    def build(builder: CorpusBuilder, bad: BadRows) -> None:
        for language, path in files.items():
            add_xquad_r(builder, language, path, bad)

    return _built(build, _local("xquad_r", folder), [list(files), *_stamps(files.values())], on_bad_row, cache_dir)


def from_preset(
    name: str,
    languages: Sequence[str] | None = None,
    split: str | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
    repo: str | None = None,
) -> ParallelCorpus:
    """A retrieval set on the Hub by its name in `PRESETS`.

    Args:
        name (`str`): key of `PRESETS`.
        split (`str`, *optional*): another split than the preset's own.
        repo (`str`, *optional*): another repository, or a local folder, with the same files.
        languages, on_bad_row, cache_dir: see the module.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}{_nearest(name)}; give one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    repo, split = repo or preset.repo, split or preset.split
    chosen = list(choose_languages(preset.languages, languages, f"preset {name!r}"))
    source = {"format": "hub", "preset": name, "id": repo, "revision": preset.revision, "licence": preset.licence}
    build = partial(build_judged, read=lambda code, bad: read_preset(preset, repo, code, split, bad), languages=chosen)
    key = [chosen, split, *_stamps(Path(repo).rglob("*") if Path(repo).is_dir() else ())]
    return _built(build, {**source, "url": preset.url}, key, on_bad_row, cache_dir)


_LOADERS: dict[str, Callable[..., ParallelCorpus]] = {
    "jsonl": from_jsonl,
    "pairs": from_pairs,
    "beir": from_beir,
    "xquad_r": from_xquad_r,
    "hub": from_preset,
}


# Where the source is, and where the built corpus goes


def _built(
    build: Build, source: dict[str, Any], key: list[Any], on_bad_row: str, cache_dir: StrPath | None
) -> ParallelCorpus:
    """The corpus of the cache under this key, built first where it is not there."""
    bad = BadRows(on_bad_row)
    digest = hashlib.sha256(json.dumps([FORMAT, source, key, on_bad_row], sort_keys=True).encode()).hexdigest()
    name = source.get("preset") or Path(source.get("path", "dataset")).name
    folder = cache_folder(cache_dir) / f"{name}-{digest[:16]}"
    if not (folder / MANIFEST).exists():
        with CorpusBuilder(folder, source) as builder:
            build(builder, bad)
            refuse_lookalikes(builder.items)
            builder.report.update(bad.counts)
            builder.write()
    return ParallelCorpus.load(folder)


def _local(corpus_format: str, folder: StrPath) -> dict[str, Any]:
    """What is told of a folder: its name, not where it lies, and the licence of a data set card in it."""
    found = {"format": corpus_format, "path": Path(folder).absolute().name}
    card = Path(folder) / "README.md"
    if card.is_file():
        try:
            licence = (metadata_load(card) or {}).get("license")
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{card}: not the head of a data set card ({error}); mend it, or remove it.") from None
        if licence is not None:
            found["licence"] = str(licence)
    return found


def _stamps(paths: Iterable[Path]) -> list[list[Any]]:
    """Names, sizes and times of files: when they change, so does the key."""
    return sorted([str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths)


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, PRESETS, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _refuse_no_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a corpus is a folder, which may hold a single file such as en.jsonl.")
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is neither a folder nor a preset{_nearest(str(folder))}; presets are {', '.join(PRESETS)}."
        )


def _format_of(folder: Path) -> str:
    """The format of a folder, by the names in it."""
    _refuse_no_folder(folder)
    tables = [path for path in folder.iterdir() if path.suffix in (".jsonl", ".tsv")]
    if (folder / MANIFEST).exists():
        return "built"
    if any(folder.glob("corpus.jsonl")) or any(folder.glob("*/corpus.jsonl")):
        return "beir"
    if tables and all(split_pair(path.stem) for path in tables):
        return "pairs"
    for suffix, corpus_format in ((".jsonl", "jsonl"), (".json", "xquad_r")):
        if any(folder.glob(f"*{suffix}")):
            return corpus_format
    refuse_packed(folder)
    raise ValueError(
        f"{folder} holds no corpus; allowed are <lang>.jsonl, <lang>-<lang>.jsonl or .tsv, BEIR's corpus.jsonl or "
        f"folders with it, XQuAD-R's <lang>.json, or a built corpus with {MANIFEST}."
    )
