"""A run that was stopped continues as if it had not been: losses, log and weights, bit for bit on one CPU process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import STATE_NAME
from hf_hybrid.training.checkpoints import checkpoints, find_damage, write_manifest
from hf_hybrid.training.interruption import RESUME_ME, Interrupted, StopOnSignal, alone_in, ends_on_signal
from tests.support.recipe_runs import losses, run_recipe, shipped, write_jsonl_corpus, write_model
from tests.support.recipe_runs import weights as saved_weights
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
from tests.support.toys import toy_corpus, toy_encoder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return toy_corpus(**CORPUS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the undisturbed run: 10 steps, lines of the log after 3, 6, 9 and checkpoints after 4, 8, 10."""
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture(scope="module")
def undisturbed(corpus: ParallelCorpus, folder: Path) -> ToyTrainer:
    trainer = run(folder, corpus)
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-10", "checkpoint-8", "checkpoint-4"]
    assert [line["step"] for line in told(trainer)] == [3, 6, 9]
    assert len(set(trainer.step_losses)) == 10
    assert not any(torch.equal(weight, start) for weight, start in _moved(trainer, corpus))
    return trainer


def _moved(trainer: ToyTrainer, corpus: ParallelCorpus) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    start = dict(toy_encoder(corpus).named_parameters())
    return ((weight, start[name]) for name, weight in weights(trainer).items() if weight.dim() > 1)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Events of a run, by name."""
    found: list[tuple[str, dict[str, Any]]] = []

    def note(name: str, level: int = 20, **facts: Any) -> None:
        found.append((name, facts))

    for module in ("resume", "plan_trainer", "chunking", "finite_guard"):
        monkeypatch.setattr(f"hf_hybrid.training.{module}.event", note)
    return found


class TestGoingOn:
    @pytest.mark.parametrize("step", [4, 8, 10])
    def test_after_a_kill(
        self, step: int, undisturbed: ToyTrainer, folder: Path, corpus: ParallelCorpus, tmp_path: Path
    ) -> None:
        """The line of the log after 6 is the mean of steps before and after the checkpoint."""
        found = run(killed_after(step, tmp_path / "run", folder), corpus)
        assert getattr(found, "step_losses", []) == undisturbed.step_losses[step:]
        assert told(found) == told(undisturbed)
        assert told(found)[1]["loss"] == pytest.approx(np.mean(undisturbed.step_losses[3:6]), rel=1e-6)
        assert same_weights(found, undisturbed)
        train_loss = found.state.log_history[-1]["train_loss"]
        expected = np.mean(undisturbed.step_losses[step:]) if step < 10 else 0.0
        assert train_loss == pytest.approx(expected, rel=1e-5), "of the steps of this call"
        lines, full = (RunFolder(path).read_resource_lines()[0] for path in (tmp_path / "run", folder))
        merged = {4: 0, 8: 1, 10: 2}[step]  # lines that lay in the folder of the other run: their sum is the first one
        assert [line["loss"] for line in lines] == [line["loss"] for line in full[merged:]]
        assert sum(line["tokens"] for line in lines) == sum(line["tokens"] for line in full)
        resources = [RunFolder(path).read_resources() for path in (tmp_path / "run", folder)]
        for name in ("num_steps", "num_pairs", "tokens", "flops"):
            assert resources[0][name] == resources[1][name], name

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [
            {"gradient_accumulation_steps": 2, "logging_steps": 4, "save_steps": 3},
            {"seen_embeddings_only": True},
            {"bf16": True},
            {"optim": "adafactor", "chunk_tokens": 60, "lr_scheduler_type": "cosine"},
        ],
        ids=lambda options: "-".join(options),
    )
    def test_with_other_settings(self, options: dict[str, Any], corpus: ParallelCorpus, tmp_path: Path) -> None:
        options = {"max_steps": 6, "logging_steps": 3, "save_steps": 4, **options}
        whole = run(tmp_path / "whole", corpus, **options)
        found = run(killed_after(options["save_steps"], tmp_path / "run", tmp_path / "whole"), corpus, **options)
        assert told(found) == told(whole)
        assert len(found.step_losses) < len(whole.step_losses)
        assert same_weights(found, whole)

    @pytest.mark.slow
    def test_with_other_workers_and_to_rounding_in_other_chunks(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        whole = run(tmp_path / "whole", corpus, dropout=0.0)
        workers = killed_after(8, tmp_path / "workers", tmp_path / "whole")
        assert same_weights(run(workers, corpus, dropout=0.0, dataloader_num_workers=1), whole)
        chunks = killed_after(8, tmp_path / "chunks", tmp_path / "whole")
        found = run(chunks, corpus, dropout=0.0, chunk_tokens=60)
        assert found.step_losses == pytest.approx(whole.step_losses[8:], rel=1e-5)
        for name, weight in weights(whole).items():
            torch.testing.assert_close(weights(found)[name], weight, rtol=1e-3, atol=1e-4, msg=name)

    def test_chunks_that_memory_taught_are_kept(self, corpus: ParallelCorpus, tmp_path: Path, heard: list) -> None:
        model, failures = toy_encoder(corpus, dropout=0.1), [MemoryError("no more")]
        model.backbone.register_forward_hook(lambda *_: (_ for _ in ()).throw(failures.pop()) if failures else None)
        whole = run(tmp_path / "whole", corpus, model=model)
        assert whole.chunking.max_tokens is not None
        found = run(killed_after(4, tmp_path / "run", tmp_path / "whole"), corpus)
        assert found.chunking.max_tokens == whole.chunking.max_tokens
        assert same_weights(found, whole)
        assert [name for name, _ in heard].count("retry") == 1
        other = run(killed_after(8, tmp_path / "other", tmp_path / "whole"), corpus, chunk_tokens=5000)
        assert other.chunking.max_tokens == 5000, "what is asked for counts"

    @pytest.mark.slow
    def test_killed_between_an_evaluation_and_the_save(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        """The best model is that of the first evaluation or a later one, as without the kill."""
        options: dict[str, Any] = {
            "eval_corpus": corpus.split(0.2)[1],
            "eval_strategy": "steps",
            "max_eval_queries": 5,
            "metric_for_best_model": "multilingual/nDCG@10",
            "load_best_model_at_end": True,
            "save_total_limit": 1,
            "max_steps": 6,
            "eval_steps": 2,
            "save_steps": 2,
        }
        whole = run(tmp_path / "whole", corpus, **options)
        with pytest.raises(Kill):
            run(tmp_path / "run", corpus, At("on_evaluate", 4, kill), **options)
        assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-2"]
        state = tmp_path / "run" / "checkpoint-2" / "trainer_state.json"
        assert str(tmp_path) not in state.read_text()
        moved, best = (tmp_path / "run").rename(tmp_path / "moved"), list[str | None]()
        look = At("on_step_begin", 2, lambda state, **_: best.append(state.best_model_checkpoint))
        found = run(moved, corpus, look, **options)
        assert best == [str(moved / "checkpoint-2")]
        assert found.state.best_metric == whole.state.best_metric
        assert found.state.best_global_step == whole.state.best_global_step
        assert Path(found.state.best_model_checkpoint or "").name == Path(whole.state.best_model_checkpoint or "").name
        assert told(found) == told(whole)
        assert same_weights(found, whole)

    def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
        self, undisturbed: ToyTrainer, folder: Path, corpus: ParallelCorpus, tmp_path: Path, heard: list
    ) -> None:
        killed_after(4, tmp_path / "run", folder)
        newest = killed_after(8, tmp_path / "run", folder) / "checkpoint-8"
        with open(newest / "optimizer.pt", "rb+") as file:
            file.truncate(1000)
        (tmp_path / "run" / ".unfinished-checkpoint-9").mkdir()
        with pytest.raises(ValueError, match=r"checkpoint-8 is damaged: optimizer\.pt has 1000 bytes"):
            toy_trainer(tmp_path / "run", corpus).train(resume_from_checkpoint=str(newest))
        found = run(tmp_path / "run", corpus)
        problems = [facts["problem"] for name, facts in heard if name == "warning"]
        assert len(problems) == 1
        assert problems[0].startswith(f"{newest} is damaged and is skipped, as damaged-checkpoint-8: optimizer.pt")
        assert len(found.step_losses) == 6
        assert same_weights(found, undisturbed)
        assert find_damage(newest) is None, "written again"
        assert not list((tmp_path / "run").glob(".unfinished*"))

    @pytest.mark.slow
    def test_a_full_disk_ends_the_run_and_the_same_call_goes_on(
        self, undisturbed: ToyTrainer, corpus: ParallelCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = shutil.disk_usage
        seen: list[int] = []

        def fills(path: Path) -> Any:
            seen.append(1)
            return real(path) if len(seen) == 1 else types.SimpleNamespace(free=1000)

        monkeypatch.setattr(shutil, "disk_usage", fills)
        with pytest.raises(OSError, match=r"checkpoint-8 could not be written: about .* [KM]iB are needed"):
            run(tmp_path / "run", corpus)
        assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4"]
        monkeypatch.undo()
        assert same_weights(run(tmp_path / "run", corpus), undisturbed)

    @pytest.mark.slow
    def test_on_another_number_of_processes_dropout_follows_from_seed_and_step(
        self, undisturbed: ToyTrainer, folder: Path, corpus: ParallelCorpus, tmp_path: Path
    ) -> None:
        """Of two processes the means of their sums are taken, and no one's random numbers."""
        checkpoint = killed_after(4, tmp_path / "first", folder) / "checkpoint-4"
        state = json.loads((checkpoint / STATE_NAME).read_text())
        (one,) = state["loss_sums"]
        state |= {"loss_sums": [one - 0.5, one + 0.5], "world_size": 2}
        (checkpoint / STATE_NAME).write_text(json.dumps(state))
        (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
        write_manifest(checkpoint)
        shutil.copytree(tmp_path / "first", tmp_path / "second")
        first = run(tmp_path / "first", corpus)
        model = toy_encoder(corpus, dropout=0.1)
        torch.manual_seed(1234)
        second = run(tmp_path / "second", corpus, model=model)
        assert same_weights(first, second)
        with_rng = run(killed_after(4, tmp_path / "third", folder), corpus)
        assert first.step_losses != with_rng.step_losses


def _identity_changes() -> list[Any]:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"mix": "mono=1"}, "mix was 'mono=0.333333,cross=0.333333,pool=0.333333' and is 'mono=1'"),
        ({"seed": 7}, "seed was 42 and is 7"),
        ({"data_seed": 7}, "data_seed was 42 and is 7"),
        ({"global_batch_size": 10}, "global_batch_size was 12 and is 10"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1 and is 2"),
        ({"temperature": 0.2}, "temperature was 0.1 and is 0.2"),
        ({"learning_rate": 2e-3}, "learning_rate was 0.001 and is 0.002"),
        ({"bf16": True}, "bf16 was False and is True"),
        ({"optim": "sgd"}, "is 'sgd'"),
    ]
    return [pytest.param(options, words, id=next(iter(options))) for options, words in cases]


