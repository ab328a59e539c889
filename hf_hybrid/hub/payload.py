"""The files of a run, a study and the metric that go to the Hub, and those that must not.

A file is the path of its content, or the bytes to send if they differ from those on the disk.
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
from .card_metadata import convert_languages, convert_license, corpus_name
from .commit import RECORD_NAME
from .errors import UNSENT, HubError
from .model_card import CARD_NAME, EVAL_RESULTS_NAME, build_card, build_card_files, find_pictures, read_files
from .rerun_command import quote

Files = dict[str, Path | bytes]

METRIC_FOLDER = Path(__file__).parents[1] / "metrics" / "beir_cross_lingual"
_SECRETS = re.compile("|".join([*TOKENS, r"://[^/\s:@\"'<>*]+:[^/\s@\"'<>*]+@"]).encode())
_SAMPLE_BYTES, _BLOCK_BYTES, _OVERLAP = 8192, 2**22, 512
_PART_OF_RUN = re.compile(rf"{BUNDLE_NAME}|{MODEL_NAME}|{EVALUATIONS_NAME}|checkpoint-\d+")
_NOT_OF_STUDY = re.compile(  # besides the inputs of its runs
    rf"({MODEL_NAME}|(damaged-)?checkpoint-\d+|embeddings|run\.lock|{HEARTBEAT_NAME}|{EVENTS_NAME})"
)
_STUDY_INPUTS = ("base", "corpora")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".gguf", ".npz")
_TEXTS = (".csv", ".tsv", ".md", ".txt", ".log", ".yaml", ".yml")
_MOST_BYTES = {".parquet": 2**30}  # scores of single queries
_MOST_BYTES_OF_OTHERS = 10 * 2**20


def build_run_payload(
    folder: str | os.PathLike[str], options: CardOptions, unfinished: bool = False, keep_card: bool = False
) -> Files:
    """Return all published files of a run, by path in the repository. Nothing is written.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`): Facts for the card.
        unfinished (`bool`, *optional*, defaults to `False`): Accept an unfinished run.
        keep_card (`bool`, *optional*, defaults to `False`): Publish a card that was edited by hand.

    Raises:
        HubError: When the folder is not a run, the run is unfinished, its model is damaged, or its card was edited.
        ValueError: When a file of the run cannot be read.
    """
    folder = Path(folder)
    if problem := _find_missing_run(folder):
        raise HubError(f"{folder} {problem}. {UNSENT}")
    status = RunFolder(folder).read_run()["status"]
    if status != "finished" and not unfinished:
        raise HubError(
            f"{folder} is not finished, its status is {status!r}. Give its training command again to finish it, or "
            f"push it as it is with --unfinished. {UNSENT}"
        )
    return list_model_files(folder, unfinished) | build_record_files(folder, options, keep_card)


def _find_missing_run(folder: Path) -> str | None:
    """Say why a folder is not a run, and which folder to give; `None` for a run."""
    around = folder.resolve().parent if folder.name in ("", "..") else folder.parent
    if (around / "run.json").is_file() and _PART_OF_RUN.fullmatch(folder.resolve().name):
        return f"is a part of a run: give the run folder, {around}"
    if (folder / "run.json").is_file():
        return None
    runs = sorted(path.parent for path in folder.glob("*/run.json"))
    if runs:
        return f"is not a run folder, but holds {len(runs)}: give one, such as {runs[0]}"
    return "is not a run folder: it has no run.json"


def build_record_files(folder: Path, options: CardOptions, keep_card: bool = False) -> Files:
    """Return the published files of a run without its model: card, pictures, records and bundle.

    A run without a bundle, or an unfinished run, is published without one.
    """
    built = build_card_files(folder, options, drawn=read_pictures(folder))
    others = {path.relative_to(folder).as_posix(): path for path in folder.glob(f"{EVAL_RESULTS_NAME}/*.yaml")}
    files: Files = {**build_records(folder), **built, **others}  # the user may add results of other benchmarks
    if _is_edited(folder, keep_card):
        pictures = [name for name in find_pictures((folder / CARD_NAME).read_bytes()) if (folder / name).is_file()]
        files |= {name: folder / name for name in (CARD_NAME, *pictures)}
    bundle = folder / BUNDLE_NAME
    if bundle.is_dir() and is_finished(folder):
        try:
            lock = (bundle / LOCK_NAME).read_bytes().decode()
            files |= {f"{BUNDLE_NAME}/{name}": content for name, content in build_bundle(folder, lock, built).items()}
        except (OSError, ValueError) as error:
            raise HubError(
                f"The bundle of {folder} cannot be rebuilt: {error} Correct that, or delete {bundle} to push without "
                f"it. {UNSENT}"
            ) from None
    return files


def _is_edited(folder: Path, keep_card: bool) -> bool:
    """Return whether a person edited the card, by the hash stored when it was written.

    Raises:
        HubError: When it was edited and `keep_card` is false.
    """
    card = folder / CARD_NAME
    if not card.is_file() or OutputFolder(folder).is_unchanged(CARD_NAME):
        return False
    built, found = build_card(read_files(folder)), card.read_bytes().decode("utf-8", errors="replace")
    if built == found:
        return False
    line, difference = first_difference(built, found)
    problem = (
        f"{CARD_NAME}, line {line} of {folder.resolve().name} does not follow from the records ({difference}), and "
        "hf-hybrid did not write it: it was edited by hand. Its license, repository name and figures are not updated"
    )
    if not keep_card:
        raise HubError(
            f"{problem}. Give --keep_card to push it as it is, or delete {CARD_NAME} to have it built again. {UNSENT}"
        )
    event("warning", logging.WARNING, problem=f"{problem}; it is pushed as it is")
    return True


def is_finished(folder: Path) -> bool:
    """Return whether a run is finished. The bundle of an unfinished run shows an earlier state."""
    return (folder / "run.json").is_file() and RunFolder(folder).read_run()["status"] == "finished"


def list_model_files(folder: str | os.PathLike[str], unfinished: bool = False) -> Files:
    """Return the model of a run, after comparing each file with the manifest.

    Args:
        folder (`str` or `Path`): The run folder.
        unfinished (`bool`, *optional*, defaults to `False`): Without a model, take the newest complete checkpoint.

    Raises:
        HubError: When there is no model, or it is damaged.
    """
    model = Path(folder) / MODEL_NAME
    if model.exists() or not unfinished:
        if damage := find_damage(model):
            raise HubError(f"{model} is damaged: {damage}. Give its training command again. {UNSENT}")
        return list_manifest_files(model)
    newest = next((path for path in checkpoints(folder) if find_damage(path) is None), None)
    if newest is None:
        raise HubError(f"{folder} has no model and no complete checkpoint. {UNSENT}")
    return list_checkpoint_files(newest)


def list_manifest_files(folder: Path) -> Files:
    """Return the files in the manifest of a folder."""
    return {name: folder / name for name in read_manifest(folder / MANIFEST_NAME)}


def list_checkpoint_files(folder: Path) -> Files:
    """Return the model files of a checkpoint, without the training state."""
    try:
        names: list[str] = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))["model_files"]
    except (OSError, ValueError, KeyError) as error:
        raise HubError(f"{folder} does not list its model files ({error!r}). {UNSENT}") from None
    return {name: folder / name for name in names}


def build_metric_payload(slug: str, folder: str | os.PathLike[str] = METRIC_FOLDER) -> Files:
    """Return the metric for `evaluate.load("user/slug")`: its module has the name of the repository.

    Args:
        slug (`str`): The name of the repository without its namespace.
        folder (`str` or `Path`, *optional*): The metric.

    Example:

        >>> sorted(build_metric_payload("my_measures"))[-5:]
        ['runs.py', 'settings.py', 'significance.py', 'tests.py', 'trec.py']
        >>> b'evaluate.load("my_measures")' in build_metric_payload("my_measures")["README.md"]
        True
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", slug):
        raise HubError(f"{slug!r} is no name for the metric: it may have letters, digits, _ and -. {UNSENT}")
    if slug != folder.name and (folder / f"{slug}.py").exists():
        raise HubError(f"{slug!r} is no name for the metric: it has a module {slug}.py. {UNSENT}")
    found: Files = {}
    for path in list_files(folder):
        content = path.read_bytes()
        renamed = content.replace(folder.name.encode(), slug.encode())
        name = path.relative_to(folder).as_posix().replace(f"{folder.name}.py", f"{slug}.py")
        found[name] = path if renamed == content else renamed
    return found


def list_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without hidden files, compiled Python and local records."""
    if not folder.is_dir():
        raise HubError(f"{folder} is not a folder. {UNSENT}")
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ("__pycache__", RECORD_NAME, OUTPUTS_NAME):
            continue
        if path.is_dir():
            yield from list_files(path)
        elif path.is_file():
            yield path


def build_study_payload(folder: str | os.PathLike[str], repo_id: str, license: str | None = None) -> Files:
    """Return the results of a study, by path in the repository: no weights and no corpora.

    The bundle of a finished run is sent as it is. Other texts are sent without secrets and local paths. A card is
    built if the study has none.

    Args:
        folder (`str` or `Path`): The study, or its copy.
        repo_id (`str`): The repository, for the card.
        license (`str`, *optional*): License of the results, for the card.

    Raises:
        HubError: When the folder is not a study, or has weights or large files where results belong.
        ValueError: When a `run.json` is damaged.
    """
    folder = Path(folder)
    if not (folder / "study.json").is_file():
        raise HubError(f"{folder} is not a study: it has no study.json; for a run omit --study. {UNSENT}")
    if (folder / TRIALS_NAME).is_file():  # a copy by recipes/report.py has only published content
        files: Files = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
        bundles: dict[Path, Files] = {}
        with open_trials(folder) as place:
            records = [RunFolder(path.parent).read_run() for path in place.glob("trials/**/run.json")]
    else:
        files, bundles = _list_study(folder)
        records = [RunFolder(run).read_run() for run in bundles]
    if CARD_NAME not in files:
        verifiable = [run.relative_to(folder).as_posix() for run, bundle in bundles.items() if bundle]
        files[CARD_NAME] = _build_dataset_card(repo_id, publishable(records), verifiable, license).encode()
    return files


def _list_study(folder: Path) -> tuple[Files, dict[Path, Files]]:
    """Return the files of a study, and the bundle of each of its runs."""
    inputs = {folder / name for name in _STUDY_INPUTS}
    paths = [
        path
        for path in list_files(folder)
        if not any(map(_NOT_OF_STUDY.fullmatch, path.relative_to(folder).parts)) and inputs.isdisjoint(path.parents)
    ]
    runs = [path.parent for path in paths if path.name == "run.json" and path.parent.name != BUNDLE_NAME]
    bundles = {run: _list_bundle(run) if is_finished(run) else {} for run in runs}
    twice = {run / BUNDLE_NAME for run in runs}  # scores of single queries are not sent a second time
    values = f"{BUNDLE_NAME}/{EVALUATIONS_NAME}/"
    twice |= {run / EVALUATIONS_NAME for run in runs if any(name.startswith(values) for name in bundles[run])}
    files: Files = {
        path.relative_to(folder).as_posix(): _publish(path) for path in paths if twice.isdisjoint(path.parents)
    }
    for run, bundle in bundles.items():
        files |= {(run.relative_to(folder) / name).as_posix(): content for name, content in bundle.items()}
    return files, bundles


def _list_bundle(run: Path) -> Files:
    bundle = run / BUNDLE_NAME
    if not bundle.is_dir():
        return {}
    if damage := find_damage(bundle):
        raise HubError(
            f"{bundle} is damaged: {damage}. Delete it and give the training command of the run again, which rebuilds "
            f"the bundle without training, or push without it. {UNSENT}"
        )
    return {f"{BUNDLE_NAME}/{name}": bundle / name for name in (*list_manifest_files(bundle), MANIFEST_NAME)}


def _publish(path: Path) -> Path | bytes:
    """Return a file of a study without secrets and local paths."""
    if path.suffix.lower() in _WEIGHTS:
        raise HubError(f"{path} looks like weights, and a study has none: push models one by one. {UNSENT}")
    size, most = path.stat().st_size, _MOST_BYTES.get(path.suffix, _MOST_BYTES_OF_OTHERS)
    if size > most:
        raise HubError(f"{path}: a file of a study has at most {size_words(most)}, got {size_words(size)}. {UNSENT}")
    if path.suffix in (".json", ".jsonl"):
        return build_published_json(path)
    if path.suffix.lower() not in _TEXTS:
        return path
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise HubError(f"{path} is not text in UTF-8 ({error}); correct or remove it. {UNSENT}") from None
    shown = publishable_text(text)
    return path if shown == text else shown.encode()


def _build_dataset_card(repo_id: str, runs: Sequence[Run], verifiable: Sequence[str], license: str | None) -> str:
    """Build the card of a study: its content, the training corpora of its runs, and how to verify them."""
    name = to_plain_text(repo_id.rsplit("/", 1)[-1])
    corpora = [run["corpus"] for run in runs]
    languages, finer = convert_languages(sorted({code for found in corpora for code in found["items_per_language"]}))
    known: dict[str, Any] = {"language": languages or None, "language_bcp47": finer or None}
    known |= convert_license(license)
    data = DatasetCardData(**known, pretty_name=name, tags=["hf_hybrid", "dense-retrieval"])
    number = f"{len(runs):,} run{'s' if len(runs) != 1 else ''}"
    lines = ["---", data.to_yaml(), "---", "", f"# {name}", ""]
    lines += [f"Results of a study with hf_hybrid: tables, and the records of {number}; no weights, no texts."]
    if runs:
        used = Counter((corpus_name(found.get("source") or {}), found["license"] or "unknown") for found in corpora)
        rows = [[*corpus, number] for corpus, number in sorted(used.items())]
        lines += ["", "Training corpora:", "", table(["Corpus", "License", "Runs"], rows, texts=(0, 1))]
    if verifiable:
        download = f"hf download --repo-type dataset {repo_id} --local-dir {quote(name)}"
        verify = f"python recipes/verify.py {quote(f'{name}/{verifiable[0]}')}"
        lines += ["", "To verify a run by its bundle, in a clone of hf_hybrid:", ""]
        lines += ["```bash", download, verify, "```"]
    return "\n".join([*lines, ""])


def refuse_secrets(files: Mapping[str, Path | bytes], token: str | None) -> None:
    """Refuse texts with this token, with anything that looks like a token, or with a password in an address.

    Raises:
        HubError: It names the files, and does not show the secrets.
    """
    known = {given.encode() for given in (token, get_token()) if given and len(given) >= 4}
    if found := [name for name, content in sorted(files.items()) if _has_secret(content, known)]:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise HubError(
            f"{', '.join(found[:5])}{more}: something looks like a token or a password. Remove it first, and replace "
            f"the token if it was real. {UNSENT}"
        )


def _has_secret(content: Path | bytes, known: set[bytes]) -> bool:
    before = b""
    for number, block in enumerate(_read_blocks(content)):
        if number == 0 and b"\0" in block[:_SAMPLE_BYTES]:
            return False  # not text
        block = before + block
        if _SECRETS.search(block) or any(secret in block for secret in known):
            return True
        before = block[-_OVERLAP:]  # a secret may begin in one block and end in the next
    return False


def _read_blocks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
