"""From options to `study.json`: what all trials share is made once, then each trial has its commands.

1. `check_request` finds all mistakes first, and writes nothing.
2. `prepare_study` compares the request with the study in the folder. A study that has begun can only get more trials.
   One that has not begun is rebuilt if it differs; with `overwrite` either is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from hf_hybrid.records.environment import environment
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.schema import FIXED_NAMES, LOCK_NAME, OUTPUTS_NAME
from hf_hybrid.training.interruption import lock_names

from .arguments import StudyArguments
from .arms import Absent, Shared, Trial, build_grid, build_stages, find_changed_setting, find_changed_trial
from .budget import BudgetResolver
from .folder import Budget, Study, StudyFolder
from .inputs import (
    OTHER_FOLDER,
    Inputs,
    Settings,
    build_shared_options,
    describe_base,
    describe_corpus,
    make_bases,
    measure_token_premiums,
    open_inputs,
    read_study_settings,
    save_inputs,
    write_configs,
)
from .sweep import LOG_NAME

_FIXED_NAMES = ("study.json", "table.json", "fits.json", "configs/train.yaml", "configs/mlm.yaml")
_PARTS = ("trials", "base", "corpora", "configs")  # folders of a study
# Files that a scheduler, a text editor or the report may put in the folder before the study begins.
_MAY_BE_THERE = (
    *(".*", "*.log", "*.txt", "*.out", "*.err", "*.yaml", "*.yml", "report.*", "step_profile.json"),
    *(OUTPUTS_NAME, LOCK_NAME),
)


class Request(NamedTuple):
    """A study that could be made."""

    args: StudyArguments
    settings: Settings
    inputs: Inputs  # held-out items are not yet written
    trials: list[Trial]  # without stages
    absent: list[Absent]


def check_request(args: StudyArguments, folder: StudyFolder, overwrite: bool) -> Request:
    """Read settings and corpora and build the grid, without writing to the folder.

    Args:
        args (`StudyArguments`): The options.
        folder (`StudyFolder`): The folder of the study.
        overwrite (`bool`): Whether the study in the folder will be deleted.

    Raises:
        ValueError: When an option is wrong, or the folder holds something else.
    """
    _refuse_other_folder(folder)
    folder.outputs.check_type("study")
    settings = read_study_settings(args)
    model, data = settings.model_args.model_name_or_path, settings.data_args
    if overwrite:
        _refuse_own_parts(folder, [model, data.train_corpus, data.eval_corpus])
    inputs = open_inputs(args, data)
    if model is not None:
        AutoTokenizer.from_pretrained(model)  # fails now if there is no such model
    trials, absent = build_grid(args.arm_list, inputs.sets, args.seed_list, inputs.train.languages, model is None)
    for trial in trials:
        OutputFolder(folder.trial_path(trial), "study_dir").check(LOG_NAME, "failure.json", *FIXED_NAMES)
    folder.outputs.check(
        *_FIXED_NAMES, *lock_names(folder.outputs), *(f"trials/{trial['id']}/{OUTPUTS_NAME}" for trial in trials)
    )
    return Request(args, settings, inputs, trials, absent)


def _refuse_other_folder(folder: StudyFolder) -> None:
    if folder.outputs.output_type is not None or not folder.path.is_dir():
        return
    names = sorted(path.name for path in folder.path.iterdir())
    strange = [name for name in names if not any(fnmatch(name, pattern) for pattern in _MAY_BE_THERE)]
    if strange:
        raise ValueError(f"{folder.path} is no study, but holds {strange[0]}. Choose another study_dir.")


def _refuse_own_parts(folder: StudyFolder, paths: Iterable[str | None]) -> None:
    parts = [(folder.path / name).resolve() for name in _PARTS]
    for path in paths:
        if path is not None and any(Path(path).resolve().is_relative_to(part) for part in parts):
            raise ValueError(f"--overwrite would delete {path}, which this study needs. Choose another study_dir.")


def prepare_study(
    request: Request, folder: StudyFolder, run_pilots: Callable[[Sequence[Trial]], Any], overwrite: bool
) -> Study:
    """Write `study.json` and everything that trials share, and return the study.

    Args:
        request (`Request`): Of `check_request`.
        folder (`StudyFolder`): The folder of the study.
        run_pilots (`Callable`): Runs trials, for a budget of time.
        overwrite (`bool`): Whether to delete the study that the folder holds.

    Raises:
        ValueError: When the folder holds another study that has begun; the message names what differs.
    """
    args, settings = request.args, request.settings
    folder.outputs.begin("study")
    if overwrite:
        folder.outputs.delete_all(keep=[LOCK_NAME])
    has_begun = _has_begun(folder)
    inputs = save_inputs(request.inputs, folder.outputs, has_begun)
    shared = build_shared_options(args, settings, inputs)
    base = shared.base or str(folder.path / "base" / "seed-1")
    resolver = BudgetResolver(args, settings, inputs, base, run_pilots)
    common = {  # stays the same when trials are added
        "corpus": {"train": describe_corpus(inputs.train), "eval": describe_corpus(inputs.evaluation)},
        "eval_languages": list(inputs.evaluation.languages),
        "base": describe_base(settings.model_args),
        "train_settings": settings.train,
        "mlm_settings": settings.mlm,
        "eval_every": args.eval_every,
    }
    earlier: Study | None = folder.read("study.json") if folder.has("study.json") else None
    if earlier and (difference := _find_difference(earlier, common, resolver, request.trials, shared)):
        if has_begun:
            raise ValueError(f"{folder.path} holds another study: {difference}. {OTHER_FOLDER}")
        earlier = None
        folder.outputs.delete("trials")  # pilot runs of the earlier study
    write_configs(folder.outputs, settings)
    if shared.base is None:
        make_bases(folder.outputs, inputs, settings.model_args, sorted({*args.seed_list, 1}), has_begun)
    budget = resolver.resolve(request.trials, shared, earlier["budget"] if earlier else None)
    study: Study = {
        "language_order": inputs.order,
        "language_sets": {str(count): languages for count, languages in inputs.sets.items()},
        "arms": args.arm_list,
        "seeds": args.seed_list,
        "budget": budget,
        **common,  # type: ignore[typeddict-item]
        "tokens": measure_token_premiums(inputs.evaluation, AutoTokenizer.from_pretrained(base)),
        "environment": earlier["environment"] if earlier else environment(),
        "trials": _add_stages(request.trials, shared, budget),
        "absent": request.absent,
    }
    if study != earlier:
        folder.write("study.json", study)
    return study


def _has_begun(folder: StudyFolder) -> bool:
    """Return whether any trial has files; pilot runs of a budget of time do not count."""
    trials = [path for path in folder.path.glob("trials/*") if not path.name.startswith("pilot-")]
    trials = [path for path in trials if folder.outputs.lists(f"trials/{path.name}/{OUTPUTS_NAME}")]
    return any(
        (path / name).exists() for path in trials for name in OutputFolder(path).list_files("") if name != LOCK_NAME
    )


def _find_difference(
    earlier: Study, common: Mapping[str, Any], resolver: BudgetResolver, trials: Sequence[Trial], shared: Shared
) -> str | None:
    """Return in words why the earlier study is not part of the requested one; `None` if it is."""
    known = earlier["budget"]
    ids = {trial["id"] for trial in earlier["trials"]}
    return (
        find_changed_setting(earlier, common)
        # without the target: another one reads the same runs
        or find_changed_setting(known, {"type": resolver.study.budget, "value": resolver.value})
        or find_changed_trial(
            earlier["trials"], _add_stages([trial for trial in trials if trial["id"] in ids], shared, known)
        )
    )


def _add_stages(trials: Sequence[Trial], shared: Shared, budget: Budget) -> list[Trial]:
    return [{**trial, "stages": build_stages(trial, shared, budget["steps"], budget["mlm_steps"])} for trial in trials]
