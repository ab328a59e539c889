"""Pictures of what a run or an evaluation left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_hybrid.records.scores import first_measure, pair_matrix
from hf_hybrid.utils.files import replacing

if TYPE_CHECKING:
    from hf_hybrid.records.schema import Scores

_MOST_WRITTEN = 20  # languages up to which each tile shows its number
_INCHES_PER_TILE, _INCHES_AROUND = 0.42, 2.2
_LEAST_INCHES_PER_TILE, _LARGE_INCHES = 0.22, 16.8  # a picture of 40 languages is large
_USUAL_WIDTH = 6.4  # inches, for which letters have their usual size


def pair_heat_map(scores: Scores, path: str | os.PathLike[str], measure: str | None = None, title: str = "") -> Path:
    """A picture of one measure for each language pair: a row for the queries', a column for the passages'.

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
    rows, columns, value_QP = pair_matrix(scores, measure)
    measure = measure or first_measure(scores)
    colors = {"cmap": "cividis", "vmin": 0.0, "vmax": 1.0}
    return _draw_map(rows, columns, value_QP, Path(path), measure, title or measure, colors)


def pair_change_map(
    before: Scores, after: Scores, path: str | os.PathLike[str], measure: str | None = None, title: str = ""
) -> Path:
    """A picture of by how much one measure has changed for each language pair; arguments as for `pair_heat_map`.

    Args:
        before, after (`Scores`): Of two evaluations.
        path, measure, title: As for `pair_heat_map`.

    Returns:
        `Path`: The file.

    Raises:
        ImportError, ValueError: As `pair_heat_map`; pairs of one evaluation alone are left empty.
    """
    rows, columns, value_QP = pair_matrix(after, measure)
    measure = measure or first_measure(after)
    earlier_rows, earlier_columns, earlier_QP = pair_matrix(before, measure)
    change_QP = np.full_like(value_QP, np.nan)
    for row, query in enumerate(rows):
        for column, passage in enumerate(columns):
            if query in earlier_rows and passage in earlier_columns:
                earlier = earlier_QP[earlier_rows.index(query), earlier_columns.index(passage)]
                change_QP[row, column] = value_QP[row, column] - earlier
    most = max(float(np.nanmax(np.abs(change_QP), initial=0.0)), 0.01)
    colors = {"cmap": "RdBu", "vmin": -most, "vmax": most}
    return _draw_map(
        rows, columns, change_QP, Path(path), f"change of {measure}", title or measure, colors, signed=True
    )


def _draw_map(
    rows: list[str],
    columns: list[str],
    value_QP: np.ndarray,
    path: Path,
    label: str,
    title: str,
    colors: dict[str, Any],
    signed: bool = False,
) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError('A heat map needs matplotlib: pip install ".[plots]", in a clone.') from None
    tiles = [_inches_per_tile(len(names)) for names in (columns, rows)]
    size = [inches * len(names) + _INCHES_AROUND for inches, names in zip(tiles, (columns, rows), strict=True)]
    figure = Figure(figsize=(max(size[0], 4.5), max(size[1], 3.5)), layout="constrained")
    # a page shows a large picture smaller: its letters grow with it, as far as a tile has room
    scale = max(1.0, figure.get_figwidth() / _USUAL_WIDTH)
    font: dict[str, Any] = {
        "fontsize": min(10 * scale, 50 * min(tiles)),
        "parse_math": False,
    }  # names are not formulas
    axes = figure.subplots()
    image = axes.imshow(np.ma.masked_invalid(value_QP), **colors)
    many = len(columns) > _MOST_WRITTEN
    axes.set_xticks(range(len(columns)), columns, rotation=90 if many or max(map(len, columns)) > 3 else 0, **font)
    axes.set_yticks(range(len(rows)), rows, **font)
    axes.set_xlabel("passages in", fontsize=10 * scale)
    axes.set_ylabel("queries in", fontsize=10 * scale)
    axes.set_title(title, fontsize=12 * scale, parse_math=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label(label, fontsize=10 * scale, parse_math=False)
    bar.ax.tick_params(labelsize=10 * scale)
    if not many:
        for row, column in np.argwhere(~np.isnan(value_QP)):
            value = value_QP[row, column]
            text = f"{value:+.2f}".replace("0.", ".") if signed else f"{value:.2f}".lstrip("0")
            axes.text(column, row, text, ha="center", va="center", fontsize=7 * scale, color=_ink(image, value))
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
    return path


def _inches_per_tile(number: int) -> float:
    """Room for the name of a language; of more languages than fit a large picture, less."""
    return min(_INCHES_PER_TILE, max(_LEAST_INCHES_PER_TILE, _LARGE_INCHES / number))


def _ink(image: Any, value: float) -> str:
    """Black on light colors, white on dark ones."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
