"""Pictures of what a run or an evaluation left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import replacing
from .languages import split_pair

if TYPE_CHECKING:
    from .records import Scores

_MOST_WRITTEN = 20  # languages up to which each cell has its number
_INCHES_A_CELL, _INCHES_AROUND = 0.42, 2.2


def pair_heat_map(scores: Scores, path: str | os.PathLike[str], measure: str | None = None, title: str = "") -> Path:
    """A picture of one measure for each pair of languages: a row for the queries', a column for the passages'.

    Args:
        scores (`Scores`): Of an evaluation.
        path (`str` or `Path`): A `.png`, `.svg` or `.pdf` file, replaced as a whole.
        measure (`str`, *optional*): One that the pairs have, by default their first.
        title (`str`, *optional*, defaults to `""`): Over the picture.

    Returns:
        `Path`: The file.

    Raises:
        ImportError: When matplotlib is not installed.
        ValueError: When there are no pairs, or they lack the measure.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('A heat map needs matplotlib: pip install "hf-hybrid[plots]".') from None
    rows, columns, value_QP = pair_matrix(scores, measure)
    measure = measure or next(iter(next(iter(scores["pairs"].values()))))
    size = [_INCHES_A_CELL * len(names) + _INCHES_AROUND for names in (columns, rows)]
    figure = Figure(figsize=(max(size[0], 4.5), max(size[1], 3.5)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(value_QP), cmap="cividis", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(columns)), columns, rotation=90 if len(columns) > _MOST_WRITTEN else 0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("passages in")
    axes.set_ylabel("queries in")
    axes.set_title(title or measure, parse_math=False)  # names are not formulas
    figure.colorbar(image, ax=axes, label=measure, shrink=0.8)
    if len(columns) <= _MOST_WRITTEN:
        for row, column in np.argwhere(~np.isnan(value_QP)):
            value = value_QP[row, column]
            colour = "black" if value > 0.5 else "white"  # on the light and the dark half of the colours
            axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=colour)
    path = Path(path)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
    return path


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
        raise ValueError("The scores have no pairs of languages; evaluate the monolingual or cross-lingual setting.")
    measure = measure or next(iter(next(iter(pairs.values()))))
    lacking = [name for name, found in pairs.items() if measure not in found]
    if lacking:
        raise ValueError(f"The pair {lacking[0]} has no {measure!r}; it has {', '.join(pairs[lacking[0]])}.")
    split = {name: _languages(name) for name in pairs}
    rows, columns = (list(dict.fromkeys(pair[side] for pair in split.values())) for side in (0, 1))
    value_QP = np.full((len(rows), len(columns)), np.nan)
    for name, (query, passage) in split.items():
        value_QP[rows.index(query), columns.index(passage)] = pairs[name][measure]
    return rows, columns, value_QP


def _languages(name: str) -> tuple[str, str]:
    found = split_pair(name)
    if found is None:
        raise ValueError(
            f"The pair {name!r} can be read in several ways or in none; allowed are names such as de-pt-BR."
        )
    return found
