"""Numbers that are not finite: kept from the weights, written down, and the end of a run where they do not stop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.finite_guard import FiniteGuard, HealthCheck, mark_not_finite
from tests.support.toy_runs import (
    CORPUS,
    At,
    Kill,
    ToyTrainer,
    kill,
    killed_after,
    run,
    same_weights,
    told,
    toy_trainer,
    weights,
)
from tests.support.toys import toy_corpus

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT: dict[str, Any] = {"max_steps": 5, "save_strategy": "no", "logging_steps": 1}


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return toy_corpus(**CORPUS)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the guard tells, in order."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "hf_hybrid.training.finite_guard.event", lambda name, level, **facts: found.append({"event": name, **facts})
    )
    return found


def spoil(
    trainer: ToyTrainer, steps: list[int], change: Callable[[torch.Tensor], torch.Tensor], last: bool = True
) -> None:
    """Change the loss of the batches of some steps, or of the last batch of each."""
    real, number = trainer.compute_loss, trainer.args.gradient_accumulation_steps
    seen: list[int] = []

    def compute_loss(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(trainer.state.global_step + 1)
        loss = real(*args, **kwargs)
        at = seen.count(seen[-1]) == (number if last else 1)
        return change(loss) if seen[-1] in steps and at else loss

    trainer.compute_loss = compute_loss  # type: ignore[method-assign]


class _FiniteWithInfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] * math.inf


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda loss: loss * math.nan,
    "infinite": lambda loss: loss + math.inf,  # its gradient alone would be finite
    "infinite gradient": _FiniteWithInfiniteGradient.apply,
}


def state_of(trainer: ToyTrainer) -> list[torch.Tensor]:
    """All that an optimizer keeps: moments and counts of steps."""
    optimizer: Any = trainer.optimizer
    states = optimizer.state_dict()["state"]
    return [
        torch.as_tensor(value)
        for number in sorted(states)
        for _, value in sorted(states[number].items())
        if value is not None
    ]


def left_out(folder: Path, corpus: ParallelCorpus, **options: Any) -> ToyTrainer:
    """The same run, in which the third step does not reach the optimizer."""
    trainer = toy_trainer(folder, corpus, At("on_train_begin", 0, lambda **_: _leave_out_step_3(trainer)), **options)
    trainer.train()
    return trainer


def _leave_out_step_3(trainer: ToyTrainer) -> None:
    optimizer: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    real = optimizer.step
    optimizer.step = lambda *args: None if trainer.state.global_step == 2 else real(*args)


class TestSteps:
    @pytest.mark.slow
    @pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "adafactor", "sgd"])
    def test_weights_and_optimizer_are_those_of_a_run_without_the_step(
        self, optim: str, corpus: ParallelCorpus, tmp_path: Path, warned: list
    ) -> None:
        options = {**SHORT, "optim": optim}
        reference = left_out(tmp_path / "reference", corpus, **options)
        for kind in CHANGES if optim == "adamw_torch_fused" else ["NaN"]:
            trainer = toy_trainer(tmp_path / kind, corpus, **options)
            spoil(trainer, [3], CHANGES[kind])
            trainer.train()
            assert same_weights(trainer, reference), kind
            found, expected = state_of(trainer), state_of(reference)
            assert len(found) == len(expected) > (0 if optim != "sgd" else -1)
            assert all(map(torch.equal, found, expected)), kind
            files = [path.name for path in (tmp_path / kind / "not_finite").iterdir()]
            assert files == ["step-0000003.json"], kind
            logged = [line["loss"] for line in told(trainer)]
            assert logged[3:] == [line["loss"] for line in told(reference)][3:], "the log recovers"
            assert math.isfinite(logged[2]) == (kind == "infinite gradient")
        assert [fact["step"] for fact in warned] == [3] * (3 if optim == "adamw_torch_fused" else 1)
        assert not same_weights(reference, run(tmp_path / "whole", corpus, **options)), "the step would have counted"

    @pytest.mark.slow
    @pytest.mark.parametrize("last", [True, False])
    def test_one_batch_of_several_spoils_the_step(self, last: bool, corpus: ParallelCorpus, tmp_path: Path) -> None:
        options = {**SHORT, "gradient_accumulation_steps": 2, "chunk_tokens": 60}
        trainer = toy_trainer(tmp_path / "run", corpus, **options)
        spoil(trainer, [3], CHANGES["NaN"], last=last)
        trainer.train()
        assert same_weights(trainer, left_out(tmp_path / "reference", corpus, **options))

    def test_without_clipping_too(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        options = {**SHORT, "max_grad_norm": 0.0}
        trainer = toy_trainer(tmp_path / "run", corpus, **options)
        spoil(trainer, [3], CHANGES["NaN"])
        trainer.train()
        assert same_weights(trainer, left_out(tmp_path / "reference", corpus, **options))

    def test_a_line_with_nan_beside_a_checkpoint(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        """The sum of losses that a checkpoint keeps is none of a line that was written."""
        options = {**SHORT, "save_strategy": "steps", "save_steps": 2, "logging_steps": 2, "max_steps": 6}
        whole = toy_trainer(tmp_path / "whole", corpus, **options)
        spoil(whole, [4], CHANGES["NaN"])
        whole.train()
        assert [math.isfinite(line["loss"]) for line in told(whole)] == [True, False, True]
        found = run(killed_after(4, tmp_path / "run", tmp_path / "whole"), corpus, **options)
        assert told(found)[2] == told(whole)[2]
        assert same_weights(found, whole)
        assert [line["loss"] for line in RunFolder(tmp_path / "whole").read_resource_lines()[0]][1] is None


class TestReports:
    def test_the_file_names_the_batch(self, corpus: ParallelCorpus, tmp_path: Path, warned: list) -> None:
        """Its rows are those of the corpus whose texts the trainer was given."""
        trainer = toy_trainer(tmp_path / "run", corpus, **SHORT, gradient_accumulation_steps=2)
        seen: dict[int, list[list[str]]] = {}
        spoil(trainer, [3], CHANGES["NaN"])
        spoiled = trainer.compute_loss

        def watch(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step == 2:
                seen.setdefault(3, []).append(_texts(inputs, trainer))
            return spoiled(model, inputs, *args, **kwargs)

        trainer.compute_loss = watch  # type: ignore[method-assign]
        trainer.train()
        (fact,) = warned
        content = json.loads(Path(fact["file"]).read_text(encoding="utf-8"))
        assert (content["step"], content["gradient_norm"], content["corpus"]) == (3, "nan", corpus.fingerprint)
        assert len(content["batches"]) == 2
        for number, batch in enumerate(content["batches"]):
            plan = trainer.schedule.batch(4 + number)
            assert (batch["batch_type"], batch["language_pair"]) == (plan.batch_type, plan.language_pair.name)
            assert batch["item_ids"] == list(plan.item_ids)
            assert set(batch["item_ids"]) <= set(corpus.item_ids.take(range(len(corpus))))
            texts = [
                corpus.text(("queries", "passages").index(part["side"]), part["language"], row)
                for part in batch["texts"]
                for row in part["rows"]
            ]
            assert sorted(_words(text) for text in texts) == sorted(_words(text) for text in seen[3][number])

    def test_after_so_many_in_a_row_the_run_ends(self, corpus: ParallelCorpus, tmp_path: Path, warned: list) -> None:
        """A good step resets the count; the weights stay those of the last good step."""
        options = {**SHORT, "max_nonfinite_steps": 2, "max_steps": 8}
        trainer = toy_trainer(tmp_path / "run", corpus, **options)
        spoil(trainer, [1, 3, 5, 6], CHANGES["NaN"])
        with pytest.raises(FloatingPointError, match=r"2 steps in a row, up to step 6 \(.*step-0000006\.json"):
            trainer.train()
        assert [(fact["step"], fact["in_a_row"]) for fact in warned] == [(1, 1), (3, 1), (5, 1), (6, 2)]
        names = sorted(path.name for path in (tmp_path / "run" / "not_finite").iterdir())
        assert names == [f"step-000000{step}.json" for step in (1, 3, 5, 6)]
        good = toy_trainer(tmp_path / "good", corpus, At("on_step_begin", 4, kill), **options)
        spoil(good, [1, 3], CHANGES["NaN"])
        with pytest.raises(Kill):
            good.train()
        assert same_weights(trainer, good)


def _texts(inputs: Any, trainer: ToyTrainer) -> list[str]:
    """The texts of a batch, from its tokens."""
    tokens, lengths = inputs["tokens"]["input_ids"].flatten(), inputs["lengths"][0].tolist()
    parts = tokens.split(lengths)
    return [str(trainer.model.tokenizer.decode(part, skip_special_tokens=True)) for part in parts]


def _words(text: str) -> str:
    return "".join(text.split())


class TestMark:
    @pytest.mark.parametrize(
        ("value", "finite"), [(2.0, True), (math.nan, False), (math.inf, False), (-math.inf, False)]
    )
    def test_the_gradient_is_nan_where_the_loss_is_not_finite(self, value: float, finite: bool) -> None:
        weight = torch.tensor(1.0, requires_grad=True)
        loss = mark_not_finite(weight + (value - 1.0))
        loss.backward()
        assert weight.grad is not None
        assert float(weight.grad) == 1.0 if finite else math.isnan(float(weight.grad))
        assert float(loss.detach()) == 2.0 or not finite


class TestHealth:
    @staticmethod
    def log(check: HealthCheck, **logs: float) -> None:
        state = TrainerState()
        state.global_step = 7
        check.on_log(None, state, TrainerControl(), logs=logs)

    def test_a_loss_that_does_not_change_is_told_once(self, warned: list) -> None:
        check = HealthCheck()
        for number in range(30):
            if number == 9:
                assert warned == []
            self.log(check, loss=2.0 if number else 2.5)
            self.log(check, eval_loss=1.0)
        assert [(fact["event"], fact["step"]) for fact in warned] == [("warning", 7)]
        assert warned[0]["problem"].startswith("the loss has been 2 in 10 lines of the log")

    def test_embeddings_that_collapse_are_told_once(self, warned: list) -> None:
        check = HealthCheck()
        for cosine in (0.5, 0.98, 0.995, 0.999):
            self.log(check, loss=cosine, mean_cosine=cosine)
        assert len(warned) == 1
        assert "cosine of 0.9950 on average: embeddings collapse" in warned[0]["problem"]

    def test_noise_and_nan_are_no_constant_loss(self, warned: list) -> None:
        check = HealthCheck()
        for number in range(40):
            self.log(check, loss=math.nan if number % 7 == 0 else 2.0 + 1e-4 * (number % 2))
        assert warned == []

    def test_a_healthy_run_warns_of_nothing_and_a_dead_one_of_both(
        self, corpus: ParallelCorpus, tmp_path: Path, warned: list
    ) -> None:
        options = {**SHORT, "max_steps": 12}
        run(tmp_path / "healthy", corpus, **options)
        assert warned == []
        trainer = toy_trainer(
            tmp_path / "dead",
            corpus,
            **{**options, "mix": "mono=1", "language_pairs": "en->en", "global_batch_size": 3},
            dropout=0.0,
        )
        real = trainer.model.forward
        trainer.model.forward = lambda *args, **kwargs: real(*args, **kwargs) * 0 + 32**-0.5  # type: ignore[method-assign]
        trainer.train()
        assert [fact["problem"].split()[0] for fact in warned] == ["two", "the"]


@pytest.mark.gpu
class TestOnGpu:
    @pytest.mark.parametrize("kind", CHANGES)
    def test_the_fused_optimizer_skips_as_the_host_does(
        self, kind: str, corpus: ParallelCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {
            **SHORT,
            "use_cpu": False,
            "dataloader_num_workers": 0,
            "max_grad_norm": 0.0,
            "seen_embeddings_only": False,
        }
        found = []
        for name in ("device", "host"):
            if name == "host":
                monkeypatch.setattr("hf_hybrid.training.finite_guard._skips_by_itself", lambda *_: False)
            trainer = toy_trainer(tmp_path / name, corpus, **options)
            spoil(trainer, [3], CHANGES[kind])
            trainer.train()
            found.append(trainer)
        device, host = found
        torch.testing.assert_close(weights(device), weights(host))
        torch.testing.assert_close(state_of(device), state_of(host))
        for name in ("device", "host"):
            assert [path.name for path in (tmp_path / name / "not_finite").iterdir()] == ["step-0000003.json"]

    def test_the_host_does_not_wait(self, tmp_path: Path) -> None:
        """Torch raises where the host waits for the device."""
        weight = torch.nn.Parameter(torch.ones(4, device="cuda"))
        optimizer = torch.optim.AdamW([weight], fused=True)
        guard = FiniteGuard(tmp_path, 5, lambda step: {})
        model = torch.nn.Module()
        model.weight = weight
        for step in range(1, 4):
            weight.grad = torch.full_like(weight, math.nan if step == 2 else 1.0)
            norm = weight.grad.norm()
            torch.cuda.set_sync_debug_mode("error" if step > 1 else "default")  # the first one sets things up
            try:
                guard.check(step, norm, model, optimizer, skips=False)
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        guard.settle()
        assert [path.name for path in (tmp_path / "not_finite").iterdir()] == ["step-0000002.json"]
        assert torch.isfinite(weight).all()
        assert float(optimizer.state[weight]["step"]) == 2
