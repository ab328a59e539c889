"""Sentences for fits, ratios and differences, which claim no more than their CI allows.

A sentence states a change only if the whole CI lies on one side of no change: 0 for a slope, an exponent or a
difference, 1 for a ratio. Without a CI it claims nothing. Failed trials and missed targets are part of the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

from .growth import LEVEL, Difference, Fit, Interval, Point, Ratio


def describe_growth(fit: Fit, quantity: str, unit: str = "") -> str:
    """Return a sentence on the growth of a quantity with the number of languages.

    Args:
        fit (`Fit`): Of `growth.fit_growth`.
        quantity (`str`): Name of the quantity, such as `"step time"`.
        unit (`str`, *optional*, defaults to `""`): Unit of its values, such as `"s"`.

    Example:

        >>> from hf_hybrid.scaling.grid.growth import fit_growth
        >>> fit = fit_growth({1: [1.0, 1.1, 1.0], 4: [1.1, 1.0, 1.1], 9: [1.0, 1.1, None]})
        >>> print(describe_growth(fit, "step time", "s"))
        step time does not change measurably with L: exponent 0.0229
        (95% CI -0.0774 to 0.123; L = 1 to 9, 3 seeds). 1 trial failed: 1 at L = 9.
    """
    missing = _list_missing(fit["points"])
    if fit["law"] is None:
        return " ".join([f"{quantity}: its growth with L is unknown, because {fit['chosen_because']}.", *missing])
    name = list(fit["coefficients"])[1]
    value, interval = fit["coefficients"][name], fit["intervals"][name]
    stated = f"exponent {_number(value)}" if name == "exponent" else f"{_number(value, unit)} per language"
    scope = f"L = {min(fit['languages'])} to {max(fit['languages'])}, {_count(fit['num_seeds'], 'seed')}"
    return " ".join([f"{_growth_claim(name, interval, quantity)}: {stated} ({_ci(interval)}; {scope}).", *missing])


def describe_ratio(ratio: Ratio, quantity: str, first: str, second: str) -> str:
    """Return a sentence on the ratio of two arms.

    Args:
        ratio (`Ratio`): Of `growth.compute_ratio`.
        quantity (`str`): Name of the quantity, such as `"time to the target"`.
        first, second (`str`): Names of the arms.

    Example:

        >>> from hf_hybrid.scaling.grid.growth import compute_ratio
        >>> found = compute_ratio({2: [1.0, 1.1, 1.05]}, {2: [2.0, 2.1, 2.2]})
        >>> print(describe_ratio(found, "step time", "hybrid", "mBERT-style"))
        step time of hybrid is less than that of mBERT-style: 0.5x (95% CI 0.445 to 0.561; 3 seeds).
    """
    unreached = [
        f"{arm} did not reach the target in {count} of {total} runs"
        for arm, count, total in zip((first, second), ratio["not_reached"], ratio["num_trials"], strict=True)
        if count
    ]
    if unreached:
        sentence = f"{quantity}: no ratio of {first} to {second} can be stated, because {' and '.join(unreached)}."
    elif ratio["ratio"] is None:
        sentence = f"{quantity}: no seed of {first} and {second} has values at all L that both have."
    else:
        claim = {
            None: f"{quantity}: one seed cannot show a difference between {first} and {second}",
            0: f"{quantity} of {first} does not differ measurably from that of {second}",
            -1: f"{quantity} of {first} is less than that of {second}",
            1: f"{quantity} of {first} is more than that of {second}",
        }[_side(ratio["interval"], 1.0)]
        scope = f"{_ci(ratio['interval'])}; {_count(ratio['num_seeds'], 'seed')}"
        sentence = f"{claim}: {_number(ratio['ratio'])}x ({scope})."
    return f"{sentence} {_count(ratio['num_missing'], 'trial')} failed." if ratio["num_missing"] else sentence


def describe_difference(
    difference: Difference, quantity: str, first: str, second: str, unit: str = "", preposition: str = "for"
) -> str:
    """Return a sentence on the difference of two groups of runs.

    Args:
        difference (`Difference`): Of `growth.compute_differences` or `growth.compare_with_fewest`.
        quantity (`str`): Name of the quantity, such as `"MAP"`.
        first, second (`str`): Names of the groups, such as `"L = 16"` and `"L = 1"`.
        unit (`str`, *optional*, defaults to `""`): Unit of the values.
        preposition (`str`, *optional*, defaults to `"for"`): Word before the names.

    Example:

        >>> from hf_hybrid.scaling.grid.growth import compare_with_fewest
        >>> (found,) = compare_with_fewest({1: [0.5, 0.6, 0.55], 8: [0.45, 0.56, 0.5]})
        >>> print(describe_difference(found, "MAP", "L = 8", "L = 1", preposition="at"))
        MAP is lower at L = 8 than at L = 1: by 0.0467 (95% CI of the difference -0.061 to -0.0323; 3 seeds).
    """
    value, missing = difference["difference"], difference["num_missing"]
    lacking = f" {_count(missing, 'seed')} without both values: a run failed or did not reach its target."
    if value is None:
        return f"{quantity}: no difference between {first} and {second} can be stated.{lacking}"
    side = _side(difference["interval"], 0.0)
    claim = {
        None: f"{quantity}: one seed cannot show a difference between {first} and {second}:",
        0: f"{quantity} does not differ measurably between {first} and {second}:",
        -1: f"{quantity} is lower {preposition} {first} than {preposition} {second}: by",
        1: f"{quantity} is higher {preposition} {first} than {preposition} {second}: by",
    }[side]
    scope = f"{_ci(difference['interval'], ' of the difference')}; {_count(difference['num_seeds'], 'seed')}"
    return f"{claim} {_number(abs(value) if side else value, unit)} ({scope}).{lacking if missing else ''}"


def _growth_claim(name: str, interval: Interval | None, quantity: str) -> str:
    """Return what the CI of a slope or an exponent allows to claim."""
    side = _side(interval, 0.0)
    if side is None:
        return f"{quantity}: one seed cannot show growth with L"
    if side == 0:
        return f"{quantity} does not change measurably with L"
    if side < 0:
        return f"{quantity} falls with L"
    if name == "slope":
        return f"{quantity} grows with L"
    against_proportion = {
        -1: "more slowly than in proportion to it",
        0: "and proportional growth (exponent 1) cannot be ruled out",
        1: "faster than in proportion to it",
    }
    return f"{quantity} grows with L, {against_proportion[_side(interval, 1.0) or 0]}"


def _list_missing(points: Sequence[Point]) -> list[str]:
    """Return sentences on failed trials and missed targets."""
    failed = {point["languages"]: point["num_failed"] for point in points if point["num_failed"]}
    sentences = []
    if failed:
        places = ", ".join(f"{count} at L = {languages}" for languages, count in failed.items())
        sentences.append(f"{_count(sum(failed.values()), 'trial')} failed: {places}.")
    for point in points:
        if missed := point["num_not_reached"]:
            sentences.append(
                f"At L = {point['languages']} the target was not reached in {missed} of "
                f"{missed + point['num_values']} runs, so that this L is not in the fit."
            )
    return sentences


def _side(interval: Interval | None, no_change: float) -> int | None:
    """Return -1 for a CI below no change, 1 for one above it, 0 for one that contains it; `None` without a CI."""
    return None if interval is None else (interval[0] > no_change) - (interval[1] < no_change)


def _ci(interval: Interval | None, of: str = "") -> str:
    return f"{LEVEL:.0%} CI{of} {_number(interval[0])} to {_number(interval[1])}" if interval else "no CI"


def _number(value: float, unit: str = "") -> str:
    """Return a number with three significant digits; large numbers have all digits."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
