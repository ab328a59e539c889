"""The run folder: what one run leaves behind, in files that any later tool can read without the training side.

| file              | content                                                           | written                    |
|-------------------|-------------------------------------------------------------------|----------------------------|
| `outputs.jsonl`   | the files here that a recipe may replace or delete                | before each of them        |
| `run.json`        | `Run`: what was run, on what, how it ended                        | at the start, at the end   |
| `resources.jsonl` | `ResourceLine`: one line per logging step                         | appended                   |
| `resources.json`  | `Resources`: totals of the run                                    | at the end                 |
| `curve.jsonl`     | `CurveLine`: scores and costs on the way                          | at each evaluation         |
| `plan.json`       | `Plan`: the language pair of each batch                           | at the start               |
| `eval.json`       | `Evaluation`: scores before and after                             | when an evaluation is done |
| `card.json`       | `CardOptions`: what only its publisher knows                      | with the model card        |
| `evaluations/`    | `before/` and `after/`: values of single queries                  | when an evaluation is done |
| `README.md`       | the model card with `pictures/`, see `hub/model_card.py`          | at the end                 |
| `bundle/`         | all that can be checked, see `bundle.py`                          | at the end                 |
| `hub.json`        | what was pushed from here, see `hub/commit.py`                    | with a push                |
| `checkpoint-N/`   | model and state of training, see `checkpoints.py`                 | every `save_steps`         |
| `events.jsonl`    | what happened, see `events.py`                                    | appended                   |
| `heartbeat.json`  | the last sign of life, see `training/interruption.py`             | every few seconds          |
| `not_finite/`     | batches without a finite gradient, see `training/finite_guard.py` | when there is one          |

Every file of text is strict JSON in UTF-8, with units in the names (`_s`, `_gib` = 2^30 bytes, `_wh`). Of the `.json`
files five (`run`, `plan`, `resources`, `eval`, `card`) carry the version of `schema.py`; all are replaced whole or not
at all: no reader sees half a file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_hybrid.utils.strict_json import loads

from .output_folder import OutputFolder
from .schema import (
    LOCK_NAME,
    SCHEMA_NAME,
    SCHEMA_VERSION,
    STATUSES,
    CardOptions,
    CurveLine,
    Evaluation,
    Plan,
    ResourceLine,
    Resources,
    Run,
)


class RunFolder:
    """Reads and writes the files of one run.

    Args:
        path (`str`, `Path` or `OutputFolder`): The folder; it is made when the first file is written.

    Example:

        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp())
        >>> folder.write_eval({"before": None, "after": None, "evaluated": {"max_queries": 100}})
        >>> folder.read_eval()
        {'before': None, 'after': None, 'evaluated': {'max_queries': 100}}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.outputs = OutputFolder.of(path)
        self.path = self.outputs.path
        self.resource_lines_path, self.curve_path = self.path / "resources.jsonl", self.path / "curve.jsonl"

    def clear(self) -> None:
        """Delete what runs have written here; all else stays, and so does the record of pushes."""
        self.outputs.delete_all(keep=[LOCK_NAME])

    def write_run(self, run: Run) -> None:
        """Write `run.json`; call again with another `status` when the run ends."""
        if (status := run.get("status")) not in STATUSES:
            raise ValueError(f"status of a run: got {status!r}, allowed are {', '.join(STATUSES)}.")
        self._write("run.json", run, Run)

    def read_run(self) -> Run:
        """Read `run.json`; ValueError if it is damaged, lacks a key, or is of another version (so for all five)."""
        return self._read("run.json", Run)

    def write_plan(self, plan: Plan) -> None:
        """Write `plan.json`, in few lines: it has a number for each batch."""
        self._write("plan.json", plan, Plan, indent=None)

    def read_plan(self) -> Plan:
        """Read `plan.json`."""
        return self._read("plan.json", Plan)

    def write_resources(self, resources: Resources) -> None:
        """Write `resources.json`."""
        self._write("resources.json", resources, Resources)

    def read_resources(self) -> Resources:
        """Read `resources.json`."""
        return self._read("resources.json", Resources)

    def write_eval(self, evaluation: Evaluation) -> None:
        """Write `eval.json`."""
        self._write("eval.json", evaluation, Evaluation)

    def read_eval(self) -> Evaluation:
        """Read `eval.json`."""
        return self._read("eval.json", Evaluation)

    def write_card_options(self, options: CardOptions) -> None:
        """Write `card.json`."""
        self._write("card.json", options, CardOptions)

    def read_card_options(self) -> CardOptions:
        """Read `card.json`; nothing is known where there is none."""
        return self._read("card.json", CardOptions) if (self.path / "card.json").exists() else {}

    def append_resource_line(self, line: ResourceLine) -> None:
        """Append to `resources.jsonl`. A loss that is not finite is written as null: logging must not end a run."""
        self._append(self.resource_lines_path, line, ResourceLine)

    def read_resource_lines(self) -> tuple[list[ResourceLine], int]:
        """Read `resources.jsonl`.

        Returns:
            The lines, and how many were torn: 1 where a kill has left half a last line, else 0.

        Raises:
            ValueError: If a line before the last one is not what `append_resource_line` writes.
        """
        return _read_lines(self.resource_lines_path, ResourceLine)

    def keep_resource_lines(self, last_step: int) -> None:
        """Drop the lines after `last_step`, and a torn one: a resumed run does those steps again."""
        self._keep_lines(self.resource_lines_path, ResourceLine, last_step)

    def append_curve_line(self, line: CurveLine) -> None:
        """Append to `curve.jsonl`."""
        self._append(self.curve_path, line, CurveLine)

    def read_curve(self) -> tuple[list[CurveLine], int]:
        """Read `curve.jsonl`, as `read_resource_lines` does its file; no lines where nothing was evaluated."""
        return _read_lines(self.curve_path, CurveLine)

    def keep_curve_lines(self, last_step: int) -> None:
        """Drop the lines after `last_step`, and a torn one."""
        self._keep_lines(self.curve_path, CurveLine, last_step)

    def _append(self, path: Path, line: Mapping[str, Any], schema: type) -> None:
        _check_keys(line, schema, path)
        finite = {key: None if _is_not_finite(value) else value for key, value in line.items()}
        self.outputs.claim(path.name)
        with open(path, "a", encoding="utf-8") as file:
            file.write(_dumps(finite) + "\n")

    def _keep_lines(self, path: Path, schema: type, last_step: int) -> None:
        lines, _ = _read_lines(path, schema)
        kept = [text + b"\n" for text, line in zip(_texts(path)[:-1], lines, strict=True) if line["step"] <= last_step]
        with self.outputs.writing(path.name) as unfinished:
            unfinished.write_bytes(b"".join(kept))

    def _write(self, name: str, content: Mapping[str, Any], schema: type, indent: int | None = 2) -> None:
        encoded = _encode(content, schema, self.path / name, indent)
        with self.outputs.writing(name) as unfinished:
            unfinished.write_bytes(encoded)

    def _read(self, name: str, schema: type) -> Any:
        path = self.path / name
        try:
            content = loads(path.read_bytes().decode(), finite=True)
        except ValueError as error:
            raise ValueError(f"{path}: not a JSON file in UTF-8 ({error}).") from None
        found = content.pop("format", None) if isinstance(content, dict) else None
        if not isinstance(found, dict) or found.get("name") != SCHEMA_NAME:
            raise ValueError(f'{path}: expected "format": {{"name": "{SCHEMA_NAME}", ...}}, got {found!r}.')
        if found.get("version") != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: written in version {found.get('version')!r} of the schema, but this hf_hybrid reads version "
                f"{SCHEMA_VERSION}. Install the hf-hybrid that wrote it, or a newer one."
            )
        _check_keys(content, schema, path)
        return content


