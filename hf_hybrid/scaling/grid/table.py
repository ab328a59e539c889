"""`table.json`: a row for each trial of a study, read from what the trial left; and its words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, cast

import numpy as np

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import Scores
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.scaling.planner.measured_runs import typical_step_time

from .arms import Stage, Target, Trial
from .folder import Study, StudyFolder

if TYPE_CHECKING:
    from hf_hybrid.records.run_folder import RunFolder


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
    peak_host_memory_gib: float | None  # of the process that took most
    peak_device_memory_gib: float | None


NO_COSTS: Costs = dict.fromkeys(Costs.__annotations__)  # type: ignore[assignment]
_ADDED_UP = ("setup_time_s", "train_time_s", "num_steps", "tokens", "energy_wh")
_PEAKS = ("peak_host_memory_gib", "peak_device_memory_gib")


class _Trial(TypedDict):
    id: str
    arm: str
    num_languages: int
    seed: int | None
    status: str  # finished, failed, missing or absent
    reason: str | None  # the last line of its log where it failed, or why it is absent


class Row(_Trial, Costs):
    """A trial; its costs are those of all stages together, but for the step time, which is the last stage's."""

    stages: dict[str, Costs]  # "mlm", "train", apart
    quality: dict[str, float]  # over all evaluation languages, as in multilingual/MAP, and bias
    trained: dict[str, float]  # monolingual/MAP and the like, over language pairs that were trained on
    unseen: dict[str, float]  # over language pairs that were not
    target: TargetCost | None


class Table(TypedDict):
    """`table.json`."""

    rows: list[Row]
    tokens: dict[str, dict[str, float]]  # as in `study.json`
    counts: dict[str, int]  # by status


def make_table(folder: StudyFolder, study: Study) -> Table:
    """Collect what is there.

    Args:
        folder (`StudyFolder`): Of the study.
        study (`Study`): Its `study.json`.
    """
    trials = study["trials"]
    starts = {trial["seed"]: _scores(folder, trial) for trial in trials if trial["arm"] == "zero_shot"}
    untrained = {seed: flatten_scores(scores) for seed, scores in starts.items() if scores is not None}
    rows = [_row(folder, study, trial, untrained.get(trial["seed"], untrained.get(None))) for trial in trials]
    rows += [
        {**_empty(gap["id"], gap["arm"], gap["num_languages"], None), "status": "absent", "reason": gap["reason"]}
        for gap in study["absent"]
    ]
    status = [row["status"] for row in rows]
    return {
        "rows": rows,
        "tokens": study["tokens"],
        "counts": {name: status.count(name) for name in sorted(set(status))},
    }


