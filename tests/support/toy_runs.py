"""Short runs of a toy trainer, which is interfered with, and what is compared of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.records.schema import OUTPUTS_NAME
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.training.plan_trainer import PlanTrainer
from hf_hybrid.training.trainer import HybridTrainer
from tests.support.toys import toy_corpus, toy_encoder

SETTINGS: dict[str, Any] = {
    "max_steps": 10,
    "global_batch_size": 12,
    "learning_rate": 1e-3,
    "temperature": 0.1,
    "mix": "mono=1,cross=1,pool=1",
    "logging_steps": 3,
    "save_steps": 4,
    "save_total_limit": None,
    "energy": "none",
    "use_cpu": True,
    "cpu_threads": 1,  # tiny models gain nothing from more, and lose much where other work runs
    "disable_tqdm": True,
    "report_to": "none",
}
CORPUS: dict[str, Any] = {"num_items": 60}


class At(TrainerCallback):
    """Does something at an event (`on_step_begin`, `on_evaluate`, ...), the first time it happens at a step.

    The number of a step that begins or is under way is that of the steps done before it.
    """

    def __init__(self, event: str, step: int, action: Callable[..., object]) -> None:
        self.happened: bool = False

        def act(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step and not self.happened:
                self.happened = True
                action(state=state, **kwargs)

        setattr(self, event, act)


class Kill(BaseException):
    """Ends a run as a kill does: nothing in its way may catch it."""


def kill(**_: Any) -> None:
    raise Kill


class ToyTrainer(HybridTrainer):
    """Remembers the loss of each step of this call."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.step_losses = [*getattr(self, "step_losses", []), float(loss)]
        return loss


def toy_trainer(
    folder: Path,
    corpus: ParallelCorpus | None = None,
    *callbacks: TrainerCallback,
    model: HybridEncoder | None = None,
    eval_corpus: ParallelCorpus | None = None,
    dropout: float = 0.1,
    **options: Any,
) -> ToyTrainer:
    """A trainer of a one-layer encoder, the same at every call."""
    corpus = toy_corpus(**CORPUS) if corpus is None else corpus
    return ToyTrainer(
        model or toy_encoder(corpus, dropout=dropout),
        HybridTrainingArguments(str(folder), **{**SETTINGS, **options}),
        train_dataset=corpus,
        eval_dataset=eval_corpus,
        cache_dir=folder.parent / "cache",
        callbacks=list(callbacks),
    )


def run(folder: Path, corpus: ParallelCorpus | None = None, *callbacks: TrainerCallback, **options: Any) -> ToyTrainer:
    """Train to the end, from the newest checkpoint of the folder if there is one."""
    trainer = toy_trainer(folder, corpus, *callbacks, **options)
    trainer.train(resume_from_checkpoint=True)
    return trainer


def killed_after(step: int, folder: Path, run_folder: Path) -> Path:
    """What a kill after the checkpoint of a step would have left of a run."""
    shutil.copytree(run_folder / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    shutil.copyfile(run_folder / OUTPUTS_NAME, folder / OUTPUTS_NAME)
    return folder


def weights(trainer: PlanTrainer) -> dict[str, torch.Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same_weights(first: PlanTrainer, second: PlanTrainer) -> bool:
    """Bit for bit."""
    expected = weights(second)
    return all(torch.equal(weight, expected[name]) for name, weight in weights(first).items())


def told(trainer: PlanTrainer) -> list[dict[str, float]]:
    """The log, without what depends on the clock or is of one call alone."""
    return [
        {name: value for name, value in line.items() if "runtime" not in name}
        for line in trainer.state.log_history
        if "train_loss" not in line
    ]
