"""The reproduction bundle of a run: evidence for its figures, in a few small files.

| file | content |
|---|---|
| `run.json`, `plan.json`, `card.json` | arguments, seeds, fingerprints of corpora, the language pair of each batch |
| `requirements.txt` | environment lock: Python and every installed distribution |
| `events.jsonl`, `resources.jsonl` | what happened, and the cost of each logging step |
| `curve.jsonl` | scores during training, if there are any, and the cost until then |
| `evaluations/*/per_query.parquet` | scores of single queries before and after training, up to 50 MiB each |
| `resources.json`, `eval.json` | the totals and scores that follow from these |
| `README.md`, `pictures/`, `.eval_results/` | the model card, and results for leaderboards |
| `model.json` | size and SHA-256 of each file of the model, which is not in the bundle |
| `manifest.json` | size and SHA-256 of each file of the bundle |

Nothing has secrets or local paths, and the same run gives the same bytes. Queries have a hash instead of their id,
because ids may name people. Equal ids have equal hashes, so runs can be compared query by query.
`verification/verify.py` reads a bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_hybrid import __version__
from hf_hybrid.records.environment import find_installed_versions, normal_name
from hf_hybrid.records.manifest import build_manifest
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import (
    BUNDLE_NAME,
    EVALUATIONS_NAME,
    EVENTS_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    MOST_VALUES_BYTES,
    OUTPUTS_NAME,
    PER_QUERY_NAME,
    Run,
)
from hf_hybrid.utils.files import UNFINISHED
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.strict_json import read_json_lines

from .errors import UNSENT, HubError
from .model_card import (
    CARD_NAME,
    CARD_OPTIONS_NAME,
    EVAL_RESULTS_NAME,
    PICTURE_NAMES,
    PICTURES_NAME,
    build_card_files,
)

if TYPE_CHECKING:
    import pyarrow as pa

LOCK_NAME, MODEL_HASHES_NAME = "requirements.txt", "model.json"
RECORD_NAMES = ("run.json", "plan.json", "eval.json", "resources.json", "resources.jsonl", "curve.jsonl")
NEEDED = (*RECORD_NAMES[:-1], EVENTS_NAME)
_ID_DIGITS = 16  # of the hash of a query id
_NAMES = re.compile(
    "|".join(map(re.escape, (*NEEDED, "curve.jsonl", CARD_OPTIONS_NAME, CARD_NAME, LOCK_NAME, MODEL_HASHES_NAME)))
    + rf"|{MANIFEST_NAME}|{EVALUATIONS_NAME}/(before|after)/{re.escape(PER_QUERY_NAME)}"
    + rf"|{PICTURES_NAME}/[^/]+\.png|{re.escape(EVAL_RESULTS_NAME)}/[^/]+\.yaml"
)


def write_bundle(folder: str | os.PathLike[str]) -> Path:
    """Write the bundle of a finished run. It replaces an earlier bundle as a whole.

    Its card follows from the records, also if a person edited the card of the run folder. Its environment lock is that
    of an earlier bundle if that fits the run, else that of this process.

    Args:
        folder (`str` or `Path`): The run folder.

    Returns:
        `Path`: `bundle/` in it.

    Raises:
        ValueError: When the run is not finished, a file is damaged, or the environment of the run is not known.
    """
    source = RunFolder(folder)
    run = source.read_run()
    if run["status"] != "finished":
        raise ValueError(f"{folder}: the run is {run['status']}, and only a finished run has a bundle.")
    path, unfinished = source.path / BUNDLE_NAME, source.path / f"{UNFINISHED}{BUNDLE_NAME}"
    lock = _find_lock(run, path / LOCK_NAME)
    found = build_bundle(folder, lock, build_card_files(folder, drawn=read_pictures(source.path)))
    if unfinished.exists():  # a kill left it
        shutil.rmtree(unfinished)
    try:
        for name, content in found.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_bytes(content)
        source.outputs.put_folder(unfinished, BUNDLE_NAME)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def build_bundle(folder: str | os.PathLike[str], lock: str, card: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of the bundle of a run, by name.

    Args:
        folder (`str` or `Path`): The run folder.
        lock (`str`): The environment lock, content of `requirements.txt`.
        card (`Mapping[str, bytes]`): The card and its files, from `build_card_files`.

    Raises:
        OSError: When a file of the run is missing.
        ValueError: When a file of the run is damaged.
    """
    source = RunFolder(folder)
    for read in (source.read_plan, source.read_eval, source.read_resources):  # refuse a damaged or missing one
        read()
    found = build_records(source.path) | dict(card)
    events = read_json_lines(source.path / EVENTS_NAME)
    stops = [number for number, event in enumerate(events, start=1) if event.get("event") == "stop"]
    events = events[: stops[-1]] if stops else events  # a later push is not part of the run
    found[EVENTS_NAME] = "".join(_dumps(publishable(line)) for line in events).encode()
    for path in sorted(source.path.glob(f"{EVALUATIONS_NAME}/*/{PER_QUERY_NAME}")):
        if path.stat().st_size <= MOST_VALUES_BYTES:  # the size in eval.json explains a missing one
            found[path.relative_to(source.path).as_posix()] = _hash_ids_in_file(path)
    found[LOCK_NAME] = lock.encode()
    found[MODEL_HASHES_NAME] = (source.path / MODEL_NAME / MANIFEST_NAME).read_bytes()
    return {**found, MANIFEST_NAME: build_manifest(found)}


