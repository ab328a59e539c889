"""`recipes/push.py` where things go wrong: all of a commit is there or nothing, and the same command completes it.

    PUSH_FAULTS_TABLE=faults.md pytest tests/commands/test_push.py

appends a row for each fault to a Markdown table.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hf_hybrid.hub import errors
from hf_hybrid.hub.model_card import build_card, read_files, write_card
from tests.support import pushes
from tests.support.hub.server import HubServer, environment
from tests.support.pushes import (
    LAYOUT,
    OTHERS,
    PICTURES,
    RECORDS,
    REPO,
    TOKEN,
    Answer,
    leaks,
    published_run,
    push_command,
)
from tests.support.recipe_runs import REPOSITORY

pytestmark = pytest.mark.usefixtures("one_thread")
hub, run = pushes.hub, pushes.run
ALL = LAYOUT | PICTURES
BUNDLED_PICTURES = {name for name in PICTURES if name.startswith("bundle/")}
LARGE = {name for name in ALL if name.endswith((".safetensors", ".png", ".parquet"))}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_run(tmp_path_factory.mktemp("runs") / "mine", languages=("de", "en"))


class Fault(NamedTuple):
    """A row of the table.

    Args:
        what (`str`): The fault, in words.
        operation (`str`): Which requests it befalls.
        how (`dict`): As for `HubServer.fail`.
        said (`str`): Pattern of what the user must see.
    """

    what: str
    operation: str
    how: dict[str, Any]
    said: str


ALL_TRIES = 100
FAULTS = [
    Fault("401: the token is not known", "create_repo", {"status": 401}, "hf auth login.*HF_TOKEN"),
    Fault("403: the token may not write", "commit", {"status": 403}, "may not write.*write access.*settings/tokens"),
    Fault("404: no such namespace", "create_repo", {"status": 404}, "namespace does not exist.*spelling"),
    Fault("409: another change is under way", "commit", {"status": 409}, "Something else is changing.*Wait a minute"),
    Fault("412: somebody else has committed", "commit", {"status": 412}, "Somebody else committed.*--overwrite"),
    Fault("413: too large", "commit", {"status": 413}, "too large.*--dry_run"),
    Fault(
        "429: too many requests, for an hour",
        "commit",
        {"status": 429, "headers": {"Retry-After": "3600"}},
        r"limits the requests.*Wait 60 minute",
    ),
    Fault("429 again and again", "commit", {"status": 429, "times": ALL_TRIES}, "limits the requests.*Wait"),
    Fault("500 at each upload", "lfs_upload", {"status": 500, "times": ALL_TRIES}, "several times"),
    Fault("503 at each commit", "commit", {"status": 503, "times": ALL_TRIES}, "several times.*503"),
    Fault("no answer to any commit", "commit", {"action": "hang", "times": ALL_TRIES}, "several times.*Timeout"),
    Fault("each upload breaks off", "lfs_upload", {"action": "truncate", "times": ALL_TRIES}, "several times"),
    Fault("the storage is full", "lfs_batch", {"action": "quota"}, "storage of this namespace is full.*--repo_id"),
    Fault("500 where the card is looked at", "validate_yaml", {"status": 500, "times": ALL_TRIES}, "several times"),
]
PASSING = [
    Fault("429 once, with Retry-After", "commit", {"status": 429, "headers": {"Retry-After": "1"}}, "Pushed as"),
    Fault("503 three times", "commit", {"status": 503, "times": 3}, "Pushed as"),
    Fault("504 twice at the first look", "info", {"status": 504, "times": 2}, "Pushed as"),
    Fault("one upload breaks off", "lfs_upload", {"action": "truncate"}, "Pushed as"),
    Fault("the answer to the commit is lost", "commit", {"action": "drop_after"}, "Pushed as"),
    Fault("the answer to the commit breaks off", "commit", {"action": "drop"}, "Pushed as"),
]


def visible(hub: HubServer) -> set[str]:
    """What there is to see."""
    try:
        return set(hub.repo(REPO).files())
    except KeyError:
        return set()


def uploads(hub: HubServer) -> list[str]:
    """Large objects in the order that they were sent in."""
    return [request.path for request in hub.requests if request.method == "PUT" and "/lfs/" in request.path]


def note(what: str, first: Answer, there: set[str], second: Answer) -> None:
    if not (table := os.environ.get("PUSH_FAULTS_TABLE")):
        return
    path = Path(table)
    if not path.exists():
        path.write_text(
            "| fault | what the user saw | on the Hub then | the same command again |\n|---|---|---|---|\n"
        )
    cells = [what, first.printed, "all of it" if there == ALL else "nothing of it", second.printed]
    lines = [
        re.sub(r"^\S+ rank=0 .*$|^  .*$|.*HTTP Error.*|.*etrying in.*|.*thrown while.*", "", cell, flags=re.M)
        for cell in cells
    ]
    shown = [re.sub(r"\s+", " ", re.sub(r"127.0.0.1:\d+|/\S*/mine", "…", line)).strip() for line in lines]
    with path.open("a", encoding="utf-8") as file:
        file.write("| " + " | ".join(line.replace("|", "\\|") for line in shown) + " |\n")


@pytest.mark.parametrize("fault", [*FAULTS, *PASSING], ids=lambda fault: fault.what)
def test_a_fault(fault: Fault, run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "TIMEOUT_S", 0.2)
    passes = fault in PASSING
    hub.fail(fault.operation, **fault.how)
    first = push_command(run, "--repo_id", REPO)
    assert first.status == (0 if passes else 2), first.printed
    assert re.search(fault.said, first.printed), first.printed
    assert "Traceback" not in first.printed
    there = visible(hub)
    assert there == ALL if passes else there <= {".gitattributes"}
    if not passes:
        assert "Nothing of this push is visible there" in first.printed
    if fault.how.get("times") == ALL_TRIES:
        objects = len(LARGE) if fault.operation == "lfs_upload" else 1
        assert hub.count(fault.operation) <= 6 * objects, "what the client tries again is not tried again by us too"
    hub.heal()
    second = push_command(run, "--repo_id", REPO)
    assert second.status == 0, second.printed
    assert ("Nothing has changed since commit" in second.printed) == passes
    assert visible(hub) == ALL
    assert len(hub.repo(REPO).commits()) == 2, "the Hub's own, and one"
    assert hub.repo(REPO).settings["private"]
    assert leaks(hub, run, first.printed + second.printed) == []
    note(fault.what, first, there, second)


def test_a_kill_in_the_midst_of_the_upload(run: Path, hub: HubServer, tmp_path: Path) -> None:
    """What is up is not sent again."""
    hub.fail("lfs_upload", action="hang", after=1, times=ALL_TRIES)
    command = [sys.executable, str(REPOSITORY / "recipes" / "push.py"), str(run), "--repo_id", REPO]
    settings = {**environment(hub, tmp_path / "home", TOKEN), "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while hub.count("lfs_upload") < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    printed = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, printed
    there, sent = visible(hub), hub.count("lfs_upload")
    assert there == {".gitattributes"}
    hub.heal()
    second = push_command(run, "--repo_id", REPO)
    assert second.status == 0, second.printed
    assert visible(hub) == ALL
    objects, again = {*uploads(hub)}, {*uploads(hub)[sent:]}
    assert len(objects) == len(LARGE - BUNDLED_PICTURES), "the same pictures twice are one object"
    assert len(objects - again) == 1, "it was up"
    assert leaks(hub, run, printed + second.printed) == []
    note("killed (SIGKILL) in the midst of the upload", Answer(-9, "(killed)"), there, second)


def test_a_kill_after_the_commit(run: Path, hub: HubServer) -> None:
    """The commit is there, and the process has not noted it down."""
    assert push_command(run, "--repo_id", REPO).status == 0
    (run / "eval.json").write_bytes((run / "eval.json").read_bytes() + b"\n")
    before = (run / "hub.json").read_text()
    assert push_command(run, "--repo_id", REPO).status == 0
    mark = hub.repo(REPO).commits()[0].message.split()[-1]
    (run / "hub.json").write_text(before.replace('"begun": null', f'"begun": "{mark}"'))
    answer = push_command(run, "--repo_id", REPO)
    assert answer.status == 0, answer.printed
    assert "Nothing has changed since commit" in answer.printed
    assert len(hub.repo(REPO).commits()) == 3


def test_commits_of_others_are_not_overwritten(run: Path, hub: HubServer) -> None:
    hub.tokens[OTHERS] = "user"
    assert push_command(run, "--repo_id", REPO).status == 0
    mine = hub.repo(REPO).commits()[0].oid
    api = __import__("tests.support.hub.server", fromlist=["api"]).api(hub, OTHERS)
    api.upload_file(path_or_fileobj=b"# Mended by hand", path_in_repo="README.md", repo_id=REPO)
    theirs = hub.repo(REPO).commits()[0].oid
    refused = push_command(run, "--repo_id", REPO)
    assert refused.status == 2
    assert mine in refused.printed
    assert theirs in refused.printed
    assert "--overwrite" in refused.printed
    assert hub.repo(REPO).files()["README.md"] == b"# Mended by hand"
    dry = push_command(run, "--repo_id", REPO, "--dry_run", "--overwrite")
    assert dry.status == 0
    assert push_command(run, "--repo_id", REPO, "--overwrite").status == 0
    assert hub.repo(REPO).files()["README.md"] == (run / "README.md").read_bytes()
    assert [commit.oid for commit in hub.repo(REPO).commits()[1:3]] == [theirs, mine]
    assert push_command(run, "--repo_id", REPO).status == 0, "what was pushed over is ours from then on"


def test_a_commit_of_somebody_else_in_between(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After our look and before our commit: the Hub compares the parent."""
    from hf_hybrid.hub import commit

    real = commit.Pusher._commit

    def late(pusher: Any, *args: Any) -> Any:
        hub.repo(REPO).commit(
            [{"key": "file", "value": {"path": "theirs.txt", "content": "aGk="}}], "main", author="guest", title="x"
        )
        return real(pusher, *args)

    monkeypatch.setattr(commit.Pusher, "_commit", late)
    answer = push_command(run, "--repo_id", REPO)
    assert answer.status == 2
    assert "Somebody else committed" in answer.printed
    assert visible(hub) == {".gitattributes", "theirs.txt"}


