"""The encoder: packed equals padded for every family, and what training and evaluation ask of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, T5Config, T5Model

from hf_hybrid.data.batches.packing import pack
from hf_hybrid.models import attention as attention_module
from hf_hybrid.models.attention import length_buckets
from hf_hybrid.models.encoder import HybridEncoder
from tests.support import families
from tests.support.families import FAMILIES, MAX_LENGTH, PACKABLE, assert_near, differ

LENGTHS = (2, MAX_LENGTH, 3, 17, 9, 4, 31, 33)
ROTARY = ("modernbert",)  # these know distances only: a shift of all positions changes nothing
TEXTS = families.texts(1, 5, 30, 12, 3, 8, 2)
TINY_T5 = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def step(
    encoder: HybridEncoder, sequences: list[np.ndarray] | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Embeddings of a packed batch, and the gradients of a loss that weighs all of them differently."""
    packed = pack(sequences or families.sequences(*LENGTHS))
    embeddings = encoder(**{key: v.to(encoder.device) if torch.is_tensor(v) else v for key, v in packed.items()})
    weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0)).to(encoder.device)
    encoder.zero_grad()
    (embeddings * weights).sum().backward()
    gradients = {name: p.grad.float().cpu() for name, p in encoder.named_parameters() if p.grad is not None}
    return embeddings.detach().cpu(), gradients


def assert_same_step(encoder: HybridEncoder, other: HybridEncoder, tolerance: float = 1e-5) -> None:
    (found, found_gradients), (expected, expected_gradients) = step(encoder), step(other)
    assert_near(found, expected, tolerance)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in found_gradients.items():
        assert_near(gradient, expected_gradients[name], tolerance)
    # Not vacuous: sequences differ from each other, and every weight is trained.
    assert all(differ(expected[0], row) for row in expected[1:])
    assert all(gradient.abs().max() > 0 for gradient in expected_gradients.values())
    assert expected_gradients.keys() == dict(other.named_parameters()).keys()


