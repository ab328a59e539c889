"""Growth of costs and quality with the number of languages L, and comparisons of two arms, with 95% CIs over seeds.

1. Values come as L -> one value for each seed, with the seeds in the same order for all L. None or NaN stands for a
   trial that failed, and `NOT_REACHED` for one that missed its target. Both are counted and reported.
2. Each seed is fitted on its own, with a line `intercept + slope * L` and with a power law `factor * L ** exponent`,
   which is a line through the logarithms. A coefficient is the mean over the seeds (of the logarithms, for a factor).
3. CIs are Student's t over the seeds. They are exact for normal noise that two seeds do not share. They cover seed
   variance only, not other languages, corpora or machines.
4. Each law predicts every L from the others. The line is chosen, unless the power law's error is smaller by more than
   a tenth: a line is the weaker claim.

Claims rest on Student's t. A `Fit` also has bootstrap CIs, which are too narrow: a resample of three values never
leaves their range. How often a CI of the slope covered the true slope in simulated studies (95% nominal; L = 1, 2, 4,
8, 16; three seeds; 4,000 studies a row):

| normal noise, 5%                  | Student's t over seeds | percentile bootstrap over seeds |
|-----------------------------------|------------------------|---------------------------------|
| of each trial                     | 94.8%                  | 76.1%                           |
| of each seed, in all its trials   | 95.0%                  | 75.2%                           |
| of the growth of each seed        | 95.4%                  | 76.7%                           |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from scipy import stats

NOT_REACHED = math.inf
LEVEL = 0.95  # of all CIs
CLEARLY_LESS = 0.9  # the power law is chosen if its error is less than this share of the line's
_ROUNDING = 1e-12  # a slope that moves the values by a smaller share is rounding
_RESAMPLES = 2000

Values = Mapping[int, Sequence[float | None]]
Interval = list[float]  # low and high


class Point(TypedDict):
    """The values of the seeds at one L."""

    languages: int
    mean: float | None  # None without values, or if a trial missed its target
    interval: Interval | None  # of the mean; None with fewer than two values
    num_values: int
    num_failed: int
    num_not_reached: int


class Fit(TypedDict):
    """A growth law, as `fits.json` has it."""

    law: str | None  # "linear" or "power"; None if the values allow no fit
    coefficients: dict[str, float]  # intercept and slope, or factor and exponent
    intervals: dict[str, Interval | None]  # Student's t over the seeds; None with one seed
    bootstrap_intervals: dict[str, Interval | None]
    errors: dict[str, float | None]  # of each law at a held-out L, as a share of the mean value
    chosen_because: str
    level: float
    languages: list[int]  # of the fit
    num_seeds: int  # of the fit
    points: list[Point]  # of all L


class Difference(TypedDict):
    """The values at one L minus those at the fewest languages, or a first arm's minus a second's."""

    languages: int
    difference: float | None  # mean over the seeds that have both values
    interval: Interval | None
    num_seeds: int
    num_missing: int  # seeds that lack a value: a trial failed or missed its target


class Ratio(TypedDict):
    """A first arm's values over a second's, as a geometric mean."""

    ratio: float | None  # None if a trial missed its target, or no seed has all values
    interval: Interval | None
    level: float
    num_seeds: int
    num_missing: int  # failed trials of both arms
    not_reached: list[int]  # trials of the first and of the second arm
    num_trials: list[int]  # trials of the first and of the second arm that did not fail


class Law(NamedTuple):
    """A growth law, which is a line in transformed values and numbers of languages."""

    names: tuple[str, str]  # of its coefficients; the second one is the growth
    transform: Callable[[np.ndarray], np.ndarray]
    invert: Callable[[np.ndarray], np.ndarray]  # inverts `transform`


LAWS = {
    "linear": Law(("intercept", "slope"), np.asarray, np.asarray),
    "power": Law(("factor", "exponent"), np.log, np.exp),
}


def fit_growth(values: Values) -> Fit:
    """Fit the growth of values with the number of languages.

    An L at which a trial missed its target is excluded from the fit, because the trials that reached it are the
    cheaper ones; its point says how many missed it.

    Args:
        values (`Mapping[int, Sequence[float]]`): For each L a value of each seed, with the same seeds for all L.

    Raises:
        ValueError: When an L is not a whole number from 1 on, or not all L have equally many values.

    Example:

        >>> fit = fit_growth({1: [2.0, 2.1, 2.0], 2: [3.0, 3.1, 3.2], 4: [5.0, 5.3, 5.1], 8: [9.1, 9.2, 8.9]})
        >>> fit["law"], round(fit["coefficients"]["slope"], 2), [round(end, 2) for end in fit["intervals"]["slope"]]
        ('linear', 1.0, [0.94, 1.06])
    """
    table_LS, counts = _to_table(values), sorted(values)
    is_usable_L = ~np.isinf(table_LS).any(axis=1) & ~np.isnan(table_LS).all(axis=1)
    languages_L, known_LS = np.array(counts, dtype=float)[is_usable_L], table_LS[is_usable_L]
    errors = {name: _held_out_error(law, languages_L, known_LS) for name, law in LAWS.items()}
    law, reason = _choose(languages_L, known_LS, errors)
    lines = dict(zip(LAWS[law].names, _fit_lines(LAWS[law], languages_L, known_LS).T, strict=True)) if law else {}
    return {
        "law": law,
        "coefficients": {name: _undo_log(name, float(values_S.mean())) for name, values_S in lines.items()},
        "intervals": {name: _undo_logs(name, _student(values_S)) for name, values_S in lines.items()},
        "bootstrap_intervals": {name: _undo_logs(name, _bootstrap(values_S)) for name, values_S in lines.items()},
        "errors": errors,
        "chosen_because": reason,
        "level": LEVEL,
        "languages": [int(count) for count in languages_L],
        "num_seeds": max(map(len, lines.values()), default=0),
        "points": [_point(count, row_S) for count, row_S in zip(counts, table_LS, strict=True)],
    }


def compare_with_fewest(values: Values) -> list[Difference]:
    """Compare each number of languages with the fewest, seed by seed: the curse of multilinguality, if any.

    Each CI holds on its own: of many, some miss by chance.

    Args:
        values (`Mapping[int, Sequence[float]]`): As in `fit_growth`.

    Example:

        >>> found = compare_with_fewest({1: [0.5, 0.6, 0.55], 8: [0.45, 0.56, 0.5]})
        >>> round(found[0]["difference"], 3), [round(end, 3) for end in found[0]["interval"]]
        (-0.047, [-0.061, -0.032])
    """
    table_LS, counts = _to_table(values), sorted(values)
    return [_difference(count, row_S, table_LS[0]) for count, row_S in zip(counts[1:], table_LS[1:], strict=True)]


def compute_differences(first: Values, second: Values) -> list[Difference]:
    """Subtract a second arm's values from a first's at each L that both have, seed by seed.

    Example:

        >>> compute_differences({2: [0.5, 0.6]}, {2: [0.4, 0.5], 4: [0.3, 0.2]})[0]["num_seeds"]
        2
    """
    return [_difference(*rows) for rows in zip(*_share_counts(first, second), strict=True)]


def compute_ratio(first: Values, second: Values) -> Ratio:
    """Divide a first arm's values by a second's at each L that both have: the geometric mean over L, then over seeds.

    Args:
        first, second (`Mapping[int, Sequence[float]]`): As in `fit_growth`, with the same seeds in the same order.

    Raises:
        ValueError: When a value is not above 0, or one arm has more seeds than the other.

    Example:

        >>> found = compute_ratio({2: [1.0, 1.1, 1.05], 4: [1.0, 1.2, 1.1]}, {2: [2.0, 2.1, 2.2], 4: [2.1, 2.2, 2.2]})
        >>> round(found["ratio"], 2), [round(end, 2) for end in found["interval"]]
        (0.5, [0.44, 0.57])
    """
    _, *tables = _share_counts(first, second)
    both_LS = np.array(tables)
    if (both_LS <= 0).any():
        raise ValueError("ratio: a value is not above 0. Compare such values with `compute_differences`.")
    is_complete_S = ~np.isnan(both_LS).any(axis=(0, 1))
    is_usable = not np.isinf(both_LS).any() and both_LS.shape[1] > 0 and is_complete_S.any()
    logs_S = np.log(both_LS[0] / both_LS[1])[:, is_complete_S].mean(axis=0) if is_usable else np.empty(0)
    interval = _student(logs_S)
    return {
        "ratio": math.exp(logs_S.mean()) if len(logs_S) else None,
        "interval": [math.exp(end) for end in interval] if interval else None,
        "level": LEVEL,
        "num_seeds": len(logs_S),
        "num_missing": int(np.isnan(both_LS).sum()),
        "not_reached": [int(np.isinf(arm_LS).sum()) for arm_LS in both_LS],
        "num_trials": [int((~np.isnan(arm_LS)).sum()) for arm_LS in both_LS],
    }


# Steps 1 to 3


def _to_table(values: Values) -> np.ndarray:
    """Return the values `(L, S)` by increasing L, NaN for trials that failed."""
    wrong = [count for count in values if not isinstance(count, int | np.integer) or count < 1]
    if wrong or not values:
        raise ValueError(f"values: expected numbers of languages from 1 on, each with its seeds; got {wrong}.")
    if len({len(of_seeds) for of_seeds in values.values()}) > 1:
        sizes = ", ".join(f"L={count}: {len(values[count])}" for count in sorted(values))
        raise ValueError(f"values: all L need equally many seeds, with None for a trial that failed; got {sizes}.")
    table_LS = np.array([values[count] for count in sorted(values)], dtype=float)  # None becomes NaN
    if np.isneginf(table_LS).any():
        raise ValueError("values: found minus infinity; a trial that missed its target has NOT_REACHED.")
    return table_LS


def _share_counts(first: Values, second: Values) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return the L that both arms have, and the values `(L, S)` of each arm there."""
    counts, one_LS, other_LS = sorted({*first} & {*second}), _to_table(first), _to_table(second)
    if one_LS.shape[1] != other_LS.shape[1]:
        sizes = f"{one_LS.shape[1]} seeds of the first arm and {other_LS.shape[1]} of the second"
        raise ValueError(f"values: got {sizes}. Give the same seeds of both.")
    return counts, one_LS[np.isin(sorted(first), counts)], other_LS[np.isin(sorted(second), counts)]


