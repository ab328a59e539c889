"""Masked language modeling: blocks, shares and masks of a plan, the head, the budget, and what runs do."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import transformers
from scipy.stats import binom
from transformers import AutoModelForMaskedLM

from hf_hybrid import HybridEncoder, RunFolder
from hf_hybrid.data.batches.mlm_collator import NOT_PREDICTED, Masking, MlmCollator
from hf_hybrid.data.batches.mlm_schedule import WHOLE, Ends, LanguageBlocks, MlmSchedule
from hf_hybrid.data.batches.packing import pack
from hf_hybrid.data.batches.schedule import plan_fingerprint
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus, documents
from hf_hybrid.data.sides import PASSAGE, QUERY
from hf_hybrid.models.masked_lm import MaskedLanguageModel
from hf_hybrid.records.schema import STATE_NAME
from hf_hybrid.training.arguments import HybridTrainingArguments, MlmTrainingArguments
from hf_hybrid.training.mlm_trainer import MlmTrainer
from tests.support import families
from tests.support.toy_runs import At, Kill, kill, killed_after, same_weights, told, weights
from tests.support.toys import toy_cache, toy_corpus, toy_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

LANGUAGES = ("de", "en", "hi", "zh")
CORPUS: dict[str, Any] = {"num_items": 60, "languages": LANGUAGES, "missing": (0.0, 0.4, 0.6, 0.75)}
LENGTH = 24


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    """Of languages of very different size, with some items held out of it."""
    return toy_corpus(**CORPUS).split(0.1)[0]


@pytest.fixture(scope="module")
def cache(corpus: ParallelCorpus) -> TokenCache:
    return toy_cache(corpus, max_query_length=WHOLE, max_passage_length=WHOLE)


def schedule(cache: TokenCache, **options: Any) -> MlmSchedule:
    return MlmSchedule(
        cache, **{"block_length": LENGTH, "global_batch_size": 5, "num_steps": 40, "seed": 3, **options}
    )


def texts(corpus: ParallelCorpus, language: str) -> list[str]:
    """All texts of the items, straight from the matrix of rows."""
    rows = corpus.rows[:, corpus.languages.index(language)]
    found = {(side, int(row)) for side in (QUERY, PASSAGE) for row in rows[:, side] if row >= 0}
    return [corpus.text(side, language, row) for side, row in sorted(found)]


class TestBlocks:
    def blocks(self, cache: TokenCache, language: str = "en", **options: Any) -> LanguageBlocks:
        return LanguageBlocks(cache, language, LENGTH, Ends.of(cache.tokenizer), seed=3, **options)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_a_pass_has_each_text_of_the_items_once(
        self, language: str, corpus: ParallelCorpus, cache: TokenCache
    ) -> None:
        """Cut into full blocks, the last of which ends with first tokens of the pass; held-out texts are in none."""
        blocks, tokenizer = self.blocks(cache, language), cache.tokenizer
        for pass_number in (0, 1):
            first = pass_number * blocks.blocks_a_pass
            made_NL = np.stack([blocks.block(first + place) for place in range(blocks.blocks_a_pass)])
            assert made_NL.shape == (blocks.blocks_a_pass, LENGTH)
            assert set(made_NL[:, 0]) == {tokenizer.cls_token_id}
            assert set(made_NL[:, -1]) == {tokenizer.sep_token_id}
            row = made_NL[:, 1:-1].flatten()
            assert (row[blocks.num_tokens :] == row[: len(row) - blocks.num_tokens]).all()
            ends = np.flatnonzero(row[: blocks.num_tokens] == tokenizer.sep_token_id) + 1
            found = Counter(tuple(part.tolist()) for part in np.split(row[: blocks.num_tokens], ends)[:-1])
            expected = [tuple(tokenizer(text)["input_ids"][1:]) for text in texts(corpus, language)]
            assert ends[-1] == blocks.num_tokens
            assert found == Counter(expected)
        assert sorted(documents(corpus, language)) == sorted(texts(corpus, language))
        assert len(texts(toy_corpus(**CORPUS), language)) > len(expected), "some were held out"

    def test_passes_differ_until_static_ones_repeat(self, cache: TokenCache) -> None:
        always, static = self.blocks(cache), self.blocks(cache, num_duplicates=2)
        size = always.blocks_a_pass
        assert (static.block(2 * size + 1) == static.block(1)).all()
        for number in (1, size + 1):
            assert (static.block(number) == always.block(number)).all()
        different = [always.block(number * size + 1).tolist() for number in range(4)]
        assert len({tuple(block) for block in different}) == 4

    def test_any_block_can_be_had_at_any_time(self, cache: TokenCache) -> None:
        in_order = [self.blocks(cache).block(number).tolist() for number in range(30)]
        blocks = self.blocks(cache)
        for number in np.random.default_rng(0).permutation(30):
            assert blocks.block(number).tolist() == in_order[number]

    def test_the_rows_of_a_block_are_those_of_its_texts(self, corpus: ParallelCorpus, cache: TokenCache) -> None:
        blocks, tokenizer = self.blocks(cache), cache.tokenizer
        for number in range(8):
            rows, content = blocks.rows(number), blocks.block(number)[1:-1]
            sides = [(QUERY, rows["queries"]), (PASSAGE, rows["passages"])]
            own = {tuple(tokenizer(corpus.text(side, "en", row))["input_ids"][1:]) for side, of in sides for row in of}
            parts = np.split(content, np.flatnonzero(content == tokenizer.sep_token_id) + 1)
            assert {tuple(part.tolist()) for part in parts[1:-1]} <= own
            assert sum(len(of) for _, of in sides) == len([part for part in parts if len(part)])

    def test_less_text_than_a_block_is_refused(self, cache: TokenCache) -> None:
        with pytest.raises(ValueError, match=r"block_length=5000: all texts in de together have \d+ tokens"):
            schedule(cache, block_length=5000)
        with pytest.raises(ValueError, match="block_length=2 has no room for text"):
            schedule(cache, block_length=2)

    def test_a_tokenizer_without_separators_is_refused(self, cache: TokenCache) -> None:
        tokenizer = families.tokenizer()
        tokenizer.backend_tokenizer.post_processor = None
        with pytest.raises(ValueError, match="nothing would part two documents"):
            Ends.of(tokenizer)


class TestShares:
    @pytest.mark.parametrize("smoothing", [0.7, 0.0, 1.0])
    @pytest.mark.parametrize("num_steps", [7, 1000])
    def test_blocks_follow_tokens_to_the_power_of_s(
        self, smoothing: float, num_steps: int, corpus: ParallelCorpus, cache: TokenCache
    ) -> None:
        """Each language has its exact share, rounded up or down."""
        tokens = [
            sum(len(cache.tokenizer(text)["input_ids"]) - 1 for text in texts(corpus, name)) for name in LANGUAGES
        ]
        assert max(tokens) > 3 * min(tokens)
        weights_of = np.array(tokens, dtype=float) ** smoothing
        expected = 5 * num_steps * weights_of / weights_of.sum()
        plan = schedule(cache, smoothing=smoothing, num_steps=num_steps)
        found = np.bincount(plan.pair_numbers(), minlength=4)
        assert found.sum() == 5 * num_steps
        assert (np.abs(found - expected) < 1).all()
        if num_steps == 1000:  # the three are different plans
            for other in {0.0, 0.7, 1.0} - {smoothing}:
                shares = np.array(tokens, dtype=float) ** other
                assert np.abs(found - 5 * num_steps * shares / shares.sum()).max() > 100
        rows = {row["language_pair"]: row for row in plan.plan()}
        assert {name: row["blocks"] for name, row in rows.items()} == dict(zip(LANGUAGES, found.tolist(), strict=True))
        assert {name: row["tokens"] for name, row in rows.items()} == dict(zip(LANGUAGES, tokens, strict=True))
        names = [(pair.batch_type, pair.name) for pair in plan.language_pairs]
        assert plan.fingerprint == plan_fingerprint(names, plan.pair_numbers())

    def test_blocks_of_a_language_come_in_order_and_batches_are_mixed(self, cache: TokenCache) -> None:
        plan = schedule(cache)
        seen, languages = Counter[int](), []
        for step in range(len(plan)):
            batch = plan.batch(step)
            languages.append(len(set(batch.columns.tolist())))
            for column, number in zip(batch.columns.tolist(), batch.numbers.tolist(), strict=True):
                assert number == seen[column]
                seen[column] += 1
        assert sum(seen.values()) == 40 * 5
        assert np.mean(languages) > 2
        with pytest.raises(IndexError, match="step 40 is outside the plan of 40 steps"):
            plan.batch(40)

    def test_the_order_follows_from_the_seed(self, cache: TokenCache) -> None:
        plans = [schedule(cache, seed=seed).pair_numbers() for seed in (3, 3, 4)]
        assert plans[0] == plans[1] != plans[2]
        assert sorted(plans[0]) != plans[0]

    def test_it_is_told_in_few_lines(self, cache: TokenCache) -> None:
        told_of = schedule(cache).summary(max_pairs=2)
        assert told_of.startswith("plan: 40 steps of 5 blocks of 24 tokens, 4,800 tokens in all")
        assert told_of.endswith("blocks  in 2 more languages")
        shown = schedule(cache).preview(Masking(cache.tokenizer, 0.5))
        assert shown.startswith("step 0: mlm ")
        assert shown.count("[CLS]") == 6, "three blocks, before and after"
        assert "[MASK]" in shown


class TestMasks:
    def masked(self, cache: TokenCache, masking: Masking, count: int = 400, **options: Any) -> Sequence[np.ndarray]:
        """Blocks as they are, as the model reads them, and what it is to predict."""
        plan = schedule(cache, num_steps=count, global_batch_size=1, **options)
        found = []
        for step in range(count):
            batch = plan.batch(step)
            block, rng = plan.block(batch.columns[0], batch.numbers[0])
            found.append((block, *masking(block, rng)))
        return [np.stack(parts) for parts in zip(*found, strict=True)]

    def assert_share(self, successes: int, trials: int, share: float) -> None:
        """Within what a fair draw gives but once in a million."""
        assert binom.ppf(5e-7, trials, share) <= successes <= binom.isf(5e-7, trials, share), (
            successes,
            trials,
            share,
        )

    def test_15_percent_are_predicted_80_10_10(self, cache: TokenCache) -> None:
        block, read, label = self.masked(cache, Masking(cache.tokenizer))
        special, predicted = np.isin(block, cache.tokenizer.all_special_ids), label != NOT_PREDICTED
        assert special.any()
        assert not predicted[special].any()
        assert len({tuple(of_block) for of_block in predicted.tolist()}) > 300, "each block has masks of its own"
        assert (label[predicted] == block[predicted]).all()
        assert (read[~predicted] == block[~predicted]).all()
        total = int(predicted.sum())
        self.assert_share(total, int((~special).sum()), 0.15)
        hidden, same = (
            int((read[predicted] == value).sum()) for value in (cache.tokenizer.mask_token_id, block[predicted])
        )
        random_hits = 0.1 / len(cache.tokenizer)  # a random token may be the same one, or the mask
        self.assert_share(hidden, total, 0.8 + random_hits)
        self.assert_share(same, total, 0.1 + random_hits)

    def test_they_repeat_where_they_are_static(self, cache: TokenCache) -> None:
        masking = Masking(cache.tokenizer)
        for num_duplicates, repeat in ((2, True), (None, False)):
            plan = schedule(cache, num_duplicates=num_duplicates)
            size = plan.blocks[3].blocks_a_pass
            passes = [
                [masking(*plan.block(3, first + place)) for place in range(size)] for first in range(0, 3 * size, size)
            ]
            read, label = (np.array([[block[part] for block in one] for one in passes]) for part in (0, 1))
            assert not (label[0] == label[1]).all()
            assert (label[0] == label[2]).all() == repeat
            assert (read[0] == read[2]).all() == repeat

    def test_of_words_all_tokens_are_predicted_or_none(self, corpus: ParallelCorpus) -> None:
        settings: dict[str, Any] = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "vocab_size": 60}
        encoder = HybridEncoder.from_scratch(texts(corpus, "en"), **settings)  # of few entries: words are cut
        cache = toy_cache(corpus, encoder, max_query_length=WHOLE, max_passage_length=WHOLE)
        masking, tokenizer = Masking(cache.tokenizer, whole_words=True), cache.tokenizer
        block, read, label = self.masked(cache, masking)
        special, predicted = np.isin(block, tokenizer.all_special_ids), label != NOT_PREDICTED
        words: list[list[bool]] = []
        for ids, marked in zip(block, predicted, strict=True):
            goes_on = False
            for token, chosen in zip(tokenizer.convert_ids_to_tokens(ids.tolist()), marked, strict=True):
                if token in tokenizer.all_special_tokens:
                    assert not chosen
                    goes_on = False
                    continue
                if not goes_on or token.startswith("▁"):
                    words.append([])
                words[-1].append(bool(chosen))
                goes_on = True
        assert np.mean([len(word) for word in words]) > 2
        assert all(len(set(word)) == 1 for word in words)
        self.assert_share(sum(word[0] for word in words), len(words), 0.15)
        self.assert_share(int((read[predicted] == tokenizer.mask_token_id).sum()), int(predicted.sum()), 0.8)
        assert (~predicted & ~special).any()

    def test_what_cannot_be_done_is_refused(self) -> None:
        tokenizer = families.tokenizer()
        with pytest.raises(ValueError, match="has no mask token"):
            Masking(tokenizer)
        tokenizer.add_special_tokens({"mask_token": "<mask>"})
        with pytest.raises(ValueError, match="marks neither beginnings of words"):
            Masking(tokenizer, whole_words=True)

    def test_wordpiece_marks_what_goes_on(self) -> None:
        from tokenizers import Tokenizer, models

        names = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "river", "##s", "##ide", "stone"]
        backend = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
        special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
        masking, block = Masking(tokenizer, 0.5, whole_words=True), np.array([1, 4, 5, 6, 7, 5, 2, 6, 4, 2])
        drawn = {tuple(masking(block, np.random.default_rng(seed))[1] != NOT_PREDICTED) for seed in range(200)}
        assert len(drawn) == 2**4, "of four words: riversside, stones, the rest of a word after [SEP], river"
        assert all(len({found[i] for i in word}) == 1 for found in drawn for word in ((1, 2, 3), (4, 5)))


class TestRanks:
    @pytest.mark.parametrize("world_size", [2, 3])
    def test_shares_put_together_are_the_batch(self, world_size: int, cache: TokenCache) -> None:
        plan, masking = schedule(cache), Masking(cache.tokenizer)
        collators = [MlmCollator(plan, masking, rank, world_size) for rank in range(world_size)]
        for step in (7, 0, 39):
            whole = MlmCollator(plan, masking)(step)
            parts = [collator(step) for collator in collators]
            for name in ("input_ids", "labels", "position_ids"):
                assert torch.equal(torch.cat([part["tokens"][name] for part in parts]), whole["tokens"][name])
            predicted = int((whole["tokens"]["labels"] != NOT_PREDICTED).sum())
            assert [part["num_predicted"] for part in parts] == [predicted] * world_size
            assert [part["facts"] for part in parts] == [whole["facts"]] * world_size
            assert [len(lengths) for lengths in parts[0]["lengths"]] == [
                len(s) for s in np.array_split(range(5), world_size)
            ]


ARGUMENTS: dict[str, Any] = {"use_cpu": True, "cpu_threads": 1}


class TestBudget:
    @pytest.mark.parametrize(("tokens", "steps"), [(64_000, 10), (67_199, 10), (67_201, 11), (3_201, 1)])
    def test_steps_follow_from_tokens(self, tokens: int, steps: int) -> None:
        sizes: dict[str, Any] = {"global_batch_size": 25, "block_length": 128, "gradient_accumulation_steps": 2}
        assert MlmTrainingArguments(max_tokens=tokens, **sizes, **ARGUMENTS).max_steps == steps

    def run(self, folder: Path, status: str = "finished") -> str:
        run: Any = {name: {} for name in ("config", "corpus", "plan", "environment")}
        RunFolder(folder).write_run(
            {
                **run,
                "mix": "mono=1",
                "seed": 0,
                "world_size": 1,
                "status": status,
                "changed": [],
                "identity": {},
                "model": {},
            }
        )
        return str(folder)

    def test_the_tokens_of_a_run_are_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.run(tmp_path)
        with pytest.raises(ValueError, match=r"has no resources.json. Give the folder of a finished run"):
            MlmTrainingArguments(tokens_of=folder, **ARGUMENTS)
        monkeypatch.setattr(RunFolder, "read_resources", lambda self: {"tokens": 1_000_000})
        (tmp_path / "resources.json").touch()
        assert MlmTrainingArguments(tokens_of=folder, **ARGUMENTS).max_steps == round(1_000_000 / (64 * 128))
        self.run(tmp_path, "running")
        with pytest.raises(ValueError, match=r"the run is running. Give the folder of a finished run"):
            MlmTrainingArguments(tokens_of=folder, **ARGUMENTS)

    def test_without_one_there_are_a_thousand_steps(self) -> None:
        assert MlmTrainingArguments(**ARGUMENTS).max_steps == 1000
        assert MlmTrainingArguments(max_steps=7, **ARGUMENTS).max_steps == 7

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"max_tokens": 10**6, "max_steps": 3}, "max_steps and max_tokens both say how long to train"),
            ({"max_tokens": 10**6, "tokens_of": "x"}, "max_tokens and tokens_of both say"),
            ({"tokens_of": "nowhere"}, "has no run.json"),
            ({"max_tokens": 4000}, "a budget of 4,000 tokens is less than a step of 8,192"),
            ({"block_length": 2}, "block_length must be between 8 and"),
            ({"mlm_probability": 1.0}, "mlm_probability must be between 0.001 and 0.999, got 1.0"),
            ({"masking": "whole"}, "masking must be one of static, dynamic, got 'whole'"),
            ({"num_train_epochs": 3}, "a plan has steps and no epochs"),
        ],
    )
    def test_what_cannot_be_honored_is_refused(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=re.escape(words)):
            MlmTrainingArguments(**options, **ARGUMENTS)

    def test_each_process_must_have_a_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "3")
        with pytest.raises(ValueError, match="global_batch_size=2 blocks for 3 processes: each needs at least one"):
            MlmTrainingArguments(global_batch_size=2, **ARGUMENTS)

    def test_options_of_pairs_are_none(self) -> None:
        with pytest.raises(TypeError, match="temperature"):
            MlmTrainingArguments(temperature=0.1, **ARGUMENTS)  # type: ignore[call-arg]
        assert "mix" in HybridTrainingArguments(**ARGUMENTS).to_dict()
        assert not {"mix", "language_pairs", "temperature"} & set(MlmTrainingArguments(**ARGUMENTS).to_dict())


def model_of(family: str, seed: int = 0) -> MaskedLanguageModel:
    backbone = families.backbone(family)
    options: dict[str, Any] = {"pooling": "pooler"} if family == "labse" else {}
    torch.manual_seed(seed)
    model = MaskedLanguageModel(backbone, families.tokenizer(backbone.config.pad_token_id), **options)
    with torch.no_grad():
        for weight in model.head.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model.eval()


class TestHead:
    """Packed, and of the predicted tokens alone, it is what transformers computes of whole sequences."""

    sequences = families.sequences(20, 20, 9)
    predicted = np.array([1, 5, 8, 22, 30, 41, 45])

    def labels(self) -> torch.Tensor:
        ids = np.concatenate(self.sequences)
        return torch.from_numpy(np.where(np.isin(np.arange(len(ids)), self.predicted), ids, NOT_PREDICTED))

    def losses(self, model: MaskedLanguageModel) -> torch.Tensor:
        with torch.no_grad():
            return model(**pack(self.sequences), labels=self.labels())

    @pytest.mark.parametrize("family", families.FAMILIES)
    def test_all_kinds_load_what_was_saved(self, family: str, tmp_path: Path) -> None:
        model = model_of(family)
        idle = {name.partition(".")[0] for name, weight in model.named_parameters() if not weight.requires_grad}
        assert idle == ({"projection"} if family == "labse" else set()), "of no use to this loss, but for retrieval"
        model.save_pretrained(tmp_path)
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
        theirs, found = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not found["missing_keys"]
        assert all("pooler" in name for name in found["unexpected_keys"])
        output = theirs.get_output_embeddings()
        assert output.weight is theirs.get_input_embeddings().weight
        own = self.losses(model)[:, 0]
        with torch.no_grad():
            for ids, label, loss in zip(self.sequences, self.labels().split([20, 20, 9]), own, strict=True):
                expected = theirs.eval()(input_ids=torch.from_numpy(ids)[None], labels=label[None]).loss
                assert float(loss) == pytest.approx(float(expected) * int((label != NOT_PREDICTED).sum()), rel=1e-5)
        text = families.texts(5)
        encoder = HybridEncoder.from_pretrained(tmp_path)
        assert encoder.pooling == model.pooling
        assert encoder.encode(text, "query") == pytest.approx(model.encode(text, "query"), abs=1e-6)
        again = MaskedLanguageModel.from_pretrained(tmp_path).eval()
        assert torch.equal(self.losses(again), self.losses(model))
        other = model_of(family, seed=1)
        assert not torch.allclose(self.losses(other), self.losses(model), rtol=1e-3)
        other.load_weights(tmp_path)
        assert torch.equal(self.losses(other), self.losses(model))

    def test_a_checkpoint_without_a_head_gets_a_new_one(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        families.encoder("xlm-roberta").save_pretrained(tmp_path)
        with caplog.at_level("WARNING", logger="hf_hybrid"):
            model = MaskedLanguageModel.from_pretrained(tmp_path)
        assert f"no head for masked language modeling in {tmp_path}" in caplog.text
        assert "lm_head.dense.weight" in caplog.text
        ours, theirs = (
            dict(encoder.backbone.named_parameters()) for encoder in (model, families.encoder("xlm-roberta"))
        )
        assert all(torch.equal(ours[name], weight) for name, weight in theirs.items() if "pooler" not in name)

    def test_it_begins_with_the_encoder_that_retrieval_begins_with(self) -> None:
        settings: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 60}
        made = []
        for kind in (HybridEncoder, MaskedLanguageModel):
            torch.manual_seed(0)
            made.append(kind.from_scratch(["river stone", "winter paper"], **settings))
        assert made[0].tokenizer.get_vocab() == made[1].tokenizer.get_vocab()
        ours = dict(made[1].named_parameters())
        for name, weight in made[0].named_parameters():
            assert torch.equal(ours[name], weight), name
        assert {name.partition(".")[0] for name in ours} == {"backbone", "head"}

    def test_of_another_model_no_weights_are_taken(self, tmp_path: Path) -> None:
        model_of("bert").save_pretrained(tmp_path / "bert")
        with pytest.raises(ValueError, match="holds the weights of another model"):
            model_of("roberta").load_weights(tmp_path / "bert")
        families.encoder("bert").save_pretrained(tmp_path / "encoder")
        with pytest.raises(ValueError, match="holds the weights of another model"):
            model_of("bert").load_weights(tmp_path / "encoder")

    def test_an_encoder_without_such_a_model_is_refused(self) -> None:
        backbone = families.backbone("bert")
        backbone.config = transformers.CLIPTextConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        with pytest.raises(ValueError, match="transformers has no model for masked language modeling with BertModel"):
            MaskedLanguageModel(backbone, families.tokenizer())


SETTINGS: dict[str, Any] = {
    "block_length": LENGTH,
    "global_batch_size": 6,
    "max_steps": 10,
    "learning_rate": 1e-3,
    "logging_steps": 3,
    "save_steps": 4,
    "save_total_limit": None,
    "energy": "none",
    "disable_tqdm": True,
    "report_to": "none",
    **ARGUMENTS,
}


class ToyMlmTrainer(MlmTrainer):
    """Remembers the loss of each batch of this call."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.step_losses = [*getattr(self, "step_losses", []), float(loss)]
        return loss


