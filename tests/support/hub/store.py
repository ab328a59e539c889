"""What the local Hub of the tests keeps on disk: repositories with their history.

    ROOT/models/OWNER/NAME/             the same under datasets/ and spaces/
        repo.json                       settings, and the commit that each ref points to
        commits/OID.json                parent, author, message, and the whole tree: path -> Entry
        objects/SHA256                  contents of files, sent in a commit or uploaded before it
        parts/SHA256/N                  parts of an upload that is not complete yet

A commit becomes visible when `repo.json` is replaced, its last step: all of it is there, or nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import yaml

from hf_hybrid.utils.files import replacing

KINDS = ("models", "datasets", "spaces")
MAIN = "refs/heads/main"
LFS_FROM_BYTES = 10 * 2**20  # larger files are no part of git, whatever their name
LFS_PATTERNS = "7z arrow bin ckpt gz h5 npy npz onnx parquet pkl pt pth safetensors tar zip zst".split()  # noqa: SIM905
GIT_ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_PATTERNS)
SPACE_CARD = "---\ntitle: {name}\nsdk: {sdk}\napp_file: app.py\npinned: false\n---\n"


class Refusal(Exception):
    """An answer of the Hub that is an error.

    Args:
        status (`int`): Of the answer.
        message (`str`): For people.
        code (`str`, *optional*): `X-Error-Code`, by which the client chooses its exception.
        headers (`dict`, *optional*): More of them.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class Entry(TypedDict):
    """A file in a tree."""

    size: int
    sha256: str
    blob_id: str  # git's id: of the content, or of the pointer to it
    lfs: bool


class Commit(NamedTuple):
    """A commit, as `Repository.commits` tells of it."""

    oid: str
    parent: str | None
    author: str
    title: str
    message: str
    date: str
    files: dict[str, Entry]