class TestPackedEqualsPadded:
    @pytest.mark.parametrize("padded", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", PACKABLE)
    def test_embeddings_and_gradients(self, family: str, padded: str) -> None:
        packed, other = families.encoder(family, attention="varlen"), families.encoder(family, attention=padded)
        assert (packed.attention, other.attention) == ("varlen", padded)
        assert_same_step(packed, other)

    @pytest.mark.parametrize("pooling", ["cls", "pooler"])
    @pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
    def test_of_the_first_state(self, family: str, pooling: str) -> None:
        packed, padded = (families.encoder(family, pooling=pooling, attention=name) for name in ("varlen", "sdpa"))
        assert_same_step(packed, padded)

    def test_mpnet_falls_back_to_padding(self) -> None:
        encoder = families.encoder("mpnet")
        assert encoder.attention != "varlen"
        single = families.encoder("mpnet", attention="eager")
        single.num_length_buckets = 1
        assert_same_step(encoder, single)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_sequence_does_not_depend_on_its_batch(self, family: str) -> None:
        encoder, sequences = families.encoder(family), families.sequences(*LENGTHS)
        together = encoder.embed(sequences)
        for number, sequence in enumerate(sequences):
            assert_near(encoder.embed([sequence])[0], together[number])

    # What the tests above would find.

    @pytest.mark.parametrize("family", PACKABLE)
    def test_without_bounds_between_sequences_they_differ(self, family: str) -> None:
        encoder, packed = families.encoder(family), pack(families.sequences(*LENGTHS))
        whole = torch.tensor([0, len(packed["input_ids"])], dtype=torch.int32)
        with torch.no_grad():
            right, wrong = (
                encoder._run_packed(packed["input_ids"], packed["position_ids"], cu, lengths)
                for cu, lengths in ((packed["cu_seqlens"], packed["lengths"]), (whole, whole[1:].numpy()))
            )
        assert differ(right, wrong, 0.1)

    @pytest.mark.parametrize("family", [family for family in PACKABLE if family not in ROTARY])
    def test_from_another_first_position_they_differ(self, family: str) -> None:
        encoder, short = families.encoder(family), families.sequences(5, 9)
        expected = encoder.embed(short)
        assert encoder.position_offset == (2 if "roberta" in family else 0)
        encoder.position_offset += 1
        assert differ(encoder.embed(short), expected)

    def test_without_the_sliding_window_they_differ(self) -> None:
        encoder, sequences = families.encoder("modernbert"), families.sequences(5, MAX_LENGTH)
        windows: list[Any] = [module for module in encoder.modules() if getattr(module, "sliding_window", None)]
        assert [module.sliding_window for module in windows] == [5]
        expected = encoder.embed(sequences)
        windows[0].sliding_window = None
        found = encoder.embed(sequences)
        assert_near(found[0], expected[0])  # shorter than the window
        assert differ(found[1], expected[1])


class TestPrecision:
    @pytest.mark.parametrize("family", PACKABLE)
    def test_packed_equals_padded_in_bfloat16(self, family: str) -> None:
        embeddings = []
        for name in ("varlen", "sdpa"):
            encoder = families.encoder(family, attention=name)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                embeddings.append(encoder.embed(families.sequences(*LENGTHS)))
        exact = families.encoder(family).embed(families.sequences(*LENGTHS))
        assert embeddings[0].dtype == torch.float32
        assert differ(embeddings[0], exact, 1e-5)  # it did run in bfloat16
        assert_near(embeddings[0], embeddings[1], 1e-2)

    @pytest.mark.parametrize("family", ["bert", "labse"])
    def test_weights_in_bfloat16_give_embeddings_in_float32(self, tmp_path: Path, family: str) -> None:
        encoder = families.encoder(family)
        encoder.save_pretrained(tmp_path)
        half = HybridEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
        found = half.encode(TEXTS, "query")
        assert found.dtype == np.float32
        assert_near(found, encoder.encode(TEXTS, "query"), 5e-2)
        half.to(torch.bfloat16).encode(TEXTS, "query")  # the projection too, as DeepSpeed does


@pytest.mark.gpu
@needs_gpu
class TestFlash:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
        calls: list[torch.dtype] = []
        kernel = attention_module.varlen_attn

        def counted(query: torch.Tensor, *args: Any, **options: Any) -> Any:
            calls.append(query.dtype)
            return kernel(query, *args, **options)

        monkeypatch.setattr(attention_module, "varlen_attn", counted)
        return calls

    @pytest.mark.parametrize("autocast", [True, False])
    @pytest.mark.parametrize("family", PACKABLE)
    def test_equals_padded_in_bfloat16(self, calls: list[torch.dtype], family: str, autocast: bool) -> None:
        if family == "modernbert" and not attention_module._VARLEN_TAKES_WINDOW:
            pytest.skip("this torch has no sliding window")
        embeddings = []
        for name in ("varlen", "sdpa"):
            encoder = families.encoder(family, attention=name).to(
                "cuda", torch.float32 if autocast else torch.bfloat16
            )
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
                embeddings.append(step(encoder)[0])
        assert calls
        assert set(calls) == {torch.bfloat16}
        assert_near(embeddings[0], embeddings[1], 2e-2)

    @pytest.mark.parametrize("family", ["bert", "modernbert"])
    def test_is_not_used_in_float32_or_with_dropout(self, calls: list[torch.dtype], family: str) -> None:
        packed, padded = (families.encoder(family, attention=name).cuda() for name in ("varlen", "sdpa"))
        assert_same_step(packed, padded, 1e-4)
        dropping = families.encoder(family, _dropout(family, attention=0.5, hidden=0.0)).cuda().train()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            step(dropping)
        assert not calls


def _dropout(family: str, attention: float, hidden: float) -> dict[str, float]:
    """Rates in the words of a family's configuration."""
    if family == "distilbert":
        return {"attention_dropout": attention, "dropout": hidden}
    if family == "modernbert":
        return {"attention_dropout": attention, "mlp_dropout": hidden, "embedding_dropout": hidden}
    return {"attention_probs_dropout_prob": attention, "hidden_dropout_prob": hidden}


class TestDropout:
    @pytest.mark.parametrize("family", PACKABLE)
    def test_of_attention_runs_packed(self, family: str) -> None:
        encoder = families.encoder(family, _dropout(family, attention=0.5, hidden=0.0)).train()
        (first, gradients), (second, _) = step(encoder), step(encoder)
        assert differ(first, second)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        assert_near(encoder.eval()(**pack(families.sequences(*LENGTHS))), step(families.encoder(family))[0])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_of_attention_is_switched_off_on_loading(self, tmp_path: Path, family: str) -> None:
        families.encoder(family, _dropout(family, attention=0.5, hidden=0.0)).save_pretrained(tmp_path)
        kept = HybridEncoder.from_pretrained(tmp_path, attention_dropout=None).train()
        off = HybridEncoder.from_pretrained(tmp_path).train()
        assert differ(step(kept)[0], step(kept)[0])
        assert torch.equal(step(off)[0], step(off)[0])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_of_hidden_states_is_left_alone(self, tmp_path: Path, family: str) -> None:
        families.encoder(family, _dropout(family, attention=0.0, hidden=0.4)).save_pretrained(tmp_path)
        loaded = HybridEncoder.from_pretrained(tmp_path, attention_dropout=0.1)
        rates = [module.p for module in loaded.modules() if isinstance(module, nn.Dropout)]
        made = families.backbone(family, **_dropout(family, attention=0.1, hidden=0.4))
        assert rates == [module.p for module in made.modules() if isinstance(module, nn.Dropout)]
        assert 0.4 in rates


class TestGradientCheckpointing:
    def enable_before_5_20(self, encoder: HybridEncoder) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def enable(self, encoder: HybridEncoder) -> None:
        if not hasattr(PreTrainedModel, "activation_checkpointing_enable"):
            pytest.skip("this transformers has the older name only")
        encoder.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})

    @pytest.mark.parametrize("name", ["enable", "enable_before_5_20"])
    @pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
    def test_gives_equal_gradients_from_recomputed_states(self, family: str, name: str) -> None:
        plain, saving = (families.encoder(family, _dropout(family, 0.0, 0.0)).train() for _ in range(2))
        getattr(self, name)(saving)
        calls = {encoder: self.count_calls(encoder) for encoder in (plain, saving)}
        assert_same_step(saving, plain)
        assert len(calls[saving]) == 2 * len(calls[plain]) > 0

    @staticmethod
    def count_calls(encoder: HybridEncoder) -> list[nn.Module]:
        """Grows by one with each call of a layer's first linear map."""
        calls: list[nn.Module] = []
        for name, module in encoder.backbone.named_modules():
            if name.endswith((".query", ".Wqkv")):
                module.register_forward_hook(lambda module, *_: calls.append(module))
        return calls


