"""The trainer of masked language modeling, the mBERT baseline: blocks of text, and a cross-entropy loss.

The model returns one number per block, so `ChunkedBackward` cuts blocks as it cuts embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from hf_hybrid.data.batches.mlm_collator import Masking, MlmCollator, MlmInputs
from hf_hybrid.data.batches.mlm_schedule import WHOLE, MlmSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.masked_lm import MaskedLanguageModel
from hf_hybrid.utils import distributed

from .arguments import MlmTrainingArguments
from .identity import run_identity
from .plan_trainer import PlanTrainer

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus


class MlmTrainer(PlanTrainer):
    """Trains a [`MaskedLanguageModel`] on the texts of a [`ParallelCorpus`] with the batches of an [`MlmSchedule`].

    Args:
        model (`MaskedLanguageModel`): The model.
        args (`MlmTrainingArguments`): The arguments.
        train_dataset (`ParallelCorpus`): The corpus; its queries and passages are the text.
        eval_dataset (`ParallelCorpus` or `dict[str, ParallelCorpus]`, *optional*): What `evaluate` measures retrieval
            on.
        **kwargs: As for [`PlanTrainer`]: `cache_dir`, `started_at`, `callbacks` and those of
            [`~transformers.Trainer`].

    Raises:
        ValueError: When blocks are longer than the model's positions, or the model is to be sharded.
    """

    model: MaskedLanguageModel
    args: MlmTrainingArguments

    def __init__(
        self,
        model: MaskedLanguageModel,
        args: MlmTrainingArguments,
        train_dataset: ParallelCorpus | None = None,
        eval_dataset: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
        **kwargs: Any,
    ) -> None:
        self._masking = Masking(model.tokenizer, args.mlm_probability, args.whole_word_mask)
        super().__init__(model, args, train_dataset, eval_dataset, **kwargs)
        if self.backward.is_sharded:
            raise ValueError("Masked language modeling runs on one device or by DDP, not by FSDP or DeepSpeed.")
        positions = getattr(model.config, "max_position_embeddings", None) or model.tokenizer.model_max_length
        if args.block_length > (longest := positions - model.position_offset):
            raise ValueError(
                f"block_length must be at most {longest}, the positions of the model, got {args.block_length}."
            )

    @cached_property
    def schedule(self) -> MlmSchedule:
        """The plan: `max_steps * gradient_accumulation_steps` batches."""
        args = self.args
        return MlmSchedule(
            self.token_cache,
            block_length=args.block_length,
            global_batch_size=args.global_batch_size,
            num_steps=args.max_steps * args.gradient_accumulation_steps,
            smoothing=args.smoothing,
            seed=self._plan_seed,
            num_duplicates=args.mask_duplicates if args.masking == "static" else None,
        )

    def make_token_cache(self, encoder: HybridEncoder) -> TokenCache:
        """Return the token ids of whole texts, without prompts."""
        return TokenCache(
            self.train_dataset,
            encoder.tokenizer,
            max_query_length=WHOLE,
            max_passage_length=WHOLE,
            cache_dir=self.token_cache_dir,
        )

    def make_collator(self) -> MlmCollator:
        """Return what makes this rank's inputs of a batch."""
        return MlmCollator(self.schedule, self._masking, distributed.rank(), distributed.world_size())

    def preview(self) -> str:
        """Return the first batches as text."""
        return self.schedule.preview(self._masking)

    def compute_loss(  # type: ignore[override]
        self,
        model: Callable[..., torch.Tensor],
        inputs: MlmInputs,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the mean cross-entropy of the predicted tokens; its mean over ranks is that of the global batch.

        Args:
            model (`Callable`): Returns the sum of each block of `inputs["tokens"]`.
            inputs (`MlmInputs`): This rank's shard.
            return_outputs (`bool`, *optional*, defaults to `False`): Also return the sums.
            num_items_in_batch (`int`, *optional*): Not used.
        """
        sums = model(**inputs["tokens"])
        own = sums[: len(inputs["lengths"][distributed.rank()])].sum()
        loss = own * (distributed.world_size() / max(inputs["num_predicted"], 1))
        return (loss, sums) if return_outputs else loss

    def identity(self) -> dict[str, Any]:
        """Return corpus, shares of languages, seed, model and all other settings that decide what is trained."""
        return run_identity(self.args, self.schedule, self._model_name)

    def describe_step(self, step: int) -> dict[str, Any]:
        """Return language, and rows of the corpus by side, of each block in the batches of an optimizer step."""
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
