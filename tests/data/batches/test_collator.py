"""Tokens from the cache equal the tokenizer's, slices of the ranks equal the global batch."""

from __future__ import annotations

import hashlib
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from hf_hybrid.data.batches.collator import HybridCollator, HybridInputs, StepDataset
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sides import PASSAGE, QUERY
from tests.support.toys import toy_cache, toy_collators, toy_corpus, toy_encoder

STEPS = 200


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return toy_corpus(group_size=2, negatives=3)


@pytest.fixture(scope="module")
def cache(corpus: ParallelCorpus) -> TokenCache:
    return toy_cache(corpus, query_prompt="query: ", passage_prompt="passage: ", max_passage_length=20)


@pytest.fixture(scope="module")
def schedule(corpus: ParallelCorpus) -> HybridSchedule:
    return HybridSchedule(corpus, "mono=1,cross=1,pool=1", global_batch_size=10, num_steps=STEPS, seed=3)


def sequences(tokens: dict) -> list[list[int]]:
    bounds = tokens["cu_seqlens"].tolist()
    ids = tokens["input_ids"].tolist()
    return [ids[start:end] for start, end in itertools.pairwise(bounds)]


def test_cache_holds_what_the_tokenizer_says(corpus: ParallelCorpus, cache: TokenCache) -> None:
    tokenizer = toy_encoder(corpus).tokenizer
    truncated = 0
    for column, language in enumerate(corpus.languages):
        for side, texts, prompt, length in [
            (QUERY, corpus.queries(language), "query: ", 64),
            (PASSAGE, corpus.passages(language), "passage: ", 20),
        ]:
            used = set(corpus.rows[:, column, side].tolist())
            for row, text in enumerate(texts.to_pylist()):
                expected = tokenizer(prompt + text)["input_ids"]
                truncated += row in used and len(expected) > length
                expected = tokenizer(prompt + text, truncation=True, max_length=length)["input_ids"]
                assert cache.tokens(side, language, row).tolist() == (expected if row in used else [])
    assert 0 < truncated == cache.build()["truncated_texts"]


