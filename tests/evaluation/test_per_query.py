"""What an evaluation leaves: read back by independent tools it has the scores that were reported."""

from __future__ import annotations

import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import pytrec_eval
from ir_measures import AP, RR, R, nDCG

from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.evaluation.per_query import EvaluationFiles
from hf_hybrid.metrics.beir_cross_lingual.ranking import MEASURES
from hf_hybrid.records.schema import OUTPUTS_NAME, PER_QUERY_NAME, Scores
from hf_hybrid.retrieval import faiss as approximate
from tests.support.toys import toy_corpus

pytestmark = pytest.mark.usefixtures("one_thread")
LANGUAGES = ("de", "en", "zh")
ODD_IDS = [
    "plain",
    "two words",
    "tab\there",
    "line\nbreak",
    "no\u00a0break",
    'a "quote"',
    "50%",
    "100%25",
    "two%20words",
]
ODD_IDS += ["comma,semicolon;", "日本", "back\\slash", "en:colon"]


class TextModel:
    """Gives each text a vector by its letters: scores hardly ever tie."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.stack([np.random.default_rng(zlib.crc32(text.encode())).standard_normal(8) for text in texts])


def beir_corpus() -> ParallelCorpus:
    """Graded, several passages a query, with the sources' own ids, the same in all languages, and hard to write."""
    rng = np.random.default_rng(0)
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        for number, language in enumerate(LANGUAGES):
            count = 40 - 5 * number
            queries = [f"{language} question {row}" for row in range(len(ODD_IDS))]
            passages = [f"{language} answer {row}" for row in range(count)]
            builder.add_language(
                language,
                [f"item {item}" for item in range(30)],
                queries,
                passages,
                query_rows=np.where(rng.random(30) < 0.2, -1, np.arange(30) % len(queries)),
                passage_rows=np.where(rng.random(30) < 0.3, -1, rng.permutation(count)[:30]),
                relevance=rng.integers(1, 4, size=30),
                query_ids=ODD_IDS,
                passage_ids=[*ODD_IDS, *(f"d{row}" for row in range(len(ODD_IDS), count))],
            )
        return builder.finish()


CORPORA: dict[str, Callable[[], ParallelCorpus]] = {
    "own ids": beir_corpus,
    "no ids": lambda: toy_corpus(30, LANGUAGES, missing=0.3),
    "held-out part": lambda: toy_corpus(60, LANGUAGES, missing=0.3).split(20)[1],
}


def evaluated(
    corpus: ParallelCorpus, folder: Path, save_runs: bool = True, top_k: int = 1000, **options: Any
) -> Scores:
    with EvaluationFiles(folder, corpus, save_runs, top_k) as files:
        return evaluate_retrieval(TextModel(), corpus, details=files, **options)


def files_of(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != OUTPUTS_NAME
    )


def names(languages: Sequence[str] = LANGUAGES) -> list[str]:
    return [f"{query}-{passage}" for query in languages for passage in (*languages, "all")]


# Rankings and judgments


def recomputed(folder: Path, name: str) -> dict[str, float]:
    """Measures of one ranking, by ir_measures."""
    qrels = list(ir_measures.read_trec_qrels(str(folder / "qrels" / f"{name}.qrels")))
    run = list(ir_measures.read_trec_run(str(folder / "runs" / f"{name}.trec")))
    found = ir_measures.calc_aggregate([AP, nDCG @ 10, RR @ 10, R @ 100], qrels, run)
    return dict(zip(MEASURES, (found[AP], found[nDCG @ 10], found[RR @ 10], found[R @ 100]), strict=True))


@pytest.mark.parametrize("name", CORPORA)
def test_ir_measures_finds_the_reported_scores_in_the_files(name: str, tmp_path: Path) -> None:
    scores = evaluated(CORPORA[name](), tmp_path)
    assert files_of(tmp_path) == sorted(
        [PER_QUERY_NAME, *(f"runs/{pair}.trec" for pair in names()), *(f"qrels/{pair}.qrels" for pair in names())]
    )
    for pair, values in scores["pairs"].items():
        assert recomputed(tmp_path, pair) == pytest.approx({name: values[name] for name in MEASURES}, abs=1e-9)
    pooled = [recomputed(tmp_path, f"{language}-all") for language in LANGUAGES]
    means = {name: float(np.mean([values[name] for values in pooled])) for name in MEASURES}
    assert means == pytest.approx(scores["multilingual"], abs=1e-9)
    assert 0.05 < means["MAP"] < 0.95


