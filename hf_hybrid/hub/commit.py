"""One commit on the Hub: all files or none, never over the commits of others, and never twice.

1. Look at the branch. Its head must be the commit of the last push from this folder, or nothing can be lost there.
2. Create the repository and the branch if they do not exist.
3. Record in `hub.json` that a push begins, with a random mark that the commit will have in its message.
4. Upload large files. The Hub skips files that it has from an earlier try.
5. Commit on top of the head from step 1; the Hub refuses if the head has changed. If the answer is lost, look for the
   mark before the next try.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from hf_hybrid import __version__
from hf_hybrid.records.events import event
from hf_hybrid.utils.files import replacing
from hf_hybrid.utils.redaction import redact

from . import errors
from .errors import UNSENT, WAITS_S, HubError, explain, is_transient, pause, retry, set_up_client, status_of

RECORD_NAME = "hub.json"
_FORMAT = {"name": "hf_hybrid pushes", "version": 1}
_NOTHING_VISIBLE = "Nothing of this push is visible there"
_UNKNOWN = "It is not known whether this push is there. Give the same command again to find out"
_SPACE_SDK = "gradio"
_CREATED_BY_HUB = {".gitattributes", "README.md"}  # with a repository

Content = Path | bytes


@dataclass(frozen=True)
class PushOptions:
    """Options of a push.

    Args:
        private (`bool`, *optional*, defaults to `True`): Visibility of a new repository; others keep theirs.
        revision (`str`, *optional*): A branch, created if needed; by default main.
        commit_message (`str`, *optional*): First line of the commit message; by default it names the content.
        dry_run (`bool`, *optional*, defaults to `False`): Change nothing, here or on the Hub.
        overwrite (`bool`, *optional*, defaults to `False`): Push on top of commits that are not from this folder.
        create_pr (`bool`, *optional*, defaults to `False`): Open a pull request.
        token (`str`, *optional*): By default HF_TOKEN, or that of `hf auth login`.
        api (`HfApi`, *optional*): The client.

    Example:

        >>> options = PushOptions(dry_run=True, token="hf_secret")
        >>> options.private, "hf_secret" in repr(options)
        (True, False)
    """

    private: bool = True
    revision: str | None = None
    commit_message: str | None = None
    dry_run: bool = False
    overwrite: bool = False
    create_pr: bool = False
    token: str | None = field(default=None, repr=False)
    api: HfApi | None = None


class Target(NamedTuple):
    """A branch of a repository.

    Args:
        repo_id (`str`): `namespace/name`.
        repo_type (`str`, *optional*, defaults to `"model"`): `model`, `dataset` or `space`.
        revision (`str`, *optional*, defaults to `"main"`): The branch.
        endpoint (`str`, *optional*): The Hub.
    """

    repo_id: str
    repo_type: str = "model"
    revision: str = "main"
    endpoint: str = "https://huggingface.co"

    def __str__(self) -> str:
        prefix = "" if self.repo_type == "model" else f"{self.repo_type} "
        return f"{prefix}{self.repo_id}" + ("" if self.revision == "main" else f" ({self.revision})")

    @property
    def url(self) -> str:
        """Address of its page, without the password that a private Hub may have in its endpoint."""
        return redact(f"{self.endpoint}/{'' if self.repo_type == 'model' else f'{self.repo_type}s/'}{self.repo_id}")


class Remote(NamedTuple):
    """State of a branch on the Hub.

    Args:
        exists (`bool`): Whether the repository exists.
        private (`bool`): Whether it is, or will be, private.
        head (`str`, *optional*): The newest commit of the branch; `None` if there is no branch.
        files (`frozenset[str]`): Files of the branch, or of main if there is no branch.
        is_safe (`bool`): Whether a commit on top of the head loses nothing of others.
    """

    exists: bool
    private: bool
    head: str | None
    files: frozenset[str]
    is_safe: bool


class Commit(NamedTuple):
    """Result of a push.

    Args:
        target (`Target`): The branch.
        remote (`Remote`, *optional*): Its state before the push; `None` if a dry run could not read it.
        deleted (`list[str]`): Files of earlier pushes that the commit deletes.
        oid (`str`, *optional*): The commit; `None` in a dry run.
        pr_url (`str`, *optional*): The pull request.
        problem (`str`, *optional*): In a dry run, why a push would fail.
    """

    target: Target
    remote: Remote | None
    deleted: list[str]
    oid: str | None = None
    pr_url: str | None = None
    problem: str | None = None


class Pusher:
    """Pushes files to one branch.

    Args:
        target (`Target`): The branch.
        record (`PushRecord`): Earlier pushes.
        options (`PushOptions`): Options.
        token (`str`, *optional*): Token of the user; a dry run may do without.
        api (`HfApi`): The client.
    """

    def __init__(
        self, target: Target, record: PushRecord, options: PushOptions, token: str | None, api: HfApi
    ) -> None:
        self.target, self.record, self.options = target, record, options
        self.token, self._api = token, api
        self._repo: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.repo_type, "token": token}

    def push(self, files: Mapping[str, Content], message: str, keep: frozenset[str] = frozenset()) -> Commit:
        """Make one commit of all these files.

        Args:
            files (`Mapping[str, Path or bytes]`): By path in the repository.
            message (`str`): First line of the commit message, if the options have none.
            keep (`frozenset[str]`, *optional*): Files that later pushes do not delete.

        Raises:
            HubError: When the commit fails. No part of it is ever visible.
        """
        with set_up_client(self.token):
            remote, deleted = self._look_before(files)
            self._refuse_to_overwrite(remote)
            head = self._create_missing(remote)
            mark = uuid.uuid4().hex
            self.record.begin(self.target, mark, set(files) - keep)
            oid, pr_url = self._commit(files, deleted, head, self.options.commit_message or message, mark)
            self.record.finish(self.target, None if self.options.create_pr else oid)
        event("push", target=str(self.target), commit=oid, files=len(files), deleted=len(deleted))
        return Commit(self.target, remote, deleted, oid, pr_url)

    def preview(self, files: Mapping[str, Content]) -> Commit:
        """Return what `push` would do. It changes nothing, here or on the Hub."""
        remote, deleted, problem = None, list[str](), None
        with set_up_client(self.token):
            try:
                remote, deleted = self._look_before(files)
                self._refuse_to_overwrite(remote)
            except HubError as error:
                problem = str(error)
        return Commit(self.target, remote, deleted, problem=problem)

    def open(self) -> None:
        """Create the repository and the branch if they do not exist, and check whether a push may follow."""
        with set_up_client(self.token):
            remote = self._look()
            self._refuse_to_overwrite(remote)
            self._create_missing(remote)

    def _look_before(self, files: Mapping[str, Content]) -> tuple[Remote, list[str]]:
        """Return the state of the branch, and the files of earlier pushes that this push deletes."""
        remote = self._look()
        return remote, sorted((self.record.files(self.target) - set(files)) & remote.files)

    def _look(self) -> Remote:
        try:
            return retry(self._read_remote, "looking at the repository")
        except Exception as error:
            raise self._explain(error) from None

    def _read_remote(self) -> Remote:
        try:
            main = self._read_info()
        except RepositoryNotFoundError as error:
            if status_of(error) != 404:
                raise
            return Remote(False, self.options.private, None, frozenset(), True)
        info, exists = main, True
        if self.target.revision != "main":
            try:
                info = self._read_info(self.target.revision)
            except RevisionNotFoundError:
                exists = False
        files = frozenset(sibling.rfilename for sibling in info.siblings or ())
        is_copy = self.target.revision != "main" and info.sha == main.sha  # main has its content too
        is_safe = is_copy or self._is_ours(info.sha, files)
        return Remote(True, bool(main.private), info.sha if exists else None, files, is_safe)

    def _read_info(self, revision: str | None = None) -> Any:
        return self._api.repo_info(**self._repo, revision=revision, timeout=errors.TIMEOUT_S)

    def _is_ours(self, head: str | None, files: frozenset[str]) -> bool:
        """Return whether the head is from this folder, or from the creation of the repository."""
        entry = self.record.entry(self.target)
        if head in (None, entry["commit"]):
            return True
        if entry["begun"] is None and not files <= _CREATED_BY_HUB:
            return False
        commits = self._api.list_repo_commits(**self._repo, revision=self.target.revision)
        if entry["begun"] is not None and entry["begun"] in commits[0].message:
            if not self.options.dry_run:
                self.record.finish(self.target, commits[0].commit_id)
            return True
        return len(commits) == 1 and files <= _CREATED_BY_HUB

    def _refuse_to_overwrite(self, remote: Remote) -> None:
        if remote.is_safe or self.options.overwrite or self.options.create_pr:
            return
        last = self.record.entry(self.target)["commit"]
        pushed = f"the last push from here was {last}" if last else "nothing was pushed from here"
        raise HubError(
            f"{self.target}: its newest commit is {remote.head}, and {pushed} ({self.record.path}). Look at "
            f"{self.target.url}/commits/{self.target.revision} first. Then `recipes/push.py --overwrite` pushes on "
            f"top of it, and --create_pr opens a pull request. {UNSENT}",
            status=412,
        )

    def _create_missing(self, remote: Remote) -> str | None:
        """Create the repository and the branch if needed, and return the head that the commit builds on."""
        if remote.head is not None:
            return remote.head
        try:
            if not remote.exists:
                sdk = _SPACE_SDK if self.target.repo_type == "space" else None
                new = {**self._repo, "private": self.options.private, "exist_ok": True, "space_sdk": sdk}
                retry(lambda: self._api.create_repo(**new), "creating the repository")
            if self.target.revision != "main" and not self.options.create_pr:
                branch = {**self._repo, "branch": self.target.revision, "exist_ok": True}
                retry(lambda: self._api.create_branch(**branch), "creating the branch")
        except Exception as error:
            raise self._explain(error) from None
        return self._look().head

    def _commit(
        self, files: Mapping[str, Content], deleted: list[str], head: str | None, message: str, mark: str
    ) -> tuple[str, str | None]:
        additions = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        place = {**self._repo, "revision": self.target.revision, "create_pr": self.options.create_pr}
        try:
            self._api.preupload_lfs_files(additions=additions, free_memory=False, **place)
        except Exception as error:  # the client has retried already
            raise self._explain(error) from None
        for wait_s in WAITS_S:
            try:
                made = self._api.create_commit(
                    operations=[*additions, *(CommitOperationDelete(name, is_folder=False) for name in deleted)],
                    commit_message=message,
                    commit_description=f"hf-hybrid {__version__}, push {mark}",
                    parent_commit=head,
                    **place,
                )
            except Exception as error:
                if (landed := self._find_landed(mark, error)) is not None:
                    return landed
                if not pause(error, wait_s, "the commit"):
                    raise self._explain(error) from None
            else:
                return made.oid, made.pr_url
        raise AssertionError("the last try returns or raises")

    def _find_landed(self, mark: str, error: Exception) -> tuple[str, str | None] | None:
        """Return the commit with the mark: it may exist although the answer was an error or lost."""
        if not is_transient(error) and status_of(error) != 412:
            return None
        try:
            return retry(lambda: self._find_mark(mark), "looking for the commit")
        except Exception:
            raise explain(error, str(self.target), self.token, _UNKNOWN) from None

    def _find_mark(self, mark: str) -> tuple[str, str | None] | None:
        places: list[tuple[str, str | None]] = [(self.target.revision, None)]
        if self.options.create_pr:
            refs = self._api.list_repo_refs(**self._repo, include_pull_requests=True).pull_requests or []
            newest = sorted((int(ref.ref.rsplit("/", 1)[1]) for ref in refs), reverse=True)[:3]
            places = [(f"refs/pr/{number}", f"{self.target.url}/discussions/{number}") for number in newest]
        for revision, pr_url in places:
            head = self._api.list_repo_commits(**self._repo, revision=revision)[0]
            if mark in head.message:
                return head.commit_id, pr_url
        return None

    def _explain(self, error: Exception) -> HubError:
        return explain(error, str(self.target), self.token, _NOTHING_VISIBLE)


class Entry(TypedDict):
    """Pushes to a branch."""

    commit: str | None  # of the last push; None before the first is complete
    files: list[str]  # of all pushes
    begun: str | None  # mark of a push whose end is not known
    begun_files: list[str]  # its files


class PushRecord:
    """Reads and writes `hub.json`, which tells pushes from this folder from the commits of others.

    It has an entry for each branch. A push is recorded before anything is sent: if its end is not known, the next push
    looks for it on the Hub.

    Args:
        path (`str` or `Path`): The file.

    Example:

        >>> import tempfile
        >>> record, target = PushRecord(Path(tempfile.mkdtemp(), "hub.json")), Target("user/name")
        >>> record.begin(target, "mark", ["README.md"])
        >>> record.finish(target, "0f1e2d")
        >>> record.entry(target)["commit"], record.files(target)
        ('0f1e2d', {'README.md'})
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def entry(self, target: Target) -> Entry:
        """Return the entry of a branch."""
        found: Entry | None = self._read()["pushes"].get(_key(target))
        return found or Entry(commit=None, files=[], begun=None, begun_files=[])

    def files(self, target: Target) -> set[str]:
        """Return the files of all pushes to a repository, on any branch: a new branch is a copy of another."""
        same = _key(target._replace(revision=""))
        pushes = self._read()["pushes"].items()
        return {name for key, entry in pushes if key.startswith(same) for name in entry["files"]}

    def begin(self, target: Target, mark: str, files: Iterable[str]) -> None:
        """Record the begin of a push whose commit message has the mark."""
        self._write_entry(target, {**self.entry(target), "begun": mark, "begun_files": sorted(files)})

    def finish(self, target: Target, commit: str | None) -> None:
        """Record the commit of the push that began; `None` for a pull request."""
        entry = self.entry(target)
        if commit is not None:
            entry |= {"commit": commit, "files": sorted({*entry["files"], *entry["begun_files"]})}
        self._write_entry(target, {**entry, "begun": None, "begun_files": []})

    @property
    def card_options(self) -> dict[str, Any]:
        """Options of the card in the last push."""
        found: dict[str, Any] = self._read().get("card", {})
        return found

    def keep_card_options(self, options: Mapping[str, Any]) -> None:
        """Keep the options of the card for the next push."""
        self._write({**self._read(), "card": dict(options)})

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"format": _FORMAT, "pushes": {}}
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            keys = [set(entry) for entry in content["pushes"].values()]
            if content["format"] != _FORMAT or any(found != set(Entry.__annotations__) for found in keys):
                raise ValueError(f"expected format {_FORMAT}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path} cannot be read ({error!r}). Move it away; the next push then needs --overwrite."
            ) from None
        return content

    def _write_entry(self, target: Target, entry: Entry) -> None:
        content = self._read()
        self._write({**content, "pushes": {**content["pushes"], _key(target): entry}})

    def _write(self, content: dict[str, Any]) -> None:
        with replacing(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _key(target: Target) -> str:
    return f"{target.url}@{target.revision}"
