"""XQuAD-R, the form of LAReQA: questions over all sentences of the paragraphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.data.languages import (
    choose_languages,
    language_files,
)
from hf_hybrid.data.storage import CorpusWriter
from hf_hybrid.utils.strict_json import read_json

from .build import build_once, source_of, stamp_files
from .items import StrPath
from .rows import BadRows, Field, RowError, Rows, check_table, identifier, integer, text

_QUESTION = {"id": Field(identifier), "question": Field(text), "row": Field(integer, pa.int32())}


def add_xquad_r(writer: CorpusWriter, language: str, path: Path, bad: BadRows) -> None:
    """Add a language from LAReQA's json: all sentences are passages, gold is the one in which the answer starts."""
    sentences: list[str] = []
    table = check_table(Rows(str(path), "question", _questions(path, sentences, bad)), _QUESTION, bad, key="id")
    ids, rows = table["id"].to_pylist(), table["row"].to_numpy()
    writer.add_language(language, ids, table["question"], sentences, passage_rows=rows)


def _questions(path: Path, sentences: list[str], bad: BadRows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Numbered questions with the row of their sentence; `sentences` grows by the paragraphs that have been passed."""
    number = 0
    for where, paragraph in _paragraphs(path):
        first = len(sentences)
        breaks = _list(paragraph, "sentence_breaks", where)
        sentences.extend(_list(paragraph, "sentences", where))
        try:
            list(map(text, sentences[first:]))
        except RowError as error:
            raise ValueError(f"{where}: a sentence is {error}.") from None
        if len(breaks) != len(sentences) - first:
            raise ValueError(
                f"{where}: {len(sentences) - first} sentences but {len(breaks)} sentence_breaks; give as many of both."
            )
        if not all(isinstance(ends, list) and [type(end) for end in ends] == [int, int] for ends in breaks):
            raise ValueError(f"{where}: sentence_breaks are pairs of integers, such as [[0, 6], [7, 14]].")
        for question in _list(paragraph, "qas", where):
            number += 1
            start = _answer_start(question)
            row = next((first + i for i, (begin, end) in enumerate(breaks) if begin <= start < end), None)
            if row is None:
                message = f"answer_start {start} is in none of the sentence_breaks {breaks}"
                bad("answer_outside_sentences", f"{path}, question {number} ({where[len(str(path)) + 2 :]})", message)
            else:
                yield number, {**question, "row": row}


def _paragraphs(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for a, article in enumerate(_list(read_json(path), "data", str(path))):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}, data[{a}]")):
            yield f"{path}, data[{a}].paragraphs[{p}]", paragraph


def _list(parent: Any, key: str, where: str) -> list[Any]:
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, list):
        raise ValueError(
            f"{where}: no list {key!r}; allowed is LAReQA's form: data[].paragraphs[] with sentences, sentence_breaks "
            "and qas[] of id, question and answers[0].answer_start."
        )
    return found


def _answer_start(question: Any) -> int:
    """-1, which no sentence contains, where there is no answer."""
    try:
        start = question["answers"][0]["answer_start"]
    except (KeyError, IndexError, TypeError):
        return -1
    return start if type(start) is int else -1


def from_xquad_r(
    folder: StrPath,
    languages: Sequence[str] | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
) -> ParallelCorpus:
    """LAReQA's `<lang>.json`: questions are items, all sentences are passages, gold is the one with `answer_start`."""
    files = choose_languages(language_files(Path(folder), ".json"), languages, folder)

    def build(builder: CorpusBuilder, bad: BadRows) -> None:
        for language, path in files.items():
            add_xquad_r(builder, language, path, bad)

    return build_once(
        build, source_of("xquad_r", folder), [list(files), *stamp_files(files.values())], on_bad_row, cache_dir
    )
