"""Check a study, or its copy: every run, and every file that follows from the runs.

| check | what is compared |
|---|---|
| `manifest` | every file of a copy with its size and SHA-256 |
| `study` | `study.json` with the grid that follows from it, and each run with its trial |
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
from .findings import OK, UNKNOWN, WRONG, Finding, compare, compare_texts, expect

ALL_TRIALS = "trials/*"
NO_VALUES = "a copy of a study has no scores of single queries to rebuild this from; the study itself has them"
_TINY = 1e-12  # difference of almost equal values on machines that sum in another order
_GENERATOR = re.compile(
    r'<meta name="generator" content="hf-hybrid ([^",]*), altair ([^",]*), vl-convert-python ([^",]*)">'
)
_DRAWN = re.compile(r'<meta name="generator"[^>]*>|src="data:image/svg[^"]*"|<script[^>]*>.*?</script>', re.DOTALL)
_NO_REPORT = "not written yet: python recipes/report.py STUDY writes it"
_NO_LIBRARIES = 'altair and vl-convert are not installed here: pip install ".[report]", in a clone'
# Options that are paths: only their last parts are compared, because a study may have moved and a copy has no more.
_PATHS = ("model", "model_name_or_path", "corpus", "train_corpus", "eval_corpus", "output_dir", "cache_dir")
_STAGE_OPTIONS = {
    *("config", "model_name_or_path", "languages", "seed", "max_steps", "evaluate_before", "eval_strategy"),
    *("eval_steps", "output_dir", "mix", "cache_dir"),
}
_EVALUATION_OPTIONS = {"model", "output_dir", "bm25"}
_MAY_BE_SHARES = ("logging_steps", "save_steps")  # of all steps


class StudyFiles(RunFiles):
    """The files of a study. No texts are read.

    Args:
        path (`Path`): The study, or the unpacked files of a copy.
        source (`Path`): The folder to verify.
    """

    def __init__(self, path: Path, source: Path) -> None:
        super().__init__(path, path)
        self.source, self.studies, self.is_copy = source, StudyFolder(path), is_copy(source)

    @cached_property
    def study(self) -> Study:
        return self.content("study.json")

    def content(self, name: str) -> Any:
        """Return the content of a JSON file of the study."""
        return self._read(name, lambda: self.studies.read(name))

    @cached_property
    def table(self) -> Table:
        """`table.json`, rebuilt."""
        return _convert_to_json(make_table(self.studies, self.study))

    @cached_property
    def stages(self) -> list[StageFiles]:
        """Every stage of the finished trials."""
        trials = [trial for trial in self.study["trials"] if self.studies.status(trial) == "finished"]
        return [StageFiles(self, trial, stage) for trial in trials for stage in trial["stages"]]


class StageFiles(RunFiles):
    """The files of a stage of a trial: a training run, or an evaluation alone."""

    def __init__(self, whole: StudyFiles, trial: Trial, stage: Stage) -> None:
        path = whole.studies.stage_path(stage)
        super().__init__(path, path)
        self.study, self.trial, self.stage, self.is_copy = whole.study, trial, stage, whole.is_copy
        self.place = path.relative_to(whole.path).as_posix()
        self.trains = stage["name"] != "eval"

    def values(self, when: str) -> pa.Table:
        """Return scores of single queries; an evaluation alone has them beside `eval.json`."""
        if self.trains:
            return super().values(when)
        return self._read(PER_QUERY_NAME, lambda: pyarrow.parquet.read_table(self.path / PER_QUERY_NAME))

    def explain_missing_values(self, when: str) -> str | None:
        """Say why there are no scores of single queries."""
        return NO_VALUES if self.is_copy else super().explain_missing_values(when)


def check_stages(
    name: str, check: Callable[[StageFiles], Iterator[Finding]], only_training: bool, files: StudyFiles
) -> Iterator[Finding]:
    """Run a check for every stage of a study.

    A wrong value is reported with the folder of its run. Right values are reported for all runs together. An unknown
    value is reported once for each place, with the first run and the number of runs.
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
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield first._replace(place=f"{ALL_TRIALS}/{place}", reason=f"{first.reason} (of {stage.place}{more})")