def _empty(name: str, arm: str, num_languages: int, seed: int | None) -> Row:
    return {
        "id": name,
        "arm": arm,
        "num_languages": num_languages,
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
    row = _empty(trial["id"], trial["arm"], trial["num_languages"], trial["seed"])
    row["status"] = folder.status(trial)
    if row["status"] == "failed":
        row["reason"] = folder.read_failure(trial)["last_line"]
    if row["status"] != "finished":
        return row
    scores = _scores(folder, trial)
    assert scores is not None
    row["quality"] = flatten_scores(scores)
    languages = study["eval_languages"]
    known = [code for code in languages if code in trial["languages"]]
    row["trained"] = pair_means(scores, known)
    row["unseen"] = pair_means(scores, [code for code in languages if code not in known])
    trainings = [stage for stage in trial["stages"] if stage["name"] != "eval"]
    if trainings:
        row["stages"] = {stage["name"]: _costs(RunFolder(folder.stage_path(stage))) for stage in trainings}
        row.update(_all_costs(list(row["stages"].values())))
        if (aim := study["budget"]["target"]) is not None:
            row["target"] = cost_to_target(_curve(folder, trainings, untrained), Target(**aim))
    return row


def _scores(folder: StudyFolder, trial: Trial) -> Scores | None:
    if folder.status(trial) != "finished":
        return None
    return _after(folder, trial["stages"][-1])


def _after(folder: StudyFolder, stage: Stage) -> Scores | None:
    return RunFolder(folder.stage_path(stage)).read_eval()["after"]


def _curve(folder: StudyFolder, trainings: Sequence[Stage], untrained: Mapping[str, float] | None) -> list[Point]:
    """Return the points of all stages, each beginning where the one before it ended."""
    points: list[Point] = []
    for stage in trainings:
        after = _after(folder, stage)
        assert after is not None
        start = points[-1] if points else None
        points += curve_of(RunFolder(folder.stage_path(stage)), flatten_scores(after), untrained, start)[bool(start) :]
    return points


def _costs(run: RunFolder) -> Costs:
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


def _all_costs(stages: Sequence[Costs]) -> Costs:
    """Return the costs of all stages together."""
    found: dict[str, Any] = dict(stages[-1])
    columns = {name: [stage[name] for stage in stages] for name in (*_ADDED_UP, *_PEAKS)}  # type: ignore[literal-required]
    found.update({name: None if None in columns[name] else sum(columns[name]) for name in _ADDED_UP})
    found.update({name: None if None in columns[name] else max(columns[name]) for name in _PEAKS})
    computed = sum((stage["tokens"] or 0) / (1 - (stage["padding_share"] or 0.0)) for stage in stages)
    found["padding_share"] = 1 - found["tokens"] / computed if computed else 0.0
    return cast(Costs, found)


def pair_means(scores: Scores, languages: Sequence[str]) -> dict[str, float]:
    """Means over the pairs of some languages, by setting and measure.

    Example:

        >>> scores = {"pairs": {"de-de": {"MAP": 0.5}, "de-en": {"MAP": 0.2}, "en-de": {"MAP": 0.4}}}
        >>> {name: round(value, 6) for name, value in pair_means(scores, ["de", "en"]).items()}
        {'monolingual/MAP': 0.5, 'cross_lingual/MAP': 0.3}
    """
    found: dict[str, list[float]] = {}
    for setting, measure, value in _pair_values(scores, languages):
        found.setdefault(f"{setting}/{measure}", []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def _pair_values(scores: Scores, languages: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    for query in languages:
        for passage in languages:
            setting = "monolingual" if query == passage else "cross_lingual"
            for measure, value in scores["pairs"].get(f"{query}-{passage}", {}).items():
                yield setting, measure, value


def table_text(table: Table, measure: str = "multilingual/MAP") -> str:
    """The rows as text: means over the seeds for each arm and L.

    Args:
        table (`Table`): Of `make_table`.
        measure (`str`, *optional*, defaults to `"multilingual/MAP"`): The quality that is shown.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in table["rows"]:
        groups.setdefault((row["arm"], row["num_languages"]), []).append(row)
    lines = [f"{'arm':<16}{'L':>3} {'trials':>6} {'step, s':>9} {'training, s':>12} {'host, GiB':>10} {measure:>18}"]
    for (arm, count), rows in groups.items():
        done = [row for row in rows if row["status"] == "finished"]
        if rows[0]["status"] == "absent":
            lines.append(f"{arm:<16}{count:>3} absent: {rows[0]['reason']}")
            continue
        shown = [_mean(row[name] for row in done) for name in _SHOWN]  # type: ignore[literal-required]
        quality = _mean(row["quality"].get(measure) for row in done)
        number = f"{len(done)}/{len(rows)}"
        lines.append(
            f"{arm:<16}{count or '-':>3} {number:>6} {shown[0]:>9} {shown[1]:>12} {shown[2]:>10} {quality:>18}"
        )
    failed = [f"{row['id']} failed: {row['reason']}" for row in table["rows"] if row["status"] == "failed"]
    return "\n".join([*lines, *failed])


_SHOWN = ("step_time_s", "train_time_s", "peak_host_memory_gib")


def _mean(values: Any) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.4f}" if known else "-"


_COSTS = ("step", "train_time_s", "tokens", "energy_wh")


class Point(NamedTuple):
    """An evaluation.

    Args:
        step (`float`): Steps done until then, of all stages.
        train_time_s (`float`): Time of these.
        tokens (`float`): Tokens of these.
        energy_wh (`float`, *optional*): Energy of these.
        measures (`Mapping[str, float]`): By names as in `multilingual/MAP`.
    """

    step: float
    train_time_s: float
    tokens: float
    energy_wh: float | None
    measures: Mapping[str, float]


class TargetCost(TypedDict):
    """Cost of a target; `None` if it was not reached."""

    measure: str
    value: float
    reached: bool
    at_most: bool  # the first point had reached it
    step: float | None
    train_time_s: float | None
    tokens: float | None
    energy_wh: float | None


def curve_of(
    run: RunFolder, after: Mapping[str, float], before: Mapping[str, float] | None = None, start: Point | None = None
) -> list[Point]:
    """The points of a finished run.

    Args:
        run (`RunFolder`): The run.
        after (`Mapping[str, float]`): The measures of its finished model.
        before (`Mapping[str, float]`, *optional*): Those of the model that it began with.
        start (`Point`, *optional*): The end of a run before it, to whose costs its own are added.
    """
    lines, resources = run.read_curve()[0], run.read_resources()
    first = start or Point(0, 0.0, 0, 0.0, before or {})
    points = [
        Point(line["step"], line["train_time_s"], line["tokens"], line["energy_wh"], line["measures"])
        for line in lines
    ]
    costs = (resources["num_steps"], resources["train_time_s"], resources["tokens"], resources["energy_wh"])
    if not points or points[-1].step < resources["num_steps"]:
        points.append(Point(*costs, after))
    moved = [_continue_from(first, point) for point in points]
    return [first, *moved] if first.measures else moved


def _continue_from(start: Point, point: Point) -> Point:
    energy_wh = None if start.energy_wh is None or point.energy_wh is None else start.energy_wh + point.energy_wh
    step, time_s, tokens = (getattr(start, name) + getattr(point, name) for name in _COSTS[:3])
    return Point(step, time_s, tokens, energy_wh, point.measures)


def cost_to_target(points: Sequence[Point], target: Target) -> TargetCost:
    """Return the cost of a run until it reached a quality.

    The cost lies on the straight line between the first point that reaches the target and the point before it. A first
    point that reaches it says at most what it cost. A target that is not reached has no cost.

    Args:
        points (`Sequence[Point]`): Of `curve_of`.
        target (`Target`): The quality.

    Example:

        >>> points = [Point(0, 0.0, 0, None, {"a/b": 0.1}), Point(10, 4.0, 500, None, {"a/b": 0.3})]
        >>> found = cost_to_target(points, Target("a/b", 0.2))
        >>> found["reached"], round(found["step"], 6), round(found["train_time_s"], 6), found["energy_wh"]
        (True, 5.0, 2.0, None)
        >>> cost_to_target(points, Target("a/b", 0.4))["train_time_s"] is None
        True
    """
    known = [point for point in points if target.measure in point.measures]
    number = next((n for n, point in enumerate(known) if target.is_reached(point.measures[target.measure])), None)
    costs: dict[str, float | None] = dict.fromkeys(_COSTS)
    if number is not None:
        end, begin = known[number], known[max(number - 1, 0)]
        low, high = begin.measures[target.measure], end.measures[target.measure]
        share = (target.value - low) / (high - low) if high != low else 1.0
        costs = {name: _between(getattr(begin, name), getattr(end, name), share) for name in _COSTS}
    return {
        "measure": target.measure,
        "value": target.value,
        "reached": number is not None,
        "at_most": number == 0,
        **costs,  # type: ignore[typeddict-item]
    }


def _between(low: float | None, high: float | None, share: float) -> float | None:
    return None if low is None or high is None else low + share * (high - low)
