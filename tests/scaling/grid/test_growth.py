"""Fits of simulated studies whose truth is known, and sentences that claim no more than their CI."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from hf_hybrid.scaling.grid.growth import (
    LAWS,
    NOT_REACHED,
    Fit,
    Ratio,
    _student,
    compare_with_fewest,
    compute_differences,
    compute_ratio,
    fit_growth,
)
from hf_hybrid.scaling.grid.sentences import describe_difference, describe_growth, describe_ratio

COUNTS = (1, 2, 4, 8, 16)
NUM_STUDIES = 300


def values(law: Callable[[float], float], noise: float = 0.0, seed: int = 0, seeds: int = 3) -> dict[int, list]:
    draw = np.random.default_rng(seed)
    return {
        count: [law(count) * (1 + noise * float(draw.standard_normal())) for _ in range(seeds)] for count in COUNTS
    }


# Laws


def test_a_line_and_a_power_law_are_found_again() -> None:
    line = fit_growth(values(lambda count: 3 + 0.5 * count, 0.001))
    assert line["law"] == "linear"
    assert line["coefficients"] == pytest.approx({"intercept": 3, "slope": 0.5}, rel=0.02)
    power = fit_growth(values(lambda count: 2 * count**0.4, 0.001))
    assert power["law"] == "power"
    assert power["coefficients"] == pytest.approx({"factor": 2, "exponent": 0.4}, rel=0.02)
    for fit, other in ((line, "power"), (power, "linear")):
        own, others = fit["errors"][str(fit["law"])], fit["errors"][other]
        assert own is not None
        assert others is not None
        assert own < 0.9 * others


def test_the_held_out_error_is_of_a_fit_to_the_other_languages() -> None:
    fit = fit_growth({1: [1.0], 2: [2.0], 3: [4.0]})
    # lines through two of the points miss the third by 3 - 4, 2.5 - 2 and 0 - 1; the mean is 7 / 3
    assert fit["errors"]["linear"] == pytest.approx(math.sqrt((1 + 0.25 + 1) / 3) / (7 / 3))


def test_the_line_wins_ties_and_undecidable_cases() -> None:
    flat = fit_growth({count: [0.7, 0.7, 0.7] for count in COUNTS})
    assert (flat["law"], flat["errors"]) == ("linear", {"linear": 0.0, "power": 0.0})
    assert flat["intervals"]["slope"] == [0.0, 0.0]
    assert "no larger" in flat["chosen_because"]
    two = fit_growth({1: [1.0, 1.2], 4: [2.0, 2.1]})
    assert (two["law"], two["errors"]["linear"]) == ("linear", None)
    assert "two numbers of languages" in two["chosen_because"]
    negative = fit_growth({1: [1.0], 2: [0.0], 4: [-2.0]})
    assert negative["law"] == "linear"
    assert "above 0" in negative["chosen_because"]
    for fit in (fit_growth({4: [1.0, 2.0]}), fit_growth({1: [1.0, None], 2: [None, 2.0]})):
        assert fit["law"] is None
        assert fit["coefficients"] == {}


def test_a_power_law_has_to_be_clearly_better() -> None:
    """The curve bends so little that the power law's error is smaller, but by less than a tenth."""
    between = fit_growth({count: [1 + count**1.38] for count in COUNTS})
    power, line = between["errors"]["power"], between["errors"]["linear"]
    assert power is not None
    assert line is not None
    assert 0.9 * line < power < line
    assert between["law"] == "linear"
    assert "not smaller by more than a tenth" in between["chosen_because"]


def test_the_interval_is_that_of_the_seeds() -> None:
    """Against scipy's one-sample t interval of slopes that numpy fits."""
    study = values(lambda count: 3 + 0.5 * count, 0.02)
    slopes = [np.polyfit(COUNTS, [study[count][seed] for count in COUNTS], 1)[0] for seed in range(3)]
    expected = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    fit = fit_growth(study)
    assert fit["intervals"]["slope"] == pytest.approx(list(expected))
    low, high = fit["bootstrap_intervals"]["slope"] or []
    assert min(slopes) - 1e-9 <= low < high <= max(slopes) + 1e-9  # why it is too narrow


def noise_of(kind: str, draw: np.random.Generator) -> np.ndarray:
    """Return the noise `(L, 3)` that is added to `1 + 0.1 * L`."""
    counts_L1 = np.array(COUNTS, dtype=float)[:, None]
    if kind == "trial":
        return 0.05 * draw.standard_normal((len(COUNTS), 3))
    if kind == "seed":
        return (1 + 0.1 * counts_L1) * 0.05 * draw.standard_normal((1, 3))
    return 0.1 * counts_L1 * 0.05 * draw.standard_normal((1, 3)) + 0.001 * draw.standard_normal((len(COUNTS), 3))


