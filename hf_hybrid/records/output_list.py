"""The list of an output folder: `outputs.jsonl`, append-only, a JSON object in each line.

| line                                            | meaning                                                 |
|-------------------------------------------------|---------------------------------------------------------|
| `{"format": "hf_hybrid outputs", "version": 1}` | the header                                              |
| `{"type": "run"}`                               | what the folder holds: see `OutputFolder.begin`         |
| `{"file": "model/config.json"}`                 | a recipe is about to write this file, or has written it |
| `{"file": "README.md", "sha256": "0f3a..."}`    | the same, with this content                             |
| `{"deleted": "model/config.json"}`              | a recipe has deleted it                                 |

A line that a kill has cut off is skipped: its file is then foreign, which is the safe side.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hf_hybrid.utils.strict_json import loads

from .schema import OUTPUTS_NAME

_HEADER = {"format": "hf_hybrid outputs", "version": 1}


class OutputList:
    """An `outputs.jsonl`, of which other processes may write more lines at any time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / OUTPUTS_NAME
        self._forget()

    def _forget(self) -> None:
        self.files: dict[str, set[str]] = {}  # with the hashes of the contents that were written, where these are kept
        self.output_type: str | None = None
        self._read_bytes = self._num_lines = self._inode = 0

    def exists(self) -> bool:
        return self.path.exists()

    def refresh(self) -> None:
        """Read the lines that were added; a last line without its end is left for later."""
        try:
            found = self.path.stat()
            size, inode = found.st_size, found.st_ino
        except OSError:
            size, inode = 0, 0
        if size < self._read_bytes or inode != self._inode:  # it is another one
            self._forget()
            self._inode = inode
        if size == self._read_bytes:
            return
        with open(self.path, "rb") as file:
            file.seek(self._read_bytes)
            *lines, _ = file.read().split(b"\n")
        for line in lines:
            self._num_lines += 1
            self._read_bytes += len(line) + 1
            if line.endswith(b"}"):  # else it is empty, or a kill has cut it off, and others were added after it
                self._take(line)

    def _take(self, text: bytes) -> None:
        try:
            line = loads(text.decode())
            keys = tuple(line) if isinstance(line, dict) else ()
            value = line[keys[0]] if len(keys) == 1 or keys == ("file", "sha256") else None
            if isinstance(value, str) and "file" in line:
                self.files.setdefault(relative_name(value), set()).update([line["sha256"]] if len(keys) == 2 else [])
            elif isinstance(value, str) and "deleted" in line:
                self.files.pop(value, None)
            elif isinstance(value, str) and "type" in line:
                self.output_type = value
            elif line != _HEADER:
                raise ValueError("it is none of the lines that recipes write")
        except ValueError as error:
            raise ValueError(
                f"{self.path}, line {self._num_lines}: cannot be read ({error}). It lists the files that recipes may "
                "replace; choose another folder, or delete this one yourself."
            ) from None

    def remove_if_empty(self) -> None:
        """Delete the list where it tells nothing."""
        if not self.files and self.output_type is None:
            self.path.unlink(missing_ok=True)

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines to the disk, in one piece."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.refresh()
        size = self.path.stat().st_size if self.path.exists() else 0
        text = "\n" if size > self._read_bytes else ""  # after a line that was cut off
        known = [] if self._num_lines else [_HEADER]
        text += "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in [*known, *lines])
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.refresh()


def relative_name(name: str) -> str:
    """Return the name of a file within a folder, in one spelling; a ValueError where it lies elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} lies outside of the folder")
    return str(path)
