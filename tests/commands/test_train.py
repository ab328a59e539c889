"""`recipes/train.py` from a shell: what it prints, what it leaves, and how it answers mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from hf_hybrid.data.batches.schedule import plan_fingerprint
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.checkpoints import checkpoints
from hf_hybrid.training.interruption import HEARTBEAT_NAME, RESUME_ME
from tests.support.recipe_runs import (
    REPOSITORY,
    Ended,
    losses,
    recipes_here,
    run_recipe,
    weights,
    write_jsonl_corpus,
    write_model,
)

QUICK = ["--max_steps", 3, "--global_batch_size", 8, "--logging_steps", 1, "--energy", "none", "--use_cpu", "true"]
QUICK += ["--cpu_threads", 1]


Train = Callable[..., Ended]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Train]:
    """`python recipes/train.py OPTIONS`, in this process."""
    with recipes_here(monkeypatch, capsys) as call:
        yield partial(call, "train")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl_corpus(tmp_path_factory.mktemp("corpus") / "files")


@pytest.fixture(scope="module")
def quick(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("model")
    cache = ["--cache_dir", folder / "cache"]
    return [*QUICK, *cache, "--train_corpus", corpus, "--model_name_or_path", write_model(folder / "model")]


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_says(quick: list[object], tmp_path: Path) -> None:
    found = run_recipe(*quick, "--output_dir", tmp_path, "--disable_tqdm", "true")
    planned, table = found.stdout.index("plan: 3 steps"), found.stdout.index("monolingual/MAP")
    assert found.stdout.index("training corpus: ParallelCorpus(") < planned < table < found.stdout.index("Next: ")
    told = [
        line.partition(f"{tmp_path}/")[2] for line in found.stdout.splitlines() if line.startswith(("The ", "What "))
    ]
    names = [name for line in told for name in re.findall(r"^[\w.]+|\bbundle\b", line)]
    assert {*names} == {"model", "eval.json", "resources.json", "run.json", "README.md", "bundle"}
    assert [name for name in names if not (tmp_path / name).exists()] == []
    folder = RunFolder(tmp_path)
    run, scores, resources = folder.read_run(), folder.read_eval(), folder.read_resources()
    assert run["status"] == "finished"
    assert run["config"]["global_batch_size"] == 8
    assert sum(pair["steps"] for pair in run["plan"]["language_pairs"]) == 3
    assert run["model"]["num_parameters"] == sum(weight.numel() for weight in weights(tmp_path).values())
    plan = folder.read_plan()
    language_pairs = [(pair["batch_type"], pair["language_pair"]) for pair in plan["language_pairs"]]
    assert plan_fingerprint(language_pairs, plan["batches"]) == plan["fingerprint"] == run["identity"]["plan"]
    assert [language_pairs[number][1] for number in plan["batches"]] == [
        line["language_pair"] for line in folder.read_resource_lines()[0]
    ]
    for when, measured in {"before": scores["before"], "after": scores["after"]}.items():
        values = pyarrow.parquet.read_table(tmp_path / "evaluations" / when / "per_query.parquet").to_pandas()
        assert measured is not None
        pool = values[values["passage_language"] == "*"].groupby("query_language")["MAP"].mean()
        assert pool.mean() == pytest.approx(measured["multilingual"]["MAP"], rel=1e-12)
    assert len(run["corpus"]["fingerprint"]) == 64
    assert scores["before"] is not None
    assert scores["after"] is not None
    assert scores["before"] != scores["after"]
    assert len(scores["after"]["pairs"]) == 25
    assert f"{scores['after']['monolingual']['MAP']:.4f}" in found.stdout
    assert resources["num_steps"] == 3
    assert len(losses(tmp_path)) == 3
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert not [path for path in tmp_path.glob("model/**/*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-2"]


def test_the_progress_bar_is_shown(quick: list[object], tmp_path: Path, train: Train) -> None:
    assert "3/3" in train(*quick, "--output_dir", tmp_path, "--evaluate_before", "false").stderr


def test_a_dry_run_trains_nothing(quick: list[object], tmp_path: Path, train: Train) -> None:
    found = train(*quick, "--dry_run", "--output_dir", tmp_path / "run", "--mix", "pool=1")
    assert "step 2: pool" in found.stdout
    assert not list((tmp_path / "run").glob("*"))


def test_a_failed_run_says_so(quick: list[object], tmp_path: Path, train: Train) -> None:
    found = train(*quick, "--output_dir", tmp_path, "--resume_from_checkpoint", tmp_path / "nothing")
    assert found.returncode == 2
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "run"


class TestOneFolder:
    """What the same command, and another, make of the folder of a run."""

    @pytest.fixture
    def words(self, quick: list[object], folder: Path, train: Train) -> list[object]:
        """Of a run that has finished."""
        words = [*quick, "--output_dir", folder, "--disable_tqdm", "true", "--max_eval_queries", 5]
        if not folder.exists():
            assert train(*words).returncode == 0
        return words

    def test_the_same_command_says_that_it_is_finished(self, words: list[object], folder: Path, train: Train) -> None:
        before = state_of(folder)
        found = train(*words)
        assert found.returncode == 0
        assert f"{folder} holds this very run, which has finished. --overwrite starts it over." in found.stdout
        assert "monolingual/MAP" in found.stdout, "the scores are shown again"
        assert state_of(folder) == before

    def test_another_run_is_refused_and_loses_nothing(self, words: list[object], folder: Path, train: Train) -> None:
        before = state_of(folder)
        found = train(*words, "--mix", "pool=1")
        assert found.returncode == 2
        assert f"{folder} belongs to another run: mix was 'mono=0.5,cross=0.5' and is 'pool=1'" in found.stderr
        assert state_of(folder) == before

    def test_the_same_run_starts_from_its_folder(
        self, words: list[object], folder: Path, tmp_path: Path, train: Train
    ) -> None:
        more = ["--cpu_threads", 1, "--energy", "none", "--disable_tqdm", "true", "--output_dir", tmp_path / "again"]
        found = train("--like", folder, *more)
        assert found.returncode == 0, found.stderr
        assert f"the same run as that of {folder}" in found.stdout
        assert losses(tmp_path / "again") == losses(folder)
        assert RunFolder(tmp_path / "again").read_eval() == RunFolder(folder).read_eval()
        found = train("--like", folder, *more, "--seed", 1, "--dry_run")
        assert f"not the run of {folder}: seed was 42 and is 1; data_seed was 42 and is 1; plan was" in found.stdout

    def test_a_bundle_that_a_kill_prevented_is_made_good(
        self, words: list[object], folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def kill(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("hf_hybrid.training.run.write_bundle", kill)
            assert train(*words, "--overwrite").returncode == 130
        assert RunFolder(folder).read_run()["status"] == "finished"
        assert not (folder / "bundle").exists()
        assert train(*words).returncode == 0
        assert (folder / "bundle" / "manifest.json").exists()

    @pytest.mark.slow
    def test_a_run_that_is_not_there_is_explained(self, folder: Path, tmp_path: Path, train: Train) -> None:
        assert "the folder has no run.json" in train("--like", tmp_path).stderr
        assert "no folder here, and no run.json that the Hub gave" in train("--like", "nobody/nothing").stderr
        assert "give one, and single options" in train("--like", folder, "--config", "x.yaml").stderr

    def test_it_begins_anew_where_that_is_asked_for(self, words: list[object], folder: Path, train: Train) -> None:
        (folder / "notes.txt").write_text("of the user")
        first = losses(folder)
        found = train(*words, "--mix", "pool=1", "--overwrite")
        assert found.returncode == 0, found.stderr
        assert RunFolder(folder).read_run()["mix"] == "pool=1"
        assert len(losses(folder)) == 3
        assert losses(folder) != first
        assert (folder / "notes.txt").exists()
        events = [json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines()]
        assert events.count("start") == 1, "the events of the former run are gone"

    @pytest.mark.slow
    def test_a_run_that_was_told_to_stop_goes_on(self, quick: list[object], tmp_path: Path, train: Train) -> None:
        """As a scheduler does it: SIGTERM, exit status 75, the same command again."""
        words = [*quick, "--max_steps", 200, "--save_steps", 150, "--evaluate_before", "false"]
        words += ["--max_eval_queries", 5, "--disable_tqdm", "true", "--output_dir", tmp_path / "run"]
        command = [sys.executable, "recipes/train.py", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=-3, stderr=subprocess.PIPE, text=True
        )
        log, deadline = tmp_path / "run" / "resources.jsonl", time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
            time.sleep(0.05)
        assert json.loads((tmp_path / "run" / HEARTBEAT_NAME).read_text())["phase"] == "training"
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=120)[1]
        assert process.returncode == RESUME_ME, printed[-3000:]
        assert "Traceback" not in printed
        assert RunFolder(tmp_path / "run").read_run()["status"] == "interrupted"
        (newest,) = checkpoints(tmp_path / "run")
        step = int(newest.name.rpartition("-")[2])
        assert 2 <= step < 200
        lines = RunFolder(tmp_path / "run").read_resource_lines()[0]
        assert [line["step"] for line in lines] == list(range(1, step + 1))
        again = train(*words)
        assert again.returncode == 0, again.stderr[-3000:]
        assert f"checkpoint-{step} world_size=1" in again.stderr
        assert RunFolder(tmp_path / "run").read_run()["status"] == "finished"
        assert RunFolder(tmp_path / "run").read_resources()["num_steps"] == 200
        all_lines = RunFolder(tmp_path / "run").read_resource_lines()[0]
        assert all_lines[:step] == lines
        assert [line["step"] for line in all_lines] == list(range(1, 201))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_corpus", "nowhere"], "nowhere"),
        (["--languages", "en,fr"], "fr"),
        (["--mix", "mono=1,corss=1"], "'corss' is not a batch type"),
        (["--language_pairs", "fr->*"], "matches no pair"),
        (["--attention", "fast"], "attention must be one of auto, varlen"),
        (["--pooling", "max"], "pooling must be one of mean, cls, pooler"),
        (["--model_name_or_path", "nowhere"], "nowhere"),
        (["--held_out", "1000"], "1000"),
        (["--global_batchsize", "4"], "did you mean --global_batch_size?"),
        (["--output_dir", "setup.cfg"], "setup.cfg"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(
    options: list[str], message: str, quick: list[object], tmp_path: Path, train: Train
) -> None:
    found = train(*quick, "--output_dir", tmp_path / "run", *options)
    assert found.returncode == 2, found.stderr[-2000:]
    assert message in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_a_bad_line_is_named(quick: list[object], corpus: Path, tmp_path: Path, train: Train) -> None:
    folder = write_jsonl_corpus(tmp_path / "bad")
    with open(folder / "en.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "x", "query": ""\n')
    number = len((folder / "en.jsonl").read_text().splitlines())
    words = [*quick, "--train_corpus", folder, "--output_dir", tmp_path / "run"]
    found = run_recipe(*words, check=False, launch=[sys.executable])
    assert found.returncode == 2
    assert "en.jsonl" in found.stderr
    assert str(number) in found.stderr
    assert "Traceback" not in found.stderr
    skipped = train(*words, "--on_bad_row", "skip", "--dry_run")
    assert "noticed: 1 " in skipped.stdout


def test_the_help_names_every_option(train: Train) -> None:
    found = train("--help")
    assert all(f"--{name}" in found.stdout for name in ("config", "mix", "learning_rate", "train_corpus", "pooling"))


def test_no_recipe_shadows_a_library() -> None:
    names = {path.stem for path in (REPOSITORY / "recipes").glob("*.py")}
    assert not names & {"evaluate", "datasets", "accelerate", "transformers", "torch"}