def _convert_to_json(value: Any) -> Any:
    """Return a value as JSON has it, with texts as keys."""
    return json.loads(json.dumps(value))


# The runs


def check_files(files: StudyFiles) -> Iterator[Finding]:
    """Compare every file of a copy with its manifest."""
    if not files.is_copy:
        reason = "only a copy, from recipes/report.py --copy_to, shows whether files were altered"
        yield Finding("manifest", UNKNOWN, MANIFEST_NAME, reason)
        return
    skipped = (MANIFEST_NAME, CARD_NAME)  # the card belongs to the repository
    found = [path.name for path in files.source.iterdir() if path.name[0] != "." and path.name not in skipped]
    yield from raw_files.compare_manifest("manifest", files.source / MANIFEST_NAME, files.source, found)
    for name in sorted({*COPY_NAMES} - {*found}):
        yield Finding("manifest", WRONG, name, "is missing")
    unpacked = {path.relative_to(files.path).as_posix() for path in files.path.glob("trials/**/*") if path.is_file()}
    extra = {*found} - {*COPY_NAMES, PROFILE_NAME} | unpacked - {*names_of(files.studies, files.study)}
    for name in sorted(extra):
        yield Finding("manifest", WRONG, name, "is not part of a copy")


def check_stage_schema(stage: StageFiles) -> Iterator[Finding]:
    """Read every file of a run, or of an evaluation."""
    if stage.trains:  # `scores` reports that there are no values
        yield from (finding for finding in raw_files.check_schema(stage) if finding.reason != NO_VALUES)
        return
    reads: dict[str, Callable[[], Any]] = {"eval.json": lambda: stage.evaluation}
    if not stage.is_copy:
        reads[PER_QUERY_NAME] = lambda: stage.values("after")
    yield from raw_files.read_all(stage.path, reads)


def check_stage_resources(stage: StageFiles) -> Iterator[Finding]:
    """Check the costs of a run, as for a run folder."""
    yield from rebuild.check_resources(stage)
    yield from raw_files.check_lines(stage)


def check_stage_scores(stage: StageFiles) -> Iterator[Finding]:
    """Rebuild scores from the scores of single queries; in a copy, rebuild means from the language pairs."""
    scores, evaluated = stage.evaluation["after"], stage.evaluation["evaluated"]
    assert scores is not None, "the trial is finished"
    if stage.is_copy:
        yield from _check_means(scores, evaluated["measures"], evaluated["languages"])
    if stage.trains:
        yield from rebuild.check_scores(stage)
    elif stage.is_copy:
        yield Finding("scores", UNKNOWN, "eval.json: after", NO_VALUES)
    else:
        expected = scores_of_queries(stage.values("after"), evaluated["measures"])
        yield from rebuild.compare_scores("eval.json: after", expected, scores)


def _check_means(scores: Scores, measures: list[str], languages: list[str]) -> Iterator[Finding]:
    pairs = {f"{query}-{passage}": query == passage for query in languages for passage in languages}
    reason = f"has pairs of other languages than {', '.join(languages)}"
    yield expect("scores", "eval.json: after: pairs", scores["pairs"].keys() <= pairs.keys(), reason)
    for setting, is_monolingual in (("monolingual", True), ("cross_lingual", False)):
        own = [scores["pairs"].get(name, {}) for name, is_one in pairs.items() if is_one == is_monolingual]
        expected = ranking.macro({name: found[name] for name in measures if name in found} for found in own)
        yield from compare("scores", f"eval.json: after: {setting}", expected, scores[setting])  # type: ignore[literal-required]


# study.json


def check_study(files: StudyFiles) -> Iterator[Finding]:
    """Compare `study.json` with its own grid, and each trial and run with `study.json`."""
    study = files.study
    unknown = [arm for arm in study["arms"] if arm not in ARMS]
    yield expect("study", "study.json: arms", not unknown, f"there is no arm {', '.join(unknown)}")
    if unknown:
        return
    yield from _check_settings(study)
    yield from _check_grid(study)
    yield from _check_folders(files)
    yield from check_stages("study", check_run, False, files)
    yield from _check_common_values(files)
    yield Finding("study", UNKNOWN, "study.json: tokens", "they need the texts and the tokenizer of the base model")
    reason = "texts are not read; for a run: verify.py STUDY/trials/ID --train_corpus FOLDER --eval_corpus FOLDER"
    yield Finding("study", UNKNOWN, "study.json: corpus", reason)


