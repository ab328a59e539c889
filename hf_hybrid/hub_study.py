"""What of a study goes to the Hub: its results and the records of its runs, with a card; no weights and no corpora.

1. Of each run that has come to its end its bundle goes along, as it is; values of single queries that are in it are
   not sent a second time.
2. All other text is sent without secrets and places of this machine.
3. A data set has a card: one of the study's own, or a short one that is made from its runs.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from .card_command import word
from .card_metadata import corpus_name, hub_languages, licence_fields
from .cards import CARD_NAME, publishable, publishable_text
from .files import size_words
from .hub_errors import HubError
from .hub_files import UNSENT, Files, all_files, bundle_files, is_finished, published_json
from .markdown import plain, table
from .records import (
    BUNDLE_NAME,
    EVALUATIONS_NAME,
    EVENTS_NAME,
    HEARTBEAT_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    Run,
    RunFolder,
)

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".gguf", ".npz")
_TEXTS = (".csv", ".tsv", ".md", ".txt", ".log", ".yaml", ".yml")
_MOST_BYTES = {".parquet": 2**30}  # values of single queries
_MOST_BYTES_OF_OTHERS = 10 * 2**20
_LEFT_OUT = re.compile(
    rf"({MODEL_NAME}|(damaged-)?checkpoint-\d+|embeddings|run\.lock|{HEARTBEAT_NAME}|{EVENTS_NAME})"
)
_INPUTS = ("base", "corpora")  # what its runs began with


def study_files(folder: str | os.PathLike[str], repo_id: str, licence: str | None = None) -> Files:
    """The results of a study, by their path in the repository.

    Args:
        folder (`str` or `Path`): Of the study.
        repo_id (`str`): Where they go to, for the card.
        licence (`str`, *optional*): Of the results, for a card that is made.

    Raises:
        HubError: When it is no study, or there are weights or large files beside what is left out.
        ValueError: When a `run.json` is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HubError(f"{folder} is no folder. {UNSENT}")
    if not (folder / "study.json").is_file():
        raise HubError(f"{folder} is no study: it has no study.json; for a run leave out --study. {UNSENT}")
    # a copy, of recipes/report.py --copy_to, is in published form and has a manifest: it goes as it is
    is_copy = (folder / MANIFEST_NAME).is_file()
    paths = list(all_files(folder) if is_copy else _of_study(folder))
    runs = [path.parent for path in paths if path.name == "run.json" and path.parent.name != BUNDLE_NAME]
    bundles = {run: bundle_files(run) if is_finished(run) else {} for run in runs}
    values = f"{BUNDLE_NAME}/{EVALUATIONS_NAME}/"
    again = {run / BUNDLE_NAME for run in runs}
    again |= {run / EVALUATIONS_NAME for run in runs if any(name.startswith(values) for name in bundles[run])}
    found: Files = {
        path.relative_to(folder).as_posix(): path if is_copy else _published(path)
        for path in paths
        if again.isdisjoint(path.parents)
    }
    for run, files in bundles.items():
        found |= {(run.relative_to(folder) / name).as_posix(): content for name, content in files.items()}
    if CARD_NAME not in found:
        verifiable = [run.relative_to(folder).as_posix() for run in runs if bundles[run]]
        records: list[Run] = [publishable(RunFolder(run).read_run()) for run in runs]
        found[CARD_NAME] = _card(repo_id, records, verifiable, licence).encode()
    return found


def _of_study(folder: Path) -> Iterator[Path]:
    inputs = {folder / name for name in _INPUTS}
    for path in all_files(folder):
        parts = path.relative_to(folder).parts
        if not any(map(_LEFT_OUT.fullmatch, parts)) and inputs.isdisjoint(path.parents):
            yield path


def _published(path: Path) -> Path | bytes:
    if path.suffix.lower() in _WEIGHTS:
        raise HubError(f"{path} looks like weights, and a study has none: push models one by one. {UNSENT}")
    size, most = path.stat().st_size, _MOST_BYTES.get(path.suffix, _MOST_BYTES_OF_OTHERS)
    if size > most:
        raise HubError(f"{path}: {size_words(size)}; those of a study have up to {size_words(most)}. {UNSENT}")
    if path.suffix in (".json", ".jsonl"):
        return published_json(path)
    return _published_text(path) if path.suffix.lower() in _TEXTS else path


def _published_text(path: Path) -> Path | bytes:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{path} is not text in UTF-8 ({error}); mend or remove it. {UNSENT}") from None
    shown = publishable_text(text)
    return path if shown == text else shown.encode()


def _card(repo_id: str, runs: Sequence[Run], verifiable: Sequence[str], licence: str | None) -> str:
    """What the data set is, which corpora its runs were trained on, and how to check them."""
    name = plain(repo_id.rsplit("/", 1)[-1])
    languages, finer = hub_languages(sorted({code for run in runs for code in run["corpus"]["items_per_language"]}))
    known: dict[str, Any] = {**licence_fields(licence), "language": languages or None, "language_bcp47": finer or None}
    data = DatasetCardData(**known, pretty_name=name, tags=["hf_hybrid", "dense-retrieval"])
    lines = ["---", data.to_yaml(), "---", "", f"# {name}", ""]
    number = f"{len(runs):,} run{'s' if len(runs) != 1 else ''}"
    lines += [f"Results of a study with hf_hybrid: tables, and the records of {number}; no weights, no texts."]
    if runs:
        lines += ["", "They were trained on:", "", _corpora(runs)]
    if verifiable:
        download = f"hf download --repo-type dataset {repo_id} --local-dir {word(name)}"
        check = f"python recipes/verify.py {word(f'{name}/{verifiable[0]}')}"
        lines += [
            "",
            "A run is checked by its bundle, in a clone of hf_hybrid:",
            "",
            "```bash",
            download,
            check,
            "```",
        ]
    return "\n".join([*lines, ""])


def _corpora(runs: Sequence[Run]) -> str:
    corpora = [run["corpus"] for run in runs]
    used = Counter((corpus_name(found.get("source") or {}), found.get("licence") or "unknown") for found in corpora)
    rows = [[name, licence, number] for (name, licence), number in sorted(used.items())]
    return table(["Corpus", "Licence", "Runs"], rows, texts=(0, 1))
