"""BM25 against its formula written out."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.evaluation.evaluate import evaluate_bm25
from hf_hybrid.retrieval import bm25
from hf_hybrid.retrieval.bm25 import TermPool, terms

K1, B = 1.5, 0.75
ENGLISH = ["The river and the stone.", "A stone garden, a stone wall!", "Snow", "..."]
GERMAN = ["Der Fluss und der Stein", "Ein Garten mit Snow", "Der Winter; der Winter"]
QUERIES = ["stone garden", "the stone the stone", "Winter SNOW", "zebra", "zebra stone", "", "?!"]


def small_corpus(english: list[str] = ENGLISH, german: list[str] = GERMAN) -> ParallelCorpus:
    """Two languages of different size; the queries are the same in both, in another order."""
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        for language, passages, queries in (("en", english, QUERIES), ("de", german, QUERIES[::-1])):
            rows = np.arange(len(queries))
            builder.add_language(
                language,
                [str(row) for row in rows],
                queries,
                passages,
                passage_rows=np.where(rows < len(passages), rows, -1),
            )
        return builder.finish()


def pool_of(corpus: ParallelCorpus, english: list[int] | None = None) -> TermPool:
    candidates = [corpus.candidates("en") if english is None else np.array(english), corpus.candidates("de")]
    return TermPool(corpus, candidates, [np.arange(len(QUERIES))] * 2)


def formula(query: list[str], passage: list[str], pool: list[list[str]]) -> float:
    """Robertson's BM25 with the idf of Lucene, which is never negative."""
    mean_length = sum(map(len, pool)) / len(pool)
    total = 0.0
    for term in query:
        holders, count = sum(term in other for other in pool), passage.count(term)
        idf = math.log(1 + (len(pool) - holders + 0.5) / (holders + 0.5))
        total += idf * count / (count + K1 * (1 - B + B * len(passage) / mean_length))
    return total


# Terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Das kostet 5,50 Euro.", ["das", "kostet", "5", "50", "euro"]),
        ("ÉCOLE Straße", ["école", "straße"]),
        ("Ελλάδα, Привет!", ["ελλάδα", "привет"]),
        ("ما هي العملة؟", ["ما", "هي", "العملة"]),
        ("हिन्दी की भाषा।", ["हिन्दी", "की", "भाषा"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("한국어 사전", ["한국어", "사전"]),
        ("日本の円", ["日本", "本の", "の円"]),
        ("東京 2024年", ["東京", "2024", "年"]),
        ("ภาษาไทย", ["ภา", "าษ", "ษา", "าไ", "ไท", "ทย"]),
        ("GPU搭載", ["gpu", "搭載"]),
        ("水", ["水"]),
        ("", []),
        ("?! — …", []),
    ],
)
def test_terms_of_many_scripts(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("one", "other"), [("café", "cafe\u0301"), ("ＧＰＵ", "gpu"), ("한국", "\u1112\u1161\u11ab국")]
)
def test_terms_do_not_depend_on_the_form_of_the_characters(one: str, other: str) -> None:
    assert one != other
    assert terms(one) == terms(other)
    assert len(terms(one)) == 1


# Scores


def test_scores_are_those_of_the_formula() -> None:
    corpus = small_corpus()
    pool = pool_of(corpus)
    assert pool.sizes == [4, 3]
    passages = [terms(text) for text in ENGLISH + GERMAN]
    assert len(set(map(len, passages))) > 3  # the length counts
    for language, queries in enumerate((QUERIES, QUERIES[::-1])):
        expected = [[formula(terms(query), passage, passages) for passage in passages] for query in queries]
        found = pool.scores(language, slice(0, len(queries)))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        assert found[1, 1] > 0 if language == 0 else found[-2, 1] > 0
    assert torch.equal(pool.scores(1, slice(2, 5)), found[2:5])


def test_statistics_are_those_of_the_passages_that_can_be_retrieved() -> None:
    found = pool_of(small_corpus(), english=[1, 2]).scores(0, slice(0, 3))
    passages = [terms(text) for text in [ENGLISH[1], ENGLISH[2], *GERMAN]]
    expected = [[formula(terms(query), passage, passages) for passage in passages] for query in QUERIES[:3]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_unknown_words_score_nothing() -> None:
    scores = pool_of(small_corpus()).scores(0, slice(0, len(QUERIES)))
    by_query = dict(zip(QUERIES, scores, strict=True))
    for query in ("zebra", "", "?!"):
        assert not by_query[query].any()
    assert by_query["zebra stone"].any()


@pytest.mark.parametrize("german", ["!", "Der Stone"])
def test_passages_without_any_term_score_nothing(german: str) -> None:
    scores = pool_of(small_corpus(["...", ""], [german])).scores(0, slice(0, 3))
    assert scores.shape == (3, 3)
    assert not scores[:, :2].any()
    assert scores[:, 2].any() == (german != "!")


def test_texts_are_read_in_parts_and_only_those_that_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, rows = small_corpus(), np.array([0, 1, 3, 4, 6])
    whole = pool_of(corpus, english=[1, 2]).scores(0, slice(0, 7))
    for number in (1, 2, 100):
        monkeypatch.setattr(bm25, "_READ_ROWS", number)
        assert list(bm25._texts(corpus, corpus.QUERY, "en", rows)) == [QUERIES[row] for row in rows]
        assert list(bm25._texts(corpus, corpus.QUERY, "en", rows[:0])) == []
        assert torch.equal(pool_of(corpus, english=[1, 2]).scores(0, slice(0, 7)), whole)


def test_scores_of_some_passages_are_part_of_all() -> None:
    pool = pool_of(small_corpus())
    assert torch.equal(pool.scores(0, slice(0, 7), slice(2, 5)), pool.scores(0, slice(0, 7))[:, 2:5])


def test_bars_are_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_bm25(small_corpus())
    assert capsys.readouterr().err == ""
    evaluate_bm25(small_corpus(), show_progress=True)
    shown = capsys.readouterr().err
    assert "Reading" in shown
    assert "Evaluating" in shown


# In an evaluation


def test_it_finds_within_a_language_and_across_only_what_is_written_the_same() -> None:
    words = {
        "en": ("river stone winter paper engine garden", "Where is the {}?", "A {} is here."),
        "de": ("fluss stein winter papier motor garten", "Wo ist {}?", "Hier ist {}."),
    }
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        for language, (listed, question, answer) in words.items():
            names = listed.split()
            texts = [[form.format(name) for name in names] for form in (question, answer)]
            builder.add_language(language, [str(number) for number in range(6)], *texts)
        corpus = builder.finish()
    scores = evaluate_bm25(corpus, measures=["MRR@10", "success@1"])
    assert scores["monolingual"] == {"MRR@10": 1, "success@1": 1}
    # of the words only "winter" is one in both languages; without a match all six tie, and ties count against it
    for pair in ("en-de", "de-en"):
        assert scores["pairs"][pair]["success@1"] == pytest.approx(1 / 6)
        assert scores["pairs"][pair]["MRR@10"] == pytest.approx((1 + 5 / 6) / 6)
    assert evaluate_bm25(corpus, settings=["monolingual"], max_queries=3)["num_queries"] == 6


def test_without_bm25s_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[bm25\]"'):
        pool_of(small_corpus())
