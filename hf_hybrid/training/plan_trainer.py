"""A `transformers.Trainer` that follows a plan, resumes exactly, and keeps records of its run.

The data loader yields the batches of the plan, each as this rank's shard of the global batch, so Accelerate has
nothing to shard and a resumed run skips numbers, not data. `PlanTrainer` owns what every run has: the plan,
`ChunkedBackward`, `RunCheckpoints`, `FiniteGuard`, `ResourceLogCallback` and `HubPushCallback`. `HybridTrainer` and
`MlmTrainer` add their batches and their loss.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import TorchDynamoPlugin
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from hf_hybrid.data.batches.collator import StepDataset
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.hub.model_card import write_card
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.fingerprint import model_name
from hf_hybrid.models.flops import flops_terms
from hf_hybrid.records.events import event
from hf_hybrid.records.resources import training_flops
from hf_hybrid.records.schema import MANIFEST_NAME, MODEL_NAME, Scores
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.utils import distributed

from . import checkpoints, communication
from .arguments import CACHE_DIR, RunArguments
from .chunking import ChunkedBackward, Chunking
from .finite_guard import FiniteGuard, HealthCheck, mark_not_finite
from .hub_push import HubPushCallback
from .interruption import Heartbeat, Interrupted, StopOnSignal, alone_in
from .resource_log import ResourceLogCallback, StepRecord
from .resume import RunCheckpoints

if TYPE_CHECKING:
    from hf_hybrid.data.batches.token_cache import TokenCache
    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.evaluation.evaluate import Details

_REFUSED = {  # arguments of `Trainer`
    "data_collator": "batches come from the plan",
    "compute_metrics": "evaluation measures rankings; add a callback with on_evaluate for more",
    "preprocess_logits_for_metrics": "there are no logits",
    "compute_loss_func": "override compute_loss",
    "processing_class": "the encoder brings its tokenizer",
}


class PlanTrainer(Trainer, ABC):
    """Base class of the trainers: runs the steps of a plan. A subclass says what a batch is and what its loss is.

    Args:
        model (`HybridEncoder`): The encoder.
        args (`RunArguments`): The arguments.
        train_dataset (`ParallelCorpus`): The training corpus.
        eval_dataset (`ParallelCorpus` or `dict[str, ParallelCorpus]`, *optional*): What `evaluate` measures on.
        cache_dir (`str` or `Path`, *optional*): Where token ids are cached.
        started_at (`float`, *optional*): `time.perf_counter()` when set-up began, for the resource log.
        callbacks (`list[TrainerCallback]`, *optional*): Further callbacks.
        **kwargs: As for [`~transformers.Trainer`].

    Raises:
        ValueError: On an argument of `Trainer` that would have no effect.
    """

    model: HybridEncoder
    args: RunArguments
    train_dataset: Any  # a ParallelCorpus
    eval_dataset: Any  # one, or several by name

    def __init__(
        self,
        model: HybridEncoder,
        args: RunArguments,
        train_dataset: ParallelCorpus | None = None,
        eval_dataset: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
        *,
        cache_dir: str | os.PathLike[str] = CACHE_DIR,
        started_at: float | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, reason in _REFUSED.items():
            if kwargs.get(name) is not None:
                raise ValueError(f"{type(self).__name__} does not take {name}: {reason}.")
        self.token_cache_dir = Path(cache_dir) / "tokens"
        self.token_counts: dict[str, int] = {}
        self._data_waits_s: list[float] = []  # of the batches of the current step
        self._saved_step = -1
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=model.tokenizer,
            callbacks=callbacks,
            **kwargs,
        )
        self.chunking = Chunking(args.chunk_tokens)
        self.backward = ChunkedBackward(self.accelerator, self.chunking)
        self.checkpoints = RunCheckpoints(Path(args.output_dir), self.identity, self.accelerator)
        self.finite_guard = FiniteGuard(Path(args.output_dir), args.max_nonfinite_steps, self.describe_step)
        self.heartbeat, self.stop = Heartbeat(args.output_dir), StopOnSignal()
        self.resource_log = ResourceLogCallback(args.output_dir, args.energy, args.peak_flops, started_at)
        self.hub = HubPushCallback(args, self.stop, self._announce_push)
        own = (self.stop, self.heartbeat, HealthCheck(), _RestoreState(self), self.resource_log, self.hub)
        for callback in own:
            self.add_callback(callback)
        if self.backward.is_sharded:
            model.num_length_buckets = 1  # every call gathers sharded weights: ranks must make equally many calls
        if args.torch_compile:
            self._compile(model)

    def _compile(self, model: HybridEncoder) -> None:
        """Compile the backbone for any number of tokens, and nothing else: the rest depends on the batch."""
        if self.backward.is_sharded:
            raise ValueError("torch_compile=True is for one device or DDP: FSDP and DeepSpeed change the layers.")
        self.accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend="no")  # not the whole model
        options = {"backend": self.args.torch_compile_backend, "mode": self.args.torch_compile_mode}
        model.backbone.compile(dynamic=True, **options)

    # What a subclass defines

    @property
    @abstractmethod
    def schedule(self) -> Any:
        """The plan: `max_steps * gradient_accumulation_steps` batches."""

    @abstractmethod
    def make_collator(self) -> Any:
        """Return what makes this rank's inputs of a batch: `tokens`, `lengths` of all ranks and `facts`."""

    @abstractmethod
    def make_token_cache(self, encoder: HybridEncoder) -> TokenCache:
        """Return the token ids of the training corpus, not built yet."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a run to resume: names and values for JSON."""

    @abstractmethod
    def describe_step(self, step: int) -> dict[str, Any]:
        """Return what the batches of an optimizer step contain."""

    def count_sent_embedding_bytes(self, inputs: Any) -> int:
        """Count the bytes of embeddings and their gradients that this rank sends for a batch."""
        return 0

    # Data

    @property
    def encoder(self) -> HybridEncoder:
        """The model, without the wrappers of distributed training."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def _plan_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @cached_property
    def token_cache(self) -> TokenCache:
        """Token ids of the training corpus."""
        cache = self.make_token_cache(self.encoder)
        with self.args.main_process_first(desc="tokenizing"):
            self.token_counts = cache.build()
        return cache

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of all batches of the plan, in order: each rank takes its own shard of each batch."""
        return DataLoader(
            StepDataset(self.make_collator()),
            batch_sampler=BatchSampler(range(len(self.schedule)), batch_size=1, drop_last=False),
            collate_fn=operator.itemgetter(0),
            num_workers=self.args.dataloader_num_workers or 0,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, None]:
        """Take the batches of one optimizer step, and note how long the step waited for each."""
        inputs: list[Any] = []
        for _ in range(num_batches):
            start = time.perf_counter()
            inputs.extend(itertools.islice(epoch_iterator, 1))
            self._data_waits_s.append(time.perf_counter() - start)
        return inputs, None

    def _prepare_input(self, data: Any) -> Any:
        """Copy to the device without waiting: pinned memory is copied while the host continues."""
        return data.to(self.args.device, non_blocking=True) if torch.is_tensor(data) else super()._prepare_input(data)

    # One optimizer step

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Add the gradients of a batch, in chunks if needed, and record what it contained.

        Args:
            model (`nn.Module`): The wrapped encoder.
            inputs (`HybridInputs` or `MlmInputs`): This rank's shard of the batch.
            num_items_in_batch (`int`, *optional*): Not used.

        Returns:
            `torch.Tensor`: The loss of this rank's shard, without gradient.

        Raises:
            OutOfMemory: See `ChunkedBackward.run`.
        """
        model.train()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "train", None)):  # a schedule-free one
            optimizer.train()
        inputs, compute_loss = self._prepare_input(inputs), self.compute_loss
        num_batches, step = self.current_gradient_accumulation_steps, self.state.global_step

        def loss(embeddings_ND: torch.Tensor) -> torch.Tensor:
            return mark_not_finite(compute_loss(lambda **_: embeddings_ND, inputs))  # type: ignore[arg-type]

        value, chunks = self.backward.run(model, inputs, loss, num_batches, step + 1)
        self.record_batch(inputs, chunks)
        every = self.args.torch_empty_cache_steps
        if every is not None and step % every == 0:
            clear_device_cache()
        return value / num_batches

    def record_batch(self, inputs: Any, chunks: list[list[tuple[int, int]]]) -> None:
        """Tell the resource log what a batch contained and what this rank sent for its chunks."""
        facts = inputs["facts"]
        own = inputs["lengths"][distributed.rank()]
        with self.accelerator.autocast():
            padding = sum(self.encoder.count_padding(own[first:end]) for first, end in chunks[distributed.rank()])
        self.resource_log.record_step(
            StepRecord(
                batch_type=facts.batch_type,
                language_pair=facts.language_pair,
                pairs=facts.pairs,
                tokens_per_language=facts.tokens_per_language,
                sum_squared_lengths=facts.sum_squared_lengths,
                predicted_tokens=facts.predicted_tokens,
                padding_tokens=padding,
                data_wait_s=self._data_waits_s.pop(0) if self._data_waits_s else 0.0,
                embedding_bytes=self.count_sent_embedding_bytes(inputs),
                weight_bytes=self._count_sent_weight_bytes(num_chunks=max(map(len, chunks))),
            )
        )

    def _count_sent_weight_bytes(self, num_chunks: int) -> int:
        """Count, by formula, the bytes of weights and gradients that this rank sends for a batch."""
        if self.args.world_size == 1:
            return 0
        strategy, stage = self.get_distributed_strategy().values()
        weights = list(self.encoder.parameters())
        sizes = [getattr(weight, "ds_numel", weight.numel()) for weight in weights]  # ZeRO 3 leaves 0 elements
        is_halved = self.backward.is_sharded and (self.args.bf16 or self.args.fp16)
        width = 2 if is_halved else weights[0].element_size()
        mesh = self.accelerator.parallelism_config
        return communication.weight_bytes_sent(
            {"DEEPSPEED": f"zero{stage}", "FSDP": "fsdp2"}.get(strategy, "ddp"),
            width * sum(sizes),
            width * sum(size for size, weight in zip(sizes, weights, strict=True) if weight.requires_grad),
            self.args.world_size,
            chunks=num_chunks,
            last=self.accelerator.sync_gradients,
            replicas=mesh.dp_replicate_size if mesh is not None and self.is_fsdp_enabled else 1,
        )

    def get_distributed_strategy(self) -> dict[str, Any]:
        """Return how the processes share the work: `type` of accelerate, and the `stage` of FSDP or ZeRO."""
        state, stage = self.accelerator.state, None
        if self.is_deepspeed_enabled:
            stage = state.deepspeed_plugin.zero_stage
        elif self.is_fsdp_enabled:
            stage = state.fsdp_plugin.fsdp_version
        return {"type": state.distributed_type.value, "stage": stage}

    def floating_point_ops(self, inputs: Any) -> float:  # type: ignore[override]
        """Return this rank's share of the operations of a batch, by the formula of the resource log."""
        terms, facts = flops_terms(self.encoder), inputs["facts"]
        if terms is None:
            return 0.0
        flops = training_flops(terms, facts.tokens, facts.sum_squared_lengths, facts.predicted_tokens)
        return flops / distributed.world_size()

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self.args.include_num_input_tokens_seen != "no":
            self.state.num_input_tokens_seen += inputs["facts"].tokens

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        scaler = self.accelerator.scaler
        if scaler is None or scaler.get_scale() < 1:  # a scaler starts with scales that are too large
            optimizer: Any = self.optimizer
            skips = self.is_deepspeed_enabled or scaler is not None
            inner = getattr(optimizer, "optimizer", optimizer)
            self.finite_guard.check(self.state.global_step + 1, norm, model, inner, skips=skips)
        return norm

    # Training from start to end

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or resume from a checkpoint of the same run.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint, or `True` for the newest complete one
                of the run folder, if there is one.
            *args, **kwargs: As for [`~transformers.Trainer.train`].

        Raises:
            ValueError: When there is no such checkpoint, it is damaged, or its corpus, mix, seed, model, batch size or
                another setting that decides the result differs from this run.
            Interrupted: After a checkpoint, when the process was told to stop by SIGTERM or SIGINT.
            FloatingPointError: When loss or gradient was not finite in too many steps in a row.
        """
        self.identity()  # of the model before training
        # DDP would broadcast buffers in forward passes, where ranks that ran out of memory do not meet the others.
        buffers = [name for name, _ in self.encoder.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.encoder, buffers)
        self.hub.open()
        with alone_in(self.args.output_dir), self.stop:
            checkpoint = self.checkpoints.open(resume_from_checkpoint)
            result = super().train(checkpoint, *args, **kwargs)
            self.finite_guard.settle()
        if self.stop.stops or distributed.any_rank(self.stop.asked):  # also after the last step
            event("stop", step=self.state.global_step, reason="told to stop; start the same command again")
            raise Interrupted(told=True)
        return result

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        logged = self._globalstep_last_logged
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._globalstep_last_logged > logged:
            self._tr_loss.zero_()  # `Trainer` subtracts the sum from itself, and NaN stays NaN
        if self.stop.stops and self._saved_step != self.state.global_step:  # the strategy saved no checkpoint here
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """Keep `Trainer` from deleting the newest checkpoint for the best one: `rotate` has applied the limit."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    # Evaluation

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure retrieval in all settings. `metric_for_best_model` may be any measure: `"multilingual/nDCG@10"`.

        Args:
            eval_dataset (`ParallelCorpus` or `dict[str, ParallelCorpus]`, *optional*): By default the trainer's.
            ignore_keys (`list[str]`, *optional*): Not used: there are no model outputs to gather.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): As in `eval_multilingual/nDCG@10`.

        Returns:
            `dict[str, float]`: Measures by `prefix_setting/measure`.
        """
        corpora: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if corpora is None:
            raise ValueError("evaluate needs an eval_dataset: give one to the trainer or to this call.")
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
        """Measure the model on a corpus, in the precision of training, and return the scores of `eval.json`.

        Args:
            corpus (`ParallelCorpus`): The corpus.
            details (`Details`, *optional*): Receives the values of single queries.
        """
        model = self.encoder
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

    # Checkpoints: a model folder, as `_save` writes it, with the training state beside it

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save what `Trainer` saves, in its order, complete or not at all."""
        start, folder, step = time.perf_counter(), Path(self.args.output_dir), self.state.global_step
        path = folder / f"checkpoint-{step}"
        self.store_flos()
        self._set_best_checkpoint(path)
        has_logged = self._globalstep_last_logged == step  # then the sum is 0, or NaN until the end of this step
        loss_sums = distributed.from_all(0.0 if has_logged else float(self._tr_loss))
        model_only = self.args.save_only_model and not self.stop.stops  # a stopped run must be able to resume
        model_files: list[str] = []
        stages: list[Callable[[Path], Any]] = [partial(self._save_model_files, listed=model_files)]
        if not model_only:
            stages += [self._save_training_state, lambda folder: self._save_rng_state(str(folder))]
        stages += [partial(self._save_states, model_only=model_only, model_files=model_files, loss_sums=loss_sums)]
        checkpoints.write_folder(
            path, stages, self.args.should_save, checkpoints.estimate_bytes(self.model, model_only)
        )
        if self.args.should_save:
            checkpoints.rotate(folder, self.args.save_total_limit, [path, self.state.best_model_checkpoint])
        self._saved_step = step
        event("checkpoint", step=step, path=path, seconds=round(time.perf_counter() - start, 2))

    def _save_model_files(self, folder: Path, listed: list[str]) -> None:
        """Save the model and list its files: every later file is training state."""
        self.save_model(str(folder), _internal_call=True)
        paths = (path for path in folder.rglob("*") if path.is_file()) if self.args.should_save else ()
        listed.extend(sorted(path.relative_to(folder).as_posix() for path in paths))

    def _save_training_state(self, folder: Path) -> None:
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))

    def _save_rng_state(self, output_dir: str) -> None:
        """Save the random states of all ranks, also of machines that do not share this disk."""
        with tempfile.TemporaryDirectory() as own:
            super()._save_rng_state(own)
            files = {path.name: path.read_bytes() for path in Path(own).iterdir()}
        for of_rank in distributed.from_all(files):
            for name, content in of_rank.items() if self.args.should_save else ():
                Path(output_dir, name).write_bytes(content)

    def _save_states(self, folder: Path, **values: Any) -> None:
        if not self.args.should_save:
            return
        states: Any = self.state.stateful_callbacks
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states[type(callback).__name__] = callback.state()
        # Without the path of the best checkpoint, since folders move and are published: it follows from its step.
        dataclasses.replace(self.state, best_model_checkpoint=None).save_to_json(str(folder / "trainer_state.json"))
        self.checkpoints.write_state(
            folder, **values, last_logged_step=self._globalstep_last_logged, chunk_tokens=self.chunking.max_tokens
        )

    def _set_best_checkpoint(self, path: Path) -> None:
        if (best := self.state.best_global_step) is not None:
            best_path = path.with_name(f"checkpoint-{best}")
            if best_path == path or best_path.exists():
                self.state.best_model_checkpoint = str(best_path)

    def restore_state(self) -> None:
        """Restore the sums of the log, the best checkpoint and the chunk size from the checkpoint, if there is one."""
        path, saved = self.checkpoints.path, self.checkpoints.state
        if path is None or saved is None:
            return
        self._set_best_checkpoint(path)
        self._tr_loss = torch.tensor(self.checkpoints.own_loss_sum(), device=self.args.device)
        self._total_loss_scalar = -sum(saved["loss_sums"]) / len(saved["loss_sums"])  # `training_loss` is of this call
        self._globalstep_last_logged = saved["last_logged_step"]
        if self.args.chunk_tokens is None:
            self.chunking.max_tokens = saved["chunk_tokens"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.checkpoints.has_other_world_size:
            self.checkpoints.seed_new_rank(self.args.seed, self.state.global_step)
        else:
            super()._load_rng_state(checkpoint)

    # The model

    @cached_property
    def _model_name(self) -> str:
        return model_name(self.encoder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model to its own folder with a manifest, complete or not at all.

        It is not pushed, even with `push_to_hub`: the run is published at its checkpoints and its end.
        """
        path, run_folder = Path(output_dir or self.args.output_dir), Path(self.args.output_dir)
        is_shared = path.exists() and not (path / MANIFEST_NAME).exists()  # holds files of others
        is_shared &= path.resolve().parent != run_folder.resolve()  # a run folder lists which files are ours
        if _internal_call or distributed.from_first(is_shared):
            super().save_model(output_dir, _internal_call=True)
            return
        save = super().save_model
        checkpoints.write_folder(path, [lambda folder: save(str(folder), _internal_call=True)], self.args.should_save)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            self.encoder.save_pretrained(output_dir or self.args.output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.encoder.load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.backward.is_sharded:
            super()._load_best_model()
        else:
            self.encoder.load_weights(str(self.state.best_model_checkpoint))

    # The Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Do not contact the Hub when a trainer is created: it may be for a dry run. See `HubPushCallback.open`."""
        self.hub_model_id: Any = self.args.hub_model_id

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the model as it is now, with its card and the records of the run. Call it on all processes.

        Args:
            commit_message, blocking, token, revision: As for [`~transformers.Trainer.push_to_hub`]. Without waiting, a
                failure is only a warning.
            private (`bool`, *optional*): Of a new repository; by default `hub_private_repo`, else private.
            **kwargs: Refused: the card follows from the files of the run.

        Returns:
            `Pushed`, *optional*: On the first process, if it waited for the push.

        Raises:
            HubError: When the push fails.
            ValueError: When there is no `hub_model_id`.
        """
        if kwargs:
            raise ValueError(f"push_to_hub does not take {min(kwargs)}: the card follows from the files of the run.")
        _ = self.hub.repo_id  # refuses a missing one before the model is written
        self._announce_push()
        self.save_model(str(Path(self.args.output_dir) / MODEL_NAME))
        if distributed.rank() != 0:
            return None
        given: dict[str, Any] = {"token": token, "revision": revision, "private": private}
        given = {name: value for name, value in given.items() if value is not None}
        return self.hub.push_model({"commit_message": commit_message, **given}, blocking)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card of the run folder from its files."""
        if args or kwargs:
            raise ValueError("create_model_card takes no arguments: the card follows from the files of the run.")
        if self.is_world_process_zero():
            write_card(self.args.output_dir)

    def _announce_push(self) -> None:
        self.callback_handler.on_push_begin(self.args, self.state, self.control)

    def _finish_current_push(self) -> None:
        self.hub.wait()


class _RestoreState(TrainerCallback):
    """Restores the state of a checkpoint after `Trainer` has reset its sums, just before training begins."""

    def __init__(self, trainer: PlanTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._trainer.restore_state()
