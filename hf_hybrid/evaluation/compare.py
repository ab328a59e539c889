"""Two evaluations on the same queries: which measures, settings and languages differ by more than chance.

1. `check_comparable`, before an evaluation: is there one to compare with, on the same corpus and queries?
2. `compare`, after it: the queries that both answered, their differences in each language pair and each pool, and
   the difference of each setting as `eval.json` averages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from hf_hybrid.metrics.beir_cross_lingual.significance import Comparison, compare_language_pairs, macro_interval
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import PER_QUERY_NAME, SETTINGS
from hf_hybrid.utils.files import replacing

from .aggregate import POOL

KEYS = ["query_language", "passage_language", "query_id"]
LEVEL = 0.05


class _PairTable(NamedTuple):
    """A language pair, or the pool of a query language."""

    name: str  # `de-en`, `de-*`
    setting: str
    rows: slice  # of the table
    query_Q: np.ndarray  # number of each query, the same in all language pairs


def check_comparable(
    baseline: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    fingerprint: str,
    max_queries: int | None,
    measures: Sequence[str] = (),
) -> None:
    """Refuse, before an evaluation, what could not be compared with it.

    What the earlier evaluation does not say of itself, as one without an `eval.json`, is not held against it.

    Args:
        baseline (`str` or `Path`): Output of the earlier evaluation.
        output_dir (`str` or `Path`): Where the new one will be.
        fingerprint (`str`): That of the corpus to evaluate on.
        max_queries (`int` or `None`): How many queries of each language will be used; `None` for all.
        measures (`Sequence[str]`, *optional*): Names of measures that will be compared.

    Raises:
        ValueError: When the earlier evaluation is not there, is where the new one will be, is on another corpus or
            another number of queries, or lacks a measure.

    Example:

        >>> check_comparable("nowhere", "runs/new", "0a1b", None)
        Traceback (most recent call last):
        ...
        ValueError: ... is not there; nowhere must be the output of an evaluation (recipes/eval.py).
    """
    _refuse_unlike(baseline, output_dir, {"corpus_fingerprint": fingerprint, "max_queries": max_queries})
    _refuse_lacking(baseline, measures)


def compare(
    folder: str | os.PathLike[str], baseline: str | os.PathLike[str], measures: Sequence[str]
) -> dict[str, Any]:
    """An evaluation against an earlier one, from their `per_query.parquet`.

    Of each setting the difference of what `eval.json` says, the mean over queries and then over language pairs (in the
    multilingual setting over query languages), with a 95% CI (`significance.macro_interval`: queries are drawn again,
    each in all its languages). Of each language pair and each pool a paired test
    (`significance.compare_language_pairs`, by randomization or, for large tables, the t test). For each measure the
    p-values of all pairs and pools are corrected together (Holm): with 0.05 as the limit, one time in 20 a measure
    without any difference shows one somewhere. Measures are not corrected for one another.

    Only rows of the two files that both have count, and the rest is counted. If one has queries or languages that the
    other has not, the differences are therefore not those of the two `eval.json`.

    Args:
        folder (`str` or `Path`): Output of the evaluation in question.
        baseline (`str` or `Path`): Output of the one that it is compared with.
        measures (`Sequence[str]`): Names of measures that both have; those of bias as well, such as `"PEER"`.

    Returns:
        `dict`: `in_both`, `only_here` and `only_in_baseline` are numbers of rows, each a query in a pair or a pool.
        `measures` has for each measure:

        * `settings`: of each setting `difference`, `low`, `high`, `num_queries` (parallel ones count once),
          `num_language_pairs` (pairs, or pools) and of these `num_better` and `num_worse`, by their adjusted p-values.
        * `test`: `"randomization"` or `"t"`.
        * `pairs`, `pools`: of each (`"de-en"`, `"de-*"`) `difference`, `p_value`, `adjusted_p_value`, `num_queries`.

    Raises:
        ValueError: When one of them is not there, both are the same, they are on different corpora or numbers of
            queries, have no query or measure in common, or a query has a value in one of them only.

    Example:

        >>> import tempfile
        >>> folders = [Path(tempfile.mkdtemp(), name) for name in ("baseline", "new")]
        >>> for folder, values in zip(folders, ([0.5, 0.5, 0.6, 0.9, 0.5], [0.9, 0.8, 0.7, 1.0, 0.5])):
        ...     folder.mkdir()
        ...     columns = [["de"] * 5, ["de"] * 4 + ["en"], ["q1", "q2", "q3", "q4", "q1"], values]
        ...     pyarrow.parquet.write_table(pa.table(columns, names=[*KEYS, "MAP"]), folder / PER_QUERY_NAME)
        >>> found = compare(folders[1], folders[0], ["MAP"])
        >>> round(found["measures"]["MAP"]["settings"]["monolingual"]["difference"], 3)
        0.225
        >>> found["measures"]["MAP"]["pairs"]["de-de"]["adjusted_p_value"]  # 2 of 16 swaps, twice for two pairs
        0.25
    """
    _refuse_unlike(baseline, folder, _evaluated(folder))
    here, there = (_read(path, measures) for path in (folder, baseline))
    both = here.join(there, keys=KEYS, join_type="inner", right_suffix=" before")
    if not len(both):
        raise ValueError(f"{folder} and {baseline} have no query in common; compare evaluations on the same corpus.")
    both = both.sort_by([(name, "ascending") for name in KEYS])
    language_pairs = _language_pairs(both)
    return {
        "in_both": len(both),
        "only_here": len(here) - len(both),
        "only_in_baseline": len(there) - len(both),
        "measures": {
            name: _compare_measure(name, language_pairs, both[name].to_numpy(), both[f"{name} before"].to_numpy())
            for name in measures
        },
    }


def comparison_table(found: Mapping[str, Any]) -> str:
    """Return a comparison as text: one line per measure and setting.

    Example:

        >>> settings = {"difference": 0.0123, "low": 0.0041, "high": 0.0202, "num_queries": 1190}
        >>> settings |= {"num_language_pairs": 110, "num_better": 34, "num_worse": 2}
        >>> measures = {"MAP": {"settings": {"cross_lingual": settings}, "test": "t"}}
        >>> found = {"in_both": 130900, "only_here": 0, "only_in_baseline": 0, "measures": measures}
        >>> print(comparison_table(found).split("Better")[0])
        measure      setting        difference   95% CI        better, worse, no difference shown
        MAP          cross_lingual     +0.0123   +0.0041 to +0.0202  34, 2, 74 of 110 language pairs
    """
    measures = found["measures"]
    width = max(map(len, ["measure", *measures])) + 4
    lines = [f"{'measure':<{width}}  setting        difference   95% CI        better, worse, no difference shown"]
    for name, result in measures.items():
        for setting, row in result["settings"].items():
            better, worse, language_pairs = row["num_better"], row["num_worse"], row["num_language_pairs"]
            of = "pools of all languages" if setting == "multilingual" else "language pairs"
            interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
            lines.append(
                f"{name:<{width}}  {setting:<13}  {row['difference']:>+10.4f}   {interval:<18}  "
                f"{better}, {worse}, {language_pairs - better - worse} of {language_pairs} {of}"
            )
    tests = " and ".join(sorted({result["test"] for result in measures.values()}))
    lines.append(f"Better, worse: p below {LEVEL} in paired tests ({tests}), corrected over all pairs and pools.")
    if left_out := [f"{found[key]} of {whose}" for key, whose in _ONLY.items() if found[key]]:
        lines.append(
            f"Left out, since the other has no such query in such a language: {' and '.join(left_out)} (rows; "
            f"{found['in_both']} are in both). The differences are not those of the two eval.json."
        )
    return "\n".join(lines)


def write_comparison(path: str | os.PathLike[str], found: Mapping[str, Any], baseline: str | os.PathLike[str]) -> None:
    """Write `comparison.json`: what `compare` found, and what the `baseline` was.

    Example:

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "comparison.json")
        >>> write_comparison(path, {"in_both": 0, "measures": {}}, "runs/first")
        >>> json.loads(path.read_text())
        {'baseline': 'runs/first', 'in_both': 0, 'measures': {}}
    """
    content = {"baseline": str(baseline), **found}
    with replacing(path) as unfinished:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        unfinished.write_text(text + "\n", encoding="utf-8")


_ONLY = {"only_here": "this evaluation", "only_in_baseline": "the baseline"}
_UNLIKE = {
    "corpus_fingerprint": "They are on different corpora, or on different languages of one. Evaluate both on the same",
    "max_queries": "Evaluate both with the same --max_queries",
}


def _refuse_unlike(
    baseline: str | os.PathLike[str], folder: str | os.PathLike[str], evaluated: Mapping[str, Any]
) -> None:
    """Refuse a baseline that is the evaluation itself, or on something else."""
    if Path(baseline).resolve() == Path(folder).resolve():
        raise ValueError(
            f"{baseline} and {folder} are the same folder, and an evaluation there replaces what it is to be compared "
            "with. Give the new one another folder (--output_dir)."
        )
    _schema(baseline)
    known = _evaluated(baseline)
    for name, remedy in _UNLIKE.items():
        if name in known and name in evaluated and known[name] != evaluated[name]:
            raise ValueError(
                f"{baseline} was evaluated with {name}={known[name]!r}, {folder} with {evaluated[name]!r}. {remedy}."
            )


def _evaluated(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the known facts of what an evaluation measured."""
    if not (Path(folder) / "eval.json").exists():
        return {}
    found = RunFolder(folder).read_eval().get("evaluated") or {}
    return {name: value for name, value in found.items() if name != "corpus_fingerprint" or value}


