"""Rebuild the derived files of a run with the functions that wrote them, and compare.

| derived file | function |
|---|---|
| `resources.json` | `records.resources.build_resources` of the lines of `resources.jsonl` |
| scores of `eval.json` | `evaluation.aggregate.scores_of_queries` of the scores of single queries |
| `README.md`, `pictures/`, `.eval_results/` | `hub.model_card`: `build_card`, `build_pictures`, `build_eval_results` |
| `plan.json`, and the plan of `run.json` | `HybridSchedule` of the corpus, if it is available |
| corpus of `run.json`, `evaluated` of `eval.json` | the opened corpora |
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_hybrid import __version__
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.evaluation.aggregate import scores_of_queries
from hf_hybrid.hub.bundle import LOCK_NAME, compare_versions, list_bundle
from hf_hybrid.hub.model_card import (
    CARD_NAME,
    EVAL_RESULTS_NAME,
    PICTURES_NAME,
    build_card,
    build_eval_results,
    build_pictures,
    can_draw,
    list_pictures,
    read_files,
)
from hf_hybrid.records.environment import find_installed_version
from hf_hybrid.records.resources import build_resources_of_run
from hf_hybrid.records.schema import EVALUATIONS_NAME, PER_QUERY_NAME, SETTINGS
from hf_hybrid.utils.redaction import publishable

from .files import RunFiles, Unreadable
from .findings import UNKNOWN, Finding, compare, compare_texts, expect

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

_MOST_ROW_BYTES = 1024  # a row of scores has about twenty numbers, two languages and an id


def check_resources(files: RunFiles) -> Iterator[Finding]:
    """Compare `resources.json` with the sum of the lines of `resources.jsonl`."""
    yield from compare("resources", "resources.json", build_resources_of_run(files.run, files.lines), files.resources)


def check_scores(files: RunFiles) -> Iterator[Finding]:
    """Compare the scores of `eval.json` with the means of the scores of single queries."""
    evaluation = files.evaluation
    for when in ("before", "after"):
        scores, name, place = evaluation[when], f"{EVALUATIONS_NAME}/{when}/{PER_QUERY_NAME}", f"eval.json: {when}"
        if scores is None:
            yield expect("scores", place, not (files.path / name).exists(), f"is null, but {name} exists")
        elif (reason := files.explain_missing_values(when)) is not None:
            size = evaluation.get("values_bytes", {})[when]
            rows = scores["num_queries"] * (len(evaluation["evaluated"]["languages"]) + 1)
            too_large = f"the scores of {scores['num_queries']} queries do not take {size} bytes"
            yield expect("scores", f"eval.json: values_bytes: {when}", size <= _MOST_ROW_BYTES * rows, too_large)
            yield Finding("scores", UNKNOWN, place, reason)
        else:
            measures = evaluation["evaluated"]["measures"]
            expected = scores_of_queries(files.values(when), measures)
            yield from compare_scores(place, expected, scores)
            for setting in SETTINGS:
                wanted = list(measures) if dict(expected)[setting] else []
                found: list[str] = list(scores[setting])  # type: ignore[literal-required]
                yield from compare("scores", f"{place}: {setting}: measures", wanted, found)


def compare_scores(place: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare scores. The rank correlation MRC needs the rankings, which no file keeps."""
    unknown = {name for name in found["bias"] if name.startswith("MRC")}
    known = {name: value for name, value in found["bias"].items() if name not in unknown}
    yield from compare("scores", place, expected, {**found, "bias": known})
    for name in unknown:
        yield Finding("scores", UNKNOWN, f"{place}: bias: {name}", "it needs the rankings, which are not kept")


def check_card(files: RunFiles) -> Iterator[Finding]:
    """Compare the model card with the card that follows from the records."""
    _need_scores(files)
    found, expected = files.text(CARD_NAME), build_card(read_files(files.path))
    reason = None if found == expected else _find_other_version(files, "hf-hybrid")
    yield Finding("card", UNKNOWN, CARD_NAME, reason) if reason else compare_texts("card", CARD_NAME, expected, found)


def check_drawn(files: RunFiles) -> Iterator[Finding]:
    """Compare pictures and leaderboard results with those that follow from the records."""
    _need_scores(files)
    card = read_files(files.path)
    expected: dict[str, bytes | None] = {**dict.fromkeys(list_pictures(card)), **build_eval_results(card)}
    expected |= build_pictures(card) if can_draw() else {}
    folders = (f"{PICTURES_NAME}/", f"{EVAL_RESULTS_NAME}/")
    existing = [name for name in list_bundle(files.path) if name.startswith(folders)]
    for name in sorted({*existing, *expected}):
        built, found = expected.get(name), (files.path / name).read_bytes() if name in existing else None
        is_same = built is not None and built == found
        reason = None if is_same else _find_other_version(files, "hf-hybrid")
        if not is_same and name in existing and name in expected and name.startswith(PICTURES_NAME):
            reason = reason or _explain_other_drawing(files)
        if reason:
            yield Finding("drawn", UNKNOWN, name, reason)
        else:
            problem = "is missing" if found is None else "does not follow from eval.json"
            yield expect("drawn", name, is_same, problem)