def encode_card_options(options: CardOptions) -> bytes:
    """Return the content of `card.json`."""
    return _encode(options, CardOptions, "card.json")


def _encode(content: Mapping[str, Any], schema: type, place: Path | str, indent: int | None = 2) -> bytes:
    _check_keys(content, schema, place)
    versioned = {"format": {"name": SCHEMA_NAME, "version": SCHEMA_VERSION}, **content}
    _refuse_not_finite(versioned, place)
    return f"{_dumps(versioned, indent=indent)}\n".encode()


def _texts(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n") if path.exists() else [b""]


def _read_lines(path: Path, schema: type) -> tuple[list[Any], int]:
    """The lines of a log by steps, and how many were torn."""
    texts = _texts(path)
    lines = [_line(text, schema, f"{path}, line {number}") for number, text in enumerate(texts[:-1], start=1)]
    return lines, int(bool(texts[-1]))  # a whole line ends in a newline: what follows the last one is torn


def _line(text: bytes, schema: type, place: str) -> Any:
    try:
        line = loads(text.decode(), finite=True)
    except ValueError as error:
        raise ValueError(f"{place}: expected a JSON object, got {text[:80]!r} ({error}).") from None
    if not isinstance(line, dict) or not isinstance(line.get("step", 0), int):
        raise ValueError(f"{place}: expected a JSON object with a whole number as its step, got {text[:80]!r}.")
    _check_keys(line, schema, place)
    return line


def _check_keys(content: Mapping[str, Any], schema: type, path: Path | str) -> None:
    given, known = set(content), set(schema.__annotations__)
    needed: frozenset[str] = schema.__required_keys__  # type: ignore[attr-defined]
    if not needed <= given <= known:
        raise ValueError(
            f"{path}: missing {sorted(needed - given)}, unknown {sorted(given - known)}; "
            f"a {schema.__name__} has {', '.join(schema.__annotations__)}."
        )


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _refuse_not_finite(value: Any, place: Path | str) -> None:
    """Name the place of a NaN or an infinity, which JSON does not have."""
    if _is_not_finite(value):
        raise ValueError(f"{place}: {value} is not a JSON number; write None for what is not known.")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_not_finite(inner, f"{place}: {key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _refuse_not_finite(inner, f"{place}[{index}]")


def _dumps(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
