"""A plan from the runs of a study: the run that is wanted is as a measured one, but for what is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .hardware import Hardware, read_hardware
from .measured_runs import Measured, read_measured
from .mix import MixConfig
from .planner import Prediction, plan
from .records import RunFolder
from .study_arguments import PlanArguments, StudyArguments
from .workload import ModelSize, Workload

_SIZES = ("num_layers", "hidden_size", "vocabulary", "num_parameters")


def plan_from_study(study: StudyArguments, wanted: PlanArguments) -> Prediction:
    """Predict a run on a machine.

    Args:
        study (`StudyArguments`): `languages` is the L that is wanted; `study_dir` has the measured runs.
        wanted (`PlanArguments`): The machine, and what is known of the run.

    Raises:
        ValueError: When there are no runs to learn from, more than one L is asked for, or a machine is not described.
    """
    if len(study.counts) != 1:
        raise ValueError(f"languages={study.languages}: a plan is of one number of languages; give the one wanted.")
    assert wanted.plan is not None
    hardware = _machine("plan", wanted.plan)
    measured_on = _machine("measured_on", wanted.measured_on) if wanted.measured_on else None
    runs = [
        read_measured(RunFolder(path)) for path in wanted.folders(study.study_dir) if wanted.runs or _teaches(path)
    ]
    if not runs:
        raise ValueError(f"{study.study_dir} has no finished training to learn from; name run folders with --runs.")
    work = wanted_workload(runs, study.counts[0], {"num_devices": hardware.num_devices, **wanted.given()})
    return plan(runs, hardware, work, measured_on)


def _machine(option: str, path: str) -> Hardware:
    if not Path(path).is_file():
        raise ValueError(f"--{option} {path}: there is no such file. It describes a machine; see recipes/README.md.")
    return read_hardware(path)


def _teaches(path: Path) -> bool:
    """Whether a cell is a contrastive training that came to its end."""
    if not (path / "run.json").exists():
        return False
    run = RunFolder(path).read_run()
    return run["status"] == "finished" and run["mix"] != "mlm"


def wanted_workload(runs: Sequence[Measured], languages: int, given: Mapping[str, Any]) -> Workload:
    """The workload of the measured run with the most languages, of the same mix where there is one, but for these.

    Args:
        runs (`Sequence[Measured]`): Measured.
        languages (`int`): L.
        given (`Mapping[str, Any]`): Fields of `Workload` and of `ModelSize`.
    """
    mix = str(MixConfig.parse(given["mix"]))
    alike = [run for run in runs if str(MixConfig.parse(run.workload.mix)) == mix] or list(runs)
    work = max(alike, key=lambda run: run.workload.languages).workload
    sizes = {name: given[name] for name in _SIZES if name in given}
    model = work.model
    if sizes:
        model = ModelSize(**{name: getattr(model, name) for name in _SIZES[:3]} | sizes)
    rest = {name: value for name, value in given.items() if name not in _SIZES}
    return dataclasses.replace(work, **{**rest, "mix": mix, "languages": languages, "model": model, "cells": None})
