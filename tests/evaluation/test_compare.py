"""Two evaluations compared: differences of `eval.json`, intervals that hold what they should, nothing lost quietly."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from hf_hybrid.evaluation.compare import KEYS, check_comparable, compare, comparison_table, write_comparison
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.evaluation.per_query import EvaluationFiles
from hf_hybrid.metrics.beir_cross_lingual.significance import bootstrap_interval, compare_language_pairs, holm
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import PER_QUERY_NAME
from tests.support.toys import toy_corpus

SETTINGS = ("monolingual", "cross_lingual", "multilingual")
Row = tuple[str, str, str]  # query language, passage language, query
Folders = tuple[Path, Path]


def write_values(folder: Path, values: dict[Row, float], **evaluated: Any) -> Path:
    """An evaluation with MAP of these queries, and what it says of itself."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = [*map(list, zip(*values, strict=True)), list(values.values())]
    pyarrow.parquet.write_table(pa.table(columns, names=[*KEYS, "MAP"]), folder / PER_QUERY_NAME)
    if evaluated:
        RunFolder(folder).write_eval({"before": None, "after": None, "evaluated": evaluated})
    return folder


def rows(languages: str, num_queries: int) -> list[Row]:
    """Parallel queries in languages of one letter, in all pairs and pools."""
    return [(a, b, f"q{number}") for a in languages for b in f"{languages}*" for number in range(num_queries)]


@pytest.fixture
def small(tmp_path: Path) -> Folders:
    """A baseline and something better by 0.2 in all but German over English, where it is worse."""
    rng = np.random.default_rng(0)
    before = {row: rng.uniform(0.3, 0.7) for row in rows("de", 30)}
    after = {row: value + rng.normal(-0.2 if row[:2] == ("d", "e") else 0.2, 0.02) for row, value in before.items()}
    return write_values(tmp_path / "before", before), write_values(tmp_path / "after", after)


