"""Arguments of masked language modelling: those of any run, less what only contrastive batches have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.utils.options import check_ranges, no_option, option

from .arguments import HybridTrainingArguments, ModelArguments

MASKINGS = ("static", "dynamic")
_DEFAULT_STEPS = 1000


@dataclass
class MlmModelArguments(ModelArguments):
    """Which encoder is trained, and how it reads text when it is evaluated."""

    max_query_length: int = no_option(64)


@dataclass
class MlmTrainingArguments(HybridTrainingArguments):
    """[`HybridTrainingArguments`] of masked language modelling, without those of pairs and cells.

    Defaults that differ from the parent: `output_dir="runs/mlm"`, `learning_rate=1e-4` and `weight_decay=0.01` (as
    BERT), `smoothing=0.7` (as mBERT), `global_batch_size=64`, `max_steps=None`: steps follow from a budget of tokens,
    rounded to whole ones.

    Raises:
        ValueError: On a value or a combination that cannot be honoured; the message says what to use instead.

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
    cells: str | None = no_option(None)
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