def _point(count: int, row_S: np.ndarray) -> Point:
    known_S, num_not_reached = row_S[np.isfinite(row_S)], int(np.isinf(row_S).sum())
    return {
        "languages": int(count),
        "mean": float(known_S.mean()) if len(known_S) and not num_not_reached else None,
        "interval": None if num_not_reached else _student(known_S),
        "num_values": len(known_S),
        "num_failed": int(np.isnan(row_S).sum()),
        "num_not_reached": num_not_reached,
    }


def _difference(count: int, row_S: np.ndarray, other_S: np.ndarray) -> Difference:
    is_known_S = np.isfinite(row_S) & np.isfinite(other_S)
    all_reached = not (np.isinf(row_S) | np.isinf(other_S)).any()
    found_S = (row_S - other_S)[is_known_S] if all_reached else np.empty(0)
    return {
        "languages": int(count),
        "difference": float(found_S.mean()) if len(found_S) else None,
        "interval": _student(found_S),
        "num_seeds": len(found_S),
        "num_missing": len(row_S) - int(is_known_S.sum()),
    }


def _fit_lines(law: Law, languages_L: np.ndarray, known_LS: np.ndarray) -> np.ndarray:
    """Return the transformed law's intercept and slope `(S, 2)` for each seed that has at least two L."""
    lines = []
    for values_L in known_LS.T:
        is_known_L = ~np.isnan(values_L)
        if is_known_L.sum() > 1:
            x, y = law.transform(languages_L[is_known_L]), law.transform(values_L[is_known_L])
            slope, intercept = stats.linregress(x, y)[:2]
            if abs(slope) * np.ptp(x) <= _ROUNDING * np.abs(y).max():
                slope, intercept = 0.0, y.mean()
            lines.append((intercept, slope))
    return np.array(lines).reshape(-1, 2)


