"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, whose file replaces `path` at the end: a reader, or a kill, finds the old file or the new.

    Args:
        path (`str` or `Path`): The file; its folder is made.

    Yields:
        `Path`: A file beside it, with the same suffix.

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
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
