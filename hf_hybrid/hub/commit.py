"""One commit on the Hub: all of the files or none, never over the work of others, and never twice.

1. Look at the branch. Its head must be the commit of the last push from here, or there is nothing to be lost.
2. Make the repository and the branch where they are not there.
3. Note down in `hub.json` that a push begins, and the mark that its commit will have in its message.
4. Send the large files. Those that the Hub has from an earlier try are not sent again.
5. Commit, on top of the head that was seen: the Hub refuses where it is another by now. Where the answer is lost, look
   for the mark before the next try.
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
from .errors import HubError, careful_client, explain, is_transient, pause, retrying, status_of, waits

NOTHING_VISIBLE = "Nothing of this push is visible there"
_UNKNOWN = "Whether this push is there could not be seen; the same command finds out"
_SPACE_SDK = "gradio"
_MADE_BY_THE_HUB = {".gitattributes", "README.md"}  # with a repository, by hand or not

Content = Path | bytes


@dataclass(frozen=True)
class PushOptions:
    """Options of a push.

    Args:
        private (`bool`, *optional*, defaults to `True`): Of a repository that is made; others stay as they are.
        revision (`str`, *optional*): A branch, made if need be; by default main.
        commit_message (`str`, *optional*): First line of the commit's message; by default it names what is pushed.
        dry_run (`bool`, *optional*, defaults to `False`): Look, and change nothing here or there.
        overwrite (`bool`, *optional*, defaults to `False`): Push on top of commits that are not from here.
        create_pr (`bool`, *optional*, defaults to `False`): Propose the commit beside the branch.
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


class Remote(NamedTuple):
    """Describe what is there.

    Args:
        exists (`bool`): The repository.
        private (`bool`): Likewise.
        head (`str`, *optional*): The newest commit of the branch, where there is one.
        files (`frozenset[str]`): Of the branch, or of the one that it begins as a copy of.
        ours (`bool`): Nothing in the branch is lost by a commit on top of its head.
    """

    exists: bool
    private: bool
    head: str | None
    files: frozenset[str]
    ours: bool


