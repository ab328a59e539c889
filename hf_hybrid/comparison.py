"""Two evaluations on the same queries: which measures and which pairs of languages differ by more than chance."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from .evaluation_files import PER_QUERY_NAME
from .metrics.beir_cross_lingual.significance import bootstrap_interval, compare_cells

KEYS = ["query_language", "passage_language", "query_id"]
LEVEL = 0.05


def compare(
    folder: str | os.PathLike[str], baseline: str | os.PathLike[str], measures: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Paired tests of an evaluation against an earlier one, from their `per_query.parquet`.

    In each pair of languages, and in the pool of each query language, a paired randomization test of the mean
    difference; the p values of all of them are corrected together (Holm). The difference over all queries comes with
    a bootstrap interval.

    Args:
        folder (`str` or `Path`): Output of the evaluation in question.
        baseline (`str` or `Path`): Output of the one that it is compared with.
        measures (`Sequence[str]`): Names of measures that both have.

    Returns:
        `dict`: For each measure `difference`, `low` and `high` (a 95% interval), `num_queries`, and `pairs`: for each
        pair of languages ("de-en", "de-*" for the pool) `difference`, `p_value`, `adjusted_p_value` and `num_queries`.

    Raises:
        ValueError: When one of them is not there, or they have no query or measure in common.
    """
    table = (
        _read(folder)
        .join(_read(baseline), keys=KEYS, join_type="inner", right_suffix=" before")
        .sort_by([(name, "ascending") for name in KEYS])
    )
    if not len(table):
        raise ValueError(f"{folder} and {baseline} have no query in common; compare evaluations on the same corpus.")
    lacking = [name for name in measures if f"{name} before" not in table.column_names]
    if lacking:
        raise ValueError(
            f"{lacking[0]!r} is not in both {folder} and {baseline}; evaluate both with it, or leave it out."
        )
    names = np.array([f"{q}-{p}" for q, p in zip(*(table[name].to_pylist() for name in KEYS[:2]), strict=True)])
    return {
        name: _compare_measure(names, table[name].to_numpy(), table[f"{name} before"].to_numpy()) for name in measures
    }


def comparison_table(found: dict[str, dict[str, Any]]) -> str:
    """What `compare` found, as text: a line a measure."""
    lines = [
        "measure          difference   95% interval        pairs of languages: better, worse, no difference shown"
    ]
    for name, result in found.items():
        shown = [pair for pair in result["pairs"].values() if pair["adjusted_p_value"] < LEVEL]
        better = sum(pair["difference"] > 0 for pair in shown)
        counts = f"{better}, {len(shown) - better}, {len(result['pairs']) - len(shown)}"
        interval = f"{result['low']:+.4f} to {result['high']:+.4f}"
        lines.append(f"{name:<15}  {result['difference']:>+10.4f}   {interval}  {counts}")
    return "\n".join(lines)


def write_comparison(path: Path, found: dict[str, dict[str, Any]], baseline: str) -> None:
    """Write `comparison.json`."""
    content = {"baseline": baseline, "measures": found}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(folder: str | os.PathLike[str]) -> Any:
    path = Path(folder) / PER_QUERY_NAME
    if not path.exists():
        raise ValueError(f"{path} is not there; {folder} must be the output of an evaluation (recipes/eval.py).")
    return pyarrow.parquet.read_table(path)


def _compare_measure(names: np.ndarray, after: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    now, then = ({name: values[names == name] for name in np.unique(names).tolist()} for values in (after, before))
    tests = compare_cells(now, then)
    interval = bootstrap_interval(after - before)
    return {
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "num_queries": len(after),
        "pairs": {name: test._asdict() for name, test in tests.items()},
    }