def toy_model(corpus: ParallelCorpus, dropout: float = 0.1) -> MaskedLanguageModel:
    """The same at every call."""
    encoder = toy_encoder(corpus, dropout=dropout)
    torch.manual_seed(1)
    return MaskedLanguageModel(encoder.backbone, encoder.tokenizer)


def trainer_of(
    folder: Path, corpus: ParallelCorpus, *callbacks: Any, dropout: float = 0.1, **options: Any
) -> ToyMlmTrainer:
    arguments = MlmTrainingArguments(str(folder), **{**SETTINGS, **options})
    model, cache_dir = toy_model(corpus, dropout), folder.parent / "cache"
    return ToyMlmTrainer(model, arguments, corpus, cache_dir=cache_dir, callbacks=list(callbacks))


def run(folder: Path, corpus: ParallelCorpus, *callbacks: Any, **options: Any) -> ToyMlmTrainer:
    trainer = trainer_of(folder, corpus, *callbacks, **options)
    trainer.train(resume_from_checkpoint=True)
    return trainer


def apart(folder: Path) -> ParallelCorpus:
    """Four languages of four words each, and none in two of them."""
    words = [
        "fluss stein winter garten",
        "river copper meadow lantern",
        "pierre hiver miroir jardin",
        "puerto cobre prado farol",
    ]
    rng = np.random.default_rng(0)
    with CorpusBuilder(folder) as builder:
        for language, own in zip(("de", "en", "fr", "es"), words, strict=True):
            queries, passages = ([" ".join(rng.choice(own.split(), size)) for _ in range(60)] for size in (3, 9))
            builder.add_language(language, [str(number) for number in range(60)], queries, passages)
        return builder.finish()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture(scope="module")
