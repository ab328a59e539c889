"""Pushes in the midst of training and at its end: what lands, and that no failure of theirs costs the run anything."""

from __future__ import annotations

import json
import os
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_hybrid.hub import errors
from hf_hybrid.hub.commit import PushOptions
from hf_hybrid.hub.errors import HubError
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.training.hub_push import HubPushCallback
from hf_hybrid.training.interruption import Interrupted
from tests.support import pushes
from tests.support.hub.server import HubServer, api
from tests.support.pushes import (
    BUNDLE,
    HUBS_OWN,
    LAYOUT,
    MODEL,
    PICTURES,
    RECORDS,
    REPO,
    TOKEN,
    leaks,
    push_command,
    run_of,
)
from tests.support.toy_runs import At, Kill, kill, toy_trainer
from tests.support.toys import toy_corpus

pytestmark = pytest.mark.usefixtures("one_thread")
hub = pushes.hub
PUSH: dict[str, Any] = {"push_to_hub": True, "hub_model_id": REPO, "hub_always_push": True}
STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "hybrid_state.json", "manifest.json"}


def titles(hub: HubServer) -> list[str]:
    return [commit.title for commit in reversed(hub.repo(REPO).commits())]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == name]


def loaded(hub: HubServer, oid: str, folder: Path) -> HybridEncoder:
    """A model from the files of a commit."""
    for name, content in hub.repo(REPO).files(oid).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return HybridEncoder.from_pretrained(str(folder))


def vectors(model: HybridEncoder) -> torch.Tensor:
    return torch.as_tensor(model.encode(["en1 river stone", "de2 winter"], "query"))


@pytest.mark.slow
def test_a_run_is_pushed_at_its_checkpoints_and_at_its_end(hub: HubServer, tmp_path: Path) -> None:
    run = tmp_path / "mine"
    trainer = run_of(run, languages=("de", "en"), **PUSH, hub_token=TOKEN)
    assert titles(hub)[1:3] == ["Training in progress, step 2", "Training in progress, step 4"]
    assert len(titles(hub)) == 4
    last, _, first, _ = hub.repo(REPO).commits()
    files = hub.repo(REPO).files(first.oid)
    assert {name for name in files if "/pairs_" not in name} == LAYOUT - BUNDLE
    assert "running" in files["README.md"].decode()
    assert json.loads(files["run.json"])["status"] == "running"
    with torch.no_grad():
        of_checkpoint = vectors(HybridEncoder.from_pretrained(str(run / "checkpoint-2")))
        assert torch.equal(vectors(loaded(hub, first.oid, tmp_path / "first")), of_checkpoint)
        final = vectors(loaded(hub, last.oid, tmp_path / "last"))
        torch.testing.assert_close(final, vectors(trainer.model))
        assert not torch.allclose(final, of_checkpoint, atol=1e-4)

    files = hub.repo(REPO).files()
    assert set(files) == LAYOUT | PICTURES
    assert files["README.md"] == (run / "README.md").read_bytes()
    assert "running" not in files["README.md"].decode()
    assert json.loads(files["run.json"])["status"] == "finished"
    assert json.loads(files["eval.json"])["after"] is not None
    assert hub.repo(REPO).settings["private"]
    assert [line["commit"] for line in events(run, "push")] == [
        commit.oid for commit in reversed(hub.repo(REPO).commits())
    ][1:]
    assert not list(run.glob(".unfinished*"))
    assert leaks(hub, run, "") == []

    # All done: neither another call nor the command has anything to add.
    run_of(run, languages=("de", "en"), **PUSH, hub_token=TOKEN)
    assert "Nothing has changed since commit" in push_command(run, "--repo_id", REPO).printed
    assert len(titles(hub)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "numbers", "during", "after"),
    [
        ("end", 1, None, []),
        ("checkpoint", 3, ["last-checkpoint"], []),
        ("all_checkpoints", 3, ["checkpoint-2"], ["checkpoint-2", "checkpoint-4"]),
    ],
)
def test_the_strategy_says_what_is_pushed(
    strategy: str, numbers: int, during: list[str] | None, after: list[str], hub: HubServer, tmp_path: Path
) -> None:
    run = tmp_path / "mine"
    best: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "multilingual/MAP"}
    run_of(run, **PUSH, **best, hub_strategy=strategy, hub_private_repo=False, hub_revision="trained")
    commits = hub.repo(REPO).commits("trained")
    assert len(commits) == numbers + 1
    assert not hub.repo(REPO).settings["private"]
    assert set(hub.repo(REPO).files()) == HUBS_OWN, "main is untouched"

    def beside(oid: str) -> set[str]:
        return {name for name in hub.repo(REPO).files(oid) if "checkpoint" in name}

    whole = MODEL | STATE
    assert beside(commits[0].oid) == {f"{place}/{name}" for place in after for name in whole}
    for commit in commits:
        for name, content in hub.repo(REPO).files(commit.oid).items():
            assert str(tmp_path).encode() not in content, name
    evaluated_on_the_way = {"curve.jsonl", "bundle/curve.jsonl"}
    assert set(hub.repo(REPO).files("trained")) - beside(commits[0].oid) == LAYOUT | evaluated_on_the_way
    if during is not None:
        assert beside(commits[-2].oid) == {f"{place}/{name}" for place in during for name in whole}
        found = hub.repo(REPO).files(commits[-2].oid)
        assert found[f"{during[0]}/optimizer.pt"] == (run / "checkpoint-2" / "optimizer.pt").read_bytes()
    answer = push_command(run, "--repo_id", REPO, "--revision", "trained")
    assert "Nothing has changed since commit" in answer.printed, "what stays for good is not deleted by a later push"


