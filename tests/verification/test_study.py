"""`recipes/verify.py STUDY`: a study and its copy pass, and whatever is altered in a copy is found where it stands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from hf_hybrid.commands import console
from hf_hybrid.hub.payload import build_study_payload
from hf_hybrid.records import manifest
from hf_hybrid.records.archive import TRIALS_NAME, read_archive, write_archive
from hf_hybrid.records.manifest import write_manifest
from hf_hybrid.scaling.grid.folder import StudyFolder
from hf_hybrid.scaling.grid.sweep import Sweep
from hf_hybrid.scaling.report import page as study_report
from hf_hybrid.scaling.report.copy import COPY_NAMES, copy_study, open_study
from hf_hybrid.scaling.report.figures import Report
from hf_hybrid.scaling.report.page import markdown_text, report_text
from hf_hybrid.scaling.report.sections import Section
from hf_hybrid.training import run as runs
from hf_hybrid.verification import study as study_checks
from hf_hybrid.verification.findings import OK, UNKNOWN, WRONG, Finding
from hf_hybrid.verification.study import NO_VALUES, STUDY_CHECKS, check_study_folder
from hf_hybrid.verification.verify import verify
from tests.commands.test_scale import asked, run_stage_here
from tests.support.recipe_runs import write_jsonl_corpus
from tests.support.study_folders import collect

pytestmark = pytest.mark.slow

FAILED = "mlm-L1-seed1"  # and mlm-L2-seed1 was not begun
PROFILE = Path(__file__).parents[2] / "benchmarks" / "step_profile.json"
STUDIES = sorted(path.parent for path in PROFILE.parent.glob("studies/*/study.json"))
OF_THE_REPORT = ("figures", "page")  # which take longer than all others


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small one that was run, but for two trials, with its report."""
    place = tmp_path_factory.mktemp("verify-study")
    write_jsonl_corpus(place / "corpus", missing=0.1)
    config = asked(place, arms="zero_shot,bm25,mono,mlm,mlm_hybrid")
    folder, threads = StudyFolder(place / "study"), torch.get_num_threads()
    made: dict[Any, Any] = {}
    draw, of_sections = study_report.picture, study_report.sections

    def draw_once(spec: Any, rows: Any) -> str:
        key = json.dumps([spec, rows])
        return made.get(key) or made.setdefault(key, draw(spec, rows))

    def make_once(report: Report) -> list[Section]:
        files = [path for path in report.folder.path.rglob("*.json*") if path.name != "manifest.json"]
        key = b"".join(path.read_bytes() for path in sorted(files))
        return made.get(key) or made.setdefault(key, of_sections(report))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sweep, "_run_stage", run_stage_here)
        patch.setattr(runs, "_write_card_and_bundle", lambda *_: None)
        patch.setattr(study_report, "picture", draw_once)  # as all of a report, it takes longer than all checks
        patch.setattr(study_report, "sections", make_once)
        patch.setattr(manifest, "sync", lambda path: None)
        with pytest.raises(SystemExit) as ended:
            console.main(["scale", "--config", str(config), "--only", "zero_shot*,bm25,mono*,mlm_hybrid*"])
        assert ended.value.code == 0
        failed = next(trial for trial in folder.read("study.json")["trials"] if trial["id"] == FAILED)
        folder.write_failure(failed, {"stage": "mlm", "returncode": 1, "last_line": "OSError: /data/me/no such file"})
        collect(folder)
        study_report.write_report(folder.path, PROFILE)
        yield folder.path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def copy(study: Path) -> Path:
    return copy_study(study, study.parent / "copies" / "small")


def wrong(path: Path, *names: str) -> list[Finding]:
    """What some checks find, or all."""
    found = [one for name in names for one in verify_only(path, name)] if names else verify(path)
    return [finding for finding in found if finding.status == WRONG]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Untouched


