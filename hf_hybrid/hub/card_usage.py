"""The command that a run was started with, from what `run.json` says of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from hf_hybrid.utils.text import Markdown, visible

_WIDTH = 100
# What decides the model and its scores, with the defaults of `arguments.py`, which cannot be asked without torch;
# a test holds the two together.
DEFAULTS: dict[str, Any] = {
    "model_name_or_path": None,
    "model_revision": None,
    "attention": "auto",
    "attention_dropout": 0.0,
    "pooling": None,
    "query_prompt": None,
    "passage_prompt": None,
    "max_query_length": 64,
    "max_passage_length": 256,
    "scratch_hidden_size": 128,
    "scratch_num_layers": 2,
    "scratch_vocab_size": 8192,
    "train_corpus": "sample",
    "eval_corpus": None,
    "corpus_format": "auto",
    "eval_corpus_format": "auto",
    "languages": None,
    "eval_languages": None,
    "held_out": 0.1,
    "on_bad_row": "refuse",
    "mix": "mono=0.5,cross=0.5",
    "smoothing": 1.0,
    "language_pairs": None,
    "exclude": None,
    "max_positives": 4,
    "num_negatives": 0,
    "temperature": 0.02,
    "symmetric": False,
    "global_batch_size": 256,
    "gradient_accumulation_steps": 1,
    "max_steps": 1000,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0.1,
    "optim": "adamw_torch_fused",
    "optim_args": None,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "neftune_noise_alpha": None,
    "seen_embeddings_only": False,
    "bf16": False,
    "fp16": False,
    "use_cpu": False,
    "seed": 42,
    "data_seed": None,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "eval_strategy": "no",
    "eval_steps": None,
    "evaluate_before": True,
    "max_eval_queries": None,
}
# Without a model and a corpus, train.py takes its defaults from here, and these options are in it.
SAMPLE_CONFIG = "recipes/sample/hybrid.yaml"
SAMPLE_OPTIONS = (
    "scratch_hidden_size", "scratch_num_layers", "scratch_vocab_size", "max_query_length", "max_passage_length",
    "train_corpus", "languages", "held_out", "global_batch_size", "learning_rate", "max_steps", "mix", "seed",
    "temperature", "use_cpu", "warmup_steps", "weight_decay",
)  # fmt: skip
# Of recipes/mlm.py, whose batches are of single texts: the same less what only pairs have, and what is its own.
_OF_PAIRS = (
    "mix", "language_pairs", "exclude", "max_positives", "num_negatives", "temperature", "symmetric", "seen_embeddings_only",
    "max_query_length",
)  # fmt: skip
MLM_DEFAULTS: dict[str, Any] = {name: value for name, value in DEFAULTS.items() if name not in _OF_PAIRS} | {
    "block_length": 128,
    "global_batch_size": 64,
    "smoothing": 0.7,
    "masking": "static",
    "mask_duplicates": 10,
    "mlm_probability": 0.15,
    "whole_word_mask": False,
    "learning_rate": 1e-4,
    "weight_decay": 0.01,
}
MLM_SAMPLE_CONFIG = "recipes/sample/mlm.yaml"
MLM_SAMPLE_OPTIONS = (
    "scratch_hidden_size", "scratch_num_layers", "scratch_vocab_size", "max_passage_length", "train_corpus",
    "languages", "held_out", "block_length", "global_batch_size", "learning_rate", "masking", "seed", "smoothing",
    "use_cpu", "warmup_steps", "weight_decay",
)  # fmt: skip


def _is_mlm(config: Mapping[str, Any]) -> bool:
    return "block_length" in config


def changed_options(config: Mapping[str, Any], languages: list[str]) -> dict[str, Any]:
    """The options of a run that a command must name.

    Args:
        config (`Mapping`): Of `run.json`.
        languages (`list[str]`): Those of its corpus, in their order.

    Example:

        >>> changed_options({"model_name_or_path": "intfloat/multilingual-e5-small", "seed": 42, "max_steps": 60}, [])
        {'model_name_or_path': 'intfloat/multilingual-e5-small', 'max_steps': 60}
    """
    mlm = _is_mlm(config)
    defaults, sample = (MLM_DEFAULTS, MLM_SAMPLE_CONFIG) if mlm else (DEFAULTS, SAMPLE_CONFIG)
    in_sample = set(MLM_SAMPLE_OPTIONS if mlm else SAMPLE_OPTIONS)
    given = {name: config.get(name, default) for name, default in defaults.items()}
    changed = {name for name, value in given.items() if value != defaults[name]}
    if given["model_name_or_path"] is not None:
        return {name: given[name] for name in given if name in changed}
    given |= {"languages": given["languages"] or ",".join(languages)}
    return {"config": sample, **{name: given[name] for name in given if name in changed | in_sample}}


def command(config: Mapping[str, Any], languages: list[str]) -> Markdown:
    """The command in lines, for a block of code.

    Example:

        >>> print(command({"model_name_or_path": "user/e5", "mix": "pool=1.0", "query_prompt": "query: "}, ["de"]))
        accelerate launch recipes/train.py --model_name_or_path user/e5 --query_prompt 'query: ' \\
            --mix pool=1.0
    """
    lines = [f"accelerate launch recipes/{'mlm' if _is_mlm(config) else 'train'}.py"]
    for name, value in changed_options(config, languages).items():
        option = f"--{name} {word(value)}"
        if len(lines[-1]) + len(option) > _WIDTH:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {option}"
    return Markdown("\n".join(lines))


def word(value: Any) -> str:
    """A value as a word of a command."""
    text = value if isinstance(value, str) else json.dumps(value)
    return shlex.quote(visible(text))
