"""How the quality of a run goes with what training has taken, and what a target quality costs.

A curve has a point for each evaluation: the untrained model, those of `curve.jsonl`, the finished model.  The cost to
a target lies on the straight line between the first point that reaches it and the point before it.  A first point that
reaches it says at most what it cost.  A target that is not reached has no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from .scaling import Target

if TYPE_CHECKING:
    from .records import RunFolder

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
    """What a target took; None where it was not reached."""

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
    moved = [_after(first, point) for point in points]
    return [first, *moved] if first.measures else moved


def _after(start: Point, point: Point) -> Point:
    energy_wh = None if start.energy_wh is None or point.energy_wh is None else start.energy_wh + point.energy_wh
    step, time_s, tokens = (getattr(start, name) + getattr(point, name) for name in _COSTS[:3])
    return Point(step, time_s, tokens, energy_wh, point.measures)


def cost_to_target(points: Sequence[Point], target: Target) -> TargetCost:
    """What a run took until it had a quality.

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
