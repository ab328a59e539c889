"""The results in a model card: settings, languages and bias, in tables of bounded size."""

from __future__ import annotations

from typing import Any

import numpy as np

from .card_metadata import SETTINGS, CardFiles, evaluated_name
from .markdown import Markdown, table
from .records import Scores
from .report import first_measure, pair_matrix

NOT_MEASURED, NOT_RECORDED = "not measured", "not recorded"
MOST_ROWS, EXTREMES = 20, 5  # languages up to which each has its row, and rows at either end where they are more
_BIAS = {
    "rank_distance": "places between the first and the last translation of the right passage; 0 is best",
    "PEER": "1: the right passages of all languages rank alike; 0: they do not",
    "same_language_share@10": "share of the first ten passages that are in the language of the query",
    "same_language_recall@100": "right passages in the language of the query among the first 100",
    "other_language_recall@100": "right passages in other languages among the first 100",
    "MRC@10": "correlation of the rankings that parallel queries get; 1: the same ranking in every language",
}


def score(value: float | None, name: str = "") -> str:
    """A measure with the digits that it is given with."""
    if value is None:
        return NOT_MEASURED
    return f"{value:,.1f}" if name.endswith("rank_distance") else f"{value:.4f}"


def results(files: CardFiles) -> dict[str, Any]:
    """Settings before and after, languages, bias, and what pictures there are."""
    before, after = files.evaluation["before"], files.scores
    found = after or before
    if found is None:
        return {}
    measure = first_measure(found) if found["pairs"] else None
    pictures = has_pictures(files)
    return {
        "corpus": evaluated_name(files),
        "precision": files.precision,
        "num_queries": f"{found['num_queries']:,}",
        "num_languages": len(languages_of(found)),
        "when": [name for name, scores in (("before", before), ("after", after)) if scores is not None],
        "measure": measure,
        "settings": _settings_table(before, after),
        "languages": _language_table(after, measure) if after and after["pairs"] and measure else None,
        "languages_shown": shown_of(len(languages_of(found)), "best and", "worst"),
        "bias": _bias_table(before, after) if found["bias"] else None,
        "picture": pictures,
        "change_picture": pictures and before is not None and bool(before["pairs"]),
    }


def has_pictures(files: CardFiles) -> bool:
    """Whether the card refers to heat maps: there are several pairs, and they could be drawn."""
    several = files.scores is not None and len(files.scores["pairs"]) > 1
    return several and files.options.get("pictures") is not False


def _settings_table(before: Scores | None, after: Scores | None) -> Markdown:
    flat = [_flat(scores) for scores in (before, after)]
    measures = list(dict.fromkeys(name for found in flat for _, name in found))

    def cell(key: tuple[str, str]) -> Any:
        first, second = (found.get(key) for found in flat)
        return score(first, key[1]) if after is None else _arrow(first, second, key[1])

    rows = [[title, *(cell((setting, name)) for name in measures)] for setting, title in SETTINGS.items()]
    return table(["Setting", *measures], rows)


def _flat(scores: Scores | None) -> dict[tuple[str, str], float]:
    if scores is None:
        return {}
    return {(setting, name): value for setting in SETTINGS for name, value in scores[setting].items()}  # type: ignore[literal-required]


def _arrow(before: float | None, after: float | None, name: str) -> Any:
    if before is None:
        return score(after, name)
    return Markdown(
        f"{score(before, name)} → {'**' + score(after, name) + '**' if after is not None else NOT_MEASURED}"
    )


def language_means(scores: Scores, measure: str) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Of each language: alone, mean over others as the queries' language, and as the passages'.

    Example:

        >>> pairs = {"de-de": {"MAP": 0.8}, "de-en": {"MAP": 0.5}, "de-fr": {"MAP": 0.25}, "en-de": {"MAP": 0.5}}
        >>> language_means({"pairs": pairs}, "MAP")["de"]
        (0.8, 0.375, 0.5)
    """
    rows, columns, value_QP = pair_matrix(scores, measure)

    def mean(values: list[float]) -> float | None:
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else None

    found = {}
    for name in dict.fromkeys([*rows, *columns]):
        as_query = value_QP[rows.index(name)].tolist() if name in rows else []
        as_passage = value_QP[:, columns.index(name)].tolist() if name in columns else []
        own = as_query[columns.index(name)] if name in rows and name in columns else float("nan")
        others = [value for other, value in zip(columns, as_query, strict=False) if other != name]
        to_it = [value for other, value in zip(rows, as_passage, strict=False) if other != name]
        found[name] = mean([own]), mean(others), mean(to_it)
    return found


def _language_table(scores: Scores, measure: str) -> Markdown:
    means = language_means(scores, measure)
    columns = [column for column in (0, 1, 2) if any(found[column] is not None for found in means.values())]
    order = sorted(means, key=lambda name: -(means[name][columns[0]] or 0.0))
    names = list(means) if len(means) <= MOST_ROWS else [*order[:EXTREMES], *order[-EXTREMES:]]
    titles = ["Monolingual", "Queries in it, passages in others", "Passages in it, queries in others"]
    head = ["Language", *(titles[column] for column in columns)]
    return table(head, [[name, *(score(means[name][column]) for column in columns)] for name in names])


def _bias_table(before: Scores | None, after: Scores | None) -> Markdown:
    columns = {title: scores["bias"] for title, scores in (("before", before), ("after", after)) if scores}
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    shown = [
        [name, *(score(values.get(name), name) for values in columns.values()), _BIAS.get(name)] for name in names
    ]
    return table(["Measure", *columns, "What it says"], shown, texts=(0, len(columns) + 1))


def shown_of(number: int, first: str, last: str) -> str:
    """Which rows a table has, where not all."""
    return f", the {EXTREMES} {first} the {EXTREMES} {last} of {number}" if number > MOST_ROWS else ""


def languages_of(scores: Scores) -> list[str]:
    """Those that have a pair."""
    return list(language_means(scores, first_measure(scores))) if scores["pairs"] else []
