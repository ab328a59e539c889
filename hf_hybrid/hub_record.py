"""`hub.json`: what was pushed from a folder, so that what others put on the Hub can be told from it.

For each branch that was pushed to there is an entry: the commit that the last push made, and the files that pushes
have put there.  A push notes itself down before anything is sent: where its end was not seen, the next one looks on
the Hub for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from .events import redact
from .files import replacing

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
        kind = "" if self.repo_type == "model" else f"{self.repo_type} "
        return f"{kind}{self.repo_id}" + ("" if self.revision == "main" else f" ({self.revision})")

    @property
    def url(self) -> str:
        """Its page; the address of a Hub of one's own may have a password in it, which is left out."""
        return redact(f"{self.endpoint}/{'' if self.repo_type == 'model' else f'{self.repo_type}s/'}{self.repo_id}")


class Entry(TypedDict):
    """What is known of a branch."""

    commit: str | None  # of the last push; None before the first has come to its end
    files: list[str]  # that pushes have put there
    begun: str | None  # the mark of a push whose end was not seen
    begun_files: list[str]  # that it sends


class PushRecord:
    """Reads and writes `hub.json`.

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
        """What is known of a branch."""
        return self._read().get(_key(target)) or Entry(commit=None, files=[], begun=None, begun_files=[])

    def files(self, target: Target) -> set[str]:
        """What pushes from here have put into a repository, to whatever branch: branches begin as copies of others."""
        same = _key(target._replace(revision=""))
        return {name for key, entry in self._read().items() if key.startswith(same) for name in entry["files"]}

    def begin(self, target: Target, mark: str, files: Iterable[str]) -> None:
        """A push begins that leaves `mark` in the message of its commit."""
        self._write(target, {**self.entry(target), "begun": mark, "begun_files": sorted(files)})

    def finish(self, target: Target, commit: str | None) -> None:
        """The push that was begun is there, as this commit; `None` where it is a proposal beside the branch."""
        entry = self.entry(target)
        if commit is not None:
            files = sorted({*entry["files"], *entry["begun_files"]})
            entry = Entry(commit=commit, files=files, begun=None, begun_files=[])
        self._write(target, {**entry, "begun": None, "begun_files": []})

    def _read(self) -> dict[str, Entry]:
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            pushes: dict[str, Entry] = content["pushes"]
            if content["format"] != _FORMAT or any(
                set(entry) != set(Entry.__annotations__) for entry in pushes.values()
            ):
                raise ValueError(f"expected format {_FORMAT}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path} cannot be read ({error!r}): delete it; the next push then needs --overwrite."
            ) from None
        return pushes

    def _write(self, target: Target, entry: Entry) -> None:
        content: dict[str, Any] = {"format": _FORMAT, "pushes": {**self._read(), _key(target): entry}}
        with replacing(self.path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _key(target: Target) -> str:
    return f"{target.url}@{target.revision}"
