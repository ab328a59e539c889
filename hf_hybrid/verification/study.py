"""Check a study, or its copy: every run, and whatever follows from the runs.

| check | what is compared |
|---|---|
| `manifest` | every file of a copy with size and SHA-256 |
| `study` | `study.json` with the grid that follows from it, and each run with what its trial asks for |
| `schema`, `plan`, `resources`, `scores`, `events` | each run, as for a run folder |
| `table`, `fits`, `figures`, `page` | `table.json`, `fits.json`, `report.html` and `report.md`, rebuilt |
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from hf_hybrid import __version__
from hf_hybrid.data.batches.mix import MixConfig
from hf_hybrid.evaluation.aggregate import scores_of_queries
from hf_hybrid.hub.model_card import CARD_NAME
from hf_hybrid.metrics.beir_cross_lingual import ranking
from hf_hybrid.records.archive import TRIALS_NAME, DamagedArchive
from hf_hybrid.records.environment import find_installed_version
from hf_hybrid.records.schema import MANIFEST_NAME, PER_QUERY_NAME, Scores
from hf_hybrid.scaling.grid.arms import ARMS, Shared, Stage, Trial, build_grid, build_stages
from hf_hybrid.scaling.grid.fits import make_fits
from hf_hybrid.scaling.grid.folder import Study, StudyFolder
from hf_hybrid.scaling.grid.table import Table, make_table
from hf_hybrid.scaling.report.copy import COPY_NAMES, build_published_trial, is_copy, names_of, open_study
from hf_hybrid.scaling.report.figures import PROFILE_NAME
from hf_hybrid.scaling.report.page import (
    MARKDOWN_NAME,
    REPORT_NAME,
    figures_in,
    figures_of,
    markdown_text,
    report_text,
)
from hf_hybrid.utils.redaction import publishable

from . import raw_files, rebuild
from .files import Check, RunFiles, run_check
from .findings import OK, UNKNOWN, WRONG, Finding, check, compare, compare_texts

ALL_TRIALS = "trials/*"
NO_VALUES = "a copy of a study has no values of single queries, which scores follow from; the study itself has them"
_NEAR_NOTHING = 1e-12  # difference of almost equal values on machines that add up in another order
_GENERATOR = re.compile(
    r'<meta name="generator" content="hf-hybrid ([^",]*), altair ([^",]*), vl-convert-python ([^",]*)">'
)
_DRAWN = re.compile(r'<meta name="generator"[^>]*>|src="data:image/svg[^"]*"|<script[^>]*>.*?</script>', re.DOTALL)
_UNREPORTED = "there is none yet: python recipes/report.py STUDY writes it"
_NO_LIBRARIES = 'altair and vl-convert are not installed here: pip install ".[report]", in a clone'
# Options that are paths: their last parts are compared, since a study may have been moved and a copy has no more.
_PATHS = ("model", "model_name_or_path", "corpus", "train_corpus", "eval_corpus", "output_dir", "cache_dir")
_OF_A_STAGE = {
    *("config", "model_name_or_path", "languages", "seed", "max_steps", "evaluate_before", "eval_strategy"),
    *("eval_steps", "output_dir", "mix", "cache_dir"),
}
_OF_AN_EVALUATION = {"model", "output_dir", "bm25"}
_SHARES = ("logging_steps", "save_steps")  # may be given as a share of all steps


class StudyFiles(RunFiles):
    """The files of a study. No texts are read.

    Args:
        path (`Path`): The study, or the unpacked files of a copy.
        source (`Path`): The folder that is verified.
    """

    def __init__(self, path: Path, source: Path) -> None:
        super().__init__(path, path)
        self.source, self.studies, self.is_copy = source, StudyFolder(path), is_copy(source)

    @cached_property
    def study(self) -> Study:
        return self.content("study.json")

    def content(self, name: str) -> Any:
        """Return a JSON file that is the study's own."""
        return self._read(name, lambda: self.studies.read(name))

    @cached_property
    def table(self) -> Table:
        """`table.json`, rebuilt."""
        return _as_json(make_table(self.studies, self.study))

    @cached_property
    def stages(self) -> list[StageFiles]:
        """Every stage of the finished trials."""
        trials = [trial for trial in self.study["trials"] if self.studies.status(trial) == "finished"]
        return [StageFiles(self, trial, stage) for trial in trials for stage in trial["stages"]]

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if (self.path / name).is_file() else None


