"""The trainer of hybrid batches: one packed forward pass over queries and passages, and a contrastive loss."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_hybrid.data.batches.collator import HybridCollator, HybridInputs, hard_negatives
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.models import seen_embeddings
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.utils import distributed

from .arguments import HybridTrainingArguments
from .gather import count_gathered_bytes
from .identity import describe_batch, run_identity
from .losses import contrastive_loss, mean_cosine
from .plan_trainer import PlanTrainer

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

logger = logging.getLogger(__name__)


class HybridTrainer(PlanTrainer):
    """Trains a [`HybridEncoder`] on a [`ParallelCorpus`] with the batches of a [`HybridSchedule`].

    Args:
        model (`HybridEncoder`): The encoder.
        args (`HybridTrainingArguments`): The arguments.
        train_dataset (`ParallelCorpus`): The training corpus.
        eval_dataset (`ParallelCorpus` or `dict[str, ParallelCorpus]`, *optional*): What `evaluate` measures on.
        max_query_length (`int`, *optional*, defaults to 64): Most tokens of a query, prompt included.
        max_passage_length (`int`, *optional*): Most tokens of a passage; by default the encoder's `max_length`.
        **kwargs: As for [`PlanTrainer`]: `cache_dir`, `started_at`, `callbacks` and those of
            [`~transformers.Trainer`].

    `gradient_accumulation_steps=G` averages the gradients of G successive batches of the plan before a step.
    """

    model: HybridEncoder
    args: HybridTrainingArguments

    def __init__(
        self,
        model: HybridEncoder,
        args: HybridTrainingArguments,
        train_dataset: ParallelCorpus | None = None,
        eval_dataset: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
        *,
        max_query_length: int = 64,
        max_passage_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        longest = model.max_length
        self.max_lengths = (min(max_query_length, longest), min(max_passage_length or longest, longest))
        self._mean_cosine: torch.Tensor | None = None  # of the passages of the last batch
        super().__init__(model, args, train_dataset, eval_dataset, **kwargs)
        if args.seen_embeddings_only and (self.backward.is_sharded or self.optimizer is not None):
            raise ValueError(
                "seen_embeddings_only=True is for one device or DDP, since FSDP and DeepSpeed shard the table, and "
                "not for your own optimizer: set optim."
            )

    @cached_property
    def schedule(self) -> HybridSchedule:
        """The plan: `max_steps * gradient_accumulation_steps` batches."""
        args = self.args
        hard_negatives(self.train_dataset, args.num_negatives)  # refuse missing ones before the first evaluation
        return HybridSchedule(
            self.train_dataset,
            args.mix,
            global_batch_size=args.global_batch_size,
            num_steps=args.max_steps * args.gradient_accumulation_steps,
            seed=self._plan_seed,
            smoothing=args.smoothing,
            language_pairs=args.language_pairs,
            exclude=args.exclude,
            max_positives=args.max_positives,
        )

    def make_collator(self) -> HybridCollator:
        """Return what makes this rank's inputs of a batch."""
        rank, world_size = distributed.rank(), distributed.world_size()
        return HybridCollator(self.schedule, self.token_cache, self.args.num_negatives, rank, world_size)

    def make_token_cache(self, encoder: HybridEncoder) -> TokenCache:
        """Return the token ids of queries and passages with their prompts."""
        return TokenCache(
            self.train_dataset,
            encoder.tokenizer,
            query_prompt=encoder.prompts["query"],
            passage_prompt=encoder.prompts["passage"],
            max_query_length=self.max_lengths[0],
            max_passage_length=self.max_lengths[1],
            cache_dir=self.token_cache_dir,
        )

    def compute_loss(  # type: ignore[override]
        self,
        model: Callable[..., torch.Tensor],
        inputs: HybridInputs,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the contrastive loss of this rank's shard; its mean over ranks is the loss of the global batch.

        Args:
            model (`Callable`): Returns the embeddings of `inputs["tokens"]`: the encoder, or a cache of embeddings.
            inputs (`HybridInputs`): This rank's shard.
            return_outputs (`bool`, *optional*, defaults to `False`): Also return the embeddings.
            num_items_in_batch (`int`, *optional*): Not used.
        """
        targets = inputs["targets"]
        num_queries = targets["query_counts"][targets["rank"]]
        num_passages = targets["passage_counts"][targets["rank"]]
        embeddings = model(**inputs["tokens"])
        with torch.autocast(embeddings.device.type, enabled=False):
            queries, passages = embeddings.float()[: num_queries + num_passages].split([num_queries, num_passages])
            loss = contrastive_loss(queries, passages, targets, self.args.temperature, self.args.symmetric)
            self._mean_cosine = mean_cosine(passages.detach())
            if not num_queries:
                loss = loss + 0.0 * embeddings.sum()  # a rank without items still takes part in the backward pass
        return (loss, embeddings) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log values; a line with a loss also gets `mean_cosine`, which shows whether embeddings collapse."""
        if "loss" in logs and self._mean_cosine is not None:
            logs["mean_cosine"] = float(self._mean_cosine)
        super().log(logs, *args, **kwargs)

    def count_sent_embedding_bytes(self, inputs: HybridInputs) -> int:
        """Count the bytes of embeddings and their gradients that this rank sends for a batch, in float32."""
        targets, row_bytes = inputs["targets"], 4 * self.encoder.embedding_size
        gathered = [targets["passage_counts"], *([targets["query_counts"]] if self.args.symmetric else [])]
        return sum(count_gathered_bytes(counts, row_bytes) for counts in gathered)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or resume; see [`PlanTrainer.train`]. `seen_embeddings_only` trains only the rows of seen tokens."""
        if not self.args.seen_embeddings_only:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        self.identity()  # of the model before training
        encoder = self.encoder
        seen_embeddings.train_seen_rows(encoder.backbone, self._find_seen_tokens(encoder))
        self.optimizer = self.lr_scheduler = None  # those of an earlier call have other parameters
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            seen_embeddings.train_all_rows(encoder.backbone)
            self.model_wrapped = self.model

    def _find_seen_tokens(self, encoder: HybridEncoder) -> np.ndarray:
        seen = np.unique(np.append(self.token_cache.find_seen_tokens(), encoder.tokenizer.pad_token_id or 0))
        logger.info("%d of %d rows of the token embeddings are trained", len(seen), encoder.config.vocab_size)
        return seen

    def identity(self) -> dict[str, Any]:
        """Return corpus, mix, seed, model and all other settings that decide what is trained, whatever the devices."""
        query, passage = self.max_lengths
        lengths = {"max_query_length": query, "max_passage_length": passage}
        return run_identity(self.args, self.schedule, self._model_name, **lengths)

    def describe_step(self, step: int) -> dict[str, Any]:
        """Return item ids, and texts by language, side and row of the corpus, of the batches of an optimizer step."""
        count = self.args.gradient_accumulation_steps
        batches = [describe_batch(self.schedule, number) for number in range((step - 1) * count, step * count)]
        return {"corpus": self.schedule.corpus.fingerprint, "batches": batches}
