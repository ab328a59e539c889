"""Packing loses nothing, and parts of a packed row are packed rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from hf_hybrid.data.batches.packing import cut_by_tokens, pack, part, token_batches

SEQUENCES = [np.arange(10 * number, 10 * number + length) for number, length in enumerate((3, 5, 1, 4, 2))]


def sequences_of(packed: dict[str, Any]) -> list[list[int]]:
    ids, bounds = packed["input_ids"].tolist(), packed["cu_seqlens"].tolist()
    return [ids[start:end] for start, end in itertools.pairwise(bounds)]


class TestPack:
    def test_keeps_every_token(self) -> None:
        packed = pack([np.arange(3), np.arange(5), np.arange(1)])
        assert sequences_of(packed) == [[0, 1, 2], [0, 1, 2, 3, 4], [0]]
        assert packed["position_ids"].tolist() == packed["input_ids"].tolist()
        assert packed["sequence_ids"].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 2]
        assert packed["lengths"].tolist() == [3, 5, 1]


class TestPart:
    @pytest.mark.parametrize(("first", "end"), itertools.combinations(range(len(SEQUENCES) + 1), 2))
    def test_is_the_packed_row_of_those_sequences(self, first: int, end: int) -> None:
        found, expected = part(pack(SEQUENCES), first, end), pack(SEQUENCES[first:end])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert np.array_equal(found[name], value), name
            assert found[name].dtype == value.dtype
        assert all(torch.is_tensor(found[name]) == torch.is_tensor(value) for name, value in expected.items())


class TestCut:
    @pytest.mark.parametrize("budget", [1, 50, 333, 100_000])
    def test_parts_are_in_order_within_the_budget_and_not_smaller_than_need_be(self, budget: int) -> None:
        lengths = np.random.default_rng(0).integers(1, 60, size=200)
        bounds = cut_by_tokens(lengths, budget)
        assert [first for first, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
        assert bounds[-1][1] == 200
        assert all(end - first == 1 or lengths[first:end].sum() <= budget for first, end in bounds)
        assert all(lengths[first : end + 1].sum() > budget for first, end in bounds[:-1])


class TestTokenBatches:
    @pytest.mark.parametrize("budget", [1, 50, 333, 100_000])
    def test_parts_every_sequence_once_within_the_budget(self, budget: int) -> None:
        lengths = np.random.default_rng(0).integers(1, 60, size=200).tolist()
        batches = list(token_batches(lengths, budget))
        assert sorted(np.concatenate(batches).tolist()) == list(range(200))
        assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= budget for batch in batches)
        longest = [max(lengths[i] for i in batch) for batch in batches]
        assert longest == sorted(longest, reverse=True)

    def test_of_nothing_is_nothing(self) -> None:
        assert list(token_batches([], 10)) == []
