"""The reproduction bundle of a run: what shows that its figures are those of the run, in a few small files.

| file | content |
|---|---|
| `run.json`, `plan.json`, `card.json` | arguments, seeds, fingerprints of corpora, the language pair of each batch |
| `requirements.txt` | environment lock: Python and every distribution that was installed |
| `events.jsonl`, `resources.jsonl` | what happened, and what each logging step took |
| `curve.jsonl` | scores on the way, where there are any, and what training had taken until then |
| `evaluations/*/per_query.parquet` | values of single queries before and after training, up to 50 MiB each |
| `resources.json`, `eval.json` | what these add up to: totals and scores |
| `README.md`, `pictures/`, `.eval_results/` | the model card, and what leaderboards read |
| `model.json` | size and SHA-256 of each file of the model, which is not in the bundle |
| `manifest.json` | size and SHA-256 of each file of the bundle |

All is in published form: without secrets and paths of the machine. The same run gives the same bytes. Queries have
a hash of their id instead of it, for a source may have ids that tell who asked: equal ids have equal hashes, so that
runs can be compared query by query.
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
_ID_DIGITS = 16  # of a query's hash
_OTHERS = ("curve.jsonl", CARD_OPTIONS_NAME, CARD_NAME, LOCK_NAME, MODEL_HASHES_NAME, MANIFEST_NAME)


def write_bundle(folder: str | os.PathLike[str]) -> Path:
    """Write the bundle of a finished run. It replaces an earlier bundle as a whole.

    The card is that of the run folder, unless a person edited it: then the bundle has the card that follows from the
    records. The environment lock is that of an earlier bundle, where it fits the run, else that of this process.

    Args:
        folder (`str` or `Path`): The run folder.

    Returns:
        `Path`: `bundle/` in it.

    Raises:
        ValueError: When the run has not finished, a file of it is damaged, or it was made in another environment, of
            which no earlier bundle tells.
    """
    source = RunFolder(folder)
    run = source.read_run()
    if run["status"] != "finished":
        raise ValueError(f"{folder}: the run is {run['status']}; a bundle is of a run that has finished.")
    path, unfinished = source.path / BUNDLE_NAME, source.path / f"{UNFINISHED}{BUNDLE_NAME}"
    lock = _environment_lock(run, path / LOCK_NAME)
    found = build_bundle(folder, lock, build_card_files(folder, drawn=read_pictures(source.path)))
    if unfinished.exists():  # left by a kill
        shutil.rmtree(unfinished)
    try:
        for name, content in found.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_bytes(content)
        source.outputs.put_folder(unfinished, BUNDLE_NAME)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # only what did not get so far is there still
    return path


def build_bundle(folder: str | os.PathLike[str], lock: str, card: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of the bundle of a run, by name.

    Args:
        folder (`str` or `Path`): The run folder.
        lock (`str`): The environment lock, content of `requirements.txt`.
        card (`Mapping[str, bytes]`): The card and what belongs to it, from `build_card_files`.

    Raises:
        OSError: When a file of the run is missing.
        ValueError: When a file of the run is damaged.
    """
    source = RunFolder(folder)
    for read in (source.read_plan, source.read_eval, source.read_resources):  # refuse a damaged or missing one
        read()
    found = build_records(source.path) | dict(card)
    events = _until_the_last_stop(read_json_lines(source.path / EVENTS_NAME))
    found[EVENTS_NAME] = "".join(_dumps(publishable(line)) for line in events).encode()
    for path in sorted(source.path.glob(f"{EVALUATIONS_NAME}/*/{PER_QUERY_NAME}")):
        if path.stat().st_size <= MOST_VALUES_BYTES:  # eval.json says that larger ones are left out
            found[path.relative_to(source.path).as_posix()] = _hide_ids(path)
    found[LOCK_NAME] = lock.encode()
    found[MODEL_HASHES_NAME] = (source.path / MODEL_NAME / MANIFEST_NAME).read_bytes()
    return {**found, MANIFEST_NAME: build_manifest(found)}


def build_records(folder: Path) -> dict[str, bytes]:
    """Return the records of a run that are published, without secrets and paths of this machine, by name."""
    return {name: build_published_json(folder / name) for name in RECORD_NAMES if (folder / name).is_file()}