class Repository:
    """One repository; every question is answered from its folder.

    Args:
        folder (`Path`): Where it is.
        repo_id (`str`): `owner/name`.
        kind (`str`): One of `KINDS`.
    """

    _writing = threading.RLock()  # changes of all repositories come one after the other

    def __init__(self, folder: Path, repo_id: str, kind: str) -> None:
        self.folder, self.repo_id, self.kind = folder, repo_id, kind

    @classmethod
    def create(cls, folder: Path, repo_id: str, kind: str, **settings: Any) -> Repository:
        """A new one, with a first commit by the system as the Hub makes it: `.gitattributes`, a Space's card."""
        repository = cls(folder, repo_id, kind)
        repository._write_settings({"created": _now(), "gated": False, "refs": {}, **settings})
        files = {".gitattributes": GIT_ATTRIBUTES}
        if kind == "spaces":
            files["README.md"] = SPACE_CARD.format(name=repo_id.split("/")[1], sdk=settings["sdk"])
        tree = {path: repository._keep(content.encode()) for path, content in files.items()}
        repository._point(MAIN, repository._write_commit(None, "system", "initial commit", "", tree))
        return repository

    @property
    def exists(self) -> bool:
        return (self.folder / "repo.json").is_file()

    @property
    def owner(self) -> str:
        return self.repo_id.split("/")[0]

    @property
    def settings(self) -> dict[str, Any]:
        """`private`, `gated`, `created`, `refs`, and `sdk` of a Space."""
        settings: dict[str, Any] = json.loads((self.folder / "repo.json").read_text(encoding="utf-8"))
        return settings

    def change(self, **settings: Any) -> None:
        with self._writing:
            self._write_settings({**self.settings, **settings})

    def delete(self) -> None:
        with self._writing:
            shutil.rmtree(self.folder)

    # refs and history

    @property
    def refs(self) -> dict[str, str]:
        """The commit of each ref: `refs/heads/main`, `refs/pr/1`, `refs/tags/v1`."""
        refs: dict[str, str] = self.settings["refs"]
        return refs

    def branch(self, revision: str) -> str:
        """The full name of a branch or pull request, which commits can go to."""
        for ref in (f"refs/heads/{revision}", revision):
            if ref in self.refs and not ref.startswith("refs/tags/"):
                return ref
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def oid(self, revision: str) -> str:
        """The commit that a branch, tag, ref or commit id stands for."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        if re.fullmatch("[0-9a-f]{40}", revision) and (self.folder / "commits" / f"{revision}.json").is_file():
            return revision
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def create_ref(self, ref: str, start: str) -> None:
        with self._writing:
            if ref in self.refs:
                raise Refusal(409, f"Reference already exists: {ref}")
            self._point(ref, self.oid(start))

    def commits(self, revision: str = "main") -> list[Commit]:
        """The history of a revision, newest first; the last is the Hub's own `initial commit`."""
        return list(self._history(self.oid(revision)))

    def _history(self, oid: str | None) -> Iterator[Commit]:
        while oid is not None:
            commit = self._read_commit(oid)
            yield commit
            oid = commit.parent

    def last_change(self, path: str, oid: str) -> Commit:
        """The commit of the history that gave a file or folder its present content."""
        history = self._history(oid)
        last = next(history)
        for older in history:
            if below(older.files, path) != below(last.files, path):
                break
            last = older
        return last

    # files

    def tree(self, revision: str = "main") -> dict[str, Entry]:
        return self._read_commit(self.oid(revision)).files

    def content(self, entry: Entry) -> bytes:
        return (self.folder / "objects" / entry["sha256"]).read_bytes()

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """All files of a revision; `.gitattributes` is the Hub's own."""
        return {path: self.content(entry) for path, entry in self.tree(revision).items()}

    def metadata(self, revision: str = "main") -> dict[str, Any]:
        """Front matter of the card; empty where there is none that can be read."""
        card = self.tree(revision).get("README.md")
        text = self.content(card).decode(errors="replace") if card else ""
        try:
            data = front_matter(text)
        except yaml.YAMLError:
            return {}
        return data if isinstance(data, dict) else {}

    def upload_mode(self, path: str, size: int, sample: bytes, revision: str) -> str:
        """`lfs` for what `.gitattributes` names, what is large and what is no text; else `regular`."""
        attributes = self.tree(revision).get(".gitattributes")
        lines = self.content(attributes).decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        named = any(fnmatch(path, pattern) or fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in patterns)
        return "lfs" if named or size >= LFS_FROM_BYTES or b"\0" in sample else "regular"

    # uploads

    def has(self, sha256: str, size: int) -> bool:
        path = self.folder / "objects" / sha256
        return path.is_file() and path.stat().st_size == size

    def upload(self, sha256: str, content: bytes) -> None:
        """Keep an object, if it is what its name says."""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refusal(400, f"The upload of {len(content)} bytes does not have the announced SHA-256 {sha256}")
        with replacing(self.folder / "objects" / sha256, durable=False) as unfinished:
            unfinished.write_bytes(content)

    def upload_part(self, sha256: str, number: int, content: bytes) -> str:
        """Keep a part; returns its ETag."""
        with replacing(self.folder / "parts" / sha256 / str(number), durable=False) as unfinished:
            unfinished.write_bytes(content)
        return hashlib.md5(content).hexdigest()

    def join_parts(self, sha256: str, etags: dict[int, str]) -> None:
        folder = self.folder / "parts" / sha256
        parts = {number: (folder / str(number)).read_bytes() for number in sorted(etags)}
        if any(hashlib.md5(part).hexdigest() != etags[number].strip('"') for number, part in parts.items()):
            raise Refusal(400, "A part is not the one that was uploaded")
        self.upload(sha256, b"".join(parts.values()))
        shutil.rmtree(folder)

    # commits

    def commit(
        self,
        changes: Iterable[dict[str, Any]],
        revision: str,
        *,
        author: str,
        title: str,
        message: str = "",
        parent: str | None = None,
        as_pull_request: bool = False,
    ) -> tuple[str, str]:
        """Add one commit; an error leaves no trace of it.

        Args:
            changes (iterable of `dict`): Lines of the client's request: `key` and `value`.
            revision (`str`): A branch or pull request.
            author (`str`): Name of the user.
            title (`str`): First line of the message.
            message (`str`, *optional*): The rest of it.
            parent (`str`, *optional*): The commit, or how its id begins, that the branch must be at.
            as_pull_request (`bool`, *optional*, defaults to `False`): Leave the branch and open `refs/pr/N`.

        Returns:
            `tuple[str, str]`: The new commit and its ref.
        """
        with self._writing:
            ref = self.branch(revision)
            head = self.refs[ref]
            if parent is not None and not head.startswith(parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(self._read_commit(head).files)
            for change in changes:
                self._apply(files, change["key"], change["value"], head)
            if as_pull_request:
                numbers = [int(name.rsplit("/", 1)[1]) for name in self.refs if name.startswith("refs/pr/")]
                ref = f"refs/pr/{max(numbers, default=0) + 1}"
            oid = self._write_commit(head, author, title, message, files)
            self._point(ref, oid)
            return oid, ref

    def _apply(self, files: dict[str, Entry], key: str, value: dict[str, Any], head: str) -> None:
        path: str = value["path"]
        if key == "file":
            files[path] = self._keep(base64.b64decode(value["content"], validate=True))
        elif key == "lfsFile":
            files[path] = self._uploaded(value["oid"], value.get("size"))
        elif key == "copyFile":
            source = self.tree(value.get("srcRevision") or head)
            files[path] = source[_known(source, value["srcPath"])]
        elif key == "deletedFile":
            del files[_known(files, path)]
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
        else:
            raise Refusal(400, f"Unknown operation {key}")

    def _keep(self, content: bytes) -> Entry:
        sha256 = hashlib.sha256(content).hexdigest()
        self.upload(sha256, content)
        return Entry(size=len(content), sha256=sha256, blob_id=git_id(content), lfs=False)

    def _uploaded(self, sha256: str, size: int | None) -> Entry:
        path = self.folder / "objects" / sha256
        if not path.is_file() or size not in (None, path.stat().st_size):
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        found = path.stat().st_size
        return Entry(size=found, sha256=sha256, blob_id=git_id(lfs_pointer(sha256, found)), lfs=True)

    def _write_commit(self, parent: str | None, author: str, title: str, message: str, files: dict[str, Entry]) -> str:
        commit = Commit("", parent, author, title, message, _now(), dict(sorted(files.items())))
        text = json.dumps(commit._asdict())
        oid = hashlib.sha1(text.encode()).hexdigest()
        with replacing(self.folder / "commits" / f"{oid}.json", durable=False) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        return oid

    def _read_commit(self, oid: str) -> Commit:
        commit = json.loads((self.folder / "commits" / f"{oid}.json").read_text(encoding="utf-8"))
        return Commit(**{**commit, "oid": oid})

    def _point(self, ref: str, oid: str) -> None:
        self.change(refs={**self.refs, ref: oid})

    def _write_settings(self, settings: dict[str, Any]) -> None:
        with replacing(self.folder / "repo.json", durable=False) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def git_id(content: bytes) -> str:
    """The id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """What git holds in the place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def front_matter(card: str) -> Any:
    """The YAML between the first two lines of dashes; `None` without any."""
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", card, re.DOTALL | re.MULTILINE)
    return yaml.safe_load(found[1]) if found else None


def _known(files: dict[str, Entry], path: str) -> str:
    if path not in files:
        raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    return path


def below(files: dict[str, Entry], path: str) -> dict[str, Entry]:
    """A file, or what is in a folder; all, when the path is empty."""
    return {name: entry for name, entry in files.items() if not path or f"{name}/".startswith(f"{path}/")}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
