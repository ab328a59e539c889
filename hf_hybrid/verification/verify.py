"""Check the figures of a run or of a study by its files: `verify`.

A check compares hashes, rebuilds a derived file with the function that wrote it, or compares raw files that must
agree.

| check | what is compared |
|---|---|
| `manifest`, `model`, `copies` | files with their sizes and hashes; files around a bundle with those in it |
| `schema` | every record can be read and has its keys |
| `plan`, `corpus` | the plan with its fingerprint and the arguments; plan and corpora rebuilt from available texts |
| `resources` | `resources.json` rebuilt from its lines; the lines with the plan; `curve.jsonl` with the lines |
| `scores` | scores rebuilt from the scores of single queries |
| `card`, `drawn` | the model card, its pictures and leaderboard results, rebuilt |
| `environment`, `events` | `run.json` with the environment lock and with the event log |
| `end` | the progress of an unfinished run; values that may still change are not called wrong |

**What no file can prove.** Raw values have no second source: losses, times, memory peaks, energy, scores of single
queries, and scores during training. If a person invents all files so that they agree, only `--rerun`, or a hash of the
manifest that was published elsewhere, such as a commit of a repository, can show it. For a study, the tokens of
`study.json` and the steps of a budget other than `steps` need texts and runs that are not kept. A copy of a study has
no scores of single queries: its means are compared with the language pairs and with the end of the curve.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hf_hybrid.hub.bundle import LOCK_NAME, MODEL_HASHES_NAME
from hf_hybrid.hub.card_metadata import is_hub_id
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import BUNDLE_NAME, EVENTS_NAME, MANIFEST_NAME

from . import raw_files, rebuild
from .files import Check, Given, RunFiles, run_check
from .findings import UNKNOWN, WRONG, Finding


class FolderType(NamedTuple):
    """A type of folder that can be verified.

    Args:
        name (`str`): For messages.
        matches (`Callable`): Returns whether a folder is of this type.
        bundle (`str`): Subfolder with the files to check.
        checks (`dict[str, Check]`): The checks, by name.
    """

    name: str
    matches: Callable[[Path], bool]
    bundle: str
    checks: dict[str, Check]


def verify(path: str | os.PathLike[str], given: Given | None = None) -> list[Finding]:
    """Check a bundle, a run folder, a downloaded repository of a published run, or a study.

    Args:
        path (`str` or `Path`): The folder.
        given (`Given`, *optional*): Corpora, which allow more checks.

    Returns:
        `list[Finding]`: What is right, what is wrong and where, and what cannot be checked and why.

    Raises:
        ValueError: When the folder is of another type.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(_explain_missing_folder(path))
    folder_type = next((folder_type for folder_type in FOLDER_TYPES if folder_type.matches(path)), None)
    if folder_type is None:
        names = ", ".join(each.name for each in FOLDER_TYPES)
        raise ValueError(f"{path} is none of these: {names}. There is no run.json.")
    files = RunFiles(path / folder_type.bundle, path, given)
    findings, missing = [], set()
    for name, check in folder_type.checks.items():
        for finding in run_check(name, check, files):
            if name in ("manifest", "schema") and finding.status == WRONG and "is missing" in finding.reason:
                if finding.place in missing:  # `manifest` has reported it
                    continue
                missing.add(finding.place)
            findings.append(finding)
    return findings


def _explain_missing_folder(path: Path) -> str:
    if path.is_file():
        return f"{path} is a file: give its folder, {path.parent}."
    problem = f"There is no folder {path}."
    if len(path.parts) == 2 and is_hub_id(path.as_posix()):
        problem += (
            f" If it is a repository on the Hub, download it first, `hf download {path.as_posix()} --local-dir "
            f"{path.name}` (with `--repo-type dataset` the results of a study), and check the folder {path.name}."
        )
    return problem


def check_study(files: RunFiles) -> Iterator[Finding]:
    """Run the checks of a study, each under its own name."""
    from .study import check_study_folder

    yield from check_study_folder(files.path)


def check_resources(files: RunFiles) -> Iterator[Finding]:
    """Check `resources.json`, `resources.jsonl` and `curve.jsonl`."""
    yield from rebuild.check_resources(files)
    yield from raw_files.check_lines(files)


def report_progress(files: RunFiles) -> Iterator[Finding]:
    """Report the progress of an unfinished run."""
    lines, _ = files.folder.read_resource_lines()
    place = f"step {lines[-1]['step'] if lines else 0} of {files.run['config']['max_steps']}"
    reason = f"the run is {files.run['status']} at {place}; only what exists is checked"
    yield Finding("end", UNKNOWN, "run.json: status", reason)


def _make_lenient(check: Check) -> Check:
    """Return a check that does not call values wrong that the rest of the run may still change."""

    def check_so_far(files: RunFiles) -> Iterator[Finding]:
        last_step = f"resources.jsonl, line {len(files.folder.read_resource_lines()[0])}: step"
        for finding in check(files):
            may_change = finding.file in _OPEN or (finding.file == "eval.json" and "is missing" in finding.reason)
            if finding.status != WRONG or not may_change:
                yield finding
            elif finding.place != last_step:  # `report_progress` has it
                yield finding._replace(status=UNKNOWN, reason=f"{finding.reason}; the run is not finished")

    return check_so_far


def _is_unfinished(path: Path) -> bool:
    try:
        return RunFolder(path).read_run()["status"] != "finished"
    except (OSError, ValueError):  # `schema` reports it
        return False


_RECORDS: dict[str, Check] = {
    "schema": raw_files.check_schema,
    "plan": raw_files.check_plan,
    "resources": check_resources,
    "scores": rebuild.check_scores,
    "corpus": rebuild.check_corpus,
    "card": rebuild.check_card,
    "drawn": rebuild.check_drawn,
    "environment": raw_files.check_environment,
    "events": raw_files.check_events,
}
_OPEN = ("resources.json", "resources.jsonl", "curve.jsonl", EVENTS_NAME)  # a run writes these until its end
_BUNDLE: dict[str, Check] = {"manifest": raw_files.check_manifest, "model": raw_files.check_model, **_RECORDS}

# The first type that matches is the type of a folder.
FOLDER_TYPES = (
    FolderType(
        "a run folder or a published repository with its bundle",
        lambda path: (path / BUNDLE_NAME).is_dir(),
        BUNDLE_NAME,
        {**_BUNDLE, "copies": raw_files.check_copies},
    ),
    FolderType("a study or its copy", lambda path: (path / "study.json").is_file(), "", {"study": check_study}),
    FolderType(
        "a bundle",
        lambda path: any((path / name).is_file() for name in (MODEL_HASHES_NAME, LOCK_NAME, MANIFEST_NAME)),
        "",
        _BUNDLE,
    ),
    FolderType(
        "an unfinished run",
        _is_unfinished,
        "",
        {
            "manifest": raw_files.report_no_manifest,
            "end": report_progress,
            **{name: _make_lenient(check) for name, check in _RECORDS.items() if name != "events"},
        },
    ),
    FolderType(
        "a run folder without a bundle",
        lambda path: (path / "run.json").is_file(),
        "",
        {"manifest": raw_files.report_no_manifest, **_RECORDS},
    ),
)
