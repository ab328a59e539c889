"""The settings of an earlier run, so that the same run can be started again: `recipes/train.py --like user/name`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from .arguments import DataArguments, HybridTrainingArguments, ModelArguments
from .identity import DECISIVE_ARGUMENTS
from .records import Run, RunFolder

RUN_NAME = "run.json"
# Of the arguments of training those that say what is trained and measured, not where, how fast and who is told.
_TRAINING = (
    *DECISIVE_ARGUMENTS, "mix", "seed", "data_seed", "use_cpu", "symmetric", "evaluate_before", "eval_strategy",
    "eval_steps", "max_eval_queries", "logging_steps", "save_strategy", "save_steps", "greater_is_better",
)  # fmt: skip


def read_run_like(name: str, revision: str | None = None) -> Run:
    """`run.json` of a run folder, a bundle, or a model on the Hub that was trained with hf_hybrid.

    Args:
        name (`str`): Folder, `run.json` in it, or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        ValueError: When the file is not what `RunFolder.write_run` writes.
        OSError: When there is none.
    """
    if os.path.isfile(name) and os.path.basename(name) == RUN_NAME:
        return RunFolder(Path(name).parent).read_run()
    if os.path.isdir(name):
        folder = Path(name)
        if not (folder / RUN_NAME).exists():
            raise FileNotFoundError(f"--like {name}: the folder has no {RUN_NAME}; give a run folder or a Hub id.")
        return RunFolder(folder).read_run()
    try:
        found = hf_hub_download(name, RUN_NAME, revision=revision)
    except (OSError, ValueError) as error:
        raise OSError(f"--like {name}: no folder here, and no {RUN_NAME} that the Hub gave: {error}") from error
    return RunFolder(Path(found).parent).read_run()


def settings_like(run: Run) -> dict[str, Any]:
    """The arguments of a run that decide what it trains and measures, where they are not the defaults.

    Args:
        run (`Run`): From `run.json`.

    Returns:
        `dict[str, Any]`: Values by name, as a YAML file of `recipes/` has them.

    Example:

        >>> run = {"config": {"max_steps": 60, "seed": 42, "cache_dir": "elsewhere", "mix": "pool=1.0"}}
        >>> settings_like(run)
        {'max_steps': 60, 'mix': 'pool=1.0'}
    """
    names = [field.name for group in (ModelArguments, DataArguments) for field in dataclasses.fields(group)]
    wanted = {*names, *_TRAINING} - {"cache_dir"}
    defaults = {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for group in (ModelArguments, DataArguments, HybridTrainingArguments)
        for field in dataclasses.fields(group)
        if field.name in wanted
    }
    config = run["config"]
    changed = {name: config[name] for name in defaults if name in config and config[name] != defaults[name]}
    if commit := run.get("model", {}).get("commit"):
        changed["model_revision"] = commit  # its branch may have moved
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in changed.items()}


def differences(run: Run, identity: Mapping[str, Any]) -> list[str]:
    """In what a run that is about to start is not the earlier one.

    Args:
        run (`Run`): The earlier one.
        identity (`Mapping[str, Any]`): Of the new one, as of `HybridTrainer.identity`.

    Returns:
        `list[str]`: A text for each difference, such as `"seed was 42 and is 43"`; empty for the same run.
    """
    then, now = run.get("identity", {}), json.loads(json.dumps(dict(identity)))
    return [f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in now if then.get(name) != now[name]]
