"""The plan: exact shares, pure batches, passes without repeats."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest

from hf_hybrid.data.batches.mix import BATCH_TYPES, largest_remainder
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sides import PASSAGE, QUERY
from hf_hybrid.data.sources.sample import build_sample_corpus
from tests.support.toys import toy_corpus


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return toy_corpus()


@pytest.fixture(scope="module")
def grouped() -> ParallelCorpus:
    return toy_corpus(num_items=90, group_size=3, missing=0.3)


def make(corpus: ParallelCorpus, mix: str = "mono=1,cross=1,pool=1", **options: Any) -> HybridSchedule:
    return HybridSchedule(corpus, mix, **{"global_batch_size": 8, "num_steps": 300, "seed": 1, **options})


def test_shares_of_batch_types_and_language_pairs_are_exact(corpus: ParallelCorpus) -> None:
    schedule = make(corpus, "mono=0.5,cross=0.3,pool=0.2", num_steps=997, smoothing=0.7)
    batch_types = Counter(schedule.batch(step).batch_type for step in range(997))
    assert [batch_types[batch_type] for batch_type in ("mono", "cross", "pool")] == largest_remainder(
        np.array([0.5, 0.3, 0.2]), 997
    ).tolist()
    language_pairs = Counter(
        batch.language_pair for batch in map(schedule.batch, range(997)) if batch.batch_type == "cross"
    )
    expected = [pair.num_items**0.7 for pair in language_pairs]
    exact = np.array(expected) / sum(expected) * batch_types["cross"]
    assert len(language_pairs) == 20
    assert np.all(np.abs(np.array(list(language_pairs.values())) - exact) < 1)


def test_smoothing_zero_is_uniform() -> None:
    corpus = toy_corpus(num_items=200, languages=("en", "de"), missing=(0.0, 0.75))
    sizes = {"en->en": corpus.num_pairs("en", "en"), "de->de": corpus.num_pairs("de", "de")}
    assert sizes["en->en"] == 200
    assert sizes["de->de"] < 70
    for smoothing, share in [(0.0, 0.5), (1.0, 200 / sum(sizes.values()))]:
        steps = {
            row["language_pair"]: row["steps"]
            for row in make(corpus, "mono=1", smoothing=smoothing, num_steps=100).plan()
        }
        assert abs(steps["en->en"] - 100 * share) < 1


def test_a_batch_depends_on_its_step_alone(corpus: ParallelCorpus) -> None:
    forwards = [make(corpus).batch(step).digest() for step in range(60)]
    schedule = make(corpus)
    order = np.random.default_rng(0).permutation(60)
    shuffled = {int(step): schedule.batch(int(step)).digest() for step in order}
    copied = pickle.loads(pickle.dumps(schedule))
    assert [shuffled[step] for step in range(60)] == forwards == [copied.batch(step).digest() for step in range(60)]
    assert len(set(forwards)) == 60


@pytest.mark.parametrize("change", [{"seed": 2}, {"global_batch_size": 9}, {"mix": "mono=1"}])
def test_another_setting_is_another_plan(corpus: ParallelCorpus, change: dict) -> None:
    assert [make(corpus).batch(i).digest() for i in range(20)] != [
        make(corpus, **change).batch(i).digest() for i in range(20)
    ]


def test_the_stream_is_the_same_on_every_machine() -> None:
    """A pinned hash: numpy promises its generators' streams, and this would notice if it did not keep to it."""
    corpus = build_sample_corpus(languages=["en", "de", "es", "ru", "ar", "hi", "ja", "zh"])
    schedule = HybridSchedule(corpus, "mono=1,cross=1,pool=1", global_batch_size=64, num_steps=200, seed=42)
    digest = hashlib.sha256("".join(schedule.batch(step).digest() for step in range(200)).encode()).hexdigest()
    assert digest[:16] == "c91de89e115b2f62"