@pytest.mark.parametrize(("always", "number"), [(False, 1), (True, 2)])
def test_a_push_that_takes_long_is_not_waited_for(
    always: bool, number: int, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training comes to its last checkpoint while the first is being pushed."""
    there, pushed = threading.Event(), list[str | None]()

    def slow(_folder: Path, _files: object, _repo_id: str, options: PushOptions, **__: object) -> None:
        assert there.wait(timeout=60)
        pushed.append(options.commit_message)

    monkeypatch.setattr("hf_hybrid.training.hub_push.push_files", slow)
    run_of(tmp_path / "mine", At("on_train_end", 4, lambda **_: there.set()), **PUSH | {"hub_always_push": always})
    assert pushed == ["Training in progress, step 2", "Training in progress, step 4"][:number]
    assert set(hub.repo(REPO).files()) == LAYOUT


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "commit", "status": 403, "times": 2},
        {"operation": "lfs_upload", "action": "truncate", "times": 12},
        {"operation": "preupload", "action": "hang", "times": 12},
    ],
    ids=lambda fault: f"{fault['operation']} {fault.get('status') or fault.get('action')}",
)
def test_a_push_that_fails_on_the_way_costs_nothing(
    fault: dict[str, Any], hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "TIMEOUT_S", 0.1)
    hub.fail(**fault)
    run = tmp_path / "mine"
    run_of(run, **PUSH)
    assert RunFolder(run).read_run()["status"] == "finished"
    warnings = [line["problem"] for line in events(run, "warning")]
    assert warnings
    assert all(text.startswith("not pushed, and the run continues: user/name: ") for text in warnings)
    assert len(warnings) + len(events(run, "push")) == 3
    assert set(hub.repo(REPO).files()) == LAYOUT, "the end sets it right"
    assert not list(run.glob(".unfinished*"))
    assert leaks(hub, run, "") == []


def test_whatever_goes_wrong_with_a_push_on_the_way_training_goes_on(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"no luck with {TOKEN}")

    monkeypatch.setattr("hf_hybrid.training.hub_push.push_files", broken)
    run_of(tmp_path / "mine", **PUSH)
    warnings = [line["problem"] for line in events(tmp_path / "mine", "warning")]
    assert warnings == ["not pushed, and the run continues: no luck with ***"] * 2
    assert set(hub.repo(REPO).files()) == LAYOUT


def test_a_push_that_fails_at_the_end_leaves_the_run_and_says_how_to_complete_it(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mine"
    hub.fail("commit", status=403)
    with pytest.raises(HubError, match=r"The run is safe in .*mine; only its push failed") as caught:
        run_of(run, **PUSH, hub_strategy="end", hub_revision="v1")
    assert RunFolder(run).read_run()["status"] == "finished"
    assert RunFolder(run).read_eval()["after"] is not None
    assert set(hub.repo(REPO).files("v1")) == HUBS_OWN
    command = re.search(r"Then push it with: (.*)$", str(caught.value))
    assert command is not None
    python, recipe, *words = shlex.split(command[1])
    assert (python, recipe) == ("python", "recipes/push.py")
    assert push_command(*words).status == 0
    assert set(hub.repo(REPO).files("v1")) == LAYOUT


def test_the_same_training_command_completes_a_push(hub: HubServer, tmp_path: Path) -> None:
    hub.fail("commit", status=403)
    with pytest.raises(HubError):
        run_of(tmp_path / "mine", **PUSH, hub_strategy="end")
    trainer = run_of(tmp_path / "mine", **PUSH, hub_strategy="end")
    assert not hasattr(trainer, "step_losses"), "nothing was trained"
    assert set(hub.repo(REPO).files()) == LAYOUT


def test_what_can_be_known_is_known_before_training(hub: HubServer, tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "mine", toy_corpus(), **PUSH)
    assert hub.requests == [], "a trainer alone asks the Hub nothing: it may be for a dry run"
    hub.fail("create_repo", status=403)
    with pytest.raises(HubError, match="This token may not write there"):
        trainer.train()
    assert trainer.state.global_step == 0
    hub.fail("info", status=503, times=6)
    trainer.train()
    assert trainer.state.global_step == 10, "the Hub may be well again when there is something to push"


def test_a_damaged_record_of_pushes_is_told_to_all_processes(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, told = toy_trainer(tmp_path / "mine", toy_corpus(), **PUSH), list[object]()
    (tmp_path / "mine" / "hub.json").write_text("{")

    def from_first(problem: object) -> object:
        told.append(problem)
        return problem

    monkeypatch.setattr("hf_hybrid.training.hub_push.distributed.from_first", from_first)
    with pytest.raises(HubError, match=r"hub\.json cannot be read .*\. Move it away"):
        trainer.hub.open()
    assert len(told) == 1, "the other processes would wait for ever"


def test_a_run_that_goes_on_is_not_kept_from_it_by_the_hub(hub: HubServer, tmp_path: Path) -> None:
    kill_at_3 = At("on_step_begin", 3, kill)
    with pytest.raises(Kill):
        run_of(tmp_path / "mine", kill_at_3, **PUSH, hub_strategy="end")
    api(hub, TOKEN).upload_file(path_or_fileobj=b"# Theirs", path_in_repo="README.md", repo_id=REPO)
    with pytest.raises(HubError, match=r"The run is safe.*nothing was pushed from here.*push\.py --overwrite"):
        run_of(tmp_path / "mine", **PUSH, hub_strategy="end")
    assert RunFolder(tmp_path / "mine").read_run()["status"] == "finished"
    assert hub.repo(REPO).files()["README.md"] == b"# Theirs"
    with pytest.raises(HubError, match=r"nothing was pushed from here.*Or choose another hub_model_id"):
        run_of(tmp_path / "another", **PUSH)
    assert not (tmp_path / "another" / "run.json").exists()


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_does_not_begin_a_push(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = At("on_step_begin", 2, lambda **_: os.kill(os.getpid(), 15))
    with monkeypatch.context() as patched:
        patched.setattr(HubPushCallback, "_start", lambda *_: pytest.fail("there is no time for it"))
        with pytest.raises(Interrupted):
            run_of(tmp_path / "mine", stop, **{**PUSH, "save_steps": 3})
    assert (tmp_path / "mine" / "checkpoint-3").exists()
    assert set(hub.repo(REPO).files()) == HUBS_OWN
    answer = push_command(tmp_path / "mine", "--repo_id", REPO)
    assert answer.status == 2
    assert "its status is 'interrupted'" in answer.printed
    assert "--unfinished" in answer.printed
    assert push_command(tmp_path / "mine", "--repo_id", REPO, "--unfinished").status == 0
    files = hub.repo(REPO).files()
    assert set(files) == MODEL | HUBS_OWN | RECORDS
    assert "interrupted" in files["README.md"].decode()
    run_of(tmp_path / "mine", **PUSH)
    assert set(hub.repo(REPO).files()) == LAYOUT


def test_nothing_is_asked_of_the_hub_by_default(hub: HubServer, tmp_path: Path) -> None:
    run_of(tmp_path / "mine")
    assert hub.requests == []
    assert (tmp_path / "mine" / "README.md").exists()


def test_a_card_that_cannot_be_written_does_not_fail_the_run(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no card")

    monkeypatch.setattr("hf_hybrid.training.run.write_card", broken)
    run_of(tmp_path / "mine")
    assert RunFolder(tmp_path / "mine").read_run()["status"] == "finished"
    assert [line["problem"] for line in events(tmp_path / "mine", "warning")] == [
        "the model card or the bundle could not be written: OSError: no card"
    ]


def test_a_trainer_alone_pushes_its_model(hub: HubServer, tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "mine", toy_corpus(), max_steps=2, hub_model_id=REPO)
    trainer.train()
    pushed = trainer.push_to_hub("My model")
    assert pushed.commit.oid == hub.repo(REPO).commits()[0].oid
    assert titles(hub) == ["initial commit", "My model"]
    assert set(hub.repo(REPO).files()) == MODEL | HUBS_OWN | {"resources.json", "resources.jsonl"}
    assert trainer.push_to_hub("Again", blocking=False, revision="other") is None
    trainer._finish_current_push()
    assert set(hub.repo(REPO).files("other")) == set(hub.repo(REPO).files())
    with pytest.raises(ValueError, match="push_to_hub does not take tags"):
        trainer.push_to_hub(tags=["mine"])
    trainer.args.hub_model_id = None
    with pytest.raises(ValueError, match="hub_model_id"):
        trainer.push_to_hub()


def test_another_process_than_the_first_does_not_push(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(tmp_path / "mine", toy_corpus(), max_steps=2, hub_strategy="every_save", **PUSH)
    monkeypatch.setattr("hf_hybrid.utils.distributed.rank", lambda: 1)
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    calls: list[Callable[[], object]] = [
        trainer.hub.open,
        trainer.hub.push_finished_run,
        lambda: trainer.hub.on_save(trainer.args, trainer.state, trainer.control),
        trainer.create_model_card,
        trainer.push_to_hub,
    ]
    assert [call() for call in calls] == [None] * 5
    trainer._finish_current_push()
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"push_to_hub": True}, "hub_model_id=None is not supported: push_to_hub needs the repository"),
        ({"push_to_hub": True, "hub_model_id": "name"}, "hub_model_id='name' is not supported"),
        (PUSH | {"save_strategy": "no"}, "push_to_hub=True is not supported: without checkpoints"),
    ],
)
def test_options_that_cannot_be_honored(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        HybridTrainingArguments(str(tmp_path), use_cpu=True, **options)


def test_the_end_needs_no_checkpoints(tmp_path: Path) -> None:
    HybridTrainingArguments(str(tmp_path), use_cpu=True, **PUSH, save_strategy="no", hub_strategy="end")
