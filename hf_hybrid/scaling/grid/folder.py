"""The folder of a study: its files of JSON, and how far each trial is.

| file | content | written |
|---|---|---|
| `study.json` | `Study`: what is asked, all trials with their commands | at the start, and where trials are added |
| `configs/` | the settings that all trials begin with | with it |
| `corpora/` | what is trained on and evaluated on, where items are held out | with it |
| `base/seed-N/` | the model that all trials of a seed begin with, where it is from scratch | with it |
| `trials/<id>/` | a run folder, or one of an evaluation, with `log.txt`, and `failure.json` if it failed | by it |
| `table.json` | `Table`: a row for each trial | at the end |
| `fits.json` | how costs and quality go with L, and how arms compare, see `scaling/grid/fits.py` | at the end |
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypedDict

from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import OUTPUTS_NAME
from hf_hybrid.utils.strict_json import read_json

from .arms import Absent, Stage, Trial, insert_study

FORMAT = {"name": "hf_hybrid study", "version": 1}
STATUSES = ("finished", "failed", "missing", "absent")


class Budget(TypedDict):
    """The budget that all trials share."""

    type: str
    value: float | None
    target: dict[str, Any] | None  # measure and value
    steps: dict[str, int]  # of contrastive training, by arm and L
    mlm_steps: dict[str, int]  # of masked language modeling
    how: str  # in words


class Study(TypedDict):
    """`study.json`."""

    language_order: list[str]
    language_sets: dict[str, list[str]]
    eval_languages: list[str]
    arms: list[str]
    seeds: list[int]
    budget: Budget
    eval_every: int | None
    train_settings: dict[str, Any]
    mlm_settings: dict[str, Any]
    corpus: dict[str, Any]
    base: dict[str, Any]
    tokens: dict[str, dict[str, float]]  # by language, with the base tokenizer, on the items that are evaluated
    environment: dict[str, Any]
    trials: list[Trial]
    absent: list[Absent]


class Failure(TypedDict):
    """`failure.json` of a trial."""

    stage: str
    returncode: int
    last_line: str  # of its log


class StudyFolder:
    """Reads and writes the files of a study.

    Args:
        path (`str` or `Path`): The folder.

    Example:

        >>> import tempfile
        >>> folder = StudyFolder(tempfile.mkdtemp())
        >>> folder.write("fits.json", {"level": 0.95})
        >>> folder.read("fits.json"), folder.has("table.json")
        ({'level': 0.95}, False)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.outputs = Path(path), OutputFolder(path, "study_dir")

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return (self.path / name).exists()

    def write(self, name: str, content: Any) -> None:
        """Write a file as a whole; NaN and infinities are refused, for JSON has none (ValueError)."""
        text = json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False, allow_nan=False)
        with self.outputs.writing(name) as unfinished:
            unfinished.write_text(f"{text}\n", encoding="utf-8")

    def read(self, name: str) -> Any:
        """Read a file.

        Raises:
            ValueError: When it is not of a study, or of another version.
        """
        path = self.path / name
        content = read_json(path)
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != FORMAT:
            raise ValueError(f"{path}: expected the format {FORMAT}, got {found!r}.")
        return content

    def trial_path(self, trial: Trial) -> Path:
        """The folder of a trial."""
        return self.path / "trials" / trial["id"]

    def open_trial(self, trial: Trial) -> OutputFolder:
        """Return the output folder of a trial, and list those of its stages; each has a list of its own.

        Raises:
            ValueError: When something else is in the place of one.
        """
        for name in self.lists_of(trial)[1:]:
            self.outputs.claim(name)
        return self.outputs.nested_outputs(f"trials/{trial['id']}")

    def lists_of(self, trial: Trial) -> list[str]:
        """Return the names of the lists of output folders of a trial: its own, and those of its stages."""
        paths = [insert_study(stage["options"]["output_dir"], str(self.path)) for stage in trial["stages"]]
        folders = {Path(place).relative_to(self.path).as_posix(): None for place in paths}
        return [f"{folder}/{OUTPUTS_NAME}" for folder in {f"trials/{trial['id']}": None, **folders}]

    def stage_path(self, stage: Stage) -> Path:
        """Return the folder of a stage."""
        return Path(insert_study(stage["folder"], str(self.path)))

    def status(self, trial: Trial) -> str:
        """`finished`, `failed` or `missing`: not begun, or not at its end."""
        if all(self.is_finished(stage) for stage in trial["stages"]):
            return "finished"
        return "failed" if (self.trial_path(trial) / "failure.json").exists() else "missing"

    def is_finished(self, stage: Stage) -> bool:
        """Return whether a stage has finished, by its files."""
        run = RunFolder(self.stage_path(stage))
        try:
            evaluated = (run.path / "eval.json").exists() and run.read_eval()["after"] is not None
            return evaluated and (stage["name"] == "eval" or run.read_run()["status"] == "finished")
        except (OSError, ValueError):  # damaged: its recipe says so, or writes it again
            return False

    def read_failure(self, trial: Trial) -> Failure:
        """Read how a trial failed."""
        content: Failure = read_json(self.trial_path(trial) / "failure.json")
        return content

    def write_failure(self, trial: Trial, failure: Failure) -> None:
        """Write down how a trial failed."""
        with self.open_trial(trial).writing("failure.json") as unfinished:
            unfinished.write_text(json.dumps(failure, ensure_ascii=False) + "\n", encoding="utf-8")

    def forget_failure(self, trial: Trial) -> None:
        """Delete the failure of a trial, which runs again or has finished."""
        self.open_trial(trial).delete("failure.json")
