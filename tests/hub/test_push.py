"""What is published of a run, of the metric and of a study; what never is; and what is left alone on the Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from hf_hybrid.hub import errors
from hf_hybrid.hub.bundle import list_bundle
from hf_hybrid.hub.commit import PushOptions, PushRecord, Target
from hf_hybrid.hub.errors import HubError, read_retry_after_s, set_up_client
from hf_hybrid.hub.model_card import build_card, read_files
from hf_hybrid.hub.payload import (
    METRIC_FOLDER,
    build_run_payload,
    build_study_payload,
    list_model_files,
    refuse_secrets,
)
from hf_hybrid.hub.push import push_metric, push_run, push_study
from hf_hybrid.records.manifest import find_damage
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import CardOptions
from hf_hybrid.utils.files import sha256
from tests.support import pushes
from tests.support.hub.server import HubServer, api, environment
from tests.support.pushes import (
    BUNDLE,
    HUBS_OWN,
    LAYOUT,
    MODEL,
    OTHERS,
    RECORDS,
    REPO,
    TOKEN,
    leaks,
    published_run,
    push_command,
)
from tests.support.recipe_runs import REPOSITORY
from tests.test_architecture import HEAVY, loaded_by

pytestmark = pytest.mark.usefixtures("one_thread")
hub, run = pushes.hub, pushes.run


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_run(tmp_path_factory.mktemp("runs") / "mine")


def files(hub: HubServer, revision: str = "main", repo_type: str = "model", repo_id: str = REPO) -> set[str]:
    return set(hub.repo(repo_id, repo_type).files(revision))


def changed(path: Path, change: Callable[[Any], Any]) -> None:
    """A file of JSON, with its content changed."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put(hub: HubServer, name: str, content: bytes, revision: str = "main", token: str = TOKEN) -> str:
    """A commit that is not from a run folder."""
    made = api(hub, token).upload_file(
        path_or_fileobj=content, path_in_repo=name, repo_id=REPO, revision=revision, commit_message="By hand"
    )
    return made.oid


# What is published


def test_importing_it_loads_nothing_heavy() -> None:
    assert loaded_by("hf_hybrid.hub.push") & HEAVY == set()


def test_what_is_published_is_the_layout(run: Path) -> None:
    (run / "not_finite").mkdir()
    (run / "not_finite" / "step-1.json").write_text("{}")
    (run / "model" / "optimizer.pt").write_bytes(b"the manifest does not list it")
    (run / "evaluations" / "notes.txt").write_text("mine")
    (run / "curve.jsonl").write_text('{"step": 4}\n')  # where a run was evaluated on the way
    found = build_run_payload(run, {"repo_id": REPO})
    assert set(found) == LAYOUT - HUBS_OWN | {"curve.jsonl", "bundle/curve.jsonl"}
    assert all(content == run / "model" / name for name, content in found.items() if name in MODEL)
    assert {f"bundle/{name}" for name in list_bundle(run / "bundle")} == BUNDLE - {"bundle/manifest.json"}


