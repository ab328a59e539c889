"""Whether what is said about a run is true, as far as its files can tell: `verify` a bundle, run folder or repository.

Of a study the checks are those of `study_checks.py`.

| check | what is compared |
|---|---|
| `manifest` | every file of the bundle with size and SHA-256; none is missing, none too many |
| `copies` | the files around a bundle that are in it too |
| `model` | the model's files with the hashes of the bundle |
| `schema` | every file of records can be read and has the keys that it must have |
| `plan`, `corpus` | the plan with its fingerprint, the arguments and, where they are at hand, the texts |
| `resources` | totals, rates and shares with the lines of the log, and those with the plan |
| `scores` | every score with the values of single queries |
| `card`, `drawn` | the model card, and what is made with it, with those that the records give, byte for byte |
| `environment` | the versions of `run.json` with the environment lock |
| `events` | how the run began and ended, and what happened in between |
| `end` | of a run that has not finished, how far it is; what changes until then is not called wrong |

**What cannot be found.**  Anyone who alters one file and rewrites the manifest is found where another file says
otherwise. Anyone who makes up *all* files so that they agree is not: raw figures such as the values of single queries,
losses, times, peaks of memory and the source of energy have no witness but the logs, and hashes rebuilt tell nothing
of the model. Then only `--rerun` of recipes/verify.py tells, or a manifest whose hash was published elsewhere, as by
the commit of a repository.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hf_hybrid import __version__
from hf_hybrid.hub.bundle import LOCK_NAME, MODEL_HASHES_NAME, files_of, unlike
from hf_hybrid.hub.card_metadata import is_hub_id
from hf_hybrid.hub.model_card import (
    CARD_NAME,
    EVAL_RESULTS_NAME,
    PICTURES_NAME,
    can_draw,
    card_text,
    picture_names,
    read_files,
    write_card,
)
from hf_hybrid.records.environment import find_installed_version
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import BUNDLE_NAME, EVENTS_NAME, MANIFEST_NAME
from hf_hybrid.utils.files import files_in, sha256

from .cost_checks import check_resources
from .event_checks import check_events
from .evidence import Check, Evidence, Given, run_check
from .file_checks import check_copies, check_manifest, check_model, check_schema, no_manifest
from .findings import OK, UNKNOWN, WRONG, Finding, check, compare, compare_texts
from .plan_checks import check_corpus, check_plan
from .score_checks import check_scores

_DRAWN = (f"{PICTURES_NAME}/", f"{EVAL_RESULTS_NAME}/")


class FolderType(NamedTuple):
    """A type of folder that can be verified.

    Args:
        name (`str`): In words.
        matches (`Callable`): Whether a folder is one.
        bundle (`str`): Where in it the files lie that are checked.
        checks (`dict[str, Check]`): What is checked, by name.
    """

    name: str
    matches: Callable[[Path], bool]
    bundle: str
    checks: dict[str, Check]


def verify(path: str | os.PathLike[str], given: Given | None = None) -> list[Finding]:
    """Check all that can be checked of a bundle, a run folder, a downloaded repository of a published run, or a study.

    Args:
        path (`str` or `Path`): The folder.
        given (`Given`, *optional*): Corpora that are at hand, which tell more.

    Returns:
        `list[Finding]`: What is right, what is wrong and where, what cannot be told and why.

    Raises:
        ValueError: When it is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(_no_folder(path))
    folder_type = next((folder_type for folder_type in FOLDER_TYPES if folder_type.matches(path)), None)
    if folder_type is None:
        names = ", ".join(each.name for each in FOLDER_TYPES)
        raise ValueError(f"{path} is none of these: {names}. There is no run.json.")
    evidence = Evidence(path / folder_type.bundle, path, given)
    found = (finding for name, check in folder_type.checks.items() for finding in run_check(name, check, evidence))
    return list(_missing_once(found))


