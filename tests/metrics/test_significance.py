"""Tests of two systems by hand, against SciPy and on data whose answer is known."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy import stats

from hf_hybrid.metrics.beir_cross_lingual import significance
from hf_hybrid.metrics.beir_cross_lingual.significance import (
    Comparison,
    bootstrap_interval,
    compare_language_pairs,
    holm,
    macro_interval,
    paired_randomization_test,
    paired_t_test,
)

PairedTest = Callable[[np.ndarray, np.ndarray], Comparison]
TESTS: list[PairedTest] = [paired_randomization_test, paired_t_test]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def two_systems(seed: int, num_queries: int, better: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Values of the same queries by two systems; on every fifth they are the same."""
    rng = np.random.default_rng(seed)
    second = rng.random(num_queries)
    first = second + rng.normal(better, 0.2, num_queries) * (np.arange(num_queries) % 5 > 0)
    return first, second


def test_randomization_by_hand() -> None:
    # Differences 3 2 1: sums of all ways to swap are 6 4 2 0 0 -2 -4 -6, four of eight as far from 0 as 4.
    first = np.array([3.0, 2.0, -1.0])
    assert paired_randomization_test(first, np.zeros(3)) == (pytest.approx(4 / 3), 0.5, 0.5, 3, "randomization")
    assert paired_randomization_test(np.abs(first), np.zeros(3)).p_value == 2 / 8


@pytest.mark.parametrize("num_queries", [2, 5, 11])
def test_all_ways_to_swap_equal_scipy(num_queries: int) -> None:
    first, second = two_systems(num_queries, num_queries)
    expected = stats.permutation_test(
        (first - second,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    assert 0 < expected <= 1
    assert paired_randomization_test(first, second).p_value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_random_swaps_are_near_all_of_them(seed: int) -> None:
    first, second = two_systems(seed, 20, better=0.1)
    exact = paired_randomization_test(first, second, num_resamples=2**16).p_value
    estimate = paired_randomization_test(first, second, num_resamples=8_000).p_value
    assert estimate != exact
    assert estimate == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 8_000) ** 0.5 + 2 / 8_000)


def test_random_swaps_are_near_the_t_test_for_many_queries() -> None:
    first, second = two_systems(0, 3_000, better=0.006)
    by_t = paired_t_test(first, second).p_value
    assert 0.01 < by_t < 0.5
    assert paired_randomization_test(first, second).p_value == pytest.approx(by_t, abs=0.02)


def test_a_seed_gives_the_same_and_another_does_not() -> None:
    systems = two_systems(1, 200)
    assert paired_randomization_test(*systems) == paired_randomization_test(*systems)
    assert paired_randomization_test(*systems) != paired_randomization_test(*systems, seed=1)
    values = systems[0] - systems[1]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


@pytest.mark.parametrize("num_queries", [2, 30, 1_000])
def test_t_equals_scipy(num_queries: int) -> None:
    first, second = two_systems(num_queries, num_queries)
    expected = stats.ttest_rel(first, second).pvalue
    assert 0 < expected < 1
    assert paired_t_test(first, second).p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("test", TESTS)
def test_nothing_to_tell_apart(test: PairedTest) -> None:
    values = np.array([0.1, 0.7, 0.3])
    assert test(values, values)[:4] == (0.0, 1.0, 1.0, 3)
    assert test(values[:1], values[:1])[:4] == (0.0, 1.0, 1.0, 1)
    assert test(np.array([0.5]), np.array([0.25]))[:4] == (0.25, 1.0, 1.0, 1)


def test_the_same_difference_everywhere() -> None:
    first, second = np.full(10, 0.75), np.full(10, 0.5)
    assert paired_t_test(first, second).p_value == 0
    assert paired_randomization_test(first, second).p_value == 2 / 2**10
    assert paired_randomization_test(np.full(40, 0.75), np.full(40, 0.5)).p_value == 1 / 10_001


@pytest.mark.parametrize("test", TESTS)
def test_equal_systems_are_found_different_as_often_as_the_level_says(test: PairedTest) -> None:
    found = [test(*two_systems(seed, 12, better=0.0)).p_value for seed in range(400)]
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09
    better = [test(*two_systems(seed, 12, better=0.3)).p_value for seed in range(50)]
    assert np.mean(np.array(better) <= 0.05) > 0.8


@pytest.mark.parametrize("test", TESTS)
def test_queries_that_do_not_count_are_left_out(test: PairedTest) -> None:
    first, second = two_systems(3, 20)
    with_gaps = [np.insert(values, 4, np.nan) for values in (first, second)]
    assert test(*with_gaps) == test(first, second)
    assert bootstrap_interval(with_gaps[0]) == bootstrap_interval(first)


