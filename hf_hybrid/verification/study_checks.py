"""Whether what the report of a study says follows from its files: `check_study_folder`.

| check | what is compared |
|---|---|
| `manifest` | every file of a copy with size and SHA-256; none is missing, none too many |
| `study` | `study.json` with the grid that follows from it, and each run with what its trial asks for |
| `schema`, `plan`, `resources`, `scores`, `events` | each run, as for a run folder |
| `table` | `table.json` with the runs |
| `fits` | `fits.json` with the table, rebuilt |
| `figures` | the numbers of each figure of the page with the files |
| `page` | `report.html` and `report.md` with those that the files give, byte for byte |

**What no file can witness.**  The tokens of `study.json`, and the steps of a budget other than `steps`, need texts and
runs that are not kept. A copy has no values of single queries: of its scores, monolingual and cross-lingual ones are
means over the pairs, and multilingual ones and bias are those of the last point of the curve; of an evaluation without
training (`zero_shot`, `bm25`) nothing tells the latter two, nor the pairs. `step_profile.json` and the machine that
`study.json` names are as they were given. Raw times, losses and peaks have no witness but the logs, as in a bundle.
Anyone who makes up all files so that they agree is not found but by the manifest, where its hash was published
elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hf_hybrid import __version__
from hf_hybrid.evaluation.aggregate import scores_of_queries
from hf_hybrid.hub.model_card import CARD_NAME
from hf_hybrid.metrics.beir_cross_lingual import ranking
from hf_hybrid.records.archive import TRIALS_NAME, DamagedArchive
from hf_hybrid.records.environment import find_installed_version
from hf_hybrid.records.manifest import read_manifest
from hf_hybrid.records.schema import MANIFEST_NAME, PER_QUERY_NAME, Scores
from hf_hybrid.scaling.grid.fits import make_fits
from hf_hybrid.scaling.grid.folder import Study, StudyFolder
from hf_hybrid.scaling.report.copy import COPY_NAMES, names_of, open_study
from hf_hybrid.scaling.report.figures import PROFILE_NAME
from hf_hybrid.scaling.report.page import (
    MARKDOWN_NAME,
    REPORT_NAME,
    figures_in,
    figures_of,
    markdown_text,
    report_text,
)
from hf_hybrid.utils.files import sha256

from .cost_checks import check_resources
from .event_checks import check_events
from .evidence import Check, Unreadable, run_check
from .file_checks import check_schema
from .findings import OK, UNKNOWN, WRONG, Finding, check, compare, compare_texts
from .plan_checks import check_plan
from .score_checks import check_scores
from .study_evidence import NO_VALUES, StageEvidence, StudyEvidence, as_written, over_runs
from .study_trials import check_study

_NEAR_NOTHING = 1e-12  # differences of values that are all but the same, on machines that add up in another order
_GENERATOR = re.compile(
    r'<meta name="generator" content="hf-hybrid ([^",]*), altair ([^",]*), vl-convert-python ([^",]*)">'
)
_DRAWN = re.compile(r'<meta name="generator"[^>]*>|src="data:image/svg[^"]*"|<script[^>]*>.*?</script>', re.DOTALL)
_UNREPORTED = "there is none yet: python recipes/report.py STUDY writes it"
_NO_LIBRARIES = 'altair and vl-convert are not installed here: pip install ".[report]", in a clone'


# Files


def check_files(evidence: StudyEvidence) -> Iterator[Finding]:
    """Every file of a copy against its manifest, and none that a copy has not."""
    if not evidence.is_copy:
        told = "only a copy has one, of recipes/report.py --copy_to: nothing tells what the files of the study were"
        yield Finding("manifest", UNKNOWN, MANIFEST_NAME, told)
        return
    paths = {path.name: path for path in evidence.source.iterdir() if path.name[0] != "."}
    for name in (MANIFEST_NAME, CARD_NAME):  # the card is that of a repository
        paths.pop(name, None)
    listed = read_manifest(evidence.source / MANIFEST_NAME)
    for name in sorted({*paths, *listed, *COPY_NAMES}):
        if name not in paths:
            yield Finding("manifest", WRONG, name, "is missing")
        elif name not in listed:
            yield Finding("manifest", WRONG, name, f"is not in {MANIFEST_NAME}: it was added")
        elif name not in (*COPY_NAMES, PROFILE_NAME):
            yield Finding("manifest", WRONG, name, "is no part of a copy")
        else:
            found = {"bytes": paths[name].stat().st_size, "sha256": sha256(paths[name])}
            yield from compare("manifest", name, listed[name], found)
    unpacked = {
        path.relative_to(evidence.path).as_posix() for path in evidence.path.glob("trials/**/*") if path.is_file()
    }
    for name in sorted(unpacked - {*names_of(evidence.studies, evidence.study)}):
        yield Finding("manifest", WRONG, name, "is no part of a copy")


# Runs


def _each(name: str, check: Check) -> Check:
    """A check of a run as one of a study; evaluations alone have fewer files."""
    return partial(over_runs, name, lambda run: check(run) if run.trains else iter(()))


def check_stage_files(run: StageEvidence) -> Iterator[Finding]:
    """Every file that a run, or an evaluation, leaves is there and can be read."""
    if run.trains:  # the scores check reports that there are no values
        yield from (finding for finding in check_schema(run) if finding.told != NO_VALUES)
        return
    reads: dict[str, Callable[[], Any]] = {"eval.json": lambda: run.evaluation}
    if not run.is_copy:
        reads[PER_QUERY_NAME] = lambda: run.values("after")
    for name, read in reads.items():
        try:
            read()
            yield Finding("schema", OK, name)
        except Unreadable as error:
            yield Finding("schema", WRONG, name, str(error).partition(": ")[2])


def check_stage_scores(run: StageEvidence) -> Iterator[Finding]:
    """Scores from the values of single queries; in a copy, which has none, those of settings from those of pairs."""
    scores, evaluated = run.evaluation["after"], run.evaluation["evaluated"]
    assert scores is not None, "the trial has finished"
    if run.is_copy:
        yield from _check_means(scores, evaluated["measures"], evaluated["languages"])
    elif not run.trains:
        expected = scores_of_queries(run.values("after"), evaluated["measures"])
        known = {name: value for name, value in scores["bias"].items() if not name.startswith("MRC")}
        yield from compare("scores", "eval.json: after", expected, {**scores, "bias": known})
    if run.trains:
        yield from check_scores(run)
    elif run.is_copy:
        yield Finding("scores", UNKNOWN, "eval.json: after", NO_VALUES)


def _check_means(scores: Scores, measures: list[str], languages: list[str]) -> Iterator[Finding]:
    pairs = [(query, passage) for query in languages for passage in languages]
    known = {"-".join(pair) for pair in pairs}
    told = f"has pairs of other languages than {', '.join(languages)}"
    yield check("scores", "eval.json: after: pairs", {*scores["pairs"]} <= known, told)
    for setting, is_one in (("monolingual", True), ("cross_lingual", False)):
        of_pairs = [scores["pairs"].get("-".join(pair), {}) for pair in pairs if (pair[0] == pair[1]) == is_one]
        expected = ranking.macro({name: found[name] for name in measures if name in found} for found in of_pairs)
        yield from compare("scores", f"eval.json: after: {setting}", expected, scores[setting])  # type: ignore[literal-required]


# What follows from the runs


def check_table(evidence: StudyEvidence) -> Iterator[Finding]:
    """Each value of `table.json` against the runs."""
    made, told = dict(evidence.table), evidence.content("table.json")
    expected, found = made.pop("rows"), told.pop("rows")
    yield from compare("table", "table.json: rows", *([row["id"] for row in rows] for rows in (expected, found)))  # type: ignore[union-attr]
    rows = {row["id"]: row for row in found}
    for row in expected:  # type: ignore[attr-defined]
        if row["id"] in rows:
            yield from _nearly("table", f"table.json: {row['id']}", row, rows[row["id"]])
    yield from _nearly("table", "table.json", made, told)


def check_fits(evidence: StudyEvidence) -> Iterator[Finding]:
    """Each value and sentence of `fits.json` against the table, rebuilt."""
    made = as_written(make_fits(evidence.study, evidence.table))
    yield from _nearly("fits", "fits.json", made, evidence.content("fits.json"))


def _nearly(check: str, place: str, expected: Any, found: Any) -> Iterator[Finding]:
    return compare(check, place, expected, found, absolute=_NEAR_NOTHING)


# The report


def check_figures(evidence: StudyEvidence) -> Iterator[Finding]:
    """The numbers of each figure of the page against the files."""
    if (page := _report(evidence, REPORT_NAME)) is None:
        yield _none("figures", evidence, REPORT_NAME)
        return
    try:
        found = figures_in(page)
    except ValueError as error:
        yield Finding("figures", WRONG, REPORT_NAME, str(error))
        return
    try:
        made = figures_of(evidence.path)
    except ImportError:
        yield Finding("figures", UNKNOWN, REPORT_NAME, _NO_LIBRARIES)
        return
    yield from compare("figures", REPORT_NAME, made, found)


def check_page(evidence: StudyEvidence) -> Iterator[Finding]:
    """Compare both texts with the texts that the files give."""
    page, text = (_report(evidence, name) for name in (REPORT_NAME, MARKDOWN_NAME))
    by = _GENERATOR.search(page or "")
    release = f"it was made by hf-hybrid {by[1]}; here is {__version__}" if by and by[1] != __version__ else None
    if page is None:
        yield _none("page", evidence, REPORT_NAME)
    else:
        yield _checked_page(evidence, page, release, by)
    if text is None:
        yield _none("page", evidence, MARKDOWN_NAME)
    else:
        yield _or_unknown(compare_texts("page", MARKDOWN_NAME, markdown_text(evidence.path), text), release)


def _checked_page(evidence: StudyEvidence, page: str, release: str | None, by: re.Match[str] | None) -> Finding:
    """Where other libraries draw, only pictures, plots and their data may be other ones."""
    if by is None:
        return Finding("page", WRONG, REPORT_NAME, "does not say which releases made it")
    try:
        made = report_text(evidence.path)
    except ImportError:
        return Finding("page", UNKNOWN, REPORT_NAME, _NO_LIBRARIES)
    whole = compare_texts("page", REPORT_NAME, made, page)
    told = {"altair": by[2], "vl-convert-python": by[3]}
    other = [name for name, version in told.items() if version != find_installed_version(name)]
    if not other or whole.status == OK or release:
        return _or_unknown(whole, release)
    words = compare_texts("page", REPORT_NAME, *(_DRAWN.sub("", found) for found in (made, page)))
    reason = f"it was drawn by {other[0]} {told[other[0]]}; here is {find_installed_version(other[0])}"
    return words if words.status == WRONG else Finding("page", UNKNOWN, REPORT_NAME, reason)


def _or_unknown(found: Finding, reason: str | None) -> Finding:
    return found if found.status == OK or reason is None else Finding(found.check, UNKNOWN, found.file, reason)


def _report(evidence: StudyEvidence, name: str) -> str | None:
    return evidence.text(name) if (evidence.path / name).is_file() else None


def _none(check: str, evidence: StudyEvidence, name: str) -> Finding:
    if evidence.is_copy:
        return Finding(check, WRONG, name, "is missing, and every copy has it")
    return Finding(check, UNKNOWN, name, _UNREPORTED)


STUDY_CHECKS: dict[str, Check] = {
    "manifest": check_files,
    "study": check_study,
    "schema": partial(over_runs, "schema", check_stage_files),
    "plan": _each("plan", check_plan),
    "resources": _each("resources", check_resources),
    "scores": partial(over_runs, "scores", check_stage_scores),
    "events": _each("events", check_events),
    "table": check_table,
    "fits": check_fits,
    "figures": check_figures,
    "page": check_page,
}


def check_study_folder(folder: str | os.PathLike[str], names: Sequence[str] = ()) -> Iterator[Finding]:
    """Run the checks of a study, or of a copy.

    Args:
        folder (`str` or `Path`): The study.
        names (`Sequence[str]`, *optional*): Only these of `STUDY_CHECKS`; all by default.
    """
    source = Path(folder)
    try:
        with open_study(source) as path:
            evidence = StudyEvidence(path, source)
            for name in names or STUDY_CHECKS:
                yield from run_check(name, STUDY_CHECKS[name], evidence)
    except DamagedArchive as error:
        yield from run_check("manifest", check_files, StudyEvidence(source, source))
        yield Finding("schema", WRONG, TRIALS_NAME, str(error))


# Made again


def refuse_study_rerun(folder: str | os.PathLike[str]) -> None:
    """Refuse `--rerun`: a study is many runs, and has a command of its own.

    Args:
        folder (`str` or `Path`): The study.

    Raises:
        ValueError: Always, with the command.
    """
    study: Study = StudyFolder(folder).read("study.json")
    budget, target = study["budget"], study["budget"]["target"]
    options = {
        "study_dir": "NEW",
        "languages": ",".join(study["language_sets"]),
        "order": ",".join(study["language_order"]),
        "arms": ",".join(study["arms"]),
        "seeds": ",".join(map(str, study["seeds"])),
        "budget": budget["type"],
        "budget_value": budget["value"],
        "target": target and f"{target['measure']}={target['value']}",
        "eval_every": study["eval_every"],
    }
    words = " ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
    raise ValueError(
        "--rerun is of a single run. A study is made again by its own command, with the corpora and settings that "
        f"study.json tells of: python recipes/scale.py {words}"
    )
