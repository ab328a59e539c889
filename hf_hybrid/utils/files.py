"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from huggingface_hub.constants import HF_HOME

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished-"  # begins the names of what is being written, and of what is being deleted
_BLOCK_BYTES = 2**20
_ABANDONED_S = 86_400.0  # what nothing has written to for a day was left by a kill


@contextmanager
def replacing(path: str | os.PathLike[str], durable: bool = True, sealed: bool = False) -> Iterator[Path]:
    """A path to write to, whose file replaces `path` at the end: a reader, or a kill, finds the old file or the new.

    Args:
        path (`str` or `Path`): The file; its folder is made.
        durable (`bool`, *optional*, defaults to `True`): Wait until it is on the disk, for the machine may fail too.
        sealed (`bool`, *optional*, defaults to `False`): Write its size and SHA-256 beside it, for `is_whole`.

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
            sync(unfinished)
        if sealed:
            with replacing(_seal(path), durable) as unfinished_seal:
                seal = {"bytes": unfinished.stat().st_size, "sha256": sha256(unfinished)}
                unfinished_seal.write_text(json.dumps(seal), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def size_words(count: int) -> str:
    """A number of bytes, for people.

    Example:

        >>> size_words(2**20 * 3), size_words(512)
        ('3.0 MiB', '512 bytes')
    """
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{count} bytes"


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Return whether a file written with `sealed=True` exists unchanged."""
    path = Path(path)
    try:
        seal = json.loads(_seal(path).read_text(encoding="utf-8"))
        whole: bool = path.stat().st_size == seal["bytes"] and sha256(path) == seal["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole and path.exists():
        logger.warning("%s is damaged, or was written by an earlier release: it is rebuilt", path)
    return whole


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.seal")


def replace_folder(unfinished: Path, path: Path) -> None:
    """Atomically replace a folder by one that was written aside."""
    old = _moved_aside(path)
    os.replace(unfinished, path)
    sync(path.parent)
    if old is not None:
        shutil.rmtree(old)


def delete_folder(path: Path) -> None:
    """Delete a folder, which is gone at once: no kill leaves a part of it under its name."""
    if (doomed := _moved_aside(path)) is not None:
        shutil.rmtree(doomed)


def _moved_aside(path: Path) -> Path | None:
    if not path.is_dir():
        return None
    doomed = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}-{path.name}")
    os.replace(path, doomed)
    return doomed


def files_in(folder: Path) -> list[str]:
    """Return the names of all files of a folder, in order, but for unfinished ones; a link to a folder is a file."""
    found = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in folders if not name.startswith(UNFINISHED)]
        kept = [name for name in [*names, *links] if not name.startswith(UNFINISHED)]
        found += [Path(place, name).relative_to(folder).as_posix() for name in kept]
    return sorted(found)


def unlink_files(folder: Path, names: Sequence[str]) -> None:
    """Delete files of a folder, and folders in it that are empty then."""
    for name in names:
        if (folder / name).is_dir() and not (folder / name).is_symlink():  # somebody else's, made since
            continue
        with suppress(FileNotFoundError, NotADirectoryError):
            (folder / name).unlink()
    delete_empty_folders(folder, names)


def delete_empty_folders(folder: Path, names: Iterable[str]) -> None:
    """Delete the folders of files that were deleted, where no file is left in them; models have empty folders too."""
    parents = {part for name in names for part in folders_above(name)}
    inside = {place for part in parents for place, _, _ in os.walk(folder / part)}
    for place in sorted(inside, key=len, reverse=True):
        with suppress(OSError):
            os.rmdir(place)


def folders_above(name: str) -> list[str]:
    """Return the folders that a file of this name is in, from the top.

    Example:

        >>> folders_above("model/1_Pooling/config.json")
        ['model', 'model/1_Pooling']
    """
    return [str(part) for part in PurePosixPath(name).parents if str(part) != "."][::-1]


def sync(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of caches.

    Args:
        chosen (`str` or `Path`, *optional*): By default `$HF_HYBRID_CACHE`, where it is set and not empty, else
            `hf_hybrid` in the cache of Hugging Face.

    Example:

        >>> cache_folder("/data/cache").as_posix()
        '/data/cache'
    """
    return Path(chosen or os.environ.get("HF_HYBRID_CACHE") or Path(HF_HOME, "hf_hybrid")).expanduser()