def test_cache_is_built_once_and_keyed_by_what_it_depends_on(corpus: ParallelCorpus, cache: TokenCache) -> None:
    files = {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    cache.build()
    assert {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()} == files
    encoder, parent = toy_encoder(corpus), cache.folder.parent
    views: list[tuple[ParallelCorpus, dict[str, Any]]] = [
        (corpus, {}),
        (corpus, {"query_prompt": "q"}),
        (corpus, {"max_passage_length": 30}),
        (corpus.select_languages(["en", "de"]), {}),
        (corpus.split(0.2)[0], {}),
    ]
    folders = {TokenCache(view, encoder.tokenizer, cache_dir=parent, **options).folder for view, options in views}
    assert len(folders) == 5
    encoder.tokenizer(["a call that changes the truncation of the tokenizer"], truncation=True, max_length=4)
    assert TokenCache(corpus, encoder.tokenizer, cache_dir=parent).folder in folders


def test_a_torn_file_is_not_taken_for_a_cache(corpus: ParallelCorpus) -> None:
    cache = toy_cache(corpus)
    path = cache.folder / "en.queries.arrow"
    whole = path.read_bytes()
    path.rename(path.with_suffix(".999.tmp"))
    cache = TokenCache(corpus, toy_encoder(corpus).tokenizer, cache_dir=cache.folder.parent)
    cache.build()
    assert path.read_bytes() == whole


def stream_hash(schedule: HybridSchedule, cache: TokenCache, world_size: int, start: int = 0) -> str:
    """What all ranks together see, step by step: texts and targets, put back in the order of one process."""
    collators = toy_collators(schedule, cache, world_size, num_negatives=2)
    digest = hashlib.sha256()
    for step in range(start, STEPS):
        ranks = [collator(step) for collator in collators]
        digest.update(json.dumps(reassemble(ranks)).encode())
    return digest.hexdigest()


def reassemble(ranks: list[HybridInputs]) -> list:
    queries: list[list[int]] = []
    pairs: list[tuple[int, list[int]]] = []
    negatives: list[list[int]] = []
    groups: list[int] = []
    for inputs in ranks:
        targets, texts = inputs["targets"], sequences(inputs["tokens"])
        rank = targets["rank"]
        own = targets["query_counts"][rank]
        first = sum(targets["passage_counts"][:rank])
        for query, passage in zip(
            targets["positive_query_P"].tolist(), targets["positive_passage_P"].tolist(), strict=True
        ):
            pairs.append((len(queries) + query, texts[own + passage - first]))
        negatives += texts[own + len(targets["positive_query_P"]) : own + targets["passage_counts"][rank]]
        queries += texts[:own]
        groups = targets["query_groups_Q"].tolist()
    return [queries, pairs, negatives, groups]


@pytest.mark.slow
def test_the_stream_is_the_same_on_any_world_size(schedule: HybridSchedule, cache: TokenCache) -> None:
    hashes = {world_size: stream_hash(schedule, cache, world_size) for world_size in (1, 2, 4, 8, 16)}
    assert len(set(hashes.values())) == 1, hashes


@pytest.mark.parametrize("start", [1, 77, 199])
def test_a_restart_goes_on_with_the_same_stream(schedule: HybridSchedule, cache: TokenCache, start: int) -> None:
    again = HybridSchedule(schedule.corpus, schedule.mix, global_batch_size=10, num_steps=STEPS, seed=3)
    assert stream_hash(again, cache, 4, start) == stream_hash(schedule, cache, 1, start)


def test_workers_give_the_same_batches(schedule: HybridSchedule, cache: TokenCache) -> None:
    dataset = StepDataset(HybridCollator(schedule, cache))
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
        found = [inputs["tokens"]["input_ids"].tolist() for _, inputs in zip(range(10), loader, strict=False)]
        assert found == [dataset[step]["tokens"]["input_ids"].tolist() for step in range(10)]


def test_every_positive_is_its_querys_own_passage(
    corpus: ParallelCorpus, schedule: HybridSchedule, cache: TokenCache
) -> None:
    for step in range(20):
        batch, inputs = schedule.batch(step), HybridCollator(schedule, cache, num_negatives=1)(step)
        targets = inputs["targets"]
        query_groups = targets["query_groups_Q"][targets["positive_query_P"]]
        assert torch.equal(query_groups, targets["passage_groups_G"][targets["positive_passage_P"]])
        texts = sequences(inputs["tokens"])[len(batch.items) :]
        for number, (item, language) in enumerate(zip(batch.positive_items, batch.positive_languages, strict=True)):
            row = corpus.rows[batch.items[item], language, PASSAGE]
            assert texts[number] == cache.tokens(PASSAGE, corpus.languages[language], row).tolist()


def test_facts_are_of_the_global_batch(schedule: HybridSchedule, cache: TokenCache) -> None:
    for step in range(10):
        ranks = [collator(step) for collator in toy_collators(schedule, cache, 3, num_negatives=1)]
        facts = ranks[0]["facts"]
        lengths = [len(text) for inputs in ranks for text in sequences(inputs["tokens"])]
        assert facts == ranks[2]["facts"]
        assert facts.tokens == sum(lengths)
        assert facts.sum_squared_lengths == sum(length**2 for length in lengths)
        assert set(facts.tokens_per_language) == {
            *(schedule.corpus.languages[language] for language in schedule.batch(step).query_languages),
            *schedule.batch(step).passage_languages,
        }


def test_a_rank_without_items_still_has_a_sequence(schedule: HybridSchedule, cache: TokenCache) -> None:
    ranks = [collator(0) for collator in toy_collators(schedule, cache, 16)]
    empty = [inputs for inputs in ranks if inputs["targets"]["query_counts"][inputs["targets"]["rank"]] == 0]
    assert len(empty) >= 6
    for inputs in empty:
        assert len(sequences(inputs["tokens"])) == 1
        assert len(inputs["targets"]["positive_query_P"]) == 0


def test_hard_negatives_are_asked_for_in_vain() -> None:
    corpus = toy_corpus()
    schedule = HybridSchedule(corpus, global_batch_size=8, num_steps=5)
    with pytest.raises(ValueError, match="the corpus has no hard negatives"):
        HybridCollator(schedule, toy_cache(corpus), num_negatives=2)


def test_items_without_hard_negatives_get_none() -> None:
    corpus = toy_corpus(num_items=30, missing=0.0, negatives=2)
    cache, schedule = toy_cache(corpus), HybridSchedule(corpus, "mono=1", global_batch_size=8, num_steps=5)
    collator = HybridCollator(schedule, cache, num_negatives=1)
    empty = np.zeros(len(corpus) + 1, dtype=np.int64)
    nothing = np.zeros(0, dtype=np.int32)
    nothing.flags.writeable = False  # as a memory-mapped array is
    collator._negatives = [(empty, nothing)] * len(corpus.languages)
    assert collator(0)["targets"]["passage_counts"] == collator(0)["targets"]["query_counts"]


def test_slow_tokenizers_are_refused(corpus: ParallelCorpus) -> None:
    class Slow(PreTrainedTokenizerBase):
        is_fast = False

        def __init__(self) -> None:
            """Without the files that a real one reads."""

    with pytest.raises(ValueError, match="slow tokenizer"):
        TokenCache(corpus, Slow(), cache_dir="unused")


def test_a_length_without_room_for_text_is_refused(corpus: ParallelCorpus) -> None:
    encoder = toy_encoder(corpus)
    for length in (-1, 0, 2):
        with pytest.raises(ValueError, match=f"max_query_length={length} leaves no room"):
            TokenCache(corpus, encoder.tokenizer, max_query_length=length, cache_dir="unused")
