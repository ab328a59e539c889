"""Shared code of `train` and `mlm`: reading options, and the summary at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import set_seed

from hf_hybrid.records import events
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.run import run_log_level
from hf_hybrid.utils.options import find_named_options, parse_arguments

from .console import introduction


def parse_training(
    command: str,
    dataclasses: Sequence[Any],
    argv: Sequence[str],
    program: str,
    default_config: str,
    flags: Mapping[str, str],
    read_like: Callable[[str], Mapping[str, Any]] | None = None,
) -> tuple[Any, ...]:
    """Read the options of a training command, seed the random numbers and set up the log.

    Args:
        command (`str`): `train` or `mlm`.
        dataclasses (`Sequence[type]`): Of the model, the data and the training.
        argv (`Sequence[str]`): The command line.
        program (`str`): Name of the program in errors and in the help.
        default_config (`str`): Settings where the command line names no corpus and no model.
        flags, read_like: As for [`~hf_hybrid.utils.options.parse_arguments`].

    Returns:
        `tuple`: As for [`~hf_hybrid.utils.options.parse_arguments`].

    Raises:
        ValueError: When a corpus is named without a model.
    """
    named = {name.replace("-", "_") for name in find_named_options(argv)}
    model_args, data_args, args, rest = parse_arguments(
        dataclasses,
        argv,
        default_config=None if named & {"train_corpus", "model_name_or_path"} else default_config,
        flags=flags,
        read_like=read_like,
        launch=True,
        program=program,
        introduction=introduction(command, program),
    )
    has_defaults = rest.config or (read_like is not None and rest.like)
    if "train_corpus" in named and model_args.model_name_or_path is None and not has_defaults:
        raise ValueError(
            "--train_corpus without a model: name one with --model_name_or_path, or take the settings for a small "
            f"encoder from scratch with --config {default_config}."
        )
    set_seed(args.seed)
    events.configure(run_log_level(args))
    return model_args, data_args, args, rest


def describe_files(folder: RunFolder, loads_with: str, scores: str) -> str:
    """Say where the files of a run are.

    Args:
        folder (`RunFolder`): The run folder.
        loads_with (`str`): What loads the model.
        scores (`str`): What the scores are of.
    """
    return f"""The model:        {folder.path}/model        loads with {loads_with}
The scores:       {folder.path}/eval.json    {scores}
The cost:         {folder.path}/resources.json, .jsonl
What was run:     {folder.path}/run.json
The model card:   {folder.path}/README.md    and beside it bundle/, which `hf-hybrid verify` checks"""