def _check_settings(study: Study) -> Iterator[Finding]:
    """Check that language sets are nested, evaluation has all languages of its corpus, and all take the same steps."""
    order, budget = study["language_order"], study["budget"]
    sets = {count: order[: int(count)] for count in study["language_sets"]}
    yield from compare("study", "study.json: language_sets", sets, study["language_sets"])
    languages = list(study["corpus"]["eval"]["items_per_language"])
    yield from compare("study", "study.json: eval_languages", languages, study["eval_languages"])
    if budget["type"] == "steps":
        steps = dict.fromkeys(budget["steps"], budget["value"])
        yield from compare("study", "study.json: budget: steps", steps, budget["steps"])
    else:
        reason = f"the steps of a budget of {budget['type']} come from runs that are not kept"
        yield Finding("study", UNKNOWN, "study.json: budget: steps", reason)


def _check_grid(study: Study) -> Iterator[Finding]:
    """Compare the trials and their commands with those of arms, language sets and seeds."""
    sets = {int(count): languages for count, languages in study["language_sets"].items()}
    corpus, base = list(study["corpus"]["train"]["items_per_language"]), study["base"]["model_name_or_path"]
    trials, absent = build_grid(study["arms"], sets, study["seeds"], corpus, from_scratch=base is None)
    found = {trial["id"]: trial for trial in study["trials"]}
    yield from compare("study", "study.json: trials", [trial["id"] for trial in trials], list(found))
    yield from compare("study", "study.json: absent", absent, study["absent"])
    shared, budget = _find_shared(study), study["budget"]
    for trial in trials:
        if trial["id"] in found:
            trial["stages"] = build_stages(trial, shared, budget["steps"], budget["mlm_steps"])
            published = (build_published_trial(each) for each in (trial, found[trial["id"]]))
            yield from compare("study", f"study.json: trials: {trial['id']}", *published)


def _find_shared(study: Study) -> Shared:
    """Return the options that all trials share, from the first trial that has them: each trial is compared with it."""
    stages = [stage for trial in study["trials"] for stage in trial["stages"]]
    training: dict[str, str] = next((stage["options"] for stage in stages if stage["name"] != "eval"), {})
    evaluation: dict[str, str] = next((stage["options"] for stage in stages if stage["name"] == "eval"), {})
    return Shared(
        {name: value for name, value in training.items() if name not in _STAGE_OPTIONS},
        {name: value for name, value in evaluation.items() if name not in _EVALUATION_OPTIONS},
        study["base"]["model_name_or_path"],
        study["eval_every"],
        "cache_dir" in training,
    )


def _check_folders(files: StudyFiles) -> Iterator[Finding]:
    """Check that trials have the status of `table.json`, that failed ones say how, and that there are no others."""
    folder, trials = files.studies, {trial["id"]: trial for trial in files.study["trials"]}
    recorded = {row["id"]: row["status"] for row in files.content("table.json")["rows"]}
    for name, trial in trials.items():
        status = folder.status(trial)
        is_same = status == recorded.get(name)
        reason = f"it is {recorded.get(name)} in table.json, and {status} by its files"
        yield expect("study", ALL_TRIALS if is_same else f"trials/{name}", is_same, reason)
        if (folder.trial_path(trial) / "failure.json").exists():
            failure = folder.read_failure(trial)
            holds = failure["returncode"] != 0 and status != "finished"
            holds &= failure["stage"] in [stage["name"] for stage in trial["stages"]]
            reason = f"found {failure['stage']!r} with exit status {failure['returncode']}, but the trial is {status}"
            yield expect("study", f"{ALL_TRIALS if holds else f'trials/{name}'}/failure.json", holds, reason)
    for name in sorted({path.name for path in files.path.glob("trials/*") if path.is_dir()} - set(trials)):
        yield Finding("study", WRONG, f"trials/{name}", "is not a trial of study.json")


