"""Evaluation against one written out: every score, every ranking sorted whole."""

from __future__ import annotations

import json
import math
import re
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.evaluation.evaluate import evaluate_retrieval, scores_table
from hf_hybrid.metrics.beir_cross_lingual.ranking import MEASURES
from hf_hybrid.records.schema import Scores
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.retrieval import search
from tests.support.toys import LargestTensor, toy_corpus, toy_encoder

# The encoders


class ChosenEncoder:
    """Gives each text the vector that `vector_of(side, text)` says, and remembers what it was asked."""

    def __init__(self, vector_of: Callable[[str, str], np.ndarray]) -> None:
        self.vector_of = vector_of
        self.device = torch.device("cpu")
        self.asked: list[tuple[str, list[str]]] = []

    def encode(self, texts: list[str], side: str, *, batch_tokens: int, share: tuple[int, int]) -> np.ndarray:
        self.asked.append((side, list(texts)))
        rank, world_size = share
        embeddings = np.zeros((len(texts), len(self.vector_of(side, ""))), dtype=np.float32)
        for number in range(rank, len(texts), world_size):
            embeddings[number] = self.vector_of(side, texts[number])
        return embeddings


def tied(side: str, text: str) -> np.ndarray:
    """Few different vectors of small integers: many scores are equal, and float32 holds each exactly."""
    return np.random.default_rng(zlib.crc32((side + text).encode())).integers(-1, 2, size=4)


def scattered(side: str, text: str) -> np.ndarray:
    """Unit vectors that hardly ever tie."""
    vector = np.random.default_rng(zlib.crc32((side + text).encode())).standard_normal(8)
    return vector / np.linalg.norm(vector)


def perfect(side: str, text: str) -> np.ndarray:
    """One direction for each item of a toy corpus, whose texts begin with language and number."""
    number = re.match("[a-z]+([0-9]+)", text)
    return np.eye(20)[int(number[1]) if number else 0]


def constant(side: str, text: str) -> np.ndarray:
    return np.ones(4)


# The corpora


def tangled_corpus(seed: int = 0) -> ParallelCorpus:
    """28 items with all that makes judgments hard.

    Items 2k and 2k + 1 ask about one passage; items 24 to 27 ask the questions 0 to 3 again, of passages of their own
    but for item 25, which is item 1 again with another grade. Each language lacks some queries and some passages, has
    its rows in an order of its own, and has six passages that nobody asks about.
    """
    rng = np.random.default_rng(seed)
    queries, passages = np.arange(28), np.arange(28) // 2
    queries[24:] = range(4)
    passages[24:] = [12, 0, 13, 13]
    grades = rng.integers(1, 4, size=28)
    grades[[1, 25]] = 1, 3
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        for language in ("de", "en", "zh"):
            query_order, passage_order = rng.permutation(24), rng.permutation(20)
            builder.add_language(
                language,
                [f"item-{item}" for item in range(28)],
                [f"{language} question {row}" for row in range(24)],
                [f"{language} answer {row}" for row in range(20)],
                query_rows=np.where(rng.random(28) < 0.25, -1, query_order[queries]),
                passage_rows=np.where(rng.random(28) < 0.25, -1, passage_order[passages]),
                relevance=grades,
            )
        return builder.finish()


CORPORA: dict[str, Callable[[], ParallelCorpus]] = {
    "parallel": lambda: toy_corpus(30, ("de", "en", "zh"), missing=0.0),
    "languages missing": lambda: toy_corpus(60, missing=0.4),
    "tangled": tangled_corpus,
    "tangled otherwise": lambda: tangled_corpus(1),
    "some languages": lambda: tangled_corpus().select_languages(["zh", "de"]),
    "one language": lambda: tangled_corpus().select_languages(["en"]),
    "training part": lambda: tangled_corpus().split(10)[0],
    "held-out part": lambda: tangled_corpus().split(10)[1],
    "part of some languages": lambda: tangled_corpus().select_languages(["zh", "en"]).split(0.5)[1],
}