def test_results_of_benchmarks_and_pictures_of_an_edited_card_go_along_unchanged(run: Path) -> None:
    shutil.rmtree(run / "bundle")
    for name in (".eval_results/MIRACL.yaml", "pictures/a.png", "pictures/b.png"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(f"as it is: {name}")
    (run / "README.md").write_text("![A](pictures/a.png)")  # other pictures are not the card's
    more = {".eval_results/MIRACL.yaml", "pictures/a.png"}
    found = build_run_payload(run, {"repo_id": REPO}, keep_card=True)
    assert set(found) == MODEL | RECORDS | more
    assert all(found[name] == run / name for name in more | {"README.md"})


def test_a_bundle_is_built_from_the_records_and_its_lock(run: Path) -> None:
    lock = (run / "bundle" / "requirements.txt").read_bytes()
    names = [*list_bundle(run / "bundle"), "manifest.json"]
    before = {f"bundle/{name}": (run / "bundle" / name).read_bytes() for name in names}
    assert {
        name: found for name, found in build_run_payload(run, {"repo_id": REPO}).items() if name in before
    } == before
    for path in (run / "bundle").rglob("*.json*"):
        path.unlink()
    found = build_run_payload(run, {"repo_id": REPO})
    assert {name: found[name] for name in before} == before
    assert found["bundle/requirements.txt"] == lock
    other = build_run_payload(run, {"repo_id": "user/other"})
    assert {name for name in before if other[name] != before[name]} == {
        f"bundle/{name}" for name in ("README.md", "card.json", "manifest.json")
    }


def test_records_are_published_without_secrets_and_places(run: Path, hub: HubServer) -> None:
    root = "/" + "home/me/"
    changed(run / "run.json", lambda r: r["config"].update(train_corpus=f"{root}corpus", note=f"token={TOKEN}"))
    before = sha256(run / "run.json")
    (run / "resources.jsonl").write_text((run / "resources.jsonl").read_text().replace('"mono"', f'"{root}mono"'))
    push_run(run, REPO, keep_card=True)
    config = json.loads(hub.repo(REPO).files()["run.json"])["config"]
    assert config["train_corpus"] == "corpus"
    assert config["note"] == "token=***"
    assert root.encode() not in b"".join(hub.repo(REPO).files().values())
    assert sha256(run / "run.json") == before
    assert hub.repo(REPO).files()["plan.json"] == (run / "plan.json").read_bytes(), (
        "the same bytes where all may be seen"
    )
    assert RunFolder(run).read_run()["status"] == "finished"


def test_a_run_that_goes_on_leaves_its_former_bundle_out(run: Path, hub: HubServer) -> None:
    changed(run / "run.json", lambda found: found.update(status="interrupted"))
    for pushed in (
        push_run(run, REPO, PushOptions(dry_run=True), unfinished=True),
        push_run(run, REPO, unfinished=True),
    ):
        assert set(pushed.sizes) == LAYOUT - BUNDLE - HUBS_OWN
    assert files(hub) == LAYOUT - BUNDLE
    assert (run / "bundle").is_dir()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plan.json", r"The bundle of .*mine cannot be rebuilt: .*plan\.json.* delete .*bundle to push without it"),
        ("model/manifest.json", r"model is damaged: manifest\.json cannot be read"),
    ],
)
def test_a_run_that_lacks_a_record_is_explained(name: str, said: str, run: Path, hub: HubServer) -> None:
    (run / name).unlink()
    for dry_run in (True, False):
        with pytest.raises(HubError, match=said):
            push_run(run, REPO, PushOptions(dry_run=dry_run))
    answer = push_command(run, "--repo_id", REPO)
    assert answer.status == 2
    assert "Traceback" not in answer.printed
    assert hub.requests == []
    if name == "plan.json":
        shutil.rmtree(run / "bundle")
        assert set(push_run(run, REPO).sizes) == LAYOUT - BUNDLE - HUBS_OWN - {"plan.json"}


def test_a_dry_run_tells_the_sizes_of_what_would_be_pushed(run: Path, hub: HubServer) -> None:
    card: CardOptions = {"license": "apache-2.0", "base_model": "user/base"}
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    dry = push_run(run, REPO, PushOptions(dry_run=True), card=card)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert dry.sizes == push_run(run, REPO, card=card).sizes
    assert dry.sizes["bundle/card.json"] == dry.sizes["card.json"]


def test_a_damaged_model_is_not_pushed(run: Path, hub: HubServer) -> None:
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(HubError, match=r"model is damaged: model\.safetensors was altered"):
        push_run(run, REPO)
    (run / "model" / "tokenizer.json").unlink()
    with pytest.raises(HubError, match=r"tokenizer\.json is missing"):
        push_run(run, REPO, unfinished=True)
    assert hub.requests == []


