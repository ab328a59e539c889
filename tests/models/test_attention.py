"""Packed attention against the definition, written out for one sequence after the other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, MobileBertConfig, MobileBertModel

from hf_hybrid.models import attention
from hf_hybrid.models.attention import (
    LengthBuckets,
    attend_packed,
    can_pack,
    choose_attention,
    flash_runs,
    length_buckets,
)
from tests.support import families
from tests.support.families import assert_near, differ

LENGTHS = (2, 40, 3, 17, 9, 2, 31, 33)
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # queries, keys and values
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def bounds(lengths: tuple[int, ...] = LENGTHS) -> torch.Tensor:
    return torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int32)


def heads(num_heads: int = 4, num_key_heads: int = 4) -> Heads:
    """Of shape `(1, H, T, E)`, in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        return torch.randn(1, count, sum(LENGTHS), 8, dtype=torch.float64, generator=generator, requires_grad=True)

    return draw(num_heads), draw(num_key_heads), draw(num_key_heads)


def reference(
    tensors: Heads, cu_seqlens: torch.Tensor, window: int | None = None, scaling: float | None = None
) -> torch.Tensor:
    """softmax(q k^T s) v of each sequence by itself, `(1, T, H, E)`."""
    query, key, value = tensors
    group = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs = []
    for start, end in itertools.pairwise(cu_seqlens.tolist()):
        q, k, v = query[0, :, start:end], key[0, :, start:end], value[0, :, start:end]
        k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
        scores = q @ k.transpose(1, 2) * scale
        steps = torch.arange(end - start, device=query.device)
        far = (steps[:, None] - steps[None, :]).abs() >= (window or len(steps) + 1)
        outputs.append(scores.masked_fill(far, -torch.inf).softmax(-1) @ v)
    return torch.cat(outputs, dim=1).transpose(0, 1)[None]


def run(
    tensors: Heads, cu_seqlens: torch.Tensor, buckets: LengthBuckets | None = None, **options: Any
) -> torch.Tensor:
    """As the encoder does: tokens go in in the order of the buckets, and come out in their own."""
    options |= {"cu_seq_lens_q": cu_seqlens, "max_length_q": int(cu_seqlens.diff().max()), "buckets": buckets}
    if buckets is not None:
        tensors = (
            tensors[0][:, :, buckets.token_S],
            tensors[1][:, :, buckets.token_S],
            tensors[2][:, :, buckets.token_S],
        )
    output = attend_packed(nn.Identity(), *tensors, attention_mask=None, **options)[0]
    return output if buckets is None else output[:, buckets.position_T]


def output_and_gradients(output: torch.Tensor, tensors: Heads) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), tensors)]


class TestLengthBuckets:
    def test_holds_every_token_once_with_bounded_padding(self) -> None:
        lengths = tuple(np.random.default_rng(0).integers(1, 200, size=300).tolist())
        found = length_buckets(np.array(lengths))
        assert torch.equal(found.token_S[found.position_T], torch.arange(sum(lengths)))
        assert sum(lengths) < len(found.token_S) <= 1.25 * sum(lengths)
        assert sorted(torch.cat([bucket.sequences for bucket in found.buckets]).tolist()) == list(range(300))
        for bucket in found.buckets:
            assert bucket.valid_NL.sum(1).tolist() == [lengths[number] for number in bucket.sequences]

    def test_infinite_growth_makes_one_bucket(self) -> None:
        found = length_buckets(np.array(LENGTHS), growth=float("inf"))
        assert len(found.buckets) == 1
        assert len(found.token_S) == len(LENGTHS) * max(LENGTHS)

    def test_equal_lengths_need_no_padding(self) -> None:
        found = length_buckets(np.array((5, 5, 5)))
        assert [bucket.valid_NL.all().item() for bucket in found.buckets] == [True]


