"""The report of a study as text: its figures against the study's files, its bytes, and what others have named."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import altair as alt
import numpy as np
import pytest
from jsonschema import ValidationError

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.scaling.grid.arms import ARMS
from hf_hybrid.scaling.report.charts import _STYLES, NAMES, picture
from hf_hybrid.scaling.report.figures import read_report
from hf_hybrid.scaling.report.page import figures_in, figures_of, write_report
from hf_hybrid.scaling.report.sections import answer, subtitle
from tests.support.study_folders import collect, write_study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PROFILE = ROOT / "benchmarks" / "step_profile.json"
HOSTILE = (
    "Error: </script><script>window.hacked = 1</script> <img src=x onerror=alert(1)> \u202e|`x` of token hf_"
    + "a" * 34
)
NAMED = "</script><script>alert(1)</script><!--&amp;'"
KINDS = {"step_time_s", "trade_multilingual", "curve", "pairs_mono", "bias_rank_distance", "step_profile"}
SOME_ARMS = ("zero_shot", "bm25", "english", "mono", "cross", "hybrid", "mlm_hybrid")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a trial that failed, one that is missing, and targets that were not reached."""
    path = tmp_path_factory.mktemp("studies") / "study"
    folder = write_study(path, (1, 2, 4), (1, 2), SOME_ARMS, failed={"cross-L4-seed2": HOSTILE})
    shutil.rmtree(path / "trials" / "mono-L4-seed2")
    collect(folder)
    write_report(path, PROFILE)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one trial, with names in the profile that would do harm, and a report that the recipe wrote."""
    folder = tmp_path_factory.mktemp("small")
    path, profile = folder / "study", folder / "profile.json"
    write_study(path, (2,), (1,), ("mono",))
    profile.write_text(json.dumps(hostile_profile()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_recipe(monkeypatch, str(path), "--step_profile", str(profile))
    return path


def hostile_profile() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PROFILE.read_text(encoding="utf-8"))
    found["rows"][0]["attention"] = f"{NAMED}\u2028\u202e"
    return found


def run_recipe(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", *words])
    runpy.run_path(str(ROOT / "recipes" / "report.py"), run_name="__main__")


def read(study: Path) -> str:
    return (study / "report.html").read_bytes().decode()


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return read(study)


def specs_in(page: str) -> dict[str, Any]:
    data = page[page.index('id="figures">') + len('id="figures">') :]
    return {name: figure["spec"] for name, figure in json.loads(data[: data.index("</script>")]).items()}


def pictures_in(page: str) -> list[str]:
    return [unquote(found) for found in re.findall(r'<img src="data:image/svg\+xml,([^"]*)"', page)]


# The same files, the same bytes


def test_the_same_files_give_the_same_bytes_wherever_they_lie(small: Path, tmp_path: Path) -> None:
    assert set(figures_in(read(small))) >= KINDS  # every kind of plot is there
    copy = Path(shutil.copytree(small, tmp_path / "another name"))
    for name in ("report.html", "report.md"):
        (copy / name).unlink()
    code = "import sys; from hf_hybrid.scaling.report.page import write_report; write_report(sys.argv[1])"
    other = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(copy)], env=other, check=True, cwd=ROOT)
    for name in ("report.html", "report.md"):
        assert (copy / name).read_bytes() == (small / name).read_bytes()


def test_a_picture_is_the_same_however_many_were_made_before(page: str) -> None:
    spec, rows = specs_in(page)["step_time_s"], figures_in(page)["step_time_s"]
    first = picture(spec, rows)
    assert "url(#part" in first  # it clips, by names that are counted
    assert picture(spec, rows) == first
    url = next(found for found in pictures_in(page) if ">step time in s<" in found)
    assert url == first.replace('"', "'")


def test_the_page_holds_the_figures_that_the_files_give_and_an_altered_one_is_seen(study: Path, page: str) -> None:
    held, made = figures_in(page), figures_of(study)
    assert held == made
    assert len(held) > 15
    first = held["step_time_s"][0]["mean"]
    altered = page.replace(f",{first},", ",123.0,", 1)
    assert altered != page
    assert figures_in(altered) != made
    with pytest.raises(ValueError, match="no page of a study"):
        figures_in("<html></html>")


# The figures against the files


def test_means_are_those_of_the_trials_that_finished(study: Path, page: str) -> None:
    figures, table = figures_in(page), json.loads((study / "table.json").read_text(encoding="utf-8"))
    for name, key in {"step_time_s": "step_time_s", "peak_host_memory_gib": "peak_host_memory_gib"}.items():
        for row in figures[name]:
            values = [
                trial[key]
                for trial in table["rows"]
                if (trial["arm"], trial["num_languages"]) == (row["arm"], row["languages"]) and trial[key] is not None
            ]
            assert len(values) == row["seeds"] > 0
            assert row["mean"] == pytest.approx(np.mean(values), rel=1e-4)
            assert row["failed"] == 2 - len(values)
            assert (row["low"] is None) == (len(values) == 1)
    places = {(row["arm"], row["languages"]): row for row in figures["step_time_s"]}
    assert places["cross", 4]["failed"] == places["mono", 4]["failed"] == 1
    assert ("bm25", None) not in places


def test_a_heat_map_has_the_pairs_of_its_trial(study: Path, page: str) -> None:
    rows = figures_in(page)["pairs_hybrid"]
    scores = RunFolder(study / "trials" / "hybrid-L4-seed1").read_eval()["after"]
    assert scores is not None
    assert {f"{row['queries']}-{row['passages']}": row["value"] for row in rows} == {
        pair: pytest.approx(values["MAP"], rel=1e-4) for pair, values in scores["pairs"].items()
    }


def test_the_curve_of_two_stages_is_one_after_the_other(study: Path, page: str) -> None:
    rows = [row for row in figures_in(page)["curve"] if row["arm"] == "mlm_hybrid" and row["seed"] == 1]
    assert [row["stage"] for row in rows] == ["mlm", "mlm", "train", "train"]
    assert [row["x"] for row in rows] == sorted(row["x"] for row in rows)
    table = json.loads((study / "table.json").read_text(encoding="utf-8"))["rows"]
    trial = next(row for row in table if row["id"] == "mlm_hybrid-L4-seed1")
    assert rows[-1]["x"] == pytest.approx(trial["train_time_s"], rel=1e-4)


def test_a_target_that_was_not_reached_is_said_and_not_drawn(study: Path, page: str) -> None:
    rows = {(row["arm"], row["languages"]): row for row in figures_in(page)["target_train_time_s"]}
    assert rows["mono", 1]["mean"] is None
    assert rows["mono", 1]["not_reached"] == 2
    assert "not reached" in page
    assert "not reached (2 of 2 runs)" in (study / "report.md").read_text(encoding="utf-8")


def test_where_a_step_goes_is_of_the_profile(page: str) -> None:
    rows, runs = figures_in(page)["step_profile"], json.loads(PROFILE.read_text(encoding="utf-8"))["rows"]
    assert {row["run"] for row in rows} == {f"{run['batch_size']} pairs|{run['attention']}" for run in runs}
    wanted = [run["seconds"]["backward"] for run in runs]
    assert [row["seconds"] for row in rows if row["part"] == "backward"] == pytest.approx(wanted, rel=1e-4)


# What is told


def test_the_answer_is_three_sentences_of_the_fits_with_intervals(study: Path) -> None:
    fits = json.loads((study / "fits.json").read_text(encoding="utf-8"))
    text = (study / "report.md").read_text(encoding="utf-8")
    sentences = re.findall(r"^\d\. (.*)$", text, re.MULTILINE)
    assert len(sentences) == 3
    assert all("95% CI" in sentence for sentence in sentences)
    assert fits["growth"]["train_time_s"]["hybrid"]["sentence"].removesuffix(".") in sentences[0]
    at_largest = fits["ratios"]["target/train_time_s"]["hybrid/mlm_hybrid"]["by_languages"]["4"]
    assert f"at L = 4, {at_largest['sentence']}".removesuffix(".") in sentences[1].replace("&#95;", "_")
    assert fits["differences"]["multilingual/MAP"]["hybrid/mlm_hybrid"][-1]["sentence"] in sentences[2]


def test_the_table_has_a_row_for_each_arm_and_number_of_languages(study: Path) -> None:
    lines = (study / "report.md").read_text(encoding="utf-8").splitlines()
    trials = [[trial.strip() for trial in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert trials[0][:2] == ["arm", "L"]
    assert {len(row) for row in trials} == {len(trials[0])}
    wanted = [("hybrid", "2"), ("hybrid", "4"), *(("mono", count) for count in "124"), ("cross", "2"), ("cross", "4")]
    wanted += [("MLM + hybrid", "2"), ("MLM + hybrid", "4"), ("English only", "1"), ("base model", "–"), ("BM25", "–")]
    assert [(row[0], row[1]) for row in trials[1:]] == wanted


def test_what_failed_and_what_is_missing_is_told(page: str) -> None:
    assert "cross-L4-seed2 failed: Error:" in page
    assert "Not run to their end: mono-L4-seed2." in page
    assert "cross-L1 is not in the grid: cross needs at least 2 languages." in page


def test_names_of_languages_are_their_own(page: str) -> None:
    assert re.search(r'<td class="text" dir="auto">العربية</td>', page)


# What others have named, and what a page may do


def test_what_others_have_named_is_text(page: str) -> None:
    scripts = re.findall(r"<script[^>]*>", page)
    assert scripts == ['<script type="application/json" id="figures">', "<script>", "<script>"]
    assert "&lt;/script&gt;&lt;script&gt;window.hacked" in page
    assert "<img src=x" not in page
    assert "hf_aaaa" not in page


def test_names_in_data_do_not_end_the_script(small: Path) -> None:
    text = read(small)
    assert len(re.findall(r"<script[^>]*>", text)) == len(re.findall("</script>", text)) == 3
    assert figures_in(text)["step_profile"][0]["run"] == f"32 pairs|{NAMED}"
    data = text[text.index('id="figures">') : text.index("</script>")]
    assert not {"<", "&", "\u2028"} & set(data.partition(">")[2])


def test_the_page_refers_to_nothing_outside(page: str) -> None:
    assert "default-src 'none'" in page
    places = re.findall(r"(?:src|href)=[\"']([^\"']{0,30})", page.partition("<script")[0])
    assert len(places) > 20
    assert {place.partition(":")[0] for place in places if not place.startswith("#")} == {"data"}


def test_the_page_is_small_and_has_the_program_once(page: str) -> None:
    assert len(page) < 1.6e6
    assert page.count("window.vegaEmbed=") == 1
    pictures = pictures_in(page)
    assert len(pictures) == len(figures_in(page))
    assert all(found.startswith("<svg") and found.endswith("</svg>") for found in pictures)
    assert max(map(len, pictures)) < 40_000


# Charts


def test_every_arm_has_a_name_and_looks_of_its_own() -> None:
    assert set(NAMES) == set(ARMS) == set(_STYLES)
    okabe_ito = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert {style.color for style in _STYLES.values()} <= okabe_ito | {"#767676"}
    without_color = [(style.shape, tuple(style.dash)) for style in _STYLES.values()]
    assert len(set(without_color)) == len(without_color)  # nor do those who see no colors mix them up


def test_every_kind_of_spec_is_valid_for_vega_lite(page: str) -> None:
    specs = specs_in(page)
    for name in KINDS:
        alt.Chart.from_dict(specs[name], validate=True)
    with pytest.raises(ValidationError):
        alt.Chart.from_dict({**specs["pairs_mono"], "mark": "no such mark"}, validate=True)


# Little to tell, and nothing


def test_a_study_of_one_trial_has_a_report(small: Path, page: str) -> None:
    text, table = read(small), (small / "report.md").read_text(encoding="utf-8")
    assert "Nothing can be said of hybrid batches: no such trial has finished at two numbers of" in table
    assert "Nothing can be said of hybrid batches" in text
    assert "&#96;" not in table
    assert "One seed: there are no intervals" in text
    assert "One seed: there are no intervals" not in page
    assert [row["low"] for row in figures_in(text)["step_time_s"]] == [None]
    assert table.count("\n| mono | 2 |") == 1


def test_hybrid_at_one_number_of_languages_is_compared_with_mono(study: Path, tmp_path: Path) -> None:
    write_study(tmp_path, (1, 2), (1, 2, 3), ("zero_shot", "mono", "hybrid"))
    report = read_report(tmp_path)
    (told,) = answer(report)
    assert told.startswith("Against monolingual batches (mono), at L = 2, training time of hybrid ")
    assert "; multilingual MAP at L = 2 is higher for hybrid than for mono: by " in told
    assert "; rank distance at L = 2 is lower for hybrid than for mono: by " in told
    assert subtitle(report).endswith("; 3 arms; 3 seeds; budget: the same steps for all trials; CPU.")
    assert "; masked language modeling for as many tokens" in subtitle(read_report(study))


def test_the_recipe_takes_a_profile_into_the_study(small: Path) -> None:
    assert json.loads((small / "step_profile.json").read_text(encoding="utf-8")) == hostile_profile()


@pytest.mark.parametrize("words", [[], ["no study"], ["damaged"]])
def test_the_recipe_says_what_is_wrong(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no study").mkdir()
    write_study(tmp_path / "damaged", (1,), (1,), ("bm25",))
    (tmp_path / "damaged" / "table.json").write_text("{", encoding="utf-8")
    with pytest.raises(SystemExit) as found:
        run_recipe(monkeypatch, *(str(tmp_path / word) for word in words))
    told = f"{found.value.code} {capsys.readouterr().err}"
    wanted = {"no study": "has no study.json: a report is made of", "damaged": "table.json, line 1: not JSON"}
    assert wanted.get(words[0] if words else "", "name the folder of a study") in told
    assert not list(tmp_path.rglob("report.*"))