def undisturbed(corpus: ParallelCorpus, folder: Path) -> ToyMlmTrainer:
    trainer = run(folder, corpus)
    assert len(set(trainer.step_losses)) == 10
    return trainer


class TestRuns:
    @pytest.mark.slow
    def test_the_loss_begins_at_chance_and_falls_below_what_counting_gives(self, tmp_path: Path) -> None:
        """Who knows how often each token occurs, and no more, has the entropy of that as loss; of languages with words
        of their own, the neighbors of a hidden word tell more."""
        corpus = apart(tmp_path / "corpus")
        options = {"max_steps": 120, "learning_rate": 5e-3, "save_strategy": "no", "logging_steps": 60}
        trainer = run(tmp_path / "run", corpus, dropout=0.0, global_batch_size=12, block_length=32, **options)
        counts = Counter[int]()
        for step in range(120):
            labels = MlmCollator(trainer.schedule, trainer._masking)(step)["tokens"]["labels"]
            counts.update(labels[labels != NOT_PREDICTED].tolist())
        shares = np.array(list(counts.values())) / sum(counts.values())
        entropy, chance = float(-(shares * np.log(shares)).sum()), math.log(trainer.model.config.vocab_size)
        assert entropy < chance - 1
        assert trainer.step_losses[0] == pytest.approx(chance, abs=0.3)
        assert np.mean(trainer.step_losses[-20:]) < entropy - 0.2

    def test_the_log_says_what_was_used(self, undisturbed: ToyMlmTrainer, folder: Path) -> None:
        resources, (lines, _) = RunFolder(folder).read_resources(), RunFolder(folder).read_resource_lines()
        plan = undisturbed.schedule
        assert resources["tokens"] == 10 * 6 * LENGTH
        assert resources["padding_tokens"] == 0
        assert resources["num_pairs"] == 0
        assert sum(line["tokens"] for line in lines) == resources["tokens"]
        assert {line["batch_type"] for line in lines} == {"mlm"}
        assert {line["language_pair"] for line in lines} == set(resources["per_language_pair"]) == {"*"}
        for row in plan.plan():
            share = resources["per_language"][row["language_pair"]]
            assert (share["tokens"], share["steps"]) == (row["blocks"] * LENGTH, row["steps"])
        collator = MlmCollator(plan, undisturbed._masking)
        predicted = sum(collator(step)["num_predicted"] for step in range(10))
        size, vocabulary = 32, undisturbed.model.config.vocab_size
        body = 4 * size**2 + 2 * size * 4 * size  # of one layer
        expected = 6 * body * 10 * 6 * LENGTH + 12 * size * 10 * 6 * LENGTH**2
        expected += 6 * (size**2 + size * vocabulary) * predicted
        assert resources["flops"] == expected
        assert undisturbed.state.total_flos == pytest.approx(expected)
        terms = resources["flops_terms"]
        assert (terms["num_head_parameters"], terms["predicted_tokens"]) == (size**2 + size * vocabulary, predicted)
        assert "+ 6 * num_head_parameters * predicted_tokens" in resources["flops_formula"]

    @pytest.mark.slow
    def test_chunks_give_the_same_gradients(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        options: dict[str, Any] = {"max_steps": 2, "save_strategy": "no", "gradient_accumulation_steps": 2}
        whole = run(tmp_path / "whole", corpus, **options, dropout=0.0)
        chunks = run(tmp_path / "chunks", corpus, **options, dropout=0.0, chunk_tokens=2 * LENGTH)
        padded = trainer_of(tmp_path / "padded", corpus, **options, dropout=0.0)
        padded.model.attention = "sdpa"
        padded.model.backbone.set_attn_implementation("sdpa")
        padded.train()
        for other in (chunks, padded):
            assert other.step_losses == pytest.approx(whole.step_losses, rel=1e-5)
            for name, weight in weights(whole).items():
                torch.testing.assert_close(weights(other)[name], weight, rtol=1e-3, atol=1e-4, msg=name)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {
                "gradient_accumulation_steps": 2,
                "masking": "dynamic",
                "whole_word_mask": True,
                "dataloader_num_workers": 1,
            },
        ],
        ids=["static", "dynamic"],
    )
    def test_killed_ones_go_on_bit_for_bit(
        self, options: dict, undisturbed: ToyMlmTrainer, folder: Path, corpus: ParallelCorpus, tmp_path: Path
    ) -> None:
        whole = (undisturbed, folder)
        if options:
            whole = run(tmp_path / "whole", corpus, **options | {"dataloader_num_workers": 0}), tmp_path / "whole"
        with pytest.raises(Kill):
            run(tmp_path / "run", corpus, At("on_step_begin", 6, kill), **options)
        found = run(tmp_path / "run", corpus, **options)
        assert found.step_losses == whole[0].step_losses[-len(found.step_losses) :]
        assert len(found.step_losses) == 6 * options.get("gradient_accumulation_steps", 1)
        assert told(found) == told(whole[0])
        assert same_weights(found, whole[0])
        resources = [RunFolder(path).read_resources() for path in (tmp_path / "run", whole[1])]
        for name in ("num_steps", "tokens", "flops", "flops_terms"):
            assert resources[0][name] == resources[1][name], name

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"masking": "dynamic"}, "masking was 'static' and is 'dynamic'"),
            ({"block_length": 20}, "block_length was 24 and is 20"),
            ({"whole_word_mask": True}, "whole_word_mask was False and is True"),
            ({"smoothing": 1.0}, "smoothing was 0.7 and is 1.0"),
            ({"seed": 1}, "seed was 42 and is 1"),
        ],
    )
    def test_another_run_is_refused(
        self, options: dict, words: str, undisturbed: ToyMlmTrainer, folder: Path, corpus: ParallelCorpus
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(words)):
            run(folder, corpus, **options)

    def test_a_run_says_what_it_is(self, undisturbed: ToyMlmTrainer, folder: Path, corpus: ParallelCorpus) -> None:
        identity = undisturbed.identity()
        assert identity["mix"] == "mlm"
        assert identity["corpus"] == corpus.fingerprint
        assert not {"temperature", "language_pairs", "num_negatives", "max_query_length"} & set(identity)
        assert json.loads((folder / "checkpoint-8" / STATE_NAME).read_text())["run"] == identity
        (batch,) = undisturbed.describe_step(3)["batches"]
        columns = undisturbed.schedule.batch(2).columns
        assert [block["language"] for block in batch] == [LANGUAGES[column] for column in columns]

    def test_what_a_model_cannot_do_is_refused(self, corpus: ParallelCorpus, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="block_length must be at most 512, the positions of the model, got 600"):
            trainer_of(tmp_path / "run", corpus, block_length=600)


