"""Growth laws of costs and quality with the number of languages L, and comparisons of two arms, with intervals.

1. Values come as L -> the values of the seeds, in the same order for all L.  None or NaN is a trial that failed, and
   `NOT_REACHED` one whose target was not reached within its budget: both are counted, and neither is passed over.
2. Each seed is fitted by itself: a straight line `intercept + slope * L`, and a power law `factor * L ** exponent`, a
   line through the logarithms. A coefficient is the mean over the seeds (of the logarithms, for a factor).
3. An interval is Student's over the seeds: they are what was drawn, and each went through all L.  It is exact for
   normal noise that two seeds do not share, be it of each trial, of a seed as a whole or of how a seed grows. It says
   what other seeds would give, and nothing of other languages, corpora or machines.
4. The law is the one with the smaller error at an L that it was not fitted to; the line, unless the other's error is
   less by more than a tenth. A line is the weaker claim: it says nothing of a shape.
5. A difference is only what an interval says: the words are made by `scaling/grid/sentences.py`.

Why not the bootstrap alone: a resample of n seeds never leaves the range of these n, and the range of three values
holds the middle of what they were drawn from in 3 of 4 cases, so that no bootstrap over three seeds reaches 95%.
Measured on made-up studies (L = 1, 2, 4, 8, 16; three seeds; 4,000 studies a line; 95% asked for; how often the
interval of the slope held the true one):

| normal noise, 5% each          | Student's over seeds | percentile bootstrap over seeds |
|--------------------------------|----------------------|---------------------------------|
| of each trial                   | 94.8%                | 76.1%                           |
| of each seed, in all its trials | 95.0%                | 75.2%                           |
| of the growth of each seed     | 95.4%                | 76.7%                           |

Both stand in a `Fit`. What is claimed rests on the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from scipy import stats

NOT_REACHED = math.inf
LEVEL = 0.95
CLEARLY_LESS = 0.9  # the power law is taken where its error is less than this part of the line's
_ROUNDING = 1e-12  # of the values: a slope that moves them by less is none
_RESAMPLES = 2000

Values = Mapping[int, Sequence[float | None]]
Ends = list[float]  # low and high


class Point(TypedDict):
    """The values of the seeds at one L."""

    languages: int
    mean: float | None  # of the trials with a value; None where there is none, or where one did not reach its target
    interval: Ends | None  # of the mean; None with fewer than two values
    num_values: int
    num_failed: int
    num_not_reached: int


class Fit(TypedDict):
    """A law through the values; None where the values do not say."""

    law: str | None  # "linear" or "power"; None where nothing could be fitted
    coefficients: dict[str, float]  # intercept and slope, or factor and exponent
    intervals: dict[str, Ends | None]  # Student's over the seeds; None with one seed
    bootstrap_intervals: dict[str, Ends | None]  # percentiles over the seeds: too narrow, see the head of the module
    errors: dict[str, float | None]  # of each law at a held-out L, as a share of the mean value
    chosen_because: str
    level: float
    languages: list[int]  # that are fitted
    num_seeds: int  # that are fitted
    points: list[Point]  # of all L


class Difference(TypedDict):
    """The values at one L less those at the fewest languages, or a first arm's less a second's."""

    languages: int
    difference: float | None  # mean over the seeds that have both
    interval: Ends | None
    num_seeds: int
    num_missing: int  # seeds that lack one of them: it failed, or did not reach its target


class Ratio(TypedDict):
    """A first arm's values over a second's; a geometric mean."""

    ratio: float | None  # None where not all targets were reached, or nothing is there to compare
    interval: Ends | None
    level: float
    num_seeds: int
    num_missing: int  # trials of either that failed
    not_reached: list[int]  # trials of the first and of the second
    num_trials: list[int]  # trials of the first and of the second that did not fail


class Law(NamedTuple):
    """One of the two laws.

    Args:
        names (`tuple[str, str]`): Of its coefficients; the second says how values grow.
        of_values (`Callable`): Makes a line of it, and of the numbers of languages.
        back (`Callable`): Undoes that, for values.
    """

    names: tuple[str, str]
    of_values: Callable[[np.ndarray], np.ndarray]
    of_languages: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


LAWS = {
    "linear": Law(("intercept", "slope"), np.asarray, np.asarray, np.asarray),
    "power": Law(("factor", "exponent"), np.log, np.log, np.exp),
}


def fit_growth(values: Values, level: float = LEVEL, seed: int = 0) -> Fit:
    """Fit how values go with the number of languages, by the rule at the head of this module.

    Args:
        values (`Mapping[int, Sequence[float]]`): For each L the values of the seeds, in the same order for all L.
        level (`float`, *optional*, defaults to `0.95`): Of the intervals.
        seed (`int`, *optional*, defaults to `0`): Of the bootstrap's resamples.

    Returns:
        `Fit`: Goes to JSON as it is. An L where a trial did not reach its target is excluded from the fit, since those
        that did are the cheaper ones; it is among the `points`, with how many did not.

    Raises:
        ValueError: When an L is not a whole number from 1 on, or not all L have equally many values.

    Example:

        >>> fit = fit_growth({1: [2.0, 2.1, 2.0], 2: [3.0, 3.1, 3.2], 4: [5.0, 5.3, 5.1], 8: [9.1, 9.2, 8.9]})
        >>> fit["law"], round(fit["coefficients"]["slope"], 2), [round(end, 2) for end in fit["intervals"]["slope"]]
        ('linear', 1.0, [0.94, 1.06])
    """
    table_LS, counts = _table(values), sorted(values)
    usable = ~np.isinf(table_LS).any(axis=1) & ~np.isnan(table_LS).all(axis=1)
    languages_L, known_LS = np.array(counts, dtype=float)[usable], table_LS[usable]
    errors = {name: _error_left_out(law, languages_L, known_LS) for name, law in LAWS.items()}
    law, reason = _choose(languages_L, known_LS, errors)
    of_seeds = _of_seeds(LAWS[law], languages_L, known_LS) if law else {}
    return {
        "law": law,
        "coefficients": {name: _undo(name, float(values_S.mean())) for name, values_S in of_seeds.items()},
        "intervals": {name: _interval(name, _student(values_S, level)) for name, values_S in of_seeds.items()},
        "bootstrap_intervals": {
            name: _interval(name, _percentiles(values_S, level, seed)) for name, values_S in of_seeds.items()
        },
        "errors": errors,
        "chosen_because": reason,
        "level": level,
        "languages": [int(count) for count in languages_L],
        "num_seeds": max(map(len, of_seeds.values()), default=0),
        "points": [_point(count, row, level) for count, row in zip(counts, table_LS, strict=True)],
    }


def predict(fit: Fit, languages: int) -> float:
    """Predict a value for a number of languages; a ValueError if the fit has no law.

    Example:

        >>> predict(fit_growth({1: [3.0], 2: [5.0], 4: [9.0]}), 8)
        17.0
    """
    first, second = fit["coefficients"].values() if fit["law"] else _refuse_no_law(fit)
    return round(first + second * languages, 12) if fit["law"] == "linear" else first * languages**second


def differences_from_fewest(values: Values, level: float = LEVEL) -> list[Difference]:
    """Compare each number of languages with the fewest, seed by seed: the curse of multilinguality, if there is one.

    Each interval holds by itself: of many, some miss by chance.

    Args:
        values (`Mapping[int, Sequence[float]]`): As in `fit_growth`.
        level (`float`, *optional*, defaults to `0.95`): Of each interval.

    Example:

        >>> found = differences_from_fewest({1: [0.5, 0.6, 0.55], 8: [0.45, 0.56, 0.5]})
        >>> round(found[0]["difference"], 3), [round(end, 3) for end in found[0]["interval"]]
        (-0.047, [-0.061, -0.032])
    """
    table_LS, counts = _table(values), sorted(values)
    return [_difference(count, row, table_LS[0], level) for count, row in zip(counts[1:], table_LS[1:], strict=True)]


def differences(first: Values, second: Values, level: float = LEVEL) -> list[Difference]:
    """A first arm's values less a second's at each L that both have, seed by seed.

    Example:

        >>> differences({2: [0.5, 0.6]}, {2: [0.4, 0.5], 4: [0.3, 0.2]})[0]["num_seeds"]
        2
    """
    counts, first_LS, second_LS = _shared(first, second)
    rows = zip(counts, first_LS, second_LS, strict=True)
    return [_difference(count, one, other, level) for count, one, other in rows]


def ratio(first: Values, second: Values, level: float = LEVEL) -> Ratio:
    """A first arm over a second at the L that both have: the geometric mean over L of each seed, then over seeds.

    Args:
        first, second (`Mapping[int, Sequence[float]]`): As in `fit_growth`, of the same seeds in the same order. To
            compare at one L, give only that.
        level (`float`, *optional*, defaults to `0.95`): Of the interval.

    Raises:
        ValueError: When a value is not above 0, or the arms have not equally many seeds.

    Example:

        >>> found = ratio({2: [1.0, 1.1, 1.05], 4: [1.0, 1.2, 1.1]}, {2: [2.0, 2.1, 2.2], 4: [2.1, 2.2, 2.2]})
        >>> round(found["ratio"], 2), [round(end, 2) for end in found["interval"]]
        (0.5, [0.44, 0.57])
    """
    _, *tables = _shared(first, second)
    both_LS = np.array(tables)
    if (both_LS <= 0).any():
        raise ValueError("ratio: a value is not above 0; compare what may be 0 or less with `differences`.")
    reached = not np.isinf(both_LS).any()
    complete_S = ~np.isnan(both_LS).any(axis=(0, 1))
    usable = reached and both_LS.shape[1] > 0 and complete_S.any()
    logs_S = np.log(both_LS[0] / both_LS[1])[:, complete_S].mean(axis=0) if usable else np.empty(0)
    interval = _student(logs_S, level)
    return {
        "ratio": math.exp(logs_S.mean()) if len(logs_S) else None,
        "interval": [math.exp(end) for end in interval] if interval else None,
        "level": level,
        "num_seeds": len(logs_S),
        "num_missing": int(np.isnan(both_LS).sum()),
        "not_reached": [int(np.isinf(arm).sum()) for arm in both_LS],
        "num_trials": [int((~np.isnan(arm)).sum()) for arm in both_LS],
    }


# Steps 1 to 3


def _table(values: Values) -> np.ndarray:
    """The values `(L, S)` by increasing L, NaN for trials that failed."""
    wrong = [count for count in values if not isinstance(count, int | np.integer) or count < 1]
    if wrong or not values:
        raise ValueError(f"values: expected numbers of languages from 1 on, each with its seeds; got {wrong}.")
    rows = [_row(values[count]) for count in sorted(values)]
    if len({len(row) for row in rows}) > 1:
        sizes = ", ".join(f"L={count}: {len(values[count])}" for count in sorted(values))
        raise ValueError(f"values: all L need equally many seeds, None for a trial that failed; got {sizes}.")
    return np.array(rows).reshape(len(rows), -1)


def _row(of_seeds: Sequence[float | None]) -> np.ndarray:
    row = np.array([np.nan if value is None else value for value in of_seeds], dtype=float)
    if np.isneginf(row).any():
        raise ValueError(f"values: {list(of_seeds)} has minus infinity; a target that was not reached is NOT_REACHED.")
    return row


def _shared(first: Values, second: Values) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The L that both have, and the values `(L, S)` of each there."""
    tables = _table(first), _table(second)
    if tables[0].shape[1] != tables[1].shape[1]:
        one, other = (table.shape[1] for table in tables)
        raise ValueError(f"{one} seeds of the one and {other} of the other; give the same seeds of both.")
    counts = sorted(set(first) & set(second))
    return counts, *(  # type: ignore[return-value]
        table[[sorted(values).index(count) for count in counts]]
        for table, values in zip(tables, (first, second), strict=True)
    )


