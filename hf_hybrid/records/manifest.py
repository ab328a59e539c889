"""Folders whose files are listed, with sizes and SHA-256, in a `manifest.json`: models and checkpoints.

Anyone who reads such a folder compares it with its list first, so a file that was cut, altered or lost is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from hf_hybrid.utils.files import replacing, sha256, sync
from hf_hybrid.utils.strict_json import read_json

from .output_folder import OutputFolder
from .schema import MANIFEST_NAME, OUTPUTS_NAME

_FORMAT = {"name": "hf_hybrid manifest", "version": 1}


def write_manifest(folder: str | os.PathLike[str]) -> None:
    """Bring all files of a folder to the disk, and list them with sizes and SHA-256 in its `manifest.json`."""
    folder = Path(folder)
    paths = _files(folder)
    with ThreadPoolExecutor() as pool:
        list(pool.map(sync, paths))
        digests = list(pool.map(sha256, paths))
    files: dict[str, Entry] = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
    with replacing(folder / MANIFEST_NAME) as unfinished:
        unfinished.write_bytes(_encode(files))


def build_manifest(files: Mapping[str, bytes]) -> bytes:
    """Return the `manifest.json` of a folder with these files, given by name and content."""
    names = sorted(files, key=PurePosixPath)
    return _encode(
        {name: {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()} for name in names}
    )


def _encode(files: Mapping[str, Entry]) -> bytes:
    return (json.dumps({"format": _FORMAT, "files": files}, indent=2) + "\n").encode()


class Entry(TypedDict):
    """Entry of a manifest."""

    bytes: int
    sha256: str


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """The files that a manifest lists, by their names in its folder.

    Raises:
        OSError: When it is not there.
        ValueError: When it is no manifest, or names what lies elsewhere.
    """
    content = read_json(Path(path))
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
        raise ValueError("expected files with their size and hash")
    if outside := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"names {outside[0]!r}, which lies elsewhere")
    return files


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and {*Entry.__annotations__} <= {*entry}


def find_damage(folder: str | os.PathLike[str]) -> str | None:
    """Say how a folder differs from its manifest; `None` if it does not.

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
        listed = read_manifest(folder / MANIFEST_NAME)
    except (OSError, ValueError) as error:
        return f"{MANIFEST_NAME} cannot be read ({error!r})"
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
    with ThreadPoolExecutor() as pool:
        digests = pool.map(sha256, [folder / name for name in listed])
        for (name, entry), digest in zip(listed.items(), digests, strict=True):
            if digest != entry["sha256"]:
                return f"{name} was altered: its SHA-256 is not that of {MANIFEST_NAME}"
    return None


def checkpoints(run_folder: str | os.PathLike[str]) -> list[Path]:
    """Return the checkpoints of a run folder, the newest first, damaged ones included.

    A folder of that name without a manifest, if none was written there, holds files of somebody else.
    """
    outputs, found = OutputFolder(run_folder), []
    for path in checkpoint_folders(run_folder):
        manifest = f"{path.name}/{MANIFEST_NAME}"
        if (outputs.path / manifest).exists() or outputs.lists(manifest):
            found.append(path)
    return found


def checkpoint_folders(run_folder: str | os.PathLike[str]) -> list[Path]:
    """Return all folders that have the name of a checkpoint, the newest first."""
    paths = [path for path in Path(run_folder).glob("checkpoint-*") if path.is_dir()]
    named = [path for path in paths if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(named, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _files(folder: Path) -> list[Path]:
    own = (MANIFEST_NAME, OUTPUTS_NAME)  # which are about the others
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in own)
