"""From what is asked to `study.json`: what all trials share is made once, then each trial has its commands.

1. All that can be wrong with what is asked is looked for first, and nothing is written (`check_request`).
2. What is asked is compared with the study that the folder holds. One that has begun may only get more trials; before
   that it is rebuilt where it differs, and with `overwrite` it is deleted (`open_study`).
"""

from __future__ import annotations

import json
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
    Inputs,
    Settings,
    build_shared_options,
    describe_corpus,
    make_base,
    open_inputs,
    read_settings,
    save_inputs,
    token_premiums,
    write_configs,
)
from .sweep import LOG_NAME, PARTS, has_begun

_FIXED_NAMES = ("study.json", "table.json", "fits.json", "configs/train.yaml", "configs/mlm.yaml")
# In a folder that holds no study: what a scheduler, a text editor or recipes/report.py puts there.
_MAY_BE_THERE = (
    *(".*", "*.log", "*.txt", "*.out", "*.err", "*.yaml", "*.yml", "report.*", "step_profile.json"),
    *(OUTPUTS_NAME, LOCK_NAME),
)


class Asked(NamedTuple):
    """A study that could be made.

    Args:
        args (`StudyArguments`): What is asked.
        settings (`Settings`): Of all trials.
        inputs (`Inputs`): The corpora; what is held out of one is not yet written.
        trials (`list[Trial]`): Of the grid, without their stages.
        absent (`list[Absent]`): What the grid cannot have.
    """

    args: StudyArguments
    settings: Settings
    inputs: Inputs
    trials: list[Trial]
    absent: list[Absent]


def check_request(args: StudyArguments, folder: StudyFolder, overwrite: bool) -> Asked:
    """Read settings and corpora and make the grid, without writing to the folder.

    Args:
        args (`StudyArguments`): What is asked.
        folder (`StudyFolder`): Where the study will lie.
        overwrite (`bool`): Whether the folder's study will be deleted.

    Raises:
        ValueError: When something of it cannot be, or the folder is not one of a study.
    """
    _refuse_other_folder(folder)
    folder.outputs.check_type("study")
    settings = read_settings(args)
    model, data = settings.model_args.model_name_or_path, settings.data_args
    if overwrite:
        _refuse_own_parts(folder, [model, data.train_corpus, data.eval_corpus])
    inputs = open_inputs(args, data)
    if model is not None:
        AutoTokenizer.from_pretrained(model)  # a name that there is not is told now
    trials, absent = build_grid(args.arm_list, inputs.sets, args.seed_list, inputs.train.languages, model is None)
    for trial in trials:  # each has a list of its own, if it has begun
        OutputFolder(folder.trial_path(trial), "study_dir").check(LOG_NAME, "failure.json", *FIXED_NAMES)
    folder.outputs.check(
        *_FIXED_NAMES, *lock_names(folder.outputs), *(f"trials/{trial['id']}/{OUTPUTS_NAME}" for trial in trials)
    )
    return Asked(args, settings, inputs, trials, absent)


def _refuse_other_folder(folder: StudyFolder) -> None:
    """Refuse files of somebody else where there is no study yet."""
    if folder.outputs.output_type is not None or not folder.path.is_dir():
        return
    names = sorted(path.name for path in folder.path.iterdir())
    strange = [name for name in names if not any(fnmatch(name, pattern) for pattern in _MAY_BE_THERE)]
    if strange:
        raise ValueError(f"{folder.path} is no study, but holds {strange[0]}: choose another study_dir, or a new one.")


def _refuse_own_parts(folder: StudyFolder, paths: Iterable[str | None]) -> None:
    parts = [(folder.path / name).resolve() for name in PARTS]
    for place in paths:
        if place is not None and any(Path(place).resolve().is_relative_to(part) for part in parts):
            raise ValueError(f"--overwrite would delete {place}, which this study needs: choose another study_dir.")


