"""Scores of an evaluation in other shapes: a flat dictionary, a matrix of language pairs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from hf_hybrid.data.languages import split_pair

from .schema import SCORE_GROUPS

if TYPE_CHECKING:
    from .schema import Scores


def first_measure(scores: Scores) -> str:
    """The first that the pairs have."""
    return next(iter(next(iter(scores["pairs"].values()))))


def pair_matrix(scores: Scores, measure: str | None = None) -> tuple[list[str], list[str], np.ndarray]:
    """One measure of all pairs: the query languages, the passage languages, and a matrix with NaN where there is none.

    Example:

        >>> pairs = {"de-de": {"MAP": 0.5}, "de-pt-BR": {"MAP": 0.25}}
        >>> rows, columns, values = pair_matrix({"pairs": pairs})
        >>> rows, columns, values.tolist()
        (['de'], ['de', 'pt-BR'], [[0.5, 0.25]])
    """
    pairs = scores["pairs"]
    if not pairs:
        raise ValueError("The scores have no language pairs; evaluate the monolingual or cross-lingual setting.")
    measure = measure or first_measure(scores)
    lacking = [name for name, found in pairs.items() if measure not in found]
    if lacking:
        raise ValueError(f"The pair {lacking[0]} has no {measure!r}; it has {', '.join(pairs[lacking[0]])}.")
    split = {name: _languages(name) for name in pairs}
    rows, columns = (list(dict.fromkeys(pair[side] for pair in split.values())) for side in (0, 1))
    value_QP = np.full((len(rows), len(columns)), np.nan)
    for name, (query, passage) in split.items():
        value_QP[rows.index(query), columns.index(passage)] = pairs[name][measure]
    return rows, columns, value_QP


def flatten_scores(scores: Scores) -> dict[str, float]:
    """`{"multilingual/MAP": ..., "bias/rank_distance": ...}`: the settings and the bias, without the pairs.

    Example:

        >>> flatten_scores({"monolingual": {"MAP": 0.5}, "cross_lingual": {}, "multilingual": {}, "bias": {},
        ...                 "pairs": {}, "num_queries": 1})
        {'monolingual/MAP': 0.5}
    """
    return {f"{group}/{name}": value for group in SCORE_GROUPS for name, value in scores[group].items()}  # type: ignore[literal-required]


@lru_cache(maxsize=2**16)  # parsing a code takes time, and pairs are many
def _languages(name: str) -> tuple[str, str]:
    found = split_pair(name)
    if found is None:
        raise ValueError(
            f"The pair {name!r} can be read in several ways or in none; allowed are names such as de-pt-BR."
        )
    return found
