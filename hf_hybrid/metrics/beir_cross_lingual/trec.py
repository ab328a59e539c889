"""Runs and judgments from TREC and BEIR files, as the metric takes them, every line checked.

| file | columns | read by |
|---|---|---|
| run | `query Q0 document rank score tag`, at white space; the rank is not read | `read_run` |
| judgments | `query 0 document relevance`, at white space | `read_qrels` |
| judgments of a BEIR folder | `query-id`, `corpus-id`, `score`, at tabs, under a header | `read_beir_qrels` |
| languages | `id`, `language`, at tabs | `read_languages` |

Files are UTF-8 without a byte order mark; blank lines are passed over. Whatever is wrong is refused with the file, the
line, what was found and what is allowed.
"""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MOST_RELEVANT = 10_000  # trec_eval, which BEIR runs on, takes memory for each grade up to the highest

_RUN = ("query", "Q0", "document", "rank", "score", "tag")
_QRELS = ("query", "0", "document", "relevance")
_BEIR = ("query-id", "corpus-id", "score")
_LANGUAGES = ("id", "language")


def read_run(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Predictions of a TREC run file.

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        `list[dict]`: One `{"query_id", "doc_ids", "scores"}` a query, in the order of the file.

    Raises:
        ValueError: When a line is not as it should be, or there is none.
    """
    scores: dict[str, dict[str, float]] = {}
    for number, (query, _, document, _, score, _) in _lines(path, _RUN):
        _put(scores, query, document, _score(score, path, number), path, number)
    return _rows(scores, "scores", path)


def read_qrels(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """References of a TREC file of judgments (qrels).

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        `list[dict]`: One `{"query_id", "doc_ids", "relevance"}` a query, in the order of the file.

    Raises:
        ValueError: When a line is not as it should be, or there is none.
    """
    gains: dict[str, dict[str, int]] = {}
    for number, (query, _, document, relevance) in _lines(path, _QRELS):
        _put(gains, query, document, _relevance(relevance, path, number), path, number)
    return _rows(gains, "relevance", path)


def read_beir_qrels(folder: str | os.PathLike[str], split: str = "test") -> list[dict[str, Any]]:
    """References of one split of a BEIR folder, from its `qrels/<split>.tsv`.

    Args:
        folder (`str` or `os.PathLike`): The folder that `qrels` is in.
        split (`str`, *optional*, defaults to `"test"`): Name of the file in `qrels`.

    Returns:
        `list[dict]`: As `read_qrels`.

    Raises:
        ValueError: When the split is not there, a line is not as it should be, or there is none.
    """
    path = Path(folder, "qrels", f"{split}.tsv")
    splits = sorted(file.stem for file in Path(folder, "qrels").glob("*.tsv") if file.is_file())
    if split not in splits:
        raise ValueError(f"{path}: no such file; allowed splits of this folder are {splits}.")
    gains: dict[str, dict[str, int]] = {}
    lines = _lines(path, _BEIR, tabs=True)
    number, header = next(lines, (1, []))
    if header and tuple(header) != _BEIR:
        raise _refused(path, number, f"{header} as the header", f"{list(_BEIR)}, without which a judgment is lost")
    for number, (query, document, relevance) in lines:
        _put(gains, query, document, _relevance(relevance, path, number), path, number)
    return _rows(gains, "relevance", path)


def read_languages(path: str | os.PathLike[str]) -> dict[str, str]:
    """Languages of documents or queries, from lines of id and language with a tab between.

    Args:
        path (`str` or `os.PathLike`): The file; it has no header.

    Returns:
        `dict[str, str]`: Language of each id.

    Raises:
        ValueError: When a line is not as it should be, or an id comes twice.
    """
    languages: dict[str, str] = {}
    for number, (name, language) in _lines(path, _LANGUAGES, tabs=True):
        if name in languages:
            raise _refused(path, number, f"{name!r} a second time", "one line for each id")
        languages[name] = language
    return languages


def predictions_of(results: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Predictions from `{query id: {document id: score}}`, the form of BEIR's own retrievers.

    Example:

        >>> predictions_of({"q1": {"d1": 0.5, "d2": 0.25}})
        [{'query_id': 'q1', 'doc_ids': ['d1', 'd2'], 'scores': [0.5, 0.25]}]
    """
    return [
        {"query_id": query, "doc_ids": list(scores), "scores": list(scores.values())}
        for query, scores in results.items()
    ]


def _lines(
    path: str | os.PathLike[str], names: tuple[str, ...], tabs: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Number and columns of each line that is not blank."""
    with open(path, "rb") as file:  # bytes, so that a bad one is found in its line
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(codecs.BOM_UTF8):
                raise _refused(path, number, "a byte order mark", "UTF-8 without one")
            # only ASCII white space separates: others may be in an id
            columns = line.rstrip(b"\r\n").split(b"\t") if tabs else line.split()
            if not line.strip():
                continue
            try:
                texts = [column.decode() for column in columns]
            except UnicodeDecodeError:
                raise _refused(path, number, f"{line[:80]!r}, which is not UTF-8", "UTF-8") from None
            if len(texts) != len(names) or not all(texts) or b"\0" in line:
                place = "a tab" if tabs else "white space"
                wanted = f"{len(names)} columns ({' '.join(names)}) with {place} between"
                found = f"{len(texts)} columns {str(texts)[:200]}"
                raise _refused(path, number, found, f"{wanted}, none of them empty or with a NUL")
            yield number, texts


def _put(
    table: dict[str, dict[str, Any]],
    query: str,
    document: str,
    value: float,
    path: str | os.PathLike[str],
    number: int,
) -> None:
    row = table.setdefault(query, {})
    if document in row:
        found = f"document {document!r} of query {query!r} a second time"
        raise _refused(path, number, found, "one line for each document of a query")
    row[document] = value


def _score(text: str, path: str | os.PathLike[str], number: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score) or not text.isascii() or "_" in text:  # Python reads 1_0, and digits of any script
        raise _refused(path, number, f"the score {text!r}", "a finite number")
    return score


def _relevance(text: str, path: str | os.PathLike[str], number: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= MOST_RELEVANT):
        raise _refused(path, number, f"the relevance {text[:80]!r}", f"a whole number from 0 to {MOST_RELEVANT}")
    return int(text)


def _rows(table: dict[str, dict[str, Any]], name: str, path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    if not table:
        raise ValueError(f"{os.fspath(path)}: found no line, allowed is at least one.")
    return [{"query_id": query, "doc_ids": list(row), name: list(row.values())} for query, row in table.items()]


def _refused(path: str | os.PathLike[str], number: int, found: str, allowed: str) -> ValueError:
    return ValueError(f"{os.fspath(path)}, line {number}: found {found}; allowed is {allowed}.")
