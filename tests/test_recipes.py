"""`recipes/train.py` from a shell: what it prints, what it leaves, and how it answers mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hf_hybrid.records import RunFolder
from tests.recipe_runs import REPOSITORY, losses, run_recipe, write_jsonl_corpus, write_model

QUICK = ["--max_steps", 3, "--global_batch_size", 8, "--logging_steps", 1, "--energy", "none", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl_corpus(tmp_path_factory.mktemp("corpus") / "files")


@pytest.fixture(scope="module")
def quick(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("model")
    cache = ["--cache_dir", folder / "cache"]
    return [*QUICK, *cache, "--train_corpus", corpus, "--model_name_or_path", write_model(folder / "model")]


def test_a_run_leaves_what_the_readme_says(quick: list[object], tmp_path: Path) -> None:
    found = run_recipe(*quick, "--output_dir", tmp_path, "--disable_tqdm", "true")
    plan, table = found.stdout.index("plan: 3 steps"), found.stdout.index("monolingual/MAP")
    assert found.stdout.index("training corpus: ParallelCorpus(") < plan < table < found.stdout.index("Next: ")
    folder = RunFolder(tmp_path)
    run, scores, resources = folder.read_run(), folder.read_eval(), folder.read_resources()
    assert run["status"] == "finished"
    assert run["config"]["global_batch_size"] == 8
    assert sum(cell["steps"] for cell in run["plan"]["cells"]) == 3
    assert len(run["corpus"]["fingerprint"]) == 64
    assert scores["before"] is not None
    assert scores["after"] is not None
    assert scores["before"] != scores["after"]
    assert len(scores["after"]["pairs"]) == 25
    assert f"{scores['after']['monolingual']['MAP']:.4f}" in found.stdout
    assert resources["num_steps"] == 3
    assert len(losses(tmp_path)) == 3
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]


def test_the_progress_bar_is_shown(quick: list[object], tmp_path: Path) -> None:
    assert "3/3" in run_recipe(*quick, "--output_dir", tmp_path, "--evaluate_before", "false").stderr


def test_a_dry_run_trains_nothing(quick: list[object], tmp_path: Path) -> None:
    found = run_recipe(*quick, "--dry_run", "--output_dir", tmp_path / "run", "--mix", "pool=1")
    assert "step 2: pool" in found.stdout
    assert not list((tmp_path / "run").glob("*"))


def test_a_failed_run_says_so(quick: list[object], tmp_path: Path) -> None:
    found = run_recipe(*quick, "--output_dir", tmp_path, "--resume_from_checkpoint", tmp_path / "nothing", check=False)
    assert found.returncode != 0
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_corpus", "nowhere"], "nowhere"),
        (["--languages", "en,fr"], "fr"),
        (["--mix", "mono=1,corss=1"], "'corss' is not a kind of batch"),
        (["--cells", "fr->*"], "matches no pair"),
        (["--attention", "fast"], "attention must be one of auto, varlen"),
        (["--pooling", "max"], "pooling must be one of mean, cls, pooler"),
        (["--model_name_or_path", "nowhere"], "nowhere"),
        (["--held_out", "1000"], "1000"),
        (["--global_batchsize", "4"], "did you mean --global_batch_size?"),
        (["--output_dir", "setup.cfg"], "setup.cfg"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(
    options: list[str], message: str, quick: list[object], tmp_path: Path
) -> None:
    words = [*quick, "--output_dir", tmp_path / "run", *options]
    found = run_recipe(*words, check=False, launch=[sys.executable])
    assert found.returncode == 2, found.stderr[-2000:]
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_a_bad_line_is_named(quick: list[object], corpus: Path, tmp_path: Path) -> None:
    folder = write_jsonl_corpus(tmp_path / "bad")
    with open(folder / "en.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "x", "query": ""\n')
    number = len((folder / "en.jsonl").read_text().splitlines())
    words = [*quick, "--train_corpus", folder, "--output_dir", tmp_path / "run"]
    found = run_recipe(*words, check=False, launch=[sys.executable])
    assert found.returncode == 2
    assert "en.jsonl" in found.stderr
    assert str(number) in found.stderr
    skipped = run_recipe(*words, "--on_bad_row", "skip", "--dry_run")
    assert "noticed: 1 " in skipped.stdout


def test_the_help_names_every_option() -> None:
    found = run_recipe("--help")
    assert all(f"--{name}" in found.stdout for name in ("config", "mix", "learning_rate", "train_corpus", "pooling"))


def test_no_recipe_shadows_a_library() -> None:
    names = {path.stem for path in (REPOSITORY / "recipes").glob("*.py")}
    assert not names & {"evaluate", "datasets", "accelerate", "transformers", "torch"}