def test_pytrec_eval_finds_the_reported_scores_in_the_files(tmp_path: Path) -> None:
    scores, grades = evaluated(beir_corpus(), tmp_path), set()
    for pair, values in scores["pairs"].items():
        with open(tmp_path / "qrels" / f"{pair}.qrels", encoding="utf-8") as file:
            qrels = pytrec_eval.parse_qrel(file)
        with open(tmp_path / "runs" / f"{pair}.trec", encoding="utf-8") as file:
            run = pytrec_eval.parse_run(file)
        grades |= {grade for found in qrels.values() for grade in found.values()}
        found = pytrec_eval.RelevanceEvaluator(qrels, {"map", "ndcg_cut_10"}).evaluate(run)
        for name, theirs in (("MAP", "map"), ("nDCG@10", "ndcg_cut_10")):
            mean = np.mean([query[theirs] for query in found.values()])
            assert mean == pytest.approx(values[name], abs=1e-6)  # its scores are float32
    assert grades == {1, 2, 3}


def columns(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_ranking_has_every_passage_from_the_best_to_the_last(tmp_path: Path) -> None:
    corpus = beir_corpus()
    evaluated(corpus, tmp_path)
    for name in names():
        found = defaultdict(list)
        for query, q0, passage, rank, score, tag in columns(tmp_path / "runs" / f"{name}.trec"):
            assert (q0, tag) == ("Q0", "hf_hybrid")
            found[query].append((int(rank), float(score), passage))
        language = name.split("-")[1]
        expected = [
            f"{code}:{passage}"
            for code in (LANGUAGES if language == "all" else [language])
            for passage in corpus.row_ids(corpus.PASSAGE, code).to_pylist()  # type: ignore[union-attr]
        ]
        assert len(set(expected)) == len(expected)
        for ranking in found.values():
            ranks, scores, passages = zip(*ranking, strict=True)
            assert ranks == tuple(range(1, len(expected) + 1))
            assert sorted(scores, reverse=True) == list(scores)
            assert sorted(map(unquote, passages)) == sorted(expected)
            assert len(set(passages)) == len(expected)


def test_ids_come_back_from_the_files(tmp_path: Path) -> None:
    corpus = beir_corpus()
    evaluated(corpus, tmp_path)
    rows = np.unique(corpus.rows[:, 0, corpus.QUERY])
    expected = {ODD_IDS[row] for row in rows[rows >= 0]}
    assert expected == set(ODD_IDS)
    for kind in ("runs/de-all.trec", "qrels/de-all.qrels"):
        assert {unquote(line[0]) for line in columns(tmp_path / kind)} == expected
    written = {line[0] for line in columns(tmp_path / "runs/de-all.trec")}
    assert {"plain", "50%", "日本", "two%20words", "two%2520words"} < written  # no more is changed than needs be


def test_judgments_are_the_items(tmp_path: Path) -> None:
    corpus = beir_corpus()
    evaluated(corpus, tmp_path)
    expected = set()
    for item in range(len(corpus)):
        query = corpus.rows[item, 0, corpus.QUERY]
        for number, language in enumerate(LANGUAGES):
            passage = corpus.rows[item, number, corpus.PASSAGE]
            if query >= 0 and passage >= 0:
                passage_id = corpus.row_ids(corpus.PASSAGE, language)[int(passage)]  # type: ignore[index]
                expected.add((ODD_IDS[query], f"{language}:{passage_id}", int(corpus.relevance[item])))
    found = [
        (unquote(query), unquote(passage), int(grade))
        for query, _, passage, grade in columns(tmp_path / "qrels/de-all.qrels")
    ]
    assert len(found) == len(expected) > 30
    assert set(found) == expected
    parts = [columns(tmp_path / f"qrels/de-{language}.qrels") for language in LANGUAGES]
    assert sorted(line for part in parts for line in part) == sorted(columns(tmp_path / "qrels/de-all.qrels"))
    assert [{line[2].split(":")[0] for line in part} for part in parts] == [{"de"}, {"en"}, {"zh"}]


def test_without_own_ids_a_query_is_its_item_and_a_passage_its_row(tmp_path: Path) -> None:
    corpus = toy_corpus(30, LANGUAGES, missing=0.3)
    evaluated(corpus, tmp_path)
    expected = {
        (corpus.item_ids[item], f"en:{corpus.rows[item, 1, corpus.PASSAGE]}")
        for item in range(len(corpus))
        if corpus.rows[item, 0, corpus.QUERY] >= 0 and corpus.rows[item, 1, corpus.PASSAGE] >= 0
    }
    assert {(line[0], line[2]) for line in columns(tmp_path / "qrels/de-en.qrels")} == expected
    assert any(item.removeprefix("item-").lstrip("0") != row.removeprefix("en:") for item, row in expected)


def test_a_ranking_is_cut_at_the_depth(tmp_path: Path) -> None:
    corpus = beir_corpus()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert evaluated(corpus, whole) == evaluated(corpus, cut, top_k=7)
    for name in names():
        lines, first = columns(whole / "runs" / f"{name}.trec"), columns(cut / "runs" / f"{name}.trec")
        assert first == [line for line in lines if int(line[3]) <= 7]
        assert 0 < len(first) < len(lines)
        assert columns(cut / "qrels" / f"{name}.qrels") == columns(whole / "qrels" / f"{name}.qrels")


def test_a_depth_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run_depth=0: give at least 1"):
        EvaluationFiles(tmp_path, beir_corpus(), save_runs=True, run_depth=0)


def test_the_tag_names_the_system(tmp_path: Path) -> None:
    corpus = beir_corpus()
    with EvaluationFiles(tmp_path, corpus, save_runs=True, tag="my model") as files:
        evaluate_retrieval(TextModel(), corpus, details=files)
    assert {line[5] for line in columns(tmp_path / "runs/de-en.trec")} == {"my%20model"}


def test_places_that_approximate_search_leaves_empty_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximate, "_EXACT_UP_TO", 10)
    monkeypatch.setattr(approximate, "_PROBED", 1e-9)
    evaluated(beir_corpus(), tmp_path, index="faiss")
    counts = [len(columns(tmp_path / "runs" / f"{name}.trec")) for name in names()]
    assert min(counts) > 0
    assert counts[names().index("de-en")] < len(ODD_IDS) * 35
    for name in names():
        assert "nan" not in (tmp_path / "runs" / f"{name}.trec").read_text(encoding="utf-8")
        assert "inf" not in (tmp_path / "runs" / f"{name}.trec").read_text(encoding="utf-8")