def _point(count: int, row_S: np.ndarray, level: float) -> Point:
    known, not_reached = row_S[np.isfinite(row_S)], int(np.isinf(row_S).sum())
    return {
        "languages": int(count),
        "mean": float(known.mean()) if len(known) and not not_reached else None,
        "interval": None if not_reached else _student(known, level),
        "num_values": len(known),
        "num_failed": int(np.isnan(row_S).sum()),
        "num_not_reached": not_reached,
    }


def _difference(count: int, row_S: np.ndarray, other_S: np.ndarray, level: float) -> Difference:
    both = np.isfinite(row_S) & np.isfinite(other_S)
    reached = not (np.isinf(row_S) | np.isinf(other_S)).any()
    found = (row_S - other_S)[both] if reached else np.empty(0)
    return {
        "languages": int(count),
        "difference": float(found.mean()) if len(found) else None,
        "interval": _student(found, level),
        "num_seeds": len(found),
        "num_missing": len(row_S) - int(both.sum()),
    }


def _line_of_each_seed(law: Law, languages_L: np.ndarray, known_LS: np.ndarray) -> np.ndarray:
    """Intercept and slope `(S, 2)` of each seed that has at least two L, where the law is a line."""
    lines = []
    for values_L in known_LS.T:
        there = ~np.isnan(values_L)
        if there.sum() > 1:
            x, y = law.of_languages(languages_L[there]), law.of_values(values_L[there])
            slope, intercept = stats.linregress(x, y)[:2]
            if abs(slope) * np.ptp(x) <= _ROUNDING * np.abs(y).max():
                slope, intercept = 0.0, y.mean()
            lines.append((intercept, slope))
    return np.array(lines).reshape(-1, 2)


