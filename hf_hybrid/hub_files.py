"""What of a run and of the metric goes to the Hub, and what must not.

A file is given as its path, or as the bytes to send where those are others than on the disk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from .cards import CARD_NAME, PICTURES_NAME, publishable
from .events import TOKENS
from .hub_errors import HubError
from .hub_record import RECORD_NAME
from .manifest import checkpoints, find_damage, read_manifest
from .records import BUNDLE_NAME, EVALUATIONS_NAME, MANIFEST_NAME, MODEL_NAME, STATE_NAME, RunFolder

Files = dict[str, Path | bytes]

METRIC_FOLDER = Path(__file__).parent / "metrics" / "beir_cross_lingual"
RUN_FILES = ("run.json", "plan.json", "eval.json", "resources.json", "resources.jsonl", "curve.jsonl", "card.json")
_SECRETS = re.compile("|".join([*TOKENS, r"://[^/\s:@\"'<>*]+:[^/\s@\"'<>*]+@"]).encode())
UNSENT = "Nothing was sent."
_PART = re.compile(rf"{BUNDLE_NAME}|{MODEL_NAME}|{EVALUATIONS_NAME}|checkpoint-\d+")  # folders in a run folder
_SAMPLE_BYTES, _BLOCK_BYTES, _OVERLAP = 8192, 2**22, 512


def run_files(folder: str | os.PathLike[str]) -> Files:
    """What is published of a run beside its model: the card with its pictures, what it was made from, the bundle."""
    folder = Path(folder)
    found: Files = {name: published_json(folder / name) for name in RUN_FILES if (folder / name).is_file()}
    named = [folder / CARD_NAME, *folder.glob(f"{PICTURES_NAME}/*.png"), *folder.glob(".eval_results/*.yaml")]
    found |= {path.relative_to(folder).as_posix(): path for path in named if path.is_file()}
    return found | (bundle_files(folder) if is_finished(folder) else {})


def bundle_files(folder: Path) -> Files:
    """The bundle of a run, compared with its manifest; nothing where there is none.

    Raises:
        HubError: When it is not as it was written.
    """
    bundle = folder / BUNDLE_NAME
    if not bundle.is_dir():
        return {}
    if damage := find_damage(bundle):
        raise HubError(
            f"{bundle} is not as it was written: {damage}. Delete {bundle}; then the training command of the run, "
            f"given again, trains nothing and makes the bundle anew, or the same push goes without it. {UNSENT}"
        )
    return {path.relative_to(folder).as_posix(): path for path in bundle.rglob("*") if path.is_file()}


def is_finished(folder: Path) -> bool:
    """Whether a run has come to its end; a bundle of one that has not is of an earlier state of it."""
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
        return listed_files(model)
    whole = next((path for path in checkpoints(folder) if find_damage(path) is None), None)
    if whole is None:
        raise HubError(f"{folder} has no model and no whole checkpoint yet. {UNSENT}")
    return checkpoint_files(whole)


def listed_files(folder: Path) -> Files:
    """The files that the manifest of a folder lists."""
    return {name: folder / name for name in read_manifest(folder / MANIFEST_NAME)}


def checkpoint_files(folder: Path) -> Files:
    """Those files of a checkpoint that are its model, without the state of training."""
    try:
        names: list[str] = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))["model_files"]
    except (OSError, ValueError, KeyError) as error:
        raise HubError(f"{folder} does not say which of its files are the model ({error!r}). {UNSENT}") from None
    return {name: folder / name for name in names}


def published_files(folder: str | os.PathLike[str], unfinished: bool = False) -> Files:
    """All that is published of a run, by its path in the repository.

    Args:
        folder (`str` or `Path`): The run folder.
        unfinished (`bool`, *optional*, defaults to `False`): The run need not have come to its end.

    Raises:
        HubError: When it is no run, it is not finished, or its model is damaged.
        ValueError: When `run.json` cannot be read.
    """
    folder = Path(folder)
    if problem := _no_run(folder):
        raise HubError(f"{folder} {problem}. {UNSENT}")
    status = RunFolder(folder).read_run()["status"]
    if status != "finished" and not unfinished:
        raise HubError(
            f"{folder} has not come to its end, its status is {status!r}. Start its training command again to finish "
            f"it, or push it as it is with --unfinished. {UNSENT}"
        )
    return model_files(folder, unfinished) | run_files(folder)


def _no_run(folder: Path) -> str | None:
    """Why a folder is no run, and what to give instead; None for a run."""
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
    """Those of a folder and its folders, but for hidden ones, what Python compiled, and the record of pushes."""
    if not folder.is_dir():
        raise HubError(f"{folder} is no folder. {UNSENT}")
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ("__pycache__", RECORD_NAME):
            continue
        if path.is_dir():
            yield from all_files(path)
        elif path.is_file():
            yield path


def published_json(path: Path) -> Path | bytes:
    """A file of JSON, or of lines of it, without secrets and paths of this machine."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in text.split("\n") if line]
            shown = [publishable(line) for line in lines]
            return path if shown == lines else "".join(_dumps(line) for line in shown).encode()
        content = json.loads(text)
    except ValueError as error:
        raise HubError(f"{path} is not JSON in UTF-8 ({error}); mend or remove it. {UNSENT}") from None
    shown = publishable(content)
    return path if shown == content else _dumps(shown, indent=2).encode()


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


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