# Evaluation written out


def judged(corpus: ParallelCorpus, query_language: int) -> dict[int, dict[tuple[int, int], int]]:
    """For each query row the gain of each (language, passage row), from the items one by one."""
    gains: dict[int, dict[tuple[int, int], int]] = defaultdict(dict)
    for item in range(len(corpus)):
        query = int(corpus.rows[item, query_language, corpus.QUERY])
        for language in range(len(corpus.languages)):
            passage = int(corpus.rows[item, language, corpus.PASSAGE])
            if query >= 0 and passage >= 0 and corpus.relevance[item] > 0:
                known = gains[query].get((language, passage), 0)
                gains[query][language, passage] = max(known, int(corpus.relevance[item]))
    return dict(sorted(gains.items()))


def ranking_of(scores: list[float], gains: list[int]) -> list[int]:
    """Positions in the order of the ranking: of equal scores the least relevant first."""
    return sorted(range(len(scores)), key=lambda position: (-scores[position], gains[position]))


def measures_of(scores: list[float], gains: list[int]) -> dict[str, float]:
    ranked = [gains[position] for position in ranking_of(scores, gains)]
    ranks = [rank for rank, gain in enumerate(ranked, start=1) if gain]

    def discounted(gains: list[int]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:10], start=1))

    return {
        "MAP": float(np.mean([number / rank for number, rank in enumerate(ranks, start=1)])),
        "nDCG@10": discounted(ranked) / discounted(sorted(gains, reverse=True)),
        "MRR@10": 1 / ranks[0] if ranks[0] <= 10 else 0.0,
        "Recall@100": sum(rank <= 100 for rank in ranks) / len(ranks),
    }


def same_language_share(scores: list[float], own: list[bool]) -> float:
    """Expected share of own passages among the first ten where equal scores come in any order."""
    top_k = min(10, len(scores))
    last = sorted(scores, reverse=True)[top_k - 1]
    above = [mine for score, mine in zip(scores, own, strict=True) if score > last]
    level = [mine for score, mine in zip(scores, own, strict=True) if score == last]
    return (sum(above) + (top_k - len(above)) * sum(level) / len(level)) / top_k


def recall(ranks: list[int]) -> float:
    return sum(rank <= 100 for rank in ranks) / len(ranks) if ranks else math.nan


def peer(ranks: dict[int, list[int]]) -> float:
    """The Kruskal-Wallis test on the ranks of each language, those beyond 20 sharing one behind all relevant."""
    total = [rank for found in ranks.values() for rank in found]
    missing = sum(rank > 20 for rank in total)
    if missing == len(total) or len(ranks) < 2:
        return 1.0
    shared = len(total) + (missing + 1) / 2
    groups = [[shared if rank > 20 else rank for rank in found] for found in ranks.values()]
    if len({rank for found in groups for rank in found}) == 1:
        return 1.0
    every = np.concatenate(groups)
    between = sum(len(group) * (np.mean(group) - every.mean()) ** 2 for group in groups)
    statistic = (len(every) - 1) * between / ((every - every.mean()) ** 2).sum()
    return float(scipy.stats.chi2.sf(statistic, len(groups) - 1))


def rank_correlation(first: list[int], second: list[int]) -> float:
    """Spearman's over the documents of both rankings, those that one lacks sharing its places behind the last."""
    union = sorted({*first, *second})
    if len(union) == 1:
        return 1.0
    k = []
    for ranked in (first, second):
        behind = len(ranked) + (len(union) - len(ranked) + 1) / 2
        k.append([ranked.index(name) + 1 if name in ranked else behind for name in union])
    return float(np.corrcoef(k[0], k[1])[0, 1])