class TextModel:
    """Gives each text a vector by its letters and a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def encode(self, texts: list[str]) -> np.ndarray:
        seeds = [[self.seed, zlib.crc32(text.encode())] for text in texts]
        return np.stack([np.random.default_rng(seed).standard_normal(8) for seed in seeds])


def test_differences_are_those_of_eval_json(tmp_path: Path) -> None:
    corpus = toy_corpus(30, ("de", "en", "zh"), missing=(0.1, 0.3, 0.6))
    scores = []
    for seed in (0, 1):
        with EvaluationFiles(tmp_path / str(seed), corpus) as files:
            scores.append(evaluate_retrieval(TextModel(seed), corpus, details=files))
    found = compare(tmp_path / "1", tmp_path / "0", ["MAP", "nDCG@10", "PEER"])
    assert (found["only_here"], found["only_in_baseline"]) == (0, 0)
    before, after = scores
    for measure in ("MAP", "nDCG@10"):
        result = found["measures"][measure]
        for setting in SETTINGS:
            expected = after[setting][measure] - before[setting][measure]  # type: ignore[literal-required]
            assert abs(expected) > 1e-4
            assert result["settings"][setting]["difference"] == pytest.approx(expected, abs=1e-12)
            assert result["settings"][setting]["low"] < expected < result["settings"][setting]["high"]
        assert result["pairs"].keys() == after["pairs"].keys()
        for pair, test in result["pairs"].items():
            assert test["difference"] == pytest.approx(after["pairs"][pair][measure] - before["pairs"][pair][measure])
        assert [*result["pools"]] == ["de-*", "en-*", "zh-*"]
    peer = found["measures"]["PEER"]
    assert [*peer["settings"]] == ["multilingual"]
    expected = after["bias"]["PEER"] - before["bias"]["PEER"]
    assert peer["settings"]["multilingual"]["difference"] == pytest.approx(expected, abs=1e-12)
    # the guard: a mean over all rows would be another number, languages being of different size
    table = [pyarrow.parquet.read_table(tmp_path / str(seed) / PER_QUERY_NAME) for seed in (0, 1)]
    pooled = np.nanmean(table[1]["MAP"].to_numpy()) - np.nanmean(table[0]["MAP"].to_numpy())
    assert all(abs(pooled - after[setting]["MAP"] + before[setting]["MAP"]) > 1e-4 for setting in SETTINGS)  # type: ignore[literal-required]


@pytest.mark.slow
@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_intervals_hold_the_truth_as_often_as_they_say(gaps: float, tmp_path: Path) -> None:
    truth, num_trials, languages = 0.02, 40, "abcd"
    hits, old_hits = dict.fromkeys(SETTINGS, 0), 0
    for trial in range(num_trials):
        rng = np.random.default_rng(trial)
        # a query is easier for one model than for the other in whatever language it is asked
        shared, chosen = rng.normal(truth, 0.2, 60), rng.random(60 * 4 * 5) >= gaps
        kept = [row for row, keep in zip(rows(languages, 60), chosen, strict=True) if keep]
        before = dict.fromkeys(kept, 0.5)
        after = {row: 0.5 + shared[int(row[2][1:])] + rng.normal(0, 0.1) for row in kept}
        folders = [
            write_values(tmp_path / f"{trial}-{name}", values)
            for name, values in (("before", before), ("after", after))
        ]
        found = compare(folders[1], folders[0], ["MAP"])["measures"]["MAP"]["settings"]
        for setting in SETTINGS:
            hits[setting] += found[setting]["low"] < truth < found[setting]["high"]
        _, low, high = bootstrap_interval(np.array([*after.values()]) - 0.5, num_resamples=500)
        old_hits += low < truth < high
    assert all(count / num_trials >= 0.85 for count in hits.values())
    assert old_hits / num_trials < 0.6  # rows as if they were independent
    # and not by being too wide for anything: hardly wider than what 60 queries can say, 4 * 0.2 / sqrt(60)
    assert all(0.07 < result["high"] - result["low"] < 0.15 for result in found.values())


def test_pairs_and_pools_are_told_apart(small: Folders) -> None:
    before, after = small
    found = compare(after, before, ["MAP"])
    result = found["measures"]["MAP"]
    assert [*result["pairs"]] == ["d-d", "d-e", "e-d", "e-e"]
    assert [*result["pools"]] == ["d-*", "e-*"]
    counts = {
        setting: [row[name] for name in ("num_queries", "num_language_pairs", "num_better", "num_worse")]
        for setting, row in result["settings"].items()
    }
    assert counts == {"monolingual": [30, 2, 2, 0], "cross_lingual": [30, 2, 1, 1], "multilingual": [30, 2, 2, 0]}
    lines = comparison_table(found).splitlines()
    assert len(lines) == 5
    assert lines[1].endswith("2, 0, 0 of 2 language pairs")
    assert lines[2].endswith("1, 1, 0 of 2 language pairs")
    assert lines[3].endswith("2, 0, 0 of 2 pools of all languages")
    assert f"{result['settings']['cross_lingual']['low']:+.4f}" in lines[2]
    assert "randomization" in lines[4]


def test_pairs_and_pools_are_corrected_together(small: Folders) -> None:
    before, after = small
    result = compare(after, before, ["MAP"])["measures"]["MAP"]
    tests = {**result["pairs"], **result["pools"]}
    expected = holm(np.array([test["p_value"] for test in tests.values()]))
    assert [test["adjusted_p_value"] for test in tests.values()] == expected.tolist()
    assert len(expected) == 6
    tables = [pyarrow.parquet.read_table(folder / PER_QUERY_NAME).to_pylist() for folder in (after, before)]
    first, second = (
        {name: np.array([row["MAP"] for row in table if f"{row[KEYS[0]]}-{row[KEYS[1]]}" == name]) for name in tests}
        for table in tables
    )
    assert {name: test.p_value for name, test in compare_language_pairs(first, second).items()} == {
        name: pytest.approx(test["p_value"], abs=1e-3) for name, test in tests.items()
    }


def test_what_only_one_has_is_counted_and_said(small: Folders, tmp_path: Path) -> None:
    before, after = small
    values = {
        tuple(row.values())[:3]: row["MAP"] for row in pyarrow.parquet.read_table(after / PER_QUERY_NAME).to_pylist()
    }
    more = {row: value for row, value in values.items() if row != ("d", "e", "q7")} | {
        ("e", "f", "q0"): 0.5,
        ("f", "f", "q0"): 0.5,
    }
    found = compare(write_values(tmp_path / "more", more), before, ["MAP"])
    assert (found["in_both"], found["only_here"], found["only_in_baseline"]) == (179, 2, 1)
    assert found["measures"]["MAP"]["pairs"]["d-e"]["num_queries"] == 29
    assert "e-f" not in found["measures"]["MAP"]["pairs"]
    assert "2 of this evaluation and 1 of the baseline (rows; 179 are in both)" in comparison_table(found)
    whole = compare(after, before, ["MAP"])
    assert (whole["in_both"], whole["only_here"], whole["only_in_baseline"]) == (180, 0, 0)
    assert "Left out" not in comparison_table(whole)


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    before = write_values(tmp_path / "before", {("d", "d", "q1"): 0.5})
    after = write_values(tmp_path / "after", {("d", "d", "q2"): 0.5})
    with pytest.raises(ValueError, match="no query in common"):
        compare(after, before, ["MAP"])


def test_a_query_must_be_there_once(tmp_path: Path) -> None:
    before = write_values(tmp_path / "before", {("d", "d", "q1"): 0.5})
    table = pyarrow.parquet.read_table(before / PER_QUERY_NAME)
    (tmp_path / "after").mkdir()
    pyarrow.parquet.write_table(pa.concat_tables([table, table]), tmp_path / "after" / PER_QUERY_NAME)
    with pytest.raises(ValueError, match=r"after.*1 rows have"):
        compare(tmp_path / "after", before, ["MAP"])


def test_a_value_on_one_side_only_is_refused(small: Folders) -> None:
    before, after = small
    table = pyarrow.parquet.read_table(after / PER_QUERY_NAME)
    values = table["MAP"].to_pylist()
    values[0] = None
    pyarrow.parquet.write_table(table.set_column(3, "MAP", pa.array(values)), after / PER_QUERY_NAME)
    with pytest.raises(ValueError, match="MAP, d-d: 1 queries count for one system only"):
        compare(after, before, ["MAP"])
    for folder in small:
        pyarrow.parquet.write_table(table.set_column(3, "MAP", pa.nulls(180, pa.float64())), folder / PER_QUERY_NAME)
    with pytest.raises(ValueError, match="'MAP' has no value"):
        compare(after, before, ["MAP"])


def test_a_measure_that_one_lacks_is_named(small: Folders) -> None:
    before, after = small
    for refuse in (
        lambda: compare(after, before, ["nDCG@10"]),
        lambda: check_comparable(before, "new", "a", None, ["nDCG@10"]),
    ):
        with pytest.raises(ValueError, match=r"'nDCG@10' is not in .*, which has MAP"):
            refuse()


def check_first(baseline: Path, folder: Path, **evaluated: Any) -> None:
    """As `recipes/eval.py` does before it evaluates."""
    check_comparable(baseline, folder, evaluated.get("corpus_fingerprint", "a"), evaluated.get("max_queries"))


def compare_at_once(baseline: Path, folder: Path, **evaluated: Any) -> None:
    if baseline != folder:
        write_values(folder, {("d", "d", "q1"): 0.6, ("d", "d", "q2"): 0.5}, **evaluated)
    compare(folder, baseline, ["MAP"])


@pytest.mark.parametrize("check", [check_first, compare_at_once])
def test_what_is_not_comparable_is_refused(check: Callable[..., None], tmp_path: Path) -> None:
    values = {("d", "d", "q1"): 0.5, ("d", "d", "q2"): 0.5}
    baseline = write_values(tmp_path / "before", values, corpus_fingerprint="a", max_queries=None)
    check(baseline, tmp_path / "good", corpus_fingerprint="a", max_queries=None)
    with pytest.raises(ValueError, match=r"corpus_fingerprint='a', .*other with 'b'.* different corpora"):
        check(baseline, tmp_path / "other", corpus_fingerprint="b", max_queries=None)
    with pytest.raises(ValueError, match=r"max_queries=None, .*fewer with 100\. .*--max_queries"):
        check(baseline, tmp_path / "fewer", corpus_fingerprint="a", max_queries=100)
    with pytest.raises(ValueError, match="same folder"):
        check(baseline, baseline, corpus_fingerprint="a", max_queries=None)
    with pytest.raises(ValueError, match=r"per_query.parquet is not there; .*nowhere must be the output"):
        check(tmp_path / "nowhere", tmp_path / "good", corpus_fingerprint="a", max_queries=None)


@pytest.mark.parametrize("check", [check_first, compare_at_once])
def test_what_is_not_known_is_not_held_against_it(check: Callable[..., None], tmp_path: Path) -> None:
    values = {("d", "d", "q1"): 0.5, ("d", "d", "q2"): 0.5}
    unknown: list[dict[str, Any]] = [{}, {"corpus_fingerprint": None}, {"model": "x"}]
    for number, evaluated in enumerate(unknown):
        baseline = write_values(tmp_path / f"before-{number}", values, **evaluated)
        assert (baseline / "eval.json").exists() == bool(evaluated)
        check(baseline, tmp_path / f"after-{number}", corpus_fingerprint="b", max_queries=7)


def test_the_same_folder_by_another_name_is_refused(small: Folders, tmp_path: Path) -> None:
    before, _ = small
    (tmp_path / "link").symlink_to(before)
    for other in (tmp_path / "link", before / ".." / "before"):
        with pytest.raises(ValueError, match="same folder"):
            check_comparable(before, other, "a", None)


def test_the_file_is_whole_or_not_there(small: Folders, tmp_path: Path) -> None:
    before, after = small
    found = compare(after, before, ["MAP"])
    path = tmp_path / "new" / "comparison.json"
    write_comparison(path, found, str(before))
    assert json.loads(path.read_text(encoding="utf-8")) == {"baseline": str(before), **found}
    with pytest.raises(ValueError, match="JSON"):
        write_comparison(path, {**found, "in_both": float("nan")}, str(before))
    assert json.loads(path.read_text(encoding="utf-8"))["in_both"] == 180
    assert [*path.parent.iterdir()] == [path]


def test_a_result_does_not_depend_on_the_order_of_rows(small: Folders, tmp_path: Path) -> None:
    before, after = small
    table = pyarrow.parquet.read_table(after / PER_QUERY_NAME)
    (tmp_path / "shuffled").mkdir()
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    pyarrow.parquet.write_table(shuffled, tmp_path / "shuffled" / PER_QUERY_NAME)
    assert compare(tmp_path / "shuffled", before, ["MAP"]) == compare(after, before, ["MAP"])


@pytest.mark.slow
def test_a_large_effect_is_seen_among_forty_languages(tmp_path: Path) -> None:
    names = [chr(ord("A") + number) for number in range(40)]
    keys = rows("".join(names), 100)
    rng = np.random.default_rng(0)
    before = rng.uniform(0.3, 0.7, len(keys))
    good = np.array([row[0] == "A" for row in keys])
    after = before + rng.normal(np.where(good, 0.1, 0), 0.1)
    folders = [
        write_values(tmp_path / name, dict(zip(keys, values.tolist(), strict=True)))
        for name, values in (("before", before), ("after", after))
    ]
    start = time.perf_counter()
    result = compare(folders[1], folders[0], ["MAP"])["measures"]["MAP"]
    assert time.perf_counter() - start < 20
    assert (len(result["pairs"]), len(result["pools"]), result["test"]) == (1_600, 40, "t")
    tests = {**result["pairs"], **result["pools"]}
    assert all(test["p_value"] > 0 for test in tests.values())
    shown = {name for name, test in tests.items() if test["adjusted_p_value"] < 0.05}
    assert {name for name in tests if name.startswith("A-")} <= shown
    assert len(shown) <= 41 + 2