def open_study(
    asked: Asked, folder: StudyFolder, run_pilots: Callable[[Sequence[Trial]], Any], overwrite: bool = False
) -> Study:
    """The study that is asked for, which may have more trials than the folder's.

    Args:
        asked (`Asked`): Of `check_request`.
        folder (`StudyFolder`): Where it lies.
        run_pilots (`Callable`): Runs trials, for a budget of time.
        overwrite (`bool`, *optional*, defaults to `False`): Delete the study that the folder holds.

    Raises:
        ValueError: When the folder holds another study that has begun; it names what differs.
    """
    args, settings = asked.args, asked.settings
    folder.outputs.begin("study")
    if overwrite:
        folder.outputs.delete_all(keep=[LOCK_NAME])
    begun = has_begun(folder)
    inputs = save_inputs(asked.inputs, folder.outputs, begun)
    shared = build_shared_options(args, settings, inputs)
    bases = _base_paths(args, settings)
    resolver = BudgetResolver(args, settings, inputs, next(iter(bases.values())), run_pilots)
    fixed = _what_trials_share(args, settings, inputs)
    earlier: Study | None = folder.read("study.json") if folder.has("study.json") else None
    if earlier and (difference := _find_difference(earlier, fixed, resolver, asked.trials, shared)):
        if begun:
            raise ValueError(
                f"{folder.path} holds another study: {difference}. Choose another study_dir, or --overwrite to start "
                "over."
            )
        earlier = None
        folder.outputs.delete("trials")  # short runs of the former study
    write_configs(folder.outputs, settings)
    if shared.base is None:
        _make_bases(folder.outputs, bases, settings, inputs, begun)
    budget = resolver.resolve(asked.trials, shared, earlier["budget"] if earlier else None)
    study: Study = {
        "language_order": inputs.order,
        "language_sets": {str(count): languages for count, languages in inputs.sets.items()},
        "arms": args.arm_list,
        "seeds": args.seed_list,
        "budget": budget,
        **fixed,  # type: ignore[typeddict-item]
        "tokens": token_premiums(inputs.evaluation, AutoTokenizer.from_pretrained(resolver.base)),
        "environment": earlier["environment"] if earlier else environment(),
        "trials": _with_stages(asked.trials, shared, budget),
        "absent": asked.absent,
    }
    if study != earlier:
        folder.write("study.json", study)
    return study


def _what_trials_share(args: StudyArguments, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """Parts of `study.json` that stay as they are when trials are added."""
    return {
        "corpus": {"train": describe_corpus(inputs.train), "eval": describe_corpus(inputs.evaluation)},
        "eval_languages": list(inputs.evaluation.languages),
        "base": _describe_base(settings),
        "train_settings": settings.train,
        "mlm_settings": settings.mlm,
        "eval_every": args.eval_every,
    }


def _find_difference(
    earlier: Study, fixed: Mapping[str, Any], resolver: BudgetResolver, trials: Sequence[Trial], shared: Shared
) -> str | None:
    """Say why the earlier study is not part of the requested one; `None` if it is."""
    study, known = resolver.study, earlier["budget"]
    # another target is another way to read the same runs
    budget = {"type": study.budget, "value": None if study.budget == "target_quality" else resolver.amount}
    ids = {trial["id"] for trial in earlier["trials"]}
    same = _with_stages([trial for trial in trials if trial["id"] in ids], shared, known)
    return (
        find_changed_setting(earlier, fixed)
        or find_changed_setting(known, budget)
        or find_changed_trial(earlier["trials"], same)
    )


def _with_stages(trials: Sequence[Trial], shared: Shared, budget: Budget) -> list[Trial]:
    return [{**trial, "stages": build_stages(trial, shared, budget["steps"], budget["mlm_steps"])} for trial in trials]


def _base_paths(args: StudyArguments, settings: Settings) -> dict[int, str]:
    """Return the path of the base model of each seed; one path for a checkpoint."""
    if settings.model_args.model_name_or_path is not None:
        return {1: settings.model_args.model_name_or_path}
    return {seed: str(Path(args.study_dir, "base", f"seed-{seed}")) for seed in sorted({*args.seed_list, 1})}


def _make_bases(
    outputs: OutputFolder, paths: Mapping[int, str], settings: Settings, inputs: Inputs, begun: bool
) -> None:
    corpus = inputs.train.select_languages(inputs.sets[max(inputs.sets)])
    made_of = json.dumps({**_describe_base(settings), "corpus": corpus.fingerprint})
    folder = outputs.path / "base"
    note = folder / "made_of.json"
    if not note.exists() or note.read_text(encoding="utf-8") != made_of:
        if note.exists() and begun:  # its tokenizer is of the texts of the largest set of languages
            raise ValueError(
                f"{folder} was made of other texts than this study's: choose another study_dir, or --overwrite to "
                "start over."
            )
        outputs.delete("base")
        with outputs.writing("base/made_of.json") as unfinished:
            unfinished.write_text(made_of, encoding="utf-8")
    for seed in paths:
        make_base(outputs, f"base/seed-{seed}", corpus, settings.model_args, seed)


def _describe_base(settings: Settings) -> dict[str, Any]:
    model = settings.model_args
    if model.model_name_or_path is not None:
        return {"model_name_or_path": model.model_name_or_path, "revision": model.model_revision}
    sizes = ("scratch_hidden_size", "scratch_num_layers", "scratch_vocab_size", "max_passage_length")
    return {"model_name_or_path": None, **{name: getattr(model, name) for name in sizes}}
