"""`fits.json`: how each cost and quality goes with L, and how arms compare, each with its interval and its sentence.

1. A quantity is a number of a row of `table.json` (`QUANTITIES`); a trial that failed, or is missing, has none, and
   one that did not reach its target has `NOT_REACHED`.
2. For each quantity and arm with at least two L: the law (`growth.fit_growth`), and of quality what each L changes
   against the fewest.
3. For each pair of `COMPARED` arms: the ratio of costs, over all L that both have and at each; the difference of
   quality at each L.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .arms import ARMS
from .folder import Study
from .growth import LEVEL, NOT_REACHED, Values, differences, differences_from_fewest, fit_growth, ratio
from .sentences import difference_sentence, growth_sentence, ratio_sentence
from .table import Row, Table

COMPARED = (
    ("hybrid", "mlm_hybrid"), ("hybrid", "mlm"), ("hybrid", "mono"), ("hybrid", "cross"), ("hybrid", "pool"),
    ("hybrid", "mixed"), ("hybrid", "mono_cross_pool"), ("mlm_hybrid", "mlm"),
)  # fmt: skip


class Quantity(NamedTuple):
    """A number of a row.

    Args:
        text (`str`): In words.
        unit (`str`): Of its values.
        of (`Callable`): Takes it from a finished row; None where it is not known.
        is_cost (`bool`): Whether it is compared by ratios; else by differences.
    """

    text: str
    unit: str
    of: Callable[[Row], float | None]
    is_cost: bool


def _cost(name: str) -> Callable[[Row], float | None]:
    return lambda row: row[name]  # type: ignore[literal-required]


def _to_target(name: str) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        target = row["target"]
        if target is None:
            return None
        return target[name] if target["reached"] else NOT_REACHED  # type: ignore[literal-required]

    return value


def _quality(group: str, name: str) -> Callable[[Row], float | None]:
    return lambda row: row[group].get(name)  # type: ignore[literal-required]


QUANTITIES = {
    "step_time_s": Quantity("step time", "s", _cost("step_time_s"), True),
    "setup_time_s": Quantity("set-up time", "s", _cost("setup_time_s"), True),
    "train_time_s": Quantity("training time", "s", _cost("train_time_s"), True),
    "tokens": Quantity("tokens trained on", "", _cost("tokens"), True),
    "energy_wh": Quantity("energy", "Wh", _cost("energy_wh"), True),
    "peak_host_memory_gib": Quantity("peak host memory", "GiB", _cost("peak_host_memory_gib"), True),
    "peak_device_memory_gib": Quantity("peak device memory", "GiB", _cost("peak_device_memory_gib"), True),
    "target/train_time_s": Quantity("training time to the target", "s", _to_target("train_time_s"), True),
    "target/tokens": Quantity("tokens to the target", "", _to_target("tokens"), True),
    "target/energy_wh": Quantity("energy to the target", "Wh", _to_target("energy_wh"), True),
    "monolingual/MAP": Quantity("monolingual MAP", "", _quality("quality", "monolingual/MAP"), False),
    "cross_lingual/MAP": Quantity("cross-lingual MAP", "", _quality("quality", "cross_lingual/MAP"), False),
    "multilingual/MAP": Quantity("multilingual MAP", "", _quality("quality", "multilingual/MAP"), False),
    "bias/rank_distance": Quantity("rank distance", "ranks", _quality("quality", "bias/rank_distance"), False),
    "trained/monolingual/MAP": Quantity(
        "monolingual MAP of trained languages", "", _quality("trained", "monolingual/MAP"), False
    ),
    "trained/cross_lingual/MAP": Quantity(
        "cross-lingual MAP of trained languages", "", _quality("trained", "cross_lingual/MAP"), False
    ),
    "unseen/monolingual/MAP": Quantity(
        "monolingual MAP of unseen languages", "", _quality("unseen", "monolingual/MAP"), False
    ),
    "unseen/cross_lingual/MAP": Quantity(
        "cross-lingual MAP of unseen languages", "", _quality("unseen", "cross_lingual/MAP"), False
    ),
}


def make_fits(study: Study, table: Table, level: float = LEVEL) -> dict[str, Any]:
    """All of `fits.json`.

    Args:
        study (`Study`): For arms, seeds and numbers of languages.
        table (`Table`): The rows.
        level (`float`, *optional*, defaults to `0.95`): Of the intervals.

    Returns:
        `dict`: `growth` by quantity and arm; `ratios` and `differences` by quantity and `first/second`; each has its
        `sentence`.
    """
    arms = [arm for arm in study["arms"] if ARMS[arm].trains]
    growth: dict[str, Any] = {}
    ratios: dict[str, Any] = {}
    differing: dict[str, Any] = {}
    for name, quantity in QUANTITIES.items():
        of_arms = {arm: values_of(table["rows"], arm, study["seeds"], quantity) for arm in arms}
        known = {arm: values for arm, values in of_arms.items() if values}
        growth[name] = {arm: _growth(values, quantity, level) for arm, values in known.items() if len(values) > 1}
        pairs = [pair for pair in COMPARED if all(arm in known and len(known[arm]) > 0 for arm in pair)]
        for first, second in pairs:
            key, both = f"{first}/{second}", (known[first], known[second])
            if quantity.is_cost:
                ratios.setdefault(name, {})[key] = _ratios(*both, quantity, first, second, level)
            else:
                differing.setdefault(name, {})[key] = _differences(*both, quantity, first, second, level)
    growth = {name: found for name, found in growth.items() if found}
    return {"level": level, "growth": growth, "ratios": ratios, "differences": differing}


def values_of(
    rows: Sequence[Row], arm: str, seeds: Sequence[int], quantity: Quantity
) -> dict[int, list[float | None]]:
    """For each L the values of the seeds; nothing where the quantity is known of no trial.

    Args:
        rows (`Sequence[Row]`): Of the table.
        arm (`str`): Whose.
        seeds (`Sequence[int]`): In this order.
        quantity (`Quantity`): Which.
    """
    own = {(row["num_languages"], row["seed"]): row for row in rows if row["arm"] == arm and row["status"] != "absent"}
    found: dict[int, list[float | None]] = {}
    for count in sorted({count for count, _ in own}):
        values = [_value(own.get((count, seed)), quantity) for seed in seeds]
        if any(_is_applicable(own.get((count, seed)), quantity) for seed in seeds):
            found[count] = values
    return found if any(value is not None for values in found.values() for value in values) else {}


def _value(row: Row | None, quantity: Quantity) -> float | None:
    return quantity.of(row) if row is not None and row["status"] == "finished" else None


def _is_applicable(row: Row | None, quantity: Quantity) -> bool:
    """Not the quality of unseen languages where there are none: that is no failure."""
    return row is None or row["status"] != "finished" or quantity.of(row) is not None


def _growth(values: Values, quantity: Quantity, level: float) -> dict[str, Any]:
    fit = fit_growth(values, level)
    found: dict[str, Any] = {**fit, "sentence": growth_sentence(fit, quantity.text, quantity.unit)}
    if not quantity.is_cost:
        found["from_fewest"] = [
            {
                **difference,
                "sentence": difference_sentence(
                    difference,
                    quantity.text,
                    f"L = {difference['languages']}",
                    f"L = {min(values)}",
                    quantity.unit,
                    level,
                ),
            }
            for difference in differences_from_fewest(values, level)
        ]
    return found


def _ratios(
    first: Values, second: Values, quantity: Quantity, one: str, other: str, level: float
) -> dict[str, Any] | None:
    """Over all L that both have, and at each; None where a cost is 0, or no L is shared."""
    shared = sorted(set(first) & set(second))
    values = [value for arm in (first, second) for count in shared for value in arm[count] if value is not None]
    if not values or min(values) <= 0:
        return None

    def told(counts: Sequence[int]) -> dict[str, Any]:
        found = ratio({n: first[n] for n in counts}, {n: second[n] for n in counts}, level)
        return {**found, "sentence": ratio_sentence(found, quantity.text, one, other)}

    return {"languages": shared, "all": told(shared), "by_languages": {str(count): told([count]) for count in shared}}


def _differences(
    first: Values, second: Values, quantity: Quantity, one: str, other: str, level: float
) -> list[Mapping[str, Any]]:
    shared = set(first) & set(second)
    if not shared:
        return []
    return [
        {**found, "sentence": difference_sentence(found, text, one, other, quantity.unit, level)}
        for found in differences(first, second, level)
        for text in [f"{quantity.text} at L = {found['languages']}"]
    ]
