"""Lines about a run: they parse, they reach their files, and no secret is in them."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.records import events
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.arguments import DataArguments
from hf_hybrid.training.interruption import HEARTBEAT_NAME, Interrupted
from hf_hybrid.training.run import run_training
from hf_hybrid.utils.redaction import redact, redact_json
from tests.support.toy_runs import CORPUS, At, ToyTrainer, run, same_weights, toy_trainer
from tests.support.toys import toy_corpus

pytestmark = pytest.mark.usefixtures("one_thread")
TOKEN = "hf_" + "aB3" * 11 + "x"
SECRETS = {
    TOKEN: "a token of the Hub",
    f"https://me:pa@ss@hub.example/{TOKEN}": "pa@ss",
    "https://user:s3cr3t@host/x.jsonl?api_key=s3cr3t&x=1": "s3cr3t",
    "GET /x?access_token=s3cr3t&signature=s3cr3t": "s3cr3t",
    "{'Authorization': 'Bearer s3cr3t.s3cr3t'}": "s3cr3t",
    'url "http://host?token=s3cr3t"': "s3cr3t",
    "login with my-own-secret": "my-own-secret",
    "ghp_" + "s3cr3t" * 6: "a token of GitHub",
    "github_pat_11s3cr3t_s3cr3t": "another one",
    "AKIA" + "S3CR3T00" * 2: "a key of AWS",
    "sk-proj-" + "s3cr3t" * 4: "a key of a model's provider",
    "hub_token: s3cr3t": "in YAML",
    '{"api_key": "s3cr3t"}': "in JSON",
    r'said "{\"password\": \"s3cr3t\"}"': "in JSON in a text",
    "secret = 's3cr3t'": "in Python",
}


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """That of the package, as it was before."""
    found = logging.getLogger("hf_hybrid")
    state = found.handlers[:], found.level, found.propagate
    yield found
    for handler in found.handlers:
        if handler not in state[0]:
            handler.close()
    found.handlers[:], found.level, found.propagate = state


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return toy_corpus(**CORPUS)


def read_events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]


class TestSecrets:
    @pytest.mark.parametrize("text", SECRETS)
    def test_they_are_in_no_line_and_no_file(
        self, text: str, logger: logging.Logger, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor in the text of an error, and each line of JSON is still one."""
        monkeypatch.setenv("HF_TOKEN", "my-own-secret")
        monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "")
        events.configure(logging.INFO, tmp_path)
        try:
            raise ValueError(f"cannot open {text}")
        except ValueError as error:
            events.event("stop", logging.ERROR, reason=f"{type(error).__name__}: {error}", all=[text], error=error)
            logger.exception("it ended")
        printed, (line,) = capsys.readouterr().err, read_events(tmp_path)
        for found in (printed, json.dumps(line), json.dumps(redact_json({"a": [text], "b": (text,)}))):
            assert not re.search(r"(?i)s3cr3t|my-own-secret|pa@ss|@ss|hf_aB3", found), found
            assert "***" in found
        assert "Traceback" in printed

    @pytest.mark.parametrize(
        "text",
        [
            "runs/hf_hybrid/x",
            "num_tokens=12 chunk_tokens=40",
            "a@b.example",
            "https://host/a",
            "basic",
            "50 %",
            "sk-cs_in-equal-shares-hybrid",
            "tokens: 12",
            "github",
            "AKIA12",
        ],
    )
    def test_other_text_is_left_as_it_is(self, text: str) -> None:
        assert redact(text) == text
        assert redact_json({"n": 3, "x": None, "t": text}) == {"n": 3, "x": None, "t": text}


