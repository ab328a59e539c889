"""The local Hub of the tests, asked by the real client: what it keeps, whom it answers, how it fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelCard,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from tests.support.hub import api as hub_api
from tests.support.hub.server import STATUSES, HubServer, api, environment
from tests.support.hub_cards import problems
from tests.support.recipe_runs import REPOSITORY

TOKENS = {"hf_writer": "user", "hf_reader": "guest"}
REPO = "user/name"
WEIGHTS, VECTORS = b"w" * 5000, b"v" * 3000
FILES = {"README.md": b"---\nlicense: mit\n---\n# Card", "1_Pooling/config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=TOKENS) as server:
        yield server


@pytest.fixture
def writer(hub: HubServer) -> HfApi:
    """The client of the owner of a repository that has only its first commit."""
    client = api(hub, "hf_writer")
    client.create_repo(REPO, private=True)
    return client


def additions(files: dict[str, bytes]) -> list[Any]:
    return [CommitOperationAdd(path, content) for path, content in files.items()]


def push(client: HfApi, files: dict[str, bytes] = FILES, **options: Any) -> CommitInfo:
    return client.create_commit(REPO, additions(files), commit_message=options.pop("title", "Push"), **options)


def pushed(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    """What is there beside the Hub's own file."""
    return {path: content for path, content in hub.repo(REPO).files(revision).items() if path != ".gitattributes"}


# what is kept


def test_small_and_large_files_come_in_one_commit(hub: HubServer, writer: HfApi) -> None:
    commit = push(writer, commit_description="With weights")
    assert pushed(hub) == FILES
    newest, first = hub.repo(REPO).commits()
    assert (newest.oid, newest.author, newest.title, newest.message) == (commit.oid, "user", "Push", "With weights")
    assert (first.author, first.parent, set(first.files)) == ("system", None, {".gitattributes"})
    assert {path for path, entry in newest.files.items() if entry["lfs"]} == {"model.safetensors"}
    assert [hub.count(name) for name in ("preupload", "lfs_batch", "lfs_upload", "lfs_verify", "commit")] == [1] * 5
    upload = next(request for request in hub.requests if request.method == "PUT")
    assert "authorization" not in upload.headers
    assert upload.body == WEIGHTS[:1024]


def test_what_is_there_already_is_not_sent_again(hub: HubServer, writer: HfApi) -> None:
    first = push(writer)
    assert push(writer).oid == first.oid  # nothing has changed: the client learns so from `preupload`
    push(writer, {"copy/model.safetensors": WEIGHTS})
    assert (hub.count("lfs_upload"), hub.count("commit")) == (1, 2)


def test_a_push_that_broke_off_goes_on(hub: HubServer, writer: HfApi) -> None:
    files = {**FILES, "vectors.npy": VECTORS}
    hub.fail("lfs_upload", status=403, after=1)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        push(writer, files)
    assert pushed(hub) == {}
    push(writer, files)
    assert pushed(hub) == files
    assert hub.count("lfs_upload") == 3  # one well, one refused, and that one again


def test_an_upload_in_parts(hub: HubServer, writer: HfApi, tmp_path: Path) -> None:
    hub.part_bytes = 2048
    files = {"large.bin": bytes(range(256)) * 20, "small.bin": VECTORS[:1000]}
    for path, content in files.items():
        (tmp_path / path).write_bytes(content)
    operations = [CommitOperationAdd(path, tmp_path / path) for path in files]
    writer.create_commit(REPO, operations, commit_message="Files on disk")
    assert pushed(hub) == files
    assert [hub.count(name) for name in ("lfs_part", "lfs_complete", "lfs_upload")] == [3, 1, 1]
    assert not list((hub.repo(REPO).folder / "parts").iterdir())


def test_files_are_copied_and_deleted(hub: HubServer, writer: HfApi) -> None:
    push(writer)
    operations: list[Any] = [
        CommitOperationCopy("model.safetensors", "old/model.safetensors"),
        CommitOperationCopy("README.md", "old/README.md"),
        CommitOperationDelete("model.safetensors"),
        CommitOperationDelete("1_Pooling/"),
    ]
    writer.create_commit(REPO, operations, commit_message="Move")
    assert pushed(hub) == {
        "README.md": FILES["README.md"],
        "old/README.md": FILES["README.md"],
        "old/model.safetensors": WEIGHTS,
    }


