"""What a reproduction bundle holds, and what it does not."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from hf_hybrid.hub import bundle as bundle_module
from hf_hybrid.hub import card_sections
from hf_hybrid.hub.bundle import is_bundle_name, list_bundle, write_bundle
from hf_hybrid.hub.model_card import write_card
from hf_hybrid.records import environment as environment_module
from hf_hybrid.records.environment import environment, find_installed_version, find_installed_versions
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.verification import files
from hf_hybrid.verification.files import Given
from hf_hybrid.verification.findings import OK, UNKNOWN, WRONG
from hf_hybrid.verification.verify import verify
from tests.support.bundles import change, contents, finished_run
from tests.support.recipe_runs import write_jsonl_corpus

TOKEN = "hf_" + "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders to train on and to evaluate on; the first has a data set card."""
    folder = tmp_path_factory.mktemp("corpora")
    train = write_jsonl_corpus(folder / "mine", num_items=60)
    (train / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    return train, write_jsonl_corpus(folder / "others", num_items=12, seed=1)


@pytest.fixture(scope="module")
def first(corpora: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed at a step between two checkpoints and two lines of the log, with batches of all kinds.

    In its folder another one had failed, before its first checkpoint.
    """
    options: dict[str, Any] = {"mix": "mono=1,cross=1,pool=1,mixed=1", "evaluate_before": False}
    options |= dict(zip(("train_corpus", "eval_corpus"), map(str, corpora), strict=True))
    return finished_run(tmp_path_factory.mktemp("bundle"), killed_after=6, fails_first=True, **options)


@pytest.fixture
def run_folder(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*", "bundle")))


def test_the_bundle_of_a_resumed_run_has_all_that_it_must_have_and_passes(first: Path) -> None:
    events = [json.loads(line) for line in (first / "events.jsonl").read_text().splitlines()]
    starts = [event["max_steps"] for event in events if event["event"] == "start"]
    assert starts == [8, 8], "it was not killed, or the log is that of the failed run too"
    bundle = write_bundle(first)
    assert bundle == first / "bundle"
    assert list_bundle(bundle) == [
        "README.md",
        "curve.jsonl",
        "eval.json",
        "evaluations/after/per_query.parquet",
        "events.jsonl",
        "model.json",
        "pictures/pairs_after.png",
        "plan.json",
        "requirements.txt",
        "resources.json",
        "resources.jsonl",
        "run.json",
    ]
    assert all(map(is_bundle_name, list_bundle(bundle)))
    assert [finding for finding in verify(first) if finding.status == WRONG] == []
    model = json.loads((bundle / "model.json").read_text())
    assert model["files"]["model.safetensors"]["bytes"] == (first / "model" / "model.safetensors").stat().st_size


def test_corpora_in_folders_tell_more_under_whatever_name(
    first: Path, corpora: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = write_bundle(first)
    unknown = [finding.reason for finding in verify(bundle) if finding.check == "corpus" and finding.status == UNKNOWN]
    assert set(unknown) == {"the run used 'mine', 'others': give --train_corpus FOLDER --eval_corpus FOLDER"}
    train, evaluated = (str(shutil.copytree(folder, tmp_path / f"my {folder.name}")) for folder in corpora)
    found = [
        finding
        for finding in verify(bundle, Given(train, evaluated, str(tmp_path / "cache")))
        if finding.check == "corpus"
    ]
    assert {finding.status for finding in found} == {OK}
    assert {"run.json: corpus: source: license", "plan.json: fingerprint"} <= {finding.place for finding in found}
    wrong_way_round = verify(bundle, Given(evaluated, train, str(tmp_path / "cache")))
    places = {finding.place for finding in wrong_way_round if finding.status == WRONG}
    assert {"run.json: corpus: fingerprint", "eval.json: evaluated: corpus_fingerprint"} <= places


def test_the_same_run_gives_the_same_bytes(run_folder: Path) -> None:
    before = contents(write_bundle(run_folder))
    assert contents(write_bundle(run_folder)) == before
    (run_folder / "bundle" / "mine.txt").write_text("of somebody else")
    assert contents(write_bundle(run_folder)) == {**before, "mine.txt": b"of somebody else"}


def test_what_came_after_the_run_does_not_make_another_bundle(run_folder: Path) -> None:
    before = contents(write_bundle(run_folder))
    with (run_folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": "2030-01-01T00:00:00Z", "rank": 0, "event": "push", "commit": "c" * 40}) + "\n")
    assert contents(write_bundle(run_folder)) == before
    assert json.loads(before["events.jsonl"].splitlines()[-1])["event"] == "stop"
    assert [finding for finding in verify(run_folder) if finding.status == WRONG] == []


def test_queries_have_a_hash_instead_of_their_id(run_folder: Path) -> None:
    name = "evaluations/after/per_query.parquet"
    own, shown = (pyarrow.parquet.read_table(path / name) for path in (run_folder, write_bundle(run_folder)))
    ids = own["query_id"].to_pylist()
    assert shown["query_id"].to_pylist() == [hashlib.sha256(id.encode()).hexdigest()[:16] for id in ids]
    assert len({*ids}) > 1
    assert shown.schema == own.schema
    places = {finding.place for finding in verify(run_folder) if finding.check == "copies" and finding.status == OK}
    assert name in places
    values = own["MAP"].to_pylist()
    other = own.set_column(own.column_names.index("MAP"), "MAP", pa.array([1 - value for value in values]))
    pyarrow.parquet.write_table(other, run_folder / name)
    wrong = [finding.place for finding in verify(run_folder) if finding.status == WRONG]
    assert wrong == [name], "the copy is compared by its values"


def test_nothing_secret_and_no_path_of_the_machine_is_in_it(run_folder: Path) -> None:
    place = str(run_folder.parent)
    change(run_folder / "run.json", {"config.cache_dir": f"{place}/cache", "config.hub_token": TOKEN})
    log = run_folder / "events.jsonl"
    *lines, last = log.read_text().splitlines(keepends=True)
    lines += [json.dumps({"event": "retry", "problem": f"no answer for {TOKEN} from {place}/x"}) + "\n", last]
    log.write_text("".join(lines))
    bundle = contents(write_bundle(run_folder))
    assert b'"problem": "no answer for hf_*** from x"' in bundle["events.jsonl"]
    for name, content in bundle.items():
        assert TOKEN.encode() not in content, name
        assert place.encode() not in content, name
    assert [finding for finding in verify(run_folder) if finding.status == WRONG] == []


def test_the_lock_has_every_distribution_and_its_version(run_folder: Path) -> None:
    lines = (write_bundle(run_folder) / "requirements.txt").read_text().splitlines()
    assert re.match(r"# Python 3\.\d+\.\d+", lines[0])
    names = [line.partition("==")[0] for line in lines[1:]]
    assert names == sorted(set(names))
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+!-]+", line) for line in lines[1:])
    for name in ("torch", "numpy", "huggingface-hub"):
        assert f"{name}=={importlib.metadata.version(name)}" in lines


def test_of_two_releases_the_one_that_is_imported_counts_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / "numpy-0.9.dist-info"
    stale.mkdir()
    (stale / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        environment()["versions"]["numpy"]
        == find_installed_version("numpy")
        == find_installed_versions()["numpy"]
        == "0.9"
    )


def test_the_processor_is_named_as_the_kernel_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nmodel name\t: Fast (R) One: the second\nprocessor\t: 1\nmodel name\t: Other\n")
    monkeypatch.setattr(environment_module, "_CPU_INFO", told)
    assert environment()["cpu"].startswith("Fast (R) One: the second, ")
    told.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")  # as on ARM
    assert re.fullmatch(r"\w.*, \w+", environment()["cpu"])


def test_values_that_are_too_large_are_left_out_and_said_to_be(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_folder / "evaluations" / "after" / "per_query.parquet"
    assert RunFolder(run_folder).read_eval()["values_bytes"] == {"after": values.stat().st_size}
    with monkeypatch.context() as patched:
        for module in (bundle_module, card_sections, files):
            patched.setattr(module, "MOST_VALUES_BYTES", 1000)
        write_card(run_folder)
        bundle = write_bundle(run_folder)
        assert "evaluations/after/per_query.parquet" not in list_bundle(bundle)
        assert "were too large to publish" in (bundle / "README.md").read_text()
        found = verify(run_folder)
    assert [finding for finding in found if finding.status == WRONG] == []
    unknown = {finding.place: finding.reason for finding in found if finding.status == UNKNOWN}
    for place in ("evaluations/after/per_query.parquet", "eval.json: after"):
        assert re.fullmatch("the scores of single queries, 0 MiB, were too large for the bundle", unknown[place])
    # with the bound as it is, nobody believes that
    places = {finding.place for finding in verify(run_folder) if finding.status == WRONG}
    assert "evaluations/after/per_query.parquet" in places


def test_the_checkpoint_that_was_taken_is_told_of(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "multilingual/MAP",
        "greater_is_better": False,
    }
    options |= {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 6}
    options |= {"gradient_accumulation_steps": 1, "evaluate_before": False}
    folder = finished_run(tmp_path, **options)
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    step = RunFolder(folder).read_run()["model"]["step"]
    assert step == state["best_global_step"] < 6
    weights = [load_file(path / "model.safetensors") for path in (folder / f"checkpoint-{step}", folder / "model")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    bundle = write_bundle(folder)
    card = (bundle / "README.md").read_text()
    assert f"| Checkpoint | step {step}, the best by multilingual/MAP on the evaluation corpus |" in card
    assert "was chosen by multilingual/MAP on the evaluation corpus, so the scores are optimistic." in card
    assert [finding for finding in verify(bundle) if finding.status == WRONG] == []
    change(bundle / "run.json", {"model.step": 5})
    wrong = {finding.place: finding.reason for finding in verify(bundle) if finding.status == WRONG}
    assert wrong["run.json: model: step"] == "expected one of the steps 2, 4, 6, found 5"


def test_a_bundle_that_is_made_elsewhere_keeps_the_lock(run_folder: Path) -> None:
    change(run_folder / "run.json", {"environment.versions.torch": "0.1"})
    with pytest.raises(ValueError, match=r"The run was made with torch 0\.1, and .* is installed here"):
        write_bundle(run_folder)
    assert not (run_folder / "bundle").exists()
    (run_folder / "bundle").mkdir()
    versions = RunFolder(run_folder).read_run()["environment"]["versions"]
    lock = "".join(f"{name}=={version}\n" for name, version in versions.items())
    (run_folder / "bundle" / "requirements.txt").write_text(lock)
    assert (write_bundle(run_folder) / "requirements.txt").read_text() == lock


def test_a_card_that_is_not_of_the_records_is_not_taken(run_folder: Path) -> None:
    card = run_folder / "README.md"
    told = card.read_text()
    card.write_text(told + "The best model.\n")
    bundle = write_bundle(run_folder)
    assert (bundle / "README.md").read_text() == told
    assert card.read_text().endswith("The best model.\n"), "it is its owner's"
    line = len(told.split("\n"))
    assert [found.place for found in verify(run_folder) if found.status == WRONG] == [f"README.md, line {line}"]


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_a_run_that_has_not_finished_has_none(status: str, run_folder: Path) -> None:
    change(run_folder / "run.json", {"status": status})
    with pytest.raises(ValueError, match=f"the run is {status}, and only a finished run has a bundle"):
        write_bundle(run_folder)


def test_where_it_cannot_be_made_the_former_one_stays(run_folder: Path) -> None:
    before = contents(write_bundle(run_folder))
    (run_folder / "model" / "manifest.json").unlink()
    with pytest.raises(OSError, match=r"manifest\.json"):
        write_bundle(run_folder)
    assert contents(run_folder / "bundle") == before
    assert [path.name for path in run_folder.glob(".*")] == []