class TestPackedAttention:
    @pytest.mark.parametrize("growth", [1.0, 1.25, float("inf")])
    @pytest.mark.parametrize("window", [None, 1, 3, 64])
    def test_equals_attention_of_each_sequence(self, growth: float, window: int | None) -> None:
        tensors, cu = heads(), bounds()
        found = run(tensors, cu, buckets=length_buckets(np.array(LENGTHS), growth=growth), sliding_window=window)
        expected = output_and_gradients(reference(tensors, cu, window), tensors)
        for one, other in zip(output_and_gradients(found, tensors), expected, strict=True):
            assert_near(one, other, 1e-12)

    def test_long_sequences_take_the_fused_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tensors, cu = heads(), bounds()
        buckets = length_buckets(np.array(LENGTHS), growth=1.0)
        written_out = run(tensors, cu, buckets=buckets)
        monkeypatch.setattr(attention, "_LONGEST_WRITTEN_OUT", 16)
        calls: list[int] = []
        fused = nn.functional.scaled_dot_product_attention

        def watched(query: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            calls.append(query.shape[2])
            return fused(query, *args, **options)

        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
        assert_near(run(tensors, cu, buckets=buckets), written_out, 1e-12)
        assert calls == sorted({length for length in LENGTHS if length > 16})

    def test_no_row_of_a_mask_is_empty(self) -> None:
        bucket = length_buckets(np.array(LENGTHS), growth=float("inf")).buckets[0]
        mask = attention._mask(bucket, sliding_window=3)
        assert mask is not None
        assert mask.shape == (len(LENGTHS), 1, max(LENGTHS), max(LENGTHS))
        assert mask.any(-1).all()
        assert not mask[0, 0, 0, 2:].any()  # the first query of a sequence of two sees those two, not the padding

    def test_without_bounds_the_result_is_another(self) -> None:
        tensors, cu = heads(), bounds()
        expected = reference(tensors, cu)
        whole = torch.tensor([0, sum(LENGTHS)], dtype=torch.int32)
        assert differ(run(tensors, whole, buckets=length_buckets(np.array([sum(LENGTHS)]))), expected)
        assert differ(reference(tensors, cu, window=3), expected)

    def test_query_heads_may_share_keys_and_scores_be_scaled(self) -> None:
        tensors, cu = heads(num_heads=6, num_key_heads=2), bounds()
        found = run(tensors, cu, buckets=length_buckets(np.array(LENGTHS)), scaling=0.7)
        assert_near(found, reference(tensors, cu, scaling=0.7), 1e-12)

    def test_dropout_is_drawn_anew_and_follows_the_seed(self) -> None:
        tensors, cu = heads(), bounds()
        buckets = length_buckets(np.array(LENGTHS))
        torch.manual_seed(1)
        first, second = (run(tensors, cu, buckets=buckets, dropout=0.5) for _ in range(2))
        torch.manual_seed(1)
        assert torch.equal(run(tensors, cu, buckets=buckets, dropout=0.5), first)
        assert differ(first, second)

    @pytest.mark.parametrize("term", ["position_bias", "softcap", "s_aux"])
    def test_terms_that_it_does_not_compute_are_refused(self, term: str) -> None:
        tensors, cu = heads(), bounds()
        with pytest.raises(ValueError, match=f"gives {term}"):
            run(tensors, cu, buckets=length_buckets(np.array(LENGTHS)), **{term: torch.ones(1)})


class TestFlash:
    """The call of the flash kernel, which needs a GPU, with the definition in its place."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def varlen(
            q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, **options: Any
        ) -> torch.Tensor:
            assert cu_q is cu_k
            assert q.dtype == k.dtype == v.dtype
            calls.append(options | {"max_length": max_q})
            left, right = options.get("window_size", (-1, -1))
            assert left == right
            tensors = (q.transpose(0, 1)[None], k.transpose(0, 1)[None], v.transpose(0, 1)[None])
            return reference(tensors, cu_q, window=None if left < 0 else left + 1)[0]

        monkeypatch.setattr(attention, "varlen_attn", varlen)
        monkeypatch.setattr(attention, "_VARLEN_TAKES_WINDOW", True)
        return calls

    @pytest.mark.parametrize("window", [None, 5, 100])
    def test_equals_attention_of_each_sequence(self, calls: list[dict[str, Any]], window: int | None) -> None:
        tensors, cu = heads(num_heads=6, num_key_heads=2), bounds()
        found = run(tensors, cu, sliding_window=window, scaling=0.7)
        assert_near(found, reference(tensors, cu, window, scaling=0.7), 1e-12)
        expected = {"window_size": (4, 4)} if window == 5 else {}  # a window past the longest sequence is none
        assert calls == [expected | {"max_length": max(LENGTHS)}]

    @pytest.mark.usefixtures("calls")
    def test_queries_and_keys_take_the_type_of_the_values(self) -> None:
        query, key, value = heads()
        found = run((query, key, value.to(torch.bfloat16)), bounds())
        assert found.dtype == torch.bfloat16

    def test_a_torch_without_windows_is_named(
        self, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attention, "_VARLEN_TAKES_WINDOW", False)
        with pytest.raises(ValueError, match=r"no sliding window.*attention='sdpa'"):
            run(heads(), bounds(), sliding_window=5)
        run(heads(), bounds(), sliding_window=max(LENGTHS))  # which none of the sequences passes
        assert len(calls) == 1

    def test_runs_in_half_precision_on_recent_gpus_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device.index else (8, 0))
        assert flash_runs(torch.device("cuda", 0), torch.bfloat16)
        assert flash_runs(torch.device("cuda", 0), torch.float16)
        assert not flash_runs(torch.device("cuda", 0), torch.float32)
        assert not flash_runs(torch.device("cuda", 1), torch.float16)
        assert not flash_runs(torch.device("cpu"), torch.bfloat16)

    @pytest.mark.gpu
    @needs_gpu
    @pytest.mark.parametrize("window", [None, 5])
    def test_kernel_equals_attention_of_each_sequence(self, window: int | None) -> None:
        if window and not attention._VARLEN_TAKES_WINDOW:
            pytest.skip("this torch has no sliding window")
        cu = bounds().cuda()
        q, k, v = (tensor.detach().to("cuda", torch.bfloat16).requires_grad_() for tensor in heads(6, 2))
        tensors, exact = (q, k, v), (q.double(), k.double(), v.double())
        found = output_and_gradients(run(tensors, cu, sliding_window=window, scaling=0.7), tensors)
        expected = output_and_gradients(reference(exact, cu, window, scaling=0.7), tensors)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other, 2e-2)


class TestChoice:
    @pytest.mark.parametrize("family", families.PACKABLE)
    def test_encoders_run_packed(self, family: str) -> None:
        assert choose_attention(families.backbone(family), "auto") == "varlen"

    def test_models_whose_rows_mix_tokens_do_not(self) -> None:
        sizes: dict[str, Any] = {
            "vocab_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        }
        causal = LlamaModel(LlamaConfig(hidden_size=16, **sizes))
        neighbors = MobileBertModel(MobileBertConfig(hidden_size=16, embedding_size=16, **sizes))
        for model in (causal, neighbors, families.backbone("mpnet")):
            assert not can_pack(model)
            assert choose_attention(model, "auto") in ("sdpa", "eager")
            with pytest.raises(ValueError, match=f"{type(model).__name__} cannot run packed"):
                choose_attention(model, "varlen")

    def test_unknown_word_is_refused_with_the_known(self) -> None:
        with pytest.raises(ValueError, match="auto, varlen, sdpa, flash_attention_2, eager; got 'flash'"):
            choose_attention(families.backbone("bert"), "flash")
