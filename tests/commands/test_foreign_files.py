"""No recipe changes a file that it did not write: each recipe, with files and outputs of others in its output folder.

    FOREIGN_FILES_TABLE=table.md pytest tests/commands/test_foreign_files.py

appends a row for each recipe and situation to a Markdown table.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import OUTPUTS_NAME
from hf_hybrid.scaling.grid.folder import StudyFolder
from hf_hybrid.scaling.grid.sweep import Sweep
from hf_hybrid.scaling.report import page as study_report
from tests.commands.test_scale import asked, run_stage_here
from tests.support.pushes import REPO, hub
from tests.support.recipe_runs import Ended, recipes_here, write_jsonl_corpus, write_model
from tests.support.study_folders import write_study

assert hub  # a fixture

ROOMY = ["--max_eval_queries", 4, "--energy", "none", "--use_cpu", "true", "--cpu_threads", 1]
QUICK = [*ROOMY, "--disable_tqdm", "true", "--max_steps", 2, "--save_steps", 1, "--save_total_limit", 1]
FOREIGN = (
    *("notes.md", ".hidden", "model/mine.txt", "model/deep/mine.json", "pictures/holiday.png", "bundle/mine.txt"),
    *("evaluations/mine/eval.json", "evaluations/after/mine.txt", "checkpoint-1/mine.txt", "checkpoint-2/mine.txt"),
    *("runs/sample-hybrid/model/model.safetensors", "runs/events.tfevents", "qrels/mine.qrels", "embeddings/mine.npy"),
    *("trials/mine/model/model.safetensors", "not_finite/mine.json", "bm25/mine.txt", "base/mine.txt"),
)


class Place(NamedTuple):
    """What all recipes are started with."""

    path: Path
    call: Callable[..., Ended]
    corpus: Path
    model: Path
    other_model: Path


Start = Callable[..., Ended]


def training(name: str, place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    words: list[Any] = ["--train_corpus", place.corpus, "--model_name_or_path", place.model, "--languages", "de,en"]
    words += ["--cache_dir", place.path / "cache"]
    own = ["--block_length", 32, "--global_batch_size", 2] if name == "mlm" else ["--global_batch_size", 8]
    words += [
        *own,
        *QUICK,
        "--languages",
        "de,en",
        "--output_dir",
        folder,
        "--seed",
        2 if other else 1,
        "--held_out",
        12,
    ]
    return place.call(name, *words, *options)


def train(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    return training("train", place, folder, *options, other=other)


def mlm(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    return training("mlm", place, folder, *options, other=other)


def evaluate(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    words = ["--model", place.other_model if other else place.model, "--corpus", place.corpus, "--use_cpu", "true"]
    words += [
        "--cache_dir",
        place.path / "cache",
        "--languages",
        "de,en",
        "--max_queries",
        4,
        "--save_runs",
        "--output_dir",
        folder,
    ]
    return place.call("eval", *words, *options)


def scale(place: Place, folder: Path, *options: Any, other: bool = False, **changes: Any) -> Ended:
    settings = {"arms": "mono", "languages": "1", "budget_value": "2", "eval_every": 7 if other else 2, **changes}
    return place.call("scale", "--config", asked(place.path, study_dir=str(folder), **settings), *options)


def scale_more(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    """With a trial more."""
    return scale(place, folder, *options, other=other, languages="1,2")


def report(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    return place.call("report", folder, *options)


def copy(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    return place.call("report", place.path / ("other_study" if other else "report"), "--copy_to", folder, *options)


def card(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    words = ["--card_folder", folder, "--repo_id", REPO]
    return place.call("push", place.path / ("other_run" if other else "train"), *words, *options)


def rerun(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    words = ["--cache_dir", place.path / "cache", "--train_corpus", place.corpus, "--model_name_or_path", place.model]
    return place.call("verify", place.path / "train" / "bundle", "--rerun", "--output_dir", folder, *words, *options)


def push(place: Place, folder: Path, *options: Any, other: bool = False) -> Ended:
    return place.call("push", folder, "--repo_id", REPO, *options)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign")
    write_jsonl_corpus(path / "corpus", missing=0.1)
    write_model(path / "model_1")
    write_model(path / "model_2")
    return path


@pytest.fixture
def place(inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    monkeypatch.setattr(Sweep, "_run_stage", run_stage_here)
    monkeypatch.setattr(study_report, "picture", lambda *_: "<svg/>")
    with recipes_here(monkeypatch, capsys) as call:
        told: list[str] = []
        subprocess_run = subprocess.run

        def run_here(command: list[str], **options: Any) -> Any:
            if options:  # another program
                return subprocess_run(command, **options)
            assert command[1:3] == ["-m", "hf_hybrid"]
            ended = call(command[3], *command[4:])
            told.append(ended.stderr)
            return SimpleNamespace(returncode=ended.returncode)

        def call_all(name: str, *options: Any) -> Ended:
            told.clear()
            with monkeypatch.context() as patch:
                if name == "verify":
                    patch.setattr(subprocess, "run", run_here)
                ended = call(name, *options)
            return ended._replace(stderr="".join([*told, ended.stderr]))

        names = ("corpus", "model_1", "model_2")
        yield Place(inputs, call_all, *(inputs / name for name in names))


def made(place: Place, name: str) -> Path:
    """What a recipe leaves in a folder of its own, made once."""
    path = place.path / name
    if not path.exists():
        if name in ("report", "other_study"):
            changes: dict[str, Any] = {"eval_every": 3} if name == "other_study" else {}
            write_study(path, (1, 2), (1,), ("zero_shot", "mono", "hybrid"), **changes)
            ended = report(place, path)
        else:
            needed = {"card": ["train"], "copy": ["report"], "rerun": ["train"]}.get(name, [])
            for other in needed:
                made(place, other)
            starts = {"train": train, "mlm": mlm, "eval": evaluate, "scale": scale, "card": card, "copy": copy}
            ended = train(place, path, other=True) if name == "other_run" else starts[name](place, path)
        assert ended.returncode == 0, ended.stderr
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def add(folder: Path, *names: str) -> dict[str, bytes]:
    """Files of somebody else."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"of somebody else: {name}".encode())
    return {name: (folder / name).read_bytes() for name in names}