def test_the_newest_whole_checkpoint_is_what_an_unfinished_run_has(run: Path) -> None:
    shutil.rmtree(run / "model")
    (run / "checkpoint-4" / "model.safetensors").unlink()
    found = list_model_files(run, unfinished=True)
    assert set(found) == MODEL
    assert all(content == run / "checkpoint-2" / name for name, content in found.items())
    with pytest.raises(HubError, match=r"manifest\.json cannot be read"):
        list_model_files(run)
    shutil.rmtree(run / "checkpoint-2")
    with pytest.raises(HubError, match="no model and no complete checkpoint"):
        list_model_files(run, unfinished=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", f"Load it with {TOKEN}"),
        ("README.md", f"\0, then {'x' * 9000} hf_{'A1b2' * 8}"[1:]),
        (".eval_results/a.yaml", "source: https://me:pass@hub.example/x"),
        (".eval_results/b.yaml", "said: ghp_" + "A1b2" * 9),
    ],
)
def test_a_file_that_holds_a_secret_stops_the_push(name: str, content: str, run: Path, hub: HubServer) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(content)
    with pytest.raises(HubError, match=f"{re.escape(name)}.*: something looks like a token or a password") as caught:
        push_run(run, REPO, keep_card=True)
    assert content not in str(caught.value)
    assert hub.requests == []


def test_what_is_a_secret(tmp_path: Path) -> None:
    mine = "an-odd-token-of-a-private-hub"
    far = b"x" * (2**22 - 9)
    shapes = [b"hf_" + b"A1b2" * 8, b"ghs_" + b"A1b2" * 9, b"github_pat_11AB_cd", b"AKIA" + b"A1B2" * 4]
    shapes += [b"sk-" + b"a1-B2" * 5, b"https://me:pass@host/x"]
    for content in (mine.encode(), far + mine.encode(), far + b" hf_" + b"A1b2" * 8, *shapes):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(HubError, match=r"a\.txt: something looks like a token"):
            refuse_secrets({"a.txt": tmp_path / "a.txt"}, mine)
    for content in (
        b"\0" + mine.encode(),
        b"hf_hybrid and hf_short1",
        b"https://me@host/x",
        b"see http://a:80/b?x=y@z",
        b'{"unk_token": "[UNK]", "sk-monolingual-and-cross-lingual": 1}',
    ):
        refuse_secrets({"a.txt": content}, mine)
    with pytest.raises(HubError, match=r"f0, f1, f2, f3, f4 and 2 more:"):
        refuse_secrets({f"f{number}": mine.encode() for number in range(7)}, mine)


