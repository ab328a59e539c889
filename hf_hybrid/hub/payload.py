"""The files of a run, a study and the metric that go to the Hub, and those that must not.

A file is given as its path, or as the bytes to send where those are others than on the disk.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, get_token

from hf_hybrid.records.archive import TRIALS_NAME, open_trials
from hf_hybrid.records.events import event
from hf_hybrid.records.manifest import checkpoints, find_damage, read_manifest
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import (
    BUNDLE_NAME,
    EVALUATIONS_NAME,
    EVENTS_NAME,
    HEARTBEAT_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    OUTPUTS_NAME,
    STATE_NAME,
    CardOptions,
    Run,
)
from hf_hybrid.utils.files import size_words
from hf_hybrid.utils.redaction import TOKENS, publishable, publishable_text
from hf_hybrid.utils.text import first_difference, table, to_plain_text

from .bundle import LOCK_NAME, build_bundle, build_published_json, build_records, read_pictures
from .card_metadata import corpus_name, hub_languages, license_fields
from .commit import RECORD_NAME
from .errors import UNSENT, HubError
from .model_card import CARD_NAME, EVAL_RESULTS_NAME, build_card, build_card_files, pictures_in, read_files
from .rerun_command import quote

Files = dict[str, Path | bytes]

METRIC_FOLDER = Path(__file__).parents[1] / "metrics" / "beir_cross_lingual"
_SECRETS = re.compile("|".join([*TOKENS, r"://[^/\s:@\"'<>*]+:[^/\s@\"'<>*]+@"]).encode())
_PART = re.compile(rf"{BUNDLE_NAME}|{MODEL_NAME}|{EVALUATIONS_NAME}|checkpoint-\d+")  # folders in a run folder
_SAMPLE_BYTES, _BLOCK_BYTES, _OVERLAP = 8192, 2**22, 512


def build_run_payload(
    folder: str | os.PathLike[str], options: CardOptions, unfinished: bool = False, keep_card: bool = False
) -> Files:
    """Return all published files of a run, by path in the repository. Nothing is written.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`): What the card says besides the records.
        unfinished (`bool`, *optional*, defaults to `False`): Accept an unfinished run.
        keep_card (`bool`, *optional*, defaults to `False`): Publish a card that a person edited as it is.

    Raises:
        HubError: When it is no run, it is not finished, its model is damaged, or its card was edited.
        ValueError: When a file of the run cannot be read.
    """
    folder = Path(folder)
    if problem := _no_run(folder):
        raise HubError(f"{folder} {problem}. {UNSENT}")
    status = RunFolder(folder).read_run()["status"]
    if status != "finished" and not unfinished:
        raise HubError(
            f"{folder} has not finished, its status is {status!r}. Start its training command again to finish "
            f"it, or push it as it is with --unfinished. {UNSENT}"
        )
    return model_files(folder, unfinished) | build_record_files(folder, options, keep_card)


def build_record_files(folder: Path, options: CardOptions, keep_card: bool = False) -> Files:
    """Return the published files of a run beside its model: its card, with pictures, its records, and its bundle.

    A run that has no bundle, or that has not finished, is published without one.
    """
    built = build_card_files(folder, options, drawn=read_pictures(folder))
    files: Files = {**build_records(folder), **built, **_find_results_of_others(folder)}
    if _is_edited(folder, keep_card):
        files |= {name: folder / name for name in (CARD_NAME, *_pictures_of_card(folder))}
    bundle = folder / BUNDLE_NAME
    if bundle.is_dir() and is_finished(folder):
        try:
            lock = (bundle / LOCK_NAME).read_bytes().decode()
            files |= {f"{BUNDLE_NAME}/{name}": content for name, content in build_bundle(folder, lock, built).items()}
        except (OSError, ValueError) as error:
            raise HubError(
                f"The bundle of {folder} cannot be rebuilt: {error} Mend that, or delete {bundle} to push without "
                f"it. {UNSENT}"
            ) from None
    return files


def _find_results_of_others(folder: Path) -> Files:
    """Return results of other benchmarks that were put beside the card, for leaderboards."""
    return {path.relative_to(folder).as_posix(): path for path in folder.glob(f"{EVAL_RESULTS_NAME}/*.yaml")}


def _pictures_of_card(folder: Path) -> list[str]:
    return [name for name in pictures_in((folder / CARD_NAME).read_bytes()) if (folder / name).is_file()]


def _is_edited(folder: Path, keep_card: bool) -> bool:
    """Return whether a person edited the card, by the hash that was kept when it was written.

    Raises:
        HubError: When it was edited and is not to be published as it is.
    """
    card = folder / CARD_NAME
    if not card.is_file() or OutputFolder(folder).is_unchanged(CARD_NAME):
        return False
    built, found = build_card(read_files(folder)), card.read_bytes().decode("utf-8", errors="replace")
    if built == found:
        return False
    line, told = first_difference(built, found)
    problem = (
        f"{CARD_NAME}, line {line} of {folder.resolve().name} is not what the files of the run give ({told}), and "
        "hf-hybrid did not write it: it was edited by hand. License, repository name and figures in it are not updated"
    )
    if not keep_card:
        raise HubError(
            f"{problem}. Give --keep_card to push it as it is, or delete {CARD_NAME}, which is then built again. "
            f"{UNSENT}"
        )
    event("warning", logging.WARNING, problem=f"{problem}; it is pushed as it is")
    return True


def bundle_files(folder: Path) -> Files:
    """Return the bundle of a run of a study, as it was written; nothing where there is none.

    Raises:
        HubError: When it is not as it was written.
    """
    bundle = folder / BUNDLE_NAME
    if not bundle.is_dir():
        return {}
    if damage := find_damage(bundle):
        raise HubError(
            f"{bundle} is not as it was written: {damage}. Delete {bundle}; then the training command of the run, "
            f"given again, trains nothing and rebuilds the bundle, or push without it. {UNSENT}"
        )
    return {f"{BUNDLE_NAME}/{name}": bundle / name for name in (*list_manifest_files(bundle), MANIFEST_NAME)}


def is_finished(folder: Path) -> bool:
    """Return whether a run has finished. The bundle of an unfinished run shows an earlier state."""
    return (folder / "run.json").is_file() and RunFolder(folder).read_run()["status"] == "finished"


def model_files(folder: str | os.PathLike[str], unfinished: bool = False) -> Files:
    """The model of a run, each file compared with the manifest.

    Args:
        folder (`str` or `Path`): The run folder.
        unfinished (`bool`, *optional*, defaults to `False`): Take the newest whole checkpoint where there is no model.

    Raises:
        HubError: When there is no model, or it is not as it was written.
    """
    folder = Path(folder)
    model = folder / MODEL_NAME
    if model.exists() or not unfinished:
        if damage := find_damage(model):
            raise HubError(f"{model} is not as it was written: {damage}. Start its training command again. {UNSENT}")
        return list_manifest_files(model)
    whole = next((path for path in checkpoints(folder) if find_damage(path) is None), None)
    if whole is None:
        raise HubError(f"{folder} has no model and no whole checkpoint yet. {UNSENT}")
    return checkpoint_files(whole)


def list_manifest_files(folder: Path) -> Files:
    """The files that the manifest of a folder lists."""
    return {name: folder / name for name in read_manifest(folder / MANIFEST_NAME)}


def checkpoint_files(folder: Path) -> Files:
    """Return the model files of a checkpoint, without the training state."""
    try:
        names: list[str] = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))["model_files"]
    except (OSError, ValueError, KeyError) as error:
        raise HubError(f"{folder} does not say which of its files are the model ({error!r}). {UNSENT}") from None
    return {name: folder / name for name in names}


def _no_run(folder: Path) -> str | None:
    """Say why a folder is no run, and what to give instead; `None` for a run."""
    around = folder.resolve().parent if folder.name in ("", "..") else folder.parent
    if (around / "run.json").is_file() and _PART.fullmatch(folder.resolve().name):
        return f"is a part of a run: give its run folder, {around}"
    if (folder / "run.json").is_file():
        return None
    runs = sorted(path.parent for path in folder.glob("*/run.json"))
    if runs:
        return f"is no run folder, but holds {len(runs)}: give one, such as {runs[0]}"
    return "is no run folder: it has no run.json"


def metric_files(slug: str, folder: str | os.PathLike[str] = METRIC_FOLDER) -> Files:
    """The metric as `evaluate.load("user/slug")` wants it: its module has the name of the repository.

    Args:
        slug (`str`): The part of the repository's name behind the slash.
        folder (`str` or `Path`, *optional*): The metric.

    Example:

        >>> sorted(metric_files("my_measures"))[-5:]
        ['runs.py', 'settings.py', 'significance.py', 'tests.py', 'trec.py']
        >>> b'evaluate.load("my_measures")' in metric_files("my_measures")["README.md"]
        True
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", slug):
        raise HubError(f"The metric cannot be called {slug!r}: letters, digits, _ and - make a name to load. {UNSENT}")
    if slug != folder.name and (folder / f"{slug}.py").exists():
        raise HubError(f"The metric cannot be called {slug!r}: one of its other modules is {slug}.py. {UNSENT}")
    found: Files = {}
    for path in all_files(folder):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        renamed = content.replace(folder.name.encode(), slug.encode())
        found[name.replace(f"{folder.name}.py", f"{slug}.py")] = path if renamed == content else renamed
    return found


def all_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without hidden files, compiled Python, and local records."""
    if not folder.is_dir():
        raise HubError(f"{folder} is no folder. {UNSENT}")
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ("__pycache__", RECORD_NAME, OUTPUTS_NAME):
            continue
        if path.is_dir():
            yield from all_files(path)
        elif path.is_file():
            yield path


def refuse_secrets(files: Mapping[str, Path | bytes], token: str | None) -> None:
    """Stop where a file of text holds this token, or what looks like a token or a password in an address.

    Raises:
        HubError: It names the files, and does not show what is in them.
    """
    known = {given for given in (token, get_token()) if given and len(given) >= 4}
    if found := [name for name, content in sorted(files.items()) if _holds_secret(content, known)]:
        raise HubError(
            f"Something that looks like a token or a password is in {', '.join(found[:5])}"
            f"{f' and {len(found) - 5} more' if len(found) > 5 else ''}: take it out first (and have a new token made "
            f"where it was a real one). {UNSENT}"
        )


def _holds_secret(content: Path | bytes, known: set[str]) -> bool:
    needles, before = [text.encode() for text in known], b""
    for number, block in enumerate(_blocks(content)):
        if number == 0 and b"\0" in block[:_SAMPLE_BYTES]:
            return False  # not text
        block = before + block
        if _SECRETS.search(block) or any(needle in block for needle in needles):
            return True
        before = block[-_OVERLAP:]  # what begins in one block may end in the next
    return False


def _blocks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def size_of(content: Path | bytes) -> int:
    """In bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".gguf", ".npz")


_TEXTS = (".csv", ".tsv", ".md", ".txt", ".log", ".yaml", ".yml")


_MOST_BYTES = {".parquet": 2**30}  # values of single queries


_MOST_BYTES_OF_OTHERS = 10 * 2**20


_LEFT_OUT = re.compile(
    rf"({MODEL_NAME}|(damaged-)?checkpoint-\d+|embeddings|run\.lock|{HEARTBEAT_NAME}|{EVENTS_NAME})"
)


_INPUTS = ("base", "corpora")  # what its runs began with


def study_files(folder: str | os.PathLike[str], repo_id: str, license: str | None = None) -> Files:
    """The results of a study, by their path in the repository: no weights and no corpora.

    1. The bundle of each finished run is sent as it is; values of single queries in it are not sent a second time.
    2. All other text is sent without secrets and local paths.
    3. A data set has a card: one of the study's own, or a short one that is made from its runs.

    Args:
        folder (`str` or `Path`): Of the study.
        repo_id (`str`): Where they go to, for the card.
        license (`str`, *optional*): Of the results, for a card that is made.

    Raises:
        HubError: When it is no study, or there are weights or large files beside what is not published.
        ValueError: When a `run.json` is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HubError(f"{folder} is no folder. {UNSENT}")
    if not (folder / "study.json").is_file():
        raise HubError(f"{folder} is no study: it has no study.json; for a run omit --study. {UNSENT}")
    is_copy = (folder / TRIALS_NAME).is_file()  # of recipes/report.py --copy_to: it is in published form already
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
        with open_trials(folder) as place:  # the runs of a copy are in its archive
            of_runs = [path.parent for path in place.glob("trials/**/run.json")] if is_copy else runs
            records: list[Run] = [publishable(RunFolder(run).read_run()) for run in of_runs]
        found[CARD_NAME] = _card(repo_id, records, verifiable, license).encode()
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
        return build_published_json(path)
    return _published_text(path) if path.suffix.lower() in _TEXTS else path


def _published_text(path: Path) -> Path | bytes:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{path} is not text in UTF-8 ({error}); mend or remove it. {UNSENT}") from None
    shown = publishable_text(text)
    return path if shown == text else shown.encode()


def _card(repo_id: str, runs: Sequence[Run], verifiable: Sequence[str], license: str | None) -> str:
    """Build the card of a data set: its content, the training corpora of its runs, and how to verify them."""
    name = to_plain_text(repo_id.rsplit("/", 1)[-1])
    languages, finer = hub_languages(sorted({code for run in runs for code in run["corpus"]["items_per_language"]}))
    known: dict[str, Any] = {**license_fields(license), "language": languages or None, "language_bcp47": finer or None}
    data = DatasetCardData(**known, pretty_name=name, tags=["hf_hybrid", "dense-retrieval"])
    lines = ["---", data.to_yaml(), "---", "", f"# {name}", ""]
    number = f"{len(runs):,} run{'s' if len(runs) != 1 else ''}"
    lines += [f"Results of a study with hf_hybrid: tables, and the records of {number}; no weights, no texts."]
    if runs:
        lines += ["", "They were trained on:", "", _corpora(runs)]
    if verifiable:
        download = f"hf download --repo-type dataset {repo_id} --local-dir {quote(name)}"
        check = f"python recipes/verify.py {quote(f'{name}/{verifiable[0]}')}"
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
    used = Counter((corpus_name(found.get("source") or {}), found.get("license") or "unknown") for found in corpora)
    rows = [[name, license, number] for (name, license), number in sorted(used.items())]
    return table(["Corpus", "License", "Runs"], rows, texts=(0, 1))