def note(recipe: str, situation: str, foreign: int, ended: Ended, folder: Path) -> None:
    if not (table := os.environ.get("FOREIGN_FILES_TABLE")):
        return
    path = Path(table)
    if not path.exists():
        path.write_text("| recipe | in the folder | foreign files | exit | message |\n|---|---|---|---|---|\n")
    lines = [line for line in ended.stderr.splitlines() if "error:" in line] if ended.returncode else []
    message = re.sub(r"/\S*/", "…/", " ".join(lines[:1])).replace("|", "\\|")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"| {recipe} | {situation} | {foreign}, unchanged | {ended.returncode} | {message} |\n")


def check_refused(recipe: str, situation: str, folder: Path, start: Callable[[], Ended], said: str) -> None:
    before = contents(folder)
    ended = start()
    assert ended.returncode == 2, ended.stderr
    assert re.search(said, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr
    assert contents(folder) == before
    note(recipe, situation, len(before), ended, folder)


RECIPES: dict[str, tuple[Start, str]] = {
    "train.py": (train, "train"),
    "mlm.py": (mlm, "mlm"),
    "eval.py": (evaluate, "eval"),
    "scale.py": (scale, "scale"),
    "push.py --card_folder": (card, "card"),
    "report.py --copy_to": (copy, "copy"),
}
KINDS = {"a run": "run.json", "a study": "study.json", "an evaluation": "eval.json", "a model": "config.json"}
OWN = {"train.py": "a run", "mlm.py": "a run", "eval.py": "an evaluation", "scale.py": "a study"}
WITH_OVERWRITE = ("train.py", "mlm.py", "eval.py", "scale.py")


@pytest.mark.parametrize("kind", [*KINDS, "a corpus"])
@pytest.mark.parametrize("recipe", [*OWN, "push.py --card_folder"])
def test_an_output_of_another_kind_is_refused(recipe: str, kind: str, place: Place, tmp_path: Path) -> None:
    if kind == OWN.get(recipe):
        return
    made(place, "train")
    names = {"a model": ["config.json", "model.safetensors"], "a corpus": ["de.jsonl", "en.jsonl"]}
    add(tmp_path / "out", *names.get(kind, [KINDS.get(kind, "")]), "README.md")
    overwrite = ["--overwrite"] if recipe in WITH_OVERWRITE else []
    start = RECIPES[recipe][0]
    wanted = OWN.get(recipe, "a model card")
    said = f"holds {kind}, and this command writes {wanted}. Choose another"
    check_refused(
        recipe,
        " ".join([kind, *overwrite]),
        tmp_path / "out",
        lambda: start(place, tmp_path / "out", *overwrite),
        said,
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_another_output_of_the_same_kind_is_refused(recipe: str, place: Place, tmp_path: Path) -> None:
    start, name = RECIPES[recipe]
    folder = Path(shutil.copytree(made(place, name), tmp_path / "out"))
    made(place, "other_study" if name == "copy" else "other_run" if name == "card" else name)
    said = "(seed|model|eval_every) was .* and is .*"
    check_refused(recipe, "another one of its kind", folder, lambda: start(place, folder, other=True), said)


@pytest.mark.parametrize("recipe", [*RECIPES, "report.py"])
def test_an_output_without_a_list_is_refused(recipe: str, place: Place, tmp_path: Path) -> None:
    start, name = RECIPES.get(recipe, (report, "report"))
    folder = Path(shutil.copytree(made(place, name), tmp_path / "out"))
    (folder / ("manifest.json" if name == "copy" else OUTPUTS_NAME)).unlink()
    said = _WITHOUT_LIST.get(name, "without a list of its files .*None of its files is")
    for options in [[], ["--overwrite"]] if recipe in WITH_OVERWRITE else [[]]:
        words = " ".join(["one of an earlier release", *options])
        check_refused(recipe, words, folder, lambda options=options: start(place, folder, *options), said)  # type: ignore[misc]


_WITHOUT_LIST = {
    "copy": "holds other files than a copy",
    "card": "holds a run, and this command writes a model card",
    "report": r"holds report\.html, report\.md, and an earlier release, .*, may have written them\. Move them away",
}
TAKEN = {
    "train.py": [
        "README.md",
        "model/config.json",
        "checkpoint-2/optimizer.pt",
        "pictures/pairs_after.png",
        "run.lock",
        "evaluations/after/per_query.parquet",
        "bundle/run.json",
        "resources.jsonl",
        "events.jsonl",
        "plan.json",
    ],
    "mlm.py": ["README.md", "model/model.safetensors", "card.json", "heartbeat.json", "curve.jsonl"],
    "eval.py": ["per_query.parquet", "heat_map.png", "runs/de-de.trec", "qrels/de-all.qrels"],
    "verify.py --rerun": ["README.md", "model/tokenizer.json"],
}


@pytest.mark.parametrize(("recipe", "name"), [(recipe, name) for recipe, names in TAKEN.items() for name in names])
def test_a_name_that_is_taken_is_refused(recipe: str, name: str, place: Place, tmp_path: Path) -> None:
    made(place, "train")
    start = RECIPES.get(recipe, (rerun, ""))[0]
    add(tmp_path / "out", name, "notes.md")
    said = f"holds {re.escape(name)}, and no recipe wrote it: outputs.jsonl does not list it. Move it away, or choose"
    if recipe == "verify.py --rerun":
        before = contents(tmp_path / "out")
        ended = start(place, tmp_path / "out")
        assert (ended.returncode, contents(tmp_path / "out")) == (2, before)
        assert re.search(said, ended.stderr), ended.stderr
        note(recipe, name, len(before), ended, tmp_path)
        return
    check_refused(recipe, name, tmp_path / "out", lambda: start(place, tmp_path / "out"), said)


def test_several_names_that_are_taken_are_named_at_once(place: Place, tmp_path: Path) -> None:
    add(tmp_path / "out", "README.md", "card.json", "plan.json", "model/config.json")
    said = r"holds plan\.json, card\.json, README\.md and 1 more, and no recipe wrote them"
    check_refused("train.py", "four names", tmp_path / "out", lambda: train(place, tmp_path / "out"), said)


@pytest.mark.parametrize("name", ["trials/mono-L2-seed1/outputs.jsonl", "trials/mono-L2-seed1/README.md"])
def test_a_name_that_is_taken_in_a_study(name: str, place: Place, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made(place, "scale"), tmp_path / "out"))
    add(folder, "trials/mono-L2-seed1/run.json")
    if name.endswith(OUTPUTS_NAME):  # a run of somebody else, with its list
        RunFolder(folder / "trials/mono-L2-seed1").append_curve_line(
            {"step": 1, "train_time_s": 1.0, "tokens": 1, "energy_wh": None, "measures": {}}
        )
        (folder / "trials/mono-L2-seed1/run.json").unlink()
    said = "trials/mono-L2-seed1.*(no recipe wrote it|an earlier release, .*, may have written it)"
    check_refused("scale.py", f"{name} of a new trial", folder, lambda: scale_more(place, folder), said)


def test_a_name_that_is_taken_beside_a_report_a_copy_and_a_card(place: Place, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", (1,), (1,), ("zero_shot", "mono"))
    add(study.path, "report.md")
    said = r"holds report\.md, and no recipe wrote it.*choose another study"
    check_refused("report.py", "report.md", study.path, lambda: report(place, study.path), said)
    folder = Path(shutil.copytree(made(place, "copy"), tmp_path / "copy"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["fits.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    said = r"holds fits\.json, which is not of the copy: manifest\.json does not list it"
    check_refused("report.py --copy_to", "fits.json", folder, lambda: copy(place, folder), said)
    folder = Path(shutil.copytree(made(place, "card"), tmp_path / "card"))
    add(folder, ".eval_results/x.yaml")
    lines = (folder / OUTPUTS_NAME).read_text().splitlines(keepends=True)
    (folder / OUTPUTS_NAME).write_text("".join(line for line in lines if "README.md" not in line))
    said = r"holds README\.md, and no recipe wrote it.*choose another card_folder"
    check_refused("push.py --card_folder", "README.md", folder, lambda: card(place, folder), said)


@pytest.mark.parametrize("recipe", [*RECIPES, "verify.py --rerun", "report.py"])
def test_other_files_stay(recipe: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a new folder, when the same command is given again, and with `--overwrite` for another output."""
    start, name = {**RECIPES, "verify.py --rerun": (rerun, "train"), "report.py": (report, "report")}[recipe]
    original, folder = made(place, name), tmp_path / "out"
    needs_own = name in ("scale", "copy", "card", "report")  # which refuse a new folder that holds anything
    if needs_own:
        shutil.copytree(original, folder)
    names = [*FOREIGN, f"trials/{'mono-L1-seed1'}/mine.txt", "trials/mono-L1-seed1/model/mine.txt"]
    foreign = add(folder, *names)
    ended = start(place, folder)
    assert ended.returncode == 0, ended.stderr
    assert {name: contents(folder).get(name) for name in foreign} == foreign
    note(recipe, "the same one" if needs_own else "nothing but other files", len(foreign), ended, folder)
    if recipe == "verify.py --rerun":
        return
    again = start(place, folder)
    assert again.returncode == 0, again.stderr
    assert {name: contents(folder).get(name) for name in foreign} == foreign
    if recipe in WITH_OVERWRITE:
        listed = {json.loads(line).get("file") for line in (folder / OUTPUTS_NAME).read_text().splitlines()}
        assert listed.isdisjoint(foreign)
        ended = start(place, folder, "--overwrite", other=True)
        assert ended.returncode == 0, ended.stderr
        assert {name: contents(folder).get(name) for name in foreign} == foreign
        note(recipe, "another one, --overwrite", len(foreign), ended, folder)


def test_what_is_deleted_is_all_that_was_written(place: Place, tmp_path: Path) -> None:
    """`--overwrite` leaves nothing of the former run, so the above is not for want of deleting."""
    folder = Path(shutil.copytree(made(place, "train"), tmp_path / "out"))
    before = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    RunFolder(folder).clear()
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert left == {OUTPUTS_NAME, "run.lock"} < before
    study = StudyFolder(shutil.copytree(made(place, "scale"), tmp_path / "study"))
    study.outputs.delete_all()
    assert {path.name for path in study.path.iterdir()} == {OUTPUTS_NAME}


def test_two_evaluations_in_a_clone(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clone = ("README.md", "recipes/train.py", "runs/sample-hybrid/run.json", "runs/sample-hybrid/model/x.safetensors")
    foreign = add(tmp_path, *clone, "qrels/mine.qrels", ".unfinished/mine", "pictures/x.png", "tests/x.py")
    before = contents(tmp_path)
    assert evaluate(place, Path()).returncode == 0
    refused = evaluate(place, Path(), other=True)
    assert "model was" in refused.stderr
    assert evaluate(place, Path(), "--overwrite", other=True).returncode == 0
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == foreign


def test_the_default_folders_of_two_models_differ(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for model in (place.model, place.other_model):
        words = ["--model", model, "--corpus", place.corpus, "--use_cpu", "true", "--languages", "de,en"]
        ended = place.call("eval", *words, "--cache_dir", place.path / "cache")
        assert ended.returncode == 0, ended.stderr
    found = sorted(path.parent.as_posix() for path in Path().rglob("eval.json"))
    assert found == ["runs/eval/model_1-on-corpus", "runs/eval/model_2-on-corpus"]


def test_a_push_of_a_run_leaves_files_of_others(place: Place, tmp_path: Path, hub: Any) -> None:
    folder = Path(shutil.copytree(made(place, "train"), tmp_path / "mine"))
    foreign = add(folder, *FOREIGN)
    ended = push(place, folder)
    assert ended.returncode == 0, ended.stderr
    assert {name: contents(folder)[name] for name in foreign} == foreign
    sent = set(hub.repo(REPO).files())
    assert sent.isdisjoint({*foreign, OUTPUTS_NAME})
    assert not [name for name in sent if "mine" in name or "holiday" in name]
    note("push.py", "a run", len(foreign), ended, folder)


def test_the_report_of_a_copy_is_its_own(place: Place, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made(place, "copy"), tmp_path / "copy"))
    (folder / "report.md").write_text("of an earlier release")
    before = contents(made(place, "copy"))
    assert report(place, folder, "--copy_to", tmp_path / "again").returncode == 0
    assert contents(folder) == before
    assert contents(tmp_path / "again").keys() == before.keys()


@pytest.mark.parametrize("what", ["a run of an earlier release", "a README.md of somebody else"])
def test_a_push_does_not_write_to_a_folder_that_is_not_its_own(
    what: str, place: Place, tmp_path: Path, hub: Any
) -> None:
    folder = Path(shutil.copytree(made(place, "train"), tmp_path / "mine"))
    lines = (folder / OUTPUTS_NAME).read_text().splitlines(keepends=True)
    (folder / OUTPUTS_NAME).write_text("".join(line for line in lines if "README.md" not in line))
    if what.startswith("a run"):
        (folder / OUTPUTS_NAME).unlink()
    else:
        add(folder, "README.md")
    before = contents(folder)
    ended = push(place, folder, *([] if what.startswith("a run") else ["--keep_card"]))
    assert ended.returncode == 0, ended.stderr
    after = contents(folder)
    assert after.pop("hub.json")
    assert after == before
    assert ("hf-hybrid did not write it" in ended.stderr) == what.startswith("a README.md")
    note("push.py", what, len(before), ended, folder)
