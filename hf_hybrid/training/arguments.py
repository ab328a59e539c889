"""Options of a run: dataclasses that check their values; `utils/options.py` reads them from the command line.

The metadata of a field says which values it may have and what it decides: every list of options follows from it.
`RunArguments` holds what both trainers take, and `HybridTrainingArguments` and `MlmTrainingArguments` add their own.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers.training_args import TrainingArguments  # by its module: option_names.py reads its source

from hf_hybrid.data.batches.mix import MixConfig
from hf_hybrid.models.seen_embeddings import EXACT_OPTIMIZERS
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.utils.files import cache_folder
from hf_hybrid.utils.options import MODEL, READS, RERUN, SETS, check_ranges, find_changed_options, option

from .meters import ENERGY_CHOICES

CACHE_DIR = str(cache_folder())
MASKINGS = ("static", "dynamic")
_DEFAULT_STEPS = 1000


@dataclass
class EncoderArguments:
    """Options of the encoder: which one, and how it reads text."""

    model_name_or_path: str | None = option(
        None,
        "Hub id or folder of any encoder that AutoModel loads; by default a small BERT from scratch.",
        decides=MODEL,
        study=SETS,
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.", decides=MODEL)
    attention: str = option(
        "auto", "auto, varlen (packed, no padding), sdpa, flash_attention_2 or eager.", decides=MODEL
    )
    attention_dropout: float = option(
        0.0,
        "Dropout of attention probabilities; above 0 the fast kernels are off.",
        within=(0, 0.99),
        decides=MODEL,
    )
    pooling: str | None = option(None, "mean, cls or pooler; by default the checkpoint's, else mean.", decides=MODEL)
    query_prompt: str | None = option(
        None, "Text before every query, such as 'query: '; by default the checkpoint's.", decides=MODEL
    )
    passage_prompt: str | None = option(None, "Text before every passage; by default the checkpoint's.", decides=MODEL)
    max_passage_length: int = option(
        256,
        "Most tokens of a passage, and of any text when encoding.",
        within=(3, 1_000_000),
        decides=MODEL,
    )
    scratch_hidden_size: int = option(
        128, "Width of the encoder from scratch.", within=(4, 65_536), decides=MODEL, study=READS
    )
    scratch_num_layers: int = option(
        2, "Layers of the encoder from scratch.", within=(1, 1000), decides=MODEL, study=READS
    )
    scratch_vocab_size: int = option(
        8192, "Vocabulary size of the encoder from scratch.", within=(10, 10_000_000), decides=MODEL, study=READS
    )

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class ModelArguments(EncoderArguments):
    """Options of the encoder, with the length of queries."""

    max_query_length: int = option(
        64, "Most tokens of a query in training, prompt included.", within=(3, 1_000_000), decides=MODEL
    )


@dataclass
class DataArguments:
    """Options of the corpora to train and evaluate on."""

    train_corpus: str = option(
        "sample", "Training corpus: a folder or preset; 'sample' is built in.", decides=MODEL, study=SETS
    )
    eval_corpus: str | None = option(
        None,
        "Evaluation corpus: a folder or preset; by default items held out of the training corpus.",
        decides=RERUN,
        study=SETS,
    )
    corpus_format: str = option(
        "auto", "Format of train_corpus: auto, jsonl, beir, xquad_r, pairs or hub.", decides=MODEL
    )
    eval_corpus_format: str = option("auto", "Format of eval_corpus.", decides=RERUN)
    languages: str | None = option(
        None, "Comma-separated codes of the training languages; all by default.", decides=MODEL, study=SETS
    )
    eval_languages: str | None = option(
        None, "Comma-separated codes of the evaluation languages; all by default.", decides=RERUN, study=SETS
    )
    held_out: float = option(
        0.1,
        "Share of the items, or their number from 1 on, to hold out if there is no eval_corpus.",
        decides=MODEL,
        study=READS,
    )
    on_bad_row: str = option(
        "refuse", "refuse: stop at the first bad row of a corpus; skip: drop and count such rows.", decides=MODEL
    )
    cache_dir: str = option(CACHE_DIR, "Folder for built corpora and token ids.", study=READS)


@dataclass
class RunArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] of a planned run: what hybrid training and masked language modeling share.

    Defaults that differ from the parent: `max_steps=1000` (a plan has no epochs), `learning_rate=2e-5`,
    `warmup_steps=0.1` (a share of the steps), `logging_steps=10`, `logging_nan_inf_filter=False` (it waits for the
    device at every step), `save_steps=0.1` (a share of the steps), `save_total_limit=2`, `dataloader_num_workers=2`
    with a GPU, `ddp_find_unused_parameters=False` (all are used). `push_to_hub` creates private repositories unless
    `hub_private_repo=False`. The batch size per device follows from `global_batch_size`.
    `gradient_accumulation_steps=G` averages the gradients of G successive batches of the plan, each of
    `global_batch_size`; the plan then has `max_steps * G` batches.

    Raises:
        ValueError: On a value or a combination that would have no effect or that the trainer cannot run. The message
            says what to use instead.
    """

    # Fields of transformers without one here: what they decide, and their ranges.
    INHERITED: ClassVar[dict[str, dict[str, Any]]] = {
        **{
            name: {"decides": MODEL}
            for name in (
                "optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs", "bf16", "fp16",
                "neftune_noise_alpha", "load_best_model_at_end", "metric_for_best_model",
            )
        },
        "gradient_accumulation_steps": {"decides": MODEL, "within": (1, 1_000_000)},
        "weight_decay": {"decides": MODEL, "within": (0, 100)},
        "adam_beta1": {"decides": MODEL, "within": (0, 1)},
        "adam_beta2": {"decides": MODEL, "within": (0, 1)},
        "adam_epsilon": {"decides": MODEL, "within": (0, 1)},
        "max_grad_norm": {"decides": MODEL, "within": (0, 1e9)},
        "seed": {"decides": MODEL, "within": (0, 2**32 - 1), "study": SETS},
        "data_seed": {"decides": MODEL, "within": (0, 2**32 - 1), "study": SETS},
        "eval_strategy": {"decides": RERUN, "study": SETS},
        "eval_steps": {"decides": RERUN, "study": SETS},
        "greater_is_better": {"decides": RERUN},
        "use_cpu": {"decides": RERUN},
    }  # fmt: skip

    output_dir: str = option("runs/run", "The run folder.", study=SETS)
    max_steps: int = option(_DEFAULT_STEPS, "Optimizer steps.", within=(1, 100_000_000), decides=MODEL, study=READS)
    learning_rate: float = option(2e-5, "Peak learning rate.", within=(0, 100), decides=MODEL)
    warmup_steps: float = option(
        0.1, "Steps of linear warm-up; below 1, a share of all steps.", within=(0, 100_000_000), decides=MODEL
    )
    logging_steps: float = option(
        10,
        "Steps between two lines of the logs; below 1, a share of all steps.",
        within=(1e-9, 100_000_000),
        decides=RERUN,
    )
    logging_nan_inf_filter: bool = option(False, "Ignore NaN and infinite losses in the logged mean.")
    save_strategy: str = option("steps", "When to save a checkpoint: no, steps or best.", decides=RERUN)
    save_steps: float = option(
        0.1,
        "Steps between two checkpoints; below 1, a share of all steps.",
        within=(1e-9, 100_000_000),
        decides=RERUN,
    )
    save_total_limit: int | None = option(2, "Checkpoints to keep: the newest ones and the best one.")
    max_nonfinite_steps: int = option(
        5, "Stop the run after this many steps in a row without a finite loss and gradient.", within=(1, 100_000_000)
    )
    dataloader_num_workers: int | None = option(  # type: ignore[assignment]
        None, "Processes that prepare batches; by default 2 with a GPU, else 0.", within=(0, 10_000)
    )
    ddp_find_unused_parameters: bool | None = option(False, "Look for weights without a gradient in each step.")
    num_train_epochs: float | None = option(  # type: ignore[assignment]
        None, "Refused: a plan has steps and no epochs; set max_steps."
    )
    per_device_eval_batch_size: int | None = option(  # type: ignore[assignment]
        None, "Refused: evaluation batches are measured in tokens; set eval_batch_tokens."
    )
    per_device_train_batch_size: int | None = option(  # type: ignore[assignment]
        None, "Follows from global_batch_size; other values are refused."
    )
    global_batch_size: int = option(256, "Batch size over all devices.", within=(2, 100_000_000), decides=MODEL)
    smoothing: float = option(
        1.0, "Exponent of the sampling weights: size ** smoothing.", within=(0, 10), decides=MODEL
    )
    chunk_tokens: int | None = option(
        None,
        "Most tokens in one forward pass of a process; a larger batch runs in chunks with the same loss (GradCache), "
        "and each text is encoded twice. By default the whole batch, and less if memory runs out.",
        within=(1, 2**40),
    )
    evaluate_before: bool = option(
        True, "Evaluate before training, for the before-and-after table.", decides=RERUN, study=SETS
    )
    eval_batch_tokens: int = option(16_384, "Most tokens of one forward pass in evaluation.", within=(1, 2**40))
    max_eval_queries: int | None = option(
        None, "Evaluate only this many queries of each language.", within=(1, 2**40), decides=RERUN
    )
    hub_private_repo: bool | None = option(
        None, "Visibility of a repository that push_to_hub creates: private unless false."
    )
    cpu_threads: int | None = option(
        None,
        "Threads of a process on CPU; by default OMP_NUM_THREADS if above 1, else a fair share of the cores.",
        within=(1, 100_000),
        study=SETS,
    )
    energy: str = option("auto", "Energy meter: auto, nvml, rapl, codecarbon (an estimate) or none.")
    peak_flops: float | None = option(
        None, "Peak FLOP/s of one device, for mfu; unknown by default.", within=(1, 1e30)
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        self.changed = find_changed_options(self)  # before values below turn shares into steps
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        shard = -(-self.global_batch_size // world_size)
        given = self.per_device_train_batch_size
        if given is not None and given != shard:
            raise ValueError(
                f"per_device_train_batch_size={given} contradicts global_batch_size={self.global_batch_size}, which "
                f"is {shard} on each of {world_size} process(es). Set global_batch_size alone."
            )
        self._refuse_unsupported()
        for name in ("logging_steps", "eval_steps", "save_steps"):  # below 1, a share of all steps
            if (steps := getattr(self, name)) is not None and 0 < steps < 1:
                setattr(self, name, math.ceil(steps * self.max_steps))
        self.per_device_train_batch_size = self.per_device_eval_batch_size = shard
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 2 if torch.accelerator.is_available() and not self.use_cpu else 0
        self.num_train_epochs = 1  # one pass over the plan
        if self.metric_for_best_model and "bias/" in self.metric_for_best_model and self.greater_is_better is None:
            self.greater_is_better = False
        super().__post_init__()
        self._refuse_idle_devices()
        if self.device.type == "cpu":
            torch.set_num_threads(self.cpu_threads or _count_fair_threads())

    def _refuse_unsupported(self) -> None:
        for name, (is_refused, reason) in self._reasons().items():
            if is_refused:
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported: {reason}.")

    def _reasons(self) -> dict[str, tuple[bool, str]]:
        """Return, for each option that may be refused, whether it is, and why."""
        best = self.load_best_model_at_end or self.save_strategy == "best"
        no_metric = best and self.metric_for_best_model in (None, "loss", "eval_loss")
        no_gpu = not self.use_cpu and not torch.accelerator.is_available()
        is_file = os.path.isfile(self.output_dir or "")
        return {
            "num_train_epochs": (self.num_train_epochs is not None, "a plan has steps and no epochs; set max_steps"),
            "per_device_eval_batch_size": (self.per_device_eval_batch_size is not None, "set eval_batch_tokens"),
            "enable_jit_checkpoint": (self.enable_jit_checkpoint, "SIGTERM already saves a checkpoint"),
            "optim": (
                "lomo" in str(self.optim),
                "it updates weights during the backward pass; use adamw_torch_fused",
            ),
            "metric_for_best_model": (no_metric, "name the best measure, for example multilingual/nDCG@10"),
            "bf16": (bool(self.bf16) and no_gpu, "there is no GPU; to train on the CPU, add --use_cpu true"),
            "bf16_full_eval": (self.bf16_full_eval, "evaluation runs in the precision of training; set bf16"),
            "fp16_full_eval": (self.fp16_full_eval, "evaluation runs in the precision of training; set fp16"),
            "auto_find_batch_size": (self.auto_find_batch_size, "another batch size is another loss"),
            "restore_callback_states_from_checkpoint": (
                self.restore_callback_states_from_checkpoint,
                "callbacks of a run resume without it",
            ),
            "ignore_data_skip": (self.ignore_data_skip, "a resumed run would see its first batches again"),
            "label_smoothing_factor": (self.label_smoothing_factor != 0, "the loss has no labels to smooth"),
            "dataloader_drop_last": (self.dataloader_drop_last, "short batches belong to the plan"),
            "energy": (self.energy not in ENERGY_CHOICES, f"choose one of {', '.join(ENERGY_CHOICES)}"),
            "fp16": (bool(self.fp16) and (no_gpu or self.use_cpu), "a CPU trains in bf16"),
            "output_dir": (is_file or not str(self.output_dir or "").strip(), "name a folder for the run"),
            "use_liger_kernel": (self.use_liger_kernel, "its kernels are for language models"),
            "save_strategy": (self.save_strategy == "epoch", "a plan has no epochs; use steps or best"),
            "eval_strategy": (self.eval_strategy == "epoch", "a plan has no epochs; use steps"),
            "hub_model_id": (
                self.push_to_hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_model_id or "", re.ASCII),
                "push_to_hub needs the repository to push to, as user/name",
            ),
            "push_to_hub": (
                self.push_to_hub and self.hub_strategy != "end" and self.save_strategy == "no",
                "without checkpoints there is nothing to push during training; set hub_strategy to end",
            ),
        }

    def _refuse_idle_devices(self) -> None:
        sharded = [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}") == "true"]
        if self.use_cpu and sharded and torch.cuda.is_available():
            raise ValueError(
                f"use_cpu=True with {sharded[0]}: accelerate would ignore {sharded[0]} and train on the CPU. Add "
                "`--use_cpu false` to train on the GPUs, or use accelerate_configs/cpu.yaml."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"{self.n_gpu} GPUs are visible to one process. Start one process per GPU with `accelerate launch "
                f"--num_processes {self.n_gpu} ...`, or show it one with CUDA_VISIBLE_DEVICES=0."
            )


def _count_fair_threads() -> int:
    """Return the cores that this process may use, shared with the other processes of the run on this machine.

    `accelerate launch` sets OMP_NUM_THREADS to 1 if it is not set, which would leave all cores but one idle.
    """
    if (chosen := int(os.environ.get("OMP_NUM_THREADS") or 1)) > 1:
        return chosen
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@dataclass
class HybridTrainingArguments(RunArguments):
    """[`RunArguments`] with the mix of batches and the contrastive loss.

    Raises:
        ValueError: On a value or a combination that would have no effect or that the trainer cannot run. The message
            says what to use instead.

    Example:

        >>> arguments = HybridTrainingArguments(global_batch_size=64, mix="mono=1,cross=1", use_cpu=True)
        >>> arguments.mix, arguments.per_device_train_batch_size
        ('mono=0.5,cross=0.5', 64)
    """

    output_dir: str = option("runs/hybrid", "The run folder.")
    global_batch_size: int = option(256, "Most queries in a batch, over all devices.")
    seen_embeddings_only: bool = option(
        False,
        "Train only the token embeddings that the corpus uses; the others decay, as they would anyway. The model is "
        "the same to rounding, for less time and memory.",
        decides=MODEL,
    )
    mix: str = option(
        "mono=0.5,cross=0.5", "Shares of the batch types: mono, cross, pool, mixed.", decides=MODEL, study=SETS
    )
    smoothing: float = option(1.0, "Language pairs are visited in proportion to items ** smoothing; 0 is uniform.")
    language_pairs: str | None = option(
        None, "Use only language pairs that match one of these patterns: 'en->*,*->en'.", decides=MODEL
    )
    exclude: str | None = option(None, "Exclude language pairs that match one of these patterns.", decides=MODEL)
    max_positives: int = option(
        4, "Most passages per item in a pool batch, each in another language.", within=(1, 10_000), decides=MODEL
    )
    num_negatives: int = option(0, "Hard negatives per positive passage.", within=(0, 10_000), decides=MODEL)
    temperature: float = option(
        0.02, "Temperature of the loss: divides the cosine scores.", within=(1e-4, 1000), decides=MODEL
    )
    symmetric: bool = option(False, "Also contrast each passage with the queries.", decides=MODEL)

    def __post_init__(self) -> None:
        self.mix = str(MixConfig.parse(self.mix))
        super().__post_init__()

    def _reasons(self) -> dict[str, tuple[bool, str]]:
        is_exact = self.optim in EXACT_OPTIMIZERS and self.neftune_noise_alpha is None
        return {
            **super()._reasons(),
            "seen_embeddings_only": (
                self.seen_embeddings_only and not is_exact,
                f"it needs optim {' or '.join(EXACT_OPTIMIZERS)} and no neftune_noise_alpha",
            ),
        }


@dataclass
class MlmTrainingArguments(RunArguments):
    """[`RunArguments`] of masked language modeling.

    Defaults that differ from the parent: `learning_rate=1e-4` and `weight_decay=0.01` (as BERT), `smoothing=0.7` (as
    mBERT), `global_batch_size=64`, and `max_steps=None`: steps follow from a budget of tokens, to the nearest step.

    Raises:
        ValueError: On a value or a combination that would have no effect or that the trainer cannot run. The message
            says what to use instead.

    Example:

        >>> arguments = MlmTrainingArguments(max_tokens=1_000_000, global_batch_size=16, use_cpu=True)
        >>> arguments.block_length, arguments.max_steps
        (128, 488)
    """

    output_dir: str = option("runs/mlm", "The run folder.")
    max_steps: int = option(None, f"Optimizer steps, instead of a budget of tokens; without either, {_DEFAULT_STEPS}.")
    max_tokens: int | None = option(
        None, "Budget: train on this many tokens, to the nearest step.", within=(1, 10**18), study=SETS
    )
    tokens_of: str | None = option(
        None, "Budget: the tokens that the finished run in this folder trained on.", study=SETS
    )
    block_length: int = option(
        128,
        "Tokens of a block: texts of one language, joined and cut to this length.",
        within=(8, 1_000_000),
        decides=MODEL,
    )
    global_batch_size: int = option(64, "Blocks in a batch, over all devices, in many languages.")
    smoothing: float = option(0.7, "Languages have blocks in proportion to tokens ** smoothing; 0 is uniform.")
    masking: str = option(
        "static", "static: masks repeat after mask_duplicates passes, as in mBERT; dynamic: never.", decides=MODEL
    )
    mask_duplicates: int = option(
        10, "Passes over a language with different static masks.", within=(1, 1_000_000), decides=MODEL
    )
    mlm_probability: float = option(
        0.15, "Share of the tokens, or words, to predict.", within=(0.001, 0.999), decides=MODEL
    )
    whole_word_mask: bool = option(False, "Predict all tokens of a word, or none.", decides=MODEL)
    learning_rate: float = option(1e-4, "Peak learning rate.")
    weight_decay: float = option(0.01, "Weight decay.")

    def __post_init__(self) -> None:
        check_ranges(self)
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        if (size := self.global_batch_size) < world_size:
            raise ValueError(f"global_batch_size={size} blocks for {world_size} processes: each needs at least one.")
        if self.masking not in MASKINGS:
            raise ValueError(f"masking must be one of {', '.join(MASKINGS)}, got {self.masking!r}.")
        self._set_steps()
        super().__post_init__()

    def _set_steps(self) -> None:
        """Set `max_steps` from the budget: at most one of `max_steps`, `max_tokens` and `tokens_of` is given."""
        given = [name for name in ("max_steps", "max_tokens", "tokens_of") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say how long to train. Give one of them.")
        budget = self.max_tokens if self.tokens_of is None else read_trained_tokens(self.tokens_of)
        if budget is None:
            self.max_steps = _DEFAULT_STEPS if self.max_steps is None else self.max_steps
            return
        tokens_per_step = self.gradient_accumulation_steps * self.global_batch_size * self.block_length
        self.max_steps = round(budget / tokens_per_step)
        if self.max_steps < 1:
            raise ValueError(
                f"a budget of {budget:,} tokens is less than a step of {tokens_per_step:,} (global_batch_size "
                "x block_length x gradient_accumulation_steps). Lower global_batch_size or block_length."
            )


def read_trained_tokens(folder: str) -> int:
    """Return the number of tokens that a finished run trained on.

    Raises:
        ValueError: When there is no such run, or it has not finished.
    """
    run = RunFolder(folder)
    for name in ("run.json", "resources.json"):
        if not (Path(folder) / name).exists():
            raise ValueError(f"tokens_of={folder!r} has no {name}. Give the folder of a finished run.")
    if (status := run.read_run()["status"]) != "finished":
        raise ValueError(f"tokens_of={folder!r}: the run is {status}. Give the folder of a finished run.")
    return run.read_resources()["tokens"]