SHORT: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "dropout": 0.0, "global_batch_size": 5}
SHORT |= {"gradient_accumulation_steps": 2, "optim": "sgd", "learning_rate": 0.1}


def _two_ranks(rank: int, place: str) -> None:
    """A run of two processes, and one that continues with that of one process."""
    os.environ.update(ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    corpus = toy_corpus(**CORPUS)
    for name in ("whole", "from_one"):
        trainer = run(Path(place) / name, corpus, **SHORT)
        trainer.save_model(f"{place}/{name}/model")
        torch.save({"log": told(trainer), "weights": weights(trainer)}, f"{place}/{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """With uneven shares and gradient accumulation, from the start and from a checkpoint of one process."""
    corpus = toy_corpus(**CORPUS)
    one, start = run(tmp_path / "one", corpus, **SHORT), toy_model(corpus).state_dict()
    killed_after(2, tmp_path / "from_one", tmp_path / "one")
    mp.spawn(_two_ranks, args=(str(tmp_path),), nprocs=2)
    for name, rank in (("whole", 0), ("whole", 1), ("from_one", 0)):
        left = torch.load(tmp_path / f"{name}-{rank}.pt")
        assert [line["loss"] for line in left["log"]] == pytest.approx([line["loss"] for line in told(one)], rel=1e-5)
        for key, expected in weights(one).items():
            moved = (expected - start[key]).norm()
            assert moved > 0, key
            assert (left["weights"][key] - expected).norm() <= 1e-3 * moved + 1e-6, key
    resources = [RunFolder(tmp_path / name).read_resources() for name in ("one", "whole")]
    assert resources[0]["flops"] == resources[1]["flops"]
    assert resources[0]["tokens"] == resources[1]["tokens"] == 4 * 2 * 5 * LENGTH
