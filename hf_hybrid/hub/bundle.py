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
from hf_hybrid.records.manifest import write_manifest
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

from .model_card import CARD_NAME, EVAL_RESULTS_NAME, PICTURES_NAME, card_text, pictures_in, write_card

if TYPE_CHECKING:
    import pyarrow as pa

LOCK_NAME, MODEL_HASHES_NAME = "requirements.txt", "model.json"
NEEDED = ("run.json", "plan.json", "eval.json", "resources.json", "resources.jsonl", EVENTS_NAME)
_ID_DIGITS = 16  # of a query's hash
_OTHERS = ("curve.jsonl", "card.json", CARD_NAME, LOCK_NAME, MODEL_HASHES_NAME, MANIFEST_NAME)


def write_bundle(folder: str | os.PathLike[str]) -> Path:
    """Write the bundle of a finished run. It replaces an earlier bundle as a whole.

    Args:
        folder (`str` or `Path`): The run folder.

    Returns:
        `Path`: `bundle/` in it.

    Raises:
        ValueError: When the run has not finished, a file of it is damaged, or it was made in another
            environment, of which no earlier bundle tells.
    """
    source = RunFolder(folder)
    run = source.read_run()
    if run["status"] != "finished":
        raise ValueError(f"{folder}: the run is {run['status']}; a bundle is of a run that has finished.")
    path, unfinished = source.path / BUNDLE_NAME, source.path / f"{UNFINISHED}{BUNDLE_NAME}"
    lock = _environment_lock(run, path / LOCK_NAME)
    if unfinished.exists():  # left by a kill
        shutil.rmtree(unfinished)
    try:
        _write_records(source, RunFolder(unfinished))
        _write_card(source.path, unfinished)
        (unfinished / LOCK_NAME).write_text(lock, encoding="utf-8")
        shutil.copyfile(source.path / MODEL_NAME / MANIFEST_NAME, unfinished / MODEL_HASHES_NAME)
        (unfinished / OUTPUTS_NAME).unlink()
        write_manifest(unfinished)
        source.outputs.put_folder(unfinished, BUNDLE_NAME)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # only what did not get so far is there still
    return path


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


def _write_records(source: RunFolder, copy: RunFolder) -> None:
    copy.write_run(publishable(source.read_run()))
    copy.write_plan(publishable(source.read_plan()))
    copy.write_eval(publishable(source.read_eval()))
    copy.write_resources(publishable(source.read_resources()))
    if options := source.read_card_options():
        copy.write_card_options(publishable(options))
    names = ["resources.jsonl", *(["curve.jsonl"] if source.read_curve()[0] else []), EVENTS_NAME]
    lines = {name: read_json_lines(source.path / name) for name in names}
    lines[EVENTS_NAME] = _until_the_last_stop(lines[EVENTS_NAME])
    for name, found in lines.items():
        told = (json.dumps(publishable(line), ensure_ascii=False) for line in found)
        (copy.path / name).write_text("".join(f"{line}\n" for line in told), encoding="utf-8")
    for path in sorted(source.path.glob(f"{EVALUATIONS_NAME}/*/{PER_QUERY_NAME}")):
        if path.stat().st_size > MOST_VALUES_BYTES:  # which eval.json tells
            continue
        target = copy.path / path.relative_to(source.path)
        target.parent.mkdir(parents=True)
        _write_without_ids(path, target)


def _until_the_last_stop(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of the run. A later push is not part of it, and must not change the bundle."""
    stops = [number for number, event in enumerate(events, start=1) if event.get("event") == "stop"]
    return events[: stops[-1]] if stops else events


def _write_without_ids(path: Path, target: Path) -> None:
    """Part by part, for there may be many queries."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file, pyarrow.parquet.ParquetWriter(target, file.schema_arrow) as copy:
        for number in range(file.num_row_groups):
            copy.write_table(without_ids(file.read_row_group(number)))


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


def _write_card(folder: Path, bundle: Path) -> None:
    """The card of these records, and what is made with it, as in the run folder unless that has another one."""
    card = folder / CARD_NAME
    if not card.is_file() or card.read_bytes() != card_text(bundle).encode():
        write_card(bundle)
        return
    eval_results = (path.relative_to(folder).as_posix() for path in folder.glob(f"{EVAL_RESULTS_NAME}/*.yaml"))
    for name in (CARD_NAME, *pictures_in(card.read_bytes()), *eval_results):
        if (folder / name).is_file():
            (bundle / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, bundle / name)


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
