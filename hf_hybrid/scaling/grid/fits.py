"""`fits.json`: the growth of each cost and quality with L, and comparisons of arms, each with its CI and its sentence.

1. Each quantity is a number of a row of `table.json`. A trial that failed or is missing has none, and a trial that
   missed its target has `NOT_REACHED`.
2. For each quantity and arm with at least two L: the law of `growth.fit_growth`, and for a quality the difference
   between each L and the fewest.
3. For each pair of `COMPARED` arms: the ratio of costs, over all L that both have and at each of them; the difference
   of quality at each L.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arms import ARMS
from .folder import Study
from .growth import LEVEL, NOT_REACHED, Values, compare_with_fewest, compute_differences, compute_ratio, fit_growth
from .sentences import describe_difference, describe_growth, describe_ratio
from .table import Row, Table

COMPARED = (
    ("hybrid", "mlm_hybrid"), ("hybrid", "mlm"), ("hybrid", "mono"), ("hybrid", "cross"), ("hybrid", "pool"),
    ("hybrid", "mixed"), ("hybrid", "mono_cross_pool"), ("mlm_hybrid", "mlm"),
)  # fmt: skip
# Name and unit of each quantity. Costs are compared by ratios, qualities by differences.
COSTS = {
    "step_time_s": ("step time", "s"),
    "setup_time_s": ("set-up time", "s"),
    "train_time_s": ("training time", "s"),
    "tokens": ("tokens trained on", ""),
    "energy_wh": ("energy", "Wh"),
    "peak_host_memory_gib": ("peak host memory", "GiB"),
    "peak_device_memory_gib": ("peak device memory", "GiB"),
    "target/train_time_s": ("training time to the target", "s"),
    "target/tokens": ("tokens to the target", ""),
    "target/energy_wh": ("energy to the target", "Wh"),
}
QUALITIES = {
    "monolingual/MAP": ("monolingual MAP", ""),
    "cross_lingual/MAP": ("cross-lingual MAP", ""),
    "multilingual/MAP": ("multilingual MAP", ""),
    "bias/rank_distance": ("rank distance", "ranks"),
    "trained/monolingual/MAP": ("monolingual MAP of trained languages", ""),
    "trained/cross_lingual/MAP": ("cross-lingual MAP of trained languages", ""),
    "unseen/monolingual/MAP": ("monolingual MAP of unseen languages", ""),
    "unseen/cross_lingual/MAP": ("cross-lingual MAP of unseen languages", ""),
}


def make_fits(study: Study, table: Table) -> dict[str, Any]:
    """Build `fits.json`.

    Args:
        study (`Study`): With arms and seeds.
        table (`Table`): The rows.

    Returns:
        `dict`: `growth` by quantity and arm, `ratios` and `differences` by quantity and `first/second`; each has its
        `sentence`.
    """
    fits: dict[str, Any] = {"level": LEVEL, "growth": {}, "ratios": {}, "differences": {}}
    arms = [arm for arm in study["arms"] if ARMS[arm].trains]
    for name, (text, unit) in {**COSTS, **QUALITIES}.items():
        found = {arm: collect_values(table["rows"], arm, study["seeds"], name) for arm in arms}
        growth = {arm: _fit(values, name, text, unit) for arm, values in found.items() if len(values) > 1}
        if growth:
            fits["growth"][name] = growth
        group, compare = ("ratios", _compare_costs) if name in COSTS else ("differences", _compare_qualities)
        for first, second in COMPARED:
            if found.get(first) and found.get(second):
                compared = compare({first: found[first], second: found[second]}, text, unit)
                fits[group].setdefault(name, {})[f"{first}/{second}"] = compared
    return fits


def collect_values(rows: Sequence[Row], arm: str, seeds: Sequence[int], name: str) -> dict[int, list[float | None]]:
    """Return the values of the seeds for each L; an empty dictionary if no trial has a value.

    Args:
        rows (`Sequence[Row]`): Of the table.
        arm (`str`): The arm.
        seeds (`Sequence[int]`): The seeds, in the order of the values.
        name (`str`): The quantity, such as `step_time_s`, `target/tokens` or `trained/monolingual/MAP`.
    """
    own = {(row["num_languages"], row["seed"]): row for row in rows if row["arm"] == arm and row["status"] != "absent"}
    values: dict[int, list[float | None]] = {}
    for count in sorted({count for count, _ in own}):
        of_seeds = [own.get((count, seed)) for seed in seeds]
        finished = [row if row and row["status"] == "finished" else None for row in of_seeds]
        found = [row and _read_value(row, name) for row in finished]
        # A finished trial may have no such value: no language is unseen at the largest L. That is no failure.
        if None in finished or any(value is not None for value in found):
            values[count] = found
    return values if any(value is not None for found in values.values() for value in found) else {}


def _read_value(row: Any, name: str) -> float | None:
    group, _, measure = name.partition("/")
    if not measure:
        return row[name]
    if group == "target":
        target = row["target"]
        return target and (target[measure] if target["reached"] else NOT_REACHED)
    return row[group].get(measure) if group in ("trained", "unseen") else row["quality"].get(name)


def _fit(values: Values, name: str, text: str, unit: str) -> dict[str, Any]:
    fit = fit_growth(values)
    found: dict[str, Any] = {**fit, "sentence": describe_growth(fit, text, unit)}
    if name in QUALITIES:
        fewest = f"L = {min(values)}"
        found["from_fewest"] = [
            {**one, "sentence": describe_difference(one, text, f"L = {one['languages']}", fewest, unit, "at")}
            for one in compare_with_fewest(values)
        ]
    return found


def _compare_costs(arms: Mapping[str, Values], text: str, unit: str) -> dict[str, Any] | None:
    """Return the ratio over all L that both arms have, and at each; `None` if a cost is 0, or no L is shared."""
    one, other = arms.values()
    shared = sorted({*one} & {*other})
    costs = [value for values in (one, other) for count in shared for value in values[count] if value is not None]
    if not costs or min(costs) <= 0:
        return None

    def compare(*counts: int) -> dict[str, Any]:
        found = compute_ratio({count: one[count] for count in counts}, {count: other[count] for count in counts})
        return {**found, "sentence": describe_ratio(found, text, *arms)}

    return {
        "languages": shared,
        "all": compare(*shared),
        "by_languages": {str(count): compare(count) for count in shared},
    }


def _compare_qualities(arms: Mapping[str, Values], text: str, unit: str) -> list[dict[str, Any]]:
    """Return the difference at each L that both arms have."""
    first, second = arms
    return [
        {**found, "sentence": describe_difference(found, f"{text} at L = {found['languages']}", first, second, unit)}
        for found in compute_differences(*arms.values())
    ]