def test_a_commit_with_one_bad_line_leaves_nothing(hub: HubServer, writer: HfApi) -> None:
    push(writer)
    before = sorted((hub.repo(REPO).folder / "commits").iterdir())
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        writer.create_commit(
            REPO, [*additions({"new.txt": b"new"}), CommitOperationDelete("none.txt")], commit_message="Bad"
        )
    assert pushed(hub) == FILES
    assert sorted((hub.repo(REPO).folder / "commits").iterdir()) == before


def test_an_upload_that_is_not_what_it_says_is_refused(hub: HubServer, writer: HfApi) -> None:
    answer = httpx2.put(f"{hub.url}/lfs/models/{REPO}/{'0' * 64}", content=WEIGHTS)
    assert answer.status_code == 400
    line = {"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": "0" * 64, "size": len(WEIGHTS)}}
    header = {"key": "header", "value": {"summary": "Never uploaded"}}
    answer = httpx2.post(
        f"{hub.url}/api/models/{REPO}/commit/main",
        content="\n".join(map(json.dumps, (header, line))),
        headers={"Authorization": "Bearer hf_writer"},
    )
    assert (answer.status_code, pushed(hub)) == (400, {})


def test_a_newer_remote_is_not_overwritten(hub: HubServer, writer: HfApi) -> None:
    parent = push(writer).oid
    push(writer, {"README.md": b"# Newer"}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        push(writer, {"README.md": b"# Other"}, parent_commit=parent)
    assert error.value.response.status_code == 412
    assert pushed(hub)["README.md"] == b"# Newer"


def test_branches_tags_and_pull_requests(hub: HubServer, writer: HfApi) -> None:
    start = push(writer).oid
    writer.create_branch(REPO, branch="next/one", revision=start)
    writer.create_branch(REPO, branch="next/one", exist_ok=True)
    writer.create_tag(REPO, tag="v1")
    push(writer, {"a.txt": b"a"}, revision="next/one")
    writer.update_repo_settings(REPO, private=False)
    proposal = push(api(hub, "hf_reader"), {"model.safetensors": VECTORS}, create_pr=True)
    assert (proposal.pr_num, proposal.pr_revision) == (1, "refs/pr/1")
    push(writer, {"b.txt": b"b"}, revision="refs/pr/1")
    refs = writer.list_repo_refs(REPO, include_pull_requests=True)
    assert [branch.name for branch in refs.branches] == ["main", "next/one"]
    assert [tag.target_commit for tag in refs.tags] == [start] == [refs.branches[0].target_commit]
    assert refs.pull_requests is not None
    assert [request.ref for request in refs.pull_requests] == ["refs/pr/1"]
    assert pushed(hub) == pushed(hub, "v1") == FILES
    assert pushed(hub, "next/one") == {**FILES, "a.txt": b"a"}
    assert pushed(hub, "refs/pr/1") == {**FILES, "model.safetensors": VECTORS, "b.txt": b"b"}
    assert writer.list_repo_commits(REPO, revision="refs/pr/1")[1].authors == ["guest"]


def test_another_server_on_the_same_folder_goes_on(tmp_path: Path) -> None:
    for number in range(2):
        with HubServer(tmp_path / "hub", tokens=TOKENS) as server:
            client = api(server, "hf_writer")
            client.create_repo(REPO, exist_ok=True)
            push(client, {f"{number}.bin": WEIGHTS})
            assert server.count("lfs_upload") == 1 - number
    assert set(server.repo(REPO).files()) == {".gitattributes", "0.bin", "1.bin"}


# what is reported it


def test_listings_have_folders_and_come_in_pages(hub: HubServer, writer: HfApi) -> None:
    hub.page_size = 2
    push(writer)
    push(writer, {"1_Pooling/more.json": b"[]"}, title="More")
    found = {entry.path: entry for entry in writer.list_repo_tree(REPO, recursive=True, expand=True)}
    assert set(found) == {".gitattributes", "1_Pooling", "1_Pooling/more.json", *FILES}
    assert hub.count("tree") == 3
    folder, weights = found["1_Pooling"], found["model.safetensors"]
    assert isinstance(folder, RepoFolder)
    assert isinstance(weights, RepoFile)
    assert folder.last_commit is not None
    assert weights.last_commit is not None
    assert (folder.last_commit.title, weights.last_commit.title) == ("More", "Push")
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.sha256) == (5000, hub.repo(REPO).tree()["model.safetensors"]["sha256"])
    assert [entry.path for entry in writer.list_repo_tree(REPO, "1_Pooling")] == [
        "1_Pooling/config.json",
        "1_Pooling/more.json",
    ]
    assert {entry.path for entry in writer.list_repo_tree(REPO)} == {".gitattributes", "1_Pooling"} | {
        path for path in FILES if "/" not in path
    }
    assert [entry.path for entry in writer.get_paths_info(REPO, ["README.md", "none", "1_Pooling"])] == [
        "1_Pooling",
        "README.md",
    ]
    assert len(writer.list_repo_commits(REPO)) == 3
    with pytest.raises(EntryNotFoundError):
        list(writer.list_repo_tree(REPO, "none"))