class StageFiles(RunFiles):
    """The files of a stage of a trial: of a training run, or of an evaluation alone."""

    def __init__(self, whole: StudyFiles, trial: Trial, stage: Stage) -> None:
        path = whole.studies.stage_path(stage)
        super().__init__(path, path)
        self.study, self.trial, self.stage, self.is_copy = whole.study, trial, stage, whole.is_copy
        self.place = path.relative_to(whole.path).as_posix()
        self.trains = stage["name"] != "eval"

    def values(self, when: str) -> pa.Table:
        """Return values of single queries; an evaluation alone has them beside its scores."""
        if self.trains:
            return super().values(when)
        return self._read(PER_QUERY_NAME, lambda: pyarrow.parquet.read_table(self.path / PER_QUERY_NAME))

    def explain_missing_values(self, when: str) -> str | None:
        """Say why there are no values of single queries."""
        return NO_VALUES if self.is_copy else super().explain_missing_values(when)


def check_stages(
    name: str, check: Callable[[StageFiles], Iterator[Finding]], only_training: bool, files: StudyFiles
) -> Iterator[Finding]:
    """Run a check for every stage of a study.

    What is wrong is reported with the folder of its run. What is right is reported for all runs together, and what is
    not known once for each place in a run, with the first run and the number of runs.
    """
    unknown: dict[str, list[tuple[StageFiles, Finding]]] = {}
    for stage in files.stages:
        for finding in run_check(name, check, stage) if stage.trains or not only_training else ():
            if finding.status == UNKNOWN:
                unknown.setdefault(finding.place, []).append((stage, finding))
            else:
                folder = ALL_TRIALS if finding.status == OK else stage.place
                yield finding._replace(place=f"{folder}/{finding.place}")
    for place, found in unknown.items():
        stage, first = found[0]
        more = f" (of {stage.place} and {len(found) - 1} more)" if len(found) > 1 else f" (of {stage.place})"
        yield first._replace(place=f"{ALL_TRIALS}/{place}", told=first.told + more)


def _as_json(value: Any) -> Any:
    """Return a value as JSON has it: texts as keys, and lists."""
    return json.loads(json.dumps(value))


# Files


def check_files(files: StudyFiles) -> Iterator[Finding]:
    """Compare every file of a copy with its manifest."""
    if not files.is_copy:
        told = "only a copy has one, of recipes/report.py --copy_to: nothing tells what the files of the study were"
        yield Finding("manifest", UNKNOWN, MANIFEST_NAME, told)
        return
    skipped = (MANIFEST_NAME, CARD_NAME)  # the card is that of a repository
    found = [path.name for path in files.source.iterdir() if path.name[0] != "." and path.name not in skipped]
    yield from raw_files.compare_manifest("manifest", files.source / MANIFEST_NAME, files.source, found)
    for name in sorted({*COPY_NAMES} - {*found}):
        yield Finding("manifest", WRONG, name, "is missing")
    unpacked = {path.relative_to(files.path).as_posix() for path in files.path.glob("trials/**/*") if path.is_file()}
    extra = {*found} - {*COPY_NAMES, PROFILE_NAME} | unpacked - {*names_of(files.studies, files.study)}
    for name in sorted(extra):
        yield Finding("manifest", WRONG, name, "is no part of a copy")


def check_stage_schema(stage: StageFiles) -> Iterator[Finding]:
    """Read every file that a run, or an evaluation, leaves."""
    if stage.trains:  # the scores check reports that there are no values
        yield from (finding for finding in raw_files.check_schema(stage) if finding.told != NO_VALUES)
        return
    reads: dict[str, Callable[[], Any]] = {"eval.json": lambda: stage.evaluation}
    yield from raw_files.read_all(
        stage.path, reads if stage.is_copy else {**reads, PER_QUERY_NAME: lambda: stage.values("after")}
    )


def check_stage_resources(stage: StageFiles) -> Iterator[Finding]:
    """Check the costs of a run, as for a run folder."""
    yield from rebuild.check_resources(stage)
    yield from raw_files.check_lines(stage)


def check_stage_scores(stage: StageFiles) -> Iterator[Finding]:
    """Rebuild scores from the values of single queries; in a copy, which has none, means from those of the pairs."""
    scores, evaluated = stage.evaluation["after"], stage.evaluation["evaluated"]
    assert scores is not None, "the trial has finished"
    if stage.is_copy:
        yield from _check_means(scores, evaluated["measures"], evaluated["languages"])
    elif not stage.trains:
        expected = scores_of_queries(stage.values("after"), evaluated["measures"])
        yield from rebuild.compare_scores("eval.json: after", expected, scores)
    if stage.trains:
        yield from rebuild.check_scores(stage)
    elif stage.is_copy:
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


