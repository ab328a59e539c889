"""What the tests of pushes share: a run to push, the command, and the search for a token that has got out."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

from hf_hybrid.hub.bundle import write_bundle
from hf_hybrid.hub.model_card import write_card
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.run import run_training
from tests.support.hub.server import HubServer
from tests.support.recipe_runs import REPOSITORY
from tests.support.toy_runs import At, ToyTrainer, toy_trainer
from tests.support.toys import toy_corpus

TOKEN = "hf_" + "wR1te" * 7
OTHERS = "hf_" + "g4est" * 7  # somebody else's
USERS = {TOKEN: "user", OTHERS: "guest"}
REPO = "user/name"
MODEL = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
}  # fmt: skip
RECORDS = {"README.md", "run.json", "plan.json", "eval.json", "resources.json", "resources.jsonl", "card.json"}
BUNDLE = {f"bundle/{name}" for name in RECORDS} | {
    "bundle/events.jsonl", "bundle/requirements.txt", "bundle/model.json", "bundle/manifest.json",
    "bundle/evaluations/before/per_query.parquet", "bundle/evaluations/after/per_query.parquet",
}  # fmt: skip
PICTURES = {
    f"{place}pictures/pairs_{name}.png" for place in ("", "bundle/") for name in ("after", "change")
}  # of several languages
HUBS_OWN = {".gitattributes"}
LAYOUT = MODEL | RECORDS | BUNDLE | HUBS_OWN


class Answer(NamedTuple):
    """How a command ended, and all that it printed."""

    status: int
    printed: str


def run_of(folder: Path, *callbacks: At, languages: Sequence[str] = ("de",), **options: Any) -> ToyTrainer:
    """Train a toy in a run folder, to the end if nothing is in the way; with one language there are no pictures."""
    train, held_out = toy_corpus(num_items=60, languages=languages).split(0.2)
    settings = {"max_steps": 4, "save_steps": 2, "log_level": "error", "mix": "mono=1", **options}
    trainer = toy_trainer(folder, train, *callbacks, eval_corpus=held_out, **settings)
    run_training(trainer, RunFolder(folder), [trainer.args])
    return trainer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of its own for a test, which is logged in and waits for nothing."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubServer(tmp_path / "hub", tokens=USERS) as server, no_waiting(), same_logging():
        yield server


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the module's run, to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "mine"))


def published_run(folder: Path, **options: Any) -> Path:
    """A finished run with its card and its bundle."""
    run_of(folder, **options)
    write_card(folder, {"repo_id": REPO})
    write_bundle(folder)
    return folder


def push_command(*words: object) -> Answer:
    """`python recipes/push.py WORDS`, in this process: a new one would take seconds to import."""
    printed, before, status = io.StringIO(), sys.argv, 0
    sys.argv = ["push.py", *map(str, words)]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), same_logging():
            runpy.run_path(str(REPOSITORY / "recipes" / "push.py"), run_name="__main__")
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    finally:
        sys.argv = before
    return Answer(status, printed.getvalue())


@contextlib.contextmanager
def same_logging() -> Iterator[None]:
    """The package's logger, and that of the client, are as they were before; the client's lines are captured too."""
    ours, clients = logging.getLogger("hf_hybrid"), logging.getLogger("huggingface_hub")
    state, lines = (ours.handlers[:], ours.level, ours.propagate), logging.StreamHandler(sys.stderr)
    clients.addHandler(lines)
    try:
        yield
    finally:
        clients.removeHandler(lines)
        ours.handlers[:], ours.level, ours.propagate = state


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Pauses before another try are cut short, the client's own too."""
    sleep = time.sleep
    with mock.patch("time.sleep", lambda seconds: sleep(min(seconds, 0.01))):
        yield


def leaks(hub: HubServer, folder: Path, printed: str) -> list[str]:
    """Places where a token is that no token may be: all but the header that is for it."""
    secret = TOKEN.encode()
    found = ["what was printed"] if TOKEN in printed else []
    for root in (folder, hub.root):
        found += [str(path) for path in root.rglob("*") if path.is_file() and secret in path.read_bytes()]
    for request in hub.requests:
        headers = {name: value for name, value in request.headers.items() if name != "authorization"}
        if TOKEN in request.path or TOKEN in str(headers) or secret in request.body:
            found.append(f"{request.method} {request.path}")
    assert any(TOKEN in request.headers.get("authorization", "") for request in hub.requests) or not hub.requests
    assert os.environ["HF_TOKEN"] == TOKEN
    return found