def check_run(run: StageFiles) -> Iterator[Finding]:
    """Compare a run, or an evaluation, with its trial and the study."""
    evaluated, study = run.evaluation["evaluated"], run.study
    if run.trains:
        yield from _check_training(run)
    else:
        yield from _check_options("eval.json: evaluated: arguments", run.stage["options"], evaluated["arguments"])
    expected = {"corpus_fingerprint": study["corpus"]["eval"]["fingerprint"], "languages": study["eval_languages"]}
    yield from compare("study", "eval.json: evaluated", expected, {name: evaluated[name] for name in expected})


def _check_training(stage: StageFiles) -> Iterator[Finding]:
    run, study, options = stage.run, stage.study, dict(stage.stage["options"])
    is_mlm, corpus, whole = stage.stage["name"] == "mlm", run["corpus"], study["corpus"]["train"]
    options.pop("config")  # study.json has its settings
    settings = study["mlm_settings" if is_mlm else "train_settings"]
    known = {name: value for name, value in settings.items() if name not in options and name in run["config"]}
    yield from _check_options("run.json: config", known | options, run["config"])
    expected = {
        "status": "finished",
        "mix": "mlm" if is_mlm else str(MixConfig.parse(options["mix"])),
        "corpus: items_per_language": {
            code: whole["items_per_language"].get(code) for code in stage.trial["languages"]
        },
        "identity: corpus": corpus["fingerprint"],
    }
    found = {**run, "corpus: items_per_language": corpus["items_per_language"]}
    found["identity: corpus"] = run["identity"]["corpus"]
    if list(whole["items_per_language"]) == stage.trial["languages"]:  # a part has another fingerprint
        expected["corpus: fingerprint"], found["corpus: fingerprint"] = whole["fingerprint"], corpus["fingerprint"]
    for name, value in expected.items():
        yield from compare("study", f"run.json: {name}", value, found[name])


