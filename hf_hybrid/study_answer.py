"""The answer that a study gives: three sentences, and a table of arms and numbers of languages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .study_charts import NAMES, Row
from .study_figures import SETTINGS, Report, at, growth_rows

_COLUMNS = {
    "step_time_s": "step, s",
    "train_time_s": "training, s",
    "target/train_time_s": "to the target, s",
    "peak_device_memory_gib": "device, GiB",
    "peak_host_memory_gib": "host, GiB",
    "energy_wh": "energy, Wh",
    **{f"{name}/MAP": f"MAP {title}" for name, title in SETTINGS.items()},
    "bias/rank_distance": "rank distance",
}
_BEST, _BIAS = "multilingual/MAP", "bias/rank_distance"  # the quality that the answer is about, and the bias
_NOTHING = (
    "Nothing can be said of hybrid batches: no such cell has come to its end at two numbers of languages, nor at one "
    "where mono or mlm_hybrid has."
)


class Table(NamedTuple):
    """Columns with their heads.

    Args:
        title (`str`): What it shows.
        head (`Sequence[str]`): A head a column.
        rows (`Sequence[Sequence]`): Cells: a text, a number as text, None, or `text` and `small` below it.
        texts (`Sequence[int]`, *optional*): Columns of text, which stand at the start of their cells.
        long (`Sequence[int]`, *optional*): Those of them whose lines are broken.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    texts: Sequence[int] = (0,)
    long: Sequence[int] = ()


def answer(report: Report) -> list[str]:
    """How training grows with languages, and what it takes and gives beside mBERT-style training.

    Args:
        report (`Report`): Of a study.

    Returns:
        `list[str]`: Three sentences, or as many as the study's arms say something about; one about hybrid beside
            monolingual batches where there is nothing else to say.
    """
    fits, pair, memory = report.fits, "hybrid/mlm_hybrid", _memory(report)
    time = "step_time_s" if report.study["budget"]["kind"] == "time" else "train_time_s"
    growth = {name: at(fits, "growth", name, "hybrid", "sentence") for name in (time, memory, _BEST)}
    cost = "target/train_time_s" if at(fits, "ratios", "target/train_time_s", pair) else time
    against = [_ratio(at(fits, "ratios", name, pair)) for name in (cost, memory)]
    if cost.startswith("target/") and (aim := report.study["budget"]["target"]):
        against.append(f"the target is {aim['measure']} = {aim['value']:g}")
    better = [found["sentence"] for found in (at(fits, "differences", _BEST, pair) or [])[-1:]]  # at the largest L
    found = [
        _joined("With hybrid batches, ", [growth[time], growth[memory]]),
        _joined("Against mBERT-style pre-training with the same fine-tuning (mlm_hybrid), ", against),
        _joined("With hybrid batches, ", [growth[_BEST], *better]),
    ]
    return [text for text in found if text] or [_beside_mono(fits, time) or _NOTHING]


def _beside_mono(fits: dict[str, Any], time: str) -> str | None:
    """What hybrid batches take and give at the largest L that both arms have."""
    pair, against = "hybrid/mono", []
    if costs := at(fits, "ratios", time, pair):
        largest = str(costs["languages"][-1])
        against.append(f"at L = {largest}, {costs['by_languages'][largest]['sentence']}")
    for name in (_BEST, _BIAS):
        against += [found["sentence"] for found in (at(fits, "differences", name, pair) or [])[-1:]]
    return _joined("Against monolingual batches (mono), ", against)


def _ratio(found: dict[str, Any] | None) -> str | None:
    """Over all L; where a run did not reach its target at one, at the largest."""
    if not found:
        return None
    largest = str(found["languages"][-1])
    if found["all"]["ratio"] is None and (at_largest := found["by_languages"][largest])["ratio"] is not None:
        return f"at L = {largest}, {at_largest['sentence']}"
    return str(found["all"]["sentence"])


def _memory(report: Report) -> str:
    name = "peak_device_memory_gib"
    return name if at(report.fits, "growth", name, "hybrid") else "peak_host_memory_gib"


def _joined(start: str, sentences: Iterable[str | None]) -> str | None:
    known = [found.removesuffix(".") for found in sentences if found]
    return f"{start}{'; '.join(known)}." if known else None


def laws(report: Report, quantities: Iterable[str], name: str) -> list[Table]:
    """What the fits say of some quantities, sentence by sentence; no table where they say nothing."""
    rows = []
    for quantity in quantities:
        for arm, found in (at(report.fits, "growth", quantity) or {}).items():
            rows.append([NAMES[arm], found["sentence"]])
        for pair, found in (at(report.fits, "ratios", quantity) or {}).items():
            rows += [[_versus(pair), found["all"]["sentence"]]] if found else []
        for pair, found in (at(report.fits, "differences", quantity) or {}).items():
            rows += [[_versus(pair), one["sentence"]] for one in found]
    return [Table(f"{name}, in words", ["arm", "what its interval allows to say"], rows, (0, 1), (1,))] if rows else []


def _versus(pair: str) -> str:
    return " / ".join(NAMES[arm] for arm in pair.split("/"))


def how_to_read(report: Report) -> list[str]:
    """What intervals are, and what is claimed of them."""
    return [
        f"Intervals are of {report.fits['level']:.0%}, Student's over {len(report.seeds)} seeds: they say what other "
        "seeds would give, and nothing of other languages, corpora or machines. A difference is claimed only where "
        "the whole interval lies on one side of none."
    ]


def main_table(report: Report) -> Table:
    """A row for each arm and L, with time, memory, quality and bias.

    Args:
        report (`Report`): Of a study.
    """
    columns = {name: _by_place(growth_rows(report, name)) for name in _COLUMNS}
    columns = {name: found for name, found in columns.items() if found}
    places = list(dict.fromkeys((row["arm"], row["num_languages"]) for row in in_order(report.rows)))
    rows = [
        [NAMES[arm], count or "–", *(_with_interval(found.get((arm, count))) for found in columns.values())]
        for arm, count in places
        if any((arm, count) in found for found in columns.values())
    ]
    about = f"Means over {len(report.seeds)} seeds, with intervals of {report.fits['level']:.0%}."
    return Table(about, ["arm", "L", *(_COLUMNS[name] for name in columns)], rows)


def _by_place(rows: Iterable[Row]) -> dict[tuple[str, int], Row]:
    return {(row["arm"], row["languages"] or 0): row for row in rows}


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows of cells by arm, number of languages and seed."""
    arms = list(NAMES)
    return sorted(rows, key=lambda row: (arms.index(row["arm"]), row["num_languages"], str(row["seed"])))


def _with_interval(row: Row | None) -> Any:
    if row is None or (row["mean"] is None and not row["not_reached"]):
        return None
    if row["mean"] is None:
        return {"text": "not reached", "small": f"{row['not_reached']} of {row['not_reached'] + row['seeds']} runs"}
    ends = f"{number(row['low'])} to {number(row['high'])}" if row["low"] is not None else ""
    return {"text": number(row["mean"]), "small": ends}


def number(value: float | None) -> str:
    """Three digits that count, and whole numbers from 1,000 on.

    Example:

        >>> number(0.123456), number(12345.6), number(0.5), number(None)
        ('0.123', '12,346', '0.5', '–')
    """
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
