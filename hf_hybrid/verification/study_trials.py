"""The grid of a study against what it was asked for, and each run against what its trial asks for."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from hf_hybrid.data.batches.mix import MixConfig
from hf_hybrid.scaling.grid.arms import ARMS, Shared, grid, stages_of
from hf_hybrid.scaling.grid.folder import Study
from hf_hybrid.scaling.report.copy import build_published_trial
from hf_hybrid.utils.redaction import publishable

from .findings import OK, UNKNOWN, Finding, check, compare
from .study_evidence import ALL_TRIALS, StageEvidence, StudyEvidence, over_runs

# Options that are paths: their last parts are compared, for a study may have been moved, and a copy has no more.
_PLACES = ("model", "model_name_or_path", "corpus", "train_corpus", "eval_corpus", "output_dir", "cache_dir")
_OF_A_STAGE = {
    *("config", "model_name_or_path", "languages", "seed", "max_steps", "evaluate_before", "eval_strategy"),
    *("eval_steps", "output_dir", "mix", "cache_dir"),
}
_OF_AN_EVALUATION = {"model", "output_dir", "bm25"}
_SHARES = ("logging_steps", "save_steps")  # that may be given as a share of all steps
_TEXTS = "texts are not read; for those of a run: verify.py STUDY/trials/ID --train_corpus FOLDER --eval_corpus FOLDER"
_TOKENS = "they need the texts and the tokenizer of the base model"
_BUDGET = "how many steps fit a budget of {} was found out by runs that are not kept"


def check_study(evidence: StudyEvidence) -> Iterator[Finding]:
    """`study.json` against itself, and each trial and run against it."""
    study = evidence.study
    unknown = [arm for arm in study["arms"] if arm not in ARMS]
    yield check("study", "study.json: arms", not unknown, f"there is no arm {', '.join(unknown)}")
    if unknown:
        return
    yield from _check_asked(study)
    yield from _check_grid(study)
    yield from _check_folders(evidence)
    yield from over_runs("study", check_run, evidence)
    yield from _check_alike(evidence)
    yield Finding("study", UNKNOWN, "study.json: tokens", _TOKENS)
    yield Finding("study", UNKNOWN, "study.json: corpus", _TEXTS)


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
        yield Finding("study", UNKNOWN, "study.json: budget: steps", _BUDGET.format(budget["type"]))


def _check_grid(study: Study) -> Iterator[Finding]:
    """The trials with their commands are those of arms, sets and seeds."""
    sets = {int(count): languages for count, languages in study["language_sets"].items()}
    corpus, base = list(study["corpus"]["train"]["items_per_language"]), study["base"]["model_name_or_path"]
    trials, absent = grid(study["arms"], sets, study["seeds"], corpus, from_scratch=base is None)
    names = [trial["id"] for trial in study["trials"]]
    yield from compare("study", "study.json: trials", [trial["id"] for trial in trials], names)
    yield from compare("study", "study.json: absent", absent, study["absent"])
    shared, budget, found = _shared(study), study["budget"], {trial["id"]: trial for trial in study["trials"]}
    for trial in trials:
        if trial["id"] in found:
            trial["stages"] = stages_of(trial, shared, budget["steps"], budget["mlm_steps"])
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


def _check_folders(evidence: StudyEvidence) -> Iterator[Finding]:
    """Check that finished trials have finished, that failed ones say how, and that there are no others."""
    folder, trials = evidence.studies, {trial["id"]: trial for trial in evidence.study["trials"]}
    told = {row["id"]: row["status"] for row in evidence.content("table.json")["rows"]}
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
    others = sorted({path.name for path in evidence.path.glob("trials/*") if path.is_dir()} - set(trials))
    for name in others:
        yield check("study", f"trials/{name}", False, "is no trial of study.json")


def check_run(run: StageEvidence) -> Iterator[Finding]:
    """A run, or an evaluation, against what its trial and the study ask for.

    Args:
        run (`StageEvidence`): Its files.
    """
    evaluated, study = run.evaluation["evaluated"], run.study
    if run.trains:
        yield from _check_training(run)
    else:
        place = "eval.json: evaluated: arguments"
        yield from _check_options(place, run.stage["options"], evaluated["arguments"])
    expected = {"corpus_fingerprint": study["corpus"]["eval"]["fingerprint"], "languages": study["eval_languages"]}
    yield from compare("study", "eval.json: evaluated", expected, {name: evaluated[name] for name in expected})


def _check_training(run: StageEvidence) -> Iterator[Finding]:
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
        if name in _PLACES:
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


def _check_alike(evidence: StudyEvidence) -> Iterator[Finding]:
    """What runs have the same of: the questions, the model and, in the same languages, the corpus."""
    groups: dict[Hashable, list[tuple[str, Any]]] = defaultdict(list)
    for run in evidence.runs:
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


def _shared_of(run: StageEvidence) -> Iterator[tuple[Hashable, str, Any]]:
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