class Commit(NamedTuple):
    """Result of a push.

    Args:
        target (`Target`): Where it went.
        remote (`Remote`, *optional*): What was there before; `None` where a dry run could not see it.
        deleted (`list[str]`): Files of earlier pushes that are gone.
        oid (`str`, *optional*): The commit; `None` in a dry run.
        pr_url (`str`, *optional*): The proposal.
        problem (`str`, *optional*): In a dry run, why there would be none.
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
        record (`PushRecord`): What was pushed before.
        options (`PushOptions`): How.
        token (`str`, *optional*): Of the user; a dry run may do without.
        api (`HfApi`): The client.
    """

    def __init__(
        self, target: Target, record: PushRecord, options: PushOptions, token: str | None, api: HfApi
    ) -> None:
        self.target, self.record, self.options = target, record, options
        self.token, self._api = token, api
        self._repo: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.repo_type, "token": token}

    def push(self, files: Mapping[str, Content], message: str, leave: frozenset[str] = frozenset()) -> Commit:
        """Make one commit of all these files.

        Args:
            files (`Mapping[str, Path or bytes]`): By their path in the repository.
            message (`str`): The first line of the commit's, where the options have none.
            leave (`frozenset[str]`, *optional*): Those that later pushes do not delete.

        Raises:
            HubError: When it could not be made; whatever the reason, a part of it is never visible.
        """
        with careful_client(self.token):
            remote = self.look()
            deleted = sorted((self.record.files(self.target) - set(files)) & remote.files)
            self._refuse_to_overwrite(remote)
            head = self._make_place(remote)
            mark = uuid.uuid4().hex
            self.record.begin(self.target, mark, set(files) - leave)
            oid, pr_url = self._commit(files, deleted, head, self.options.commit_message or message, mark)
            self.record.finish(self.target, None if self.options.create_pr else oid)
        event("push", target=str(self.target), commit=oid, files=len(files), deleted=len(deleted))
        return Commit(self.target, remote, deleted, oid, pr_url)

    def try_out(self, files: Mapping[str, Content]) -> Commit:
        """Return what `push` would do. It changes nothing, here or on the Hub."""
        remote, deleted, problem = None, list[str](), None
        with careful_client(self.token):
            try:
                remote = self.look()
                deleted = sorted((self.record.files(self.target) - set(files)) & remote.files)
                self._refuse_to_overwrite(remote)
            except HubError as error:
                problem = str(error)
        return Commit(self.target, remote, deleted, problem=problem)

    def open(self) -> None:
        """Make the repository and the branch where they are not there, and see whether a push may follow."""
        with careful_client(self.token):
            remote = self.look()
            self._refuse_to_overwrite(remote)
            self._make_place(remote)

    # Looking

    def look(self) -> Remote:
        """Read the current state."""
        try:
            return retrying(self._look, "looking at the repository")
        except Exception as error:
            raise self._explained(error) from None

    def _look(self) -> Remote:
        try:
            main = self._info()
        except RepositoryNotFoundError as error:
            if status_of(error) != 404:
                raise
            return Remote(False, self.options.private, None, frozenset(), True)
        info, exists = main, True
        if self.target.revision != "main":
            try:
                info = self._info(self.target.revision)
            except RevisionNotFoundError:
                exists = False
        files = frozenset(sibling.rfilename for sibling in info.siblings or ())
        is_copy = self.target.revision != "main" and info.sha == main.sha  # what it holds is in main too
        ours = is_copy or self._is_ours(info.sha, files)
        return Remote(True, bool(main.private), info.sha if exists else None, files, ours)

    def _info(self, revision: str | None = None) -> Any:
        return self._api.repo_info(**self._repo, revision=revision, timeout=errors.TIMEOUT_S)

    def _is_ours(self, head: str | None, files: frozenset[str]) -> bool:
        entry = self.record.entry(self.target)
        if head in (None, entry["commit"]):
            return True
        if entry["begun"] is None and not files <= _MADE_BY_THE_HUB:
            return False
        commits = self._api.list_repo_commits(**self._repo, revision=self.target.revision)
        if entry["begun"] is not None and entry["begun"] in commits[0].message:
            if not self.options.dry_run:
                self.record.finish(self.target, commits[0].commit_id)
            return True
        return len(commits) == 1 and files <= _MADE_BY_THE_HUB

    def _refuse_to_overwrite(self, remote: Remote) -> None:
        if remote.ours or self.options.overwrite or self.options.create_pr:
            return
        last = self.record.entry(self.target)["commit"]
        from_here = f"the last push from here was {last}" if last else "none was pushed from here"
        raise HubError(
            f"{self.target}: its newest commit is {remote.head}, and {from_here} ({self.record.path}). Look at "
            f"{self.target.url}/commits/{self.target.revision} first; `recipes/push.py --overwrite` puts these files "
            "on top of it, and --create_pr proposes them. Nothing was sent.",
            status=412,
        )

    # Making

    def _make_place(self, remote: Remote) -> str | None:
        """The head that the commit builds on."""
        if remote.head is not None:
            return remote.head
        try:
            if not remote.exists:
                retrying(self._create_repository, "making the repository")
            if self.target.revision != "main" and not self.options.create_pr:
                branch = {**self._repo, "branch": self.target.revision, "exist_ok": True}
                retrying(lambda: self._api.create_branch(**branch), "making the branch")
        except Exception as error:
            raise self._explained(error) from None
        return self.look().head

    def _create_repository(self) -> None:
        sdk = _SPACE_SDK if self.target.repo_type == "space" else None
        self._api.create_repo(**self._repo, private=self.options.private, exist_ok=True, space_sdk=sdk)

    def _commit(
        self, files: Mapping[str, Content], deleted: list[str], head: str | None, message: str, mark: str
    ) -> tuple[str, str | None]:
        additions = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        place = {**self._repo, "revision": self.target.revision, "create_pr": self.options.create_pr}
        try:
            self._api.preupload_lfs_files(additions=additions, free_memory=False, **place)
        except Exception as error:  # the client has tried again what may be tried again
            raise self._explained(error) from None
        for wait_s in waits():
            try:
                made = self._api.create_commit(
                    operations=[*additions, *(CommitOperationDelete(name, is_folder=False) for name in deleted)],
                    commit_message=message,
                    commit_description=f"hf-hybrid {__version__}, push {mark}",
                    parent_commit=head,
                    **place,
                )
            except Exception as error:
                if (landed := self._find(mark, error)) is not None:
                    return landed
                if not pause(error, wait_s, "the commit"):
                    raise self._explained(error) from None
            else:
                return made.oid, made.pr_url
        raise AssertionError("the last try returns or raises")

    def _find(self, mark: str, error: Exception) -> tuple[str, str | None] | None:
        """The commit with the mark, which may have been made although its answer was an error or none."""
        if not is_transient(error) and status_of(error) != 412:
            return None
        try:
            return retrying(lambda: self._newest_with(mark), "looking for the commit")
        except Exception:
            raise explain(error, str(self.target), self.token, _UNKNOWN) from None

    def _newest_with(self, mark: str) -> tuple[str, str | None] | None:
        for revision, pr_url in self._places():
            newest = self._api.list_repo_commits(**self._repo, revision=revision)[0]
            if mark in newest.message:
                return newest.commit_id, pr_url
        return None

    def _places(self) -> list[tuple[str, str | None]]:
        """Yield the revisions that may contain a commit: the branch, or one of the latest pull requests."""
        if not self.options.create_pr:
            return [(self.target.revision, None)]
        found = self._api.list_repo_refs(**self._repo, include_pull_requests=True).pull_requests or []
        numbers = sorted((int(ref.ref.rsplit("/", 1)[1]) for ref in found), reverse=True)
        return [(f"refs/pr/{number}", f"{self.target.url}/discussions/{number}") for number in numbers[:3]]

    def _explained(self, error: Exception) -> HubError:
        return explain(error, str(self.target), self.token, NOTHING_VISIBLE)