@pytest.mark.parametrize("test", TESTS)
def test_systems_must_have_answered_the_same_queries(test: PairedTest) -> None:
    with pytest.raises(ValueError, match="1 queries count for one system only"):
        test(np.array([0.1, np.nan]), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        test(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="no query counts: 2 values"):
        test(np.full(2, np.nan), np.full(2, np.nan))


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .5 times 4 3 2 1 is .04 .06 .06 .5; then .02 * 3 = .06 is not below the one before it
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm(np.array([0.04, 0.03])) == pytest.approx([0.06, 0.06])  # not 0.04: never below one before it
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert holm(np.array([])).tolist() == []


def test_holm_keeps_the_table_and_does_not_count_its_gaps() -> None:
    table = np.array([[np.nan, 0.01], [0.02, np.nan]])
    found = holm(table)
    np.testing.assert_allclose(found, [[np.nan, 0.02], [0.02, np.nan]])
    assert table[0, 1] == 0.01  # what was given is as it was


def test_cells_are_corrected_together() -> None:
    cells = {f"{a}-{b}": two_systems(a * 3 + b, 40, better=0.02 * a) for a in range(3) for b in range(3)}
    first, second = ({cell: systems[side] for cell, systems in cells.items()} for side in (0, 1))
    for test in TESTS:
        found = compare_language_pairs(first, second, test)
        alone = {cell: test(*systems) for cell, systems in cells.items()}
        assert [found[cell].p_value for cell in cells] == [alone[cell].p_value for cell in cells]
        expected = holm(np.array([alone[cell].p_value for cell in cells])).tolist()
        assert [found[cell].adjusted_p_value for cell in cells] == expected
        assert expected != [alone[cell].p_value for cell in cells]


def test_language_pairs_must_be_the_same() -> None:
    cells = {"de-en": np.array([0.5, 0.6]), "en-de": np.array([0.5, 0.6])}
    with pytest.raises(ValueError, match="only one of the systems has: en-de"):
        compare_language_pairs(cells, {"de-en": cells["de-en"]})
    with pytest.raises(ValueError, match="en-de: values of shapes"):
        compare_language_pairs(cells, cells | {"en-de": np.zeros(3)})


def cells_of(num_language_pairs: int, num_queries: int, better: float = 0.0) -> tuple[dict[str, np.ndarray], ...]:
    """Two systems in a table; the first is better in the first cell alone."""
    rng = np.random.default_rng(0)
    second = rng.random((num_language_pairs, num_queries))
    first = second + rng.normal(0, 0.1, second.shape)
    first[0] += better
    return tuple({f"cell {number}": row for number, row in enumerate(table)} for table in (first, second))


@pytest.mark.parametrize(("num_language_pairs", "num_queries", "test"), [(600, 8, "randomization"), (1_600, 300, "t")])
def test_a_large_effect_is_significant_in_a_large_table(num_language_pairs: int, num_queries: int, test: str) -> None:
    first, second = cells_of(num_language_pairs, num_queries)
    first["cell 0"] = second["cell 0"] + np.linspace(0.4, 0.5, num_queries)
    if test == "randomization":  # of 8 queries none could be significant among so many
        first["cell 0"] = np.linspace(0.9, 1.0, 80)
        second["cell 0"] = np.linspace(0.1, 0.2, 80)
    start = time.perf_counter()
    found = compare_language_pairs(first, second)
    assert time.perf_counter() - start < 20
    assert {comparison.test for comparison in found.values()} == {test}
    assert 0 < found["cell 0"].adjusted_p_value < 0.01
    assert sum(comparison.adjusted_p_value < 0.05 for comparison in found.values()) <= 2
    assert min(comparison.p_value for comparison in found.values()) > 0
    # the guard: 10,000 swaps, whatever the effect, are too few
    assert paired_randomization_test(first["cell 0"], second["cell 0"]).p_value * num_language_pairs > 0.05


def test_small_tables_have_ten_thousand_swaps() -> None:
    first, second = cells_of(4, 40)
    found = compare_language_pairs(first, second)
    alone = {cell: paired_randomization_test(first[cell], second[cell]) for cell in first}
    assert [found[cell].p_value for cell in found] == [alone[cell].p_value for cell in found]
    hits = np.array([comparison.p_value for comparison in found.values()]) * 10_001
    np.testing.assert_allclose(hits, hits.round(), atol=1e-6)


def test_no_p_value_is_below_what_a_randomization_could_have() -> None:
    first, second = cells_of(1_600, 300)
    first["cell 0"], second["cell 0"] = np.full(5, 0.75), np.full(5, 0.5)  # the t test alone says 0
    first["cell 1"], second["cell 1"] = np.full(5_000, 0.75), np.full(5_000, 0.5)
    assert paired_t_test(first["cell 0"], second["cell 0"]).p_value == 0
    found = compare_language_pairs(first, second)
    assert found["cell 0"].p_value == 2 / 2**5 == paired_randomization_test(first["cell 0"], second["cell 0"]).p_value
    assert 0 < found["cell 1"].p_value < 1e-300
    unlike = paired_t_test(first["cell 2"], second["cell 2"])
    assert found["cell 2"].p_value == unlike.p_value


def test_macro_interval_by_hand() -> None:
    # two queries, one of them in both cells. Draws of two: AA AB BA BB, with means 1, (0.5 + 1) / 2 twice, and 0 (the
    # second cell has no query then), each as likely as another
    values, queries = [np.array([1.0, 0.0]), np.array([1.0])], [np.array(["A", "B"]), np.array(["A"])]
    assert macro_interval(values, queries) == (0.75, 0, 1)
    assert macro_interval(values, queries, confidence=0.4) == (0.75, 0.75, 0.75)


@pytest.mark.parametrize("num_language_pairs", [1, 33, 70])  # less than a block of cells, and more
def test_macro_interval_equals_a_loop(num_language_pairs: int) -> None:
    rng = np.random.default_rng(num_language_pairs)
    queries = [np.sort(rng.choice(50, size=rng.integers(1, 50), replace=False)) for _ in range(num_language_pairs)]
    values = [rng.normal(number, 1, len(query_Q)) for number, query_Q in enumerate(queries)]
    units = np.unique(np.concatenate(queries))
    means, draws = [], np.random.default_rng(7)
    for drawn in draws.integers(len(units), size=(100, len(units))):
        times = {unit: int((units[drawn] == unit).sum()) for unit in units}
        cells = [
            np.repeat(value_Q, [times[q] for q in query_Q]) for value_Q, query_Q in zip(values, queries, strict=True)
        ]
        means.append(np.mean([cell.mean() for cell in cells if len(cell)]))
    found = macro_interval(values, queries, 0.8, num_resamples=100, seed=7)
    assert found.mean == pytest.approx(np.mean([value_Q.mean() for value_Q in values]))
    assert found[1:] == pytest.approx(np.quantile(means, [0.1, 0.9]))
    assert found.low < found.high


def test_macro_interval_in_parts_is_that_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, queries = [*np.random.default_rng(0).normal(size=(3, 20))], [np.arange(20)] * 3
    at_once = macro_interval(values, queries)
    monkeypatch.setattr(significance, "_BATCH_VALUES", 4 * 20 * 7)  # seven resamples
    assert macro_interval(values, queries) == pytest.approx(at_once)


def test_macro_interval_of_one_cell_is_the_interval_of_its_mean() -> None:
    values = np.random.default_rng(0).exponential(size=2_000)
    found = macro_interval([values], [np.arange(2_000)], num_resamples=10_000)
    assert found == pytest.approx(bootstrap_interval(values), abs=0.005)


def test_parallel_queries_say_less_than_as_many_others() -> None:
    values, queries = np.random.default_rng(0).normal(size=400), np.arange(400)
    one, parallel, others = (
        macro_interval([values] * len(numbers), numbers)
        for numbers in ([queries], [queries] * 4, [queries + 400 * number for number in range(4)])
    )
    assert parallel == pytest.approx(one)
    assert others.high - others.low == pytest.approx((one.high - one.low) / 2, rel=0.1)


def test_macro_interval_leaves_out_what_does_not_count() -> None:
    values, queries = np.random.default_rng(0).normal(size=(3, 20)), [np.arange(20)] * 3
    with_gaps = [np.insert(values[0], 4, np.nan), values[1], values[2], np.full(20, np.nan)]
    found = macro_interval(with_gaps, [np.insert(queries[0], 4, 99), *queries])
    assert found == macro_interval([*values], queries)
    assert macro_interval([*values], queries, seed=1) != found
    assert macro_interval([np.array([0.25])], [np.array(["q"])]) == (0.25, 0.25, 0.25)


def test_macro_interval_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="no query counts: 1 language pairs"):
        macro_interval([np.array([np.nan])], [np.array([0])])
    with pytest.raises(ValueError, match="no query counts: 0 language pairs"):
        macro_interval([], [])
    with pytest.raises(ValueError, match="not of the same shapes"):
        macro_interval([np.zeros(2)], [np.arange(3)])
    with pytest.raises(ValueError, match="confidence=95"):
        macro_interval([np.zeros(2)], [np.arange(2)], confidence=95)


def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.exponential(size=60), 0.9, num_resamples=500) for _ in range(200)]
    assert 0.8 < np.mean([low < 1 < high for _, low, high in intervals]) < 0.95
    assert all(low < mean < high for mean, low, high in intervals)


def test_interval_of_a_normal_mean() -> None:
    values = np.random.default_rng(0).normal(size=2_000)
    mean, low, high = bootstrap_interval(values)
    expected = stats.t.interval(0.95, 1_999, loc=values.mean(), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((values.mean(), *expected), abs=0.003)


def test_interval_without_width() -> None:
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25, 0.25)
    assert bootstrap_interval(np.full(5, 0.5)) == (0.5, 0.5, 0.5)


def test_intervals_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="no query counts"):
        bootstrap_interval(np.array([np.nan]))
    with pytest.raises(ValueError, match="confidence=95"):
        bootstrap_interval(np.array([0.1, 0.2]), confidence=95)
