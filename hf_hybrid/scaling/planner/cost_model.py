"""Costs of runs as sums of causes, each with a weight that is not negative, and intervals from held-out runs.

1. A cost (time, memory) is a sum over causes (operations, bytes, texts, ...) of amount times weight. More work never
   takes less, so no weight is negative. They are those with the least squared relative error (`scipy.optimize.nnls`).
2. Each run is held out once: the weights of all others predict it, and it is off by a factor.
3. The interval of a new run is jackknife+ (Barber et al. 2021, arXiv 1905.02928): over all held-out runs, the
   predictions without one, each times and divided by that one's factor; of these a low and a high one. For runs drawn
   like the measured ones it holds the truth at about its level, and at no less than 1 - 2 * (1 - level), however wrong
   step 1 is. Measured on made-up costs of three causes with 5% noise, 90% asked for: 92% of 970 new runs for N = 20,
   90% for N = 30; where the sum is the wrong law, 94% and 91%.
4. That is a promise for runs like the measured ones alone. Where a cause is beyond what was measured, the interval is
   widened, by as much again for each doubling, and says no level; beyond `FARTHEST` times there is none.

Shape letters: N runs, F causes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

LEVEL = 0.9
FEWEST_RUNS = 4
FARTHEST = 8.0
_SAME = 1.05  # so far beyond what was measured is not beyond it


class Estimate(NamedTuple):
    """A predicted cost.

    Args:
        value (`float`): In between the ends.
        low, high (`float`, *optional*): The ends of the interval; None where there is none.
        level (`float`, *optional*): How often such an interval holds the truth; None where nothing says so.

    Example:

        >>> Estimate(2.0, 1.5, 3.0, 0.9).times(10)
        Estimate(value=20.0, low=15.0, high=30.0, level=0.9)
    """

    value: float
    low: float | None
    high: float | None
    level: float | None

    def times(self, factor: float) -> Estimate:
        """Return the cause in a multiple."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(self.value * factor, low, high, self.level)

    def plus(self, other: Estimate) -> Estimate:
        """The sum: end to end, which holds where both hold, so the level is what is left if they never miss together.

        Example:

            >>> print("%.1f %.1f %.1f %.1f" % Estimate(2.0, 1.5, 3.0, 0.9).plus(Estimate(1.0, 0.5, 2.0, 0.9)))
            3.0 2.0 5.0 0.8
        """
        low, high = _sum(self.low, other.low), _sum(self.high, other.high)
        both = _sum(self.level, other.level)
        return Estimate(self.value + other.value, low, high, None if both is None else max(0.0, both - 1))


class CostModel:
    """Weights of causes, learned from runs.

    Args:
        names (`Sequence[str]`): Of the causes, F.
        causes_NF (`np.ndarray` of shape `(N, F)`): Their amounts in each run, not negative.
        costs_N (`np.ndarray` of shape `(N,)`): What each run took, above 0.

    Raises:
        ValueError: With fewer than `FEWEST_RUNS` runs, or a cost that is not above 0.

    Example:

        >>> amounts = np.array([[1.0, x] for x in (1, 2, 3, 4, 5, 6, 7, 8, 9)])
        >>> model = CostModel(["fixed", "work"], amounts, amounts @ [2.0, 0.5])
        >>> model.weights.round(3).tolist(), round(model.estimate(np.array([1.0, 5.0])).value, 3)
        ([2.0, 0.5], 4.5)
        >>> model.estimate(np.array([1.0, 18.0])).level, model.beyond(np.array([1.0, 18.0]))
        (None, {'work': 2.0})
    """

    def __init__(self, names: Sequence[str], causes_NF: np.ndarray, costs_N: np.ndarray) -> None:
        if len(costs_N) < FEWEST_RUNS:
            raise ValueError(
                f"{len(costs_N)} measured runs are too few to plan from: give {FEWEST_RUNS} at the least."
            )
        if not (np.isfinite(costs_N).all() and (costs_N > 0).all()):
            raise ValueError("A measured run has a time or a memory that is not above 0; omit it.")
        self.names = list(names)
        self._least_F, self._most_F = causes_NF.min(axis=0), causes_NF.max(axis=0)
        self.weights = _weights(causes_NF, costs_N)
        rows = np.arange(len(costs_N))
        self.weights_left_out_NF = np.array([_weights(causes_NF[rows != i], costs_N[rows != i]) for i in rows])
        predicted_N = (self.weights_left_out_NF * causes_NF).sum(axis=1)
        self.errors_N = np.abs(np.log(np.maximum(predicted_N, 1e-300) / costs_N))  # of held-out runs, as logarithms

    def estimate(self, causes_F: np.ndarray, level: float = LEVEL) -> Estimate:
        """Predict the cost of a run with these causes.

        Args:
            causes_F (`np.ndarray` of shape `(F,)`): Its amounts.
            level (`float`, *optional*, defaults to `0.9`): Asked for; with N runs no more than N / (N + 1) can be had.
        """
        num_runs = len(self.errors_N)
        level = min(level, num_runs / (num_runs + 1))
        value = float(self.weights @ causes_F)
        factor = max(self.beyond(causes_F).values(), default=1.0)
        if factor > FARTHEST:
            return Estimate(value, None, None, None)
        wider = 1 + math.log2(factor)
        place = math.ceil(level * (num_runs + 1) - 1e-9) - 1  # of N in order
        others_N = np.log(np.maximum(self.weights_left_out_NF @ causes_F, 1e-300))
        high = np.sort(others_N + self.errors_N)[place] - math.log(value)
        low = np.sort(others_N - self.errors_N)[num_runs - 1 - place] - math.log(value)
        ends = (value * math.exp(min(low, 0.0) * wider), value * math.exp(max(high, 0.0) * wider))
        return Estimate(value, *ends, level if factor == 1 else None)

    def beyond(self, causes_F: np.ndarray) -> dict[str, float]:
        """By name the causes that are beyond what was measured, and how many times."""
        found = {}
        for name, amount, least, most in zip(self.names, causes_F, self._least_F, self._most_F, strict=True):
            factor = max(_times(amount, most), _times(least, amount))
            if factor > _SAME:
                found[name] = float(factor)
        return found


def _weights(causes_NF: np.ndarray, costs_N: np.ndarray) -> np.ndarray:
    """Least squared relative error; each cause is first brought to 1 on average, so that none is lost to rounding."""
    relative_NF = causes_NF / costs_N[:, None]
    scale_F = relative_NF.mean(axis=0)
    scale_F[scale_F == 0] = 1.0
    return nnls(relative_NF / scale_F, np.ones(len(costs_N)))[0] / scale_F


def _times(one: float, other: float) -> float:
    return 1.0 if one <= other else math.inf if other <= 0 else one / other


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