def test_info_tells_of_files_and_card(hub: HubServer, writer: HfApi) -> None:
    results = b"- dataset: {id: user/bench, task_id: all}\n  value: 0.5\n"
    card = b"---\nlicense: mit\nlanguage: [de, hi]\ntags: [dense]\npipeline_tag: sentence-similarity\n---\n"
    commit = push(writer, {"README.md": card, "x.bin": WEIGHTS, ".eval_results/bench.yaml": results})
    info = writer.model_info(REPO, files_metadata=True)
    assert (info.sha, info.private, info.pipeline_tag, info.tags) == (
        commit.oid,
        True,
        "sentence-similarity",
        ["dense", "de", "hi"],
    )
    assert info.siblings is not None
    assert {sibling.rfilename: sibling.size for sibling in info.siblings}["x.bin"] == len(WEIGHTS)
    assert info.card_data is not None
    assert info.card_data.license == "mit"
    expanded = writer.model_info(REPO, expand=["evalResults", "usedStorage"])
    assert expanded.eval_results is not None
    assert (expanded.sha, expanded.used_storage, expanded.eval_results[0].value) == (None, len(WEIGHTS), 0.5)
    with pytest.raises(RevisionNotFoundError):
        writer.model_info(REPO, revision="none")


def test_files_come_whole_and_in_ranges(hub: HubServer, writer: HfApi, tmp_path: Path) -> None:
    commit = push(writer)
    folder = Path(writer.snapshot_download(REPO, cache_dir=tmp_path / "cache"))
    found = {path: (folder / path).read_bytes() for path in FILES}
    assert (folder.name, found) == (commit.oid, FILES)
    url = f"{hub.url}/{REPO}/resolve/main/model.safetensors"
    metadata = writer.get_hf_file_metadata(url=url)
    sha256 = hub.repo(REPO).tree()["model.safetensors"]["sha256"]
    assert (metadata.commit_hash, metadata.etag, metadata.size) == (commit.oid, sha256, len(WEIGHTS))
    assert not writer.file_exists(REPO, "none.bin")
    assert writer.file_exists(REPO, "1_Pooling/config.json", revision=commit.oid)
    headers = {"Authorization": "Bearer hf_writer"}
    for wanted, content in (("1-3", b"---"[1:] + b"\n"), ("20-", FILES["README.md"][20:]), ("-4", b"Card")):
        answer = httpx2.get(
            f"{hub.url}/{REPO}/resolve/main/README.md", headers={**headers, "Range": f"bytes={wanted}"}
        )
        assert (answer.status_code, answer.content) == (206, content)
    answer = httpx2.get(url, headers={**headers, "Range": "bytes=9000-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */5000")


# who may do what


def test_a_private_repository_is_unknown_to_others(hub: HubServer, writer: HfApi) -> None:
    push(writer)
    asked: list[Callable[[HfApi], Any]] = [
        lambda client: client.model_info(REPO),
        lambda client: client.list_repo_files(REPO),
        lambda client: client.get_hf_file_metadata(url=f"{hub.url}/{REPO}/resolve/main/README.md"),
        lambda client: push(client, create_pr=True),
    ]
    for client, status in ((api(hub), 401), (api(hub, "hf_reader"), 404)):
        for ask in asked:
            with pytest.raises(RepositoryNotFoundError) as error:
                ask(client)
            assert error.value.response.status_code == status
    writer.update_repo_settings(REPO, private=False)
    assert api(hub).model_info(REPO).private is False


def test_of_a_gated_repository_others_may_only_know(hub: HubServer, writer: HfApi) -> None:
    push(writer)
    writer.update_repo_settings(REPO, private=False, gated="manual")
    for client in (api(hub), api(hub, "hf_reader")):
        assert client.model_info(REPO).gated == "manual"
        with pytest.raises(GatedRepoError):
            client.auth_check(REPO)
        with pytest.raises(GatedRepoError):
            client.get_hf_file_metadata(url=f"{hub.url}/{REPO}/resolve/main/README.md")
    writer.auth_check(REPO, write=True)


def test_only_the_owner_writes(hub: HubServer, writer: HfApi) -> None:
    writer.update_repo_settings(REPO, private=False)
    for client, name, status in (
        (api(hub, "hf_reader"), REPO, 403),
        (api(hub), REPO, 401),
        (writer, "else/name", 403),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            client.create_repo(name)
        assert error.value.response.status_code == status
    with pytest.raises(HfHubHTTPError, match="create_pr=1"):
        push(api(hub, "hf_reader"))
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api(hub, "hf_unknown").whoami()
    assert writer.whoami()["name"] == "user"
    assert not pushed(hub)


def test_repositories_are_made_once_and_deleted(hub: HubServer, writer: HfApi) -> None:
    with pytest.raises(HfHubHTTPError) as error:
        writer.create_repo(REPO)
    assert error.value.response.status_code == 409
    space = writer.create_repo("user/metric", repo_type="space", space_sdk="gradio", exist_ok=True)
    assert (space.repo_id, space.repo_type) == ("user/metric", "space")
    assert writer.space_info("user/metric").sdk == "gradio"
    assert set(hub.repo("user/metric", "space").files()) == {".gitattributes", "README.md"}
    writer.create_repo(REPO, repo_type="dataset")
    assert writer.dataset_info(REPO).id == REPO
    writer.delete_repo(REPO)
    assert [writer.repo_exists(REPO, repo_type=kind) for kind in ("model", "dataset")] == [False, True]
    with pytest.raises(KeyError, match="no model user/name"):
        hub.repo(REPO)


@pytest.mark.parametrize(
    ("front_matter", "message"),
    [
        ("- a list", "must be a mapping"),
        ("license: [", "cannot be read"),
        ("license: my-own", '"license" must be one of'),
        ("pipeline_tag: sentence-similarities", '"pipeline_tag" must be one of'),
        ("language: [de, pt-BR]", r'"language\[1\]" must be an ISO 639 code'),
        ("language: [qx]", r'"language\[0\]" must be an ISO 639 code'),
        ("base_model: ./runs/model", '"base_model.* must be the id'),
        ("datasets: [a/b/c]", '"datasets.* must be the id'),
        ("tags: [1]", '"tags.* must be a text'),
        (
            "model-index: [{name: x, results: [{task: {type: t}, metrics: [{type: m}]}]}]",
            r"dataset.type.*\n.*\n.*value",
        ),
    ],
)
def test_bad_metadata_is_refused(hub: HubServer, writer: HfApi, front_matter: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        push(writer, {"README.md": f"---\n{front_matter}\n---\n".encode()})
    assert (hub.count("validate_yaml"), hub.count("preupload")) == (1, 0)


def test_good_metadata_is_not(hub: HubServer) -> None:
    template = ModelCard.from_template(card_data=_card_data(), model_id="x")
    template.validate()
    assert problems("# Without any", "model") == ([], ["empty or missing yaml metadata in repo card"])
    space = (REPOSITORY / "hf_hybrid" / "metrics" / "beir_cross_lingual" / "README.md").read_text(encoding="utf-8")
    assert problems(space, "space") == ([], [])
    assert problems("---\nsdk: gradio\ncolorTo: black\nshort_description: " + "x" * 61 + "\n---\n", "space")[0][1:]


def _card_data() -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    result = EvalResult("retrieval", "user/data", "Data", "ndcg_at_10", 0.5)
    return ModelCardData(
        language=["de", "zh", "multilingual"],
        license="cc-by-sa-3.0",
        pipeline_tag="sentence-similarity",
        base_model="intfloat/multilingual-e5-small",
        datasets=["user/data"],
        model_name="x",
        eval_results=[result],
    )


# how it fails


@pytest.mark.parametrize("status", STATUSES)
def test_an_injected_status_is_answered_as_often_as_asked(hub: HubServer, writer: HfApi, status: int) -> None:
    hub.fail("info", status=status, times=2, after=1, message="Come back", headers={"Retry-After": "7"})
    seen: list[Any] = []
    for _ in range(4):
        try:
            seen.append(writer.model_info(REPO).id)
        except HfHubHTTPError as error:
            seen.append((error.response.status_code, error.response.headers["Retry-After"], "Come back" in str(error)))
    assert seen == [REPO, (status, "7", True), (status, "7", True), REPO]


def test_the_client_tries_again_after_429(hub: HubServer, writer: HfApi) -> None:
    hub.fail("preupload", status=429)
    push(writer)
    assert (hub.count("preupload"), hub.count("commit"), pushed(hub)) == (2, 1, FILES)


def test_error_codes_choose_the_exception(hub: HubServer, writer: HfApi) -> None:
    hub.fail("resolve", status=403, error_code="GatedRepo")
    with pytest.raises(GatedRepoError):
        writer.get_hf_file_metadata(url=f"{hub.url}/{REPO}/resolve/main/README.md")


def test_a_full_storage(hub: HubServer, writer: HfApi) -> None:
    hub.fail("lfs_batch", action="quota", times=9)
    with pytest.raises(HfHubHTTPError, match="storage limit reached") as error:
        push(writer)
    assert (error.value.response.status_code, pushed(hub)) == (403, {})
    hub.heal()
    push(writer)
    assert pushed(hub) == FILES


@pytest.mark.parametrize(("action", "done"), [("drop", True), ("drop_after", True), ("truncate", False)])
def test_a_commit_whose_connection_breaks_is_all_there_or_not_at_all(
    hub: HubServer, writer: HfApi, action: Any, done: bool
) -> None:
    hub.fail("commit", action=action)
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.NetworkError)):
        push(writer)
    assert pushed(hub) == (FILES if done else {})
    push(writer)
    assert (pushed(hub), hub.count("commit")) == (FILES, 1 if done else 2)


def test_broken_uploads_are_sent_again(hub: HubServer, writer: HfApi) -> None:
    hub.fail("lfs_upload", action="truncate")
    hub.fail("lfs_upload", action="drop")
    files = {"a.bin": b"a" * 800, "b.bin": b"b" * 800}
    push(writer, files)
    assert pushed(hub) == files
    assert sorted(len(request.body) for request in hub.requests if request.method == "PUT") == [400, 800, 800, 800]


def test_a_broken_download_is_asked_for_again(hub: HubServer, writer: HfApi, tmp_path: Path) -> None:
    push(writer)
    hub.fail("resolve", action="drop", after=1)  # the first one asks for the size
    path = writer.hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path / "cache")
    assert (Path(path).read_bytes(), hub.count("resolve")) == (WEIGHTS, 3)