def _of_seeds(law: Law, languages_L: np.ndarray, known_LS: np.ndarray) -> dict[str, np.ndarray]:
    """By name the coefficients of the seeds; of a factor its logarithms."""
    return dict(zip(law.names, _line_of_each_seed(law, languages_L, known_LS).T, strict=True))


def _undo(name: str, value: float) -> float:
    """A factor is fitted as its logarithm."""
    return math.exp(value) if name == "factor" else value


def _interval(name: str, ends: Ends | None) -> Ends | None:
    return ends and [_undo(name, end) for end in ends]


def _percentiles(of_seeds: np.ndarray, level: float, seed: int) -> Ends | None:
    """By the bootstrap, of the mean; None with fewer than two values."""
    if len(of_seeds) < 2:
        return None
    drawn = stats.bootstrap(
        (of_seeds,),
        np.mean,
        confidence_level=level,
        method="percentile",
        n_resamples=_RESAMPLES,
        random_state=np.random.default_rng(seed),
    )
    return [float(end) for end in drawn.confidence_interval]


def _student(of_seeds: np.ndarray, level: float) -> Ends | None:
    """Return the CI of the mean; `None` with fewer than two values."""
    if len(of_seeds) < 2:
        return None
    half = float(stats.t.ppf((1 + level) / 2, len(of_seeds) - 1) * stats.sem(of_seeds)) if np.ptp(of_seeds) else 0.0
    mean = float(of_seeds.mean())
    return [mean - half, mean + half]


