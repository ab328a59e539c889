"""The trainer of masked language modeling: the same run in all but its batches and its loss.

Checkpoints, resuming, guards, the resource log, evaluation and publishing are those of `HybridTrainer`.  Chunks too: a
model that gives one number for each block is cut, and its step done again where memory runs out, as one that gives
embeddings.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from hf_hybrid.data.batches.mlm_collator import Masking, MlmCollator, MlmInputs
from hf_hybrid.data.batches.mlm_schedule import WHOLE, MlmSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.models.flops import head_parameters
from hf_hybrid.models.masked_lm import MaskedLanguageModel
from hf_hybrid.utils import distributed

from .arguments import CACHE_DIR, MlmTrainingArguments
from .identity import run_identity
from .trainer import HybridTrainer

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

# Beside those of any run, the arguments that decide what is trained.
_DECISIVE = ("block_length", "masking", "mask_duplicates", "mlm_probability", "whole_word_mask")
_TEXT_LENGTHS = ("max_query_length", "max_passage_length")  # no text is cut


class MlmTrainer(HybridTrainer):
    """Trains a [`MaskedLanguageModel`] on the texts of a [`ParallelCorpus`] by the plan of an [`MlmSchedule`].

    Args:
        model (`MaskedLanguageModel`): The model.
        args (`MlmTrainingArguments`): The arguments.
        train_dataset (`ParallelCorpus`): Whose queries and passages are the text.
        eval_dataset (`ParallelCorpus` or `dict[str, ParallelCorpus]`, *optional*): What `evaluate` measures retrieval
            on.
        cache_dir (`str` or `Path`, *optional*): Where token ids are kept.
        **kwargs: As for [`HybridTrainer`].

    Raises:
        ValueError: When blocks are longer than the model has positions for, or the model is to be sharded.
    """

    model: MaskedLanguageModel
    args: MlmTrainingArguments

    def __init__(
        self,
        model: MaskedLanguageModel,
        args: MlmTrainingArguments,
        train_dataset: ParallelCorpus | None = None,
        eval_dataset: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
        *,
        cache_dir: str | os.PathLike[str] = CACHE_DIR,
        **kwargs: Any,
    ) -> None:
        self._masking = Masking(model.tokenizer, args.mlm_probability, args.whole_word_mask)
        super().__init__(model, args, train_dataset, eval_dataset, cache_dir=cache_dir, **kwargs)
        if self._is_sharded:
            raise ValueError("Masked language modeling runs on one device or by DDP, not by FSDP or DeepSpeed.")
        positions = getattr(model.config, "max_position_embeddings", None) or model.tokenizer.model_max_length
        if args.block_length > (longest := positions - model.position_offset):
            raise ValueError(f"block_length={args.block_length}: the model has positions for {longest} tokens.")

    @cached_property
    def schedule(self) -> MlmSchedule:  # type: ignore[override]
        """The plan: `max_steps * gradient_accumulation_steps` batches."""
        args = self.args
        return MlmSchedule(
            self._token_cache,
            block_length=args.block_length,
            global_batch_size=args.global_batch_size,
            num_steps=args.max_steps * args.gradient_accumulation_steps,
            smoothing=args.smoothing,
            seed=args.seed if args.data_seed is None else args.data_seed,
            num_duplicates=args.mask_duplicates if args.masking == "static" else None,
        )

    @cached_property
    def _token_cache(self) -> TokenCache:
        """Whole texts, without prompts."""
        cache = TokenCache(
            self.train_dataset,
            self.accelerator.unwrap_model(self.model).tokenizer,
            max_query_length=WHOLE,
            max_passage_length=WHOLE,
            cache_dir=self.token_cache_dir,
        )
        with self.args.main_process_first(desc="tokenizing"):
            self.token_counts = cache.build()
        return cache

    def make_collator(self) -> MlmCollator:
        """What makes the inputs of a step, for this rank."""
        return MlmCollator(self.schedule, self._masking, distributed.rank(), distributed.world_size())

    def preview(self) -> str:
        """The first batches as text."""
        return self.schedule.preview(self._masking)

    def compute_loss(  # type: ignore[override]
        self,
        model: Callable[..., torch.Tensor],
        inputs: MlmInputs,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean cross-entropy of the predicted tokens; its mean over ranks is that of the global batch.

        Args:
            model (`Callable`): Gives the sum over each block of `inputs["tokens"]`.
            inputs (`MlmInputs`): This rank's share.
            return_outputs (`bool`, *optional*, defaults to `False`): Return the sums too.
            num_items_in_batch (`int`, *optional*): Not used.
        """
        sums = model(**inputs["tokens"])
        own = sums[: len(inputs["lengths"][distributed.rank()])].sum()
        loss = own * (distributed.world_size() / max(inputs["num_predicted"], 1))
        return (loss, sums) if return_outputs else loss

    def floating_point_ops(self, inputs: MlmInputs) -> float:  # type: ignore[override]
        """This rank's part of the operations of a batch, by the formula of the resource log."""
        head = 6.0 * head_parameters(self.accelerator.unwrap_model(self.model)) * inputs["num_predicted"]
        return super().floating_point_ops(inputs) + head / distributed.world_size()  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """Corpus, languages' shares, seed, model and all else that decides what is trained."""
        unused = {field.name for field in fields(self.args) if not field.init}.union(_TEXT_LENGTHS) - {"mix"}
        found = run_identity(self.args, self.schedule, self._model_name, self.max_lengths)  # type: ignore[arg-type]
        own = {name: getattr(self.args, name) for name in _DECISIVE}
        return {name: value for name, value in found.items() if name not in unused} | own

    def describe_step(self, step: int) -> dict[str, Any]:
        """Language, and rows of the corpus by side, of each block in the batches of an optimizer step."""
        schedule, count = self.schedule, self.args.gradient_accumulation_steps
        batches = [schedule.batch(number) for number in range((step - 1) * count, step * count)]
        described = [
            [
                {"language": schedule.language_pairs[column].name, "rows": schedule.blocks[column].rows(number)}
                for column, number in zip(batch.columns, batch.numbers, strict=True)
            ]
            for batch in batches
        ]
        return {"corpus": schedule.corpus.fingerprint, "batches": described}