def _check_options(place: str, asked: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare options of a command line, or settings of a file, with the recorded arguments, except lists."""
    for name, value in asked.items():
        recorded = found.get(name)
        if value is None or isinstance(recorded, list | dict):
            continue
        if name in _PATHS:
            value, recorded = (PurePath(str(text)).name for text in (value, recorded))
        if name in _MAY_BE_SHARES and 0 < float(value) < 1:
            value = math.ceil(float(value) * found["max_steps"])
        expected = publishable(_parse_like(value, recorded))
        yield from compare("study", f"{place}: {name}", expected, publishable(recorded))


def _parse_like(asked: Any, found: Any) -> Any:
    """Parse a word of a command line as a value of another value's type.

    Example:

        >>> _parse_like("8", 8), _parse_like("true", True), _parse_like("2e-3", 0.002), _parse_like("none", None)
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


def _check_common_values(files: StudyFiles) -> Iterator[Finding]:
    """Compare values that runs share: the queries, the model, and, for the same languages, the corpus."""
    groups: dict[Hashable, list[tuple[str, Any]]] = defaultdict(list)
    for stage in files.stages:
        evaluated, scores = stage.evaluation["evaluated"], stage.evaluation["after"]
        asked = {name: evaluated.get(name) for name in ("settings", "measures", "max_queries")}
        groups["evaluated"].append((f"{stage.place}/eval.json: evaluated", asked))
        number = scores and scores["num_queries"]
        groups["num_queries"].append((f"{stage.place}/eval.json: after: num_queries", number))
        if stage.trains:
            for key, place, value in _list_common_values(stage):
                groups[key].append((f"{stage.place}/run.json: {place}", value))
    for values in groups.values():
        [(most, _)] = Counter(json.dumps(value, sort_keys=True) for _, value in values).most_common(1)
        for place, value in values:
            for finding in compare("study", place, json.loads(most), value):
                inner = "/".join([ALL_TRIALS, place.rpartition("/")[2]])
                yield finding._replace(place=inner) if finding.status == OK else finding


def _list_common_values(stage: StageFiles) -> Iterator[tuple[Hashable, str, Any]]:
    """Yield the group of runs that share a value, its place, and the value."""
    recipe, base, run = stage.stage["recipe"], stage.stage["options"]["model_name_or_path"], stage.run
    size = {name: value for name, value in run["model"].items() if name not in ("commit", "step")}
    yield ("model", recipe), "model", size
    seed = stage.trial["seed"] if recipe == "mlm.py" else None  # the seed draws a head that the checkpoint lacks
    yield ("start", recipe, base, seed), "identity: model", run["identity"]["model"]
    yield ("corpus", *stage.trial["languages"]), "corpus: fingerprint", run["corpus"]["fingerprint"]


# Files that follow from the runs


def check_table(files: StudyFiles) -> Iterator[Finding]:
    """Compare each value of `table.json` with the runs."""
    tables: list[Any] = [dict(files.table), files.content("table.json")]
    rows = [{row["id"]: row for row in table.pop("rows")} for table in tables]
    yield from compare("table", "table.json: rows", *map(list, rows))
    for name, row in rows[0].items():
        if name in rows[1]:
            yield from compare("table", f"table.json: {name}", row, rows[1][name], absolute=_TINY)
    yield from compare("table", "table.json", *tables, absolute=_TINY)


def check_fits(files: StudyFiles) -> Iterator[Finding]:
    """Compare each value and sentence of `fits.json` with the table."""
    expected = _convert_to_json(make_fits(files.study, files.table))
    yield from compare("fits", "fits.json", expected, files.content("fits.json"), absolute=_TINY)


def check_figures(files: StudyFiles) -> Iterator[Finding]:
    """Compare the numbers of each figure of the page with the files."""
    if (missing := _find_missing("figures", files, REPORT_NAME)) is not None:
        yield missing
        return
    found = figures_in(files.text(REPORT_NAME))
    try:
        expected = figures_of(files.path)
    except ImportError:
        yield Finding("figures", UNKNOWN, REPORT_NAME, _NO_LIBRARIES)
        return
    yield from compare("figures", REPORT_NAME, expected, found)


def check_page(files: StudyFiles) -> Iterator[Finding]:
    """Compare the page and its summary with those that follow from the files."""
    page = None
    if (missing := _find_missing("page", files, REPORT_NAME)) is None:
        page = files.text(REPORT_NAME)
    by = _GENERATOR.search(page or "")
    release = f"it was made by hf-hybrid {by[1]}; here is {__version__}" if by and by[1] != __version__ else None
    yield missing or _compare_page(files, page or "", release, by)
    if (missing := _find_missing("page", files, MARKDOWN_NAME)) is not None:
        yield missing
    else:
        found = compare_texts("page", MARKDOWN_NAME, markdown_text(files.path), files.text(MARKDOWN_NAME))
        yield _excuse(found, release)


def _compare_page(files: StudyFiles, page: str, release: str | None, by: re.Match[str] | None) -> Finding:
    """Compare the page. If other libraries drew it, only pictures, plots and their data may differ."""
    if by is None:
        return Finding("page", WRONG, REPORT_NAME, "does not name the releases that made it")
    try:
        expected = report_text(files.path)
    except ImportError:
        return Finding("page", UNKNOWN, REPORT_NAME, _NO_LIBRARIES)
    whole = compare_texts("page", REPORT_NAME, expected, page)
    versions = {"altair": by[2], "vl-convert-python": by[3]}
    other = [name for name, version in versions.items() if version != find_installed_version(name)]
    if not other or whole.status == OK or release:
        return _excuse(whole, release)
    words = compare_texts("page", REPORT_NAME, *(_DRAWN.sub("", found) for found in (expected, page)))
    reason = f"it was drawn by {other[0]} {versions[other[0]]}; here is {find_installed_version(other[0])}"
    return words if words.status == WRONG else Finding("page", UNKNOWN, REPORT_NAME, reason)


def _excuse(found: Finding, reason: str | None) -> Finding:
    """Return a wrong finding as unknown if there is a reason."""
    return found if found.status == OK or reason is None else Finding(found.check, UNKNOWN, found.file, reason)


def _find_missing(check: str, files: StudyFiles, name: str) -> Finding | None:
    if (files.path / name).is_file():
        return None
    if files.is_copy:
        return Finding(check, WRONG, name, "is missing, and every copy has it")
    return Finding(check, UNKNOWN, name, _NO_REPORT)


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
        names (`Sequence[str]`, *optional*): Some of `STUDY_CHECKS`; all by default.
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
    """Refuse `--rerun` for a study, which has a command of its own.

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
        "--rerun repeats a single run. To repeat a study, give its own command with the corpora and settings of "
        f"study.json: python recipes/scale.py {words}"
    )
