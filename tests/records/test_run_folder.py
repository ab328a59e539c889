"""The run folder: strict JSON, whole files or none, versions refused by name, torn lines counted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from hf_hybrid.records import run_folder
from hf_hybrid.records.resources import empty_line
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import CardOptions, Evaluation, ResourceLine, Resources, Run, Scores


def make_run(status: str = "running") -> Run:
    return {
        "config": {"learning_rate": 2e-5},
        "changed": [],
        "corpus": {"fingerprint": "f", "items_per_language": {"de": 3, "zh": 2}, "license": None, "source": {}},
        "mix": "mono=0.5,cross=0.5",
        "plan": {"de->zh": {"steps": 2, "pairs": 8}},
        "seed": 0,
        "world_size": 1,
        "environment": {"devices": []},
        "status": status,
        "identity": {},
        "model": {},
    }


def make_line(step: int, loss: float | None = 1.5) -> ResourceLine:
    return {
        **empty_line(step),
        "time_s": 0.25,
        "pairs": 8,
        "tokens": 100,
        "padding_tokens": 4,
        "batch_type": "cross",
        "language_pair": "de->zh",
        "loss": loss,
        "host_memory_gib": 0.5,
    }


def make_resources() -> Resources:
    """Resources of a run on one process."""
    return {
        "train_time_s": 2.0,
        "setup_time_s": 1.0,
        "num_steps": 2,
        "num_pairs": 8,
        "tokens": 100,
        "padding_tokens": 4,
        "pairs_per_s": 4.0,
        "tokens_per_s": 50.0,
        "flops": None,
        "flops_formula": "f",
        "flops_terms": None,
        "mfu": None,
        "peak_device_memory_gib": None,
        "peak_host_memory_gib": [0.5],
        "energy_wh": None,
        "energy_source": None,
        "per_language": {"de": {"steps": 2, "tokens": 100, "time_s": 2.0}},
        "per_language_pair": {},
        "bytes_sent": None,
    }


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_each_document_is_read_as_it_was_written(folder: RunFolder) -> None:
    scores: Scores = {
        "monolingual": {"MAP": 0.9},
        "cross_lingual": {"MAP": 0.7},
        "multilingual": {"MAP": 0.6},
        "bias": {"rank_distance": 287.0},
        "pairs": {"de-zh": {"nDCG@10": 0.5}},
        "num_queries": 7,
    }
    evaluation: Evaluation = {"before": None, "after": scores, "evaluated": {"max_queries": 100}}
    folder.write_run(make_run())
    folder.write_eval(evaluation)
    assert folder.read_run() == make_run()
    assert folder.read_eval() == evaluation
    assert json.loads((folder.path / "run.json").read_text())["format"] == {
        "name": "hf_hybrid run folder",
        "version": 2,
    }


def test_resources_may_say_what_was_sent(folder: RunFolder) -> None:
    one_process = make_resources()
    counted: Resources = {**one_process, "bytes_sent": {"embeddings": 10, "weights": 20, "formula": "g"}}
    for resources in (one_process, counted):
        folder.write_resources(resources)
        assert folder.read_resources() == resources


def test_options_of_a_card_may_be_absent_or_none(folder: RunFolder) -> None:
    assert folder.read_card_options() == {}
    options: CardOptions = {"repo_id": "user/name", "license": None}
    folder.write_card_options(options)
    assert folder.read_card_options() == options
    with pytest.raises(ValueError, match=r"card\.json: missing \[\], unknown \['owner'\]; a CardOptions has repo_id"):
        folder.write_card_options(cast(CardOptions, {"owner": "ann"}))


def test_text_is_utf8_not_escapes(folder: RunFolder) -> None:
    run = make_run()
    run["config"]["languages"] = "日本語"
    folder.write_run(run)
    assert "日本語" in (folder.path / "run.json").read_text(encoding="utf-8")


def test_a_second_write_replaces_the_first(folder: RunFolder) -> None:
    folder.write_run(make_run("running"))
    folder.write_run(make_run("finished"))
    assert folder.read_run()["status"] == "finished"
    assert {path.name for path in folder.path.iterdir()} == {"run.json", "outputs.jsonl"}


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_run(make_run("running"))

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        folder.write_run(make_run("finished"))
    assert folder.read_run()["status"] == "running"
    assert {path.name for path in folder.path.iterdir()} == {"run.json", "outputs.jsonl"}


def test_unknown_status_is_refused(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"'done'.*running, finished, interrupted, failed"):
        folder.write_run(make_run("done"))


def test_missing_and_unknown_keys_are_named(folder: RunFolder) -> None:
    run: dict[str, Any] = {**make_run(), "sede": 1}
    del run["seed"]
    with pytest.raises(ValueError, match=r"run\.json: missing \['seed'\], unknown \['sede'\]"):
        folder.write_run(cast(Run, run))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_documents_refuse_numbers_that_json_lacks_and_say_where(folder: RunFolder, value: float) -> None:
    run = make_run()
    run["config"] = {"schedule": [0.1, {"warmup": value}]}
    with pytest.raises(ValueError, match=r"config: schedule\[1\]: warmup"):
        folder.write_run(run)
    assert not folder.path.exists()


def test_a_loss_that_is_not_finite_is_null_in_the_log(folder: RunFolder) -> None:
    folder.append_resource_line(make_line(1, float("nan")))
    assert "NaN" not in folder.resource_lines_path.read_text()
    assert folder.read_resource_lines() == ([make_line(1, None)], 0)


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_another_version_is_refused_by_name(folder: RunFolder, version: object) -> None:
    folder.write_run(make_run())
    path = folder.path / "run.json"
    content = json.loads(path.read_text())
    content["format"]["version"] = version
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"run\.json: written in version {version!r} .* reads version 2"):
        folder.read_run()


@pytest.mark.parametrize(
    "content", [b"[]", b'{"format": "other"}', b"{", b'{"mix": "\xff"}', b'{"mix": 1e999}', b"[" * 100_000]
)
def test_a_foreign_or_damaged_file_is_refused_with_its_path(folder: RunFolder, content: bytes) -> None:
    folder.path.mkdir()
    (folder.path / "eval.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"eval\.json: "):
        folder.read_eval()


def test_lines_are_appended(folder: RunFolder) -> None:
    assert folder.read_resource_lines() == ([], 0)
    for step in (1, 2):
        folder.append_resource_line(make_line(step))
    assert folder.read_resource_lines() == ([make_line(1), make_line(2)], 0)


def test_a_torn_last_line_is_counted_wherever_the_kill_fell(folder: RunFolder) -> None:
    folder.append_resource_line(make_line(1))
    whole = folder.resource_lines_path.read_bytes()
    for length in range(1, len(whole)):
        folder.resource_lines_path.write_bytes(whole + whole[:length])
        assert folder.read_resource_lines() == ([make_line(1)], 1)


def test_a_bad_line_before_the_last_is_refused_with_its_number(folder: RunFolder) -> None:
    folder.append_resource_line(make_line(1))
    with open(folder.resource_lines_path, "a") as file:
        file.write("oops\n")
    folder.append_resource_line(make_line(3))
    with pytest.raises(ValueError, match=r"resources\.jsonl, line 2: expected a JSON object, got b'oops'"):
        folder.read_resource_lines()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"5", "expected a JSON object"),
        (b'{"step": "1"}', "a whole number as its step"),
        (b'{"step": 1}', r"missing \['batch_type', "),
        (b'{"loss": NaN}', "NaN is not a finite number"),
        (b"[" * 100_000, "more levels or digits than can be read"),
        (b'{"step": 1, "step": 2}', "key 'step' twice in one object"),
    ],
)
def test_a_line_that_this_program_does_not_write_is_refused(folder: RunFolder, line: bytes, message: str) -> None:
    folder.path.mkdir()
    folder.resource_lines_path.write_bytes(line + b"\n")
    for read in (folder.read_resource_lines, lambda: folder.keep_resource_lines(1)):
        with pytest.raises(ValueError, match=rf"resources\.jsonl, line 1: .*{message}"):
            read()


def test_a_resumed_run_drops_later_and_torn_lines(folder: RunFolder) -> None:
    for step in (10, 20, 30):
        folder.append_resource_line(make_line(step))
    with open(folder.resource_lines_path, "a") as file:
        file.write('{"step": 4')
    folder.keep_resource_lines(last_step=20)
    folder.append_resource_line(make_line(30, 0.5))
    assert folder.read_resource_lines() == ([make_line(10), make_line(20), make_line(30, 0.5)], 0)


def test_every_schema_is_documented_in_the_module() -> None:
    for name in ("run.json", "resources.jsonl", "resources.json", "eval.json", "card.json"):
        assert name in (run_folder.__doc__ or "")