class TestEncode:
    @pytest.fixture
    def encoder(self) -> HybridEncoder:
        return families.encoder("xlm-roberta", query_prompt="query: ", max_length=20)

    def test_keeps_the_order_whatever_the_batches(self, encoder: HybridEncoder) -> None:
        one_by_one = np.concatenate([encoder.encode([text], "query") for text in TEXTS])
        for batch_tokens in (1, 16, 10_000):
            assert_near(encoder.encode(TEXTS, "query", batch_tokens=batch_tokens), one_by_one)
        assert differ(one_by_one, encoder.encode(TEXTS, "passage"))

    @pytest.mark.parametrize("world_size", [2, 3, 10])
    def test_shares_sum_to_the_whole_in_equally_many_passes(
        self, encoder: HybridEncoder, monkeypatch: pytest.MonkeyPatch, world_size: int
    ) -> None:
        passes: list[int] = []
        embed = encoder.embed

        def counted(sequences: list[np.ndarray]) -> torch.Tensor:
            passes[-1] += 1
            return embed(sequences)

        monkeypatch.setattr(encoder, "embed", counted)
        shares = []
        for rank in range(world_size):
            passes.append(0)
            shares.append(encoder.encode(TEXTS, "query", batch_tokens=12, share=(rank, world_size)))
        assert len(set(passes)) == 1
        assert_near(sum(shares), encoder.encode(TEXTS, "query"))
        assert all((np.abs(share).sum(1) > 0).sum() < len(TEXTS) for share in shares)

    def test_of_no_texts_is_empty(self, encoder: HybridEncoder) -> None:
        found = encoder.encode([], "query")
        assert found.shape == (0, 32)
        assert found.dtype == np.float32

    def test_runs_without_dropout_and_restores_the_mode(self, encoder: HybridEncoder) -> None:
        expected = encoder.encode(TEXTS, "query")
        encoder.train()
        try:
            assert np.array_equal(encoder.encode(TEXTS, "query"), expected)
            assert encoder.training
            assert encoder.backbone.training
            with pytest.raises(IndexError):
                encoder.embed([np.array([10_000])])
            assert encoder.training
        finally:
            encoder.eval()

    def test_cuts_at_max_length(self, encoder: HybridEncoder) -> None:
        first = TEXTS[2].split()
        assert len(first) > 20
        assert_near(encoder.encode([" ".join(first[:18])], "passage"), encoder.encode([" ".join(first)], "passage"))

    def test_unknown_side_is_refused(self, encoder: HybridEncoder) -> None:
        with pytest.raises(ValueError, match="side must be one of query, passage; got 'document'"):
            encoder.encode(TEXTS, "document")