def _missing_once(findings: Iterable[Finding]) -> Iterator[Finding]:
    """That a file is missing is told by the first of those checks that miss it."""
    missing = set()
    for finding in findings:
        of_files = finding.check in ("manifest", "schema")
        if of_files and finding.status == WRONG and "is missing" in finding.told:
            if finding.place in missing:
                continue
            missing.add(finding.place)
        yield finding


def _no_folder(path: Path) -> str:
    """What is said of a path that is none, which may be the name of a repository."""
    if path.is_file():
        return f"{path} is a file: give its folder, {path.parent}."
    told = f"There is no folder {path}."
    if len(path.parts) == 2 and is_hub_id(path.as_posix()):
        told += (
            f" If it is a repository on the Hub, download it first, `hf download {path.as_posix()} --local-dir "
            f"{path.name}` (with `--repo-type dataset` the results of a study), and check the folder {path.name}."
        )
    return told


# What is said about the run


def check_card(evidence: Evidence) -> Iterator[Finding]:
    """The model card against the one that the records give."""
    _need_scores(evidence)
    found, expected = evidence.text(CARD_NAME), card_text(evidence.path)
    if found == expected:
        yield Finding("card", OK, CARD_NAME)
        return
    if reason := _unlike_here(evidence, "hf-hybrid"):
        yield Finding("card", UNKNOWN, CARD_NAME, reason)
        return
    yield compare_texts("card", CARD_NAME, expected, found)


def check_drawn(evidence: Evidence) -> Iterator[Finding]:
    """What is made with the card, pictures and results for leaderboards, against what the records give."""
    _need_scores(evidence)
    release, drawing = _unlike_here(evidence, "hf-hybrid"), _drawn_otherwise(evidence)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("run.json", "plan.json", "eval.json", "resources.json", "card.json"):
            if (evidence.path / name).is_file():
                shutil.copyfile(evidence.path / name, Path(folder, name))
        OutputFolder(folder).note(*files_in(Path(folder)))  # the copies are ours
        write_card(folder)
        there = {name for name in files_of(evidence.path) if name.startswith(_DRAWN)}
        made = {name for name in files_of(Path(folder)) if name.startswith(EVAL_RESULTS_NAME)}
        # not what is drawn here, for the card of a run refers to none where none could be drawn
        made |= {f"{PICTURES_NAME}/{name}" for name in picture_names(read_files(evidence.path))}
        for name in sorted(there | made):
            same = name in there & made and _same(evidence.path / name, Path(folder, name))
            is_picture = name in there & made and name.startswith(PICTURES_NAME)
            if not same and (reason := release or (drawing if is_picture else None)):
                yield Finding("drawn", UNKNOWN, name, reason)
            else:
                told = "is missing" if name not in there else "is not what eval.json gives"
                yield check("drawn", name, same, told)


def _need_scores(evidence: Evidence) -> None:
    """Raises `Unreadable` where scores are missing that the card and the pictures were made of."""
    if evidence.run["status"] == "finished" or (evidence.path / "eval.json").exists():
        _ = evidence.evaluation


def _same(first: Path, second: Path) -> bool:
    return second.is_file() and sha256(first) == sha256(second)


def _drawn_otherwise(evidence: Evidence) -> str | None:
    """Why a picture drawn here might have other bytes, or is none; None where it might not."""
    if not can_draw():
        return "matplotlib is not installed here"
    told = evidence.run["environment"]["platform"]
    if platform.system() not in told or platform.machine() not in told:
        return f"it was made on {told}, and other machines may draw it a little differently"
    return _unlike_here(evidence, "matplotlib", "pillow", "numpy")


def _unlike_here(evidence: Evidence, *names: str) -> str | None:
    """Of which of some distributions another version, or none, is here than in the lock; None for the same."""
    here = {name: find_installed_version(name) or "none" for name in names}
    here |= {name: __version__ for name in names if name == "hf-hybrid"}  # which may run from a checkout
    other = unlike(here, evidence.text(LOCK_NAME))
    return f"it was made by {other[0][0]} {other[0][1]}; here is {here[other[0][0]]}" if other else None


