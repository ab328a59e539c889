"""A `transformers.Trainer` that goes on exactly where a killed run stood, and keeps bad numbers from its weights."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import get_model_param_count

from hf_hybrid.records.events import event
from hf_hybrid.records.output_folder import differences
from hf_hybrid.records.schema import MANIFEST_NAME, STATE_NAME
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import delete_unfinished

from . import checkpoints
from .chunking import ChunkedTrainer
from .finite_guard import FiniteGuard, HealthCheck
from .interruption import Heartbeat, Interrupted, StopOnSignal, alone_in

if TYPE_CHECKING:
    from .arguments import HybridTrainingArguments

_BYTES_OF_A_WEIGHT, _BYTES_OF_ITS_MOMENTS = 4, 8  # in float32; AdamW keeps two moments


class ResumableTrainer(ChunkedTrainer):
    """Checkpoints that are whole or absent, of a run that can be told from others.

    A subclass says what its run is by `identity`, and what the batch of a step held by `describe_step`.
    """

    args: HybridTrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heartbeat, self._stop = Heartbeat(self.args.output_dir), StopOnSignal()
        folder = Path(self.args.output_dir)
        self._guard = FiniteGuard(folder, self.args.max_nonfinite_steps, self.describe_step)
        for callback in (self._stop, self.heartbeat, HealthCheck(), _Restore(self)):
            self.add_callback(callback)
        self._saved_step = -1
        self._model_files: list[str] = []  # of the checkpoint that is being written
        self._restored: dict[str, Any] | None = None  # the state of the checkpoint that this run goes on from
        self._resumed_from: str | None = None  # its place

    def identity(self) -> dict[str, Any]:
        """What must be the same where a run goes on: names and values that JSON can hold."""
        raise NotImplementedError

    def describe_step(self, step: int) -> dict[str, Any]:
        """What the batches of an optimizer step held."""
        raise NotImplementedError

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint of the same run.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint, or `True` for the newest whole one of
                the run folder, if there is one.
            *args, **kwargs: As for [`~transformers.Trainer.train`].

        Raises:
            ValueError: When there is no such checkpoint, it is damaged, or its corpus, mix, seed, model, batch size or
                another setting that decides the result is not that of this run.
            Interrupted: After a checkpoint, when the process was told to stop by SIGTERM or SIGINT.
            FloatingPointError: When loss or gradient was not finite in too many steps in a row.
        """
        with alone_in(self.args.output_dir), self._stop:
            checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
            self._restored, self._resumed_from = None, checkpoint
            if checkpoint is not None:
                self._restored = json.loads((Path(checkpoint) / STATE_NAME).read_text(encoding="utf-8"))
                event("resume", path=checkpoint, world_size=self.args.world_size)
            result = super().train(checkpoint, *args, **kwargs)
            self._guard.settle()
        if self._stop.stops or distributed.any_rank(self._stop.asked):  # after the last step too
            event("stop", step=self.state.global_step, reason="told to stop; start the same command again")
            raise Interrupted(told=True)
        return result

    def _checkpoint_to_resume(self, asked: str | bool | None) -> str | None:
        """Found and looked at by the first process, for all of them."""
        found: tuple[str | None, str | None] = (None, None)
        if distributed.rank() == 0:
            delete_unfinished(self.args.output_dir, older_than_s=0.0)
            try:
                found = (self._find_checkpoint(asked), None)
            except ValueError as error:
                found = (None, str(error))
        path, problem = distributed.from_first(found)
        if problem is not None:
            raise ValueError(problem)
        return path

    def _find_checkpoint(self, asked: str | bool | None) -> str | None:
        if isinstance(asked, str):
            path: Path | None = Path(asked)
            if not (Path(asked) / STATE_NAME).exists():
                raise ValueError(f"{asked} is no checkpoint of a hybrid run: it has no {STATE_NAME}.")
            if damage := checkpoints.find_damage(asked):
                raise ValueError(f"{asked} is damaged: {damage}. Take an earlier one, or leave the option out.")
        else:
            path = checkpoints.newest_whole(self.args.output_dir, _warn) if asked else None
        if path is None:
            return None
        state = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
        self.refuse_another_run(state["run"], str(path))
        self._refuse_another_layout(state, path)
        if state["model_only"]:
            raise ValueError(
                f"{path} holds a model alone (save_only_model): training cannot go on from it. Begin a new run with "
                "it as model_name_or_path, in another output_dir."
            )
        return str(path)

    def refuse_another_run(self, then: dict[str, Any], place: str) -> None:
        """Compare what a run was with what this one is.

        Raises:
            ValueError: Where they differ; it names both values of each setting.
        """
        now = json.loads(json.dumps(self.identity()))
        plans = then.get("plan"), now.get("plan")  # which follow from the others
        changed = differences({**then, "plan": None}, {**now, "plan": None})
        if changed or plans[0] != plans[1]:
            changed = changed or ["its plan differs, of another release perhaps"]
            raise ValueError(
                f"{place} belongs to another run: {'; '.join(changed)}. Choose another output_dir, or begin anew in "
                "this one with --overwrite."
            )

    def _layout(self) -> str:
        """How a checkpoint spreads the state of training over files."""
        if self.is_deepspeed_enabled:
            return f"DeepSpeed ZeRO-{self.accelerator.state.deepspeed_plugin.zero_stage}"
        return "FSDP" if self.is_fsdp_enabled else "one file"

    def _refuse_another_layout(self, state: dict[str, Any], path: Path) -> None:
        then, now = state["layout"], self._layout()
        if then != now:
            raise ValueError(
                f"{path} was written by {then}, and this run is set up for {now}. Launch it with the accelerate "
                "configuration of before, or begin anew with --overwrite."
            )
        world_size = state["world_size"]
        if self.is_deepspeed_enabled and world_size != self.args.world_size:
            raise ValueError(
                f"{path} holds the parts of {world_size} DeepSpeed processes, and these are {self.args.world_size}. "
                f"Launch with {world_size}; DDP and FSDP2 go on with any number."
            )

    # A checkpoint is a model folder, as `_save` writes it, with the trainer's state beside it.

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """What `Trainer` saves, in its order, written aside."""
        start, folder, step = time.perf_counter(), Path(self.args.output_dir), self.state.global_step
        path = folder / f"checkpoint-{step}"
        self.store_flos()
        self._settle_best(path)
        has_logged = self._globalstep_last_logged == step  # then the sum is 0, or NaN until this step's end
        loss_sums = distributed.from_all(0.0 if has_logged else float(self._tr_loss))
        model_only = self.args.save_only_model and not self._stop.stops  # who is told to stop must be able to go on
        stages = [self._save_model_files]
        if not model_only:
            stages += [self._save_training_state, lambda folder: self._save_rng_state(str(folder))]
        stages += [partial(self._save_states, loss_sums=loss_sums, model_only=model_only)]
        checkpoints.write_folder(path, stages, self.args.should_save, self._checkpoint_bytes(model_only))
        if self.args.should_save:
            if self.args.push_to_hub:
                self._push_from_checkpoint(str(path))
            checkpoints.rotate(folder, self.args.save_total_limit, [path, self.state.best_model_checkpoint])
        self._saved_step = step
        event("checkpoint", step=step, path=path, seconds=round(time.perf_counter() - start, 2))

    def _save_model_files(self, folder: Path) -> None:
        self.save_model(str(folder), _internal_call=True)
        paths = (path for path in folder.rglob("*") if path.is_file()) if self.args.should_save else ()
        self._model_files = sorted(path.relative_to(folder).as_posix() for path in paths)

    def _save_training_state(self, folder: Path) -> None:
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))

    def _save_rng_state(self, output_dir: str) -> None:
        """Those of all ranks, also of machines that do not share this disk."""
        with tempfile.TemporaryDirectory() as own:
            super()._save_rng_state(own)
            files = {path.name: path.read_bytes() for path in Path(own).iterdir()}
        for of_rank in distributed.from_all(files):
            for name, content in of_rank.items() if self.args.should_save else ():
                Path(output_dir, name).write_bytes(content)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model to a folder of its own, which is there whole or not at all, with a manifest.

        It is not pushed, whatever `push_to_hub` says: what is published is the run, at its checkpoints and its end.
        """
        path, run_folder = Path(output_dir or self.args.output_dir), Path(self.args.output_dir)
        shared = path.exists() and not (path / MANIFEST_NAME).exists()  # with files of others
        shared &= path.resolve().parent != run_folder.resolve()  # in a run folder they are told from ours
        if _internal_call or distributed.from_first(shared):
            super().save_model(output_dir, _internal_call=True)
            return
        save = super().save_model
        checkpoints.write_folder(path, [lambda folder: save(str(folder), _internal_call=True)], self.args.should_save)

    def _settle_best(self, path: Path) -> None:
        if (best := self.state.best_global_step) is not None:
            best_path = path.with_name(f"checkpoint-{best}")
            if best_path == path or best_path.exists():
                self.state.best_model_checkpoint = str(best_path)

    def _checkpoint_bytes(self, model_only: bool) -> int:
        """Roughly, of all processes; optimizers with less state need less."""
        weights = get_model_param_count(self.model)
        trained = 0 if model_only else get_model_param_count(self.model, trainable_only=True)
        return _BYTES_OF_A_WEIGHT * weights + _BYTES_OF_ITS_MOMENTS * trained

    def _save_states(self, folder: Path, loss_sums: list[float], model_only: bool) -> None:
        if not self.args.should_save:
            return
        states: Any = self.state.stateful_callbacks
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states[type(callback).__name__] = callback.state()
        # Not the place of the best checkpoint, for folders move and are published: it follows from the step.
        dataclasses.replace(self.state, best_model_checkpoint=None).save_to_json(str(folder / "trainer_state.json"))
        content = {
            "run": self.identity(),
            "layout": self._layout(),
            "world_size": self.args.world_size,
            "model_only": model_only,
            "model_files": self._model_files,  # the others are the state of training
            "loss_sums": loss_sums,  # of each rank, of the steps since the last line of the log
            "last_logged_step": self._globalstep_last_logged,
            "chunk_tokens": self.chunking.max_tokens,
        }
        (folder / STATE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """That of this rank; a rank that was not there then gets one that follows from seed, step and rank."""
        if checkpoint is not None and self._restored and self._restored["world_size"] != self.args.world_size:
            seeds = np.random.SeedSequence([self.args.seed, self.state.global_step, distributed.rank()])
            torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
            return
        super()._load_rng_state(checkpoint)

    def restore(self) -> None:
        """Go on with the mean of the next line of the log, the best checkpoint, and the chunks that fitted."""
        saved = self._restored
        if saved is None or self._resumed_from is None:
            return
        self._settle_best(Path(self._resumed_from))
        sums, rank = saved["loss_sums"], distributed.rank()
        own = sums[rank] if saved["world_size"] == self.args.world_size else float(np.mean(sums))
        self._tr_loss = torch.tensor(own, device=self.args.device)
        self._total_loss_scalar = -float(np.mean(sums))  # `training_loss` is of the steps of this call
        self._globalstep_last_logged = saved["last_logged_step"]
        if self.args.chunk_tokens is None:
            self.chunking.max_tokens = saved["chunk_tokens"]

    # Numbers that go wrong

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        scaler = self.accelerator.scaler
        if scaler is None or scaler.get_scale() < 1:  # a scaler tries too large scales at first
            optimizer: Any = self.optimizer
            self._guard.check(
                self.state.global_step + 1,
                norm,
                model,
                getattr(optimizer, "optimizer", optimizer),
                skips=self.is_deepspeed_enabled or scaler is not None,
            )
        return norm

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        logged = self._globalstep_last_logged
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._globalstep_last_logged > logged:
            self._tr_loss.zero_()  # `Trainer` subtracts the sum from itself, and NaN stays NaN
        if self._stop.stops and self._saved_step != self.state.global_step:  # it was no new best one
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer` would delete the newest checkpoint here, for the best one; `rotate` has seen to the limit."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit


def _warn(problem: str) -> None:
    event("warning", logging.WARNING, problem=problem)


class _Restore(TrainerCallback):
    """`Trainer` sets its sums to zero, and has read its state, just before training begins."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._trainer.restore()
