"""The log of a run: how it began and ended, and what it told in between, against the other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from hf_hybrid.records.schema import EVENTS_NAME, Run

from .evidence import Evidence
from .findings import Finding, check, compare


def check_events(evidence: Evidence) -> Iterator[Finding]:
    """The log begins and ends as the run did, and tells of its scores."""
    run, events = evidence.run, evidence.events
    steps = run["config"]["max_steps"]
    of_kind = {name: [event for event in events if event["event"] == name] for name in ("start", "stop", "checkpoint")}
    begun = bool(events) and events[0]["event"] == "start"
    yield check("events", f"{EVENTS_NAME}, line 1", begun, "expected the start of a run")
    yield from compare("events", "run.json: status", "finished", run["status"])
    ends = [event for event in events if event["event"] in ("start", "stop")]
    yield from compare("events", f"{EVENTS_NAME}: last stop", "finished", ends[-1].get("reason"))
    for event in of_kind["start"]:
        yield from compare("events", f"{EVENTS_NAME}: start: max_steps", steps, event["max_steps"])
    yield from compare("events", "run.json: world_size", of_kind["start"][-1]["world_size"], run["world_size"])
    for event in of_kind["checkpoint"]:
        told = f"expected 1 to {steps}, found {event['step']}"
        yield check("events", f"{EVENTS_NAME}: checkpoint: step", 0 < event["step"] <= steps, told)
    yield from _check_step_of_model(run, {event["step"] for event in of_kind["checkpoint"]})
    lasted, needed = _seconds(ends[-1]) - _seconds(events[0]), evidence.resources["train_time_s"]
    told = f"{needed:.1f} s do not fit between the first start and the last stop, {lasted:.0f} s"
    yield check("events", "resources.json: train_time_s", needed <= lasted + 1, told)  # times are whole seconds
    yield from _check_told_scores(evidence)


def _check_step_of_model(run: Run, checkpoints: set[int]) -> Iterator[Finding]:
    """The model is that of the last step, or of a checkpoint where the best one was taken."""
    if (step := run["model"].get("step")) is None:  # in older files it was written down
        return
    possible = {run["config"]["max_steps"]} | (checkpoints if run["config"]["load_best_model_at_end"] else set())
    told = f"expected one of the steps {', '.join(map(str, sorted(possible)))}, found {step}"
    yield check("events", "run.json: model: step", step in possible, told)


def _check_told_scores(evidence: Evidence) -> Iterator[Finding]:
    told = {event["when"]: event["MAP"] for event in evidence.events if event["event"] == "evaluation"}
    for when in ("before", "after"):
        scores = evidence.evaluation[when]
        expected = None if scores is None else round(scores["multilingual"]["MAP"], 4)
        yield from compare("events", f"{EVENTS_NAME}: evaluation {when}: MAP", expected, told.get(when))


def _seconds(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()  # Python 3.10 does not know Z
