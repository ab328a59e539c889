"""A small copy of a study, to be kept with code: all that its report is made of, and by which it is verified.

| file | content |
|---|---|
| `study.json`, `table.json`, `fits.json`, `step_profile.json` | as in the study |
| `report.html`, `report.md` | the report, the same bytes that the copy itself gives |
| `trials/*/run.json`, `plan.json`, `eval.json`, `resources.json` | of runs that finished |
| `trials/*/resources.jsonl`, `curve.jsonl`, `events.jsonl` | their logs |
| `trials/*/failure.json` | of trials that failed |
| `manifest.json` | size and SHA-256 of each file |

All is in published form: without secrets and paths of the machine. There are no weights, no texts and no values of
single queries. Records of runs are written in few lines, for an `eval.json` has a number for each language pair
and measure.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_hybrid.records.manifest import read_manifest, write_manifest
from hf_hybrid.records.output_folder import put_files
from hf_hybrid.records.schema import EVENTS_NAME, MANIFEST_NAME
from hf_hybrid.scaling.grid.arms import STUDY, Trial, difference_of_settings
from hf_hybrid.scaling.grid.folder import Study, StudyFolder
from hf_hybrid.utils.files import UNFINISHED, delete_folder, files_in, replace_folder
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.strict_json import read_json, read_json_lines

from .figures import PROFILE_NAME
from .page import MARKDOWN_NAME, REPORT_NAME

NEEDED = ("study.json", "table.json", "fits.json", REPORT_NAME, MARKDOWN_NAME)
RECORDS = ("run.json", "plan.json", "eval.json", "resources.json", "resources.jsonl", "curve.jsonl", EVENTS_NAME)


def copy_study(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Write the copy of a study whose report is written; an earlier copy is replaced by it as a whole.

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
    if lacking := [name for name in NEEDED if not (study.path / name).is_file()]:
        raise ValueError(f"{study.path} has no {lacking[0]}: a copy is of a study whose report is written.")
    refuse_copy(study, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{UNFINISHED}{target.name}")
    delete_folder(aside)  # left by a kill
    try:
        for name in names_of(study, study.read("study.json")):
            _copy(study.path / name, aside / name)
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
    """What an earlier copy has written, as its own manifest says."""
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
    if difference := difference_of_settings(_identity(then), _identity(now)):
        raise ValueError(
            f"copy_to={str(target)!r} holds the copy of another study: {difference}. Name another folder, or delete "
            "that one yourself."
        )
    own = _files_of_copy(target)
    names = {MANIFEST_NAME, *NEEDED, *names_of(folder, folder.read("study.json"))}
    if taken := sorted(name for name in names if (target / name).exists() and name not in own):
        raise ValueError(
            f"copy_to={str(target)!r} holds {taken[0]}, which is not of the copy: {MANIFEST_NAME} does not list it. "
            "Move it away, or name another folder."
        )


def _identity(study: Mapping[str, Any]) -> dict[str, Any]:
    """What copies of one study have in common; a study may get more trials."""
    corpora = {part: found["fingerprint"] for part, found in study["corpus"].items()}
    budget = {name: study["budget"][name] for name in ("type", "value")}
    settings = {name: study[name] for name in ("base", "train_settings", "mlm_settings", "eval_every")}
    return {"corpus": corpora, **settings, "budget": budget}


def names_of(folder: StudyFolder, study: Study) -> list[str]:
    """The files of a copy, by their names in the folder of the study, but for the manifest; those that are there.

    Args:
        folder (`StudyFolder`): The study, or a copy.
        study (`Study`): Its `study.json`.
    """
    names = [*NEEDED, PROFILE_NAME]
    for trial in study["trials"]:
        of_trial = [folder.trial_path(trial) / "failure.json"]
        if folder.status(trial) == "finished":
            of_trial = [folder.stage_path(stage) / name for stage in trial["stages"] for name in RECORDS]
        names += [path.relative_to(folder.path).as_posix() for path in of_trial]
    return [name for name in names if (folder.path / name).is_file()]


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        content = read_json(path)
        shown = build_published_study(content) if path.name == "study.json" else publishable(content)
        lines, indent = [shown], None if path.name in RECORDS else 1
    elif path.suffix == ".jsonl":
        lines, indent = publishable(read_json_lines(path)), None
    else:
        shutil.copyfile(path, target)
        return
    target.write_text("".join(f"{_dumps(line, indent)}\n" for line in lines), encoding="utf-8")


def _dumps(value: Any, indent: int | None) -> str:
    separators = (",", ":") if indent is None else None
    return json.dumps(value, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)


def build_published_study(study: dict[str, Any]) -> dict[str, Any]:
    """`study.json` without secrets and local paths; paths within the study stay: its files are found by them.

    Args:
        study (`dict`): Content of the file.
    """
    return {**publishable(study), "trials": [build_published_trial(trial) for trial in study["trials"]]}


def build_published_trial(trial: Trial) -> dict[str, Any]:
    """A trial likewise.

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