def test_nobody_is_logged_in(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(run / "no-token"))
    answer = push_command(run, "--repo_id", REPO)
    assert answer.status == 2
    assert "hf auth login" in answer.printed
    assert hub.requests == []
    dry = push_command(run, "--repo_id", REPO, "--dry_run")
    assert dry.status == 0
    assert f"A push would fail now. {answer.printed.split('error: ')[-1].strip()}" in dry.printed


def test_offline(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    answer = push_command(run, "--repo_id", REPO)
    assert answer.status == 2
    assert "HF_HUB_OFFLINE is set" in answer.printed
    dry = push_command(run, "--repo_id", REPO, "--dry_run")
    assert dry.status == 0
    assert "model.safetensors" in dry.printed
    assert "whose state could not be read" in dry.printed


def test_a_dry_run_changes_nothing(run: Path, hub: HubServer) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    answer = push_command(run, "--repo_id", REPO, "--dry_run")
    assert answer.status == 0
    for name in ALL - {".gitattributes"}:
        assert f"  {name} " in answer.printed
    assert re.search(rf"{len(ALL) - 1} files, .* KiB: {REPO}, private, new", answer.printed)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert visible(hub) == set()
    assert {request.method for request in hub.requests} == {"GET"}
    assert push_command(run, "--repo_id", REPO).status == 0
    shutil.rmtree(run / "bundle")
    (run / "plan.json").unlink()
    dry = push_command(run, "--repo_id", REPO, "--dry_run")
    assert re.search(r"\n  plan\.json +deleted", dry.printed)
    assert re.search(r"\n  bundle/plan\.json +deleted", dry.printed)
    assert visible(hub) == ALL


def test_the_carbon_of_the_electricity_gives_emissions(run: Path, hub: HubServer) -> None:
    content = json.loads((run / "resources.json").read_text())
    (run / "resources.json").write_text(json.dumps(content | {"energy_wh": 50.0, "energy_source": "rapl"}))
    write_card(run)
    intensity = ["--carbon_intensity_g_per_kwh", 380, "--carbon_intensity_source", "the grid's operator"]
    refused = push_command(run, "--repo_id", REPO, *intensity[:2])
    assert refused.status == 2
    assert "needs carbon_intensity_source: who published this figure" in refused.printed
    assert push_command(run, "--repo_id", REPO, *intensity).status == 0
    assert hub.repo(REPO).metadata()["co2_eq_emissions"]["emissions"] == pytest.approx(19.0)


def test_another_process_than_the_first_does_nothing(
    run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert push_command(run, "--repo_id", REPO) == Answer(0, "")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repo_id", REPO], "Give one of --run FOLDER, --metric and --study FOLDER; got none"),
        (["x", "--metric", "--repo_id", REPO], "got run and metric"),
        (["x"], "Give --repo_id user/name"),
        (["x", "--repo_id", "name"], "the namespace is missing"),
        (["x", "--repo_id", "user/na me"], "user/name or organization/name"),
        (["x", "--repo_id", REPO], "x is not a run folder: it has no run.json"),
        (["--study", "x", "--repo_id", REPO], "x is not a study"),
        (["--metric", "--repo_id", REPO, "--unfinished"], "--unfinished is for --run"),
        (["--study", "x", "--repo_id", REPO, "--carbon_intensity_g_per_kwh", "0"], "_per_kwh is for --run"),
        (["--metric", "--repo_id", REPO, "--license", "mit"], "--license is for --run and --study"),
        (["--metric", "--repo_id", "user/a.b"], "'a.b' is no name for the metric"),
        (["--metric", "--repo_id", "user/ranking"], "it has a module ranking.py"),
    ],
)
def test_commands_that_are_refused(words: list[str], said: str, hub: HubServer) -> None:
    answer = push_command(*words)
    assert answer.status == 2
    assert said in answer.printed
    assert hub.requests == []


