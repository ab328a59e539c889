"""The files of a bundle themselves: against its manifest, against those around it, and whether they can be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from hf_hybrid.hub.bundle import LOCK_NAME, MODEL_HASHES_NAME, NEEDED, belongs, files_of, without_ids
from hf_hybrid.hub.model_card import CARD_NAME
from hf_hybrid.records.manifest import Entry, read_manifest
from hf_hybrid.records.schema import (
    BUNDLE_NAME,
    EVALUATIONS_NAME,
    EVENTS_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    PER_QUERY_NAME,
)
from hf_hybrid.utils.files import sha256
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.strict_json import read_json, read_json_lines

from .evidence import Evidence, Unreadable
from .findings import OK, UNKNOWN, WRONG, Finding, check, compare, compare_texts


def check_manifest(evidence: Evidence) -> Iterator[Finding]:
    """Every file of the bundle against its manifest."""
    found = files_of(evidence.path)
    for name in found:
        if not belongs(name):
            yield Finding("manifest", WRONG, name, "is no part of a bundle")
    for name in (CARD_NAME, LOCK_NAME, MODEL_HASHES_NAME, *NEEDED):
        if name not in found:
            yield Finding("manifest", WRONG, name, "is missing, and every bundle has it")
    try:
        listed = read_manifest(evidence.path / MANIFEST_NAME)
    except (OSError, ValueError) as error:
        yield Finding("manifest", WRONG, MANIFEST_NAME, _told(error))
        return
    for name in sorted({*found, *listed}):
        yield _compared_file("manifest", evidence.path / name, name, listed.get(name))


def no_manifest(evidence: Evidence) -> Iterator[Finding]:
    """A run folder without a bundle has nothing that tells whether its files were altered."""
    yield Finding("manifest", UNKNOWN, MANIFEST_NAME, f"there is no {BUNDLE_NAME}/: nothing tells what the files were")


def check_model(evidence: Evidence) -> Iterator[Finding]:
    """The model's files, where they are, against the hashes of the bundle."""
    try:
        listed = read_manifest(evidence.path / MODEL_HASHES_NAME)
    except (OSError, ValueError) as error:
        yield Finding("model", WRONG, MODEL_HASHES_NAME, _told(error))
        return
    if evidence.around == evidence.path:
        told = "the model is not in a bundle; verify the run folder or the repository around it"
        yield Finding("model", UNKNOWN, MODEL_HASHES_NAME, told)
        return
    inside = evidence.around / MODEL_NAME
    folder = inside if inside.is_dir() else evidence.around
    for name, entry in listed.items():
        if name == CARD_NAME and folder != inside:
            continue  # at the root of a repository the card has this name
        yield _compared_file("model", folder / name, (folder / name).relative_to(evidence.around).as_posix(), entry)
    extra = {path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".py")}
    for name in sorted(extra - set(listed)):
        yield Finding("model", WRONG, name, f"is not in {MODEL_HASHES_NAME}, though a library might load it")


def check_copies(evidence: Evidence) -> Iterator[Finding]:
    """What lies around a bundle and in it too is the same in both, in published form."""
    for name in files_of(evidence.path):
        original, copy = evidence.around / name, evidence.path / name
        if not original.is_file() or name in (LOCK_NAME, MODEL_HASHES_NAME):
            continue
        if copy.suffix in (".json", ".jsonl"):
            try:
                found, expected = (publishable(_json_lines(file)) for file in (original, copy))
            except ValueError as error:
                yield Finding("copies", WRONG, name, _told(error))
                continue
            if name == EVENTS_NAME:
                found = found[: len(expected)]  # what came after the bundle was made, such as a push, may follow
            yield from compare("copies", name, expected, found)
        elif copy.suffix == ".md":
            yield compare_texts("copies", name, *(file.read_text(encoding="utf-8") for file in (copy, original)))
        else:
            same = _same_values(original, copy) if copy.name == PER_QUERY_NAME else sha256(original) == sha256(copy)
            yield check("copies", name, same, f"is another one than {BUNDLE_NAME}/{name}")


def _same_values(original: Path, copy: Path) -> bool:
    """Whether the bundle has the values of the run folder, where a query has its id, or those of another bundle."""
    found, expected = (_comparable(pyarrow.parquet.read_table(path)) for path in (original, copy))
    return expected.equals(found) or expected.equals(without_ids(found))


def _comparable(values: pa.Table) -> pa.Table:
    """With null for NaN, which is equal to nothing."""
    for number, field in enumerate(values.schema):
        if pa.types.is_floating(field.type):
            column = values.column(number)
            values = values.set_column(number, field, pc.if_else(pc.is_nan(column), None, column))
    return values


def check_schema(evidence: Evidence) -> Iterator[Finding]:
    """Every file that a run leaves is there and can be read."""
    reads: dict[str, Callable[[], Any]] = {
        "run.json": lambda: evidence.run,
        "plan.json": lambda: evidence.plan,
        "eval.json": lambda: evidence.evaluation,
        "resources.json": lambda: evidence.resources,
        "resources.jsonl": lambda: evidence.lines,
        EVENTS_NAME: lambda: evidence.events,
    }
    optional: dict[str, Callable[[], Any]] = {
        "curve.jsonl": lambda: evidence.curve,
        "card.json": lambda: evidence.card_options,
    }
    reads |= {name: read for name, read in optional.items() if (evidence.path / name).exists()}
    for when in ("before", "after"):
        if not _has_scores(evidence, when):
            continue
        name = f"{EVALUATIONS_NAME}/{when}/{PER_QUERY_NAME}"
        if (reason := evidence.left_out(when)) is not None:
            yield Finding("schema", UNKNOWN, name, reason)
        else:
            reads[name] = lambda when=when: evidence.values(when)  # type: ignore[misc]
    for name, read in reads.items():
        try:
            read()
            yield Finding("schema", OK, name)
        except ValueError as error:
            told = str(error).removeprefix(f"{evidence.path}{os.sep}").removeprefix(name).lstrip(":, ")
            yield Finding("schema", WRONG, name, told)


def _has_scores(evidence: Evidence, when: str) -> bool:
    try:
        return evidence.evaluation[when] is not None  # type: ignore[literal-required]
    except Unreadable:  # which eval.json reports
        return False


def _compared_file(check: str, path: Path, name: str, entry: Entry | None) -> Finding:
    """A file against its entry in a manifest."""
    if entry is None:
        return Finding(check, WRONG, name, f"is not in {MANIFEST_NAME}: it was added")
    if not path.is_file():
        return Finding(check, WRONG, name, "is missing")
    if (size := path.stat().st_size) != entry["bytes"]:
        return Finding(check, WRONG, name, f"expected {entry['bytes']} bytes, found {size}")
    if (found := sha256(path)) != entry["sha256"]:
        return Finding(check, WRONG, name, f"was altered: expected SHA-256 {entry['sha256']}, found {found}")
    return Finding(check, OK, name)


def _told(error: Exception) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else str(error)


def _json_lines(path: Path) -> Any:
    """A JSON file, or the lines of a JSONL file."""
    return read_json(path) if path.suffix == ".json" else read_json_lines(path)