@pytest.mark.parametrize("batch_type", BATCH_TYPES)
@pytest.mark.parametrize("fixture", ["corpus", "grouped"])
def test_a_pass_gives_every_item_once_and_parts_groups(
    batch_type: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    corpus = request.getfixturevalue(fixture)
    schedule = make(corpus, f"{batch_type}=1", num_steps=400)
    visits: dict[str, list[np.ndarray]] = {}
    for batch in map(schedule.batch, range(400)):
        visits.setdefault(batch.language_pair.name, []).append(batch.items)
        groups = corpus.groups[batch.items]
        assert len(set(groups.tolist())) == len(batch.items) <= 8
    for pair in schedule.language_pairs:
        per_pass = -(-pair.num_items // 8)
        passes = [np.concatenate(visits[pair.name][i : i + per_pass]) for i in (0, per_pass)]
        assert sorted(passes[0]) == sorted(passes[1]) == sorted(set(passes[0].tolist()))
        assert len(passes[0]) == pair.num_items
        assert passes[0].tolist() != passes[1].tolist(), "the second pass must be shuffled again"
        sizes = {len(items) for items in visits[pair.name]}
        assert max(sizes) - min(sizes) <= 1


def test_items_are_in_the_languages_of_their_batch(corpus: ParallelCorpus) -> None:
    schedule, absent = make(corpus, "mono=1,cross=1,pool=1,mixed=1"), 0
    for batch in map(schedule.batch, range(300)):
        assert np.all(corpus.rows[batch.items, batch.query_languages, QUERY] >= 0)
        rows = corpus.rows[batch.items[batch.positive_items], batch.positive_languages, PASSAGE]
        assert np.all(rows >= 0)
        absent += int((corpus.rows[batch.items, :, PASSAGE] < 0).sum())
        assert {corpus.languages[i] for i in batch.positive_languages} == set(batch.passage_languages)
    assert absent, "the corpus must lack translations for this test to mean anything"


def test_pool_positives_are_distinct_and_capped(corpus: ParallelCorpus) -> None:
    schedule = make(corpus, "pool=1", max_positives=3)
    counts: Counter[int] = Counter()
    for batch in map(schedule.batch, range(100)):
        pairs = list(zip(batch.positive_items.tolist(), batch.positive_languages.tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
        available = (corpus.rows[batch.items, :, PASSAGE] >= 0).sum(axis=1)
        drawn = np.bincount(batch.positive_items, minlength=len(batch.items))
        assert np.array_equal(drawn, np.minimum(available, 3))
        counts.update(drawn.tolist())
    assert counts[3] > counts[2] > 0


def test_each_item_of_a_mixed_batch_has_two_languages_of_its_own(corpus: ParallelCorpus) -> None:
    schedule = make(corpus, "mixed=1", language_pairs="en->*,*->en", exclude="zh->en")
    pairs: Counter[str] = Counter()
    for batch in map(schedule.batch, range(300)):
        assert batch.positive_items.tolist() == list(range(len(batch.items)))
        for query, passage in zip(batch.query_languages, batch.positive_languages, strict=True):
            pairs[f"{corpus.languages[query]}->{corpus.languages[passage]}"] += 1
    assert set(pairs) == {"en->de", "en->ar", "en->hi", "en->zh", "de->en", "ar->en", "hi->en"}
    queries = corpus.rows[:, corpus.languages.index("en"), QUERY] >= 0
    assert max(pairs.values()) < 1.3 * min(pairs.values()), "each pair that an item has is as likely as the others"
    assert queries.sum() < len(queries), "the corpus must lack translations for this test to mean anything"
    with pytest.raises(ValueError, match="no 'mixed' language pair"):
        make(corpus, "mixed=1", language_pairs="en->en")


def test_a_group_larger_than_a_pass_takes_turns() -> None:
    corpus = toy_corpus(num_items=40, languages=("en",), missing=0.0, group_size=10)
    schedule = make(corpus, "mono=1", global_batch_size=20, num_steps=20)
    seen = [schedule.batch(step).items for step in range(20)]
    assert all(len(items) == 4 for items in seen), "four groups, so at most four items a batch"
    assert sorted(np.concatenate(seen[:10]).tolist()) == list(range(40)), (
        "five passes of two batches give every member"
    )


def test_a_small_language_pair_gives_a_short_batch() -> None:
    corpus = toy_corpus(num_items=5, languages=("en", "de"), missing=0.0)
    assert {len(make(corpus, global_batch_size=64).batch(step).items) for step in range(50)} == {5}


def test_language_pair_patterns_filter_every_batch_type(corpus: ParallelCorpus) -> None:
    schedule = make(corpus, "cross=1,pool=1", language_pairs="en->*,*->en", exclude="en->en,zh->*")
    names = {pair.name for pair in schedule.language_pairs}
    assert names == {
        "en->de",
        "en->ar",
        "en->hi",
        "en->zh",
        "de->en",
        "ar->en",
        "hi->en",
        "en->*",
        "de->*",
        "ar->*",
        "hi->*",
    }
    for batch in map(schedule.batch, range(300)):
        if batch.batch_type == "pool":
            wanted = {"ar", "de", "hi", "zh"} if batch.language_pair.query_language == "en" else {"en"}
            assert set(batch.passage_languages) <= wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language_pairs": "fr->*"}, "matches no pair of the languages ar, de, en, hi, zh"),
        ({"exclude": "en-de"}, "Write 'query->passage'"),
        ({"mix": "cross=1", "language_pairs": "en->en"}, "no 'cross' language pair"),
        ({"global_batch_size": 1}, "global_batch_size must be at least 2"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"smoothing": float("nan")}, "smoothing must lie between 0"),
        ({"max_positives": 0}, "max_positives must be at least 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(corpus: ParallelCorpus, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(corpus, **options)


def test_steps_outside_the_plan_are_refused(corpus: ParallelCorpus) -> None:
    for step in (-1, 300):
        with pytest.raises(IndexError, match="outside the plan of 300 steps"):
            make(corpus).batch(step)


def test_the_plan_says_what_runs(corpus: ParallelCorpus) -> None:
    schedule = make(corpus)
    pairs: Counter[tuple[str, str]] = Counter()
    for batch in map(schedule.batch, range(300)):
        pairs[batch.batch_type, batch.language_pair.name] += len(batch.items)
    assert {(row["batch_type"], row["language_pair"]): row["pairs"] for row in schedule.plan()} == dict(pairs)
    assert sum(row["steps"] for row in schedule.plan()) == 300
    assert len(schedule.summary().splitlines()) < 30
    assert "step 2: " in schedule.preview()