def check_environment(evidence: Evidence) -> Iterator[Finding]:
    """The versions of `run.json` are those of the lock."""
    told, lock = evidence.run["environment"], evidence.text(LOCK_NAME)
    wrong = dict(unlike(told["versions"], lock))
    for name, found in told["versions"].items():
        place = f"run.json: environment: versions: {name}"
        yield check("environment", place, name not in wrong, f"{LOCK_NAME} has {wrong.get(name)}, found {found}")
    found = re.match(r"# Python ([^,\s]+)", lock)
    yield from compare("environment", "run.json: environment: python", found and found[1], told["python"])


def check_study(evidence: Evidence) -> Iterator[Finding]:
    """All checks of a study, each under a name of its own."""
    from .study_checks import check_study_folder

    yield from check_study_folder(evidence.path)


# A run that has not finished


def check_end(evidence: Evidence) -> Iterator[Finding]:
    """How far the run is."""
    status, steps = evidence.run["status"], evidence.run["config"]["max_steps"]
    lines, _ = evidence.folder.read_resource_lines()
    step = lines[-1]["step"] if lines else 0
    told = f"the run has not finished, it is {status} at step {step} of {steps}; only what there is is checked"
    yield Finding("end", UNKNOWN, "run.json: status", told)


def _so_far(name: str, check: Check) -> Check:
    """The same check, which calls nothing wrong that the rest of the run may still change."""
    reason = "the run has not finished"

    def found(evidence: Evidence) -> Iterator[Finding]:
        last_step = f"resources.jsonl, line {len(evidence.folder.read_resource_lines()[0])}: step"
        try:
            for finding in check(evidence):
                open_still = finding.file in _OPEN or (finding.file == "eval.json" and "is missing" in finding.told)
                if finding.status != WRONG or not open_still:
                    yield finding
                elif finding.place != last_step:  # which `check_end` tells
                    yield finding._replace(status=UNKNOWN, told=f"{finding.told}; {reason}")
        except IndexError:  # totals are written with a checkpoint, and may be of a later step than the last line
            yield Finding(name, UNKNOWN, "resources.json", f"is of another step than resources.jsonl; {reason}")

    return found


def _is_unfinished(path: Path) -> bool:
    try:
        return RunFolder(path).read_run()["status"] != "finished"
    except (OSError, ValueError):  # which the checks tell
        return False


# Types of folders

_RECORDS: dict[str, Check] = {
    "schema": check_schema,
    "plan": check_plan,
    "resources": check_resources,
    "scores": check_scores,
    "corpus": check_corpus,
    "card": check_card,
    "drawn": check_drawn,
    "environment": check_environment,
    "events": check_events,
}
_OPEN = ("resources.json", "resources.jsonl", "curve.jsonl", EVENTS_NAME)  # what a run writes until its end
_UNFINISHED: dict[str, Check] = {
    "manifest": no_manifest,
    "end": check_end,
    **{name: _so_far(name, check) for name, check in _RECORDS.items() if name != "events"},
}
_BUNDLE: dict[str, Check] = {"manifest": check_manifest, "model": check_model, **_RECORDS}

# The first type that matches is it. A further type of folder is a line here, with checks of its own.
FOLDER_TYPES = (
    FolderType(
        "a run folder or a published repository with its bundle",
        lambda path: (path / BUNDLE_NAME).is_dir(),
        BUNDLE_NAME,
        {**_BUNDLE, "copies": check_copies},
    ),
    FolderType("a study or its copy", lambda path: (path / "study.json").is_file(), "", {"study": check_study}),
    FolderType(
        "a bundle",
        lambda path: any((path / name).is_file() for name in (MODEL_HASHES_NAME, LOCK_NAME, MANIFEST_NAME)),
        "",
        _BUNDLE,
    ),
    FolderType("a run that has not finished", _is_unfinished, "", _UNFINISHED),
    FolderType(
        "a run folder without a bundle",
        lambda path: (path / "run.json").is_file(),
        "",
        {"manifest": no_manifest, **_RECORDS},
    ),
)