def build_published_json(path: Path) -> bytes:
    """Return a file of JSON, or of lines of it, without secrets and paths of this machine.

    The bytes are those of the file where there is nothing to hide.

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
        told = json.loads(text)
    except ValueError as error:
        raise HubError(f"{path} is not JSON in UTF-8 ({error}); mend or remove it. {UNSENT}") from None
    shown = publishable(told)
    return content if shown == told else _dumps(shown, indent=2).encode()


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


def read_pictures(folder: Path) -> dict[str, bytes]:
    """Return the pictures of the card in a folder, by name."""
    paths = [folder / PICTURES_NAME / name for name in PICTURE_NAMES]
    return {f"{PICTURES_NAME}/{path.name}": path.read_bytes() for path in paths if path.is_file()}


def files_of(bundle: Path) -> list[str]:
    """Names of the files of a bundle, with their folders, but for its manifest and a list of outputs."""
    names = (path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if not path.is_dir())
    return sorted(name for name in names if name not in (MANIFEST_NAME, OUTPUTS_NAME))


def belongs(name: str) -> bool:
    """Return whether a bundle may have a file of this name.

    Example:

        >>> belongs("evaluations/after/per_query.parquet"), belongs("pictures/after.png"), belongs("weights.bin")
        (True, True, False)
    """
    in_folders = {
        EVALUATIONS_NAME: rf"(before|after)/{re.escape(PER_QUERY_NAME)}",
        PICTURES_NAME: r"[^/]+\.png",
        EVAL_RESULTS_NAME: r"[^/]+\.yaml",
    }
    folder, _, rest = name.partition("/")
    if folder in in_folders:
        return re.fullmatch(in_folders[folder], rest) is not None
    return name in (*NEEDED, *_OTHERS)


def _until_the_last_stop(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of the run. A later push is not part of it, and must not change the bundle."""
    stops = [number for number, event in enumerate(events, start=1) if event.get("event") == "stop"]
    return events[: stops[-1]] if stops else events


def _hide_ids(path: Path) -> bytes:
    """Return values of single queries with hashed ids. They are read part by part, for there may be many queries."""
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    with pa.parquet.ParquetFile(path) as file, pa.parquet.ParquetWriter(sink, file.schema_arrow) as copy:
        for number in range(file.num_row_groups):
            copy.write_table(without_ids(file.read_row_group(number)))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def without_ids(values: pa.Table) -> pa.Table:
    """Values of single queries, each with 64 bits of the SHA-256 of its id instead of it.

    Example:

        >>> import pyarrow as pa
        >>> without_ids(pa.table({"query_id": ["a", "b", "a"], "MAP": [1.0, 0.5, 0.25]}))["query_id"].to_pylist()
        ['ca978112ca1bbdca', '3e23e8160039594a', 'ca978112ca1bbdca']
    """
    import pyarrow as pa

    index, column = values.column_names.index("query_id"), values["query_id"]
    hidden = {name: hashlib.sha256(name.encode()).hexdigest()[:_ID_DIGITS] for name in column.unique().to_pylist()}
    shown = pa.array([hidden[name] for name in column.to_pylist()], pa.string()).cast(column.type)
    return values.set_column(index, values.schema.field(index), shown)


def _environment_lock(run: Run, earlier: Path) -> str:
    """The lock of an earlier bundle where it is of this run's environment, else that of the process."""
    told = run["environment"]["versions"]
    found = [earlier.read_text(encoding="utf-8")] if earlier.exists() else []
    for lock in (*found, _installed()):
        if not unlike(told, lock):
            return lock
    name, version = unlike(told, _installed())[0]
    raise ValueError(
        f"The run was made with {name} {told[name]}, and {version or 'none'} is installed here: make the bundle where "
        "the run was made, or keep the one that was made there."
    )


def unlike(versions: Mapping[str, str], lock: str) -> list[tuple[str, str | None]]:
    """Distributions of which a lock has another version than was told, or none.

    Example:

        >>> unlike({"torch": "2.13.0", "numpy": "2.4.6"}, "numpy==2.4.6\\ntorch==2.12.0\\n")
        [('torch', '2.12.0')]
    """
    locked = dict(line.split("==", 1) for line in lock.splitlines() if "==" in line and not line.startswith("#"))
    return [
        (name, locked.get(normal_name(name)))
        for name, version in versions.items()
        if locked.get(normal_name(name)) != version
    ]


def _installed() -> str:
    found = find_installed_versions() | {"hf-hybrid": __version__}  # which may run from a checkout
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join(
        [f"# Python {platform.python_version()}, and all that was installed where the run ended", *lines, ""]
    )