def test_the_run_folder_to_give_instead_is_named(run: Path, hub: HubServer) -> None:
    for part in ("bundle", "model"):
        told = push_command(run / part, "--repo_id", REPO).printed
        assert f"{run / part} is a part of a run: give the run folder, {run}." in told
    told = push_command(run.parent, "--repo_id", REPO).printed
    assert f"is not a run folder, but holds 1: give one, such as {run}." in told
    assert hub.requests == []


def test_a_card_folder_has_no_weights_and_is_the_card_of_its_files(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "cards" / "mine"
    found = push_command(run, "--card_folder", target, "--license", "apache-2.0")
    assert found.status == 0, found.printed
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert names == {"outputs.jsonl", *(name for name in RECORDS | PICTURES if not name.startswith("bundle/"))}
    assert build_card(read_files(target)) == (target / "README.md").read_text()
    assert "apache-2.0" in (target / "README.md").read_text()
    assert str(run.parent) not in "".join(path.read_text() for path in target.glob("*.json*"))
    again = push_command(run, "--card_folder", target, "--license", "apache2", "--base_model", "bert")
    assert again.status == 0, "it is written again"
    assert "license apache2 is not on the Hub's list" in again.printed
    assert "Did you mean apache-2.0?" in again.printed
    assert "base_model bert has no namespace" in again.printed
    assert "is not the card of a run" in push_command(run, "--card_folder", tmp_path).printed
    assert "--card_folder is for --run" in push_command("--metric", "--card_folder", target).printed
