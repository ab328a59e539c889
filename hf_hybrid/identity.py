"""What a run is, so that it can be told from others: its corpus, plan, model and settings, not where it runs."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .token_cache import SIDES, tokenizer_fingerprint

if TYPE_CHECKING:
    from .arguments import HybridTrainingArguments
    from .encoder import HybridEncoder
    from .schedule import HybridSchedule

# Arguments that decide what is trained, beside those that the plan is made of.
DECISIVE_ARGUMENTS = (
    "global_batch_size", "gradient_accumulation_steps", "max_steps", "smoothing", "cells", "exclude", "max_positives",
    "num_negatives", "temperature", "symmetric", "optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "bf16",
    "fp16", "neftune_noise_alpha", "seen_embeddings_only", "load_best_model_at_end", "metric_for_best_model",
)  # fmt: skip
_PLACE_AND_TIME = ("_name_or_path", "transformers_version", "dtype")  # in a model's configuration


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


def model_name(encoder: HybridEncoder) -> str:
    """The last part of a model's id or path, with a hash of its settings, tokenizer and weights."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in _PLACE_AND_TIME}
    settings = [config, encoder.pooling, encoder.normalize, encoder.prompts, tokenizer_fingerprint(encoder.tokenizer)]
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    add_weights(sha, encoder)
    return f"{Path(encoder.config.name_or_path).name or 'from scratch'}, {sha.hexdigest()[:16]}"


def add_weights(sha: Any, model: nn.Module) -> None:
    """Add names, types, shapes and values of a model's weights to a hash.

    Weights that DeepSpeed ZeRO-3 has spread are brought together one by one: all ranks must come here.
    """
    for name, weight in model.state_dict(keep_vars=True).items():
        with _brought_together(weight):
            sha.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}".encode())
            sha.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _brought_together(weight: torch.Tensor) -> AbstractContextManager[Any]:
    if not hasattr(weight, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([weight])


def describe_batch(schedule: HybridSchedule, number: int) -> dict[str, Any]:
    """Kind, cell, item ids, and the texts of a batch by language, side and row of the corpus."""
    batch, corpus = schedule.batch(number), schedule.corpus
    sides = (
        (corpus.QUERY, batch.items, batch.query_languages),
        (corpus.PASSAGE, batch.items[batch.positive_items], batch.positive_languages),
    )
    texts = [
        {
            "side": SIDES[side],
            "language": corpus.languages[language],
            "rows": corpus.rows[items[languages == language], language, side].tolist(),
        }
        for side, items, languages in sides
        for language in np.unique(languages)
    ]
    return {"kind": batch.kind, "cell": batch.cell.name, "item_ids": list(batch.item_ids), "texts": texts}
