"""The scores of `eval.json`, from the values of single queries; and the end of `curve.jsonl`, which repeats them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_hybrid.evaluation.aggregate import scores_of_queries
from hf_hybrid.records.schema import EVALUATIONS_NAME, PER_QUERY_NAME, Evaluation, Scores
from hf_hybrid.records.scores import flatten_scores

from .evidence import Evidence
from .findings import UNKNOWN, Finding, check, compare
from .rerun import RELATIVE_TOLERANCE, TOLERANCE

_MOST_ROW_BYTES = 1024  # a row has some twenty numbers, two languages and an id


def check_scores(evidence: Evidence) -> Iterator[Finding]:
    """`eval.json` against the values of single queries, before and after."""
    evaluation = evidence.evaluation
    for when in ("before", "after"):
        scores = evaluation[when]
        name = f"{EVALUATIONS_NAME}/{when}/{PER_QUERY_NAME}"
        if scores is None:
            lies = (evidence.path / name).exists()
            yield check("scores", f"eval.json: {when}", not lies, f"is null, but there is {name}")
            continue
        if (reason := evidence.left_out(when)) is not None:
            yield from _check_size(evaluation, scores, when)
            yield Finding("scores", UNKNOWN, f"eval.json: {when}", reason)
            continue
        expected = scores_of_queries(evidence.values(when), evaluation["evaluated"]["measures"])
        unknown = {key: value for key, value in scores["bias"].items() if key.startswith("MRC")}
        for key in unknown:
            place = f"eval.json: {when}: bias: {key}"
            yield Finding("scores", UNKNOWN, place, "it needs the rankings, which are not kept")
        told = {**scores, "bias": {key: value for key, value in scores["bias"].items() if key not in unknown}}
        yield from compare("scores", f"eval.json: {when}", expected, told)
        yield from _check_asked(evaluation["evaluated"], expected, when)
    yield from _check_last_point(evidence)


def _check_size(evaluation: Evaluation, scores: Scores, when: str) -> Iterator[Finding]:
    """Values that are said to be too large are those of queries enough."""
    size, languages = evaluation["values_bytes"][when], evaluation["evaluated"]["languages"]
    rows = scores["num_queries"] * (len(languages) + 1)
    told = f"the values of {scores['num_queries']} queries do not take {size} bytes"
    yield check("scores", f"eval.json: values_bytes: {when}", size <= _MOST_ROW_BYTES * rows, told)


def _check_asked(evaluated: Mapping[str, Any], scores: Scores, when: str) -> Iterator[Finding]:
    """What was evaluated is what was asked for."""
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        wanted = list(evaluated["measures"]) if scores[setting] else []
        yield from compare("scores", f"eval.json: {when}: {setting}: measures", wanted, list(scores[setting]))
    languages = {
        language for pair in scores["pairs"] for language in evaluated["languages"] if pair.startswith(f"{language}-")
    }
    known = {f"{query}-{passage}" for query in languages for passage in evaluated["languages"]}
    told = f"has pairs of other languages than {', '.join(evaluated['languages'])}"
    yield check("scores", f"eval.json: {when}: pairs", set(scores["pairs"]) <= known, told)


def _check_last_point(evidence: Evidence) -> Iterator[Finding]:
    """An evaluation on the way after the last step was of the finished model, unless an earlier one was taken."""
    config, after = evidence.run["config"], evidence.evaluation["after"]
    if after is None or config["load_best_model_at_end"]:
        return
    on_cpu = config["use_cpu"] or not evidence.run["environment"]["devices"]
    at_once = sum(event["event"] == "start" for event in evidence.events) == 1  # else perhaps by other processes
    near = {} if on_cpu and at_once else {"relative": RELATIVE_TOLERANCE, "absolute": TOLERANCE}
    for number, point in enumerate(evidence.curve, start=1):
        if point["step"] == config["max_steps"]:
            place = f"curve.jsonl, line {number}: measures"
            yield from compare("scores", place, flatten_scores(after), point["measures"], **near)
