"""Fits, ratios and differences as sentences, each of which says what its interval allows and no more.

A change is named where the whole interval lies on one side of no change (0 for a slope, an exponent or a difference, 1
for a ratio), and nowhere else; without an interval nothing is claimed. What failed, or did not reach its target, is
part of the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence

from .growth import Difference, Ends, Fit, Point, Ratio


def growth_sentence(fit: Fit, quantity: str, unit: str = "") -> str:
    """Return a sentence on the growth of a quantity with the number of languages.

    Args:
        fit (`Fit`): Of `growth.fit_growth`.
        quantity (`str`): What it is, at the head of the sentence: `"step time"`.
        unit (`str`, *optional*, defaults to `""`): Of its values: `"s"`.

    Example:

        >>> from hf_hybrid.scaling.grid.growth import fit_growth
        >>> fit = fit_growth({1: [1.0, 1.1, 1.0], 4: [1.1, 1.0, 1.1], 9: [1.0, 1.1, None]})
        >>> print(growth_sentence(fit, "step time", "s"))
        step time does not change measurably with L: exponent 0.0229
        (95% CI -0.0774 to 0.123; L = 1 to 9, 3 seeds). 1 trial failed: 1 at L = 9.
    """
    if fit["law"] is None:
        sentence = f"{quantity}: how it goes with L cannot be said, as {fit['chosen_because']}."
    else:
        name = list(fit["coefficients"])[1]
        sentence = f"{_growth(name, fit['intervals'][name], quantity)}: {_fitted(fit, name, unit)}."
    return " ".join([sentence, *_what_is_missing(fit["points"])])


def ratio_sentence(ratio: Ratio, quantity: str, first: str, second: str) -> str:
    """Return a sentence on the ratio of two arms.

    Args:
        ratio (`Ratio`): Of `growth.ratio`.
        quantity (`str`): What is compared: `"time to the target"`.
        first, second (`str`): Names of the arms.

    Example:

        >>> from hf_hybrid.scaling.grid.growth import ratio
        >>> found = ratio({2: [1.0, 1.1, 1.05]}, {2: [2.0, 2.1, 2.2]})
        >>> print(ratio_sentence(found, "step time", "hybrid", "mBERT-style"))
        step time of hybrid is less than that of mBERT-style: 0.5 times as much (95% CI 0.445 to 0.561; 3 seeds).
    """
    value, (failed, of_first, of_second) = ratio["ratio"], (ratio["num_missing"], f"of {first}", f"of {second}")
    unreached = [
        f"{arm} did not reach the target in {count} of {total} runs"
        for arm, count, total in zip((first, second), ratio["not_reached"], ratio["num_trials"], strict=True)
        if count
    ]
    if unreached:
        sentence = f"{quantity}: no ratio of {first} to {second} can be stated, since {' and '.join(unreached)}."
    elif value is None:
        sentence = f"{quantity}: {first} and {second} have no seed with values at all L that both have."
    else:
        claim = {
            None: f"{quantity} {of_first} over that {of_second}, of one seed, from which no difference follows",
            0: f"{quantity} {of_first} does not differ measurably from that {of_second}",
            -1: f"{quantity} {of_first} is less than that {of_second}",
            1: f"{quantity} {of_first} is more than that {of_second}",
        }[_side(ratio["interval"], 1.0)]
        scope = f"{_interval(ratio['interval'], ratio['level'])}; {_counted(ratio['num_seeds'], 'seed')}"
        sentence = f"{claim}: {_number(value)} times as much ({scope})."
    return f"{sentence} {_counted(failed, 'trial')} failed." if failed else sentence


def difference_sentence(
    difference: Difference, quantity: str, first: str, second: str, unit: str = "", level: float = 0.95
) -> str:
    """Return a sentence on the difference of two groups of runs.

    Args:
        difference (`Difference`): Of `growth.differences` or `growth.differences_from_fewest`.
        quantity (`str`): What differs: `"MAP"`.
        first, second (`str`): What was subtracted from what: `"L = 16"`, `"L = 1"`.
        unit (`str`, *optional*, defaults to `""`): Of the values.
        level (`float`, *optional*, defaults to `0.95`): What the interval was made for.

    Example:

        >>> from hf_hybrid.scaling.grid.growth import differences_from_fewest
        >>> (found,) = differences_from_fewest({1: [0.5, 0.6, 0.55], 8: [0.45, 0.56, 0.5]})
        >>> print(difference_sentence(found, "MAP", "L = 8", "L = 1"))
        MAP is lower at L = 8 than at L = 1: by 0.0467 (95% CI of the difference -0.061 to -0.0323; 3 seeds).
    """
    value, missing = difference["difference"], difference["num_missing"]
    lacking = f" {_counted(missing, 'seed')} without both values: a run failed or did not reach its target."
    if value is None:
        return f"{quantity}: no difference of {first} and {second} can be stated.{lacking}"
    side = _side(difference["interval"], 0.0)
    claim = {
        None: f"{quantity} at {first} less that at {second}, of one seed, from which no difference follows:",
        0: f"{quantity} does not differ measurably between {first} and {second}:",
        -1: f"{quantity} is lower at {first} than at {second}: by",
        1: f"{quantity} is higher at {first} than at {second}: by",
    }[side]
    interval = _interval(difference["interval"], level, " of the difference")
    stated = _with_unit(abs(value) if side else value, unit)
    sentence = f"{claim} {stated} ({interval}; {_counted(difference['num_seeds'], 'seed')})."
    return sentence + (lacking if missing else "")


def _growth(name: str, interval: Ends | None, quantity: str) -> str:
    """Return the claim that an interval of a slope or an exponent allows."""
    side = _side(interval, 0.0)
    if side is None:
        return f"{quantity} against L, of one seed, from which no growth follows"
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


def _fitted(fit: Fit, name: str, unit: str) -> str:
    value = fit["coefficients"][name]
    stated = f"exponent {_number(value)}" if name == "exponent" else f"{_with_unit(value, unit)} per language"
    fewest, most = min(fit["languages"]), max(fit["languages"])
    seeds = _counted(fit["num_seeds"], "seed")
    return f"{stated} ({_interval(fit['intervals'][name], fit['level'])}; L = {fewest} to {most}, {seeds})"


def _what_is_missing(points: Sequence[Point]) -> list[str]:
    failed = [(point["languages"], point["num_failed"]) for point in points if point["num_failed"]]
    sentences = []
    if failed:
        total = sum(count for _, count in failed)
        paths = ", ".join(f"{count} at L = {languages}" for languages, count in failed)
        sentences.append(f"{_counted(total, 'trial')} failed: {paths}.")
    for point in points:
        if point["num_not_reached"]:
            runs = point["num_not_reached"] + point["num_values"]
            sentences.append(
                f"At L = {point['languages']} the target was not reached in {point['num_not_reached']} of {runs} "
                "runs, so that this L is not in the fit."
            )
    return sentences


def _side(interval: Ends | None, nothing: float) -> int | None:
    """-1 below no change, 1 above it, 0 where it cannot be ruled out; None without an interval."""
    if interval is None:
        return None
    low, high = interval
    return 1 if low > nothing else -1 if high < nothing else 0


def _interval(interval: Ends | None, level: float, of: str = "") -> str:
    if interval is None:
        return "no interval"
    return f"{level:.0%} CI{of} {_number(interval[0])} to {_number(interval[1])}"


def _with_unit(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}".rstrip()


def _number(value: float) -> str:
    """Three digits that count; large numbers as they are."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
