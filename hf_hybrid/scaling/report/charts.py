"""Charts of a study as Vega-Lite specs: from rows, as they can be downloaded, to what a page draws or prints.

1. A spec names its data and does not hold it: a page has each figure's rows once, for the plot and for downloads.
2. The same spec makes the interactive plot and its static twin (`picture`), which is as wide as a page of paper.
3. Arms differ in shape and dash as well as in color; colors are those of Okabe and Ito.
4. Letters in a chart are Latin: a picture then is the same on machines with other fonts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, NamedTuple, ParamSpec

from hf_hybrid.scaling.grid.arms import ARMS

Row = dict[str, Any]
Spec = dict[str, Any]
_Given = ParamSpec("_Given")

_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
_VERMILION, _BLACK, _GREY, _YELLOW = "#D55E00", "#000000", "#767676", "#F0E442"
PARTS = {  # of a step; the two largest are the farthest apart
    "encode": _BLUE,
    "backward": _ORANGE,
    "loss": _GREEN,
    "clipping": _PURPLE,
    "optimizer": _VERMILION,
    "communication": _BLACK,
    "data_wait": _SKY,
    "copy": _YELLOW,
    "other": _GREY,
}
_TAG, _LONG_NUMBER = re.compile("<[^>]*>"), re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_ID = re.compile(r'( id="|url\(#)([^")]+)')
_UNUSED = re.compile(r' (?:class|role|aria-[a-z]+|pointer-events)="[^"]*"')  # by a picture
_PLAIN_NUMBERS = (
    "abs(datum.value) < 10000 ? format(datum.value, ',.3~r') : format(datum.value, '~s')"  # no 0.1 as 100m
)
_WIDTH, _HEIGHT = 460, 250  # pixels, of a picture
_SMALL_FROM = 17  # languages from which a heat map has small letters
_LETTERS = 32  # that fit side by side under a heat map on a phone


class Style(NamedTuple):
    """Color and shape of an arm."""

    color: str
    shape: str
    dash: list[int]


_STYLES = {
    "hybrid": Style(_BLUE, "circle", [1, 0]),
    "mono": Style(_ORANGE, "square", [1, 0]),
    "cross": Style(_GREEN, "triangle-up", [1, 0]),
    "pool": Style(_PURPLE, "diamond", [1, 0]),
    "mono_cross_pool": Style(_SKY, "cross", [1, 0]),
    "mixed": Style(_BLACK, "triangle-right", [1, 0]),
    "mlm_hybrid": Style(_VERMILION, "triangle-down", [1, 0]),
    "mlm": Style(_VERMILION, "triangle-left", [4, 3]),
    "english": Style(_BLACK, "square", [6, 2]),
    "zero_shot": Style(_GREY, "circle", [2, 2]),
    "bm25": Style(_GREY, "diamond", [8, 3]),
}
NAMES = {arm: ARMS[arm].label for arm in _STYLES}  # in the order of charts and tables


def _unchecked(make: Callable[_Given, Spec]) -> Callable[_Given, Spec]:
    """Skip the checks of altair, which take most of the time; a test runs them."""

    @wraps(make)
    def make_unchecked(*args: _Given.args, **kwargs: _Given.kwargs) -> Spec:
        from altair.utils.schemapi import debug_mode

        with debug_mode(False):
            return make(*args, **kwargs)

    return make_unchecked


@_unchecked
def growth_chart(data: str, rows: Sequence[Row], title: str, from_zero: bool = True) -> Spec:
    """A quantity against the number of languages, a line an arm, with intervals; without a number, a level line.

    Args:
        data (`str`): Name of the rows.
        rows (`Sequence[dict]`): `arm` and `name`, `languages`, `mean`, `low`, `high`, `seeds`.
        title (`str`): Of the axis, with its unit.
        from_zero (`bool`, *optional*, defaults to `True`): The axis begins at 0, as it must where it shows a cost.

    Example:

        >>> rows = [{"arm": "mono", "name": "mono", "languages": 2, "mean": 1.5, "low": 1, "high": 2, "seeds": 3}]
        >>> spec = growth_chart("step_time", rows, "step time in s")
        >>> spec["data"], spec["width"]
        ({'name': 'step_time'}, 'container')
    """
    import altair as alt

    counts = sorted({row["languages"] for row in rows if row["languages"] is not None})
    scale: dict[str, Any] = {"type": "log", "base": 2, "nice": False, "padding": 18}
    if counts:  # the same in all figures, whichever arms a figure has; an axis of one point needs room around it
        scale["domain"] = [counts[0], counts[-1]] if len(counts) > 1 else [counts[0] / 2, counts[0] * 2]
    rows = [row for row in rows if row["mean"] is not None]
    along = alt.X("languages:Q", title="training languages (L)", axis=alt.Axis(values=counts, format="d", grid=False))
    along = along.scale(**scale)
    value, lower = _y("mean", title, from_zero), _y("low", title, from_zero)
    shown = ["name:N", "languages:Q", *_numbers("mean", "low", "high"), "seeds:Q"]
    known, chosen = "isValid(datum.languages) && isValid(datum.mean)", _chosen()
    base = _colored(data, rows, chosen)
    intervals = base.transform_filter("isValid(datum.languages) && isValid(datum.low)").mark_rule(clip=True)
    levels = base.transform_filter("!isValid(datum.languages)").mark_rule(strokeWidth=2)
    lines = base.transform_filter(known).mark_line(strokeWidth=2)
    layers = [
        intervals.encode(x=along, y=lower, y2="high:Q"),
        lines.encode(x=along, y=value, strokeDash=_dashes(rows)),
        _points(base.transform_filter(known).encode(x=along, y=value), rows, shown),
    ]
    if any(row["languages"] is None for row in rows):
        layers.append(levels.encode(y=value, strokeDash=_dashes(rows), tooltip=shown))
        layers.append(_at_the_right(base.transform_filter("!isValid(datum.languages)")).encode(y=value))
    return _finished(_layered(layers, chosen))


@_unchecked
def trade_chart(data: str, rows: Sequence[Row], x_title: str, y_title: str) -> Spec:
    """Two qualities of each arm against each other, a line from few languages to many.

    Args:
        data (`str`): Name of the rows.
        rows (`Sequence[dict]`): `arm` and `name`, `languages`, `x`, `y`.
        x_title, y_title (`str`): Of the axes.
    """
    import altair as alt

    shown, chosen = ["name:N", "languages:Q", *_numbers("x", "y")], _chosen()
    base = _colored(data, rows, chosen).encode(
        x=alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False), axis=alt.Axis(format=".2f", tickCount=6)),
        y=_y("y", y_title, from_zero=False),
    )
    lines = base.transform_filter("isValid(datum.languages)").mark_line(strokeWidth=1)
    points = _points(base, rows, shown).encode(size=alt.Size("languages:Q", legend=None).scale(range=[40, 190]))
    lines = lines.encode(order="languages:Q", strokeDash=_dashes(rows))
    return _finished(_layered([lines, points], chosen), height=290)


@_unchecked
def curve_chart(data: str, rows: Sequence[Row], x_title: str, y_title: str) -> Spec:
    """Quality while runs were trained, a line a run.

    Args:
        data (`str`): Name of the rows.
        rows (`Sequence[dict]`): `arm` and `name`, `seed`, `x`, `y`.
        x_title, y_title (`str`): Of the axes.
    """
    import altair as alt

    chosen = _chosen()
    base = _colored(data, rows, chosen).encode(
        x=alt.X("x:Q", title=x_title, axis=alt.Axis(tickCount=6, grid=False)),
        y=_y("y", y_title, from_zero=False),
        detail="seed:N",
    )
    points = _points(base, rows, ["name:N", "seed:N", *_numbers("x", "y")])
    return _finished(_layered([base.mark_line(strokeWidth=1.5).encode(strokeDash=_dashes(rows)), points], chosen))


@_unchecked
def pair_chart(data: str, languages: Sequence[str], measure: str, most: float) -> Spec:
    """A heat map: a row for the queries' language, a column for the passages'.

    Args:
        data (`str`): Name of the rows, which have `queries`, `passages` and `value`.
        languages (`Sequence[str]`): In the order of rows and columns.
        measure (`str`): What the values are.
        most (`float`): The value of the lightest color, the same for maps that are compared.
    """
    import altair as alt

    many, upright = len(languages) >= _SMALL_FROM, max(map(len, languages)) * len(languages) > _LETTERS
    axis = alt.Axis(labelFontSize=8 if many else 10, labelOverlap=False, domain=False, ticks=False, labelPadding=3)
    side: dict[str, Any] = {"sort": list(languages), "scale": alt.Scale(padding=0)}
    legend = alt.Legend(orient="bottom", gradientLength=160, title=measure, titleOrient="left")
    color = alt.Color("value:Q", legend=legend, scale=alt.Scale(scheme="cividis", domain=[0, round(most, 2)]))
    chart = alt.Chart(alt.NamedData(data)).mark_rect(invalid=None)
    chart = chart.encode(
        x=alt.X("passages:N", title="passages in", axis=axis, **side).axis(labelAngle=-90 if upright else 0),
        y=alt.Y("queries:N", title="queries in", axis=axis, **side),
        color=color,
        tooltip=["queries:N", "passages:N", alt.Tooltip("value:Q", title=measure, format=".3f")],
    )
    return _finished(chart, height=max(150, min(420, 30 * len(languages))))


@_unchecked
def bar_chart(data: str, rows: Sequence[Row], title: str) -> Spec:
    """One number of each arm as a bar, with its interval.

    Args:
        data (`str`): Name of the rows.
        rows (`Sequence[dict]`): `arm` and `name`, `mean`, `low`, `high`, `seeds`.
        title (`str`): Of the axis.
    """
    import altair as alt

    names = _names(rows)
    color = alt.Color("name:N", legend=None).scale(domain=names, range=[_STYLES[arm].color for arm in _arms(rows)])
    base = alt.Chart(alt.NamedData(data)).encode(y=alt.Y("name:N", title=None, sort=names))
    shown = ["name:N", *_numbers("mean", "low", "high"), "seeds:Q"]
    bars = base.mark_bar(height={"band": 0.65}).encode(
        x=alt.X("mean:Q", title=title).axis(tickCount=6), color=color, tooltip=shown
    )
    intervals = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5)
    return _finished(
        alt.layer(bars, intervals.encode(x=alt.X("low:Q", title=title), x2="high:Q")), height=26 * len(names)
    )


@_unchecked
def parts_chart(data: str, rows: Sequence[Row]) -> Spec:
    """Return a chart of the time of a step: one bar per run, one color per part.

    Args:
        data (`str`): Name of the rows.
        rows (`Sequence[dict]`): `run` (lines of its name are parted by `|`), `part`, `share`, `seconds`, `order`.
    """
    import altair as alt

    runs, parts = (list(dict.fromkeys(row[side] for row in rows)) for side in ("run", "part"))
    legend = alt.Legend(orient="bottom", columns=3, title=None)
    color = alt.Color("part:N", legend=legend).scale(domain=parts, range=[PARTS.get(part, _GREY) for part in parts])
    chart = alt.Chart(alt.NamedData(data)).mark_bar(stroke="white", strokeWidth=0.5)
    chart = chart.encode(
        x=alt.X("share:Q", title="share of the time of a step", scale=alt.Scale(domain=[0, 1])).axis(
            format="%", tickCount=5
        ),
        y=alt.Y("run:N", title=None, sort=runs, axis=alt.Axis(labelExpr="split(datum.label, '|')", labelLimit=130)),
        color=color,
        order="order:Q",
        tooltip=["run:N", "part:N", alt.Tooltip("share:Q", format=".1%"), *_numbers("seconds")],
    )
    return _finished(chart, height=46 * len(runs))


def picture(spec: Spec, rows: Sequence[Row]) -> str:
    """The static twin of a plot: an SVG of a spec with its rows, the same for the same releases of the libraries.

    Raises:
        ImportError: When the libraries of a report are not installed.
    """
    import vl_convert

    width = _WIDTH if spec["width"] == "container" else spec["width"]
    whole = {**spec, "width": width, "datasets": {spec["data"]["name"]: list(rows)}}
    svg: str = vl_convert.vegalite_to_svg(whole, vl_version=_schema_version())
    shorter = _TAG.sub(lambda tag: _LONG_NUMBER.sub(_shorter, _UNUSED.sub("", tag[0])), svg)
    ids = {found[2]: f"part{number}" for number, found in enumerate(_ID.finditer(shorter))}
    return _ID.sub(lambda found: found[1] + ids[found[2]], shorter)  # they count all pictures that a process made


def _shorter(found: re.Match[str]) -> str:
    """A coordinate to a hundredth of a pixel."""
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


@cache
def program() -> str:
    """The JavaScript that draws specs: Vega, Vega-Lite and Vega-Embed, as `vegaEmbed` of the page."""
    import vl_convert

    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_schema_version())
    return code.replace("\r\n", "\n").replace(
        "\r", "\n"
    )  # the same to JavaScript, and to all who read the page as text


def _schema_version() -> str:
    """Version of the specs that altair writes, such as 6.4."""
    import altair as alt

    found = re.match(r"v(\d+\.\d+)", alt.SCHEMA_VERSION)
    assert found, alt.SCHEMA_VERSION
    return found[1]


# Parts of charts


def _finished(chart: Any, height: int = _HEIGHT) -> Spec:
    chart = chart.properties(width="container", height=height).configure(font="Liberation Sans, Arial, sans-serif")
    chart = chart.configure_axis(labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridColor="#e4e4e4")
    chart = chart.configure_legend(
        labelFontSize=11,
        labelLimit=120,
        symbolSize=80,
        symbolStrokeWidth=0,
        columnPadding=14,
        titleFontWeight="normal",
    )
    spec: Spec = chart.configure_view(stroke=None).to_dict(validate=False)
    spec["config"]["aria"] = False  # the figure around the plot says what it is, once instead of for each mark
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec


def _layered(layers: Sequence[Any], chosen: Any) -> Any:
    """Layers from the lowest on; of the legends that they have in common, the first one takes the clicks."""
    import altair as alt

    first, *others = layers
    return alt.layer(first.properties(name="first").add_params(chosen), *others)


def _arms(rows: Sequence[Row]) -> list[str]:
    there = {row["arm"] for row in rows}
    return [arm for arm in NAMES if arm in there]


def _names(rows: Sequence[Row]) -> list[str]:
    return [NAMES[arm] for arm in _arms(rows)]


def _colored(data: str, rows: Sequence[Row], chosen: Any) -> Any:
    """Return a chart with rows in the colors of their arms; arms that are not selected are pale."""
    import altair as alt

    colors = [_STYLES[arm].color for arm in _arms(rows)]
    color = alt.Color("name:N", legend=_legend()).scale(domain=_names(rows), range=colors)
    opacity = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.12))
    return alt.Chart(alt.NamedData(data)).encode(color=color, opacity=opacity)


def _dashes(rows: Sequence[Row]) -> Any:
    import altair as alt

    dashes = [_STYLES[arm].dash for arm in _arms(rows)]
    return alt.StrokeDash("name:N", legend=_legend()).scale(domain=_names(rows), range=dashes)


def _at_the_right(base: Any) -> Any:
    """The names of level lines, which have no marks to tell them by."""
    import altair as alt

    texts = base.mark_text(align="right", baseline="bottom", dy=-2, fontSize=10)
    return texts.encode(x=alt.value("width"), text="name:N")


def _points(base: Any, rows: Sequence[Row], shown: Sequence[Any]) -> Any:
    """Marks of an arm's shape."""
    import altair as alt

    shapes = [_STYLES[arm].shape for arm in _arms(rows)]
    shape = alt.Shape("name:N", legend=_legend()).scale(domain=_names(rows), range=shapes)
    return base.mark_point(filled=True, size=70).encode(shape=shape, tooltip=list(shown))


def _legend() -> Any:
    import altair as alt

    return alt.Legend(orient="bottom", columns=3, title=None)


def _chosen() -> Any:
    """The arms that were clicked on in the legend; all of them at first."""
    import altair as alt

    return alt.selection_point(name="chosen", fields=["name"], bind="legend")


def _y(field: str, title: str, from_zero: bool) -> Any:
    import altair as alt

    scale = alt.Scale(domainMin=0, nice=True) if from_zero else alt.Scale(zero=False)
    axis = alt.Axis(labelExpr=_PLAIN_NUMBERS) if from_zero else alt.Axis(format=".2f")
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=axis)


def _numbers(*fields: str) -> list[Any]:
    import altair as alt

    return [alt.Tooltip(f"{field}:Q", format=".4~r") for field in fields]