# study.json and the runs


def check_study(files: StudyFiles) -> Iterator[Finding]:
    """`study.json` against itself, and each trial and run against it."""
    study = files.study
    unknown = [arm for arm in study["arms"] if arm not in ARMS]
    yield check("study", "study.json: arms", not unknown, f"there is no arm {', '.join(unknown)}")
    if unknown:
        return
    yield from _check_asked(study)
    yield from _check_grid(study)
    yield from _check_folders(files)
    yield from check_stages("study", check_run, False, files)
    yield from _check_alike(files)
    yield Finding("study", UNKNOWN, "study.json: tokens", "they need the texts and the tokenizer of the base model")
    told = "texts are not read; for a run: verify.py STUDY/trials/ID --train_corpus FOLDER --eval_corpus FOLDER"
    yield Finding("study", UNKNOWN, "study.json: corpus", told)


# study.json


def _check_asked(study: Study) -> Iterator[Finding]:
    """Sets of languages are nested, the evaluation is in the languages of its corpus, and all take the same steps."""
    order, budget = study["language_order"], study["budget"]
    sets = {count: order[: int(count)] for count in study["language_sets"]}
    yield from compare("study", "study.json: language_sets", sets, study["language_sets"])
    languages = list(study["corpus"]["eval"]["items_per_language"])
    yield from compare("study", "study.json: eval_languages", languages, study["eval_languages"])
    if budget["type"] == "steps":
        steps = dict.fromkeys(budget["steps"], budget["value"])
        yield from compare("study", "study.json: budget: steps", steps, budget["steps"])
    else:
        told = f"how many steps fit a budget of {budget['type']} was found by runs that are not kept"
        yield Finding("study", UNKNOWN, "study.json: budget: steps", told)


def _check_grid(study: Study) -> Iterator[Finding]:
    """The trials with their commands are those of arms, sets and seeds."""
    sets = {int(count): languages for count, languages in study["language_sets"].items()}
    corpus, base = list(study["corpus"]["train"]["items_per_language"]), study["base"]["model_name_or_path"]
    trials, absent = build_grid(study["arms"], sets, study["seeds"], corpus, from_scratch=base is None)
    names = [trial["id"] for trial in study["trials"]]
    yield from compare("study", "study.json: trials", [trial["id"] for trial in trials], names)
    yield from compare("study", "study.json: absent", absent, study["absent"])
    shared, budget, found = _shared(study), study["budget"], {trial["id"]: trial for trial in study["trials"]}
    for trial in trials:
        if trial["id"] in found:
            trial["stages"] = build_stages(trial, shared, budget["steps"], budget["mlm_steps"])
            expected, told = build_published_trial(trial), build_published_trial(found[trial["id"]])
            yield from compare("study", f"study.json: trials: {trial['id']}", expected, told)


def _shared(study: Study) -> Shared:
    """What the first trials say of what all have the same of: each trial is compared with it."""
    stages = [stage for trial in study["trials"] for stage in trial["stages"]]
    training: dict[str, str] = next((stage["options"] for stage in stages if stage["name"] != "eval"), {})
    evaluation: dict[str, str] = next((stage["options"] for stage in stages if stage["name"] == "eval"), {})
    return Shared(
        {name: value for name, value in training.items() if name not in _OF_A_STAGE},
        {name: value for name, value in evaluation.items() if name not in _OF_AN_EVALUATION},
        study["base"]["model_name_or_path"],
        study["eval_every"],
        "cache_dir" in training,
    )


# trials/


def _check_folders(files: StudyFiles) -> Iterator[Finding]:
    """Check that finished trials have finished, that failed ones say how, and that there are no others."""
    folder, trials = files.studies, {trial["id"]: trial for trial in files.study["trials"]}
    told = {row["id"]: row["status"] for row in files.content("table.json")["rows"]}
    for name, trial in trials.items():
        status = folder.status(trial)
        reason = f"it is {told.get(name)} by table.json, and {status} by its files"
        place = f"trials/{name}" if status != told.get(name) else ALL_TRIALS
        yield check("study", place, status == told.get(name), reason)
        if (folder.trial_path(trial) / "failure.json").exists():
            failure = folder.read_failure(trial)
            holds = failure["returncode"] != 0 and status != "finished"
            holds &= failure["stage"] in [stage["name"] for stage in trial["stages"]]
            reason = f"found {failure['stage']!r} that ended with {failure['returncode']}, of a trial that is {status}"
            place = f"{ALL_TRIALS if holds else f'trials/{name}'}/failure.json"
            yield check("study", place, holds, reason)
    others = sorted({path.name for path in files.path.glob("trials/*") if path.is_dir()} - set(trials))
    for name in others:
        yield check("study", f"trials/{name}", False, "is no trial of study.json")