# Values of single queries


def per_query(folder: Path) -> list[dict[str, Any]]:
    return pa.parquet.read_table(folder / PER_QUERY_NAME).to_pylist()


def means_by_pair(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    groups = defaultdict(list)
    for row in rows:
        groups[f"{row.pop('query_language')}-{row.pop('passage_language')}"].append(row)
        row.pop("query_id")
    means = {}
    for pair, found in groups.items():
        known = {name: [row[name] for row in found if row[name] is not None] for name in found[0]}
        means[pair] = {name: float(np.mean(values)) for name, values in known.items() if values}
    return means


@pytest.mark.parametrize("name", CORPORA)
def test_means_of_the_single_queries_are_the_reported_scores(name: str, tmp_path: Path) -> None:
    corpus = CORPORA[name]()
    scores = evaluated(corpus, tmp_path, save_runs=False)
    assert files_of(tmp_path) == [PER_QUERY_NAME]
    rows = per_query(tmp_path)
    assert all(value is None or not np.isnan(value) for row in rows for value in list(row.values())[3:])
    assert sum(row["passage_language"] == "*" for row in rows) == scores["num_queries"]
    means = means_by_pair(rows)
    pooled = [means.pop(f"{language}-*") for language in LANGUAGES]
    for pair, values in scores["pairs"].items():
        assert means[pair] == pytest.approx(values, abs=1e-12)
    assert means.keys() == scores["pairs"].keys()
    expected = {**scores["multilingual"], **scores["bias"]}
    assert expected.pop("MRC@10") <= 1  # this is one of pairs of queries
    assert expected.keys() == pooled[0].keys()
    for measure, value in expected.items():
        assert np.mean([found[measure] for found in pooled]) == pytest.approx(value, abs=1e-12)
    monolingual = [means[f"{language}-{language}"]["MAP"] for language in LANGUAGES]
    assert np.mean(monolingual) == pytest.approx(scores["monolingual"]["MAP"], abs=1e-12)


def test_values_are_those_of_the_query_that_they_stand_beside(tmp_path: Path) -> None:
    evaluated(beir_corpus(), tmp_path)
    rows, judged = per_query(tmp_path), []
    for name in names():
        qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels" / f"{name}.qrels")))
        run = list(ir_measures.read_trec_run(str(tmp_path / "runs" / f"{name}.trec")))
        expected = {unquote(found.query_id): found.value for found in ir_measures.iter_calc([AP], qrels, run)}
        pair = name.replace("all", "*")
        found = {r["query_id"]: r["MAP"] for r in rows if f"{r['query_language']}-{r['passage_language']}" == pair}
        assert found == pytest.approx(expected, abs=1e-9)
        assert len({round(value, 6) for value in found.values()}) > 3
        judged.append(len(found))
    assert min(judged) < max(judged) == len(ODD_IDS)  # not every query has a passage in every language


def test_a_query_is_named_as_in_the_source(tmp_path: Path) -> None:
    evaluated(beir_corpus(), tmp_path, save_runs=False)
    assert {row["query_id"] for row in per_query(tmp_path) if row["query_language"] == "de"} == set(ODD_IDS)


def test_types_are_told_in_the_file(tmp_path: Path) -> None:
    evaluated(beir_corpus(), tmp_path, measures=["P@3"])
    schema = pa.parquet.read_schema(tmp_path / PER_QUERY_NAME)
    assert schema.names[:4] == ["query_language", "passage_language", "query_id", "P@3"]
    assert schema.types[:3] == [pa.string()] * 3
    assert set(schema.types[3:]) == {pa.float64()}
    assert "MAP" not in schema.names


def test_values_are_written_as_they_come_a_row_group_for_each_language(tmp_path: Path) -> None:
    class Watched(EvaluationFiles):
        def add(self, *args: Any) -> None:
            before = pa.total_allocated_bytes()
            super().add(*args)
            kept.append(pa.total_allocated_bytes() - before)

    kept: list[int] = []
    corpus = toy_corpus(4000, LANGUAGES)
    with Watched(tmp_path, corpus) as files:
        evaluate_retrieval(TextModel(), corpus, details=files)
    file = pa.parquet.ParquetFile(tmp_path / PER_QUERY_NAME)
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    assert [set(group["query_language"].to_pylist()) for group in groups] == [{language} for language in LANGUAGES]
    assert groups[0].nbytes > 1_000_000
    assert max(kept) < 0.2 * groups[0].nbytes


def test_columns_do_not_depend_on_what_the_first_language_has(tmp_path: Path) -> None:
    for order in (("de", "en"), ("en", "de")):  # no German passage answers a German question
        with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
            for language in order:
                here = language == "en"
                builder.add_language(
                    language, ["1", "2"], [f"{language}?", f"{language}??"], ["so", "no"] if here else [],
                    passage_rows=[0, 1] if here else [-1, -1],
                )  # fmt: skip
            corpus = builder.finish()
        evaluated(corpus, tmp_path / order[0], save_runs=False, settings=["monolingual", "multilingual"])
    files = [pa.parquet.read_table(tmp_path / language / PER_QUERY_NAME) for language in ("de", "en")]
    assert files[0].schema == files[1].schema
    assert files[0].column_names[3:9] == [*MEASURES, "pool_recall@100", "rank_distance"]
    keys = [(name, "ascending") for name in files[0].column_names[:3]]
    assert files[0].sort_by(keys) == files[1].sort_by(keys)
    rows = files[0].to_pylist()
    assert {row["pool_recall@100"] is None for row in rows if row["passage_language"] == "*"} == {True}


def test_a_bias_that_only_some_languages_know_has_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """English questions have their answers at the top k, German ones anywhere, beyond those that are known."""
    monkeypatch.setattr(approximate, "NUM_RANKED", 6)

    for order in (("de", "en"), ("en", "de")):
        corpus = two_way_corpus(order)
        with EvaluationFiles(tmp_path / order[0], corpus) as files:
            evaluate_retrieval(EnglishAnswers(), corpus, details=files, index="faiss")
        distances = defaultdict(set)
        for row in per_query(tmp_path / order[0]):
            if row["passage_language"] == "*":
                distances[row["query_language"]].add(row["rank_distance"])
        assert None in distances["de"]
        assert distances["en"] == {1.0}


def two_way_corpus(order: tuple[str, str]) -> ParallelCorpus:
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        for language in order:
            numbers = [str(number) for number in range(30)]
            builder.add_language(
                language, numbers, [f"{language}? {n}" for n in numbers], [f"{language}! {n}" for n in numbers]
            )
        return builder.finish()


class EnglishAnswers:
    """Finds what an English question asks for, in both languages, and nothing for a German one."""

    def encode(self, texts: list[str]) -> np.ndarray:
        found = TextModel().encode([text if text.startswith("de?") else text.split()[1] for text in texts])
        return found + 1e-3 * TextModel().encode(texts)


# Settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["monolingual"], ["de-de", "en-en", "zh-zh"]),
        (["cross_lingual"], ["de-en", "de-zh", "en-de", "en-zh", "zh-de", "zh-en"]),
        (["multilingual"], ["de-all", "en-all", "zh-all"]),
        (["monolingual", "multilingual"], ["de-all", "de-de", "en-all", "en-en", "zh-all", "zh-zh"]),
    ],
    ids=str,
)
def test_only_what_the_settings_ask_for_is_written(settings: list[str], expected: list[str], tmp_path: Path) -> None:
    corpus = beir_corpus()
    evaluated(corpus, tmp_path / "some", settings=settings)
    evaluated(corpus, tmp_path / "all")
    assert sorted(path.stem for path in (tmp_path / "some" / "runs").iterdir()) == expected
    for name in expected:
        judged = columns(tmp_path / "some" / "qrels" / f"{name}.qrels")
        assert judged == columns(tmp_path / "all" / "qrels" / f"{name}.qrels")
        # a query that only has passages in other languages is skipped where those are not asked for
        some, every = (columns(tmp_path / part / "runs" / f"{name}.trec") for part in ("some", "all"))
        assert [line for line in every if line in some] == some
        assert {line[0] for line in judged} <= {line[0] for line in some}
    pairs = {
        f"{row['query_language']}-{row['passage_language']}".replace("*", "all")
        for row in per_query(tmp_path / "some")
    }
    assert pairs == set(expected)