def _undo_log(name: str, value: float) -> float:
    """Return a coefficient; a factor was fitted as its logarithm."""
    return math.exp(value) if name == "factor" else value


def _undo_logs(name: str, interval: Interval | None) -> Interval | None:
    return interval and [_undo_log(name, end) for end in interval]


def _student(values_S: np.ndarray) -> Interval | None:
    """Return the CI of the mean; `None` with fewer than two values."""
    if len(values_S) < 2:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values_S) - 1) * stats.sem(values_S)) if np.ptp(values_S) else 0.0
    mean = float(values_S.mean())
    return [mean - half, mean + half]


def _bootstrap(values_S: np.ndarray) -> Interval | None:
    """Return the bootstrap CI of the mean; `None` with fewer than two values."""
    if len(values_S) < 2:
        return None
    drawn = stats.bootstrap(
        (values_S,),
        np.mean,
        confidence_level=LEVEL,
        method="percentile",
        n_resamples=_RESAMPLES,
        random_state=np.random.default_rng(0),
    )
    return [float(end) for end in drawn.confidence_interval]


# Step 4


def _held_out_error(law: Law, languages_L: np.ndarray, known_LS: np.ndarray) -> float | None:
    """Return the RMSE of predicting the mean at each L from the others, as a share of the mean value."""
    if len(languages_L) < 3 or (law is LAWS["power"] and np.nanmin(known_LS) <= 0):
        return None
    means_L = np.nanmean(known_LS, axis=1)
    errors = []
    for held_out in range(len(languages_L)):
        is_fitted_L = np.arange(len(languages_L)) != held_out
        ((intercept, slope),) = _fit_lines(law, languages_L[is_fitted_L], means_L[is_fitted_L, None])
        predicted = law.invert(intercept + slope * law.transform(languages_L[held_out]))
        errors.append(predicted - means_L[held_out])
    scale = float(np.abs(means_L).mean())
    return float(np.sqrt(np.mean(np.square(errors)))) / scale if scale else 0.0


def _choose(
    languages_L: np.ndarray, known_LS: np.ndarray, errors: Mapping[str, float | None]
) -> tuple[str | None, str]:
    """Return the chosen law and the reason."""
    if len(languages_L) < 2 or not ((~np.isnan(known_LS)).sum(axis=0) > 1).any():
        return None, "a law needs one seed with values at two numbers of languages"
    line, power = errors["linear"], errors["power"]
    if line is None:
        return "linear", "two numbers of languages cannot tell one law from another"
    if power is None:
        return "linear", "a power law needs values above 0"
    shares = f"{line:.2%} (line) against {power:.2%} (power law) of the mean value"
    if power < CLEARLY_LESS * line:
        return "power", f"its error at a held-out L is smaller by more than a tenth: {shares}"
    if line <= power:
        return "linear", f"its error at a held-out L is no larger: {shares}"
    return "linear", f"the power law's error at a held-out L is not smaller by more than a tenth: {shares}"