def parallel_correlation(corpus: ParallelCorpus, tops: dict[tuple[int, int], list[int]]) -> dict[str, float]:
    found = []
    for rows in {tuple(rows) for rows in corpus.rows[:, :, corpus.QUERY].tolist()}:
        known = [tops[language, row] for language, row in enumerate(rows) if (language, row) in tops]
        for one in range(len(known)):
            others = [rank_correlation(known[one], other) for i, other in enumerate(known) if i != one]
            found += [float(np.mean(others))] if others else []
    return {"MRC@10": float(np.mean(found))} if found else {}


def mean(found: list[dict[str, float]]) -> dict[str, float]:
    known = [{name: value for name, value in values.items() if not math.isnan(value)} for values in found]
    names = {name for values in known for name in values}
    return {name: float(np.mean([values[name] for values in known if name in values])) for name in names}


def written_out(encoder: Any, corpus: ParallelCorpus, max_queries: int | None = None) -> Scores:
    """`evaluate_retrieval`, slowly."""

    def encoded(side: str, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(encoder.encode(texts, side, batch_tokens=16_384, share=(0, 1)))

    pool = [(number, int(row)) for number, name in enumerate(corpus.languages) for row in corpus.candidates(name)]
    texts = [corpus.text(corpus.PASSAGE, corpus.languages[language], row) for language, row in pool]
    passages = encoded("passage", texts)
    pairs: dict[str, dict[str, float]] = {}
    pooled, biases, num_queries = [], [], 0
    tops: dict[tuple[int, int], list[int]] = {}
    for query_language, name in enumerate(corpus.languages):
        gains_of = dict(list(judged(corpus, query_language).items())[:max_queries])
        if not gains_of:
            continue
        scores_QN = encoded("query", [corpus.text(corpus.QUERY, name, row) for row in gains_of]) @ passages.T
        by_pair, whole, bias = defaultdict(list), [], []
        for (query_row, gains), row in zip(gains_of.items(), scores_QN.tolist(), strict=True):
            pool_gains = [gains.get(passage, 0) for passage in pool]
            whole.append(measures_of(row, pool_gains))
            tops[query_language, query_row] = sorted(range(len(row)), key=lambda place: -row[place])[:10]
            ranks = defaultdict(list)
            for rank, place in enumerate(ranking_of(row, pool_gains), start=1):
                if pool_gains[place]:
                    ranks[pool[place][0]].append(rank)
            last_places = defaultdict(list)
            for place in np.flatnonzero(pool_gains).tolist():
                last_places[pool[place][0]].append(sum(score >= row[place] for score in row))
            every = [rank for found in ranks.values() for rank in found]
            several = len(ranks) > 1
            bias.append(
                {
                    "same_language_share@10": same_language_share(row, [place[0] == query_language for place in pool]),
                    "same_language_recall@100": recall(ranks.get(query_language, [])),
                    "other_language_recall@100": recall(
                        [r for language, found in ranks.items() if language != query_language for r in found]
                    ),
                    "PEER": peer(last_places) if several else math.nan,
                    "rank_distance": max(every) - min(every) if several else math.nan,
                }
            )
            for language in {language for language, _ in gains}:
                here = [place for place, passage in enumerate(pool) if passage[0] == language]
                found = measures_of([row[place] for place in here], [pool_gains[place] for place in here])
                found["pool_recall@100"] = recall(ranks[language])
                by_pair[f"{name}-{corpus.languages[language]}"].append(found)
        pairs.update({pair: mean(found) for pair, found in by_pair.items()})
        pooled.append(mean(whole))
        biases.append(mean(bias))
        num_queries += len(gains_of)
    same = {pair for pair in pairs if pair in {f"{name}-{name}" for name in corpus.languages}}
    asked = {pair: {name: values[name] for name in MEASURES} for pair, values in pairs.items()}
    return {
        "monolingual": mean([asked[pair] for pair in pairs if pair in same]),
        "cross_lingual": mean([asked[pair] for pair in pairs if pair not in same]),
        "multilingual": mean(pooled),
        "bias": mean(biases) | parallel_correlation(corpus, tops),
        "pairs": pairs,
        "num_queries": num_queries,
    }


def assert_same(found: Scores, expected: Scores) -> None:
    flat, wanted = flatten_scores(found), flatten_scores(expected)
    for pair, values in expected["pairs"].items():
        wanted.update({f"{pair}/{name}": value for name, value in values.items()})
    for pair, values in found["pairs"].items():
        flat.update({f"{pair}/{name}": value for name, value in values.items()})
    assert flat == pytest.approx(wanted, abs=1e-9)
    assert found["num_queries"] == expected["num_queries"] > 0


def evaluated(encoder: Any, corpus: ParallelCorpus, **options: Any) -> Scores:
    return evaluate_retrieval(encoder, corpus, **options)


# Tests


@pytest.mark.parametrize("vector_of", [tied, scattered])
@pytest.mark.parametrize("name", CORPORA)
def test_scores_are_those_of_the_evaluation_written_out(name: str, vector_of: Callable[..., np.ndarray]) -> None:
    corpus, encoder = CORPORA[name](), ChosenEncoder(vector_of)
    assert_same(evaluated(encoder, corpus), written_out(encoder, corpus))


def test_the_tangled_corpus_is_tangled() -> None:
    corpus = tangled_corpus()
    gains = [gains for language in range(3) for gains in judged(corpus, language).values()]
    assert any(len([p for p in found if p[0] == 0]) > 1 for found in gains)  # several relevant in one language
    assert any(len(found) == 1 for found in gains)  # relevant in one language only
    assert {grade for found in gains for grade in found.values()} == {1, 2, 3}
    assert len(corpus.candidates("de")) > len(np.unique(corpus.rows[:, 0, corpus.PASSAGE]))
    assert len(judged(corpus, 0)) < 24


def test_a_passage_that_two_items_give_a_query_counts_once_with_the_higher_grade() -> None:
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        builder.add_language(
            "en",
            ["1", "2", "3"],
            ["Who?"],
            ["Ada did.", "Charles helped.", "It rained."],
            query_rows=[0, 0, 0],
            passage_rows=[0, 0, 1],
            relevance=[1, 3, 2],
        )
        corpus = builder.finish()
    vectors = {"Charles helped.": [2.0], "Ada did.": [1.0], "It rained.": [0.0]}
    found = evaluated(ChosenEncoder(lambda side, text: np.array(vectors.get(text, [1.0]))), corpus)
    log3 = math.log2(3)
    assert found["pairs"]["en-en"]["MAP"] == 1  # two relevant passages, at the top two
    assert found["pairs"]["en-en"]["nDCG@10"] == pytest.approx((2 + 3 / log3) / (3 + 2 / log3))


def test_an_item_without_relevance_is_no_judgment() -> None:
    corpus, encoder = toy_corpus(20, ("de", "en"), missing=0.0), ChosenEncoder(tied)
    corpus.relevance = np.arange(20) % 2
    found = evaluated(encoder, corpus)
    assert_same(found, written_out(encoder, corpus))
    assert found["num_queries"] == 2 * 10
    assert [len(texts) for _, texts in encoder.asked[:4]] == [
        20,
        20,
        10,
        10,
    ]  # its passage can be retrieved all the same


def test_each_set_is_encoded_once_and_only_what_is_needed() -> None:
    corpus, encoder = tangled_corpus().split(10)[1], ChosenEncoder(scattered)
    evaluated(encoder, corpus)
    assert [side for side, _ in encoder.asked] == ["passage"] * 3 + ["query"] * 3
    for (_, texts), name in zip(encoder.asked, corpus.languages * 2, strict=True):
        assert texts
        assert all(text.startswith(name) for text in texts)
    for number, (_, texts) in enumerate(encoder.asked[3:]):
        assert len(texts) == len(judged(corpus, number))
    for name, (_, texts) in zip(corpus.languages, encoder.asked[:3], strict=True):
        expected = {corpus.text(corpus.PASSAGE, name, row) for row in corpus.candidates(name)}
        assert set(texts) == expected
        assert len(texts) == len(expected) < 20  # passages of the training part are no candidates


@pytest.mark.slow
@pytest.mark.parametrize("name", ["languages missing", "tangled", "held-out part"])
@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_small_blocks_give_identical_scores(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, encoder = CORPORA[name](), ChosenEncoder(tied)
    whole = evaluated(encoder, corpus)
    monkeypatch.setattr(search, "_BLOCK_SCORES", block)
    assert evaluated(encoder, corpus) == whole


def test_no_more_scores_are_held_than_a_block_has(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, encoder = toy_corpus(60, missing=0.0), ChosenEncoder(tied)
    pool = 5 * 60
    with LargestTensor() as whole:
        evaluated(encoder, corpus)
    assert whole.elements >= 60 * pool  # all scores of one language's queries fit into one block here
    monkeypatch.setattr(search, "_BLOCK_SCORES", 5 * pool)
    with LargestTensor() as bounded:
        evaluated(encoder, corpus)
    assert pool * 4 <= bounded.elements <= 5 * pool  # the embeddings of the pool, 4 numbers each, are held


def test_a_perfect_encoder_has_perfect_scores() -> None:
    corpus = toy_corpus(20, ("de", "en", "zh"), missing=0.0)
    found = evaluated(ChosenEncoder(perfect), corpus)
    best = {"MAP": 1, "nDCG@10": 1, "MRR@10": 1, "Recall@100": 1}
    for setting in (found["monolingual"], found["cross_lingual"], found["multilingual"]):
        assert setting == best
    assert list(found["pairs"].values()) == [{**best, "pool_recall@100": 1}] * 9
    assert found["bias"]["rank_distance"] == 2  # three translations at the top three
    # three places go to the translations, seven to some of the 57 others, a third of which are of its language
    assert found["bias"]["same_language_share@10"] == pytest.approx(1 / 3)


def test_a_constant_encoder_has_the_worst_scores() -> None:
    corpus = toy_corpus(120, ("de", "en", "zh"), missing=0.0)
    found = evaluated(ChosenEncoder(constant), corpus)
    worst = {"MAP": pytest.approx(1 / 120), "nDCG@10": 0, "MRR@10": 0, "Recall@100": 0}
    for setting in (found["monolingual"], found["cross_lingual"]):
        assert setting == worst
    assert list(found["pairs"].values()) == [{**worst, "pool_recall@100": 0}] * 9
    assert found["multilingual"]["MAP"] == pytest.approx((1 / 358 + 2 / 359 + 3 / 360) / 3)
    assert found["bias"]["same_language_share@10"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["languages missing", "tangled"])
def test_max_queries_takes_the_first_that_are_judged(name: str) -> None:
    corpus, encoder = CORPORA[name](), ChosenEncoder(tied)
    found = evaluated(encoder, corpus, max_queries=3)
    assert [len(texts) for side, texts in encoder.asked if side == "query"] == [3] * len(corpus.languages)
    assert found["num_queries"] == 3 * len(corpus.languages)
    assert_same(found, written_out(encoder, corpus, max_queries=3))
    assert evaluated(encoder, corpus, max_queries=10_000) == evaluated(encoder, corpus)


def test_max_queries_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_queries=0: give at least 1"):
        evaluated(ChosenEncoder(tied), tangled_corpus(), max_queries=0)


def one_way_corpus(shared_item: str) -> ParallelCorpus:
    """Queries in English, passages in German."""
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        builder.add_language("en", ["1", "2"], ["Who?", "When?"], [], passage_rows=[-1, -1])
        builder.add_language("de", [shared_item, "3"], [], ["Ada.", "1843."], query_rows=[-1, -1])
        return builder.finish()


def test_a_pair_without_queries_is_absent() -> None:
    found = evaluated(ChosenEncoder(scattered), one_way_corpus("1"))
    assert list(found["pairs"]) == ["en-de"]
    assert found["num_queries"] == 1
    assert found["monolingual"] == {}
    assert found["cross_lingual"] == found["multilingual"]
    assert found["pairs"]["en-de"] == {**found["multilingual"], "pool_recall@100": 1}
    # no query has parallel passages or is parallel to another
    assert found["bias"] == {"same_language_share@10": 0, "other_language_recall@100": 1}
    assert "rank_distance" not in scores_table(None, found)


def test_a_corpus_without_judgments_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluated(ChosenEncoder(scattered), one_way_corpus("4"))


@pytest.mark.parametrize("side", ["query", "passage"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_embeddings_that_are_not_finite_are_refused(side: str, value: float) -> None:
    def diverged(asked: str, text: str) -> np.ndarray:
        return np.full(4, value if asked == side and text.startswith("en1 ") else 1.0)

    with pytest.raises(ValueError, match=f"Embeddings of {side} texts in 'en' are not finite"):
        evaluated(ChosenEncoder(diverged), toy_corpus(5, ("de", "en"), missing=0.0))


def test_scores_stay_in_float32_under_autocast() -> None:
    corpus, encoder = CORPORA["languages missing"](), ChosenEncoder(scattered)
    expected = evaluated(encoder, corpus)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert evaluated(encoder, corpus) == expected


def _evaluate_rank(rank: int, file: str, output: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    corpus = CORPORA["languages missing"]()
    chosen = evaluated(ChosenEncoder(scattered), corpus)
    real = evaluated(toy_encoder(corpus), corpus, batch_tokens=500)
    Path(f"{output}{rank}").write_text(json.dumps([chosen, real]), encoding="utf-8")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_evaluate_rank, (str(tmp_path / "meet"), str(tmp_path / "scores")), nprocs=2)
    first, second = (json.loads((tmp_path / f"scores{rank}").read_text(encoding="utf-8")) for rank in range(2))
    corpus = CORPORA["languages missing"]()
    assert first == second
    assert first[0] == evaluated(ChosenEncoder(scattered), corpus)
    # batches are composed otherwise, so that an embedding may be off by a rounding and near scores change places
    expected = flatten_scores(evaluated(toy_encoder(corpus), corpus, batch_tokens=500))
    assert flatten_scores(first[1]) == pytest.approx(expected, rel=0.01)


def test_a_real_encoder_from_text_to_scores(capsys: pytest.CaptureFixture[str]) -> None:
    corpus = CORPORA["tangled"]()
    encoder = toy_encoder(corpus)
    found = evaluated(encoder, corpus, show_progress=True)
    assert "Evaluating" in capsys.readouterr().err
    assert_same(found, written_out(encoder, corpus))
    assert json.loads(json.dumps(found)) == found
    assert set(found["multilingual"]) == {"MAP", "nDCG@10", "MRR@10", "Recall@100"}


def test_flat_names_are_setting_and_measure() -> None:
    found = evaluated(ChosenEncoder(tied), tangled_corpus())
    flat = flatten_scores(found)
    assert len(flat) == 3 * 4 + 6
    assert flat["multilingual/nDCG@10"] == found["multilingual"]["nDCG@10"]
    assert flat["bias/rank_distance"] == found["bias"]["rank_distance"]


def test_the_table_sets_before_beside_after() -> None:
    before: Scores = {
        "monolingual": {"MAP": 0.25},
        "cross_lingual": {},
        "multilingual": {},
        "bias": {"rank_distance": 1210.96},
        "pairs": {},
        "num_queries": 1,
    }
    after: Scores = {**before, "monolingual": {"MAP": 0.79876}, "cross_lingual": {"MAP": 1.0}}
    assert scores_table(before, after).splitlines() == [
        "measure               before    after",
        "monolingual/MAP       0.2500   0.7988",
        "cross_lingual/MAP          -   1.0000",
        "bias/rank_distance    1211.0   1211.0",
    ]
    assert scores_table(None, before).splitlines()[1] == "monolingual/MAP            -   0.2500"