RECORD_NAME = "hub.json"


_FORMAT = {"name": "hf_hybrid pushes", "version": 1}


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
        """Its page; the address of a Hub of one's own may have a password in it, which is removed."""
        return redact(f"{self.endpoint}/{'' if self.repo_type == 'model' else f'{self.repo_type}s/'}{self.repo_id}")


class Entry(TypedDict):
    """State of a branch."""

    commit: str | None  # of the last push; None before the first has finished
    files: list[str]  # that pushes have put there
    begun: str | None  # the mark of a push whose end was not seen
    begun_files: list[str]  # that it sends


class PushRecord:
    """Reads and writes `hub.json`: what was pushed from a folder, to tell it from what others put on the Hub.

    For each branch there is an entry: the commit that the last push made, and the files that pushes have put there. A
    push notes itself down before anything is sent: where its end was not seen, the next one looks on the Hub for it.

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
        """State of a branch."""
        return self._read().get(_key(target)) or Entry(commit=None, files=[], begun=None, begun_files=[])

    def files(self, target: Target) -> set[str]:
        """Return the files that pushes from here put into a repository, on any branch: a branch begins as a copy."""
        same = _key(target._replace(revision=""))
        return {name for key, entry in self._read().items() if key.startswith(same) for name in entry["files"]}

    def begin(self, target: Target, mark: str, files: Iterable[str]) -> None:
        """A push begins that leaves `mark` in the message of its commit."""
        self._write_entry(target, {**self.entry(target), "begun": mark, "begun_files": sorted(files)})

    def finish(self, target: Target, commit: str | None) -> None:
        """The push that was begun is there, as this commit; `None` where it is a proposal beside the branch."""
        entry = self.entry(target)
        if commit is not None:
            files = sorted({*entry["files"], *entry["begun_files"]})
            entry = Entry(commit=commit, files=files, begun=None, begun_files=[])
        self._write_entry(target, {**entry, "begun": None, "begun_files": []})

    @property
    def card_options(self) -> dict[str, Any]:
        """What the card of the last push said besides the records of the run."""
        found: dict[str, Any] = self._content().get("card", {})
        return found

    def keep_card_options(self, options: Mapping[str, Any]) -> None:
        """Keep what the card said, for the next push."""
        self._write({**self._content(), "card": dict(options)})

    def _read(self) -> dict[str, Entry]:
        pushes: dict[str, Entry] = self._content()["pushes"]
        return pushes

    def _content(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"format": _FORMAT, "pushes": {}}
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            pushes: dict[str, Entry] = content["pushes"]
            if content["format"] != _FORMAT or any(
                set(entry) != set(Entry.__annotations__) for entry in pushes.values()
            ):
                raise ValueError(f"expected format {_FORMAT}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path} cannot be read ({error!r}): move it away; the next push then needs --overwrite."
            ) from None
        return content

    def _write_entry(self, target: Target, entry: Entry) -> None:
        self._write({**self._content(), "pushes": {**self._read(), _key(target): entry}})

    def _write(self, content: dict[str, Any]) -> None:
        with replacing(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _key(target: Target) -> str:
    return f"{target.url}@{target.revision}"
