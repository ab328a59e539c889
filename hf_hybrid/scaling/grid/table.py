"""`table.json`: one row of costs and scores for each trial of a study, read from the files of the trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, cast

import numpy as np

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import Scores
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.scaling.planner.measured_runs import typical_step_time

from .arms import Absent, Target, Trial
from .folder import Study, StudyFolder


class Costs(TypedDict):
    """Costs of training; `None` if not measured or nothing was trained."""

    setup_time_s: float | None
    step_time_s: float | None  # as for `measured_runs.typical_step_time`
    train_time_s: float | None
    num_steps: int | None
    num_parameters: int | None
    tokens: int | None
    padding_share: float | None  # of all tokens computed on
    energy_wh: float | None
    energy_source: str | None
    peak_host_memory_gib: float | None  # of the process with the highest peak
    peak_device_memory_gib: float | None


NO_COSTS: Costs = dict.fromkeys(Costs.__annotations__)  # type: ignore[assignment]
_SUMS = ("setup_time_s", "train_time_s", "num_steps", "tokens", "energy_wh")
_PEAKS = ("peak_host_memory_gib", "peak_device_memory_gib")
_TARGET_COSTS = ("step", "train_time_s", "tokens", "energy_wh")


class TargetCost(TypedDict):
    """Cost of a target; `None` if it was not reached."""

    measure: str
    value: float
    reached: bool
    at_most: bool  # the first point reached it, so that its cost is an upper bound
    step: float | None
    train_time_s: float | None
    tokens: float | None
    energy_wh: float | None


class _Trial(TypedDict):
    id: str
    arm: str
    num_languages: int
    seed: int | None
    status: str  # finished, failed, missing or absent
    reason: str | None  # why it is absent, or the last line of the log of a failed trial


class Row(_Trial, Costs):
    """A trial. Its costs cover all stages; its step time is that of the last stage."""

    stages: dict[str, Costs]  # costs of each stage, "mlm" and "train"
    quality: dict[str, float]  # over all evaluation languages: bias, and measures such as multilingual/MAP
    trained: dict[str, float]  # over language pairs that were trained on: measures such as monolingual/MAP
    unseen: dict[str, float]  # over the other language pairs
    target: TargetCost | None


class Table(TypedDict):
    """`table.json`."""

    rows: list[Row]
    tokens: dict[str, dict[str, float]]  # as in `study.json`
    counts: dict[str, int]  # of trials, by status


def make_table(folder: StudyFolder, study: Study) -> Table:
    """Build `table.json` from the trials.

    Args:
        folder (`StudyFolder`): The study.
        study (`Study`): Its `study.json`.
    """
    untrained = {
        trial["seed"]: flatten_scores(_read_scores(RunFolder(folder.stage_path(trial["stages"][-1]))))
        for trial in study["trials"]
        if trial["arm"] == "zero_shot" and folder.status(trial) == "finished"
    }
    rows = [_row(folder, study, trial, untrained.get(trial["seed"], untrained.get(None))) for trial in study["trials"]]
    rows += [{**_empty_row(gap, None), "status": "absent", "reason": gap["reason"]} for gap in study["absent"]]
    status = [row["status"] for row in rows]
    return {
        "rows": rows,
        "tokens": study["tokens"],
        "counts": {name: status.count(name) for name in sorted(set(status))},
    }


def _empty_row(trial: Trial | Absent, seed: int | None) -> Row:
    return {
        "id": trial["id"],
        "arm": trial["arm"],
        "num_languages": trial["num_languages"],
        "seed": seed,
        "status": "missing",
        "reason": None,
        **NO_COSTS,
        "stages": {},
        "quality": {},
        "trained": {},
        "unseen": {},
        "target": None,
    }


def _row(folder: StudyFolder, study: Study, trial: Trial, untrained: Mapping[str, float] | None) -> Row:
    row = _empty_row(trial, trial["seed"])
    row["status"] = folder.status(trial)
    if row["status"] == "failed":
        row["reason"] = folder.read_failure(trial)["last_line"]
    if row["status"] != "finished":
        return row
    runs = {stage["name"]: RunFolder(folder.stage_path(stage)) for stage in trial["stages"]}
    scores = _read_scores(list(runs.values())[-1])
    row["quality"] = flatten_scores(scores)
    known = [code for code in study["eval_languages"] if code in trial["languages"]]
    row["trained"] = average_pairs(scores, known)
    row["unseen"] = average_pairs(scores, [code for code in study["eval_languages"] if code not in known])
    if "eval" not in runs:  # it trains
        row["stages"] = {name: _read_costs(run) for name, run in runs.items()}
        row.update(_add_costs(list(row["stages"].values())))
        if (target := study["budget"]["target"]) is not None:
            row["target"] = compute_target_cost(build_curve(list(runs.values()), untrained), Target(**target))
    return row


def _read_scores(run: RunFolder) -> Scores:
    scores = run.read_eval()["after"]
    assert scores is not None, "the stage has finished"
    return scores


def _read_costs(run: RunFolder) -> Costs:
    resources, (lines, _) = run.read_resources(), run.read_resource_lines()
    tokens, padding = resources["tokens"], resources["padding_tokens"]
    device_gib = resources["peak_device_memory_gib"]
    return {
        "setup_time_s": resources["setup_time_s"],
        "step_time_s": typical_step_time(lines, resources),
        "train_time_s": resources["train_time_s"],
        "num_steps": resources["num_steps"],
        "num_parameters": run.read_run().get("model", {}).get("num_parameters", 0),
        "tokens": tokens,
        "padding_share": padding / (tokens + padding) if tokens else 0.0,
        "energy_wh": resources["energy_wh"],
        "energy_source": resources["energy_source"],
        "peak_host_memory_gib": max(resources["peak_host_memory_gib"]),
        "peak_device_memory_gib": max(device_gib) if device_gib else None,
    }


def _add_costs(stages: Sequence[Costs]) -> Costs:
    """Return the costs of all stages together."""
    found: dict[str, Any] = dict(stages[-1])
    for name in (*_SUMS, *_PEAKS):
        costs = [stage[name] for stage in stages]  # type: ignore[literal-required]
        found[name] = None if None in costs else sum(costs) if name in _SUMS else max(costs)
    computed = sum((stage["tokens"] or 0) / (1 - (stage["padding_share"] or 0.0)) for stage in stages)
    found["padding_share"] = 1 - found["tokens"] / computed if computed else 0.0
    return cast(Costs, found)


def average_pairs(scores: Scores, languages: Sequence[str]) -> dict[str, float]:
    """Average the measures of the language pairs of some languages, by setting.

    Example:

        >>> scores = {"pairs": {"de-de": {"MAP": 0.5}, "de-en": {"MAP": 0.2}, "en-de": {"MAP": 0.4}}}
        >>> {name: round(value, 6) for name, value in average_pairs(scores, ["de", "en"]).items()}
        {'monolingual/MAP': 0.5, 'cross_lingual/MAP': 0.3}
    """
    found: dict[str, list[float]] = {}
    for query in languages:
        for passage in languages:
            setting = "monolingual" if query == passage else "cross_lingual"
            for measure, value in scores["pairs"].get(f"{query}-{passage}", {}).items():
                found.setdefault(f"{setting}/{measure}", []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def format_table(table: Table) -> str:
    """Return the table as text, with means over the seeds for each arm and L."""
    measure = "multilingual/MAP"
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in table["rows"]:
        groups.setdefault((row["arm"], row["num_languages"]), []).append(row)
    lines = [f"{'arm':<16}{'L':>3} {'trials':>6} {'step, s':>9} {'training, s':>12} {'host, GiB':>10} {measure:>18}"]
    for (arm, count), rows in groups.items():
        if rows[0]["status"] == "absent":
            lines.append(f"{arm:<16}{count:>3} absent: {rows[0]['reason']}")
            continue
        finished = [row for row in rows if row["status"] == "finished"]
        step_s = _format_mean(row["step_time_s"] for row in finished)
        train_s = _format_mean(row["train_time_s"] for row in finished)
        host_gib = _format_mean(row["peak_host_memory_gib"] for row in finished)
        quality = _format_mean(row["quality"].get(measure) for row in finished)
        number = f"{len(finished)}/{len(rows)}"
        lines.append(f"{arm:<16}{count or '-':>3} {number:>6} {step_s:>9} {train_s:>12} {host_gib:>10} {quality:>18}")
    lines += [f"{row['id']} failed: {row['reason']}" for row in table["rows"] if row["status"] == "failed"]
    return "\n".join(lines)


def _format_mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.4f}" if known else "-"


class Point(NamedTuple):
    """An evaluation during training, with the costs of all stages up to it."""

    step: float
    train_time_s: float
    tokens: float
    energy_wh: float | None
    measures: Mapping[str, float]  # with names such as multilingual/MAP


def build_curve(runs: Sequence[RunFolder], before: Mapping[str, float] | None = None) -> list[Point]:
    """Return the quality curve of a trial, from the model before training to the end of its last stage.

    Args:
        runs (`Sequence[RunFolder]`): The finished stages; the costs of each are added to those of the stages before.
        before (`Mapping[str, float]`, *optional*): Measures of the model before training.
    """
    points = [Point(0, 0.0, 0, 0.0, before or {})]
    for run in runs:
        start, resources = points[-1], run.read_resources()
        totals = (resources["num_steps"], resources["train_time_s"], resources["tokens"], resources["energy_wh"])
        curve = [
            Point(line["step"], line["train_time_s"], line["tokens"], line["energy_wh"], line["measures"])
            for line in run.read_curve()[0]
        ]
        if not curve or curve[-1].step < resources["num_steps"]:
            curve.append(Point(*totals, flatten_scores(_read_scores(run))))
        for step, train_time_s, tokens, energy_wh, measures in curve:
            energy = None if start.energy_wh is None or energy_wh is None else start.energy_wh + energy_wh
            costs = (start.step + step, start.train_time_s + train_time_s, start.tokens + tokens, energy)
            points.append(Point(*costs, measures))
    return points


def compute_target_cost(points: Sequence[Point], target: Target) -> TargetCost:
    """Return the cost of a trial until it reached a quality.

    The cost is interpolated linearly between the first point that reaches the target and the point before it.

    Args:
        points (`Sequence[Point]`): Of `build_curve`.
        target (`Target`): The quality.

    Example:

        >>> points = [Point(0, 0.0, 0, None, {"a/b": 0.1}), Point(10, 4.0, 500, None, {"a/b": 0.3})]
        >>> found = compute_target_cost(points, Target("a/b", 0.2))
        >>> found["reached"], round(found["step"], 6), round(found["train_time_s"], 6), found["energy_wh"]
        (True, 5.0, 2.0, None)
        >>> compute_target_cost(points, Target("a/b", 0.4))["train_time_s"] is None
        True
    """
    known = [point for point in points if target.measure in point.measures]
    number = next((n for n, point in enumerate(known) if target.is_reached(point.measures[target.measure])), None)
    costs: dict[str, float | None] = dict.fromkeys(_TARGET_COSTS)
    if number is not None:
        end, begin = known[number], known[max(number - 1, 0)]
        low, high = begin.measures[target.measure], end.measures[target.measure]
        share = (target.value - low) / (high - low) if high != low else 1.0
        for name in _TARGET_COSTS:
            one, other = getattr(begin, name), getattr(end, name)
            costs[name] = None if one is None or other is None else one + share * (other - one)
    return {
        "measure": target.measure,
        "value": target.value,
        "reached": number is not None,
        "at_most": number == 0,
        **costs,  # type: ignore[typeddict-item]
    }