def check_run(run: StageFiles) -> Iterator[Finding]:
    """A run, or an evaluation, against what its trial and the study ask for.

    Args:
        run (`StageFiles`): Its files.
    """
    evaluated, study = run.evaluation["evaluated"], run.study
    if run.trains:
        yield from _check_training(run)
    else:
        place = "eval.json: evaluated: arguments"
        yield from _check_options(place, run.stage["options"], evaluated["arguments"])
    expected = {"corpus_fingerprint": study["corpus"]["eval"]["fingerprint"], "languages": study["eval_languages"]}
    yield from compare("study", "eval.json: evaluated", expected, {name: evaluated[name] for name in expected})


def _check_training(run: StageFiles) -> Iterator[Finding]:
    told, study, options = run.run, run.study, dict(run.stage["options"])
    options.pop("config")  # whose settings study.json has
    settings = study["mlm_settings" if run.stage["name"] == "mlm" else "train_settings"]
    known = {name: value for name, value in settings.items() if name not in options and name in told["config"]}
    yield from _check_options("run.json: config", known | options, told["config"])
    yield from compare("study", "run.json: status", "finished", told["status"])
    mix = "mlm" if run.stage["name"] == "mlm" else str(MixConfig.parse(options["mix"]))
    yield from compare("study", "run.json: mix", mix, told["mix"])
    corpus, whole = told["corpus"], study["corpus"]["train"]
    items = {code: whole["items_per_language"].get(code) for code in run.trial["languages"]}
    yield from compare("study", "run.json: corpus: items_per_language", items, corpus["items_per_language"])
    if list(whole["items_per_language"]) == run.trial["languages"]:  # else it is a part, with a fingerprint of its own
        place = "run.json: corpus: fingerprint"
        yield from compare("study", place, whole["fingerprint"], corpus["fingerprint"])
    found = told["identity"]["corpus"]
    yield from compare("study", "run.json: identity: corpus", corpus["fingerprint"], found)


