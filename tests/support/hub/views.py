"""How a repository of the local Hub of the tests looks in answers: its info, its files and folders."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import yaml

from tests.support.hub.store import Commit, Entry, Repository, lfs_pointer


def repository_info(repository: Repository, oid: str, details: bool, expand: list[str]) -> dict[str, Any]:
    """What `model_info`, `dataset_info` and `space_info` read.

    Args:
        repository (`Repository`): The one.
        oid (`str`): Commit.
        details (`bool`): Sizes and ids of its files too.
        expand (`list[str]`): Only these properties; empty for the usual ones.
    """
    settings, data, commits = repository.settings, repository.metadata(oid), repository.commits(oid)
    found: dict[str, Any] = {
        **{"id": repository.repo_id, "author": repository.owner, "sha": oid, "cardData": data},
        **{name: settings[name] for name in ("private", "gated", "sdk") if name in settings},
        **{"createdAt": settings["created"], "lastModified": commits[0].date, "disabled": False},
        **{name: data[name] for name in ("pipeline_tag", "library_name") if name in data},
        "tags": [tag for name in ("tags", "language") for tag in _as_list(data.get(name))],
        "siblings": [_sibling(path, entry, details) for path, entry in repository.tree(oid).items()],
    }
    if expand:
        found |= {"usedStorage": _used_storage(commits), "evalResults": _eval_results(repository, oid)}
        found = {name: found[name] for name in ("id", *expand) if name in found}
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def etag(entry: Entry) -> str:
    return entry["sha256"] if entry["lfs"] else entry["blob_id"]


def _sibling(path: str, entry: Entry, details: bool) -> dict[str, Any]:
    if not details:
        return {"rfilename": path}
    pointer = {"pointerSize": len(lfs_pointer(entry["sha256"], entry["size"]))}
    lfs = {"lfs": {"sha256": entry["sha256"], "size": entry["size"], **pointer}} if entry["lfs"] else {}
    return {"rfilename": path, "size": entry["size"], "blobId": entry["blob_id"], **lfs}


def listing(files: dict[str, Entry]) -> list[dict[str, Any]]:
    """Files and the folders around them, each folder before what is in it."""
    found: dict[str, dict[str, Any]] = {}
    for path, entry in files.items():
        parts = path.split("/")
        for folder in ("/".join(parts[:depth]) for depth in range(1, len(parts))):
            found.setdefault(
                folder, {"type": "directory", "path": folder, "size": 0, "oid": _folder_id(folder, files)}
            )
        file = _sibling(path, entry, details=True)
        lfs = {"lfs": {**file["lfs"], "oid": file["lfs"]["sha256"]}} if "lfs" in file else {}
        found[path] = {"type": "file", "path": path, "size": entry["size"], "oid": entry["blob_id"], **lfs}
    return list(found.values())


def _folder_id(folder: str, files: dict[str, Entry]) -> str:
    inside = {path: entry["blob_id"] for path, entry in files.items() if path.startswith(f"{folder}/")}
    return hashlib.sha1(json.dumps(inside).encode()).hexdigest()


def _used_storage(commits: list[Commit]) -> int:
    """Bytes of all large files that the history has."""
    objects = {entry["sha256"]: entry["size"] for commit in commits for entry in commit.files.values() if entry["lfs"]}
    return sum(objects.values())


def _eval_results(repository: Repository, oid: str) -> list[dict[str, Any]]:
    files = {
        path: entry
        for path, entry in repository.tree(oid).items()
        if re.fullmatch(r"\.eval_results/[^/]+\.yaml", path)
    }
    return [
        {"filename": path, "data": result}
        for path, entry in files.items()
        for result in yaml.safe_load(repository.content(entry))
    ]


def commit_line(commit: Commit) -> dict[str, str]:
    return {"id": commit.oid, "title": commit.title, "date": commit.date}


def upload_plan(
    repository: Repository, revision: str, present: dict[str, Entry], file: dict[str, Any]
) -> dict[str, Any]:
    """How a file is to be uploaded, and what the branch has under its name."""
    mode = repository.upload_mode(file["path"], file["size"], base64.b64decode(file["sample"]), revision)
    known = {"oid": etag(present[file["path"]])} if file["path"] in present else {}
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known}