@pytest.mark.parametrize("kind", ["trial", "seed", "growth"])
def test_intervals_cover_the_truth_as_often_as_they_claim(kind: str) -> None:
    """The table in `growth.py` is from 4,000 studies; these are some of them."""
    draw = np.random.default_rng(1)
    truth_L1 = 1 + 0.1 * np.array(COUNTS, dtype=float)[:, None]
    held = bootstrapped = 0
    for _ in range(NUM_STUDIES):
        table_LS = truth_L1 + noise_of(kind, draw)
        slopes_S = np.polyfit(COUNTS, table_LS, 1)[0]
        low, high = _student(slopes_S) or []
        held += low <= 0.1 <= high
        bootstrapped += slopes_S.min() <= 0.1 <= slopes_S.max()  # no bootstrap's interval is wider than the seeds
    assert stats.binomtest(held, NUM_STUDIES, 0.95).pvalue > 0.01
    assert stats.binomtest(bootstrapped, NUM_STUDIES, 0.75).pvalue > 0.01
    fit = fit_growth(dict(zip(COUNTS, table_LS.tolist(), strict=True)))
    if fit["law"] == "linear":
        assert fit["intervals"]["slope"] == pytest.approx([low, high])


# Failed trials and missed targets


def test_a_failed_trial_is_counted_and_its_seed_is_still_fitted() -> None:
    study = values(lambda count: 3 + 0.5 * count, 0.01)
    study[4] = [None, *study[4][1:]]
    study[8] = [float("nan"), *study[8][1:]]
    fit = fit_growth(study)
    assert fit["num_seeds"] == 3
    assert [(point["num_failed"], point["num_values"]) for point in fit["points"]] == [
        (0, 3), (0, 3), (1, 2), (1, 2), (0, 3)
    ]  # fmt: skip
    assert describe_growth(fit, "step time").endswith("2 trials failed: 1 at L = 4, 1 at L = 8.")
    study[2] = [None, None, None]
    assert fit_growth(study)["languages"] == [1, 4, 8, 16]
    assert "3 at L = 2" in describe_growth(fit_growth(study), "step time")


def test_a_missed_target_is_never_ignored() -> None:
    """The runs that reached it are the cheap ones: they have no mean, and the fit excludes that L."""
    study = values(lambda count: 10.0 * count, 0.01)
    study[16] = [study[16][0], NOT_REACHED, NOT_REACHED]
    fit = fit_growth(study)
    assert fit["languages"] == [1, 2, 4, 8]
    last = fit["points"][-1]
    assert (last["mean"], last["interval"], last["num_not_reached"], last["num_values"]) == (None, None, 2, 1)
    assert "At L = 16 the target was not reached in 2 of 3 runs, so that this L is not in the fit." in describe_growth(
        fit, "time to the target", "s"
    )
    other = values(lambda count: 20.0 * count, 0.01)
    found = compute_ratio(study, other)
    assert (found["ratio"], found["interval"], found["not_reached"], found["num_trials"]) == (
        None,
        None,
        [2, 0],
        [15, 15],
    )
    sentence = describe_ratio(found, "time to the target", "hybrid", "mBERT-style")
    assert "hybrid did not reach the target in 2 of 15 runs" in sentence
    assert "no ratio" in sentence
    assert compute_ratio({1: study[1]}, other)["ratio"] == pytest.approx(0.5, rel=0.03)
    (difference,) = compare_with_fewest({1: study[1], 16: study[16]})
    assert (difference["difference"], difference["num_missing"]) == (None, 2)


