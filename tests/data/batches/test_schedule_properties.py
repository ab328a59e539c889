"""What holds of every plan and every batch, whatever the corpus, the mix and the numbers: Hypothesis looks."""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from hf_hybrid.data.batches import schedule as schedule_module
from hf_hybrid.data.batches.collator import HybridCollator
from hf_hybrid.data.batches.language_pairs import LanguagePair
from hf_hybrid.data.batches.mix import BATCH_TYPES, largest_remainder, spread_quotas
from hf_hybrid.data.batches.schedule import HybridBatch, HybridSchedule
from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.data.sides import PASSAGE, QUERY

LANGUAGES = ("de", "en", "sw", "zh")
every = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def corpora(draw: st.DrawFn) -> ParallelCorpus:
    """One to four languages, up to 20 items in groups of any size, each text there or missing."""
    languages = LANGUAGES[: draw(st.integers(1, 4))]
    num_items = draw(st.integers(2, 20))
    labels = draw(st.lists(st.integers(0, num_items), min_size=num_items, max_size=num_items))
    missing = draw(np_st.arrays(bool, (num_items, len(languages), 2), fill=st.just(False)))
    assume(not missing.all(axis=(0, 2)).any())
    with tempfile.TemporaryDirectory() as folder, CorpusBuilder(Path(folder, "corpus")) as builder:
        for language, absent in zip(languages, missing.swapaxes(0, 1), strict=True):
            kept = np.flatnonzero(~absent.all(axis=1)).tolist()
            texts = [[f"{batch_type} {language} {item}" for item in kept] for batch_type in ("query", "passage")]
            rows = np.where(absent[kept], -1, np.arange(len(kept))[:, None])
            names, groups = [f"item {item}" for item in kept], [labels[item] for item in kept]
            builder.add_language(
                language, names, *texts, groups=groups, query_rows=rows[:, QUERY], passage_rows=rows[:, PASSAGE]
            )
        corpus = builder.finish()
        corpus.rows, corpus.pair_counts(), corpus.groups, corpus.item_ids[0]  # mapped while the files are there
    return corpus


@st.composite
def schedules(draw: st.DrawFn, num_steps: int = 40, **fixed: Any) -> HybridSchedule:
    """Plans of all batch types over such corpora."""
    shares = draw(
        st.lists(st.sampled_from([0, 0.1, 0.5, 1, 3]), min_size=len(BATCH_TYPES), max_size=len(BATCH_TYPES)).filter(
            any
        )
    )
    options = {
        "global_batch_size": draw(st.integers(2, 12)),
        "num_steps": draw(st.integers(1, num_steps)),
        "seed": draw(st.integers(0, 2**32)),
        "smoothing": draw(st.sampled_from([0.0, 0.7, 1.0, 10.0])),
        "max_positives": draw(st.integers(1, 5)),
        **fixed,
    }
    mix = ",".join(f"{batch_type}={share}" for batch_type, share in zip(BATCH_TYPES, shares, strict=True))
    try:
        return HybridSchedule(draw(corpora()), mix, **options)
    except ValueError as error:  # a batch type without a language pair
        assume("batches, but no" not in str(error))
        raise


def pairs_of(schedule: HybridSchedule) -> dict[LanguagePair, list[HybridBatch]]:
    """The batches of each language pair, in the order of their steps."""
    found: dict[LanguagePair, list[HybridBatch]] = {pair: [] for pair in schedule.language_pairs}
    for step in range(schedule.num_steps):
        batch = schedule.batch(step)
        found[batch.language_pair].append(batch)
    return found


def members(schedule: HybridSchedule, pair: LanguagePair) -> set[int]:
    """Items with a query and a passage where the language pair has them, by its definition."""
    rows, languages = schedule.corpus.rows, schedule.corpus.languages
    if pair.batch_type == "mixed":
        pairs = list(itertools.permutations(range(len(languages)), 2))
        return {
            i for i in range(len(rows)) if any(rows[i, q, QUERY] >= 0 and rows[i, p, PASSAGE] >= 0 for q, p in pairs)
        }
    wanted = range(len(languages)) if pair.batch_type == "pool" else [languages.index(pair.passage_language)]
    query = languages.index(pair.query_language)
    return {i for i in range(len(rows)) if rows[i, query, QUERY] >= 0 and (rows[i, wanted, PASSAGE] >= 0).any()}


@pytest.mark.slow
@every
@given(schedules(), st.randoms(use_true_random=False))
def test_a_batch_depends_on_its_step_alone(schedule: HybridSchedule, random: Any) -> None:
    """Not on what was asked before, nor on which passes are still in memory."""
    expected = [schedule.batch(step).digest() for step in range(schedule.num_steps)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule_module, "_CACHED_PASSES", 1)
        options = ("global_batch_size", "num_steps", "seed", "smoothing", "max_positives")
        given = {name: getattr(schedule, name) for name in options}
        again = HybridSchedule(schedule.corpus, schedule.mix, **given)
    steps = random.choices(range(schedule.num_steps), k=2 * schedule.num_steps)
    assert [again.batch(step).digest() for step in steps] == [expected[step] for step in steps]


