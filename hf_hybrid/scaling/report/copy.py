"""A small copy of a study, to commit with code or to publish: what its report is built from and verified by.

| file | content |
|---|---|
| `study.json`, `fits.json`, `step_profile.json` | as in the study |
| `trials.parquet` | records of all trials (`records/archive.py`): JSON files and logs; and `table.json` |
| `report.html`, `report.md` | the report |
| `manifest.json` | size and SHA-256 of each file |

A copy is in published form: without secrets and local paths, weights, texts and values of single queries.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_hybrid.records.archive import TRIALS_NAME, DamagedArchive, open_trials, write_archive
from hf_hybrid.records.manifest import read_manifest, write_manifest
from hf_hybrid.records.output_folder import put_files
from hf_hybrid.records.schema import EVENTS_NAME, MANIFEST_NAME
from hf_hybrid.scaling.grid.arms import STUDY, Trial, find_changed_setting
from hf_hybrid.scaling.grid.folder import Study, StudyFolder
from hf_hybrid.utils.files import UNFINISHED, delete_folder, files_in, replace_folder
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.strict_json import read_json, read_json_lines

from .figures import PROFILE_NAME
from .page import MARKDOWN_NAME, REPORT_NAME

_NEEDED = ("study.json", "table.json", "fits.json", REPORT_NAME, MARKDOWN_NAME)
COPY_NAMES = (*(name for name in _NEEDED if name != "table.json"), TRIALS_NAME)  # files that every copy has
RECORDS = ("run.json", "plan.json", "eval.json", "resources.json", "resources.jsonl", "curve.jsonl", EVENTS_NAME)


def copy_study(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the copy of a study that has a report. It replaces an earlier copy as a whole.

    Args:
        folder (`str` or `Path`): The study.
        target (`str` or `Path`): A folder that is not there, or is empty, or holds an earlier copy.

    Returns:
        `Path`: The copy.

    Raises:
        ValueError: When the target holds something else, such as the copy of another study or a file that is not of a
            copy, or a file of the study is missing or damaged.
    """
    study, target = StudyFolder(folder), Path(os.path.abspath(target))
    if lacking := [name for name in _NEEDED if not (study.path / name).is_file()]:
        raise ValueError(f"{study.path} has no {lacking[0]}: a copy is of a study whose report is written.")
    refuse_copy(study, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{UNFINISHED}{target.name}")
    delete_folder(aside)  # left by a kill
    try:
        aside.mkdir()
        texts = {name: _published_text(study.path / name) for name in names_of(study, study.read("study.json"))}
        write_archive(aside / TRIALS_NAME, {name: text for name, text in texts.items() if _is_archived(name)})
        for name, text in texts.items():
            if not _is_archived(name):
                (aside / name).write_text(text, encoding="utf-8", newline="")
        write_manifest(aside)
        own = _files_of_copy(target)
        if set(files_in(target)) <= {*own}:
            replace_folder(aside, target)
        else:
            put_files(aside, target, own)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # only what did not get so far is there still
    return target


def _files_of_copy(target: Path) -> list[str]:
    """Return the files of an earlier copy, from its manifest."""
    manifest = target / MANIFEST_NAME
    return [*read_manifest(manifest), MANIFEST_NAME] if manifest.is_file() else []


def refuse_copy(folder: StudyFolder, target: Path) -> None:
    """Raise a ValueError where a copy cannot be written; nothing is changed.

    Args:
        folder (`StudyFolder`): The study, which may have no report yet.
        target (`Path`): Where the copy is to be.
    """
    study = folder.path
    here = Path(os.path.abspath(study))
    if target == here or here in target.parents or target in here.parents:
        raise ValueError(f"copy_to={str(target)!r} and the study {study} lie in each other: name another folder.")
    if target.is_file():
        raise ValueError(f"copy_to={str(target)!r} is a file: name a folder.")
    earlier = all((target / name).is_file() for name in ("study.json", MANIFEST_NAME))
    if target.is_dir() and any(target.iterdir()) and not earlier:
        raise ValueError(
            f"copy_to={str(target)!r} holds other files than a copy of a study: name a new folder, or empty that one."
        )
    if not earlier:
        return
    now, then = build_published_study(folder.read("study.json")), StudyFolder(target).read("study.json")
    if difference := find_changed_setting(_identity(then), _identity(now)):
        raise ValueError(
            f"copy_to={str(target)!r} holds the copy of another study: {difference}. Name another folder, or delete "
            "that one yourself."
        )
    own = _files_of_copy(target)
    names = {MANIFEST_NAME, *COPY_NAMES, PROFILE_NAME}
    if taken := sorted(name for name in names if (target / name).exists() and name not in own):
        raise ValueError(
            f"copy_to={str(target)!r} holds {taken[0]}, which is not of the copy: {MANIFEST_NAME} does not list it. "
            "Move it away, or name another folder."
        )


def _identity(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return what copies of one study share; a study may get more trials."""
    corpora = {part: found["fingerprint"] for part, found in study["corpus"].items()}
    budget = {name: study["budget"][name] for name in ("type", "value")}
    settings = {name: study[name] for name in ("base", "train_settings", "mlm_settings", "eval_every")}
    return {"corpus": corpora, **settings, "budget": budget}


def _is_archived(name: str) -> bool:
    return "/" in name or name == "table.json"


def is_copy(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder is a copy of a study, and not the study itself."""
    return any((Path(folder) / name).is_file() for name in (TRIALS_NAME, MANIFEST_NAME))


@contextmanager
def open_study(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide a folder with the files of a study: the study itself, or a temporary folder with those of a copy.

    Args:
        folder (`str` or `Path`): A study or a copy.

    Raises:
        DamagedArchive: When the records of a copy cannot be read.
    """
    if not is_copy(folder):
        yield Path(folder)
        return
    if not (Path(folder) / TRIALS_NAME).is_file():
        raise DamagedArchive(f"{folder} has no {TRIALS_NAME}.")
    with open_trials(folder) as place:
        for path in Path(folder).iterdir():
            if path.is_file() and path.name != TRIALS_NAME:
                shutil.copyfile(path, place / path.name)
        StudyFolder(place).outputs.note(*files_in(place))  # these files are ours
        yield place


def names_of(folder: StudyFolder, study: Study) -> list[str]:
    """Return the paths of the files of a study whose content is in a copy.

    Args:
        folder (`StudyFolder`): The study.
        study (`Study`): Its `study.json`.
    """
    names = [*_NEEDED, PROFILE_NAME]
    for trial in study["trials"]:
        of_trial = [folder.trial_path(trial) / "failure.json"]
        if folder.status(trial) == "finished":
            of_trial = [folder.stage_path(stage) / name for stage in trial["stages"] for name in RECORDS]
        names += [path.relative_to(folder.path).as_posix() for path in of_trial]
    return [name for name in names if (folder.path / name).is_file()]


def _published_text(path: Path) -> str:
    if path.suffix == ".json":
        content = read_json(path)
        shown = build_published_study(content) if path.name == "study.json" else publishable(content)
        return f"{_dumps(shown)}\n"
    if path.suffix == ".jsonl":
        return "".join(f"{_dumps(line)}\n" for line in publishable(read_json_lines(path)))
    return path.read_bytes().decode("utf-8")


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def build_published_study(study: dict[str, Any]) -> dict[str, Any]:
    """`study.json` without secrets and local paths; paths within the study stay: its files are found by them.

    Args:
        study (`dict`): Content of the file.
    """
    return {**publishable(study), "trials": [build_published_trial(trial) for trial in study["trials"]]}


def build_published_trial(trial: Trial) -> dict[str, Any]:
    """Return a trial as a copy of its study has it.

    Example:

        >>> options = {"model_name_or_path": "{study}/base/seed-1", "train_corpus": "/data/mine/help"}
        >>> stage = {"name": "train", "recipe": "train.py", "folder": "{study}/trials/a", "options": options}
        >>> build_published_trial({"id": "a", "stages": [stage]})["stages"][0]["options"]
        {'model_name_or_path': '{study}/base/seed-1', 'train_corpus': 'help'}
    """
    found: dict[str, Any] = _outside(trial)
    return found


def _outside(value: Any) -> Any:
    """Publish, but keep paths within the study."""
    if isinstance(value, dict):
        return {key: _outside(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_outside(inner) for inner in value]
    return value if isinstance(value, str) and value.startswith(STUDY) else publishable(value)