def test_a_server_that_hangs_lets_go_when_it_is_closed(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with HubServer(tmp_path / "hub", tokens=TOKENS) as hub:
        api(hub, "hf_writer").create_repo(REPO)
        hub.fail("info", action="hang", times=2)
        started = time.monotonic()
        with pytest.raises(httpx2.TimeoutException):
            api(hub, "hf_writer").model_info(REPO, timeout=0.2)
        assert 0.2 <= time.monotonic() - started < 5
        ends: list[Exception] = []
        waiting = threading.Thread(
            target=lambda: ends.append(_error_of(lambda: api(hub, "hf_writer").model_info(REPO)))
        )
        waiting.start()
        while hub.count("info") < 2:
            time.sleep(0.01)
    waiting.join(timeout=5)
    assert [type(end) for end in ends] == [httpx2.RemoteProtocolError]
    assert set(threading.enumerate()) <= before


def _error_of(call: Callable[[], Any]) -> Exception:
    with pytest.raises(httpx2.HTTPError) as error:
        call()
    return error.value


def test_a_fault_is_named_rightly(hub: HubServer) -> None:
    with pytest.raises(ValueError, match="no operation 'comit'; those of the table are"):
        hub.fail("comit", status=503)
    with pytest.raises(ValueError, match="Give a status or an action"):
        hub.fail("commit")
    with pytest.raises(ValueError, match="Status 418 is none of"):
        hub.fail("commit", status=418)
    assert httpx2.get(f"{hub.url}/api/none").status_code == 404
    assert (hub.count("unknown"), len(hub_api.OPERATIONS)) == (1, len(hub_api.ROUTES) + 1)


def test_the_environment_of_another_process_has_nothing_of_ours(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_machine")
    found = environment(hub, Path("home"))
    assert "hf_of_the_machine" not in found.values()
    assert "HF_HUB_OFFLINE" not in found
    assert (found["HF_ENDPOINT"], found["HF_HOME"]) == (hub.url, "home")
