"""From ranks to means, by ranks that are written down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.evaluation import aggregate
from hf_hybrid.evaluation.aggregate import POOL, LanguageRanks, Tally, query_values
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.metrics.beir_cross_lingual import bias
from hf_hybrid.records.schema import Scores
from hf_hybrid.retrieval.search import Relevant
from tests.support.toys import toy_corpus

SETTINGS = ("monolingual", "cross_lingual", "multilingual")


@pytest.fixture
def corpus() -> ParallelCorpus:
    """Four items in two languages."""
    return toy_corpus(4, ("de", "en"), missing=0.0)


def ranks_of(
    query_language: str, query_R: list[int], language_R: list[int], pool_rank_R: list[float], **others: Any
) -> LanguageRanks:
    """Queries 0 to 3 of a language, their relevant passages at some ranks of the pool, and first of their language."""
    count = max(query_R) + 1
    columns = (np.array(query_R), np.array(language_R), np.arange(len(query_R)), np.ones(len(query_R), dtype=np.int32))
    given: dict[str, Any] = {
        "query_language": query_language,
        "passage_languages": ("de", "en"),
        "query_rows": np.arange(count),
        "candidates": [np.arange(4), np.arange(4)],
        "relevant": Relevant(*columns),
        "own_rank_R": np.ones(len(query_R)),
        "pool_rank_R": np.array(pool_rank_R),
        "pool_last_R": np.array(pool_rank_R),
        "same_language_share_Q": np.full(count, 0.5),
        "first_QP": np.tile(np.arange(8), (count, 1)),
        "best": {},
    }
    return LanguageRanks(**{**given, **others})


def scored(
    corpus: ParallelCorpus, ranks: list[LanguageRanks], settings: tuple[str, ...] = SETTINGS
) -> tuple[Scores, bool]:
    found = Tally(corpus, settings)
    for one in ranks:
        found.add(one, query_values(one, settings, ["MRR"]), ["MRR"])
    return found.scores(), found.empty


GERMAN = ranks_of("de", [0, 0, 1, 1, 2], [0, 1, 0, 1, 1], [1, 5, 2, 200, 4])
ENGLISH = ranks_of("en", [0, 0], [0, 1], [3, 2])


def test_means_by_hand(corpus: ParallelCorpus) -> None:
    found, empty = scored(corpus, [GERMAN, ENGLISH])
    assert not empty
    assert found["pairs"] == {
        "de-de": {"MRR": 1, "pool_recall@100": 1},
        "de-en": {"MRR": 1, "pool_recall@100": pytest.approx(2 / 3)},
        "en-de": {"MRR": 1, "pool_recall@100": 1},
        "en-en": {"MRR": 1, "pool_recall@100": 1},
    }
    assert found["monolingual"] == found["cross_lingual"] == {"MRR": 1}
    # first relevant passages at 1, 2 and 4; at 2
    assert found["multilingual"] == {"MRR": pytest.approx(((1 + 1 / 2 + 1 / 4) / 3 + 1 / 2) / 2)}
    peers = [math.erfc(math.sqrt(1 / 2))] * 2
    assert found["bias"] == {
        "rank_distance": pytest.approx(((4 + 198) / 2 + 1) / 2),  # the third has one relevant passage
        "PEER": pytest.approx(np.mean(peers)),
        "same_language_share@10": 0.5,
        "same_language_recall@100": 1,
        "other_language_recall@100": pytest.approx((2 / 3 + 1) / 2),
        "MRC@10": 1,
    }
    assert found["num_queries"] == 4


def test_recall_in_the_pool_needs_the_pool(corpus: ParallelCorpus) -> None:
    found, _ = scored(corpus, [GERMAN, ENGLISH], ("monolingual", "cross_lingual"))
    assert len(found["pairs"]) == 4
    assert {name for means in found["pairs"].values() for name in means} == {"MRR"}
    assert found["bias"] == found["multilingual"] == {}


def test_queries_count_where_the_settings_have_them(corpus: ParallelCorpus) -> None:
    numbers = {name: scored(corpus, [GERMAN, ENGLISH], (name,))[0]["num_queries"] for name in SETTINGS}
    assert numbers == {"monolingual": 2 + 1, "cross_lingual": 3 + 1, "multilingual": 3 + 1}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_without_queries_is_empty(setting: str, corpus: ParallelCorpus) -> None:
    other = ranks_of("de", [0, 1], [1, 1] if setting == "monolingual" else [0, 0], [1, 2])
    found, empty = scored(corpus, [other], (setting,))
    assert empty == (setting != "multilingual")
    assert found["num_queries"] == (0 if empty else 2)
    assert found["pairs"] == {}
    assert Tally(corpus, SETTINGS).empty


def test_one_query_without_a_rank_leaves_no_rank_distance(corpus: ParallelCorpus) -> None:
    cut = ranks_of("de", [0, 0, 1, 1], [0, 1, 0, 1], [1, 5, 2, np.inf])
    for order in ([cut, ENGLISH], [ENGLISH, cut]):
        found, _ = scored(corpus, order)
        assert "rank_distance" not in found["bias"]
        assert {"PEER", "MRC@10", "other_language_recall@100"} < found["bias"].keys()
    (pool,) = (values for values in query_values(cut, SETTINGS, ["MRR"]) if values.passage_language == POOL)
    np.testing.assert_array_equal(pool.values["rank_distance"], [4, np.nan])  # of single queries it is known
    # a query that has no distance anyway is not missed
    alone = ranks_of("de", [0, 0, 1], [0, 1, 1], [1, 5, np.inf])
    assert scored(corpus, [alone, ENGLISH])[0]["bias"]["rank_distance"] == (4 + 1) / 2


# MRC


class Random:
    """Vectors that have nothing to do with the texts."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.generator.standard_normal((len(texts), 8))


def correlation_and_blocks(
    corpus: ParallelCorpus, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[float, list[int]]:
    """MRC@10, and how many queries each call of `bias.mrc` had."""
    heights, mrc = [], bias.mrc

    def watched(first_BLP: np.ndarray) -> np.ndarray:
        heights.append(len(first_BLP))
        return mrc(first_BLP)

    with monkeypatch.context() as patch:
        patch.setattr(bias, "mrc", watched)
        found = evaluate_retrieval(Random(), corpus, **options)
    return found["bias"]["MRC@10"], heights


def test_only_judged_queries_are_held_for_the_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = toy_corpus(200, ("de", "en", "zh"), missing=0.3)
    several = (corpus.rows[:, :, corpus.QUERY] >= 0).sum(axis=1) > 1
    whole, heights = correlation_and_blocks(corpus, monkeypatch)
    assert 100 < several.sum() < 200
    assert 100 < sum(heights) <= several.sum()
    few, heights = correlation_and_blocks(corpus, monkeypatch, max_queries=5)
    assert 0 < sum(heights) <= 3 * 5
    assert -1 < few < 1
    monkeypatch.setattr(aggregate, "_BLOCK_QUERIES", 7)
    again, heights = correlation_and_blocks(corpus, monkeypatch)
    assert again == pytest.approx(whole, rel=1e-12)
    assert len(heights) > 10
    assert max(heights) == 7
