"""What makes two runs the same run; and the settings of an earlier run, to start it again (`--like`)."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import hf_hub_download

from hf_hybrid.data.sides import SIDE_PLURALS
from hf_hybrid.records.output_folder import differences
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import Run

from .arguments import DataArguments, HybridTrainingArguments, ModelArguments

if TYPE_CHECKING:
    from hf_hybrid.data.batches.schedule import HybridSchedule

# Arguments that decide what is trained, beside those that the plan is made of.
DECISIVE_ARGUMENTS = (
    "global_batch_size", "gradient_accumulation_steps", "max_steps", "smoothing", "language_pairs", "exclude",
    "max_positives",
    "num_negatives", "temperature", "symmetric", "optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "bf16",
    "fp16", "neftune_noise_alpha", "seen_embeddings_only", "load_best_model_at_end", "metric_for_best_model",
)  # fmt: skip
# Of the arguments of training those that say what is trained and measured, not where, how fast and who is told.
_TRAINING = (
    *DECISIVE_ARGUMENTS, "mix", "seed", "data_seed", "use_cpu", "symmetric", "evaluate_before", "eval_strategy",
    "eval_steps", "max_eval_queries", "logging_steps", "save_strategy", "save_steps", "greater_is_better",
)  # fmt: skip
RUN_NAME = "run.json"


def run_identity(
    args: HybridTrainingArguments, schedule: HybridSchedule, model: str, max_lengths: tuple[int, int]
) -> dict[str, Any]:
    """Names and values that must be the same where a run goes on.

    Args:
        args (`HybridTrainingArguments`): Of the run.
        schedule (`HybridSchedule`): Its plan.
        model (`str`): As `model_name` gives it, before training.
        max_lengths (`tuple[int, int]`): Most tokens of a query and of a passage.
    """
    return {
        "corpus": schedule.corpus.fingerprint,
        "mix": str(schedule.mix),
        "seed": args.seed,
        "data_seed": schedule.seed,
        "model": model,
        "max_query_length": max_lengths[0],
        "max_passage_length": max_lengths[1],
        **{name: getattr(args, name) for name in DECISIVE_ARGUMENTS},
        "plan": schedule.fingerprint,
    }


def describe_batch(schedule: HybridSchedule, number: int) -> dict[str, Any]:
    """Batch type, language pair, item ids, and the texts of a batch by language, side and row of the corpus."""
    batch, corpus = schedule.batch(number), schedule.corpus
    sides = (
        (corpus.QUERY, batch.items, batch.query_languages),
        (corpus.PASSAGE, batch.items[batch.positive_items], batch.positive_languages),
    )
    texts = [
        {
            "side": SIDE_PLURALS[side],
            "language": corpus.languages[language],
            "rows": corpus.rows[items[languages == language], language, side].tolist(),
        }
        for side, items, languages in sides
        for language in np.unique(languages)
    ]
    return {
        "batch_type": batch.batch_type,
        "language_pair": batch.language_pair.name,
        "item_ids": list(batch.item_ids),
        "texts": texts,
    }


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


def differences_from_run(run: Run, identity: Mapping[str, Any]) -> list[str]:
    """Return in what a run that is about to start is not the earlier one.

    Args:
        run (`Run`): The earlier one.
        identity (`Mapping[str, Any]`): Of the new one, as of `HybridTrainer.identity`.

    Returns:
        `list[str]`: A text for each difference, such as `"seed was 42 and is 43"`; empty for the same run.
    """
    then, now = run.get("identity", {}), json.loads(json.dumps(dict(identity)))
    return differences({name: then.get(name) for name in now}, now)
