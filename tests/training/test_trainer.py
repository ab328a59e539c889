"""The trainer keeps to the plan, and does what a user of `transformers.Trainer` expects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.training.trainer import HybridTrainer
from tests.support.toys import toy_corpus, toy_encoder


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return toy_corpus(num_items=80)


def train(
    folder: Path,
    corpus: ParallelCorpus,
    resume: str | None = None,
    eval_corpus: ParallelCorpus | dict[str, ParallelCorpus] | None = None,
    model: HybridEncoder | None = None,
    callbacks: list[TrainerCallback] | None = None,
    **options: Any,
) -> HybridTrainer:
    settings: dict[str, Any] = {
        "max_steps": 8,
        "global_batch_size": 12,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "temperature": 0.1,
    }
    settings |= {"save_strategy": "no", "save_total_limit": None}
    settings |= {"mix": "mono=1,cross=1,pool=1", "energy": "none", "use_cpu": True, "disable_tqdm": True}
    trainer = HybridTrainer(
        model or toy_encoder(corpus, dropout=0.1),
        HybridTrainingArguments(str(folder), **{**settings, **options}),
        train_dataset=corpus,
        eval_dataset=eval_corpus,
        cache_dir=folder.parent / "cache",
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer: HybridTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def parameters(trainer: HybridTrainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


@pytest.mark.slow
def test_training_lowers_the_loss(corpus: ParallelCorpus, tmp_path: Path) -> None:
    found = losses(train(tmp_path / "run", corpus, max_steps=60, mix="mono=1", max_grad_norm=0))
    assert sum(found[-10:]) < 0.5 * sum(found[:10])


@pytest.mark.slow
def test_every_step_sees_the_batch_of_the_plan(corpus: ParallelCorpus, tmp_path: Path) -> None:
    seen = []

    class Watch(HybridTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((inputs["facts"].language_pair, inputs["targets"]["query_groups_Q"].tolist()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    args = HybridTrainingArguments(
        str(tmp_path), max_steps=5, gradient_accumulation_steps=3, global_batch_size=12, use_cpu=True, energy="none"
    )
    trainer = Watch(toy_encoder(corpus), args, train_dataset=corpus, cache_dir=tmp_path)
    trainer.train()
    plan = [trainer.schedule.batch(step) for step in range(15)]
    assert seen == [(batch.language_pair.name, corpus.groups[batch.items].tolist()) for batch in plan]


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_was_never_stopped(corpus: ParallelCorpus, tmp_path: Path) -> None:
    """Bit for bit on one CPU process, dropout and gradient accumulation included."""
    whole = train(tmp_path / "whole", corpus, save_strategy="steps", save_steps=3, gradient_accumulation_steps=2)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    assert {path.suffix for path in checkpoint.rglob("*") if path.name.startswith("model")} == {".safetensors"}
    again = train(tmp_path / "again", corpus, resume=str(checkpoint), gradient_accumulation_steps=2)
    assert losses(again)[-5:] == losses(whole)[-5:]
    assert len(set(losses(whole))) == 8
    assert all(map(torch.equal, parameters(again), parameters(whole)))


@pytest.mark.slow
def test_the_best_model_is_the_one_loaded_at_the_end(corpus: ParallelCorpus, tmp_path: Path) -> None:
    train_part, held_out = corpus.split(0.3)
    trainer = train(
        tmp_path / "run", train_part, eval_corpus=held_out, eval_strategy="steps", eval_steps=2, save_strategy="steps",
        save_steps=2, metric_for_best_model="multilingual/nDCG@10", load_best_model_at_end=True, max_steps=6,
    )  # fmt: skip
    evaluated = {
        e["step"]: e["eval_multilingual/nDCG@10"]
        for e in trainer.state.log_history
        if "eval_multilingual/nDCG@10" in e
    }
    assert sorted(evaluated) == [2, 4, 6]
    assert trainer.state.best_metric == max(evaluated.values())
    assert trainer.evaluate()["eval_multilingual/nDCG@10"] == pytest.approx(max(evaluated.values()), abs=1e-9)
    assert trainer.state.best_model_checkpoint is not None
    saved = HybridEncoder.from_pretrained(trainer.state.best_model_checkpoint)
    assert all(map(torch.equal, saved.state_dict().values(), trainer.model.state_dict().values()))


@pytest.mark.slow
def test_several_evaluation_corpora_are_named(corpus: ParallelCorpus, tmp_path: Path) -> None:
    parts = corpus.split(0.5)
    trainer = train(tmp_path / "run", corpus, eval_corpus={"a": parts[0], "b": parts[1]}, max_steps=1)
    assert {"eval_a_monolingual/MAP", "eval_b_bias/rank_distance", "eval_runtime"} <= set(trainer.evaluate())
    assert trainer.evaluate(parts[0], metric_key_prefix="test")["test_monolingual/MAP"] > 0


def test_evaluation_without_a_corpus_is_refused(corpus: ParallelCorpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an eval_dataset"):
        train(tmp_path / "run", corpus, max_steps=1).evaluate()


@pytest.mark.slow
@pytest.mark.parametrize("option", [{"gradient_checkpointing": True}, {"dataloader_num_workers": 2}])
def test_options_that_change_nothing_change_nothing(option: dict, corpus: ParallelCorpus, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", corpus, model=toy_encoder(corpus))
    changed = train(tmp_path / "changed", corpus, model=toy_encoder(corpus), **option)
    torch.testing.assert_close(losses(changed), losses(plain), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_compiled_model_is_compiled_once_for_all_batches(corpus: ParallelCorpus, tmp_path: Path) -> None:
    counts = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    plain = train(tmp_path / "plain", corpus, model=toy_encoder(corpus), max_steps=12)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = train(
        tmp_path / "compiled", corpus, model=toy_encoder(corpus), max_steps=12, callbacks=[Watch()],
        torch_compile=True, torch_compile_backend="aot_eager",
    )  # fmt: skip
    torch.testing.assert_close(losses(compiled), losses(plain), rtol=1e-5, atol=1e-6)
    tokens = [json.loads(line)["tokens"] for line in (tmp_path / "plain" / "resources.jsonl").read_text().splitlines()]
    assert len(set(tokens)) > 6, "batches must differ in size"
    assert counts[0] > 0
    assert counts[-1] == counts[2], "later batches were compiled again"


@pytest.mark.slow
def test_bf16_stays_close(corpus: ParallelCorpus, tmp_path: Path) -> None:
    plain = losses(train(tmp_path / "plain", corpus, model=toy_encoder(corpus)))
    half = losses(train(tmp_path / "half", corpus, model=toy_encoder(corpus), bf16=True))
    assert half != plain
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_hard_negatives_and_symmetry_change_the_loss(tmp_path: Path) -> None:
    corpus = toy_corpus(num_items=80, negatives=3)
    changes: list[dict[str, Any]] = [{}, {"num_negatives": 2}, {"symmetric": True}]
    found = [
        losses(train(tmp_path / str(number), corpus, model=toy_encoder(corpus), max_steps=2, **options))
        for number, options in enumerate(changes)
    ]
    assert found[1][0] > found[0][0]
    assert found[2][0] != found[0][0]


@pytest.mark.slow
def test_callbacks_reports_and_counted_tokens(corpus: ParallelCorpus, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    events = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            events.append("step")

        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            events.append("evaluate")

    trainer = train(
        tmp_path / "run", corpus, eval_corpus=corpus, callbacks=[Watch()], max_steps=3, report_to="tensorboard",
        eval_strategy="steps", eval_steps=3, include_num_input_tokens_seen="all",
    )  # fmt: skip
    assert events == ["step", "step", "step", "evaluate"]
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    resources = json.loads((tmp_path / "run" / "resources.json").read_text())
    assert trainer.state.num_input_tokens_seen == resources["tokens"] > 0
    assert trainer.state.total_flos == pytest.approx(resources["flops"])


@pytest.mark.slow
def test_resources_are_those_of_the_plan(corpus: ParallelCorpus, tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", corpus)
    resources = json.loads((tmp_path / "run" / "resources.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "resources.jsonl").read_text().splitlines()]
    batches = [trainer.schedule.batch(step) for step in range(8)]
    assert resources["num_pairs"] == sum(len(batch.items) for batch in batches)
    assert [(line["batch_type"], line["language_pair"]) for line in lines] == [
        (batch.batch_type, batch.language_pair.name) for batch in batches
    ]
    assert [line["loss"] for line in lines] == losses(trainer)
    assert sum(share["tokens"] for share in resources["per_language"].values()) == resources["tokens"]
    assert resources["padding_tokens"] == 0, "packed batches have no padding"


@pytest.mark.slow
def test_padding_is_counted_where_there_is_some(corpus: ParallelCorpus, tmp_path: Path) -> None:
    train(tmp_path / "run", corpus, model=toy_encoder(corpus, attention="sdpa"), max_steps=2)
    assert json.loads((tmp_path / "run" / "resources.json").read_text())["padding_tokens"] > 0


@pytest.mark.slow
def test_the_saved_model_is_the_trained_one(corpus: ParallelCorpus, tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", corpus, max_steps=2)
    trainer.save_model(str(tmp_path / "model"))
    loaded = HybridEncoder.from_pretrained(tmp_path / "model")
    texts = corpus.queries("en").to_pylist()[:5]
    assert (loaded.encode(texts, "query") == trainer.model.encode(texts, "query")).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix": "mono=1"}, "mix was 'mono=0.333333,cross=0.333333,pool=0.333333' and is 'mono=1'"),
        ({"seed": 7}, "seed was 42 and is 7"),
        ({"global_batch_size": 10}, "global_batch_size was 12 and is 10"),
        ({"max_steps": 9}, "max_steps was 8 and is 9"),
        ({"temperature": 0.2}, "temperature was 0.1 and is 0.2"),
    ],
)
def test_another_plan_is_not_gone_on_with(change: dict, message: str, corpus: ParallelCorpus, tmp_path: Path) -> None:
    train(tmp_path / "run", corpus, save_strategy="steps", save_steps=4)
    checkpoint = str(tmp_path / "run" / "checkpoint-4")
    with pytest.raises(ValueError, match=re.escape(message)):
        train(tmp_path / "again", corpus, resume=checkpoint, **change)
    with pytest.raises(ValueError, match=r"corpus was '[0-9a-f]{64}' and is"):
        train(tmp_path / "again", corpus.select_languages(["en", "de"]), resume=checkpoint)
    with pytest.raises(ValueError, match=r"it has no hybrid_state\.json"):
        train(tmp_path / "again", corpus, resume=str(tmp_path / "nothing"))


def test_arguments_without_a_use_are_refused(corpus: ParallelCorpus, tmp_path: Path) -> None:
    args = HybridTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="does not take compute_metrics"):
        HybridTrainer(toy_encoder(corpus), args, train_dataset=corpus, compute_metrics=len)