def build_records(folder: Path) -> dict[str, bytes]:
    """Return the published records of a run, without secrets and local paths, by name."""
    return {name: build_published_json(folder / name) for name in RECORD_NAMES if (folder / name).is_file()}


def build_published_json(path: Path) -> bytes:
    """Return a file of JSON or JSON lines without secrets and local paths; its own bytes if it has none.

    Raises:
        HubError: When it is not JSON in UTF-8.
    """
    content = path.read_bytes()
    try:
        text = content.decode()
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in text.split("\n") if line]
            shown = [publishable(line) for line in lines]
            return content if shown == lines else "".join(map(_dumps, shown)).encode()
        value = json.loads(text)
    except ValueError as error:
        raise HubError(f"{path} is not JSON in UTF-8 ({error}); correct or remove it. {UNSENT}") from None
    shown = publishable(value)
    return content if shown == value else _dumps(shown, indent=2).encode()


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


def read_pictures(folder: Path) -> dict[str, bytes]:
    """Return the pictures of the card in a folder, by name."""
    paths = [folder / PICTURES_NAME / name for name in PICTURE_NAMES]
    return {f"{PICTURES_NAME}/{path.name}": path.read_bytes() for path in paths if path.is_file()}


def list_bundle(bundle: Path) -> list[str]:
    """Return the names of the files of a bundle, with their folders, without its manifest and list of outputs."""
    names = (path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name not in (MANIFEST_NAME, OUTPUTS_NAME))


def is_bundle_name(name: str) -> bool:
    """Return whether a bundle may have a file of this name.

    Example:

        >>> [is_bundle_name(name) for name in ("evaluations/after/per_query.parquet", "pictures/a.png", "weights.bin")]
        [True, True, False]
    """
    return _NAMES.fullmatch(name) is not None


def _hash_ids_in_file(path: Path) -> bytes:
    """Return scores of single queries with hashed ids. The file is read in parts because there may be many queries."""
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    with pa.parquet.ParquetFile(path) as file, pa.parquet.ParquetWriter(sink, file.schema_arrow) as copy:
        for number in range(file.num_row_groups):
            copy.write_table(hash_ids(file.read_row_group(number)))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def hash_ids(values: pa.Table) -> pa.Table:
    """Return scores of single queries with 64 bits of the SHA-256 of each query id instead of the id.

    Example:

        >>> import pyarrow as pa
        >>> hash_ids(pa.table({"query_id": ["a", "b", "a"], "MAP": [1.0, 0.5, 0.25]}))["query_id"].to_pylist()
        ['ca978112ca1bbdca', '3e23e8160039594a', 'ca978112ca1bbdca']
    """
    import pyarrow as pa

    index, column = values.column_names.index("query_id"), values["query_id"]
    hidden = {name: hashlib.sha256(name.encode()).hexdigest()[:_ID_DIGITS] for name in column.unique().to_pylist()}
    shown = pa.array([hidden[name] for name in column.to_pylist()], pa.string()).cast(column.type)
    return values.set_column(index, values.schema.field(index), shown)


def _find_lock(run: Run, earlier: Path) -> str:
    """Return the lock of an earlier bundle if it fits this run, else that of the process."""
    versions = run["environment"]["versions"]
    locks = [earlier.read_text(encoding="utf-8")] if earlier.exists() else []
    locks.append(_build_lock())
    for lock in locks:
        if not compare_versions(versions, lock):
            return lock
    name, version = compare_versions(versions, locks[-1])[0]
    raise ValueError(
        f"The run was made with {name} {versions[name]}, and {version or 'none'} is installed here. Build the bundle "
        "where the run was made, or keep the bundle from there."
    )


def compare_versions(versions: Mapping[str, str], lock: str) -> list[tuple[str, str | None]]:
    """Return the distributions that have another version in a lock, or none.

    Example:

        >>> compare_versions({"torch": "2.13.0", "numpy": "2.4.6"}, "numpy==2.4.6\\ntorch==2.12.0\\n")
        [('torch', '2.12.0')]
    """
    locked = dict(line.split("==", 1) for line in lock.splitlines() if "==" in line and not line.startswith("#"))
    found = {name: locked.get(normal_name(name)) for name in versions}
    return [(name, version) for name, version in found.items() if version != versions[name]]


def _build_lock() -> str:
    found = find_installed_versions() | {"hf-hybrid": __version__}  # which may run from a checkout
    head = f"# Python {platform.python_version()} and every distribution installed when the run ended"
    return "\n".join([head, *(f"{name}=={version}" for name, version in sorted(found.items())), ""])