class TestPaddedBatches:
    def test_count_their_padding(self) -> None:
        encoder, lengths = families.encoder("bert", attention="sdpa"), np.array(LENGTHS)
        buckets = length_buckets(lengths)
        assert encoder.count_padding(lengths) == len(buckets.token_S) - sum(LENGTHS) > 0
        assert families.encoder("bert").count_padding(lengths) == 0

    def test_make_one_call_where_ranks_must_step_alike(self) -> None:
        encoder = families.encoder("bert", attention="sdpa")
        calls: list[torch.Size] = []
        embeddings: Any = encoder.backbone.embeddings
        embeddings.register_forward_hook(lambda module, args, output: calls.append(output.shape[:2]))
        several = encoder.embed(families.sequences(*LENGTHS))
        assert len(calls) > 1
        calls.clear()
        encoder.num_length_buckets = 1
        assert_near(encoder.embed(families.sequences(*LENGTHS)), several)
        assert calls == [(len(LENGTHS), MAX_LENGTH)]
        assert encoder.count_padding(np.array(LENGTHS)) == len(LENGTHS) * MAX_LENGTH - sum(LENGTHS)


class TestWeights:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_are_loaded_in_place(self, tmp_path: Path, family: str) -> None:
        encoder = families.encoder(family)
        encoder.save_pretrained(tmp_path)
        expected = encoder.encode(TEXTS, "query")
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(torch.randn_like(parameter))
        assert differ(encoder.encode(TEXTS, "query"), expected)
        encoder.load_weights(tmp_path)
        assert np.array_equal(encoder.encode(TEXTS, "query"), expected)

    def test_of_another_model_are_refused(self, tmp_path: Path) -> None:
        families.encoder("bert").save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds the weights of another model"):
            families.encoder("distilbert").load_weights(tmp_path)

    def test_gathered_from_shards_are_those_saved(self, tmp_path: Path) -> None:
        encoder = families.encoder("labse")
        gathered = {name: weight + 1.0 for name, weight in encoder.state_dict().items()}
        encoder.save_pretrained(tmp_path, state_dict=gathered)
        found = HybridEncoder.from_pretrained(tmp_path).state_dict()
        assert found.keys() == gathered.keys()
        assert all(torch.equal(found[name], gathered[name]) for name in gathered)


class TestMaking:
    def test_from_scratch_follows_the_seed(self) -> None:
        def make() -> HybridEncoder:
            torch.manual_seed(3)
            return HybridEncoder.from_scratch(iter(TEXTS), hidden_size=16, num_layers=1, num_heads=2, vocab_size=60)

        first, second = make(), make()
        assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
        assert len(first.tokenizer) <= 60
        assert np.array_equal(first.encode(TEXTS, "query"), second.encode(TEXTS, "query"))

    def test_embeddings_have_length_one_or_not(self) -> None:
        for normalize in (True, False):
            norms = np.linalg.norm(families.encoder("bert", normalize=normalize).encode(TEXTS, "query"), axis=1)
            assert np.allclose(norms, 1.0, atol=1e-5) is normalize

    def test_token_embeddings_are_the_backbones(self) -> None:
        for family in FAMILIES:
            encoder = families.encoder(family)
            assert isinstance(encoder.get_input_embeddings(), nn.Embedding)
            assert encoder.get_input_embeddings() is encoder.backbone.get_input_embeddings()

    def test_length_is_at_most_that_of_the_positions(self) -> None:
        for family in FAMILIES:
            encoder = families.encoder(family, max_length=10_000)
            assert encoder.max_length == MAX_LENGTH
            encoder.encode([" ".join(TEXTS)], "query")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: families.encoder("bert", pooling="max"), "pooling must be one of mean, cls, pooler; got 'max'"),
            (lambda: families.encoder("bert", attention="fast"), "attention must be one of auto, varlen, .*'fast'"),
            (lambda: families.encoder("mpnet", attention="varlen"), "MPNetModel cannot run packed"),
            (lambda: families.encoder("electra", pooling="pooler"), "ElectraModel has no pooler"),
            (lambda: HybridEncoder(T5Model(TINY_T5), families.tokenizer()), "t5 is an encoder-decoder"),
        ],
    )
    def test_what_cannot_be_is_refused(self, make: Callable[[], HybridEncoder], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()
