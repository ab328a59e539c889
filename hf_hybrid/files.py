"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished-"  # begins the names of what is being written, and of what is being deleted
_ABANDONED_S = 86_400.0  # what nothing has written to for a day was left by a kill


@contextmanager
def replacing(path: str | os.PathLike[str], durable: bool = True) -> Iterator[Path]:
    """A path to write to, whose file replaces `path` at the end: a reader, or a kill, finds the old file or the new.

    Args:
        path (`str` or `Path`): The file; its folder is made.
        durable (`bool`, *optional*, defaults to `True`): Wait until it is on the disk, for the machine may fail too.

    Yields:
        `Path`: A file beside it, with the same suffix; no other process, on any machine, has the same.

    Example:

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "new", "scores.json")
        >>> with replacing(path) as unfinished:
        ...     _ = unfinished.write_text("{}")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('{}', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield unfinished
        if durable:
            with open(unfinished, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def replace_folder(unfinished: Path, path: Path) -> None:
    """Give a folder that has been written aside its name; one that has it now is deleted."""
    delete_folder(path)
    os.replace(unfinished, path)


def delete_folder(path: Path) -> None:
    """Delete a folder, which is gone at once: no kill leaves a part of it under its name."""
    if path.is_dir():
        doomed = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}-{path.name}")
        os.replace(path, doomed)
        shutil.rmtree(doomed)


def delete_unfinished(folder: str | os.PathLike[str], older_than_s: float = _ABANDONED_S) -> int:
    """Delete what killed processes have left half written.

    Args:
        folder (`str` or `Path`): Where to look, not in folders of it.
        older_than_s (`float`, *optional*, defaults to a day): What is younger may be in use. 0 where none but this
            process writes there.

    Returns:
        `int`: How many files and folders there were.
    """
    found = 0
    for path in Path(folder).glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):  # another process may clean up too
            if time.time() - path.stat().st_mtime >= older_than_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                found += 1
    return found