# Step 4


def _error_left_out(law: Law, languages_L: np.ndarray, known_LS: np.ndarray) -> float | None:
    """Root mean square over L of the error there of a fit to the means of all others, as a share of the mean value."""
    if len(languages_L) < 3 or (law is LAWS["power"] and np.nanmin(known_LS) <= 0):
        return None
    means_L = np.nanmean(known_LS, axis=1)
    missed = []
    for left_out in range(len(languages_L)):
        others = np.arange(len(languages_L)) != left_out
        ((intercept, slope),) = _line_of_each_seed(law, languages_L[others], means_L[others, None])
        missed.append(law.back(intercept + slope * law.of_languages(languages_L[left_out])) - means_L[left_out])
    scale = float(np.abs(means_L).mean())
    return float(np.sqrt(np.mean(np.square(missed)))) / scale if scale else 0.0


def _choose(
    languages_L: np.ndarray, known_LS: np.ndarray, errors: Mapping[str, float | None]
) -> tuple[str | None, str]:
    """The law, and in words why."""
    if len(languages_L) < 2 or not ((~np.isnan(known_LS)).sum(axis=0) > 1).any():
        return None, "a law needs one seed with values at two numbers of languages"
    line, power = errors["linear"], errors["power"]
    if line is None:
        return "linear", "two numbers of languages cannot tell one law from another"
    if power is None:
        return "linear", "a power law needs values above 0"
    shares = f"{line:.2%} (line) against {power:.2%} (power law) of the mean value"
    if power < CLEARLY_LESS * line:
        return "power", f"its error at a held-out L is less by more than a tenth: {shares}"
    if line <= power:
        return "linear", f"its error at a held-out L is no larger: {shares}"
    return "linear", f"the power law's error at a held-out L is not less by more than a tenth: {shares}"


def _refuse_no_law(fit: Fit) -> tuple[float, float]:
    raise ValueError(f"this fit has no law: {fit['chosen_because']}.")