def _schema(folder: str | os.PathLike[str]) -> pa.Schema:
    path = Path(folder) / PER_QUERY_NAME
    if not path.exists():
        raise ValueError(f"{path} is not there; {folder} must be the output of an evaluation (recipes/eval.py).")
    return pyarrow.parquet.read_schema(path)


def _refuse_lacking(folder: str | os.PathLike[str], measures: Sequence[str]) -> None:
    names = _schema(folder).names
    if lacking := [name for name in measures if name not in names]:
        allowed = ", ".join(name for name in names if name not in KEYS)
        raise ValueError(f"{lacking[0]!r} is not in {folder}, which has {allowed}. Evaluate it with that, or omit it.")


def _read(folder: str | os.PathLike[str], measures: Sequence[str]) -> pa.Table:
    """Keys and measures of an evaluation, each key once."""
    _refuse_lacking(folder, measures)
    path = Path(folder) / PER_QUERY_NAME
    table = pyarrow.parquet.read_table(path, columns=[*KEYS, *dict.fromkeys(measures)])
    if twice := len(table) - len(table.group_by(KEYS).aggregate([])):
        raise ValueError(
            f"{path}: {twice} rows have the {', '.join(KEYS)} of another; each query must have its own id."
        )
    return table


def _language_pairs(table: pa.Table) -> list[_PairTable]:
    """The language pairs of a table that is sorted by `KEYS`."""
    query, passage, name = (table[key].combine_chunks().dictionary_encode() for key in KEYS)
    query_N, passage_N, name_N = (column.indices.to_numpy() for column in (query, passage, name))
    starts = np.flatnonzero(np.diff(query_N, prepend=-1) | np.diff(passage_N, prepend=-1)).tolist()
    language_pairs = []
    for start, end in zip(starts, [*starts[1:], len(table)], strict=True):
        languages = [column.dictionary[column.indices[start].as_py()].as_py() for column in (query, passage)]
        if languages[1] == POOL:
            setting = "multilingual"
        else:
            setting = "monolingual" if languages[0] == languages[1] else "cross_lingual"
        language_pairs.append(_PairTable("-".join(languages), setting, slice(start, end), name_N[start:end]))
    return language_pairs


