"""Corpora from files, data sets and the Hub; `load_corpus` is the one door to all of them.

| source | what it looks like | function |
|---|---|---|
| JSONL | `<lang>.jsonl`, lines `{"id", "query", "passage"}`, `title`, `group`, `negatives` | `jsonl.from_jsonl` |
| pairs | `<lang>-<lang>.jsonl` or `.tsv`, queries in the first language, passages in the second | `pairs.from_pairs` |
| BEIR | folders with `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` | `beir.from_beir` |
| XQuAD-R | `<lang>.json`, SQuAD's form with `sentences` and `sentence_breaks` | `xquad_r.from_xquad_r` |
| datasets | a `Dataset` with a `language` column, or one `Dataset` a language | `datasets.from_dataset` |
| Hub | a name in `PRESETS` | `presets.from_preset` |

Each is read, checked and written once as a corpus folder in the cache, one language at a time. After that, and in
every other process, the folder is only mapped. All of these functions take

    languages (`Sequence[str]`, *optional*): which to take, and their order; all of them, sorted, by default.
    on_bad_row (`str`, *optional*, defaults to `"refuse"`): `"refuse"` raises `ValueError` at the first bad row, with
        its file and line; `"skip"` drops bad rows and counts each reason in `corpus.report`.
    cache_dir (`str` or `os.PathLike`, *optional*): where built corpora are kept; `$HF_HYBRID_CACHE` by default, else
        `hf_hybrid` in the cache of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.languages import (
    refuse_packed,
    split_codes,
    split_pair,
)
from hf_hybrid.data.storage import MANIFEST

from .beir import from_beir
from .items import StrPath
from .jsonl import from_jsonl
from .pairs import from_pairs
from .presets import PRESETS, from_preset, nearest_preset
from .sample import build_sample_corpus
from .xquad_r import from_xquad_r


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
        languages, on_bad_row, cache_dir: as above, for every source.
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
    their number. Languages are comma-separated codes.

    Raises:
        ValueError: When a corpus is not what it should be, or the two are the same.
    """
    options: dict[str, Any] = {"on_bad_row": on_bad_row, "cache_dir": cache_dir}
    train = load_corpus(train_corpus, corpus_format, split_codes(languages), **options)
    wanted = split_codes(eval_languages)
    if eval_corpus is not None:
        other = load_corpus(eval_corpus, eval_corpus_format, wanted, **options)
        if other.fingerprint == train.fingerprint:
            raise ValueError("--eval_corpus is the training corpus: omit it to evaluate on items held out of it.")
        return train, other
    train, held = train.split(held_out=int(held_out) if float(held_out).is_integer() else held_out)
    return train, held.select_languages(wanted) if wanted else held


_LOADERS: dict[str, Callable[..., ParallelCorpus]] = {
    "jsonl": from_jsonl,
    "pairs": from_pairs,
    "beir": from_beir,
    "xquad_r": from_xquad_r,
    "hub": from_preset,
}


# Where the source is, and where the built corpus goes


def _refuse_no_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a corpus is a folder, which may hold a single file such as en.jsonl.")
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is neither a folder nor a preset{nearest_preset(str(folder))}. "
            f"Presets are {', '.join(PRESETS)}."
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
