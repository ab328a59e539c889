"""Damaged and hostile corpora: each is refused by name, or read as its owner means it."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sources.beir import from_beir
from hf_hybrid.data.sources.load import load_corpus
from hf_hybrid.data.sources.presets import from_preset
from tests.support.bad_inputs import Case, check, write

Make = Callable[[Path], Any]
ITEM = b'{"id": "1", "query": "one question", "passage": "one passage"}\n'
ARABIC = "\u202bما هي عاصمة \u200fمصر؟\u202c"
PERSIAN = "می\u200cخواهم"  # a zero-width character that belongs there


def file(name: str, content: str | bytes) -> Make:
    return lambda folder: write(folder / name, content).parent and None


def files(contents: dict[str, str | bytes]) -> Make:
    def make(folder: Path) -> None:
        for name, content in contents.items():
            write(folder / name, content)

    return make


def lines(*rows: dict[str, Any], name: str = "en.jsonl") -> Make:
    """Items, each with what a row says instead."""
    items = [{"id": str(number), "query": f"q{number}", "passage": f"p{number}"} for number in range(len(rows))]
    return file(name, "".join(json.dumps(item | row) + "\n" for item, row in zip(items, rows, strict=True)))


def outside(name: str, make: Callable[[Path], object]) -> Make:
    """Something else than a file, under the name of one."""

    def made(folder: Path) -> None:
        write(folder / "de.jsonl", ITEM)
        (folder / name).parent.mkdir(exist_ok=True)
        make(folder / name)

    return made


def piped(make: Make, name: str) -> Make:
    """The same with a pipe under one of the names; who opens it waits for ever."""

    def made(folder: Path) -> None:
        make(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return made


def linked(path: Path) -> None:
    path.symlink_to(write(path.parent.parent / "blob", ITEM.replace(b"one", b"another")))


def queries(corpus: ParallelCorpus, language: str) -> list[str]:
    return corpus.queries(language).to_pylist()


def is_read(*items: str) -> Callable[[ParallelCorpus], bool]:
    return lambda corpus: list(corpus.item_ids) == list(items)


def zipped(member: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(member, ITEM)
    return file.getvalue()


MANIFEST = {"format": 1, "num_items": 1, "counts": {}, "fingerprint": "f", "source": {}, "report": {}}
LINE = r"en\.jsonl, line 1: "
JSONL = [
    ("a byte that is not UTF-8", file("en.jsonl", ITEM.replace(b"one", b"\xfcne")), LINE + r"byte .*0xfc.* not UTF-8"),
    ("UTF-16", file("en.jsonl", ITEM.decode().encode("utf-16")), LINE + "byte 0 .* is not UTF-8"),
    ("a byte order mark first", file("en.jsonl", b"\xef\xbb\xbf" + ITEM), is_read("1")),
    (
        "a byte order mark within",
        file("en.jsonl", ITEM + b"\xef\xbb\xbf" + ITEM),
        r"en\.jsonl, line 2: not JSON: .*\\ufeff",
    ),
    ("NUL bytes between lines", file("en.jsonl", b"\0" * 9 + ITEM), LINE + r"not JSON: .* '\\x00"),
    ("a NUL in a text", lines({"query": "a\0b"}), LINE + "field 'query' is text with a NUL at character 1"),
    ("a line of 10 MB", lines({"passage": "x " * 5_000_000}), is_read("0")),
    (
        "a line of 10 MB without end",
        file("en.jsonl", b'{"id": "' + b"x" * 10_000_000),
        LINE + "not JSON: Unterminated",
    ),
    ("half a surrogate pair", lines({"query": "a\ud800"}), LINE + "field 'query' is half of a surrogate pair"),
    ("text from right to left", lines({"query": ARABIC}, name="ar.jsonl"), lambda c: queries(c, "ar") == [ARABIC]),
    ("a zero-width joiner", lines({"query": PERSIAN}, name="fa.jsonl"), lambda c: queries(c, "fa") == [PERSIAN]),
    ("zero-width text only", lines({"query": "\u200b\u200d\ufeff"}), LINE + "field 'query' is empty or invisible"),
    ("direction marks only", lines({"passage": "\u202e\u2066"}), LINE + "field 'passage' is empty or invisible"),
    ("a zero-width negative", lines({"negatives": ["\u200b"]}), LINE + "field 'negatives' is empty or invisible"),
    ("an invisible id", lines({"id": "\u200b"}), LINE + "field 'id' is empty or invisible"),
    ("an id that ends in a space", lines({"id": "1 "}), LINE + "field 'id' is '1 ', allowed is .* ends visibly"),
    ("an id with a zero-width end", lines({"id": "1\u200b"}), LINE + r"field 'id' is '1\\u200b', allowed"),
    (
        "ids that differ in normal form",
        files({"en.jsonl": ITEM.replace(b"1", "é".encode()), "de.jsonl": ITEM.replace(b"1", "e\u0301".encode())}),
        r"ids .*'e\\u0301' .*look the same.* normal form",
    ),
    ("ids that differ invisibly", lines({"id": "a\u200bb"}, {"id": "ab"}), r"ids 'a\\u200bb' and 'ab' look the same"),
    ("the ids 1 and '1'", lines({"id": 1}, {"id": "1"}), "line 2: id '1' occurs twice, first in line 1"),
    ("ids like paths", lines({"id": "../../x"}, {"id": "/a/b"}), is_read("../../x", "/a/b")),
    ("an id that is NaN", lines({"id": float("nan")}), LINE + r"field 'id' is 'nan' \(float\)"),
    ("an id that is a list", lines({"id": ["1"]}), LINE + r"field 'id' is .*\(list\), allowed is a string"),
    ("a query that is a number", lines({"query": 5}), LINE + r"field 'query' is '5' \(int\)"),
    ("a group that is infinite", lines({"group": float("inf")}), LINE + r"field 'group' is 'inf' \(float\)"),
    ("negatives in negatives", lines({"negatives": [["a"]]}), LINE + r"field 'negatives' is .*\(list\)"),
    ("a row without passage", file("en.jsonl", '{"id": 1, "query": "q"}'), LINE + "field 'passage' is missing"),
    ("keys that nobody knows", lines({"source": {"url": None}, "x": float("nan")}), is_read("0")),
    ("a list for a row", file("en.jsonl", "[1]"), LINE + r"'\[1\]' \(list\), allowed is a JSON object"),
    (
        "a key twice",
        file("en.jsonl", ITEM.replace(b'"passage"', b'"query": "x", "passage"')),
        LINE + "not JSON: key 'query' twice",
    ),
    (
        "100,000 levels",
        file("en.jsonl", '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        LINE + "not JSON: more levels",
    ),
    ("a number of 5,000 digits", file("en.jsonl", '{"id": ' + "9" * 5000 + "}"), LINE + "not JSON: more .*digits"),
    ("an empty file", file("en.jsonl", ""), r"en\.jsonl has no usable line"),
    ("an empty folder", lambda folder: None, "holds no corpus; allowed are <lang>.jsonl"),
    (
        "a file for a folder",
        lambda folder: write(folder / "en.jsonl", ITEM),
        r"en\.jsonl is a file; a corpus is a folder",
    ),
    ("a link to a file elsewhere", outside("en.jsonl", linked), is_read("1")),
    ("a link to nothing", outside("en.jsonl", lambda p: p.symlink_to(p.parent / "x")), r"en\.jsonl is not a file"),
    ("a link to itself", outside("en.jsonl", lambda p: p.symlink_to(p)), r"en\.jsonl is not a file"),
    ("a folder for a file", outside("en.jsonl", Path.mkdir), r"en\.jsonl is not a file"),
    ("a pipe for a file", outside("en.jsonl", os.mkfifo), r"en\.jsonl is not a file .* a pipe"),
    (
        "a truncated gzip file",
        file("en.jsonl.gz", gzip.compress(ITEM)[:20]),
        r"en\.jsonl\.gz is compressed.*unpack it",
    ),
    (
        "a gzip bomb beside the rest",
        files({"de.jsonl": ITEM, "en.jsonl.gz": gzip.compress(b"0" * 10_000_000)}),
        r"en\.jsonl\.gz is compressed",
    ),
    ("a zip file with ../", file("en.jsonl.zip", zipped("../../canary")), r"en\.jsonl\.zip is compressed"),
    ("a name that is HTML", file("<script>alert(1)<.jsonl", ITEM), "unknown language code '<script>"),
    ("a name with dots", file("en..jsonl", ITEM), "unknown language code 'en.'"),
    ("a name in a wrong encoding", file(os.fsdecode(b"\xff.jsonl"), ITEM), r"unknown language code '\\udcff'"),
    ("a built corpus that is none", file("corpus.json", "[1]"), r"corpus\.json: format None, this version reads 1"),
    (
        "a built corpus of files elsewhere",
        file("corpus.json", json.dumps(MANIFEST | {"languages": ["../../x"]})),
        r"corpus\.json is damaged: languages .* wrong\. Build it again",
    ),
]

HEADER = "id\tquery\tpassage\n"
PAIRS = [
    ("a byte order mark", file("en-de.tsv", f"\ufeff{HEADER}1\tq\tp\n"), is_read("1")),
    ("Windows line ends", file("en-de.tsv", f"{HEADER}1\tq\tp\n".replace("\n", "\r\n")), is_read("1")),
    (
        "old Mac line ends",
        file("en-de.tsv", f"{HEADER}1\tq\tp\n".replace("\n", "\r")),
        "line 1: the header has no passage",
    ),
    ("a NUL in a text", file("en-de.tsv", f"{HEADER}1\tq\0\tp\n"), "line 2: field 'query' is text with a NUL"),
    (
        "a column twice",
        file("en-de.tsv", "id\tquery\tpassage\tquery\n1\ta\tb\tc\n"),
        "line 1: .* names a column twice",
    ),
    (
        "too many columns",
        file("en-de.tsv", f"{HEADER}1\tq\tp\tr\n"),
        "line 2: 4 columns, allowed are 3: id, query, passage",
    ),
    ("a pipe for a file", piped(file("en-de.jsonl", ITEM), "en-de.jsonl"), r"en-de\.jsonl is not a file .* a pipe"),
]


def beir(
    judgments: str | bytes = "q\td\t1",
    documents: str = '{"_id": "d", "text": "doc"}',
    questions: str = '{"_id": "q", "text": "ask"}',
    header: str = "query-id\tcorpus-id\tscore\n",
    folder: str = "en/",
) -> Make:
    judged = judgments if isinstance(judgments, bytes) else header + judgments + "\n"
    return files(
        {f"{folder}corpus.jsonl": documents, f"{folder}queries.jsonl": questions, f"{folder}qrels/test.tsv": judged}
    )


QRELS = r"test\.tsv, line 2: "
TWO = '{"_id": "d", "text": "doc"}\n{"_id": "e", "text": "other"}'
JOINING = [
    '{"_id": "b/c", "text": "doc"}\n{"_id": "c", "text": "other"}',
    '{"_id": "a", "text": "ask"}\n{"_id": "a/b", "text": "ask more"}',
]
OF_A_PATH = '{"_id": "d", "text": "doc", "language": "../x"}'
BEIR = [
    ("a judgment of no document", beir("q\tx\t1"), QRELS + "corpus-id 'x' names no document"),
    ("a judgment of no query", beir("x\td\t1"), QRELS + "query-id 'x' names no query"),
    (
        "a negative relevance",
        beir("q\td\t1\nq\te\t-1", TWO),
        lambda c: c.num_items == 1 and c.negatives("en") is not None,
    ),
    ("negative relevance only", beir("q\td\t-1"), "no judgment has a score above 0"),
    ("half a relevance", beir("q\td\t0.5"), QRELS + "field 'score' is '0.5' .* allowed is an integer"),
    ("a relevance that is NaN", beir("q\td\tnan"), QRELS + "field 'score' is 'nan'"),
    ("an infinite relevance", beir("q\td\tinf"), QRELS + "field 'score' is 'inf'"),
    ("a relevance of 1e300", beir("q\td\t1e300"), QRELS + r"field 'score' is '1e300' .* below 2\^31"),
    ("TREC's four columns", beir("q\t0\td\t1"), QRELS + "4 columns, allowed are 3: query-id, corpus-id, score"),
    ("no header", beir(header=""), r"test\.tsv, line 1: the header has no corpus-id"),
    ("columns in another order", beir("d\t1\tq", header="corpus-id\tscore\tquery-id\n"), is_read("q/d")),
    ("the same judgment twice", beir("q\td\t1\nq\td\t1"), "line 3: judges the same query and document"),
    ("a pipe for the queries", piped(beir(), "en/queries.jsonl"), r"queries\.jsonl is missing; .* has the files"),
    (
        "a language that is a path",
        beir(documents=OF_A_PATH, folder=""),
        r"corpus\.jsonl: unknown language code '\.\./x'",
    ),
    ("ids that join to the same", beir("a\tb/c\t1\na/b\tc\t1", *JOINING), "item id 'a/b/c' occurs twice"),
]


def xquad_r(question: dict[str, Any] | None = None, mark: str = "", **paragraph: Any) -> Make:
    asked = {"id": "1", "question": "q", "answers": [{"answer_start": 0}], **(question or {})}
    whole = {"sentences": ["A.", "B."], "sentence_breaks": [[0, 2], [3, 5]], "qas": [asked], **paragraph}
    return file("en.json", mark + json.dumps({"data": [{"paragraphs": [whole]}]}))


PLACE = r"en\.json, data\[0\]\.paragraphs\[0\]: "
XQUAD_R = [
    ("half a surrogate pair", xquad_r(sentences=["A\ud800", "B"]), PLACE + "a sentence is half of a surrogate pair"),
    ("an invisible sentence", xquad_r(sentences=["\u200b", "B"]), PLACE + "a sentence is empty or invisible"),
    ("breaks of three numbers", xquad_r(sentence_breaks=[[0, 1, 2], [3, 4, 5]]), PLACE + "sentence_breaks are pairs"),
    ("breaks that are NaN", xquad_r(sentence_breaks=[[float("nan"), 2], [3, 5]]), PLACE + "sentence_breaks are pairs"),
    ("breaks that are words", xquad_r(sentence_breaks=["ab", "cd"]), PLACE + "sentence_breaks are pairs"),
    ("an answer that is a word", xquad_r({"answers": ["x"]}), "question 1 .*answer_start -1 is in none"),
    ("questions that are an object", xquad_r(qas={}), PLACE + "no list 'qas'; allowed is LAReQA's form"),
    ("a file cut off", file("en.json", '{"data": [{"par'), r"en\.json, line 1: not JSON"),
    ("100,000 levels", file("en.json", "[" * 100_000), r"en\.json, line 1: not JSON \(more levels"),
    ("a byte order mark", xquad_r(mark="\ufeff"), is_read("1")),
]


def card(head: str, name: str = "", content: bytes = b"") -> Make:
    """A data set repository: the head of its card, and a file."""

    def make(folder: Path) -> None:
        canary = folder.parent / "canary"
        write(folder / "README.md", f"---\n{head}\n---\n".replace("CANARY", str(canary)))
        if name:
            write(folder / name, content.replace(b"CANARY", str(canary).encode()))

    return make


def triples(content: str) -> Make:
    google = "data/google"
    return files(
        {
            f"{google}/collections/english_collection.tsv": "1\ttext\n2\tother\n",
            f"{google}/queries/train/english_queries.train.tsv": "1\tquery\n",
            "data/triples.train.ids.small.tsv": content,
        }
    )


CONFIG = "configs:\n- config_name: xquad.en\n  data_files: "
HUB = [
    ("xquad", "a loading script", card("x: 1", "input.py", b"open('CANARY', 'w')"), "cannot be read as a data set"),
    (
        "xquad",
        "a card that runs code",
        card("x: !!python/object/apply:os.system ['touch CANARY']", "d.jsonl", ITEM),
        "cannot be read as a data set: .*os.system",
    ),
    (
        "xquad",
        "Parquet that is none",
        card(CONFIG + "d.parquet", "d.parquet", b"PAR1 no"),
        "cannot be read as a data set",
    ),
    (
        "xquad",
        "gzip that is cut off",
        card(CONFIG + "d.jsonl.gz", "d.jsonl.gz", gzip.compress(ITEM * 99)[:-20]),
        "cannot be read as a data set",
    ),
    ("mmarco", "triples of words", triples("a\t2\t3\n"), r"triples.*\.tsv: .*invalid value 'a'.* lines of three ids"),
    ("mmarco", "triples with a gap", triples("1\t\t2\n"), r"triples.*\.tsv: .*allowed are lines of three ids"),
    ("mmarco", "ids beyond 32 bits", triples("1\t5000000000\t2\n"), r"triples.*\.tsv: .*invalid value '5000000000'"),
]

MAPS = [
    ("a map of languages that is a list", "[1]", r"map\.json: allowed is one JSON object"),
    ("a map of languages with objects", '{"d": {}}', r"map\.json: allowed is one JSON object"),
]


def mapped(text: str) -> Make:
    whole = beir(folder="")
    return lambda folder: whole(folder) or write(folder / "map.json", text).parent


def read_mapped(folder: Path) -> ParallelCorpus:
    return from_beir(folder, document_languages=folder / "map.json", query_languages={"q": "en"})


def preset(name: str, folder: Path) -> ParallelCorpus:
    return from_preset(name, ["en"], repo=str(folder))


KINDS: dict[str, list[tuple[str, Make, Any]]] = {"JSONL": JSONL, "pairs": PAIRS, "BEIR": BEIR, "XQuAD-R": XQUAD_R}
CASES = [
    *(Case(f"{kind}: {what}", make, load_corpus, answer) for kind in KINDS for what, make, answer in KINDS[kind]),
    *(Case(f"Hub: {what}", make, partial(preset, name), answer) for name, what, make, answer in HUB),
    *(Case(f"BEIR: {what}", mapped(text), read_mapped, answer) for what, text, answer in MAPS),
]


@pytest.mark.parametrize("case", CASES, ids=[case.what for case in CASES])
def test_a_bad_corpus(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, tmp_path, monkeypatch)


def test_what_the_tables_change_is_read_without_the_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HYBRID_CACHE", str(tmp_path / "cache"))
    good = {"jsonl": lines({}), "pairs": file("en-de.tsv", f"{HEADER}1\tq\tp\n"), "beir": beir(), "xquad_r": xquad_r()}
    for name, make in good.items():
        make(tmp_path / name)
        assert load_corpus(tmp_path / name).num_items == 1, name
    triples("1\t1\t2\n")(tmp_path / "hub")
    assert preset("mmarco", tmp_path / "hub").num_items == 1