def _check_options(place: str, asked: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Options of a command line, or settings of a file, against what the recipe read, but for lists and the like."""
    for name, value in asked.items():
        told = found.get(name)
        if value is None or isinstance(told, list | dict):
            continue
        if name in _PATHS:
            value, told = (PurePath(str(text)).name for text in (value, told))
        if name in _SHARES and 0 < float(value) < 1:
            value = math.ceil(float(value) * found["max_steps"])
        yield from compare("study", f"{place}: {name}", publishable(_read_as(value, told)), publishable(told))


def _read_as(asked: Any, found: Any) -> Any:
    """A word of a command line as a value of the type that was found.

    Example:

        >>> _read_as("8", 8), _read_as("true", True), _read_as("2e-3", 0.002), _read_as("none", None)
        (8.0, True, 0.002, None)
    """
    text = str(asked)
    if isinstance(found, bool):
        return text.lower() in ("true", "yes", "t", "y", "1")
    if isinstance(found, int | float):
        try:
            return float(text)
        except ValueError:
            return text
    return None if found is None and text.lower() in ("none", "null", "") else text


def _check_alike(files: StudyFiles) -> Iterator[Finding]:
    """What runs have the same of: the questions, the model and, in the same languages, the corpus."""
    groups: dict[Hashable, list[tuple[str, Any]]] = defaultdict(list)
    for run in files.stages:
        evaluated, scores = run.evaluation["evaluated"], run.evaluation["after"]
        asked = {name: evaluated.get(name) for name in ("settings", "measures", "max_queries")}
        groups["evaluated"].append((f"{run.place}/eval.json: evaluated", asked))
        number = scores and scores["num_queries"]
        groups["num_queries"].append((f"{run.place}/eval.json: after: num_queries", number))
        if run.trains:
            for key, place, value in _shared_of(run):
                groups[key].append((f"{run.place}/run.json: {place}", value))
    for values in groups.values():
        yield from _alike(values)


def _shared_of(run: StageFiles) -> Iterator[tuple[Hashable, str, Any]]:
    """Of a training: which others have the same of it, where it stands, and what it is."""
    recipe, base = run.stage["recipe"], run.stage["options"]["model_name_or_path"]
    told, model = run.run, run.run.get("model", {})
    size = {name: value for name, value in model.items() if name not in ("commit", "step")}
    yield ("model", recipe), "model", size
    by_seed = run.trial["seed"] if recipe == "mlm.py" else None  # a head that the checkpoint lacks is drawn by seed
    yield ("start", recipe, base, by_seed), "identity: model", told["identity"]["model"]
    yield ("corpus", *run.trial["languages"]), "corpus: fingerprint", told["corpus"]["fingerprint"]


def _alike(values: list[tuple[str, Any]]) -> Iterator[Finding]:
    """Each against what most of them say."""
    [(most, _)] = Counter(json.dumps(value, sort_keys=True) for _, value in values).most_common(1)
    for place, value in values:
        for finding in compare("study", place, json.loads(most), value):
            inner = "/".join([ALL_TRIALS, place.rpartition("/")[2]])
            yield finding._replace(place=inner) if finding.status == OK else finding


# What follows from the runs


def check_table(files: StudyFiles) -> Iterator[Finding]:
    """Each value of `table.json` against the runs."""
    made, told = dict(files.table), files.content("table.json")
    expected, found = made.pop("rows"), told.pop("rows")
    yield from compare("table", "table.json: rows", *([row["id"] for row in rows] for rows in (expected, found)))  # type: ignore[union-attr]
    rows = {row["id"]: row for row in found}
    for row in expected:  # type: ignore[attr-defined]
        if row["id"] in rows:
            yield from _nearly("table", f"table.json: {row['id']}", row, rows[row["id"]])
    yield from _nearly("table", "table.json", made, told)


def check_fits(files: StudyFiles) -> Iterator[Finding]:
    """Each value and sentence of `fits.json` against the table, rebuilt."""
    made = _as_json(make_fits(files.study, files.table))
    yield from _nearly("fits", "fits.json", made, files.content("fits.json"))


def _nearly(check: str, place: str, expected: Any, found: Any) -> Iterator[Finding]:
    return compare(check, place, expected, found, absolute=_NEAR_NOTHING)


# The report


def check_figures(files: StudyFiles) -> Iterator[Finding]:
    """The numbers of each figure of the page against the files."""
    if (page := files.optional_text(REPORT_NAME)) is None:
        yield _none("figures", files, REPORT_NAME)
        return
    try:
        found = figures_in(page)
    except ValueError as error:
        yield Finding("figures", WRONG, REPORT_NAME, str(error))
        return
    try:
        made = figures_of(files.path)
    except ImportError:
        yield Finding("figures", UNKNOWN, REPORT_NAME, _NO_LIBRARIES)
        return
    yield from compare("figures", REPORT_NAME, made, found)


def check_page(files: StudyFiles) -> Iterator[Finding]:
    """Compare both texts with the texts that the files give."""
    page, text = (files.optional_text(name) for name in (REPORT_NAME, MARKDOWN_NAME))
    by = _GENERATOR.search(page or "")
    release = f"it was made by hf-hybrid {by[1]}; here is {__version__}" if by and by[1] != __version__ else None
    if page is None:
        yield _none("page", files, REPORT_NAME)
    else:
        yield _checked_page(files, page, release, by)
    if text is None:
        yield _none("page", files, MARKDOWN_NAME)
    else:
        yield _or_unknown(compare_texts("page", MARKDOWN_NAME, markdown_text(files.path), text), release)


def _checked_page(files: StudyFiles, page: str, release: str | None, by: re.Match[str] | None) -> Finding:
    """Where other libraries draw, only pictures, plots and their data may be other ones."""
    if by is None:
        return Finding("page", WRONG, REPORT_NAME, "does not say which releases made it")
    try:
        made = report_text(files.path)
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


def _none(check: str, files: StudyFiles, name: str) -> Finding:
    if files.is_copy:
        return Finding(check, WRONG, name, "is missing, and every copy has it")
    return Finding(check, UNKNOWN, name, _UNREPORTED)


STUDY_CHECKS: dict[str, Check] = {
    "manifest": check_files,
    "study": check_study,
    "schema": partial(check_stages, "schema", check_stage_schema, False),
    "plan": partial(check_stages, "plan", raw_files.check_plan, True),
    "resources": partial(check_stages, "resources", check_stage_resources, True),
    "scores": partial(check_stages, "scores", check_stage_scores, False),
    "events": partial(check_stages, "events", raw_files.check_events, True),
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
            files = StudyFiles(path, source)
            for name in names or STUDY_CHECKS:
                yield from run_check(name, STUDY_CHECKS[name], files)
    except DamagedArchive as error:
        yield from run_check("manifest", check_files, StudyFiles(source, source))
        yield Finding("schema", WRONG, TRIALS_NAME, str(error))


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