@pytest.mark.slow
@every
@given(schedules(num_steps=300))
def test_steps_are_shared_out_by_largest_remainder_and_within_batch_types_up_or_down(schedule: HybridSchedule) -> None:
    steps = {pair: len(batches) for pair, batches in pairs_of(schedule).items()}
    batch_types = [batch_type for batch_type in BATCH_TYPES if getattr(schedule.mix, batch_type)]
    of_batch_type = {
        batch_type: sum(count for pair, count in steps.items() if pair.batch_type == batch_type)
        for batch_type in batch_types
    }
    assert sum(of_batch_type.values()) == schedule.num_steps
    up = {
        batch_type: of_batch_type[batch_type] - schedule.num_steps * getattr(schedule.mix, batch_type)
        for batch_type in batch_types
    }
    # a step more or less would go to a batch type that is further from its exact share
    assert max(up.values()) - min(up.values()) <= 1 + 1e-9
    for batch_type in batch_types:
        weights = {pair: pair.num_items**schedule.smoothing for pair in steps if pair.batch_type == batch_type}
        for pair, weight in weights.items():
            assert abs(steps[pair] - of_batch_type[batch_type] * weight / sum(weights.values())) < 1 + 1e-6


@every
@given(
    st.lists(st.floats(1e-300, 1e300) | st.floats(0.1, 1), min_size=1, max_size=30),
    st.integers(0, 10**6),
    st.integers(0, 2**32),
)
def test_quotas_of_any_weights_add_up(weights: list[float], total: int, seed: int) -> None:
    given = np.array(weights)
    for quotas in (largest_remainder(given, total), spread_quotas(given, total, np.random.default_rng(seed))):
        assert quotas.sum() == total
        assert np.all(np.abs(quotas - given / given.sum() * total) < 1 + 1e-6)
        assert np.all(quotas >= 0)


@pytest.mark.slow
@every
@given(schedules())
def test_a_batch_is_what_its_language_pair_says(schedule: HybridSchedule) -> None:
    corpus = schedule.corpus
    for pair, batches in pairs_of(schedule).items():
        assert pair.num_items == len(members(schedule, pair)) >= 2
        for batch in batches:
            assert 1 <= len(batch.items) <= schedule.global_batch_size
            assert set(batch.items.tolist()) <= members(schedule, pair)
            assert len(set(corpus.groups[batch.items].tolist())) == len(batch.items), "two items of one group"
            found = defaultdict(set)
            for item, language in zip(batch.items[batch.positive_items], batch.positive_languages, strict=True):
                found[int(item)].add(corpus.languages[language])
            assert found.keys() == set(batch.items.tolist())
            assert sum(map(len, found.values())) == len(batch.positive_items)
            for item, languages in found.items():
                there = {name for name, row in zip(corpus.languages, corpus.rows[item], strict=True) if row[1] >= 0}
                wanted = {pair.passage_language} if pair.batch_type in ("mono", "cross") else there
                assert languages <= wanted & there
                assert len(languages) == (
                    1 if pair.batch_type == "mixed" else min(len(wanted), schedule.max_positives)
                )
            assert np.all(corpus.rows[batch.items, batch.query_languages, QUERY] >= 0)
            if pair.batch_type == "mixed":
                assert np.all(batch.query_languages != batch.positive_languages)
            else:
                assert {corpus.languages[language] for language in batch.query_languages} == {pair.query_language}


@pytest.mark.slow
@every
@given(schedules(num_steps=120))
def test_a_pass_gives_each_item_once_and_large_groups_take_turns(schedule: HybridSchedule) -> None:
    groups = schedule.corpus.groups
    for pair, batches in pairs_of(schedule).items():
        items, num_batches = (
            members(schedule, pair),
            -(-pair.num_items // schedule.global_batch_size),
        )
        size = {group: sum(groups[i] == group for i in items) for group in {int(groups[i]) for i in items}}
        passes = [batches[start : start + num_batches] for start in range(0, len(batches), num_batches)]
        dealt = [np.concatenate([batch.items for batch in one]).tolist() for one in passes]
        whole = dealt if not passes or len(passes[-1]) == num_batches else dealt[:-1]
        for one in dealt:
            assert len(set(one)) == len(one), "an item came twice in a pass"
        for one in whole:
            assert len(one) == sum(min(count, num_batches) for count in size.values())
        times = {item: sum(item in one for one in whole) for item in items}
        for group in size:
            turns = [times[item] for item in items if groups[item] == group]
            assert max(turns) - min(turns) <= 1


class RowTokens:
    """A token cache whose only tokens of a text say which one it is."""

    def tokens(self, side: int, language: str, row: int) -> np.ndarray:
        return np.array([side, LANGUAGES.index(language), row], dtype=np.int32)


@pytest.mark.slow
@every
@given(schedules(num_steps=12), st.integers(1, 15))
def test_the_slices_of_all_ranks_are_the_global_batch(schedule: HybridSchedule, world_size: int) -> None:
    corpus = schedule.corpus
    cache: Any = RowTokens()
    ranks = [HybridCollator(schedule, cache, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(schedule.num_steps):
        batch, queries, pairs = schedule.batch(step), [], []
        for rank, inputs in enumerate(collator(step) for collator in ranks):
            targets, texts = inputs["targets"], inputs["tokens"]["input_ids"].reshape(-1, 3).tolist()
            num_queries, first = targets["query_counts"][rank], sum(targets["passage_counts"][:rank])
            own = texts[:num_queries]
            for query, passage in zip(targets["positive_query_P"], targets["positive_passage_P"], strict=True):
                pairs.append([own[query], texts[num_queries + int(passage) - first]])
            queries += own
        wanted = [
            [QUERY, int(column), int(corpus.rows[item, column, QUERY])]
            for item, column in zip(batch.items, batch.query_languages, strict=True)
        ]
        positives = zip(batch.positive_items, batch.positive_languages, strict=True)
        passages = [
            [wanted[i], [PASSAGE, int(language), int(corpus.rows[batch.items[i], language, PASSAGE])]]
            for i, language in positives
        ]
        assert queries == wanted
        assert pairs == passages