def _need_scores(files: RunFiles) -> None:
    """Raise `Unreadable` if the scores that card and pictures show are missing."""
    if files.run["status"] == "finished" or (files.path / "eval.json").exists():
        _ = files.evaluation


def _explain_other_drawing(files: RunFiles) -> str | None:
    """Say why a picture drawn here may have other bytes; `None` if it may not."""
    if not can_draw():
        return "matplotlib is not installed here"
    machine = files.run["environment"]["platform"]
    if platform.system() not in machine or platform.machine() not in machine:
        return f"it was drawn on {machine}, and other machines may draw it a little differently"
    return _find_other_version(files, "matplotlib", "pillow", "numpy")


def _find_other_version(files: RunFiles, *names: str) -> str | None:
    """Name a distribution that has another version here than in the environment lock; `None` if there is none."""
    here = {name: find_installed_version(name) or "none" for name in names}
    here |= {name: __version__ for name in names if name == "hf-hybrid"}  # which may run from a checkout
    for name, version in compare_versions(here, files.text(LOCK_NAME)):
        return f"it was made by {name} {version}; here is {here[name]}"
    return None


def check_corpus(files: RunFiles) -> Iterator[Finding]:
    """Compare corpora and plan with those that are opened and planned here, if the texts are available."""
    run, evaluated = files.run, files.evaluation["evaluated"]
    corpus = run["corpus"]
    yield from compare("corpus", "run.json: corpus: fingerprint", run["identity"]["corpus"], corpus["fingerprint"])
    yield from compare("corpus", "run.json: corpus: license", corpus["source"].get("license"), corpus["license"])
    try:
        train, held_out = files.corpora
    except Unreadable as error:
        for place in ("run.json: corpus", "eval.json: evaluated", "plan.json: what the texts decide"):
            yield Finding("corpus", UNKNOWN, place, str(error))
        return
    here, then = train.source.get("revision"), corpus["source"].get("revision")
    if here != then:  # another release of the data that the corpus is built from
        yield Finding("corpus", UNKNOWN, "run.json: corpus", f"it was built from {then}, and here from {here}")
        if train.fingerprint != corpus["fingerprint"]:
            return
    counts = train.pair_counts()
    items = {name: int(counts[number, number]) for number, name in enumerate(train.languages)}
    expected = {"fingerprint": train.fingerprint, "items_per_language": items}
    yield from compare("corpus", "run.json: corpus", expected, {name: corpus[name] for name in expected})
    yield from _check_source("run.json: corpus: source", train, corpus["source"])
    expected = {"corpus_fingerprint": held_out.fingerprint, "languages": list(held_out.languages)}
    yield from compare("corpus", "eval.json: evaluated", expected, {name: evaluated[name] for name in expected})
    yield from _check_source("eval.json: evaluated: corpus", held_out, evaluated["corpus"])
    if files.is_mlm:
        reason = "its blocks follow from the texts and the model's tokenizer"
        yield Finding("corpus", UNKNOWN, "plan.json: what the texts decide", reason)
    else:
        yield from _check_schedule(files, train)


def _check_source(place: str, corpus: ParallelCorpus, recorded: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the source. A folder may have another name here, and may have lost its dataset card."""
    skipped = ("revision",) if corpus.source.get("format") in ("sample", "hub") else ("revision", "path")
    expected = {name: value for name, value in publishable(corpus.source).items() if name not in skipped}
    yield from compare("corpus", place, expected, {name: recorded[name] for name in expected if name in recorded})


def _check_schedule(files: RunFiles, corpus: ParallelCorpus) -> Iterator[Finding]:
    """Compare the plan, and pairs and languages of each line, with those of the schedule."""
    run, config = files.run, files.run["config"]
    names = ("global_batch_size", "smoothing", "language_pairs", "exclude", "max_positives")
    schedule = HybridSchedule(
        corpus,
        config["mix"],
        num_steps=config["max_steps"] * config["gradient_accumulation_steps"],
        seed=run["identity"]["data_seed"],
        **{name: config[name] for name in names},
    )
    yield from compare("corpus", "plan.json: fingerprint", schedule.fingerprint, files.plan["fingerprint"])
    yield from compare("corpus", "run.json: plan: language pairs", schedule.plan(), run["plan"]["language_pairs"])
    if schedule.fingerprint != files.plan["fingerprint"]:
        return
    for number, (line, (first, end)) in enumerate(zip(files.lines, files.spans, strict=True), start=1):
        pairs, steps = 0, Counter[str]()
        for step in range(first, end):
            batches = [schedule.batch(batch) for batch in files.batches(step, step + 1)]
            pairs += sum(len(batch.items) for batch in batches)
            parts = [part for batch in batches for part in (batch.query_languages, batch.positive_languages)]
            steps.update(corpus.languages[language] for language in np.unique(np.concatenate(parts)))
        found = {name: share["steps"] for name, share in line["per_language"].items()}
        place = f"resources.jsonl, line {number}"
        yield from compare("corpus", f"{place}: pairs", pairs, line["pairs"])
        yield from compare("corpus", f"{place}: per_language: steps", dict(steps), found)