class TestRefusals:
    @pytest.mark.parametrize(("options", "words"), _identity_changes())
    def test_another_run_is_refused_with_both_values(
        self, options: dict, words: str, undisturbed: ToyTrainer, folder: Path, corpus: ParallelCorpus
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            toy_trainer(folder, corpus, **options).train(resume_from_checkpoint=True)
        assert "checkpoint-10 belongs to another run: " in str(caught.value)
        assert "--overwrite" in str(caught.value)

    def test_another_corpus_is_refused(self, undisturbed: ToyTrainer, folder: Path, corpus: ParallelCorpus) -> None:
        other = toy_corpus(**CORPUS, seed=1)
        expected = rf"corpus was '{corpus.fingerprint}' and is '{other.fingerprint}'"
        with pytest.raises(ValueError, match=expected):
            run(folder, other, model=toy_encoder(corpus))

    def test_other_weights_are_refused(self, undisturbed: ToyTrainer, folder: Path, corpus: ParallelCorpus) -> None:
        """Of one number alone; settings and tokenizer are the same."""
        model = toy_encoder(corpus, dropout=0.1)
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] += 1e-3
        with pytest.raises(
            ValueError, match=r"model was 'from scratch, (\w{16})' and is 'from scratch, (?!\1)\w{16}'"
        ):
            run(folder, corpus, model=model)

    def test_a_model_alone_is_no_checkpoint_to_go_on_from(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        options = {"max_steps": 4, "save_steps": 2, "save_only_model": True}
        run(tmp_path / "run", corpus, **options)
        for again in ({"save_only_model": True}, {"save_only_model": False}):
            with pytest.raises(ValueError, match=r"checkpoint-4 holds only a model \(save_only_model\)"):
                run(tmp_path / "run", corpus, **{**options, **again})

    def test_a_run_in_use_is_refused(self, tmp_path: Path) -> None:
        """A process that was killed does not hold it any longer."""
        holder = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""
        (tmp_path / "heartbeat.json").write_text('{"step": 3}\n')
        other = subprocess.Popen([sys.executable, "-c", holder, tmp_path / "run.lock"], stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            in_use = pytest.raises(ValueError, match=r'is in use by another run\..* sign of life: \{"step": 3\}')
            with in_use, alone_in(tmp_path, wait_s=0.1):
                pytest.fail("there were two")
        finally:
            other.kill()
            other.wait()
        with alone_in(tmp_path, wait_s=0.1), alone_in(tmp_path, wait_s=0.1):  # one process may claim it twice
            pass


def tell(number: int) -> Callable[..., None]:
    return lambda **_: os.kill(os.getpid(), number)


class Unheeded(Exception):
    """A signal came to anyone who had been listening before."""


@pytest.fixture
def former() -> Iterator[dict[int, Any]]:
    """Handlers from before; without them a signal that no one takes would end the tests."""

    def raise_unheeded(number: int, frame: object) -> None:
        raise Unheeded

    numbers = (signal.SIGTERM, signal.SIGINT)
    mine = {number: signal.signal(number, raise_unheeded) for number in numbers}
    yield {number: signal.getsignal(number) for number in numbers}
    for number, handler in mine.items():
        signal.signal(number, handler)


class TestSignals:
    @pytest.mark.parametrize(
        ("event", "step", "stops_at", "number"),
        [
            ("on_step_begin", 4, 5, signal.SIGTERM),
            ("on_pre_optimizer_step", 4, 5, signal.SIGINT),
            ("on_save", 4, 5, signal.SIGTERM),
            ("on_train_begin", 0, 1, signal.SIGTERM),
            ("on_step_begin", 9, 10, signal.SIGTERM),
            ("on_save", 10, 10, signal.SIGTERM),
        ],
    )
    def test_the_run_saves_and_says_so_and_goes_on(
        self, event: str, step: int, stops_at: int, number: int, undisturbed: ToyTrainer, folder: Path,
        corpus: ParallelCorpus, tmp_path: Path, former: dict[int, Any], heard: list,
    ) -> None:  # fmt: skip
        with pytest.raises(Interrupted) as caught:
            run(tmp_path / "run", corpus, At(event, step, tell(number)))
        assert caught.value.code == RESUME_ME == 75
        assert {number: signal.getsignal(number) for number in former} == former
        newest = checkpoints(tmp_path / "run")[0]
        assert newest.name == f"checkpoint-{stops_at}"
        assert find_damage(newest) is None
        assert heard[-1][0] == "stop"
        assert heard[-1][1]["step"] == stops_at
        found = run(tmp_path / "run", corpus)
        assert told(found) == told(undisturbed)
        assert same_weights(found, undisturbed)
        lines = RunFolder(tmp_path / "run").read_resource_lines()[0]
        expected = RunFolder(folder).read_resource_lines()[0]
        for name in ("step", "loss", "pairs", "tokens"):
            assert [line[name] for line in lines] == [line[name] for line in expected], name

    def test_an_evaluation_comes_to_its_end_first(
        self, corpus: ParallelCorpus, tmp_path: Path, former: dict[int, Any]
    ) -> None:
        options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 3, "max_eval_queries": 5, "max_steps": 5}
        trainer = toy_trainer(tmp_path / "run", corpus, eval_corpus=corpus.split(0.2)[1], **options)
        real = trainer.score

        def told_within(*args: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return real(*args)

        trainer.score = told_within  # type: ignore[method-assign,assignment]
        with pytest.raises(Interrupted):
            trainer.train(resume_from_checkpoint=True)
        assert any("eval_multilingual/MAP" in line for line in trainer.state.log_history)
        assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-4"]

    def test_later_signals_are_not_heeded_but_for_a_second_ctrl_c(
        self, former: dict[int, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with StopOnSignal() as stop:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):  # as a launcher passes them on
                os.kill(os.getpid(), number)
            assert stop.asked
            later = time.monotonic() + 60
            monkeypatch.setattr(time, "monotonic", lambda: later)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Unheeded):
            os.kill(os.getpid(), signal.SIGTERM)

    def test_outside_of_training_a_signal_ends_it_now(self, former: dict[int, Any]) -> None:
        with pytest.raises(Interrupted), ends_on_signal():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # a second one does not break off the end of the process
        for number, handler in former.items():
            assert signal.signal(number, handler) == signal.SIG_IGN
        with ends_on_signal():
            assert signal.getsignal(signal.SIGTERM) not in former.values()
        assert {number: signal.getsignal(number) for number in former} == former


SHORT: dict[str, Any] = {"max_steps": 6, "save_steps": 3, "logging_steps": 2, "dropout": 0.0}


def _two_ranks(rank: int, place: str) -> None:
    """What two processes do, one run after the other; each leaves its weights in a file."""
    # accelerate asks for an address even where the group is already there, by way of a file
    os.environ.update(ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    folder, corpus = Path(place), toy_corpus(**CORPUS)
    second = rank == 1

    def leave(name: str, trainer: ToyTrainer, **more: Any) -> None:
        found = {"weights": weights(trainer), "log": told(trainer), "losses": trainer.step_losses, **more}
        torch.save(found, folder / f"{name}-{rank}.pt")

    def copy(source: str, target: str) -> Path:
        if rank == 0:
            killed_after(3, folder / target, folder / source)
        torch.distributed.barrier()
        return folder / target

    leave("whole", run(folder / "whole", corpus, **SHORT))
    leave("from_one", run(copy("one", "from_one"), corpus, **SHORT))
    with_dropout = {**SHORT, "dropout": 0.1}
    leave("dropout", run(folder / "dropout", corpus, **with_dropout))
    leave("again", run(copy("dropout", "again"), corpus, **with_dropout))

    told_to_stop = [At("on_step_begin", 1, tell(signal.SIGTERM))] if second else []
    try:
        run(folder / "stopped", corpus, *told_to_stop, **with_dropout)
        code = 0
    except Interrupted as stop:
        code = stop.code  # type: ignore[assignment]
    leave("stopped", run(folder / "stopped", corpus, **with_dropout), code=code)

    spoil = At("on_step_begin", 3, lambda model, **_: _spoil_one_loss(spoiled)) if second else None
    spoiled = toy_trainer(folder / "spoiled", corpus, *filter(None, [spoil]), **with_dropout)
    spoiled.train()
    leave("spoiled", spoiled)
    skips = [At("on_pre_optimizer_step", 3, lambda optimizer, **_: optimizer.zero_grad())]
    leave("skipped", run(folder / "skipped", corpus, *skips, **with_dropout))
    torch.distributed.destroy_process_group()


def _spoil_one_loss(trainer: ToyTrainer) -> None:
    real = trainer.compute_loss

    def spoiled(*args: Any, **kwargs: Any) -> torch.Tensor:
        del trainer.compute_loss
        return real(*args, **kwargs) * float("nan")

    trainer.compute_loss = spoiled  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, corpus: ParallelCorpus) -> Path:
    """Where two processes have left what `_two_ranks` does."""
    folder = tmp_path_factory.mktemp("two")
    one = run(folder / "one", corpus, **SHORT)
    torch.save({"weights": weights(one), "losses": one.step_losses, "log": told(one)}, folder / "one-0.pt")
    mp.spawn(_two_ranks, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.distributed
class TestTwoProcesses:
    @staticmethod
    def left(place: Path, name: str, rank: int = 0) -> dict[str, Any]:
        return torch.load(place / f"{name}-{rank}.pt")

    def assert_equal(self, place: Path, name: str, expected: str) -> None:
        """Bit for bit, on both ranks; the ranks have one model but losses of their own."""
        for rank in (0, 1):
            found, reference = self.left(place, name, rank), self.left(place, expected, rank)
            for weight, value in reference["weights"].items():
                assert torch.equal(found["weights"][weight], value), weight
                assert torch.equal(found["weights"][weight], self.left(place, name)["weights"][weight]), weight
        assert self.left(place, name)["log"] == self.left(place, expected)["log"]

    def test_they_go_on_bit_for_bit(self, place: Path) -> None:
        """With random numbers of their own for each rank, and their own share of the logged mean."""
        self.assert_equal(place, "again", "dropout")
        assert self.left(place, "again", 0)["losses"] != self.left(place, "again", 1)["losses"]
        assert len(self.left(place, "again")["losses"]) == 3

    def test_where_one_is_told_to_stop_both_do(self, place: Path) -> None:
        assert [self.left(place, "stopped", rank)["code"] for rank in (0, 1)] == [RESUME_ME, RESUME_ME]
        assert len(self.left(place, "stopped")["losses"]) == 4, "they stopped after 2 of 6"
        self.assert_equal(place, "stopped", "dropout")

    def test_another_number_of_processes_goes_on_to_rounding(self, place: Path, corpus: ParallelCorpus) -> None:
        one, whole = self.left(place, "one"), self.left(place, "whole")
        to_one = run(killed_after(3, place / "to_one", place / "whole"), corpus, **SHORT)
        start = dict(toy_encoder(corpus).named_parameters())
        for name, expected in one["weights"].items():
            for found in (whole["weights"], self.left(place, "from_one")["weights"], weights(to_one)):
                assert (found[name] - expected).norm() <= 1e-3 * (expected - start[name]).norm() + 1e-5, name
        losses = [
            [line["loss"] for line in log] for log in (one["log"], told(to_one), self.left(place, "from_one")["log"])
        ]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        assert losses[2] == pytest.approx(losses[0], rel=1e-5)

    def test_a_loss_that_is_nan_on_one_leaves_the_step_out_on_both(self, place: Path) -> None:
        skipped = self.left(place, "skipped")
        for name, weight in skipped["weights"].items():
            assert torch.isfinite(weight).all()
            for rank in (0, 1):
                assert torch.equal(self.left(place, "spoiled", rank)["weights"][name], weight), name
        assert not torch.equal(weight, self.left(place, "dropout")["weights"][name])
        assert [np.isfinite(self.left(place, "spoiled", rank)["losses"]).all() for rank in (0, 1)] == [True, False]
        assert [path.name for path in (place / "spoiled" / "not_finite").iterdir()] == ["step-0000004.json"]
        assert not (place / "skipped" / "not_finite").exists()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ["fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_spread_states_go_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Moments of AdamW are spread over two processes; a run that is set up otherwise is refused."""
    corpus = write_jsonl_corpus(tmp_path / "corpus", num_items=40, missing=0.3)
    model = write_model(tmp_path / "model")
    options: dict[str, object] = {
        "model_name_or_path": model,
        "train_corpus": corpus,
        "held_out": 8,
        "cache_dir": tmp_path / "cache",
        "global_batch_size": 15,
        "max_steps": 6,
        "save_steps": 3,
        "logging_steps": 2,
        "learning_rate": 1e-3,
        "temperature": 0.1,
        "evaluate_before": False,
        "max_eval_queries": 5,
        "energy": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    run_recipe(*words, tmp_path, script="tests/support/resumed_run.py", launch=shipped(name))
    whole, again = tmp_path / "whole", tmp_path / "again"
    told_of = [json.loads(line) for line in (again / "events.jsonl").read_text().splitlines()]
    assert [line["path"] for line in told_of if line["event"] == "resume"] == [str(again / "checkpoint-3")]
    # the folder is another one, so its first line is the sum of those before the checkpoint
    assert losses(again)[-2:] == losses(whole)[-2:]
    assert len(losses(again)) == 3
    expected, at_checkpoint = saved_weights(whole), load_file(whole / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(weight, expected[key]) for key, weight in saved_weights(again).items())
    assert not all(torch.equal(weight, expected[key]) for key, weight in at_checkpoint.items())