def test_a_study_and_its_copy_pass_and_most_of_them_is_known(study: Path, copy: Path) -> None:
    unknown = {}
    for path in (study, copy):
        found = verify(path)
        assert [finding for finding in found if finding.status == WRONG] == []
        assert {finding.check for finding in found if finding.status == OK} >= {*STUDY_CHECKS} - {"manifest"}
        unknown[path] = [finding.place for finding in found if finding.status == UNKNOWN]
        assert sum(finding.reason.startswith(NO_VALUES) for finding in found) == (path == copy), "once"
        assert len({finding.file for finding in found if finding.status == OK}) < 30, "a line a file, not a trial"
    both = {"study.json: tokens", "study.json: corpus"}
    assert sorted(unknown[study]) == sorted(both | {"manifest.json", "trials/*/eval.json: after: bias: MRC@10"})
    assert sorted(unknown[copy]) == sorted(both | {"trials/*/eval.json: after"})


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_studies_that_were_run_pass(path: Path) -> None:
    found = verify(path)
    assert [finding for finding in found if finding.status == WRONG] == []
    assert {finding.check for finding in found if finding.status == OK} >= {*STUDY_CHECKS} - {"page"}


def test_every_number_of_table_and_fits_is_worked_out_again(study: Path, copy: Path) -> None:
    def leaves(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 1 if inner is None else sum(map(leaves, inner))

    for check in ("table", "fits"):
        right = [finding for finding in verify_only(copy, check) if finding.status == OK]
        content = json.loads((study / f"{check}.json").read_text())
        assert len(right) >= leaves({**content, "format": 0}) - 1 > 300


def test_the_values_of_queries_in_the_study_are_compared(study: Path) -> None:
    whole = {finding.place for finding in verify_only(study, "scores") if finding.status == OK}
    assert {"trials/*/eval.json: after: multilingual: MAP", "trials/*/eval.json: after: bias: rank_distance"} <= whole


def verify_only(path: Path, name: str) -> list[Finding]:
    return list(check_study_folder(path, [name]))


# The copy


def test_the_copy_gives_the_report_of_the_study_and_has_nothing_else(study: Path, copy: Path) -> None:
    with open_study(copy) as opened:
        assert (
            report_text(opened).encode() == (copy / "report.html").read_bytes() == (study / "report.html").read_bytes()
        )
        assert (
            markdown_text(opened).encode() == (copy / "report.md").read_bytes() == (study / "report.md").read_bytes()
        )
    files = contents(copy)
    assert {*files} == {*COPY_NAMES, "manifest.json", "step_profile.json"}
    records = read_archive(copy / TRIALS_NAME)
    assert {f"trials/{FAILED}/failure.json", "trials/mlm_hybrid-L2-seed1/mlm/curve.jsonl"} <= {*records}
    assert "trials/bm25/bm25/eval.json" in records
    for name, content in {**files, **{name: text.encode() for name, text in records.items()}}.items():
        assert str(study.parent).encode() not in content, name
        assert b"/data/me" not in content, name
    assert sum(map(len, files.values())) < 1.7e6


def test_a_copy_is_published_whole(copy: Path, tmp_path: Path) -> None:
    files = build_study_payload(copy, "user/study")
    assert {*files} == {*contents(copy), "README.md"}
    for name, content in {**files, ".gitattributes": b"*.png binary"}.items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    assert wrong(tmp_path, "manifest") == []


def test_only_an_earlier_copy_gives_way(study: Path, copy: Path, tmp_path: Path) -> None:
    target, before = Path(shutil.copytree(copy, tmp_path / "copy")), contents(copy)
    (target / "report.md").unlink()
    (target / "trials").mkdir()
    assert contents(copy_study(study, target)) == before
    assert not (target / "trials").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    refused = {tmp_path / "mine": "holds other files", study / "copy": "lie in each other", study: "lie in each other"}
    for folder, message in refused.items():
        with pytest.raises(ValueError, match=message):
            copy_study(study, folder)
    with pytest.raises(ValueError, match=r"has no report.html: a copy is of a study whose report is written"):
        copy_study(unreported(study, tmp_path), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "mine", "unreported"]


def unreported(study: Path, root: Path) -> Path:
    folder = root / "unreported"
    folder.mkdir()
    for name in ("study.json", "table.json", "fits.json"):
        shutil.copy(study / name, folder)
    return folder


def test_a_study_without_a_report_is_not_wrong_and_a_copy_is(study: Path, copy: Path, tmp_path: Path) -> None:
    folder = unreported(study, tmp_path)
    found = [one for name in OF_THE_REPORT for one in verify_only(folder, name)]
    assert {finding.status for finding in found} == {UNKNOWN}
    target = Path(shutil.copytree(copy, tmp_path / "copy"))
    (target / "report.md").unlink()
    write_manifest(target)
    assert {(one.check, one.place) for one in wrong(target, "manifest", "page")} >= {("page", "report.md")}


# Recipes


def test_the_recipes_copy_and_verify(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy"
    console.main(["report", str(study), "--copy_to", str(target)])
    assert re.search(r"copy: 1\.\d MiB in \d+ files", capsys.readouterr().out)
    number = target / "report.md"
    number.write_text(number.read_text(encoding="utf-8").replace("0.", "1.", 1), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        console.main(["verify", str(target)])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "wrong: report.md: was altered" in told
    assert re.search(r"wrong: report.md, line \d+: expected .*\(page\)", told)


def test_a_study_is_not_made_again_by_the_recipe_of_a_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        console.main(["verify", str(copy), "--rerun"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "python recipes/scale.py --study_dir NEW --languages 1,2 --order de,en,ar --arms zero_shot,bm25" in told


# Other releases


def test_other_releases_leave_the_page_unknown_but_not_its_words(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_checks, "find_installed_version", lambda name: "0.1")
    target = Path(shutil.copytree(copy, tmp_path / "copy"))
    altered(target / "report.html", "%3Csvg ", "%3Csvg  ")  # as another release might draw
    [page, text] = verify_only(target, "page")
    assert (page.status, text.status) == (UNKNOWN, OK)
    assert "it was drawn by altair" in page.reason
    altered(target / "report.html", "Evaluated on", "Evaluated off")
    assert verify_only(target, "page")[0].status == WRONG
    monkeypatch.setattr(study_checks, "__version__", "99.0")
    assert "it was made by hf-hybrid" in verify_only(target, "page")[0].reason


def test_without_the_libraries_the_text_is_still_checked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: Path) -> Any:
        raise ModuleNotFoundError("No module named 'altair'")

    for name in ("report_text", "figures_of"):
        monkeypatch.setattr(study_checks, name, missing)
    found = {(one.check, one.place): one for name in OF_THE_REPORT for one in verify_only(copy, name)}
    for check in OF_THE_REPORT:
        one = found[check, "report.html"]
        assert (one.status, 'pip install ".[report]"' in one.reason) == (UNKNOWN, True)
    assert found["page", "report.md"].status == OK


# Altered


class Forgery(NamedTuple):
    """An alteration of a copy, whose manifest is rebuilt.

    Args:
        what (`str`): In words.
        do (`Callable`): Does it.
        place (`str`): Pattern of a place that is found.
        check (`str`, *optional*): By this check; any by default but for those of the report.
    """

    what: str
    do: Callable[[Path], object]
    place: str
    check: str | None = None


def altered(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text, old
    path.write_bytes(text.replace(old, new, 1).encode())


def value(name: str, *keys: Any, to: Any) -> Callable[[Path], None]:
    """Sets a value of a file of JSON, or of a line of it; a function is given the old one."""

    def do(folder: Path) -> None:
        path = folder / name
        lines = [json.loads(line) for line in path.read_text().splitlines()] if name.endswith("l") else None
        content = json.loads(path.read_text()) if lines is None else lines
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to(inner[keys[-1]]) if callable(to) else to
        path.write_text(json.dumps(content) if lines is None else "".join(json.dumps(line) + "\n" for line in lines))

    return do


def more(found: float) -> float:
    return found * 1.001


def in_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: altered(folder / name, old, new)


def removed(folder: Path) -> None:
    shutil.rmtree(folder / TRIAL)


def swapped(folder: Path) -> None:
    first, second = (folder / "trials" / f"mono-L{count}-seed1" for count in (1, 2))
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


def first_sentence(folder: Path) -> None:
    path = folder / "report.html"
    text = path.read_bytes().decode()
    found = re.search(r"<td>(0\.\d+)", text)
    assert found is not None
    path.write_bytes(text.replace(found[0], f"<td>{float(found[1]) + 0.1:.3f}", 1).encode())


def figure_data(folder: Path) -> None:
    path = folder / "report.html"
    text = path.read_bytes().decode()
    start = text.index('id="figures">')
    found = re.compile(r"\d\.\d{3,}").search(text, start)
    assert found is not None
    path.write_bytes((text[: found.start()] + "1.25" + text[found.end() :]).encode())


def added(folder: Path) -> None:
    (folder / TRIAL / "notes.txt").write_text("mine")


def other_trial(folder: Path) -> None:
    shutil.copytree(folder / TRIAL, folder / "trials" / "mono-L9-seed1")


TRIAL = "trials/mono-L2-seed1"
RUN, EVAL, TOTALS = (f"{TRIAL}/{name}.json" for name in ("run", "eval", "resources"))
MLM = "trials/mlm_hybrid-L2-seed1/mlm"
IN_TABLE = r"table\.json: mono-L2-seed1: "
FORGERIES = [
    Forgery(
        "a time of the table", value("table.json", "rows", 3, "train_time_s", to=more), rf"{IN_TABLE}train_time_s"
    ),
    Forgery("a score of the table", value("table.json", "rows", 3, "quality", "multilingual/MAP", to=more), IN_TABLE),
    Forgery("a count of the table", value("table.json", "counts", "finished", to=9), "table.json: counts"),
    Forgery("a slope", value("fits.json", "growth", "step_time_s", "mono", "points", 0, "mean", to=more), "fits.json"),
    Forgery(
        "a sentence of the fits",
        value("fits.json", "growth", "tokens", "mono", "sentence", to=lambda text: f"{text[:-1]} indeed."),
        "fits.json: growth: tokens: mono: sentence",
    ),
    Forgery("a number of the page", first_sentence, r"report\.html, line \d+", "page"),
    Forgery("data of a figure", figure_data, r"report\.html: \w+\[\d+\]: ", "figures"),
    Forgery("a picture", in_text("report.html", "%3Csvg ", "%3Csvg  "), r"report\.html, line \d+", "page"),
    Forgery("a word of the summary", in_text("report.md", "budget", "buget"), r"report\.md, line \d+", "page"),
    Forgery(
        "a score of a setting", value(EVAL, "after", "monolingual", "MAP", to=more), f"{EVAL}: after: monolingual"
    ),
    Forgery(
        "a multilingual score", value(EVAL, "after", "multilingual", "MAP", to=more), f"{TRIAL}/curve.jsonl, line 2"
    ),
    Forgery("a score of a pair", value(EVAL, "after", "pairs", "de-en", "MAP", to=more), f"{EVAL}: after: cross_l"),
    Forgery("a bias", value(EVAL, "after", "bias", "rank_distance", to=more), f"{TRIAL}/curve.jsonl, line 2"),
    Forgery("what was evaluated", value(EVAL, "evaluated", "corpus_fingerprint", to="0" * 64), f"{EVAL}: evaluated"),
    Forgery("fewer queries", value(EVAL, "evaluated", "max_queries", to=2), f"{EVAL}: evaluated: max_queries"),
    Forgery(
        "a score of an untrained model",
        value("trials/zero_shot-seed1/eval.json", "after", "multilingual", "MAP", to=more),
        r"table\.json: zero_shot-seed1: quality: multilingual/MAP",
    ),
    Forgery("a total", value(TOTALS, "tokens", to=lambda found: found + 1), f"{TOTALS}: tokens"),
    Forgery("the set-up", value(TOTALS, "setup_time_s", to=more), f"{IN_TABLE}setup_time_s"),
    Forgery("a peak", value(TOTALS, "peak_host_memory_gib", 0, to=more), f"{IN_TABLE}peak_host_memory_gib"),
    Forgery("a line of the log", value(f"{TRIAL}/resources.jsonl", 1, "time_s", to=more), f"{TOTALS}: train_time_s"),
    Forgery(
        "a point of the curve", value(f"{TRIAL}/curve.jsonl", 0, "tokens", to=1), f"{TRIAL}/curve.jsonl, line 1: tok"
    ),
    Forgery(
        "a score on the way",
        value(f"{TRIAL}/curve.jsonl", 0, "measures", "multilingual/MAP", to=more),
        r"report\.html: curve\[\d+\]: y",
        "figures",
    ),
    Forgery(
        "a point skipped", lambda folder: shorter(folder / TRIAL / "curve.jsonl"), "table.json|report.html", "figures"
    ),
    Forgery("seeds", value("study.json", "seeds", to=[1, 2]), "study.json: trials"),
    Forgery("an arm skipped", value("study.json", "arms", to=lambda arms: arms[:-1]), "study.json: trials"),
    Forgery("languages", value("study.json", "language_order", to=["en", "de", "ar"]), "study.json: language_sets"),
    Forgery("the target", value("study.json", "budget", "target", "value", to=0.5), f"{IN_TABLE}target: value"),
    Forgery("the budget", value("study.json", "budget", "value", to=5.0), "study.json: budget: steps"),
    Forgery("a setting", value("study.json", "train_settings", "temperature", to=0.1), f"{RUN}: config: temperature"),
    Forgery(
        "the corpus of a study", value("study.json", "corpus", "train", "fingerprint", to="0" * 64), f"{RUN}: corpus"
    ),
    Forgery(
        "a command",
        value("study.json", "trials", 3, "stages", 0, "options", "max_steps", to="9"),
        "study.json: trials: mono-L2-seed1: stages",
    ),
    Forgery("a seed", value(RUN, "config", "seed", to=7), f"{RUN}: config: seed"),
    Forgery("a mix", value(RUN, "mix", to="pool=1"), f"{RUN}: mix"),
    Forgery("a corpus", value(RUN, "corpus", "fingerprint", to="0" * 64), f"{RUN}: corpus: fingerprint"),
    Forgery("a first model", value(RUN, "identity", "model", to="seed-1, 0"), "trials/.*/run.json: identity: model"),
    Forgery("a number of items", value(RUN, "corpus", "items_per_language", "de", to=1), f"{RUN}: corpus: items"),
    Forgery(
        "a plan", value(f"{TRIAL}/plan.json", "batches", 0, to=lambda found: 1 - found), f"{TRIAL}/plan.json: fing"
    ),
    Forgery("a log", value(f"{TRIAL}/events.jsonl", -1, "reason", to="failed"), f"{TRIAL}/events.jsonl: last stop"),
    Forgery("the first stage", value(f"{MLM}/run.json", "config", "max_steps", to=9), f"{MLM}/run.json: config: max"),
    Forgery("a trial removed", removed, TRIAL),
    Forgery("two trials swapped", swapped, "trials/mono-L1-seed1/run.json: config: languages"),
    Forgery("a trial added", other_trial, "trials/mono-L9-seed1: |trials/mono-L9-seed1$"),
    Forgery("a file added", added, f"{TRIAL}/notes.txt"),
    Forgery(
        "how a trial failed",
        value(f"trials/{FAILED}/failure.json", "last_line", to="no"),
        rf"table\.json: {FAILED}: reason",
    ),
    Forgery(
        "where it failed", value(f"trials/{FAILED}/failure.json", "stage", to="train"), f"trials/{FAILED}/failure.json"
    ),
    Forgery("no failure", lambda folder: shutil.rmtree(folder / "trials" / FAILED), f"trials/{FAILED}"),
    Forgery("a file that is no JSON", lambda folder: (folder / TOTALS).write_text("{"), TOTALS),
]


def shorter(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def forge(target: Path, do: Callable[[Path], object]) -> None:
    """Unpack a copy, alter its files, and pack it again."""
    with open_study(target) as opened:
        do(opened)
        trials = [path for path in (opened / "trials").rglob("*") if path.is_file()] + [opened / "table.json"]
        write_archive(target / TRIALS_NAME, {str(path.relative_to(opened)): path.read_text() for path in trials})
        for name in contents(target):
            if name != TRIALS_NAME:
                shutil.copyfile(opened / name, target / name)


@pytest.mark.parametrize("forgery", FORGERIES, ids=[forgery.what for forgery in FORGERIES])
def test_what_is_altered_is_found_though_the_manifest_was_rebuilt(
    forgery: Forgery, copy: Path, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(copy, tmp_path / "copy"))
    forge(target, forgery.do)
    assert contents(target) != contents(copy)
    write_manifest(target)
    names = [forgery.check] if forgery.check else [name for name in STUDY_CHECKS if name not in OF_THE_REPORT]
    found = [finding.place for finding in wrong(target, *names)]
    assert [place for place in found if re.match(forgery.place, place)], found


def test_any_byte_that_is_changed_is_found_by_the_manifest(copy: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(copy, tmp_path / "copy"))
    check = partial(wrong, target, "manifest")
    assert check() == []
    for name, content in contents(target).items():
        if name == "manifest.json":
            continue
        middle = len(content) // 2
        (target / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        assert name in {finding.file for finding in check()}, name
        (target / name).unlink()
        assert (name, "is missing") in {(finding.place, finding.reason) for finding in check()}
        (target / name).write_bytes(content)
    assert check() == []
