"""The files of a study, or of its copy, each read when a check first asks for it; and checks over all its runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from hf_hybrid.records.schema import PER_QUERY_NAME
from hf_hybrid.scaling.grid.arms import Stage, Trial
from hf_hybrid.scaling.grid.folder import Study, StudyFolder
from hf_hybrid.scaling.grid.table import Table, make_table
from hf_hybrid.scaling.report.copy import is_copy

from .evidence import Check, Evidence, run_check
from .findings import OK, UNKNOWN, Finding

ALL_TRIALS = "trials/*"
NO_VALUES = "a copy of a study has no values of single queries, which scores follow from; the study itself has them"


class StudyEvidence(Evidence):
    """The files of a study; corpora are not used, because no texts are read.

    Args:
        path (`Path`): The study, or the unpacked files of a copy.
        source (`Path`): The folder that is verified.
    """

    def __init__(self, path: Path, source: Path) -> None:
        super().__init__(path, path)
        self.source = source

    @cached_property
    def studies(self) -> StudyFolder:
        """The folder."""
        return StudyFolder(self.path)

    @cached_property
    def study(self) -> Study:
        """`study.json`."""
        found: Study = self.content("study.json")
        return found

    def content(self, name: str) -> Any:
        """A file of JSON that is the study's own."""
        return self._read(name, lambda: self.studies.read(name))

    @property
    def is_copy(self) -> bool:
        """Whether recipes/report.py --copy_to wrote it."""
        return is_copy(self.source)

    @cached_property
    def table(self) -> Table:
        """`table.json`, rebuilt."""
        return as_written(make_table(self.studies, self.study))

    @cached_property
    def runs(self) -> list[StageEvidence]:
        """Of every stage of the trials that finished."""
        trials = [trial for trial in self.study["trials"] if self.studies.status(trial) == "finished"]
        return [StageEvidence(self, trial, stage) for trial in trials for stage in trial["stages"]]


class StageEvidence(Evidence):
    """The files that a stage of a trial left.

    Args:
        whole (`StudyEvidence`): The study.
        trial (`Trial`): Its trial.
        stage (`Stage`): The stage.
    """

    def __init__(self, whole: StudyEvidence, trial: Trial, stage: Stage) -> None:
        path = whole.studies.stage_path(stage)
        super().__init__(path, path)
        self.study, self.trial, self.stage, self.is_copy = whole.study, trial, stage, whole.is_copy
        self.place = path.relative_to(whole.path).as_posix()

    @property
    def trains(self) -> bool:
        """Whether it is a run, and not an evaluation alone."""
        return self.stage["name"] != "eval"

    def values(self, when: str) -> pa.Table:
        """Values of single queries; an evaluation has them beside its scores."""
        if self.trains:
            return super().values(when)
        return self._read(PER_QUERY_NAME, lambda: pyarrow.parquet.read_table(self.path / PER_QUERY_NAME))

    def left_out(self, when: str) -> str | None:
        """Why there are none."""
        return NO_VALUES if self.is_copy else super().left_out(when)


def over_runs(name: str, check: Check, evidence: StudyEvidence) -> Iterator[Finding]:
    """A check of every run of a study.

    What is wrong is told with the folder of its run. All else is reported for all runs together: what is right, for
    its count; what is not known, once for each place in a run, with the first run and how many more there are.

    Args:
        name (`str`): Of the check.
        check (`Callable`): Takes a `StageEvidence`.
        evidence (`StudyEvidence`): The study.
    """
    unknown: dict[str, list[tuple[StageEvidence, Finding]]] = {}
    for run in evidence.runs:
        for finding in run_check(name, check, run):
            if finding.status == UNKNOWN:
                unknown.setdefault(finding.place, []).append((run, finding))
            else:
                folder = ALL_TRIALS if finding.status == OK else run.place
                yield finding._replace(place=f"{folder}/{finding.place}")
    for place, found in unknown.items():
        run, first = found[0]
        more = f" (of {run.place} and {len(found) - 1} more)" if len(found) > 1 else f" (of {run.place})"
        yield first._replace(place=f"{ALL_TRIALS}/{place}", told=first.told + more)


def as_written(value: Any) -> Any:
    """What JSON makes of it: texts as keys, and lists."""
    return json.loads(json.dumps(value))