def _compare_measure(
    name: str, language_pairs: list[_PairTable], after_N: np.ndarray, before_N: np.ndarray
) -> dict[str, Any]:
    unknown_N = np.isnan(after_N) & np.isnan(before_N)
    language_pairs = [
        pair for pair in language_pairs if not unknown_N[pair.rows].all()
    ]  # measures of bias are of pools alone
    if not language_pairs:
        raise ValueError(f"{name!r} has no value in either evaluation, for none of the queries in common; omit it.")
    after, before = ({pair.name: values_N[pair.rows] for pair in language_pairs} for values_N in (after_N, before_N))
    try:
        tests = compare_language_pairs(after, before)
    except ValueError as error:
        raise ValueError(f"{name}, {error}") from None
    difference_N = after_N - before_N
    by_setting = {setting: [pair for pair in language_pairs if pair.setting == setting] for setting in SETTINGS}
    return {
        "settings": {
            setting: _compare_setting(chosen, difference_N, tests) for setting, chosen in by_setting.items() if chosen
        },
        "test": next(iter(tests.values())).test,
        "pairs": {pair.name: _as_dict(tests[pair.name]) for pair in language_pairs if pair.setting != "multilingual"},
        "pools": {pair.name: _as_dict(tests[pair.name]) for pair in language_pairs if pair.setting == "multilingual"},
    }


def _compare_setting(
    language_pairs: list[_PairTable], difference_N: np.ndarray, tests: Mapping[str, Comparison]
) -> dict[str, float | int]:
    interval = macro_interval(
        [difference_N[pair.rows] for pair in language_pairs],
        [pair.query_Q for pair in language_pairs],
    )
    shown = [tests[pair.name] for pair in language_pairs if tests[pair.name].adjusted_p_value < LEVEL]
    counted = [pair.query_Q[~np.isnan(difference_N[pair.rows])] for pair in language_pairs]
    return {
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "num_queries": len(np.unique(np.concatenate(counted))),
        "num_language_pairs": len(language_pairs),
        "num_better": sum(test.difference > 0 for test in shown),
        "num_worse": sum(test.difference < 0 for test in shown),
    }


def _as_dict(test: Comparison) -> dict[str, Any]:
    return {name: value for name, value in test._asdict().items() if name != "test"}