class TestLines:
    def test_a_line_is_a_time_a_rank_a_name_and_facts(
        self, logger: logging.Logger, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events.configure(logging.INFO, tmp_path)
        facts: dict[str, Any] = {
            "step": 3,
            "path": tmp_path,
            "reason": 'told "so": a=b',
            "MAP": 0.25,
            "note": "größer\nals",
        }
        events.event("checkpoint", **facts)
        events.event("warning", logging.WARNING, problem="x")
        first, second = capsys.readouterr().err.splitlines()
        time, rank, name, *words = shlex.split(first)
        assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(time.replace("Z", "+00:00"))) < timedelta(
            minutes=1
        )
        assert (rank, name) == ("rank=0", "checkpoint")
        found = dict(word.split("=", 1) for word in words)
        assert found["step"] == "3"
        assert found["path"] == str(tmp_path)
        assert found["reason"] == facts["reason"]
        assert float(found["MAP"]) == 0.25
        assert re.search(r"rank=0 WARNING warning problem=x$", second)
        lines = read_events(tmp_path)
        assert [line["event"] for line in lines] == ["checkpoint", "warning"]
        assert {key: lines[0][key] for key in facts} == {**facts, "path": str(tmp_path)}
        assert lines[0]["time"] == time

    def test_the_level_silences_stderr_and_not_the_file(
        self, logger: logging.Logger, tmp_path: Path, capsys: Any
    ) -> None:
        events.configure(logging.WARNING, tmp_path)
        events.event("checkpoint", step=1)
        logger.info("not an event")
        events.event("warning", logging.WARNING, problem="x")
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert [line["event"] for line in read_events(tmp_path)] == ["checkpoint", "warning"]

    def test_a_second_configuration_replaces_the_first(
        self, logger: logging.Logger, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder in (tmp_path / "a", tmp_path / "b"):
            events.configure(logging.INFO, folder)
        events.event("start")
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert (tmp_path / "a" / "events.jsonl").read_text() == ""
        monkeypatch.setenv("RANK", "1")
        events.configure(logging.INFO, tmp_path / "c")
        events.event("start")
        assert " rank=1 start" in capsys.readouterr().err
        assert not (tmp_path / "c").exists(), "the first process alone writes"


class TestRuns:
    @pytest.mark.slow
    def test_the_events_and_signs_of_life_of_a_run(
        self, corpus: ParallelCorpus, tmp_path: Path, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is stopped in its first evaluation, stopped in training, and then finishes."""
        train, held_out = corpus.split(0.2)
        beats: list[dict[str, Any]] = []
        real = ToyTrainer.score

        def score(trainer: ToyTrainer, of: ParallelCorpus, details: Any = None) -> Any:
            beats.append(json.loads((tmp_path / "run" / HEARTBEAT_NAME).read_text()))
            return real(trainer, of, details)

        monkeypatch.setattr(ToyTrainer, "score", score)
        folder = RunFolder(tmp_path / "run")

        def call(*callbacks: At, **changes: Any) -> Any:
            options = {"max_steps": 5, "max_eval_queries": 5, "log_level": "warning", "hub_token": TOKEN, **changes}
            trainer = toy_trainer(folder.path, train, *callbacks, eval_corpus=held_out, **options)
            data = DataArguments(train_corpus="https://me:s3cr3t@host/x?token=s3cr3t")
            return run_training(trainer, folder, [data, trainer.args]), trainer

        with pytest.raises(Interrupted):
            call(At("on_step_begin", 2, lambda **_: os.kill(os.getpid(), 15)))
        assert folder.read_run()["status"] == "interrupted"
        (first, trainer), told = call(), read_events(folder.path)
        assert folder.read_run()["status"] == "finished"
        assert first.trained
        names = [line["event"] for line in told]
        assert names == [
            "start", "evaluation", "checkpoint", "stop",
            "start", "resume", "checkpoint", "checkpoint", "evaluation", "stop",
        ]  # fmt: skip
        assert [line.get("step") for line in told if line["event"] == "checkpoint"] == [3, 4, 5]
        assert [line["when"] for line in told if line["event"] == "evaluation"] == ["before", "after"]
        assert told[-1]["reason"] == "finished"
        assert [beat["phase"] for beat in beats] == ["evaluating before training", "evaluating after training"]
        last = json.loads((folder.path / HEARTBEAT_NAME).read_text())
        assert set(last) == {"time", "phase", "step", "max_steps", "host", "pid"}
        assert (last["phase"], last["step"], last["max_steps"]) == ("finished", 5, 5)
        assert (last["host"], last["pid"]) == (socket.gethostname(), os.getpid())
        age = datetime.now(timezone.utc) - datetime.fromisoformat(last["time"].replace("Z", "+00:00"))
        assert age < timedelta(seconds=60)
        written = (folder.path / "run.json").read_text()
        assert "host/x" in written
        assert "s3cr3t" not in written
        assert TOKEN not in written

        # A third call finds all done, and measures nothing; other evaluation settings are measured alone.
        before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.name != "run.lock"}
        (again, _) = call()
        assert (again.trained, again.before, again.after) == (False, first.before, first.after)
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert same_weights(trainer, run(tmp_path / "alone", train, max_steps=5))

    def test_a_failure_is_told(self, corpus: ParallelCorpus, tmp_path: Path, logger: logging.Logger) -> None:
        train, held_out = corpus.split(0.2)

        def fail(**_: Any) -> None:
            raise RuntimeError("no luck")

        options: dict[str, Any] = {"evaluate_before": False, "max_eval_queries": 5}
        trainer = toy_trainer(tmp_path / "run", train, At("on_step_begin", 1, fail), eval_corpus=held_out, **options)
        with pytest.raises(RuntimeError, match="no luck"):
            run_training(trainer, RunFolder(tmp_path / "run"), [trainer.args])
        assert RunFolder(tmp_path / "run").read_run()["status"] == "failed"
        last = read_events(tmp_path / "run")[-1]
        assert (last["event"], last["reason"]) == ("stop", "RuntimeError: no luck")
