"""Every loader on files in its source's own schema, every fault by file and line, and the real corpora."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sources.beir import from_beir
from hf_hybrid.data.sources.datasets import from_dataset
from hf_hybrid.data.sources.jsonl import from_jsonl
from hf_hybrid.data.sources.load import PRESETS, load_corpus, open_corpora
from hf_hybrid.data.sources.pairs import from_pairs
from hf_hybrid.data.sources.presets import LAYOUTS, PARQUET_BRANCH, from_preset
from hf_hybrid.data.sources.xquad_r import from_xquad_r

QUERY, PASSAGE = ParallelCorpus.QUERY, ParallelCorpus.PASSAGE
DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
Row = Mapping[str, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HF_HYBRID_CACHE", str(folder))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    return folder


def item(item_id: str | int, language: str = "en", **more: Any) -> Row:
    return {"id": item_id, "query": f"query {item_id} {language}", "passage": f"passage {item_id} {language}", **more}


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_folder(folder: Path, files: Mapping[str, Sequence[Row]]) -> Path:
    for name, rows in files.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def texts_of(corpus: ParallelCorpus, kind: int, language: str) -> dict[str, str]:
    column = corpus.rows[:, corpus.languages.index(language), kind]
    return {i: corpus.text(kind, language, r) for i, r in zip(corpus.item_ids, column, strict=True) if r >= 0}


def negatives_of(corpus: ParallelCorpus, language: str) -> dict[str, list[str]]:
    negatives = corpus.negatives(language)
    assert negatives is not None
    rows = np.split(negatives.rows, negatives.offsets[1:-1])
    return {i: [corpus.text(PASSAGE, language, r) for r in n] for i, n in zip(corpus.item_ids, rows, strict=True)}


# JSONL


def test_jsonl_aligns_by_id(tmp_path: Path) -> None:
    files = {"en": [item(1), item("b")], "pt-BR": [item("b", "pt"), item("c", "pt")]}
    corpus = load_corpus(write_folder(tmp_path, files))
    assert corpus.languages == ("en", "pt-BR")
    assert list(corpus.item_ids) == ["1", "b", "c"]
    assert texts_of(corpus, QUERY, "pt-BR") == {"b": "query b pt", "c": "query c pt"}
    assert corpus.num_pairs("en", "pt-BR") == 1
    assert corpus.report == {"single_language_items": 2}
    assert corpus.source == {"format": "jsonl", "path": tmp_path.name}


def test_the_license_is_that_of_a_data_set_card(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"en": [item(1)]})
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Mine\n")
    assert load_corpus(folder).source["license"] == "cc-by-4.0"
    (folder / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")
    with pytest.raises(ValueError, match="not the head of a data set card"):
        load_corpus(folder)


def test_jsonl_titles_groups_and_shared_passages(tmp_path: Path) -> None:
    rows = [item(1, title="Title"), item(2, title=""), item(3, group="g"), item(4, group="g"), item(5), item(6)]
    rows[5] = {**rows[5], "passage": rows[4]["passage"]}
    corpus = from_jsonl(write_folder(tmp_path, {"en": rows}))
    assert [*texts_of(corpus, PASSAGE, "en").values()][:2] == ["Title passage 1 en", "passage 2 en"]
    assert corpus.groups.tolist() == [0, 1, 2, 2, 4, 4]
    assert len(corpus.passages("en")) == 5, "a passage that repeats is stored once"


def test_jsonl_negatives_are_ids_or_texts(tmp_path: Path) -> None:
    files = {
        "en": [item(1, negatives=["2", "a text", "only-de"]), item(2), item(3, negatives=["a text", "1", "3"])],
        "de": [item("only-de", "de")],
    }
    corpus = from_jsonl(write_folder(tmp_path, files), languages=["en", "de"])
    expected = {"1": ["passage 2 en", "a text"], "2": [], "3": ["a text", "passage 1 en"], "only-de": []}
    assert negatives_of(corpus, "en") == expected
    assert corpus.negatives("de") is None
    assert corpus.report["negatives_without_translation"] == 1
    assert corpus.report["negatives_equal_to_passage"] == 1
    assert corpus.passage_groups("en").tolist() == [0, 1, 2, -1]


def test_jsonl_reads_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    line = json.dumps(item(1))
    (tmp_path / "en.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n  \n")
    assert texts_of(from_jsonl(tmp_path), QUERY, "en") == {"1": "query 1 en"}


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "invalid_json": (b'{"id": 1,', "not JSON"),
    "invalid_json ": (b'["a list"]', "allowed is a JSON object"),
    "wrong_encoding": ('{"id": "x", "query": "Müll", "passage": "p"}'.encode("latin-1"), r"0xfc.* is not UTF-8"),
    "wrong_encoding ": (b'{"id": "x", "query": "\\ud800", "passage": "p"}', "half of a surrogate pair"),
    "missing_field": (b'{"id": "x", "query": "q"}', "field 'passage' is missing; the row has 'id', 'query'"),
    "missing_field ": (b'{"id": null, "query": "q", "passage": "p"}', "field 'id' is missing"),
    "empty_field": (b'{"id": "x", "query": "  ", "passage": "p"}', "field 'query' is empty"),
    "wrong_type": (b'{"id": "x", "query": 3, "passage": "p"}', r"'query' is '3' \(int\), allowed is a string"),
    "wrong_type ": (b'{"id": true, "query": "q", "passage": "p"}', r"'id' is 'True' \(bool\), allowed is a string"),
    "wrong_type  ": (b'{"id": "x", "query": "q", "passage": "p", "negatives": "n"}', "allowed is a list of strings"),
    "duplicate_id": (b'{"id": "1", "query": "q", "passage": "p"}', "id '1' occurs twice, first in line 1"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_refused_by_file_and_line_or_counted(tmp_path: Path, case: str) -> None:
    line, message = BAD_LINES[case]
    good = [json.dumps(item(i)).encode() for i in (1, 2)]
    (tmp_path / "en.jsonl").write_bytes(b"\n".join([good[0], line, good[1]]))
    with pytest.raises(ValueError, match=rf"en\.jsonl, line 2: .*{message}.*on_bad_row=\"skip\"") as caught:
        from_jsonl(tmp_path)
    assert str(tmp_path) in str(caught.value)
    corpus = from_jsonl(tmp_path, on_bad_row="skip")
    assert list(corpus.item_ids) == ["1", "2"]
    assert corpus.report == {case.strip(): 1}


BAD_FILES: dict[str, tuple[dict[str, list[Row]], str]] = {
    "language": ({"en": [item(1)], "german": [item(1)]}, "unknown language code 'german'; allowed are BCP-47"),
    "no language": ({"xx": [item(1)]}, "unknown language code 'xx'"),
    "undetermined": ({"und": [item(1)]}, "unknown language code 'und'"),
    "underscore": ({"pt_BR": [item(1)]}, "unknown language code 'pt_BR'"),
    "small region": ({"pt-br": [item(1)], "en": [item(1, "x")]}, r"Write a region in capitals \(pt-BR\)"),
    "two names": ({"de": [item(1)], "DE": [item(2)]}, "the same language given twice"),
    "two codes": ({"en": [item(1)], "eng": [item(2)]}, "the same language given twice"),
    "twins": ({"de": [item(1)], "fr": [item(1)]}, "same content: a file given twice"),
    "empty": ({"de": [], "fr": [item(1)]}, "has no usable line"),
}


@pytest.mark.parametrize("on_bad_row", ["refuse", "skip"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_always_refused(tmp_path: Path, cache: Path, case: str, on_bad_row: str) -> None:
    files, message = BAD_FILES[case]
    with pytest.raises(ValueError, match=message):
        from_jsonl(write_folder(tmp_path, files), on_bad_row=on_bad_row)
    assert list(cache.iterdir()) == []


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no corpus"):
        load_corpus(tmp_path)
    with pytest.raises(ValueError, match=r"holds no \*\.jsonl file"):
        from_jsonl(tmp_path)
    write_folder(tmp_path, {"en": [item(1)]})
    with pytest.raises(ValueError, match='give "refuse"'):
        from_jsonl(tmp_path, on_bad_row="ignore")
    with pytest.raises(ValueError, match=r"languages=\['en', 'fr'\]: .* has en"):
        from_jsonl(tmp_path, languages=["en", "fr"])
    with pytest.raises(ValueError, match="only BEIR folders and presets have splits, not jsonl"):
        load_corpus(tmp_path, split="train")
    with pytest.raises(ValueError, match="give one of auto, built, jsonl, pairs, beir, xquad_r, hub"):
        load_corpus(tmp_path, corpus_format="csv")
    with pytest.raises(ValueError, match=r"neither a folder nor a preset \(did you mean 'xquad'\?\)"):
        load_corpus("xquadd")


def test_a_run_is_not_evaluated_on_what_it_is_trained_on(tmp_path: Path) -> None:
    first, same = (
        write_folder(tmp_path / name, {"en": [item("1"), item("2")], "de": [item("1", "de")]}) for name in "ab"
    )
    with pytest.raises(ValueError, match=r"--eval_corpus is the training corpus: omit it"):
        open_corpora(first, same)
    train, evaluated = open_corpora(first, same, eval_languages="en")
    assert (train.languages, evaluated.languages) == (("de", "en"), ("en",))


# The cache


def test_a_second_load_only_maps(tmp_path: Path, cache: Path) -> None:
    write_folder(tmp_path, {"en": [item(1)]})
    load_corpus(tmp_path)
    (built,) = cache.iterdir()
    before = (built / "corpus.json").stat().st_mtime_ns
    assert load_corpus(tmp_path).num_items == 1
    assert (built / "corpus.json").stat().st_mtime_ns == before
    assert load_corpus(built).fingerprint == load_corpus(tmp_path).fingerprint


def test_a_changed_file_or_option_is_built_anew(tmp_path: Path, cache: Path) -> None:
    write_folder(tmp_path, {"en": [item(1)], "de": [item(1, "de")]})
    load_corpus(tmp_path)
    write_folder(tmp_path, {"en": [item(1), item(2)]})
    assert load_corpus(tmp_path).num_items == 2
    assert load_corpus(tmp_path, languages=["en", "de"]).languages == ("en", "de")
    load_corpus(tmp_path, on_bad_row="skip")
    assert len(list(cache.iterdir())) == 4


# datasets


def test_dataset_and_jsonl_have_the_same_fingerprint(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    files = {
        "en": [item(1, title="T", group="g", negatives=["2"]), item(2, title=None, group=None, negatives=[])],
        "de": [item(2, "de", title=None, group="g", negatives=None)],
    }
    folder = from_jsonl(write_folder(tmp_path, files))
    by_language = {language: Dataset.from_list(list(map(dict, rows))) for language, rows in files.items()}
    one = [{**row, "language": language} for language, rows in files.items() for row in rows]
    for dataset in (by_language, DatasetDict(by_language), Dataset.from_list(one[::-1][::-1])):
        corpus = from_dataset(dataset)
        assert corpus.fingerprint == folder.fingerprint
        assert list(corpus.item_ids) == ["2", "1"]
        assert set(corpus.groups.tolist()) == {0}


def test_dataset_rows_are_refused_by_number() -> None:
    from datasets import Dataset

    rows = [{**item(1), "language": "en"}, {**item(2), "language": "de"}, {**item(3), "query": "", "language": "en"}]
    with pytest.raises(ValueError, match="data set 'en', row 2: field 'query' is empty"):
        from_dataset(Dataset.from_list(rows))
    assert from_dataset(Dataset.from_list(rows), on_bad_row="skip").report["empty_field"] == 1
    with pytest.raises(ValueError, match="data set 'train': unknown language code"):
        from_dataset({"train": Dataset.from_list(rows)})
    with pytest.raises(ValueError, match="has the columns id, query, passage; add a column `language`"):
        from_dataset(Dataset.from_list([dict(item(1))]))


# Pairs


def test_pairs_have_one_direction(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "en-pt-BR.jsonl", [item(1), item(2)])
    (tmp_path / "de-en.tsv").write_text("id\tquery\tpassage\n2\tFrage\tanswer\n3\tAndere\tother\n", encoding="utf-8")
    corpus = load_corpus(tmp_path)
    assert corpus.languages == ("de", "en", "pt-BR")
    assert corpus.pair_counts().tolist() == [[0, 2, 1], [0, 1, 2], [0, 0, 0]]
    assert texts_of(corpus, PASSAGE, "pt-BR") == {"1": "passage 1 en", "2": "passage 2 en"}
    assert texts_of(corpus, QUERY, "de") == {"2": "Frage", "3": "Andere"}
    assert from_pairs(tmp_path, languages=["en", "de"]).pair_counts().tolist() == [[0, 0], [2, 0]]


def test_pairs_with_two_texts_for_one_item(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "en-de.jsonl", [item(1), {**item(2), "id": ""}])
    write_jsonl(tmp_path / "en-fr.jsonl", [{**item(1), "query": "Something else?"}])
    skipped = from_pairs(tmp_path, on_bad_row="skip")
    assert skipped.report["conflicting_text"] == 1
    assert skipped.report["empty_field"] == 1
    assert texts_of(skipped, QUERY, "en") == {"1": "query 1 en"}
    write_jsonl(tmp_path / "en-de.jsonl", [item(1)])
    with pytest.raises(ValueError, match=r"en-fr\.jsonl, line 1: item '1' has another query than in .*en-de\.jsonl"):
        from_pairs(tmp_path)


def test_pairs_refuse_names_and_headers(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "en.jsonl", [item(1)])
    with pytest.raises(ValueError, match="not a language pair; allowed are names such as en-de"):
        from_pairs(tmp_path)
    (tmp_path / "en.jsonl").unlink()
    (tmp_path / "en-de.tsv").write_text("1\tq\tp\n")
    with pytest.raises(ValueError, match=r"en-de\.tsv, line 1: the header has no id, passage, query"):
        from_pairs(tmp_path)
    (tmp_path / "en-de.tsv").write_text("id\tquery\tpassage\n1\tq\tp\n2\tq\n")
    with pytest.raises(ValueError, match="line 3: 2 columns, allowed are 3: id, query, passage"):
        from_pairs(tmp_path)


# BEIR folders

DOCUMENTS = [
    {"_id": "d1", "title": "Ada", "text": "wrote programs."},
    {"_id": "d2", "title": "", "text": "The engine."},
    {"_id": "d3", "title": "Only a title", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "Who?"}, {"_id": "q2", "text": "What?"}, {"_id": "q3", "text": "Unjudged?"}]
JUDGMENTS = [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d2", 1), ("q2", "d1", 1)]


def write_beir(
    folder: Path,
    documents: Sequence[Row] = DOCUMENTS,
    queries: Sequence[Row] = QUERIES,
    judgments: Sequence[tuple[str, str, int]] = JUDGMENTS,
    split: str = "test",
) -> Path:
    write_jsonl(folder / "corpus.jsonl", documents)
    write_jsonl(folder / "queries.jsonl", queries)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, judgment)) for judgment in judgments)]
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_beir_items_are_positive_judgments(tmp_path: Path) -> None:
    write_beir(tmp_path / "en")
    write_beir(tmp_path / "de", [{**d, "text": f"{d['text']} (de)"} for d in DOCUMENTS], judgments=JUDGMENTS[:3])
    corpus = load_corpus(tmp_path, languages=["en", "de"])
    assert list(corpus.item_ids) == ["q1/d1", "q2/d2", "q2/d1"]
    assert corpus.relevance.tolist() == [2, 1, 1]
    assert corpus.num_pairs("en", "de") == 2
    assert texts_of(corpus, PASSAGE, "en")["q1/d1"] == "Ada wrote programs."
    assert texts_of(corpus, PASSAGE, "de") == {"q1/d1": "Ada wrote programs. (de)", "q2/d2": "The engine. (de)"}
    assert corpus.passages("en").to_pylist()[2] == "Only a title", "documents without a judgment stay candidates"
    assert len(corpus.queries("en")) == 2
    assert corpus.report["queries_without_judgment"] == 2
    assert negatives_of(corpus, "en") == {"q1/d1": ["The engine."], "q2/d2": [], "q2/d1": []}
    assert set(corpus.groups.tolist()) == {0}, "q1 and q2 share d1, and q2 has two positives"
    ids = [corpus.row_ids(kind, "en") for kind in (QUERY, PASSAGE)]
    assert [column.to_pylist() for column in ids if column] == [["q1", "q2"], ["d1", "d2", "d3"]]


def test_beir_folder_of_one_language(tmp_path: Path) -> None:
    write_beir(tmp_path)
    assert load_corpus(tmp_path, languages=["en"]).fingerprint == from_beir({"en": tmp_path}).fingerprint
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 1: no language for id 'd1'; add a field 'language'"):
        load_corpus(tmp_path)


@pytest.mark.parametrize("form", ["field", "mapping", "json", "tsv"])
def test_beir_folder_in_many_languages(tmp_path: Path, form: str) -> None:
    languages = {"d1": "en", "d2": "de", "d3": "de", "q1": "en", "q2": "de", "q3": "de"}
    options: dict[str, Any] = {}
    documents, queries = DOCUMENTS, QUERIES
    if form == "field":
        documents, queries = ([{**r, "language": languages[r["_id"]]} for r in rows] for rows in (documents, queries))
    else:
        given: Any = languages
        if form != "mapping":
            given = tmp_path / f"languages.{form}"
            lines = ["id\tlanguage", *("\t".join(pair) for pair in languages.items())]
            given.write_text(json.dumps(languages) if form == "json" else "\n".join(lines))
        options = {"document_languages": given, "query_languages": given}
    corpus = load_corpus(write_beir(tmp_path / "beir", documents, queries), **options)
    assert corpus.languages == ("de", "en")
    assert set(corpus.item_ids) == {"q1/d1", "q2/d2", "q2/d1"}
    assert corpus.pair_counts().tolist() == [[1, 1], [0, 1]]
    assert texts_of(corpus, PASSAGE, "en") == {"q1/d1": "Ada wrote programs.", "q2/d1": "Ada wrote programs."}
    assert set(texts_of(corpus, QUERY, "de")) == {"q2/d2", "q2/d1"}
    assert negatives_of(corpus, "de")["q1/d1"] == ["The engine."]


BEIR_FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "document": ({"judgments": [*JUDGMENTS, ("q1", "d9", 1)]}, "unknown_document", "line 6: corpus-id 'd9' names no"),
    "query": ({"judgments": [("q9", "d1", 1), *JUDGMENTS]}, "unknown_query", "line 2: query-id 'q9' names no query"),
    "again": ({"judgments": [*JUDGMENTS, ("q1", "d1", 1)]}, "duplicate_judgment", "line 6: judges the same query"),
    "score": ({"judgments": [*JUDGMENTS, ("q1", "d3", "high")]}, "wrong_type", "line 6: field 'score' is 'high'"),
    "id": ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, "duplicate_id", r"corpus\.jsonl, line 4: _id 'd1' occurs twice"),
    "text": ({"documents": [*DOCUMENTS, {"_id": "d4", "text": ""}]}, "empty_field", "line 4: field 'text' is empty"),
}


@pytest.mark.parametrize("case", BEIR_FAULTS)
def test_beir_faults(tmp_path: Path, case: str) -> None:
    fault, kind, message = BEIR_FAULTS[case]
    write_beir(tmp_path / "en", **fault)
    with pytest.raises(ValueError, match=message):
        from_beir(tmp_path)
    corpus = from_beir(tmp_path, on_bad_row="skip")
    assert corpus.report[kind] == 1
    assert corpus.fingerprint == from_beir({"en": write_beir(tmp_path / "good")}).fingerprint


def test_beir_splits_and_missing_files(tmp_path: Path) -> None:
    write_beir(tmp_path)
    write_beir(tmp_path, split="dev", judgments=JUDGMENTS[:1])
    with pytest.raises(ValueError, match=r"split=None; qrels/ has dev, test\. Name one"):
        load_corpus(tmp_path, languages=["en"])
    assert load_corpus(tmp_path, languages=["en"], split="dev").num_items == 1
    (tmp_path / "qrels" / "dev.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(ValueError, match=r"dev\.tsv, line 1: the header has no corpus-id, query-id, score"):
        load_corpus(tmp_path, languages=["en"], split="dev")
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(ValueError, match=r"queries\.jsonl is missing; a BEIR folder has"):
        load_corpus(tmp_path, split="dev")


# XQuAD-R


def xquad_r(language: str, **change: Any) -> Any:
    questions = [
        {"id": "a", "question": f"A {language}?", "answers": [{"answer_start": 7, "text": "x"}]},
        {"id": "b", "question": f"B {language}?", "answers": [{"answer_start": 0, "text": "x"}]},
        {"id": "c", "question": f"C {language}?", "answers": [{"answer_start": 9, "text": "x"}]},
    ]
    questions[1] |= change.pop("question", {})
    paragraph = {
        "context": "First. Second.",
        "sentence_breaks": [[0, 6], [7, 14]],
        "sentences": [f"First {language}.", f"Second {language}."],
        "qas": questions,
        **change,
    }
    other = {"context": "x", "sentence_breaks": [[0, 1]], "sentences": [f"First {language}."], "qas": []}
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [other, paragraph]}]}


def test_xquad_r_sentences_are_passages(tmp_path: Path) -> None:
    for language in ("en", "zh"):
        (tmp_path / f"{language}.json").write_text(json.dumps(xquad_r(language)))
    corpus = load_corpus(tmp_path)
    assert corpus.passages("zh").to_pylist() == ["First zh.", "First zh.", "Second zh."]
    assert corpus.rows[:, 0, PASSAGE].tolist() == [2, 1, 2]
    assert texts_of(corpus, PASSAGE, "en") == {"a": "Second en.", "b": "First en.", "c": "Second en."}
    assert corpus.groups.tolist() == [0, 1, 0]


XQUAD_FAULTS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "outside": (
        {"question": {"answers": [{"answer_start": 6}]}},
        "answer_outside_sentences",
        r"en\.json, question 2 \(data\[0\]\.paragraphs\[1\]\): answer_start 6 is in none",
    ),
    "no answer": ({"question": {"answers": []}}, "answer_outside_sentences", "answer_start -1 is in none"),
    "same id": ({"question": {"id": "a"}}, "duplicate_id", "question 2: id 'a' occurs twice"),
    "no text": ({"question": {"question": ""}}, "empty_field", "question 2: field 'question' is empty"),
    "breaks": ({"sentence_breaks": [[0, 14]]}, None, r"data\[0\]\.paragraphs\[1\]: 2 sentences but 1 sentence_breaks"),
    "sentence": ({"sentences": ["First.", ""]}, None, "a sentence is empty"),
    "form": ({"sentences": None}, None, r"no list 'sentences'; allowed is LAReQA's form"),
}


@pytest.mark.parametrize("case", XQUAD_FAULTS)
def test_xquad_r_faults(tmp_path: Path, case: str) -> None:
    change, kind, message = XQUAD_FAULTS[case]
    (tmp_path / "en.json").write_text(json.dumps(xquad_r("en", **change)))
    with pytest.raises(ValueError, match=message):
        from_xquad_r(tmp_path)
    if kind is not None:
        corpus = from_xquad_r(tmp_path, on_bad_row="skip")
        assert list(corpus.item_ids) == ["a", "c"]
        assert corpus.report == {kind: 1}


def test_xquad_r_refuses_files_by_line_or_byte(tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text('{"data": [\n}')
    with pytest.raises(ValueError, match=r"en\.json, line 2: not JSON"):
        from_xquad_r(tmp_path)
    (tmp_path / "en.json").write_bytes('{"data": "ü"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"en\.json: byte 10 is not UTF-8"):
        from_xquad_r(tmp_path)


# Presets: local folders in the schema of the Hub's repositories


def write_hub(folder: Path, configs: Mapping[str, Mapping[str, Sequence[Row]]]) -> Path:
    """A repository of parquet files whose card names configurations and splits."""
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = f"{config}/{split}-00000-of-00001.parquet"
            (folder / config).mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), folder / path)
            card += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def squad_rows(language: str) -> list[Row]:
    answer = {"text": ["x"], "answer_start": [0]}
    return [
        {"id": i, "context": f"context {c} {language}", "question": f"question {i} {language}", "answers": answer}
        for i, c in (("q1", 1), ("q2", 1), ("q3", 2))
    ]


def judgment_rows(judgments: Sequence[tuple[str, str, int]] = JUDGMENTS) -> list[Row]:
    return [{"query-id": q, "corpus-id": d, "score": score} for q, d, score in judgments]


def mteb_rows(language: str) -> dict[str, list[Row]]:
    return {
        "corpus": [{**document, "text": f"{document['text']}{language}"} for document in DOCUMENTS],
        "queries": [{**query, "text": f"{query['text']} {language}"} for query in QUERIES],
        "qrels": judgment_rows(),
    }


def check_questions(corpus: ParallelCorpus) -> None:
    assert list(corpus.item_ids) == ["q1", "q2", "q3"]
    assert texts_of(corpus, PASSAGE, "de")["q2"] == "context 1 de"
    assert len(corpus.passages("de")) == 2
    assert corpus.groups.tolist() == [0, 0, 2]
    assert corpus.num_pairs("de", "en") == 3


def check_judged(corpus: ParallelCorpus, languages: tuple[str, ...] = ("de", "en")) -> None:
    assert corpus.languages == languages
    assert list(corpus.item_ids) == ["q1/d1", "q2/d2", "q2/d1"]
    assert texts_of(corpus, QUERY, "en")["q2/d2"].startswith("What?")
    assert texts_of(corpus, PASSAGE, "en")["q1/d1"].startswith("Ada wrote programs.")


@pytest.mark.parametrize(("name", "config"), [("xquad", "xquad.{}"), ("xquad-r", "{}")])
def test_preset_squad(tmp_path: Path, name: str, config: str) -> None:
    configs = {config.format(code): {"validation": squad_rows(code)} for code in ("de", "en")}
    corpus = from_preset(name, languages=["de", "en"], repo=str(write_hub(tmp_path, configs)))
    check_questions(corpus)
    assert corpus.source["license"] == "cc-by-sa-4.0"
    assert corpus.source["revision"] == "main"
    assert corpus.source["url"].startswith("https://huggingface.co/datasets/google")


def test_preset_squad_from_the_parquet_branch(tmp_path: Path) -> None:
    for code in ("de", "en"):
        path = tmp_path / f"mlqa.{code}.{code}" / "test"
        path.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist([dict(row) for row in squad_rows(code)]), path / "0000.parquet")
    check_questions(from_preset("mlqa", languages=["de", "en"], repo=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "codes", "config"),
    [
        ("miracl", ("de", "en"), "{}-{}"),
        ("xquad-retrieval", ("de", "en"), "{}-{}"),
        ("nanobeir-scifact", ("de", "en"), "{}-{}"),
        ("mlqa-retrieval", ("deu", "eng"), "{0}-{0}-{1}"),
    ],
)
def test_preset_mteb(tmp_path: Path, name: str, codes: tuple[str, str], config: str) -> None:
    split = PRESETS[name].split
    configs = {config.format(c, part): {split: rows} for c in codes for part, rows in mteb_rows(c).items()}
    corpus = load_corpus(name, languages=["de", "en"], repo=str(write_hub(tmp_path, configs)))
    check_judged(corpus)
    assert negatives_of(corpus, "de")["q1/d1"] == [f"The engine.{codes[0]}"]


def test_preset_mteb_takes_the_only_split_and_ids_named_id(tmp_path: Path) -> None:
    rows = {
        part: [{("id" if k == "_id" else k): v for k, v in r.items()} for r in rows]
        for part, rows in mteb_rows("en").items()
    }
    configs = {f"en-{part}": {"train" if part == "corpus" else "dev": part_rows} for part, part_rows in rows.items()}
    check_judged(from_preset("miracl", languages=["en"], repo=str(write_hub(tmp_path, configs))), ("en",))


def test_preset_nanobeir_one_repository_a_language(tmp_path: Path) -> None:
    positives: list[Row] = [{"query-id": "q1", "corpus-id": ["d1"]}, {"query-id": "q2", "corpus-id": ["d2", "d1"]}]
    for code in ("de", "en"):
        parts: dict[str, list[Row]] = {**mteb_rows(code), "qrels": list(positives)}
        for part in ("corpus", "queries"):
            parts[part] = [{k: v for k, v in row.items() if k != "title"} for row in parts[part]]
        parts["corpus"][0] = {"_id": "d1", "text": "Ada wrote programs."}
        parts["corpus"][2] = {"_id": "d3", "text": "x"}
        write_hub(
            tmp_path / f"NanoBEIR-{code}", {p: {"NanoNQ": rows, "NanoFiQA2018": rows} for p, rows in parts.items()}
        )
    load = partial(from_preset, "nanobeir", languages=["de", "en"], repo=str(tmp_path / "NanoBEIR-{language}"))
    check_judged(load(split="NanoNQ"))
    with pytest.raises(ValueError, match=r"has no split 'NanoMSMARCO'; give one of NanoNQ, NanoFiQA2018"):
        load()


def test_preset_beir(tmp_path: Path) -> None:
    for part in ("corpus", "queries"):
        path = tmp_path / "scifact" / part / part
        path.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist([dict(row) for row in mteb_rows("")[part]]), path / "0000.parquet")
    write_beir(tmp_path / "scifact-qrels")
    (tmp_path / "scifact-qrels" / "qrels" / "test.tsv").rename(tmp_path / "scifact-qrels" / "test.tsv")
    check_judged(from_preset("beir-scifact", repo=str(tmp_path / "scifact")), ("en",))


def write_mmarco(folder: Path) -> Path:
    files = {"triples.train.ids.small.tsv": ["1\t11\t12", "1\t11\t13", "2\t12\t11", "1\t11\t12", "2\t13\t12"]}
    files["qrels.dev.small.tsv"] = ["1\t0\t11\t1", "2\t0\t12\t1"]
    for name in ("english", "german"):
        files[f"google/collections/{name}_collection.tsv"] = [f"{i}\tpassage {i} {name}" for i in (10, 11, 12, 13)]
        queries = [f"{i}\tquery {i} {name}" for i in (1, 2, 3)]
        files[f"google/queries/train/{name}_queries.train.tsv"] = queries
        files[f"google/queries/dev/{name}_queries.dev.small.tsv"] = queries
    for name, lines in files.items():
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return folder


def test_preset_mmarco_triples_and_judgments(tmp_path: Path) -> None:
    load = partial(from_preset, "mmarco", languages=["en", "de"], repo=str(write_mmarco(tmp_path)))
    corpus = load()
    assert list(corpus.item_ids) == ["1/11", "2/12", "2/13"]
    assert len(corpus.passages("en")) == 3, "training keeps what the triples name"
    assert texts_of(corpus, PASSAGE, "de")["2/13"] == "passage 13 german"
    english = [f"passage {i} english" for i in (11, 12, 13)]
    assert negatives_of(corpus, "en") == {"1/11": english[1:], "2/12": english[:1], "2/13": english[:1]}
    dev = load(split="dev")
    assert list(dev.item_ids) == ["1/11", "2/12"]
    assert len(dev.candidates("en")) == 4
    with pytest.raises(ValueError, match="has no split 'test'; give 'train'"):
        load(split="test")


def test_every_preset_is_complete() -> None:
    for name, preset in PRESETS.items():
        assert preset.layout in LAYOUTS, name
        assert preset.license, name
        assert preset.revision in ("main", PARQUET_BRANCH) or len(preset.revision) == 40, name
        assert ("{language}" in preset.repo) or "{" not in preset.repo, name
    assert {"xquad", "xquad-r", "mlqa", "miracl", "mmarco", "nanobeir-nq", "beir-scifact"} <= PRESETS.keys()
    with pytest.raises(ValueError, match=r"no preset 'miracle' \(did you mean 'miracl'\?\)"):
        from_preset("miracle")
    with pytest.raises(ValueError, match=r"languages=\['xx'\]: preset 'miracl' has ar, bn"):
        from_preset("miracl", languages=["xx"])


# The real corpora, which are not part of the repository: hashes instead of texts


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pinned(corpus: ParallelCorpus, language: str) -> list[tuple[str, str, str]]:
    """Id and hashes of query and passage of the first, the tenth and the last item of a language."""
    texts = [texts_of(corpus, kind, language) for kind in (QUERY, PASSAGE)]
    ids = list(texts[0])
    return [(sha(i), sha(texts[0][i]), sha(texts[1][i])) for i in (ids[0], ids[9], ids[-1])]


HELP_EN = [
    ("c298fa20dd42", "34485dabc1da", "02ce9d6cd927"),
    ("eb35eb2bf3b7", "84f4c2397847", "af7a99b441b8"),
    ("abe1a5805bc7", "3c0295f14060", "c5da5f36bc5a"),
]
HELP_SR = [
    ("c298fa20dd42", "132055c36301", "d7bf9188ba0f"),
    ("eb35eb2bf3b7", "ebfbef755e63", "868f10748dd1"),
    ("2e1dfc594e31", "e4e0e11f68d5", "781d2db6e6eb"),
]
XQUAD_EN = [
    ("5605b922aa91", "78c31dd1f94a", "e59bec63dd45"),
    ("df910a47e86d", "b00ab94c2900", "bbbccf208b04"),
    ("992f7c16c26b", "2e98c9f09548", "b9c8b9f23901"),
]
XQUAD_TH = [
    ("5605b922aa91", "7d0801bf9a64", "72c88876e44e"),
    ("df910a47e86d", "947020286065", "e7d26db44df9"),
    ("992f7c16c26b", "0a83744c570d", "33951dab8915"),
]

needs_help = pytest.mark.skipif(not (DATA / "gnome-help").exists(), reason="the help corpus is not at hand")
needs_xquad_r = pytest.mark.skipif(not (DATA / "xquad-r").exists(), reason="XQuAD-R is not at hand")


@needs_help
def test_help_corpus() -> None:
    corpus = load_corpus(DATA / "gnome-help")
    stats = json.loads((DATA / "gnome-help" / "stats.json").read_text())
    assert set(corpus.languages) == set(stats)
    assert len(stats) == 33
    counts = dict(zip(corpus.languages, np.diag(corpus.pair_counts()).tolist(), strict=True))
    assert counts == stats
    assert corpus.num_items == 424
    assert corpus.report == {"single_language_items": 1}
    assert corpus.select_languages(["en"]).num_items == 418
    assert pinned(corpus.select_languages(["en"]), "en") == HELP_EN
    assert pinned(corpus.select_languages(["sr-latin"]), "sr-latin") == HELP_SR


@needs_xquad_r
def test_xquad_r_corpus() -> None:
    corpus = load_corpus(DATA / "xquad-r")
    sentences = {language: len(corpus.passages(language)) for language in corpus.languages}
    assert sentences == {
        "ar": 1222, "de": 1276, "el": 1234, "en": 1180, "es": 1215, "hi": 1244, "ru": 1219, "th": 852, "tr": 1167,
        "vi": 1209, "zh": 1196,
    }  # fmt: skip
    assert sum(sentences.values()) == 13_014
    assert corpus.num_items == 1190
    assert (corpus.pair_counts() == 1190).all()
    assert pinned(corpus, "en") == XQUAD_EN
    assert pinned(corpus, "th") == XQUAD_TH


@pytest.mark.slow
def test_benchmark_of_loading(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[3] / "benchmarks" / "corpus_load.py"
    command = [sys.executable, str(script), "--small", "--folder", str(tmp_path), "--json", str(tmp_path / "out.json")]
    root = str(script.parents[1])
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": root})
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (figures["build"]["rows"], figures["build"]["languages"]) == (1000, 10)
    assert figures["load"]["items"] == 10_000
    assert 0 < figures["load"]["peak_memory_gib"] < 2
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
