"""The folder of a study: its JSON files, and the status of each trial.

| file | content | written |
|---|---|---|
| `study.json` | `Study`: the request, and all trials with their commands | at the start, and when trials are added |
| `configs/` | the settings of all trials | with `study.json` |
| `corpora/` | the training and evaluation corpus, if items are held out | with `study.json` |
| `base/seed-N/` | the base model of the trials of a seed, if it is from scratch | with `study.json` |
| `trials/<id>/` | the run folder of a trial, with `log.txt`, and `failure.json` if it failed | by the trial |
| `table.json` | `Table`: a row for each trial | at the end |
| `fits.json` | growth with L and comparisons of arms, see `scaling/grid/fits.py` | at the end |
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

from .arms import STUDY, Absent, Stage, Trial, insert_study

FORMAT = {"name": "hf_hybrid study", "version": 1}


class Budget(TypedDict):
    """The budget of all trials."""

    type: str
    value: float | None
    target: dict[str, Any] | None  # measure and value
    steps: dict[str, int]  # of contrastive training, by `make_budget_key`
    mlm_steps: dict[str, int]  # of masked language modeling, by `make_budget_key`
    how: str  # a sentence


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
    tokens: dict[str, dict[str, float]]  # of the evaluation corpus with the base tokenizer, by language
    environment: dict[str, Any]
    trials: list[Trial]
    absent: list[Absent]


class Failure(TypedDict):
    """`failure.json` of a trial."""

    stage: str
    returncode: int
    last_line: str  # of the log


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
        """Atomically write a file. A NaN or an infinity is a ValueError, because JSON has none."""
        text = json.dumps({"format": FORMAT, **content}, indent=2, ensure_ascii=False, allow_nan=False)
        with self.outputs.writing(name) as unfinished:
            unfinished.write_text(f"{text}\n", encoding="utf-8")

    def read(self, name: str) -> Any:
        """Read a file. One that is not of a study, or of another version, is a ValueError."""
        content = read_json(self.path / name)
        found = content.pop("format", None) if isinstance(content, dict) else None
        if found != FORMAT:
            raise ValueError(f"{self.path / name}: expected the format {FORMAT}, got {found!r}.")
        return content

    def trial_path(self, trial: Trial) -> Path:
        """Return the folder of a trial."""
        return self.path / "trials" / trial["id"]

    def stage_path(self, stage: Stage) -> Path:
        """Return the folder of a stage."""
        return Path(insert_study(stage["folder"], str(self.path)))

    def open_trial(self, trial: Trial) -> OutputFolder:
        """Return the output folder of a trial, after listing it and the folders of its stages in the study's.

        Raises:
            ValueError: When a foreign file has the place of one of them.
        """
        folders = {stage["options"]["output_dir"].removeprefix(f"{STUDY}/") for stage in trial["stages"]}
        own = f"trials/{trial['id']}"
        self.outputs.claim(*(f"{folder}/{OUTPUTS_NAME}" for folder in sorted(folders - {own})))
        return self.outputs.open_nested(own)

    def status(self, trial: Trial) -> str:
        """Return `finished`, `failed` or `missing`; a trial that has not run to its end is missing."""
        if all(self.is_finished(stage) for stage in trial["stages"]):
            return "finished"
        return "failed" if (self.trial_path(trial) / "failure.json").exists() else "missing"

    def is_finished(self, stage: Stage) -> bool:
        """Return whether the files of a stage say that it has finished."""
        run = RunFolder(self.stage_path(stage))
        try:
            is_evaluated = (run.path / "eval.json").exists() and run.read_eval()["after"] is not None
            return is_evaluated and (stage["name"] == "eval" or run.read_run()["status"] == "finished")
        except (OSError, ValueError):  # a damaged file: the command reports it or writes it again
            return False

    def read_failure(self, trial: Trial) -> Failure:
        """Read why a trial failed."""
        content: Failure = read_json(self.trial_path(trial) / "failure.json")
        return content

    def write_failure(self, trial: Trial, failure: Failure) -> None:
        """Write why a trial failed."""
        with self.open_trial(trial).writing("failure.json") as unfinished:
            unfinished.write_text(json.dumps(failure, ensure_ascii=False) + "\n", encoding="utf-8")

    def delete_failure(self, trial: Trial) -> None:
        """Delete `failure.json` of a trial that runs again."""
        self.open_trial(trial).delete("failure.json")
