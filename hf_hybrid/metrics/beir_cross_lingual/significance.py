"""Is one system better than another, or was it the choice of queries? (numpy and SciPy, leaf)

Everything is paired: both systems answered the same queries, and what counts is the difference on each. Of the two
tests the one by randomization assumes nothing of how differences are distributed, the t test is quicker (Smucker,
Allan and Carterette 2007, who compare them). A query that counts for neither system, NaN in both, is skipped.

Shape letters: Q queries of a language pair, U of all language pairs together (parallel ones are one), C language
pairs, S resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import special, stats

# Random signs or choices of queries that are held at once.
_BATCH_VALUES = 2**22
# Language pairs whose values are held as one matrix.
_BLOCK_PAIRS = 32
# The least p-value of S random swaps is 1 / (1 + S), which Holm's correction multiplies by the number of language
# pairs: with so many resamples per language pair it stays below 0.005.
_RESAMPLES_PER_PAIR = 200
# Random signs for all language pairs of a table, 3 seconds or so; the t test is for larger ones.
_MOST_SIGNS = 10**9


class Comparison(NamedTuple):
    """Two systems on the same queries.

    Args:
        difference (`float`): Mean of the first less that of the second; above 0 the first has more.
        p_value (`float`): How often a difference as large as this, either way, comes about between equal systems.
        adjusted_p_value (`float`): The same after correction for all comparisons made together; else `p_value`.
        num_queries (`int`): Queries that count.
        test (`str`, *optional*, defaults to `"randomization"`): Where the p-value is from, or `"t"`.
    """

    difference: float
    p_value: float
    adjusted_p_value: float
    num_queries: int
    test: str = "randomization"


class Interval(NamedTuple):
    """A mean, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def paired_randomization_test(
    first_Q: np.ndarray, second_Q: np.ndarray, num_resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Fisher's paired randomization test of two systems, two-sided.

    If the systems were equal, on each query either could have had either value. The p-value is the share of all ways
    to swap them whose mean difference is at least as far from 0: counted over all where these are not more than
    `num_resamples`, else estimated as (1 + hits) / (1 + S) from S random ones, so never 0.

    Args:
        first_Q, second_Q (`np.ndarray` of shape `(Q,)`): A measure of each query by two systems.
        num_resamples (`int`, *optional*, defaults to `10000`): S.
        seed (`int`, *optional*, defaults to `0`): Of the random swaps.

    Returns:
        `Comparison`: With the p-value 1 where no query differs.

    Raises:
        ValueError: When the systems did not answer the same queries, or none.

    Example:

        >>> # four queries, all better by the first: of 16 ways to swap, none and all of them are as extreme
        >>> first, second = np.array([0.9, 0.8, 0.7, 1.0]), np.array([0.5, 0.5, 0.6, 0.9])
        >>> paired_randomization_test(first, second).p_value
        0.125
    """
    difference_Q = _differences(first_Q, second_Q)
    moved_Q = difference_Q[difference_Q != 0]
    exact = len(moved_Q) < 60 and 2 ** len(moved_Q) <= num_resamples
    num_signs = 2 ** len(moved_Q) if exact else num_resamples
    rng = np.random.default_rng(seed)
    height = max(1, _BATCH_VALUES // max(len(moved_Q), 1))
    total = moved_Q.sum()
    least = abs(total) - 1e-12 * np.abs(moved_Q).sum()  # sums in another order differ in the last digits
    hits = 0
    for start in range(0, num_signs, height):
        rows = np.arange(start, min(start + height, num_signs))
        if exact:
            swapped_SQ = rows[:, None] >> np.arange(len(moved_Q)) & 1
        else:
            swapped_SQ = rng.integers(0, 2, size=(len(rows), len(moved_Q)), dtype=np.int8)
        hits += int(np.count_nonzero(np.abs(total - 2 * (swapped_SQ @ moved_Q)) >= least))
    p_value = hits / num_signs if exact else (1 + hits) / (1 + num_signs)
    return Comparison(float(difference_Q.mean()), p_value, p_value, len(difference_Q))


def paired_t_test(first_Q: np.ndarray, second_Q: np.ndarray) -> Comparison:
    """Student's paired t test of two systems, two-sided.

    Args:
        first_Q, second_Q (`np.ndarray` of shape `(Q,)`): A measure of each query by two systems.

    Returns:
        `Comparison`: With the p-value 1 where no query differs or there is only one query, and 0 where all of several
        differ by the same.

    Raises:
        ValueError: When the systems did not answer the same queries, or none.

    Example:

        >>> # differences of 0.225 on average with a standard error of 0.075: t = 3 with 3 degrees of freedom
        >>> round(paired_t_test(np.array([0.9, 0.8, 0.7, 1.0]), np.array([0.5, 0.5, 0.6, 0.9])).p_value, 4)
        0.0577
    """
    difference_Q = _differences(first_Q, second_Q)
    mean, num_queries = float(difference_Q.mean()), len(difference_Q)
    error = float(difference_Q.std(ddof=1)) / num_queries**0.5 if num_queries > 1 else 0.0
    if error > 0:
        p_value = float(2 * special.stdtr(num_queries - 1, -abs(mean) / error))
    else:
        p_value = 0.0 if num_queries > 1 and mean != 0 else 1.0
    return Comparison(mean, p_value, p_value, num_queries, "t")


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for how many there are (Holm 1979): below 0.05 still means 5 in 100, for all together.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes less than one before it, or more
    than 1.

    Args:
        p_values (`np.ndarray` of any shape): Such as `(L, L)`; NaN where there is none, which does not count.

    Returns:
        `np.ndarray` of the same shape.

    Example:

        >>> holm(np.array([[0.01, 0.04], [0.03, np.nan]])).tolist()
        [[0.03, 0.06], [0.06, nan]]
    """
    adjusted = np.array(p_values, dtype=np.float64)
    given = ~np.isnan(adjusted)
    values = adjusted[given]
    order = np.argsort(values)
    factors = np.arange(len(values), 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    adjusted[given] = values
    return adjusted


def compare_language_pairs(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    test: Callable[[np.ndarray, np.ndarray], Comparison] | None = None,
) -> dict[str, Comparison]:
    """Two systems in each language pair of a table, such as the L x L language pairs, with Holm's correction over all.

    The test is by randomization with 10,000 random swaps, or 200 for each language pair where that is more: with
    fewer, nothing in a large table could be significant after the correction. Where they would take too long (more
    than 10^9 random signs, such as 150 language pairs of 300 queries or 70 of 1,200) it is the t test, with a p-value
    of at least 2 / 2^Q, the least that any randomization of so many queries has. Either way no p-value is 0, and
    `test` of the result says which of them it was.

    Args:
        first, second (`Mapping[str, np.ndarray]`): Of each language pair a measure of each query, by two systems.
        test (`Callable`, *optional*): Such as `paired_randomization_test` or `paired_t_test`; by default as above.

    Returns:
        `dict[str, Comparison]`: Of each language pair, `adjusted_p_value` being the corrected one.

    Raises:
        ValueError: When the systems do not have the same language pairs, or in one not the same queries.

    Example:

        >>> first = {"de-en": np.array([0.9, 0.8, 0.7, 1.0]), "en-de": np.array([0.5, 0.2, 0.6, 0.4])}
        >>> second = {"de-en": np.array([0.5, 0.5, 0.6, 0.9]), "en-de": np.array([0.4, 0.3, 0.6, 0.4])}
        >>> {pair: found.adjusted_p_value for pair, found in compare_language_pairs(first, second).items()}
        {'de-en': 0.25, 'en-de': 1.0}
    """
    if first.keys() != second.keys():
        unlike = sorted(first.keys() ^ second.keys())
        raise ValueError(
            f"language pairs that only one of the systems has: {', '.join(unlike)}. Compare the same language pairs."
        )
    if test is None:
        test = _affordable_test(len(first), sum(map(len, first.values())))
    found = {}
    for pair, values_Q in first.items():
        try:
            found[pair] = test(values_Q, second[pair])
        except ValueError as error:
            raise ValueError(f"{pair}: {error}") from None
    adjusted = holm(np.array([comparison.p_value for comparison in found.values()]))
    return {
        pair: comparison._replace(adjusted_p_value=value)
        for (pair, comparison), value in zip(found.items(), adjusted.tolist(), strict=True)
    }


def _affordable_test(num_language_pairs: int, num_values: int) -> Callable[[np.ndarray, np.ndarray], Comparison]:
    num_resamples = max(10_000, _RESAMPLES_PER_PAIR * num_language_pairs)
    if num_resamples * num_values <= _MOST_SIGNS:
        return partial(paired_randomization_test, num_resamples=num_resamples)
    return _cautious_t_test


def _cautious_t_test(first_Q: np.ndarray, second_Q: np.ndarray) -> Comparison:
    found = paired_t_test(first_Q, second_Q)
    # all differences of one sign: they, and all of them swapped, are the two most extreme of 2^Q
    least = 2.0 ** max(1 - found.num_queries, -1000)  # a float has no smaller one by much
    p_value = max(found.p_value, least)
    return found._replace(p_value=p_value, adjusted_p_value=p_value)


def bootstrap_interval(
    values_Q: np.ndarray, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of a measure over queries with its confidence interval, by the percentile bootstrap (Efron 1979).

    As many queries are drawn again with replacement, S times; the ends are quantiles of the S means.

    Args:
        values_Q (`np.ndarray` of shape `(Q,)`): A measure of each query, or its difference between two systems; NaN
            where a query does not count.
        confidence (`float`, *optional*, defaults to `0.95`): Share of the means inside, between 0 and 1.
        num_resamples (`int`, *optional*, defaults to `10000`): S.
        seed (`int`, *optional*, defaults to `0`): Of the draws.

    Returns:
        `Interval`: Without width, and so without meaning, for a single query.

    Raises:
        ValueError: When no query counts, or the confidence is not between 0 and 1.

    Example:

        >>> mean, low, high = bootstrap_interval(np.array([0.0, 1.0] * 50))
        >>> mean, round(low, 1), round(high, 1)
        (0.5, 0.4, 0.6)
    """
    _check_confidence(confidence)
    counted_Q = values_Q[~np.isnan(values_Q)]
    if not len(counted_Q):
        raise ValueError(f"no query counts: {len(values_Q)} values, none of which is a number.")
    mean = float(counted_Q.mean())
    if np.ptp(counted_Q) == 0:
        return Interval(mean, mean, mean)
    drawn = stats.bootstrap(
        (counted_Q,),
        np.mean,
        n_resamples=num_resamples,
        batch=max(1, _BATCH_VALUES // len(counted_Q)),
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return Interval(mean, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def macro_interval(
    values: Sequence[np.ndarray],
    queries: Sequence[np.ndarray],
    confidence: float = 0.95,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """Return the mean over language pairs of the mean over queries, with its CI, by a bootstrap of parallel queries.

    In a table of languages the same query stands in many language pairs, in translation, and where it is hard it is
    hard in many of them: the values are no independent draws. Hence queries are drawn again with replacement, each
    with all its language pairs, as many as there are; that S times, and the ends are quantiles of the S means over
    language pairs. The language pairs are not drawn: the interval is for other queries in the same languages. Where
    each language pair has queries of its own, this is the bootstrap of independent queries.

    Args:
        values (`Sequence[np.ndarray]`): Of each language pair a measure of each query, or its difference between two
            systems, of shape `(Q,)`; NaN where a query does not count. A language pair where none counts is skipped.
        queries (`Sequence[np.ndarray]`): Of each language pair which queries those are, by number or name, of shape
            `(Q,)`.
        confidence (`float`, *optional*, defaults to `0.95`): Share of the means inside, between 0 and 1.
        num_resamples (`int`, *optional*, defaults to `2000`): S.
        seed (`int`, *optional*, defaults to `0`): Of the draws.

    Returns:
        `Interval`: Without width, and so without meaning, for a single query.

    Raises:
        ValueError: When no query counts, the queries are not those of the values, or the confidence is not between 0
            and 1.

    Example:

        >>> # a query in both pairs counts once, and the smaller pair for as much as the larger one
        >>> half, queries = np.array([0.0, 1.0] * 50), np.arange(100)
        >>> mean, low, high = macro_interval([half, half], [queries, queries])
        >>> mean, round(low, 1), round(high, 1)
        (0.5, 0.4, 0.6)
        >>> macro_interval([half, half[1::2]], [queries, queries[1::2]]).mean
        0.75
    """
    _check_confidence(confidence)
    if [*map(np.shape, values)] != [*map(np.shape, queries)]:
        raise ValueError(
            "values and queries are not of the same shapes: give the query of each value of each language pair."
        )
    counted = [~np.isnan(value_Q) for value_Q in values]
    if not any(map(np.any, counted)):
        raise ValueError(f"no query counts: {len(values)} language pairs, none with a value that is a number.")
    pairs = [pair for pair in zip(values, queries, counted, strict=True) if pair[2].any()]
    values = [value_Q[keep_Q] for value_Q, _, keep_Q in pairs]
    mean = float(np.mean([value_Q.mean() for value_Q in values]))
    units, unit_of = np.unique(np.concatenate([query_Q[keep_Q] for _, query_Q, keep_Q in pairs]), return_inverse=True)
    blocks = _blocks(values, np.split(unit_of, np.cumsum([len(value_Q) for value_Q in values])[:-1]))
    rng, num_units = np.random.default_rng(seed), len(units)
    height = max(1, _BATCH_VALUES // (4 * num_units))
    means = []
    for start in range(0, num_resamples, height):
        times_SU = _times_drawn(rng, min(height, num_resamples - start), num_units)
        means.append(_macro_means(times_SU, blocks))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(mean, low, high)


def _blocks(values: list[np.ndarray], units: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield matrices for blocks of language pairs: their units, and sum and number of values by unit and pair."""
    blocks = []
    for start in range(0, len(values), _BLOCK_PAIRS):
        chosen = slice(start, start + _BLOCK_PAIRS)
        present_U, row = np.unique(np.concatenate(units[chosen]), return_inverse=True)
        column = np.repeat(np.arange(len(values[chosen])), [len(value_Q) for value_Q in values[chosen]])
        sum_UC, number_UC = np.zeros((2, len(present_U), len(values[chosen])))
        np.add.at(sum_UC, (row, column), np.concatenate(values[chosen]))
        np.add.at(number_UC, (row, column), 1)
        blocks.append((present_U, sum_UC, number_UC))
    return blocks


def _times_drawn(rng: np.random.Generator, num_resamples: int, num_units: int) -> np.ndarray:
    """Count how often each unit is drawn in each resample."""
    drawn_SU = rng.integers(num_units, size=(num_resamples, num_units))
    drawn_SU += np.arange(num_resamples)[:, None] * num_units
    times = np.bincount(drawn_SU.ravel(), minlength=drawn_SU.size)
    return times.reshape(drawn_SU.shape).astype(np.float64)


def _macro_means(times_SU: np.ndarray, blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the mean over the language pairs that have a query, for each resample."""
    total_S, pairs_S = np.zeros((2, len(times_SU)))
    for present_U, sum_UC, number_UC in blocks:
        chosen_SU = times_SU[:, present_U]
        number_SC = chosen_SU @ number_UC
        there_SC = number_SC > 0
        total_S += np.divide(chosen_SU @ sum_UC, number_SC, out=np.zeros_like(number_SC), where=there_SC).sum(axis=1)
        pairs_S += there_SC.sum(axis=1)
    return total_S / pairs_S


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: give a number between 0 and 1, such as 0.95.")


def _differences(first_Q: np.ndarray, second_Q: np.ndarray) -> np.ndarray:
    """Return the values of the queries that count, which must be the same for both."""
    first_Q, second_Q = np.asarray(first_Q, dtype=np.float64), np.asarray(second_Q, dtype=np.float64)
    if first_Q.shape != second_Q.shape or first_Q.ndim != 1:
        raise ValueError(f"values of shapes {first_Q.shape} and {second_Q.shape}: give one for each query of both.")
    counts_Q = ~np.isnan(first_Q)
    if (counts_Q != ~np.isnan(second_Q)).any():
        unlike = int((counts_Q == np.isnan(second_Q)).sum())
        raise ValueError(f"{unlike} queries count for one system only (NaN for the other): evaluate both on the same.")
    if not counts_Q.any():
        raise ValueError(f"no query counts: {len(first_Q)} values, none of which is a number.")
    return first_Q[counts_Q] - second_Q[counts_Q]
