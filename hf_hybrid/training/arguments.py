"""Arguments of a run: dataclasses whose values are checked when they are made; `utils/options.py` reads them."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.training_args import TrainingArguments  # by its module: option_names.py reads its source

from hf_hybrid.data.batches.mix import MixConfig
from hf_hybrid.models.seen_embeddings import EXACT_OPTIMIZERS
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.utils.files import cache_folder
from hf_hybrid.utils.options import check_ranges, no_option, option

from .meters import ENERGY_CHOICES

CACHE_DIR = str(cache_folder())


# Least and most of what numbers may be; NaN is neither.  What lies beyond is a slip of the pen, or fits no machine.
_RANGES: dict[str, tuple[float, float]] = {
    "max_query_length": (3, 1_000_000),
    "max_passage_length": (3, 1_000_000),
    "attention_dropout": (0, 0.99),
    "scratch_hidden_size": (4, 65_536),
    "scratch_num_layers": (1, 1000),
    "scratch_vocab_size": (10, 10_000_000),
    "max_steps": (1, 100_000_000),
    "learning_rate": (0, 100),
    "weight_decay": (0, 100),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, 1),
    "max_grad_norm": (0, 1e9),
    "warmup_steps": (0, 100_000_000),
    "logging_steps": (1e-9, 100_000_000),
    "save_steps": (1e-9, 100_000_000),
    "gradient_accumulation_steps": (1, 1_000_000),
    "global_batch_size": (2, 100_000_000),
    "chunk_tokens": (1, 2**40),
    "max_nonfinite_steps": (1, 100_000_000),
    "max_positives": (1, 10_000),
    "num_negatives": (0, 10_000),
    "temperature": (1e-4, 1000),
    "smoothing": (0, 10),
    "eval_batch_tokens": (1, 2**40),
    "max_eval_queries": (1, 2**40),
    "cpu_threads": (1, 100_000),
    "dataloader_num_workers": (0, 10_000),
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
    "peak_flops": (1, 1e30),
}
MASKINGS = ("static", "dynamic")
_DEFAULT_STEPS = 1000


@dataclass
class ModelArguments:
    """Which encoder is trained, and how it reads text."""

    model_name_or_path: str | None = option(
        None, "Hub id or folder of any encoder that AutoModel loads; without it a small BERT is made from scratch."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    attention: str = option("auto", "auto, varlen (packed, no padding), sdpa, flash_attention_2 or eager.")
    attention_dropout: float = option(0.0, "Dropout of attention probabilities; above 0 the fast kernels are off.")
    pooling: str | None = option(None, "mean, cls or pooler; by default the checkpoint's, else mean.")
    query_prompt: str | None = option(None, "Put before every query, as in 'query: '; by default the checkpoint's.")
    passage_prompt: str | None = option(None, "Put before every passage; by default the checkpoint's.")
    max_query_length: int = option(64, "Most tokens of a query in training, prompt included.")
    max_passage_length: int = option(256, "Most tokens of a passage, and of any text when encoding.")
    scratch_hidden_size: int = option(128, "Width of the encoder made from scratch.")
    scratch_num_layers: int = option(2, "Layers of the encoder made from scratch.")
    scratch_vocab_size: int = option(8192, "Tokenizer entries of the encoder made from scratch.")

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)


@dataclass
class DataArguments:
    """Which corpora are trained on and evaluated on."""

    train_corpus: str = option("sample", "Folder or preset to train on; 'sample' is built in.")
    eval_corpus: str | None = option(
        None, "Folder or preset to evaluate on; by default items held out of the training corpus."
    )
    corpus_format: str = option("auto", "auto, jsonl, beir, xquad_r, pairs or hub.")
    eval_corpus_format: str = option("auto", "The same for eval_corpus.")
    languages: str | None = option(None, "Comma-separated codes of the languages to train on; all by default.")
    eval_languages: str | None = option(None, "Likewise for evaluation; all of eval_corpus by default.")
    held_out: float = option(
        0.1, "Share of the items (or their number, from 1 on) held out where there is no eval_corpus."
    )
    on_bad_row: str = option(
        "refuse", "refuse: stop at the first bad row of a corpus; skip: leave it out and count it."
    )
    cache_dir: str = option(CACHE_DIR, "Where built corpora and token ids are kept.")


@dataclass
class HybridTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] with the plan and the loss.

    Defaults that differ from the parent: `output_dir="runs/hybrid"`, `max_steps=1000` (a plan has no epochs),
    `learning_rate=2e-5`, `warmup_steps=0.1` (a share of the steps), `logging_steps=10`, `logging_nan_inf_filter=False`
    (it waits for the device at every step), `save_steps=0.1` (a share of the steps), `save_total_limit=2`,
    `dataloader_num_workers=2` where there is a GPU,
    `ddp_find_unused_parameters=False` (all are used); a repository that `push_to_hub` makes is private unless
    `hub_private_repo=False`. The batch size of a device follows from
    `global_batch_size`. `gradient_accumulation_steps=G` averages the gradients of G successive batches of the plan,
    each of `global_batch_size`; the plan then has `max_steps * G` batches.

    Raises:
        ValueError: On a value or a combination that cannot be honored; the message says what to use instead.

    Example:

        >>> arguments = HybridTrainingArguments(global_batch_size=64, mix="mono=1,cross=1", use_cpu=True)
        >>> arguments.mix, arguments.per_device_train_batch_size
        ('mono=0.5,cross=0.5', 64)
    """

    output_dir: str = option("runs/hybrid", "The run folder.")
    max_steps: int = option(1000, "Optimizer steps.")
    learning_rate: float = option(2e-5, "Peak learning rate.")
    warmup_steps: float = option(0.1, "Steps of linear warm-up; below 1, a share of all steps.")
    logging_steps: float = option(10, "A line in the logs every so many steps; below 1, a share of all steps.")
    logging_nan_inf_filter: bool = option(False, "Leave NaN and infinite losses out of the logged mean.")
    save_strategy: str = option("steps", "no, steps or best: when checkpoint-N is written.")
    save_steps: float = option(0.1, "A checkpoint every so many steps; below 1, a share of all steps.")
    save_total_limit: int | None = option(2, "Checkpoints kept, the newest and the best first.")
    max_nonfinite_steps: int = option(5, "Steps in a row without a finite loss and gradient that end a run.")
    dataloader_num_workers: int | None = option(  # type: ignore[assignment]
        None, "Processes that make batches ahead of time; by default 2 where there is a GPU, else 0."
    )
    ddp_find_unused_parameters: bool | None = option(False, "Look for weights without a gradient in each step.")
    num_train_epochs: float | None = option(  # type: ignore[assignment]
        None, "Refused: a plan has steps and no epochs; set max_steps."
    )
    per_device_eval_batch_size: int | None = option(  # type: ignore[assignment]
        None, "Refused: evaluation batches are measured in tokens; set eval_batch_tokens."
    )
    per_device_train_batch_size: int | None = option(  # type: ignore[assignment]
        None, "Follows from global_batch_size; refused otherwise."
    )
    global_batch_size: int = option(256, "Most queries that one batch contrasts, over all devices.")
    chunk_tokens: int | None = option(
        None,
        "Most tokens of one forward pass of a process; a larger batch runs in chunks with the same loss (GradCache), "
        "each embedded twice. By default all at once, and less where memory runs out.",
    )
    seen_embeddings_only: bool = option(
        False,
        "Train only the token embeddings that the corpus uses; the others decay, as they would anyway: the same "
        "model, to rounding, for less time and memory.",
    )
    mix: str = option("mono=0.5,cross=0.5", "Shares of the kinds of batches: mono, cross, pool, mixed.")
    smoothing: float = option(1.0, "Language pairs are visited in proportion to items ** smoothing; 0 is uniform.")
    language_pairs: str | None = option(None, "Only language pairs matching one of these patterns: 'en->*,*->en'.")
    exclude: str | None = option(None, "No pair of languages matching one of these patterns.")
    max_positives: int = option(4, "Most passages of one item, each in another language, in a pool batch.")
    num_negatives: int = option(0, "Hard negatives of the corpus for each positive passage.")
    temperature: float = option(0.02, "Divides the cosine scores in the loss.")
    symmetric: bool = option(False, "Contrast each passage with the queries too.")
    evaluate_before: bool = option(True, "Evaluate before training, for the table of before and after.")
    eval_batch_tokens: int = option(16_384, "Most tokens of one forward pass in evaluation.")
    max_eval_queries: int | None = option(None, "Evaluate the first so many queries of each language.")
    hub_private_repo: bool | None = option(None, "Private, where push_to_hub makes a repository: so unless false.")
    cpu_threads: int | None = option(
        None,
        "Threads of a process on CPU; by default OMP_NUM_THREADS if above 1, else this machine's cores shared out.",
    )
    energy: str = option("auto", "Energy meter: auto, nvml, rapl, codecarbon (an estimate) or none.")
    peak_flops: float | None = option(None, "Peak operations a second of one device, for mfu; unknown by default.")

    def __post_init__(self) -> None:
        self.mix = str(MixConfig.parse(self.mix))
        check_ranges(self, _RANGES)
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        share = -(-self.global_batch_size // world_size)
        given = self.per_device_train_batch_size
        if given is not None and given != share:
            raise ValueError(
                f"per_device_train_batch_size={given}: one batch contrasts global_batch_size={self.global_batch_size} "
                f"queries over {world_size} process(es), {share} on each. Set global_batch_size alone."
            )
        self._refuse_what_cannot_be_honored()
        for name in ("logging_steps", "eval_steps", "save_steps"):  # a share of all steps is so many steps
            if (steps := getattr(self, name)) is not None and 0 < steps < 1:
                setattr(self, name, math.ceil(steps * self.max_steps))
        self.per_device_train_batch_size = self.per_device_eval_batch_size = share
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 2 if torch.accelerator.is_available() and not self.use_cpu else 0
        self.num_train_epochs = 1  # the plan is gone through once
        if self.metric_for_best_model and "bias/" in self.metric_for_best_model and self.greater_is_better is None:
            self.greater_is_better = False
        super().__post_init__()
        self._refuse_devices_left_idle()
        if self.device.type == "cpu":
            torch.set_num_threads(self.cpu_threads or _fair_threads())

    def _refuse_what_cannot_be_honored(self) -> None:
        best = self.load_best_model_at_end or self.save_strategy == "best"
        no_metric = best and self.metric_for_best_model in (None, "loss", "eval_loss")
        inexact = self.optim not in EXACT_OPTIMIZERS or self.neftune_noise_alpha is not None
        no_gpu = not self.use_cpu and not torch.accelerator.is_available()
        is_file = os.path.isfile(self.output_dir or "")
        reasons = {
            "num_train_epochs": (self.num_train_epochs is not None, "a plan has steps and no epochs; set max_steps"),
            "per_device_eval_batch_size": (self.per_device_eval_batch_size is not None, "set eval_batch_tokens"),
            "enable_jit_checkpoint": (self.enable_jit_checkpoint, "SIGTERM leads to a checkpoint as it is"),
            "optim": (
                "lomo" in str(self.optim),
                "it updates weights in the midst of a backward pass; use adamw_torch_fused",
            ),
            "seen_embeddings_only": (
                self.seen_embeddings_only and inexact,
                f"it takes optim {' or '.join(EXACT_OPTIMIZERS)}, and no neftune_noise_alpha",
            ),
            "metric_for_best_model": (no_metric, "say what is best, for example multilingual/nDCG@10"),
            "bf16": (
                bool(self.bf16) and no_gpu,
                "there is no GPU; to train on the CPU all the same, add --use_cpu true",
            ),
            "bf16_full_eval": (self.bf16_full_eval, "evaluation runs in the precision of training; set bf16"),
            "fp16_full_eval": (self.fp16_full_eval, "evaluation runs in the precision of training; set fp16"),
            "auto_find_batch_size": (self.auto_find_batch_size, "another batch size is another loss"),
            "restore_callback_states_from_checkpoint": (
                self.restore_callback_states_from_checkpoint,
                "callbacks of a run go on where it stood without it",
            ),
            "ignore_data_skip": (self.ignore_data_skip, "a resumed run would see its first batches again"),
            "label_smoothing_factor": (
                self.label_smoothing_factor != 0,
                "the contrastive loss has no labels to smooth",
            ),
            "dataloader_drop_last": (self.dataloader_drop_last, "short batches belong to the plan"),
            "energy": (self.energy not in ENERGY_CHOICES, f"allowed are {', '.join(ENERGY_CHOICES)}"),
            "fp16": (bool(self.fp16) and (no_gpu or self.use_cpu), "a CPU trains in bf16"),
            "output_dir": (
                is_file or not str(self.output_dir or "").strip(),
                "name a folder for the run",
            ),
            "use_liger_kernel": (self.use_liger_kernel, "its kernels are for language models"),
            "save_strategy": (self.save_strategy == "epoch", "a plan has no epochs; use steps or best"),
            "eval_strategy": (self.eval_strategy == "epoch", "a plan has no epochs; use steps"),
            "hub_model_id": (
                self.push_to_hub and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_model_id or "", re.ASCII),
                "push_to_hub needs the repository to push to, as user/name",
            ),
            "push_to_hub": (
                self.push_to_hub and self.hub_strategy != "end" and self.save_strategy == "no",
                "without checkpoints there is nothing to push on the way; set hub_strategy to end",
            ),
        }
        for name, (refused, reason) in reasons.items():
            if refused:
                raise ValueError(f"{name}={getattr(self, name)!r} cannot be honored: {reason}.")

    def _refuse_devices_left_idle(self) -> None:
        sharded = [name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}") == "true"]
        if self.use_cpu and sharded and torch.cuda.is_available():
            raise ValueError(
                f"use_cpu=True with {sharded[0]}: accelerate would leave {sharded[0]} out and train on the CPU. Add "
                "`--use_cpu false` to train on the GPUs, or take accelerate_configs/cpu.yaml."
            )
        if self.n_gpu > 1:
            raise ValueError(
                f"{self.n_gpu} GPUs are visible to one process. Start one process for each with `accelerate launch "
                f"--num_processes {self.n_gpu} ...`, or show it one with CUDA_VISIBLE_DEVICES=0."
            )