def test_a_language_without_such_a_pair_is_passed_over(tmp_path: Path) -> None:
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        builder.add_language("de", ["1"], ["Wer?"], ["Ada."])
        builder.add_language("en", ["1", "2"], ["Who?", "When?"], [], passage_rows=[-1, -1])
        corpus = builder.finish()
    evaluated(corpus, tmp_path, settings=["cross_lingual"])
    assert [(row["query_language"], row["passage_language"]) for row in per_query(tmp_path)] == [("en", "de")]


def test_rankings_of_an_earlier_evaluation_do_not_stay_beside_those_of_this_one(tmp_path: Path) -> None:
    corpus = beir_corpus()
    evaluated(corpus, tmp_path)
    (tmp_path / "eval.json").write_text("{}", encoding="utf-8")
    evaluated(corpus, tmp_path, settings=["multilingual"])
    ours = [f"qrels/{language}-all.qrels" for language in LANGUAGES]
    ours += [f"runs/{language}-all.trec" for language in LANGUAGES]
    assert files_of(tmp_path) == sorted([*ours, PER_QUERY_NAME, "eval.json"])


# A run that ends before its time


class Killed(Exception):
    """What ends it."""


@pytest.mark.parametrize("languages_done", [0, 1, 3])
def test_an_error_leaves_no_values_and_keeps_the_old_ones(languages_done: int, tmp_path: Path) -> None:
    class Stopping(EvaluationFiles):
        def add(self, *args: Any) -> None:
            if self.done == languages_done:
                raise Killed
            super().add(*args)
            self.done += 1

        done = 0

    def stopped(folder: Path) -> None:
        with Stopping(folder, beir_corpus()) as files:
            evaluate_retrieval(TextModel(), beir_corpus(), details=files)
            raise Killed

    with pytest.raises(Killed):
        stopped(tmp_path / "new")
    assert files_of(tmp_path / "new") == []
    evaluated(beir_corpus(), tmp_path / "old", save_runs=False)
    before = (tmp_path / "old" / PER_QUERY_NAME).read_bytes()
    with pytest.raises(Killed):
        stopped(tmp_path / "old")
    assert files_of(tmp_path / "old") == [PER_QUERY_NAME]
    assert (tmp_path / "old" / PER_QUERY_NAME).read_bytes() == before


def test_a_kill_leaves_no_half_a_file(tmp_path: Path) -> None:
    corpus = beir_corpus()
    killed = EvaluationFiles(tmp_path, corpus)
    evaluate_retrieval(TextModel(), corpus, details=killed)  # it never ends
    assert PER_QUERY_NAME not in files_of(tmp_path)
    evaluated(corpus, tmp_path, save_runs=False)
    assert files_of(tmp_path) == [PER_QUERY_NAME]
