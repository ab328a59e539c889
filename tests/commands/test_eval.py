"""`recipes/eval.py` from a shell: what it prints, what it leaves, and how it answers mistakes."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from hf_hybrid.records.run_folder import RunFolder
from tests.support.recipe_runs import REPOSITORY, run_recipe, write_jsonl_corpus, write_model

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("eval")
    places = ["--corpus", write_jsonl_corpus(folder / "corpus"), "--model", write_model(folder / "model")]
    return [*places, "--cache_dir", folder / "cache", "--use_cpu", "true"]


@pytest.fixture
def evaluate(quick: list[object]) -> Callable[..., subprocess.CompletedProcess]:
    def run(*options: Any, **how: Any) -> subprocess.CompletedProcess:
        return run_recipe(*quick, *options, **{"script": "recipes/eval.py", "launch": [sys.executable], **how})

    return run


@pytest.mark.slow
def test_it_prints_and_leaves_what_it_says(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    found = evaluate("--output_dir", tmp_path, "--save_runs", "true", "--bm25", "true", "--max_queries", 20)
    evaluation = RunFolder(tmp_path).read_eval()
    scores = evaluation["after"]
    assert scores is not None
    assert f"{scores['monolingual']['MAP']:.4f}" in found.stdout
    assert "BM25" in found.stdout
    baseline = RunFolder(tmp_path / "bm25").read_eval()["after"]
    assert baseline is not None
    assert f"{baseline['monolingual']['MAP']:.4f}" in found.stdout
    assert evaluation["before"] is None
    assert evaluation["evaluated"]["max_queries"] == 20
    assert len(evaluation["evaluated"]["corpus_fingerprint"]) == 64
    assert len(scores["pairs"]) == 25
    assert (tmp_path / "heat_map.png").stat().st_size > 5_000
    assert len(list((tmp_path / "runs").iterdir())) == len(list((tmp_path / "qrels").iterdir())) == 5 * 6
    assert pyarrow.parquet.read_table(tmp_path / "per_query.parquet").num_rows > 25
    assert not (tmp_path / "embeddings").exists()


@pytest.mark.slow
def test_a_training_run_keeps_its_scores(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    found = evaluate("--output_dir", tmp_path, check=False)
    assert found.returncode == 2
    assert "holds a run, and this command writes an evaluation" in found.stderr


@pytest.mark.slow
def test_a_model_in_sentence_transformers_has_the_same_scores(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    folders = [tmp_path / library for library in ("hf_hybrid", "sentence_transformers")]
    for folder in folders:
        words = ["--library", folder.name, "--settings", "monolingual,cross_lingual", "--held_out", 20]
        evaluate("--output_dir", folder, *words)
    ours, theirs = (RunFolder(folder).read_eval()["after"] for folder in folders)
    assert ours is not None
    assert theirs is not None
    assert ours["cross_lingual"] == pytest.approx(theirs["cross_lingual"], abs=1e-3)
    assert ours["multilingual"] == {}
    assert 0 < ours["num_queries"] <= 20 * 5


@pytest.mark.slow
def test_embeddings_that_are_kept_are_not_encoded_again(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    keep = ["--output_dir", tmp_path, "--keep_embeddings", "true"]
    evaluate(*keep)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "embeddings").rglob("*.npy")}
    before = RunFolder(tmp_path).read_eval()["after"]
    assert len(shards) == 10
    evaluate(*keep)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "embeddings").rglob("*.npy")} == shards
    assert RunFolder(tmp_path).read_eval()["after"] == before


@pytest.mark.slow
def test_two_models_are_compared_query_by_query(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    evaluate("--output_dir", tmp_path / "first")
    other = write_model(tmp_path / "other", hidden_size=16)
    found = evaluate("--output_dir", tmp_path / "second", "--model", other, "--compare", tmp_path / "first")
    comparison = json.loads((tmp_path / "second" / "comparison.json").read_text())
    assert {"MAP", "nDCG@10"} <= set(comparison["measures"])
    assert "Compared with" in found.stdout
    same = evaluate("--output_dir", tmp_path / "second", "--compare", tmp_path / "second", check=False)
    assert same.returncode == 2


@pytest.mark.distributed
def test_two_processes_give_the_scores_of_one(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    evaluate("--output_dir", tmp_path / "one", "--save_runs", "true")
    evaluate("--output_dir", tmp_path / "two", "--save_runs", "true", launch=TORCHRUN)
    one, two = (RunFolder(tmp_path / name).read_eval()["after"] for name in ("one", "two"))
    assert one is not None
    assert two is not None
    # embeddings of other batches may be off by a rounding, and near scores change places
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        assert one[setting] == pytest.approx(two[setting], abs=2e-3)
    names = [sorted(path.name for path in (tmp_path / name / "runs").iterdir()) for name in ("one", "two")]
    assert names[0] == names[1]
    lines = [(tmp_path / name / "runs" / "de-all.trec").read_text().count("\n") for name in ("one", "two")]
    assert lines[0] == lines[1] > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "nowhere"], "nowhere"),
        (["--model", "nowhere"], "nowhere"),
        (["--settings", "bilingual"], "give some of monolingual, cross_lingual, multilingual"),
        (["--measures", "NDCG@10"], "nDCG@10"),
        (["--languages", "de,fr"], "fr"),
        (["--max_queries", "0"], "at least 1"),
        (["--save_runs", "true", "--run_depth", "0"], "run_depth must be between 1 and"),
        (["--index", "hnsw"], "index must be one of exact, faiss"),
        (["--library", "sentence_transformers", "--pooling", "cls"], "omit it"),
        (["--dtype", "int8"], "dtype must be one of"),
        (["--compare", "nowhere"], "nowhere"),
        (["--corpra", "x"], "did you mean --corpus?"),
        (["--split", "test"], "only BEIR folders and presets have splits"),
        (["--corpus", "sample", "--split", "test"], "the sample corpus has neither"),
        (["--run_depth", "5"], "Add --save_runs"),
        (["--output_dir", __file__], "is a file"),
        (["--library", "sentence_transformers", "--batch_tokens", "100"], "omit it"),
        (["--settings", ""], "give some of"),
        (["--measures", ""], "give some"),
        (["--languages", "de", "--settings", "cross_lingual"], "nothing to evaluate"),
    ],
)
def test_mistakes_are_explained(
    options: list[str],
    message: str,
    quick: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*quick, "--output_dir", tmp_path, *options]
    monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:  # in this process: a new one would take seconds to import
        runpy.run_path(str(REPOSITORY / "recipes" / "eval.py"), run_name="__main__")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_must_be_named_and_no_traceback_is_shown() -> None:
    found = run_recipe(script="recipes/eval.py", launch=[sys.executable], check=False)
    assert found.returncode == 2
    assert "--model is missing" in found.stderr
    assert "Traceback" not in found.stderr