def _fair_threads() -> int:
    """The cores that this process may use, shared with its siblings on the machine.

    `accelerate launch` sets OMP_NUM_THREADS to 1 where it is not set, which leaves all cores but one idle.
    """
    if (chosen := int(os.environ.get("OMP_NUM_THREADS") or 1)) > 1:
        return chosen
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@dataclass
class MlmModelArguments(ModelArguments):
    """Which encoder is trained, and how it reads text when it is evaluated."""

    max_query_length: int = no_option(64)


@dataclass
class MlmTrainingArguments(HybridTrainingArguments):
    """[`HybridTrainingArguments`] of masked language modeling, without those of pairs and language pairs.

    Defaults that differ from the parent: `output_dir="runs/mlm"`, `learning_rate=1e-4` and `weight_decay=0.01` (as
    BERT), `smoothing=0.7` (as mBERT), `global_batch_size=64`, `max_steps=None`: steps follow from a budget of tokens,
    rounded to whole ones.

    Raises:
        ValueError: On a value or a combination that cannot be honored; the message says what to use instead.

    Example:

        >>> arguments = MlmTrainingArguments(max_tokens=1_000_000, global_batch_size=16, use_cpu=True)
        >>> arguments.block_length, arguments.max_steps
        (128, 488)
    """

    output_dir: str = option("runs/mlm", "The run folder.")
    max_steps: int = option(None, f"Optimizer steps, instead of a budget of tokens; without either, {_DEFAULT_STEPS}.")
    max_tokens: int | None = option(None, "Budget: train on so many tokens, to the nearest step.")
    tokens_of: str | None = option(None, "Budget: as many tokens as the finished run in this folder trained on.")
    block_length: int = option(128, "Tokens of a block: texts of one language joined, and cut to this length.")
    global_batch_size: int = option(64, "Blocks of one batch, over all devices, in many languages.")
    smoothing: float = option(0.7, "Languages have blocks in proportion to tokens ** smoothing; 0: equally many.")
    masking: str = option("static", "static: masks repeat after mask_duplicates passes, as mBERT's; dynamic: never.")
    mask_duplicates: int = option(10, "Passes over a language that static masking tells apart.")
    mlm_probability: float = option(0.15, "Share of the tokens, or words, that are to be predicted.")
    whole_word_mask: bool = option(False, "Predict all tokens of a word, or none.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    weight_decay: float = option(0.01, "Weight decay.")
    mix: str = no_option("mono=1")  # checked by the parent, and not used
    language_pairs: str | None = no_option(None)
    exclude: str | None = no_option(None)
    max_positives: int = no_option(4)
    num_negatives: int = no_option(0)
    temperature: float = no_option(0.02)
    symmetric: bool = no_option(False)
    seen_embeddings_only: bool = no_option(False)  # the output of the head is the same table, of all entries

    def __post_init__(self) -> None:
        self._check_masks()
        self._settle_steps()
        super().__post_init__()

    def _check_masks(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "block_length": (8, 1_000_000),
            "max_tokens": (1, 10**18),
            "mask_duplicates": (1, 1_000_000),
            "mlm_probability": (0.001, 0.999),
            "global_batch_size": (2, 100_000_000),
            "gradient_accumulation_steps": (1, 1_000_000),
        }
        check_ranges(self, ranges)
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        if (size := self.global_batch_size) < world_size:
            raise ValueError(f"global_batch_size={size} blocks for {world_size} processes: give each at least one.")
        if self.masking not in MASKINGS:
            raise ValueError(f"masking must be one of {', '.join(MASKINGS)}; got {self.masking!r}.")

    def _settle_steps(self) -> None:
        """One of `max_steps`, `max_tokens` and `tokens_of` says how long; the first follows from the others."""
        given = [name for name in ("max_steps", "max_tokens", "tokens_of") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say how long to train; give one of them.")
        budget = self.max_tokens if self.tokens_of is None else tokens_of_run(self.tokens_of)
        if budget is None:
            self.max_steps = _DEFAULT_STEPS if self.max_steps is None else self.max_steps
            return
        tokens_a_step = self.gradient_accumulation_steps * self.global_batch_size * self.block_length
        self.max_steps = round(budget / tokens_a_step)
        if self.max_steps < 1:
            raise ValueError(
                f"a budget of {budget:,} tokens is less than a step of {tokens_a_step:,} (global_batch_size "
                "x block_length x gradient_accumulation_steps). Lower global_batch_size or block_length."
            )


def tokens_of_run(folder: str) -> int:
    """The tokens that a finished run was trained on.

    Raises:
        ValueError: When there is no such run, or it has not come to its end.
    """
    run = RunFolder(folder)
    for name in ("run.json", "resources.json"):
        if not (Path(folder) / name).exists():
            raise ValueError(f"tokens_of={folder!r}: there is no {name}; give the folder of a finished run.")
    if (status := run.read_run()["status"]) != "finished":
        raise ValueError(f"tokens_of={folder!r}: the run is {status}; its tokens are known when it has finished.")
    return run.read_resources()["tokens"]