def test_a_token_in_an_answer_is_not_shown(run: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "odd-token-1234567"
    hub.tokens[odd] = "user"
    hub.fail("commit", status=403, message=f"{odd} and {TOKEN} may not, see https://s3/x?X-Amz-Signature=abcdef0123")
    with pytest.raises(HubError, match=r"\*\*\* and \*\*\* may not, see .*Signature=\*\*\*") as caught:
        push_run(run, REPO, PushOptions(token=odd))
    assert caught.value.__cause__ is None
    push_run(run, REPO, PushOptions(token=odd))
    assert leaks_of(odd, run) == []


def leaks_of(token: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def test_the_log_of_the_client_has_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(handler)
    try:
        with set_up_client("odd-token-1"):
            logger.warning(
                "'%s' thrown while requesting PUT %s", "odd-token-1", "https://s3/x?a=b&X-Amz-Signature=01ab"
            )
    finally:
        logger.removeHandler(handler)
    assert "'***' thrown while requesting PUT https://s3/x?a=b&X-Amz-Signature=***\n" in capsys.readouterr().err
    assert handler.filters == []


# The card


def test_the_card_is_of_its_repository_unless_somebody_has_written_in_it(run: Path, hub: HubServer) -> None:
    first = push_run(run, REPO, card={"license": "apache-2.0"})
    card = hub.repo(REPO).files()["README.md"].decode()
    assert 'SentenceTransformer("user/name")' in card
    assert hub.repo(REPO).metadata()["license"] == "apache-2.0"
    assert card == build_card(read_files(run, {"repo_id": REPO, "license": "apache-2.0"}))
    assert "apache-2.0" not in (run / "README.md").read_text(), "a push writes no card"
    push_run(run, "user/other")
    assert 'SentenceTransformer("user/other")' in hub.repo("user/other").files()["README.md"].decode()
    assert hub.repo("user/other").metadata()["license"] == "apache-2.0"
    (run / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    kept = push_command(run, "--repo_id", REPO, "--keep_card")
    assert "Its license, repository name and figures are not updated; it is pushed as it is" in kept.printed
    assert hub.repo(REPO).files()["README.md"].endswith(b"# By hand\n")
    assert first.commit.oid == hub.repo(REPO).commits()[1].oid


def test_a_card_with_a_figure_by_hand_is_not_pushed_unless_told_to(run: Path, hub: HubServer, tmp_path: Path) -> None:
    text = build_card(read_files(run))
    line = next(number for number, line in enumerate(text.split("\n"), start=1) if "value: 0" in line)
    (run / "README.md").write_text(text.replace("value: 0", "value: 9", 1))
    said = rf"README\.md, line {line} of mine does not follow .*value: 9.*not updated.*--keep_card.*delete README"
    for dry_run in (True, False):
        with pytest.raises(HubError, match=said):
            push_run(run, "user/other", PushOptions(dry_run=dry_run), card={"license": "mit"})
    assert re.search(said, push_command(run, "--card_folder", tmp_path / "card").printed)
    assert hub.requests == []
    (run / "README.md").unlink()
    push_run(run, "user/other", card={"license": "mit"})
    assert hub.repo("user/other").metadata()["license"] == "mit"


def test_a_card_of_another_release_is_built_again(run: Path, hub: HubServer) -> None:
    OutputFolder(run).write("README.md", b"# As a former release wrote it\n")
    sizes = push_run(run, REPO, PushOptions(dry_run=True)).sizes
    push_run(run, REPO)
    assert hub.repo(REPO).files()["README.md"].decode() == build_card(read_files(run))
    assert sizes["README.md"] == len(build_card(read_files(run)).encode())


def test_a_card_that_the_hub_refuses_is_told_of(run: Path, hub: HubServer) -> None:
    (run / "README.md").write_text("---\nlicense: [mit\n---\n# By hand\n")
    with pytest.raises(HubError, match=r"Hub refuses the request.*400: Invalid metadata in README\.md\. - YAML"):
        push_run(run, REPO, keep_card=True)
    assert files(hub) == HUBS_OWN


# What is there, and stays


def test_only_what_pushes_have_put_there_is_deleted(run: Path, hub: HubServer) -> None:
    (run / ".eval_results").mkdir()
    for name in ("a.yaml", "b.yaml"):
        (run / ".eval_results" / name).write_text(f"name: {name}")
    push_run(run, REPO)
    put(hub, "theirs.txt", b"hi")
    put(hub, "pictures/c.png", b"\x89PNG")
    (run / ".eval_results" / "a.yaml").unlink()
    dry = push_run(run, REPO, PushOptions(dry_run=True))
    assert dry.commit.deleted == [".eval_results/a.yaml"]
    assert "would fail now" in dry.describe()
    pushed = push_run(run, REPO, PushOptions(overwrite=True))
    assert pushed.commit.deleted == dry.commit.deleted
    assert files(hub) == LAYOUT | {"theirs.txt", ".eval_results/b.yaml", "pictures/c.png"}
    shutil.rmtree(run / ".eval_results")
    assert push_run(run, REPO).commit.deleted == [".eval_results/b.yaml"]
    assert files(hub) == LAYOUT | {"theirs.txt", "pictures/c.png"}


def test_a_repository_made_by_hand_is_empty_until_somebody_commits(run: Path, hub: HubServer) -> None:
    api(hub, TOKEN).create_repo(REPO, private=False)
    pushed = push_run(run, REPO)
    assert "public as before" in pushed.describe()
    assert not hub.repo(REPO).settings["private"]
    api(hub, TOKEN).create_repo("user/other")
    card = b"---\nlicense: mit\n---\n# Mine"
    api(hub, TOKEN).upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="user/other")
    with pytest.raises(HubError, match="nothing was pushed from here"):
        push_run(run, "user/other")


def test_a_branch_is_made_and_then_guarded_like_main(run: Path, hub: HubServer) -> None:
    push_run(run, REPO, PushOptions(revision="trial"))
    assert (files(hub), files(hub, "trial")) == (HUBS_OWN, LAYOUT)
    push_run(run, REPO)
    put(hub, "theirs.txt", b"hi")
    shutil.rmtree(run / "bundle")
    push_run(run, REPO, PushOptions(revision="second"))
    assert files(hub, "second") == LAYOUT - BUNDLE | {"theirs.txt"}, "a copy of main, less what is gone of ours"
    assert files(hub, "trial") == LAYOUT
    put(hub, "theirs.txt", b"hi", "trial")
    with pytest.raises(HubError, match=r"user/name \(trial\): its newest commit is"):
        push_run(run, REPO, PushOptions(revision="trial"))


def test_a_proposal_leaves_the_branch_alone(run: Path, hub: HubServer) -> None:
    api(hub, OTHERS).create_repo("guest/name", private=False)
    with pytest.raises(HubError, match=r"This token may not write there.*403"):
        push_run(run, "guest/name")
    pushed = push_run(run, "guest/name", PushOptions(create_pr=True))
    assert pushed.commit.pr_url is not None
    assert pushed.commit.pr_url.endswith("guest/name/discussions/1")
    assert pushed.commit.pr_url in pushed.describe()
    assert files(hub, repo_id="guest/name") == HUBS_OWN
    assert files(hub, "refs/pr/1", repo_id="guest/name") == LAYOUT
    assert PushRecord(run / "hub.json").entry(Target("guest/name", endpoint=hub.url))["commit"] is None
    hub.fail("commit", action="drop_after")
    again = push_run(run, "guest/name", PushOptions(create_pr=True))
    assert again.commit.pr_url == f"{pushed.commit.pr_url[:-1]}2"
    assert sorted(name for name in hub.repo("guest/name").refs if "/pr/" in name) == ["refs/pr/1", "refs/pr/2"]


def test_what_was_pushed_is_remembered(tmp_path: Path) -> None:
    record, main = PushRecord(tmp_path / "hub.json"), Target(REPO)
    branch, other = main._replace(revision="v1"), Target("user/name2", endpoint="https://me:s3cr3t@hub.example")
    record.begin(main, "first", ["b", "a"])
    assert (record.entry(main)["begun"], record.files(main)) == ("first", set())
    record.finish(main, "c1")
    record.begin(main, "second", ["c"])
    record.begin(branch, "third", ["d"])
    record.finish(branch, None)
    record.finish(main, "c2")
    record.begin(other, "fourth", ["e"])
    record.finish(other, "c3")
    assert record.entry(main) == {"commit": "c2", "files": ["a", "b", "c"], "begun": None, "begun_files": []}
    assert "s3cr3t" not in record.path.read_text()
    assert record.entry(branch)["commit"] is None
    assert record.files(branch) == {"a", "b", "c"}
    for text in (
        "{",
        "{}",
        '{"format": {}, "pushes": {}}',
        json.dumps(json.loads(record.path.read_text()) | {"pushes": {"x": {}}}),
    ):
        record.path.write_text(text)
        with pytest.raises(ValueError, match=r"hub\.json cannot be read .*\. Move it away"):
            record.entry(main)


def test_another_process_than_the_first_is_refused(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(HubError, match="Only the first process pushes"):
        push_run(run, REPO)
    assert hub.requests == []


def test_a_run_that_begins_anew_keeps_what_it_knows_of_the_hub(run: Path, hub: HubServer) -> None:
    push_run(run, REPO)
    (run / "mine.txt").write_text("stays")
    RunFolder(run).clear()
    assert {path.name for path in run.iterdir()} == {"hub.json", "mine.txt", "outputs.jsonl", "run.lock"}


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "", "RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "", "RateLimit": '"api";r=9;t=55'}, None),
        ({"Retry-After": "soon"}, None),
    ],
)
def test_how_long_the_server_asks_to_wait(headers: dict[str, str], wait_s: float | None, hub: HubServer) -> None:
    hub.fail("info", status=429, headers=headers)
    with pytest.raises(Exception, match="429") as caught:
        api(hub, TOKEN).repo_info(REPO)
    assert read_retry_after_s(caught.value) == wait_s


def test_errors_of_xet_storage_are_explained() -> None:
    def said(error: Exception) -> HubError:
        return errors.explain(error, REPO, "odd-token-1", "Nothing was sent")

    assert said(ConnectionError("reset")).transient
    assert said(TimeoutError()).transient
    assert "Hub failed or did not answer" in str(said(TimeoutError()))
    assert "may not write there" in str(said(PermissionError("no token for odd-token-1")))
    assert "odd-token-1" not in str(said(PermissionError("no token for odd-token-1")))
    assert not said(OfflineModeIsEnabled("offline")).transient
    assert str(said(RuntimeError("no luck"))).endswith("Nothing was sent. [no luck]")


def test_pauses_grow_and_heed_the_server(run: Path, hub: HubServer) -> None:
    waited: list[float] = []
    with mock.patch("time.sleep", waited.append):  # undone before the fixture undoes its own
        hub.fail("info", status=503, times=3)
        push_run(run, REPO)
        assert waited == [1, 2, 4]
        waited.clear()
        hub.fail("commit", status=429, headers={"Retry-After": "30"}, times=1)
        push_run(run, REPO, card={"license": "mit"})
        assert waited == [30]


# The metric


@pytest.mark.slow
def test_evaluate_loads_the_metric_from_its_space(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own name and others, of which a module is made."""
    monkeypatch.setenv("HF_HYBRID_CACHE", str(tmp_path / "cache"))
    for slug in ("beir_cross_lingual", "my-measures"):
        pushed = push_metric(f"user/{slug}", PushOptions(private=False))
        found = hub.repo(f"user/{slug}", "space").files()
        expected = {path.name for path in METRIC_FOLDER.iterdir() if path.is_file()}
        assert set(found) == expected - {"beir_cross_lingual.py"} | {f"{slug}.py", ".gitattributes"}
        assert hub.repo(f"user/{slug}", "space").metadata()["sdk"] == "gradio"
        assert f'"{slug}.py"' in found["app.py"].decode()
        assert f"/spaces/user/{slug}" in pushed.describe()
    assert not (METRIC_FOLDER / "hub.json").exists()
    assert (tmp_path / "cache" / "pushes" / "hub.json").exists()
    assert "Nothing has changed since commit" in push_metric("user/my-measures").describe()
    script = """
import evaluate
metric = evaluate.load("user/my-measures")
predictions = [{"query_id": "q", "doc_ids": ["a", "b"], "scores": [0.9, 0.8]}]
references = [{"query_id": "q", "doc_ids": ["b"], "relevance": [1]}]
print(metric.compute(predictions=predictions, references=references, k_values=[10])["MRR@10"])
"""
    settings = environment(hub, tmp_path / "home", TOKEN)
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        env=settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert loaded.stdout.split() == ["0.5"], loaded.stderr[-3000:]


# Studies


def test_the_results_of_a_study_are_a_dataset(run: Path, hub: HubServer, tmp_path: Path) -> None:
    study, home = tmp_path / "study", "/" + "home/me"
    shutil.copytree(run, study / "trials" / "mono")
    (study / "fits.json").write_text(json.dumps({"folder": f"{home}/study/x", "slope": 1.5}))
    (study / "table.csv").write_text(f'a,b\n1,"{home}/my data/x.csv"\n')
    (study / "log.txt").write_text(f"wrote {home}/study/x.json\n\ntoken=s3cr3t")
    inputs = {"study.json": "{}", "corpora/de.jsonl": "{}", "base/seed-1/model.safetensors": "weights"}
    for name, content in inputs.items():
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(content)
    pushed = push_study(study, "user/study", license="cc-by-4.0")
    of_run = {f"trials/mono/{name}" for name in RECORDS | BUNDLE}
    own = {"README.md", "study.json", "fits.json", "table.csv", "log.txt"}
    assert files(hub, repo_type="dataset", repo_id="user/study") == of_run | own | HUBS_OWN, "no values twice"
    found = hub.repo("user/study", "dataset").files()
    assert json.loads(found["fits.json"]) == {"folder": "x", "slope": 1.5}
    assert found["table.csv"] == b'a,b\n1,"x.csv"\n'
    assert found["log.txt"] == b"wrote x.json\n\ntoken=***"
    assert f"{hub.url}/datasets/user/study" in pushed.describe()
    downloaded = tmp_path / "downloaded"
    for name in of_run:
        (downloaded / name).parent.mkdir(parents=True, exist_ok=True)
        (downloaded / name).write_bytes(found[name])
    assert find_damage(downloaded / "trials" / "mono" / "bundle") is None
    assert hub.repo("user/study", "dataset").metadata() == {
        "language": ["de"],
        "license": "cc-by-4.0",
        "pretty_name": "study",
        "tags": ["hf_hybrid", "dense-retrieval"],
    }
    card = found["README.md"].decode()
    assert "the records of 1 run;" in card
    assert "| unknown | 1 |" in card
    assert "python recipes/verify.py study/trials/mono" in card
    assert leaks(hub, study, "") == []
    (study / "table.csv").unlink()
    (study / "README.md").write_text("# Mine\n")
    assert push_study(study, "user/study").commit.deleted == ["table.csv"]
    assert hub.repo("user/study", "dataset").files()["README.md"] == b"# Mine\n"


def test_values_of_queries_may_be_larger_than_text(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    for name in ("per_query.parquet", "all.csv"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(11 * 2**20)
    with pytest.raises(HubError, match=r"all\.csv: .* got 11\.0 MiB"):
        build_study_payload(tmp_path, "user/study")
    (tmp_path / "all.csv").unlink()
    assert set(build_study_payload(tmp_path, "user/study")) == {"study.json", "per_query.parquet", "README.md"}


def test_a_run_is_no_study(run: Path, hub: HubServer) -> None:
    said = r"mine is not a study: it has no study\.json; for a run omit --study"
    assert re.search(said, push_command("--study", run, "--repo_id", REPO).printed)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("best/weights.safetensors", 10, "looks like weights"),
        ("best/pytorch_model.bin", 10, "looks like weights"),
        ("all.csv", 11 * 2**20, r"all\.csv: a file of a study has at most 10\.0 MiB, got 11\.0 MiB"),
        ("broken.json", 10, r"broken\.json is not JSON"),
    ],
)
def test_what_does_not_belong_into_a_study(name: str, size: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "study" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * size)
    (tmp_path / "study" / "study.json").write_text("{}")
    with pytest.raises(HubError, match=said):
        build_study_payload(tmp_path / "study", "user/study")


def test_the_command_of_the_recipe_works_as_a_command(run: Path, hub: HubServer, tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "recipes" / "push.py"), "mine", "--repo_id", REPO]
    settings = {**environment(hub, tmp_path / "home", TOKEN), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=settings, cwd=run.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Pushed as commit [0-9a-f]{40}: http", done.stdout, re.MULTILINE)
    assert re.search(r" push target=user/name commit=[0-9a-f]{40} files=28 deleted=0$", done.stderr, re.MULTILINE)
    assert files(hub) == LAYOUT
    assert leaks(hub, run, done.stdout + done.stderr) == []
    assert os.environ["HF_TOKEN"] == TOKEN
