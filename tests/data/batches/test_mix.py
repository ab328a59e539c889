"""Shares are exact, and few steps are spread evenly."""

from __future__ import annotations

import numpy as np
import pytest

from hf_hybrid.data.batches.mix import MixConfig, largest_remainder, spread_quotas


def test_largest_remainder_is_exact_and_fair() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights, total = rng.random(rng.integers(1, 30)), int(rng.integers(0, 500))
        quotas = largest_remainder(weights, total)
        assert quotas.sum() == total
        assert np.all(np.abs(quotas - weights / weights.sum() * total) < 1)


@pytest.mark.parametrize(
    ("text", "shares"), [("mono=1", (1, 0, 0)), (" cross=3 , mono=1", (0.25, 0.75, 0)), ("pool=0.2", (0, 0, 1))]
)
def test_mix_is_scaled(text: str, shares: tuple[float, ...]) -> None:
    mix = MixConfig.parse(text)
    assert (mix.mono, mix.cross, mix.pool) == shares
    assert MixConfig.parse(str(mix)) == mix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mono=0.5,corss=0.5", "'corss' is not a batch type"),
        ("mono=0.5,mono=0.5", "given twice"),
        ("mono=half", "must be a number"),
        ("mono", "must be a number"),
        ("mono=-1,cross=2", "not negative"),
        ("mono=nan", "finite"),
        ("mono=0", "not all zero"),
        ("", "'' is not a batch type"),
    ],
)
def test_bad_mix_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixConfig.parse(text)


def test_few_steps_are_spread_over_all_language_pairs_not_the_largest() -> None:
    """Ten of 400 language pairs of nearly equal size: over seeds every pair is visited about equally often."""
    weights = np.linspace(1.0, 1.1, 400)
    visits = np.sum([spread_quotas(weights, 10, np.random.default_rng(seed)) for seed in range(4000)], axis=0)
    assert visits.sum() == 40_000
    expected = weights / weights.sum() * 40_000
    assert np.abs(visits - expected).max() < 6 * np.sqrt(expected.max())
    assert (largest_remainder(weights, 10)[:390] == 0).all(), "which is what it is there to avoid"


def test_spread_quotas_are_exact_shares_rounded_up_or_down() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights, total = rng.random(rng.integers(1, 30)) + 0.01, int(rng.integers(0, 500))
        quotas = spread_quotas(weights, total, rng)
        assert quotas.sum() == total
        assert np.all(np.abs(quotas - weights / weights.sum() * total) < 1 + 1e-6)
