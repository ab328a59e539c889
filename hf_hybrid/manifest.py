"""Folders whose files are listed, with sizes and SHA-256, in a `manifest.json`: models and checkpoints.

Whoever reads such a folder compares it with its list first, so a file that was cut, altered or lost is found.
"""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .files import replacing, sha256, sync
from .records import MANIFEST_NAME

_FORMAT = {"name": "hf_hybrid manifest", "version": 1}


def write_manifest(folder: str | os.PathLike[str]) -> None:
    """Bring all files of a folder to the disk, and list them with sizes and SHA-256 in its `manifest.json`."""
    folder = Path(folder)
    paths = _files(folder)
    with ThreadPoolExecutor() as pool:
        list(pool.map(sync, paths))
        digests = list(pool.map(sha256, paths))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
    with replacing(folder / MANIFEST_NAME) as unfinished:
        unfinished.write_text(json.dumps({"format": _FORMAT, "files": files}, indent=2) + "\n", encoding="utf-8")


def find_damage(folder: str | os.PathLike[str]) -> str | None:
    """What is wrong with a folder that has a manifest; `None` where all is as it was written.

    Example:

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "weights").write_bytes(b"0123")
        >>> write_manifest(folder); find_damage(folder)
        >>> _ = (folder / "weights").write_bytes(b"01"); find_damage(folder)
        'weights has 2 bytes instead of 4'
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_NAME} cannot be read ({error!r})"
    for name, (size, _) in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    with ThreadPoolExecutor() as pool:
        digests = pool.map(sha256, [folder / name for name in listed])
        for (name, (_, expected)), digest in zip(listed.items(), digests, strict=True):
            if digest != expected:
                return f"{name} was altered: its SHA-256 is not that of {MANIFEST_NAME}"
    return None


def checkpoints(run_folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a run folder, the newest first, damaged ones included."""
    found = [
        (int(match[1]), path)
        for path in Path(run_folder).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    return [path for _, path in sorted(found, reverse=True)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
