"""A `transformers.Trainer` whose batches follow a plan.

The data loader yields the steps of the plan, each as this rank's share of the global batch, so Accelerate has nothing
to shard and a resumed run skips numbers, not data.  A step is one forward pass through the wrapped model (queries and
passages packed together), then the loss over the embeddings of all ranks, then one backward pass; or, where that does
not fit, the same in chunks (see `gradcache.py`).
"""

from __future__ import annotations

import itertools
import logging
import operator
import os
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import TorchDynamoPlugin
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerCallback

from hf_hybrid.data.batches.collator import HybridCollator, HybridInputs, StepDataset, hard_negatives
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.models import seen_embeddings
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.fingerprint import model_name
from hf_hybrid.records.schema import Scores
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.utils import distributed

from . import communication, gather
from .arguments import CACHE_DIR, HybridTrainingArguments
from .chunking import Chunking
from .hub_push import PushingTrainer
from .identity import describe_batch, run_identity
from .losses import contrastive_loss, mean_cosine
from .resource_log import ResourceLogCallback, StepRecord, encoder_flops, encoder_shape

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.evaluation.evaluate import Details


logger = logging.getLogger(__name__)


class HybridTrainer(PushingTrainer):
    """Trains a [`HybridEncoder`] on a [`ParallelCorpus`] by the plan of a [`HybridSchedule`].

    Args:
        model (`HybridEncoder`): The encoder.
        args (`HybridTrainingArguments`): The arguments.
        train_dataset (`ParallelCorpus`): What to train on.
        eval_dataset (`ParallelCorpus` or `dict[str, ParallelCorpus]`, *optional*): What `evaluate` measures on.
        max_query_length (`int`, *optional*, defaults to 64): Most tokens of a query, prompt included.
        max_passage_length (`int`, *optional*): Most tokens of a passage; by default the encoder's `max_length`.
        cache_dir (`str` or `Path`, *optional*): Where token ids are kept.
        started_at (`float`, *optional*): `time.perf_counter()` when set-up began, for the resource log.
        callbacks (`list[TrainerCallback]`, *optional*): Beside the resource log.
        **kwargs: As for [`~transformers.Trainer`].

    `gradient_accumulation_steps=G` averages the gradients of G successive batches of the plan before a step.
    """

    model: HybridEncoder
    args: HybridTrainingArguments
    train_dataset: Any  # a ParallelCorpus
    eval_dataset: Any  # one, or several by name

    def __init__(
        self,
        model: HybridEncoder,
        args: HybridTrainingArguments,
        train_dataset: ParallelCorpus | None = None,
        eval_dataset: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
        *,
        max_query_length: int = 64,
        max_passage_length: int | None = None,
        cache_dir: str | os.PathLike[str] = CACHE_DIR,
        started_at: float | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        longest = model.max_length
        self.max_lengths = (min(max_query_length, longest), min(max_passage_length or longest, longest))
        self.token_cache_dir = Path(cache_dir) / "tokens"
        self.token_counts: dict[str, int] = {}
        self._data_wait_s: list[float] = []
        self._mean_cosine: torch.Tensor | None = None
        _refuse_unused(kwargs)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=model.tokenizer,
            callbacks=callbacks,
            **kwargs,
        )
        self.resource_log = ResourceLogCallback(args.output_dir, args.energy, args.peak_flops, started_at)
        self.add_callback(self.resource_log)
        self.chunking = Chunking(args.chunk_tokens)
        if self._is_sharded:
            model.num_length_buckets = 1  # sharded weights are gathered in each call: ranks must make equally many
        if args.torch_compile:
            self._compile(model)
        if args.seen_embeddings_only and (self._is_sharded or self.optimizer is not None):
            raise ValueError(
                "seen_embeddings_only=True is for one device or DDP, since FSDP and DeepSpeed spread the table, and "
                "not for an optimizer of your own: set optim."
            )

    def _compile(self, model: HybridEncoder) -> None:
        """Compile the backbone for any number of tokens, and nothing else: the rest depends on the batch."""
        if self._is_sharded:
            raise ValueError("torch_compile=True is for one device or DDP: FSDP and DeepSpeed change the layers.")
        self.accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend="no")  # not the model as a whole
        options = {"backend": self.args.torch_compile_backend, "mode": self.args.torch_compile_mode}
        model.backbone.compile(dynamic=True, **options)

    @cached_property
    def schedule(self) -> HybridSchedule:
        """The plan: `max_steps * gradient_accumulation_steps` batches."""
        args = self.args
        hard_negatives(self.train_dataset, args.num_negatives)  # refused now, not after the first evaluation
        return HybridSchedule(
            self.train_dataset,
            args.mix,
            global_batch_size=args.global_batch_size,
            num_steps=args.max_steps * args.gradient_accumulation_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            smoothing=args.smoothing,
            language_pairs=args.language_pairs,
            exclude=args.exclude,
            max_positives=args.max_positives,
        )

    def get_train_dataloader(self) -> DataLoader:
        """The steps of the plan in order, one `HybridInputs` each; not sharded: each rank takes its own share."""
        return DataLoader(
            StepDataset(self.make_collator()),
            batch_sampler=BatchSampler(range(len(self.schedule)), batch_size=1, drop_last=False),
            collate_fn=operator.itemgetter(0),
            num_workers=self.args.dataloader_num_workers or 0,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def make_collator(self) -> Any:
        """What makes the inputs of a step, for this rank."""
        return HybridCollator(
            self.schedule, self._token_cache, self.args.num_negatives, distributed.rank(), distributed.world_size()
        )

    @cached_property
    def _token_cache(self) -> TokenCache:
        model = self.accelerator.unwrap_model(self.model)
        cache = TokenCache(
            self.train_dataset,
            model.tokenizer,
            query_prompt=model.prompts["query"],
            passage_prompt=model.prompts["passage"],
            max_query_length=self.max_lengths[0],
            max_passage_length=self.max_lengths[1],
            cache_dir=self.token_cache_dir,
        )
        with self.args.main_process_first(desc="tokenizing"):
            self.token_counts = cache.build()
        return cache

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, None]:
        """The batches of one optimizer step; how long they were waited for goes to the resource log."""
        inputs: list[HybridInputs] = []
        for _ in range(num_batches):
            start = time.perf_counter()
            inputs.extend(itertools.islice(epoch_iterator, 1))
            self._data_wait_s.append(time.perf_counter() - start)
        return inputs, None

    # Batches, data sets and counts are of our own kinds, hence the remarks to the type checker.

    def compute_loss(  # type: ignore[override]
        self,
        model: Callable[..., torch.Tensor],
        inputs: HybridInputs,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The contrastive loss of this rank's share; its mean over ranks is the loss of the global batch.

        Args:
            model (`Callable`): Gives embeddings of `inputs["tokens"]`: the encoder, or what has embedded them before.
            inputs (`HybridInputs`): This rank's share.
            return_outputs (`bool`, *optional*, defaults to `False`): Return the embeddings too.
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
        """A line of the log; with the loss goes how near each other the passages of the last batch lie."""
        if "loss" in logs and self._mean_cosine is not None:
            logs["mean_cosine"] = float(self._mean_cosine)
        super().log(logs, *args, **kwargs)

    def record_batch(self, inputs: HybridInputs) -> None:
        """Tell the resource log what a batch held."""
        facts, encoder = inputs["facts"], self.accelerator.unwrap_model(self.model)
        padding_tokens, encoder.padding_tokens = encoder.padding_tokens, 0
        self.resource_log.record_step(
            StepRecord(
                batch_type=facts.batch_type,
                language_pair=facts.language_pair,
                pairs=facts.pairs,
                tokens_per_language=facts.tokens_per_language,
                sum_squared_lengths=facts.sum_squared_lengths,
                predicted_tokens=facts.predicted_tokens,
                padding_tokens=padding_tokens,
                data_wait_s=self._data_wait_s.pop(0) if self._data_wait_s else 0.0,
                embedding_bytes=gather.take_embedding_bytes(),
                weight_bytes=self._weight_bytes_sent(inputs),
            )
        )

    def _weight_bytes_sent(self, inputs: HybridInputs) -> int:
        """What this rank sends of weights and gradients for a batch, by formula."""
        if self.args.world_size == 1:
            return 0
        kind, stage = self.distributed_strategy().values()
        weights = list(self.accelerator.unwrap_model(self.model).parameters())
        sizes = [getattr(weight, "ds_numel", weight.numel()) for weight in weights]  # ZeRO 3 leaves 0 elements
        halved = self._is_sharded and (self.args.bf16 or self.args.fp16)
        width = 2 if halved else weights[0].element_size()
        mesh = self.accelerator.parallelism_config
        return communication.weight_bytes_sent(
            {"DEEPSPEED": f"zero{stage}", "FSDP": "fsdp2"}.get(kind, "ddp"),
            width * sum(sizes),
            width * sum(size for size, weight in zip(sizes, weights, strict=True) if weight.requires_grad),
            self.args.world_size,
            chunks=max(map(len, self.chunking.bounds(inputs["lengths"]))),
            last=self.accelerator.sync_gradients,
            replicas=mesh.dp_replicate_size if mesh is not None and self.is_fsdp_enabled else 1,
        )

    def floating_point_ops(self, inputs: HybridInputs) -> float:  # type: ignore[override]
        """This rank's part of the operations of a batch, by the formula of the resource log."""
        shape, facts = encoder_shape(self.accelerator.unwrap_model(self.model)), inputs["facts"]
        if shape is None:
            return 0.0
        return encoder_flops(*shape, facts.tokens, facts.sum_squared_lengths) / distributed.world_size()

    def _track_num_input_tokens(self, inputs: HybridInputs) -> None:
        if self.args.include_num_input_tokens_seen != "no":
            self.state.num_input_tokens_seen += inputs["facts"].tokens

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure retrieval in all settings; `metric_for_best_model` may be any, such as `"multilingual/nDCG@10"`.

        Args:
            eval_dataset (`ParallelCorpus` or `dict[str, ParallelCorpus]`, *optional*): By default the trainer's.
            ignore_keys (`list[str]`, *optional*): Not used; there are no model outputs to gather.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): As in `eval_multilingual/nDCG@10`.

        Returns:
            `dict[str, float]`: Measures by `prefix_setting/measure`.
        """
        corpora: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if corpora is None:
            raise ValueError("evaluate: no eval_dataset was given, to the trainer or to this call.")
        start, metrics = time.perf_counter(), {}
        named = corpora if isinstance(corpora, dict) else {"": corpora}
        for name, corpus in named.items():
            prefix = f"{metric_key_prefix}_{name}" if name else metric_key_prefix
            found = flatten_scores(self.score(corpus))
            metrics.update({f"{prefix}_{measure}": value for measure, value in found.items()})
        metrics[f"{metric_key_prefix}_runtime"] = time.perf_counter() - start
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score(self, corpus: ParallelCorpus, details: Details | None = None) -> Scores:
        """All measures of the model on a corpus, as `eval.json` has them, in the precision of training.

        Args:
            corpus (`ParallelCorpus`): What to measure on.
            details (`Details`, *optional*): Is given what each query gave.
        """
        model = self.accelerator.unwrap_model(self.model)
        if not self.is_in_train:
            model.to(self.args.device)
        with self.accelerator.autocast():
            return evaluate_retrieval(
                model,
                corpus,
                batch_tokens=self.args.eval_batch_tokens,
                max_queries=self.args.max_eval_queries,
                details=details,
                show_progress=self.is_world_process_zero() and not self.args.disable_tqdm,
            )

    def distributed_strategy(self) -> dict[str, Any]:
        """How the processes share the work, as accelerate set it up: `type`, and the `stage` of FSDP or ZeRO."""
        state, stage = self.accelerator.state, None
        if self.is_deepspeed_enabled:
            stage = state.deepspeed_plugin.zero_stage
        elif self.is_fsdp_enabled:
            stage = state.fsdp_plugin.fsdp_version
        return {"type": state.distributed_type.value, "stage": stage}

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """See [`PushingTrainer.train`]."""
        encoder = self.accelerator.unwrap_model(self.model)
        self.identity()  # of the model as it is before training
        if self.args.seen_embeddings_only:
            seen_embeddings.train_seen_rows(encoder.backbone, self._seen_tokens(encoder))
            self.optimizer = self.lr_scheduler = None  # of an earlier call: of other parameters
        # DDP would send constants in forward passes, where ranks that ran out of memory do not meet the others.
        constants = [name for name, _ in encoder.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(encoder, constants)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self.args.seen_embeddings_only:
                seen_embeddings.train_all_rows(encoder.backbone)
                self.model_wrapped = self.model

    def _seen_tokens(self, encoder: HybridEncoder) -> np.ndarray:
        tokens = np.append(self._token_cache.seen_tokens(), encoder.tokenizer.pad_token_id or 0)
        seen = np.unique(tokens)
        logger.info("%d of %d rows of the token embeddings are trained", len(seen), encoder.config.vocab_size)
        return seen

    def identity(self) -> dict[str, Any]:
        """Corpus, mix, seed, model and all else that decides what is trained; not how many devices do it."""
        return run_identity(self.args, self.schedule, self._model_name, self.max_lengths)

    @cached_property
    def _model_name(self) -> str:
        return model_name(self.accelerator.unwrap_model(self.model))

    def describe_step(self, step: int) -> dict[str, Any]:
        """Item ids, and texts by language, side and row of the corpus, of the batches of an optimizer step."""
        count = self.args.gradient_accumulation_steps
        batches = [describe_batch(self.schedule, number) for number in range((step - 1) * count, step * count)]
        return {"corpus": self.schedule.corpus.fingerprint, "batches": batches}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(output_dir or self.args.output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.accelerator.unwrap_model(self.model).load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self._is_sharded:
            super()._load_best_model()
        else:
            self.accelerator.unwrap_model(self.model).load_weights(self.state.best_model_checkpoint)


def _refuse_unused(kwargs: dict[str, Any]) -> None:
    """Arguments of `Trainer` that a plan and an evaluation of rankings leave nothing to do for."""
    reasons = {
        "data_collator": "batches come from the plan",
        "compute_metrics": "evaluation measures rankings; add a callback with on_evaluate for more",
        "preprocess_logits_for_metrics": "there are no logits",
        "compute_loss_func": "override compute_loss",
        "processing_class": "the encoder brings its tokenizer",
    }
    for name, reason in reasons.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"HybridTrainer does not take {name}: {reason}.")
