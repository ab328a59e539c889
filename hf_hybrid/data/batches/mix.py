"""The shares of the batch types, and how shares become whole steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BATCH_TYPES = ("mono", "cross", "pool", "mixed")


def largest_remainder(weights: np.ndarray, total: int) -> np.ndarray:
    """Split `total` into integers proportional to `weights` (Hamilton's method; ties go to the first).

    Args:
        weights (`np.ndarray` of shape `(n,)`): Non-negative, not all zero.
        total (`int`): What the integers add up to.

    Returns:
        `np.ndarray` of shape `(n,)`, int64.

    Example:

        >>> largest_remainder(np.array([0.5, 0.25, 0.25]), 10).tolist()
        [5, 3, 2]
    """
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    quotas = np.floor(exact).astype(np.int64)
    missing = total - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:missing]] += 1
    return quotas


def spread_quotas(weights: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Split `total` into integers proportional to `weights`, each its exact share rounded up or down.

    Which shares are rounded up is decided by systematic sampling over a shuffled order, not by size: where there are
    fewer steps than language pairs, largest remainders would only ever visit the largest language pairs.

    Args:
        weights (`np.ndarray` of shape `(n,)`): Positive.
        total (`int`): What the integers add up to.
        rng (`np.random.Generator`): Decides the order and the offset.

    Returns:
        `np.ndarray` of shape `(n,)`, int64.

    Example:

        >>> spread_quotas(np.array([2.0, 1.0, 1.0]), 8, np.random.default_rng(0)).tolist()
        [4, 2, 2]
    """
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * total
    order = rng.permutation(len(exact))
    edges = np.floor(np.cumsum(exact[order]) + rng.random() + 1e-9).astype(np.int64)  # a sum of thirds must reach 1
    edges[-1] = total
    quotas = np.empty(len(exact), dtype=np.int64)
    quotas[order] = np.diff(edges, prepend=0)
    return quotas


@dataclass(frozen=True)
class MixConfig:
    """The shares of the batch types.

    Args:
        mono (`float`, *optional*, defaults to 0.0): Share of monolingual batches (queries and passages in a).
        cross (`float`, *optional*, defaults to 0.0): Share of cross-lingual batches (queries in a, passages in b).
        pool (`float`, *optional*, defaults to 0.0): Share of pool batches (passages of one item in many languages).
        mixed (`float`, *optional*, defaults to 0.0): Share of batches in which each item has two languages of its own:
            what hybrid batches are compared with (X-Y of LAReQA: Roy et al. 2020, arXiv 2004.05484).

    Shares need not add up to 1.

    Example:

        >>> MixConfig.parse("mono=1,cross=3")
        MixConfig(mono=0.25, cross=0.75, pool=0.0, mixed=0.0)
    """

    mono: float = 0.0
    cross: float = 0.0
    pool: float = 0.0
    mixed: float = 0.0

    def __post_init__(self) -> None:
        shares = [getattr(self, batch_type) for batch_type in BATCH_TYPES]
        if not all(np.isfinite(share) and share >= 0 for share in shares) or sum(shares) <= 0:
            raise ValueError(
                f"mix shares must be finite, not negative and not all zero; got {shares} for {BATCH_TYPES}"
            )

    @property
    def batch_types(self) -> list[str]:
        """The batch types that have a share."""
        return [batch_type for batch_type in BATCH_TYPES if getattr(self, batch_type)]

    @classmethod
    def parse(cls, text: str | MixConfig) -> MixConfig:
        """Read ``"mono=0.5,cross=0.5"``; the shares are scaled to add up to 1.

        Raises:
            ValueError: On an unknown or repeated batch type, or a share that is not a number.
        """
        if isinstance(text, MixConfig):
            return text
        shares: dict[str, float] = {}
        for part in text.split(","):
            batch_type, _, share = (piece.strip() for piece in part.partition("="))
            if batch_type not in BATCH_TYPES or batch_type in shares:
                problem = "given twice" if batch_type in shares else "not a batch type"
                raise ValueError(
                    f"mix {text!r}: {batch_type!r} is {problem}. "
                    f"Write each of {', '.join(BATCH_TYPES)} at most once, as in 'mono=0.5,cross=0.5'."
                )
            try:
                shares[batch_type] = float(share)
            except ValueError:
                raise ValueError(
                    f"mix {text!r}: the share of {batch_type!r} must be a number, got {share!r}."
                ) from None
        cls(**shares)  # refuses what cannot be scaled
        total = sum(shares.values())
        return cls(**{batch_type: share / total for batch_type, share in shares.items()})

    def __str__(self) -> str:
        return ",".join(f"{batch_type}={getattr(self, batch_type):g}" for batch_type in self.batch_types)