def test_one_seed_claims_nothing() -> None:
    fit = fit_growth({1: [1.0], 4: [2.0], 16: [9.0]})
    assert set(fit["intervals"].values()) == set(fit["bootstrap_intervals"].values()) == {None}
    assert "one seed cannot show growth" in describe_growth(fit, "step time", "s")
    compared = compute_ratio({1: [1.0], 4: [2.0]}, {1: [3.0], 4: [9.0]})
    assert compared["ratio"] == pytest.approx(math.sqrt(1 / 3 * 2 / 9))
    assert "one seed cannot show a difference" in describe_ratio(compared, "step time", "hybrid", "mBERT-style")
    assert "one seed cannot show a difference" in describe_difference(
        compute_differences({4: [0.5]}, {4: [0.4]})[0], "MAP", "hybrid", "mBERT-style"
    )


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({1: [1.0, 2.0], 2: [1.0]}, "L=1: 2, L=2: 1"),
        ({0: [1.0]}, r"got \[0\]"),
        ({1.5: [1.0]}, r"got \[1.5\]"),
        ({}, "expected numbers of languages"),
        ({1: [-math.inf]}, "NOT_REACHED"),
    ],
)
def test_invalid_values_are_refused(study: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_growth(study)


# Two arms


def test_the_ratio_is_the_geometric_mean_over_languages_and_seeds() -> None:
    first, second = {2: [1.0, 2.0], 4: [8.0, 4.0]}, {2: [2.0, 2.0], 4: [4.0, 4.0], 8: [1.0, 1.0]}
    found = compute_ratio(first, second)
    logs = [(math.log(0.5) + math.log(2)) / 2, (math.log(1) + math.log(1)) / 2]
    assert found["ratio"] == pytest.approx(math.exp(np.mean(logs)))
    assert found["num_trials"] == [4, 4]  # of the L that both have
    back = compute_ratio(second, {count: first[count] for count in first})
    assert back["ratio"] == pytest.approx(1 / (found["ratio"] or 0))


def test_a_seed_that_failed_is_not_compared() -> None:
    found = compute_ratio({2: [1.0, 1.1, None]}, {2: [2.0, 2.3, 2.2]})
    assert (found["num_seeds"], found["num_missing"]) == (2, 1)
    assert describe_ratio(found, "step time", "a", "b").endswith("1 trial failed.")
    nothing = compute_ratio({2: [1.0]}, {4: [1.0]})
    assert nothing["ratio"] is None
    assert "no seed of a and b has values" in describe_ratio(nothing, "step time", "a", "b")


def test_arms_must_have_the_same_seeds_and_values_above_0() -> None:
    with pytest.raises(ValueError, match="2 seeds of the first arm and 1 of the second"):
        compute_ratio({2: [1.0, 2.0]}, {2: [1.0]})
    with pytest.raises(ValueError, match="2 seeds of the first arm and 1 of the second"):
        compute_differences({2: [1.0, 2.0]}, {2: [1.0]})
    with pytest.raises(ValueError, match="not above 0"):
        compute_ratio({2: [1.0, 0.0]}, {2: [1.0, 1.0]})


def test_differences_are_of_the_same_seed() -> None:
    """The seeds are far apart and all fall alike: an unpaired test would find nothing."""
    (found,) = compare_with_fewest({1: [0.2, 0.5, 0.8], 16: [0.1, 0.41, 0.7]})
    assert found["difference"] == pytest.approx(-0.29 / 3)
    assert found["interval"] == pytest.approx(list(stats.ttest_1samp([-0.1, -0.09, -0.1], 0).confidence_interval()))
    assert (found["interval"] or [0, 0])[1] < 0


# Sentences


def growth_with(name: str, value: float, interval: list[float]) -> Fit:
    fit = fit_growth(values(lambda count: float(count), 0.1))
    first = "factor" if name == "exponent" else "intercept"
    law = "power" if name == "exponent" else "linear"
    return {**fit, "law": law, "coefficients": {first: 1.0, name: value}, "intervals": {first: [0, 2], name: interval}}


@pytest.mark.parametrize(
    ("name", "interval", "words"),
    [
        ("slope", [-0.1, 0.1], "does not change measurably"),
        ("slope", [0.0, 0.1], "does not change measurably"),
        ("slope", [0.01, 0.1], "grows with L"),
        ("slope", [-0.2, -0.1], "falls with L"),
        ("exponent", [-0.03, 0.05], "does not change measurably with L: exponent 0.01 (95% CI -0.03 to 0.05"),
        ("exponent", [0.01, 0.9], "grows with L, more slowly than in proportion"),
        ("exponent", [0.9, 1.1], "proportional growth (exponent 1) cannot be ruled out"),
        ("exponent", [1.1, 1.3], "faster than in proportion"),
        ("exponent", [-0.3, -0.1], "falls with L"),
    ],
)
def test_growth_is_claimed_only_if_the_interval_shows_it(name: str, interval: list[float], words: str) -> None:
    sentence = describe_growth(growth_with(name, 0.01, interval), "step time", "s")
    assert words in sentence
    if interval[0] <= 0 <= interval[1]:
        assert "grows" not in sentence
        assert "falls" not in sentence


@pytest.mark.parametrize(
    ("interval", "words"),
    [([0.8, 1.2], "does not differ measurably"), ([0.5, 1.0], "does not differ measurably"), ([0.5, 0.9], "is less"),
     ([1.1, 1.2], "is more")],
)  # fmt: skip
def test_a_ratio_is_claimed_only_if_its_interval_excludes_1(interval: list[float], words: str) -> None:
    found: Ratio = {**compute_ratio({2: [1.0, 1.1]}, {2: [1.0, 1.0]}), "ratio": 1.05, "interval": interval}
    sentence = describe_ratio(found, "time to the target", "hybrid", "mBERT-style")
    assert words in sentence
    assert f"(95% CI {interval[0]:.3g} to {interval[1]:.3g}; 2 seeds)" in sentence
    if interval[0] <= 1 <= interval[1]:
        assert " less" not in sentence
        assert " more" not in sentence


@pytest.mark.parametrize(("shift", "words"), [(-0.05, "is lower"), (0.05, "is higher"), (0.0, "does not differ")])
def test_a_difference_is_claimed_only_if_its_interval_excludes_0(shift: float, words: str) -> None:
    study = {1: [0.5, 0.6, 0.7], 16: [0.5 + shift + 0.001, 0.6 + shift - 0.001, 0.7 + shift]}
    (found,) = compare_with_fewest(study)
    assert words in describe_difference(found, "MAP", "L = 16", "L = 1", preposition="at")


def test_results_survive_json() -> None:
    study = values(lambda count: 10.0 * count, 0.01)
    study[16] = [None, NOT_REACHED, 3.0]
    found = [fit_growth(study), compute_ratio(study, study), compare_with_fewest(study)]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(LAWS) == set(fit_growth(study)["errors"])
