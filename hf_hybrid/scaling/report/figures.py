"""The figures of a study's report: which there are, and the rows of each, from what the study's folder holds.

1. `read_study` reads `study.json`, `table.json`, `fits.json` and, where it is, `step_profile.json`, without secrets
   and local paths.
2. Means and intervals over seeds are those of `growth.fit_growth`; a trial that failed is in none, and counted.
3. A figure whose numbers nobody measured is not drawn, and the report says so.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import SETTINGS, Scores
from hf_hybrid.records.scores import pair_matrix
from hf_hybrid.scaling.grid.arms import Trial
from hf_hybrid.scaling.grid.fits import collect_values
from hf_hybrid.scaling.grid.folder import StudyFolder
from hf_hybrid.scaling.grid.growth import Point, fit_growth
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.strict_json import read_json
from hf_hybrid.utils.text import to_plain_text

from .charts import NAMES, PARTS, Row, Spec, bar_chart, curve_chart, growth_chart, pair_chart, parts_chart, trade_chart

PROFILE_NAME = "step_profile.json"
MEASURE = "MAP"
_MAPS = ("zero_shot", "mono", "cross", "hybrid", "pool", "mlm_hybrid")  # arms whose heat maps are drawn
_MOST_CHARACTERS = 1000  # of a text
_DIGITS = 5  # that count, of a number in a figure


class Report(NamedTuple):
    """Options of `report`.

    Args:
        folder (`StudyFolder`): The study.
        study (`dict`): `study.json`, but for its trials.
        trials (`list[Trial]`): The trials, with the paths of their files.
        rows (`list[dict]`): Of `table.json`, a row a trial.
        fits (`dict`): `fits.json`.
        profile (`dict`, *optional*): `step_profile.json`, in the form of `benchmarks/step_profile.json`.
    """

    folder: StudyFolder
    study: dict[str, Any]
    trials: list[Trial]
    rows: list[Row]
    fits: dict[str, Any]
    profile: dict[str, Any] | None

    @property
    def most_languages(self) -> int:
        """The largest L."""
        return max(row["num_languages"] for row in self.rows)

    @property
    def seeds(self) -> list[int]:
        """Number of seeds of the study."""
        return list(self.study["seeds"])

    def stages(self, trial_id: str) -> dict[str, RunFolder]:
        """The run folders of a trial, by name of the stage."""
        trial = next(trial for trial in self.trials if trial["id"] == trial_id)
        return {stage["name"]: RunFolder(self.folder.stage_path(stage)) for stage in trial["stages"]}


class Shown(NamedTuple):
    """Title, unit and scale of a quantity.

    Args:
        title (`str`): Of its figure.
        axis (`str`): With the unit.
        caption (`str`, *optional*): What it is.
    """

    title: str
    axis: str
    caption: str = ""


class Figure(NamedTuple):
    """A plot with its numbers."""

    name: str
    title: str
    caption: str
    rows: list[Row]
    spec: Spec


def read_report(folder: str | os.PathLike[str]) -> Report:
    """Read what a report is made of.

    Args:
        folder (`str` or `Path`): A study that recipes/scale.py has collected.

    Raises:
        ValueError: When a file is missing or damaged.
    """
    study = StudyFolder(folder)
    for name in ("study.json", "table.json", "fits.json"):
        if not study.has(name):
            raise ValueError(f"{study.path} has no {name}: a report is made of a study that recipes/scale.py has run.")
    asked, profile = study.read("study.json"), Path(folder, PROFILE_NAME)
    trials = asked.pop("trials")
    return Report(
        study,
        _shown(asked),
        trials,
        _shown(study.read("table.json"))["rows"],
        _shown(study.read("fits.json")),
        _shown(read_json(profile)) if profile.exists() else None,
    )


def _shown(value: Any) -> Any:
    """Return the content of a file without secrets, local paths and invisible characters."""

    def of(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {key: of(element) for key, element in inner.items()}
        if isinstance(inner, list):
            return [of(element) for element in inner]
        return to_plain_text(inner, _MOST_CHARACTERS) if isinstance(inner, str) else inner

    return of(publishable(value))


# What is shown

_TO_TARGET = "Read off each run's quality curve, between its points. An arm is missing where a run did not get there."
COSTS = {
    "step_time_s": Shown("Time of a step", "step time in s", "The typical step after the warm-up."),
    "train_time_s": Shown("Training time", "training time in s", "All of training, at the budget of the study."),
    "target/train_time_s": Shown("Time to the target", "training time in s", _TO_TARGET),
    "target/energy_wh": Shown("Energy to the target", "energy in Wh", _TO_TARGET),
    "peak_device_memory_gib": Shown("Memory of the device", "peak memory in GiB", "The peak of the fullest device."),
    "peak_host_memory_gib": Shown("Memory of the host", "peak memory in GiB", "The peak of the largest process."),
    "energy_wh": Shown("Energy", "energy in Wh", "Of training, at the budget of the study."),
    "setup_time_s": Shown("Set-up", "set-up time in s", "From the start of the process to the first step."),
    "tokens": Shown("Tokens", "tokens trained on", "At the budget of the study, without padding."),
}
QUALITIES = {
    **{f"{name}/MAP": Shown(f"{title.capitalize()} retrieval", f"MAP {title}") for name, title in SETTINGS.items()},
    "trained/cross_lingual/MAP": Shown("Cross-lingual, pairs of trained languages", "MAP cross-lingual"),
    "unseen/cross_lingual/MAP": Shown("Cross-lingual, pairs of unseen languages", "MAP cross-lingual"),
}
_LOWER = "The lower, the less bias. At the largest L that an arm has."
BIASES = {
    "bias/rank_distance": Shown("Rank distance", "rank distance", _LOWER),
    "bias/same_language_share@10": Shown("First ten in the query's language", "share of the first ten", _LOWER),
}


# Over seeds


def points(report: Report, arm: str, name: str) -> list[Point]:
    """Mean and interval of an arm for each L; L = 0 where nothing is trained."""
    if fitted := at(report.fits, "growth", name, arm, "points"):
        return list(fitted)
    seeds = list(dict.fromkeys(row["seed"] for row in report.rows if row["arm"] == arm and row["status"] != "absent"))
    values = collect_values(report.rows, arm, seeds, name)  # type: ignore[arg-type]
    found = fit_growth({max(count, 1): of_seeds for count, of_seeds in values.items()})["points"] if values else []
    return [{**point, "languages": 0} if 0 in values else point for point in found]


def growth_rows(report: Report, name: str) -> list[Row]:
    """A row for each arm and L with a value, or with a run that did not reach the target.

    Args:
        report (`Report`): Of a study.
        name (`str`): Of a quantity in `COSTS`, `QUALITIES` or `BIASES`.
    """
    found = []
    for arm, label in NAMES.items():
        for point in points(report, arm, name):
            if point["num_values"] or point["num_not_reached"]:
                low, high = point["interval"] or (None, None)
                row = {"arm": arm, "name": label, "languages": point["languages"] or None, "mean": point["mean"]}
                row |= {"low": low, "high": high, "seeds": point["num_values"]}
                found.append({**row, "failed": point["num_failed"], "not_reached": point["num_not_reached"]})
    return [round_row(row) for row in found]


def at(found: Any, *keys: str) -> Any:
    """A value in dictionaries within each other; None where one lacks its key.

    Example:

        >>> at({"quality": {"MAP": 0.5}}, "quality", "MAP"), at({"quality": None}, "quality", "MAP")
        (0.5, None)
    """
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def round_row(row: Row) -> Row:
    """A row whose numbers have as many digits as a figure needs."""
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in row.items()}


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


# The figures


def growth_figures(report: Report, shown: Mapping[str, Shown]) -> Iterator[Figure]:
    """Return the figures of measurements."""
    for quantity, (title, axis, caption) in shown.items():
        rows, name = growth_rows(report, quantity), file_name(quantity)
        if any(row["mean"] is not None for row in rows):
            yield Figure(name, title, caption, rows, growth_chart(name, rows, axis, from_zero=shown is COSTS))


def file_name(quantity: str) -> str:
    """Return the columns of a quantity's figure and of its downloads.

    Example:

        >>> file_name("bias/same_language_share@10")
        'bias_same_language_share_10'
    """
    return re.sub(r"\W+", "_", quantity)


def trade_figures(report: Report) -> Iterator[Figure]:
    """Monolingual quality against the other two."""
    means = {setting: growth_rows(report, f"{setting}/MAP") for setting in SETTINGS}
    for setting in ("cross_lingual", "multilingual"):
        others = {(row["arm"], row["languages"]): row["mean"] for row in means[setting]}
        rows = [
            {**{key: row[key] for key in ("arm", "name", "languages")}, "x": row["mean"], "y": other}
            for row in means["monolingual"]
            if (other := others.get((row["arm"], row["languages"]))) is not None
        ]
        if rows:
            name, axes = f"trade_{setting}", [f"MAP {SETTINGS[found]}" for found in ("monolingual", setting)]
            caption = "Means over seeds. The larger a mark, the more training languages."
            title = f"Monolingual against {SETTINGS[setting]}"
            yield Figure(name, title, caption, rows, trade_chart(name, rows, *axes))


def bias_figures(report: Report) -> Iterator[Figure]:
    """A bar an arm, at the largest L that it has."""
    for quantity, (title, axis, caption) in BIASES.items():
        largest = {row["arm"]: row for row in growth_rows(report, quantity) if row["mean"] is not None}
        if rows := list(largest.values()):
            name = file_name(quantity)
            yield Figure(name, title, caption, rows, bar_chart(name, rows, axis))


def curve_figures(report: Report) -> Iterator[Figure]:
    """Quality while training continued, at the largest L."""
    chosen = [row for row in report.rows if row["num_languages"] == report.most_languages]
    rows = [found for row in chosen if row["status"] == "finished" for found in _curve(report, row)]
    if rows:
        title, axis = f"Quality while training, L = {report.most_languages}", "MAP multilingual"
        caption = "A line a run. In MLM + hybrid the time of masked language modeling comes first."
        yield Figure("curve", title, caption, rows, curve_chart("curve", rows, "training time in s", axis))


def _curve(report: Report, row: Row) -> Iterator[Row]:
    """Return the curve of the stages of a trial, one after the other."""
    elapsed_s = 0.0
    for stage, folder in report.stages(row["id"]).items():
        for line in folder.read_curve()[0]:
            found = {"arm": row["arm"], "name": NAMES[row["arm"]], "seed": row["seed"], "stage": stage}
            found |= {"x": elapsed_s + line["train_time_s"], "y": line["measures"].get("multilingual/MAP")}
            yield round_row({**found, "step": line["step"]})
        elapsed_s += row["stages"][stage]["train_time_s"]


def pair_figures(report: Report) -> Iterator[Figure]:
    """Heat maps of some arms, of the first seed that finished at the largest L."""
    maps = {arm: found for arm in _MAPS if (found := _map_of(report, arm))}
    most = max((float(np.nanmax(found[1][2])) for found in maps.values()), default=1.0)
    for arm, (row, (queries, passages, value_QP)) in maps.items():
        rows = [
            round_row({"queries": query, "passages": passage, "value": float(value_QP[i, j])})
            for i, query in enumerate(queries)
            for j, passage in enumerate(passages)
        ]
        seed = f", seed {row['seed']}" if row["seed"] is not None else ""
        size = f", L = {row['num_languages']}" if row["num_languages"] else ""
        spec = pair_chart(f"pairs_{arm}", queries, MEASURE, most)
        yield Figure(f"pairs_{arm}", f"{NAMES[arm]}{size}{seed}", f"The trial {row['id']}.", rows, spec)


def _map_of(report: Report, arm: str) -> tuple[Row, tuple[list[str], list[str], np.ndarray]] | None:
    for row in report.rows:
        wanted = row["arm"] == arm and row["num_languages"] in (0, report.most_languages)
        scores = _scores(report, row["id"]) if wanted and row["status"] == "finished" else None
        if scores is not None and len(scores["pairs"]) > 1:
            return row, pair_matrix(scores, MEASURE)
    return None


def _scores(report: Report, trial_id: str) -> Scores | None:
    """Return the scores of the last stage of a trial."""
    *_, folder = report.stages(trial_id).values()
    return folder.read_eval()["after"] if (folder.path / "eval.json").exists() else None


_RUN_SETTINGS = {
    "model": "{}",
    "corpus": "{}",
    "batch_size": "{} pairs",
    "attention": "{}",
    "chunk_tokens": "chunks of {} tokens",
    "processes": "processes: {}",
    "precision": "{}",
    "torch_compile": "compiled: {}",
    "mix": "{}",
}


def profile_figures(report: Report) -> Iterator[Figure]:
    """Return the parts of a step's time, for the runs of `step_profile.json`."""
    if report.profile is None:
        return
    runs = report.profile["rows"]
    differ = [name for name in _RUN_SETTINGS if len({str(run.get(name)) for run in runs}) > 1]
    same = ", ".join(_setting(runs[0], name) for name in _RUN_SETTINGS if name not in differ and runs[0].get(name))
    rows = []
    for number, run in enumerate(runs, start=1):
        label = "|".join(_setting(run, name) for name in differ) or f"run {number}"
        for order, part in enumerate(PARTS):
            if part in run["seconds"]:
                row = {"run": label, "part": part, "share": run["shares"][part], "seconds": run["seconds"][part]}
                rows.append(round_row({**row, "order": order}))
    yield Figure(
        "step_profile", "Where the time of a step goes", f"All runs: {same}.", rows, parts_chart("step_profile", rows)
    )


def _setting(run: Row, name: str) -> str:
    return _RUN_SETTINGS[name].format(run.get(name))
