"""Training only seen rows of the embedding table gives the model that training all of them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.seen_embeddings import SeenEmbedding, train_all_rows, train_seen_rows
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.training.trainer import HybridTrainer
from tests.support import families
from tests.support.toys import toy_corpus, toy_encoder

SEEN = np.array([0, 2, 5, 6])


def table(padding_idx: int | None = None) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(8, 3, padding_idx=padding_idx)


class TestSeenEmbedding:
    @pytest.mark.parametrize("padding_idx", [None, 2])
    def test_embeds_and_differentiates_as_the_whole_table(self, padding_idx: int | None) -> None:
        whole, ids = table(padding_idx), torch.tensor([[5, 2, 0], [2, 6, 5]])
        seen = SeenEmbedding(table(padding_idx), SEEN)
        weights = torch.arange(18.0).view(2, 3, 3)
        for module in (whole, seen):
            (module(ids) * weights).sum().backward()
        assert torch.equal(seen(ids), whole(ids))
        assert whole.weight.grad is not None
        assert seen.seen_RD.grad is not None
        assert torch.equal(seen.seen_RD.grad[:-1], whole.weight.grad[SEEN])
        assert (seen.seen_RD.grad[-1] == 0).all()
        assert whole.weight.grad.norm() > 1

    def test_embeds_other_tokens_in_evaluation(self) -> None:
        whole, seen, ids = table(), SeenEmbedding(table(), SEEN).eval(), torch.arange(8)
        assert torch.equal(seen(ids), whole(ids))
        with torch.no_grad():
            seen.seen_RD[-1] = 0.5  # as weight decay leaves it
            seen.seen_RD[0] = 7.0
        expected = 0.5 * whole.weight.detach()
        expected[SEEN] = whole.weight.detach()[SEEN]
        expected[0] = 7.0
        assert torch.equal(seen(ids), expected)
        assert torch.equal(seen.state_dict()["weight"], expected)

    def test_its_state_dict_is_that_of_the_whole_table(self) -> None:
        seen, other = SeenEmbedding(table(), SEEN), nn.Embedding(8, 3)
        with torch.no_grad():
            seen.seen_RD[-1] = 0.5
        other.load_state_dict(seen.state_dict())
        again = SeenEmbedding(nn.Embedding(8, 3), SEEN)
        again.load_state_dict(other.state_dict())
        assert torch.equal(again.whole_weight(), seen.whole_weight())
        assert (again.seen_RD[-1] == 1).all()
        with pytest.raises(RuntimeError, match=r'Missing key.*"weight"'):
            again.load_state_dict({})

    @pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert", "distilbert"])
    def test_models_take_it_and_give_it_back(self, family: str) -> None:
        encoder = families.encoder(family)
        names, sequences = list(encoder.state_dict()), families.sequences(5, 9)
        expected = encoder.embed(sequences)
        train_seen_rows(encoder.backbone, np.arange(0, 96, 3))
        assert list(encoder.state_dict()) == names
        assert torch.equal(encoder.embed(sequences), expected)
        train_all_rows(encoder.backbone)
        assert torch.equal(encoder.embed(sequences), expected)
        assert type(encoder.get_input_embeddings()) is nn.Embedding


@pytest.fixture(scope="module")
def corpora() -> tuple[ParallelCorpus, ParallelCorpus]:
    """Trained on and evaluated on, in other languages: with tokens that training does not see."""
    corpus = toy_corpus(num_items=60)
    return corpus.select_languages(corpus.languages[:2]), corpus.select_languages(corpus.languages[2:])


def train(
    folder: Path, corpora: tuple[ParallelCorpus, ParallelCorpus], resume: str | None = None, **options: Any
) -> HybridTrainer:
    settings: dict[str, Any] = {"max_steps": 8, "global_batch_size": 12, "logging_steps": 1, "learning_rate": 1e-2}
    settings |= {"weight_decay": 0.3, "mix": "mono=1,cross=1", "energy": "none", "use_cpu": True, "disable_tqdm": True}
    settings |= {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    encoder = toy_encoder(toy_corpus(num_items=60), dropout=0.1)
    args = HybridTrainingArguments(str(folder), temperature=0.1, **{**settings, **options})
    trainer = HybridTrainer(encoder, args, *corpora, cache_dir=folder.parent / "cache")
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def logs(trainer: HybridTrainer, *names: str) -> list[float]:
    return [entry[name] for name in names for entry in trainer.state.log_history if name in entry]


def embeddings(encoder: HybridEncoder) -> torch.Tensor:
    """The token embeddings, as they are now."""
    found: Any = encoder.get_input_embeddings()
    return found.weight.detach().clone()


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "sgd"])
def test_the_model_is_the_one_that_training_all_rows_gives(
    optim: str, corpora: tuple[ParallelCorpus, ParallelCorpus], tmp_path: Path
) -> None:
    reference = train(tmp_path / "all", corpora, optim=optim)
    trainer = train(tmp_path / "seen", corpora, optim=optim, seen_embeddings_only=True)
    assert_same_weights(trainer.model.state_dict(), reference.model.state_dict())
    names = ("loss", "grad_norm", "eval_multilingual/MAP")
    assert logs(trainer, *names) == pytest.approx(logs(reference, *names), rel=1e-4)
    seen = len(trainer.token_cache.find_seen_tokens())
    before, after = embeddings(toy_encoder(toy_corpus(num_items=60))), embeddings(trainer.model)
    decayed = np.setdiff1d(np.arange(len(before)), np.append(trainer.token_cache.find_seen_tokens(), 0))
    assert 50 < seen < len(before) - 20, "some tokens must be unseen for this to mean anything"
    factors = after[decayed] / before[decayed]
    assert 0.9 < float(factors.mean()) < 0.999, "they have decayed"


@pytest.mark.slow
def test_a_checkpoint_has_the_whole_table_and_goes_on(
    corpora: tuple[ParallelCorpus, ParallelCorpus], tmp_path: Path
) -> None:
    whole = train(tmp_path / "whole", corpora, seen_embeddings_only=True)
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    saved = HybridEncoder.from_pretrained(checkpoint)
    assert embeddings(saved).shape == embeddings(whole.model).shape
    again = train(tmp_path / "again", corpora, resume=str(checkpoint), seen_embeddings_only=True)
    assert logs(again, "loss")[-4:] == logs(whole, "loss")[-4:]
    assert_same_weights(again.model.state_dict(), whole.model.state_dict())


@pytest.mark.slow
def test_a_trainer_may_train_twice(corpora: tuple[ParallelCorpus, ParallelCorpus], tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", corpora, seen_embeddings_only=True, max_steps=2)
    first = embeddings(trainer.model)
    trainer.train()
    assert not torch.equal(embeddings(trainer.model), first)


def test_what_would_change_the_mathematics_is_refused(
    corpora: tuple[ParallelCorpus, ParallelCorpus], tmp_path: Path
) -> None:
    for options in ({"optim": "adafactor"}, {"neftune_noise_alpha": 5.0}):
        with pytest.raises(ValueError, match="seen_embeddings_only=True is not supported: it needs optim adamw_torch"):
            train(tmp_path, corpora, seen_embeddings_only=True, **options)
    encoder = toy_encoder(corpora[0])
    args = HybridTrainingArguments(str(tmp_path), use_cpu=True, seen_embeddings_only=True)
    own = torch.optim.AdamW(encoder.parameters())
    with pytest.raises(ValueError, match="not for your own optimizer"):
        HybridTrainer(encoder, args, corpora[0], optimizers=(own, None))
