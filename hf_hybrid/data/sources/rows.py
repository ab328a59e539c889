"""Rows from files and data sets, checked one by one: whatever is wrong is named by file and line, and by what to do.

A source of rows is a `Rows`: a name and numbered dictionaries. `read_jsonl`, `read_tsv` and `dataset_rows` make one,
`check_table` turns it into an Arrow table whose columns are present, typed and non-empty. `BadRows` decides what
happens to a row that is not: refused at once, or skipped and counted. Faults of a whole file are always refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import normalize

import pyarrow as pa

from hf_hybrid.utils.strict_json import loads

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_ROWS = 65_536
_TOO_LARGE = 2.0**31
NUMBER = "number"  # the column of a checked table that says where its row was


class Rows(NamedTuple):
    """Rows before they are checked.

    Args:
        name (`str`): file or data set, for messages.
        unit (`str`): what the number counts: `"line"` or `"row"`.
        rows (`Iterable[tuple[int, dict]]`): number and columns of each row.
    """

    name: str
    unit: str
    rows: Iterable[tuple[int, Mapping[str, Any]]]

    def where(self, number: int) -> str:
        """Return file and line of a row, for messages."""
        return f"{self.name}, {self.unit} {number}"


class BadRows:
    """Policy for bad rows: refuse, or drop and count them.

    Args:
        on_bad_row (`str`, *optional*, defaults to `"refuse"`): `"refuse"` raises at the first one, `"skip"` leaves
            them out and counts each reason in `counts`.

    Example:

        >>> bad = BadRows("skip")
        >>> bad("empty_field", "de.jsonl, line 3", "field 'query' is empty")
        >>> dict(bad.counts)
        {'empty_field': 1}
    """

    def __init__(self, on_bad_row: str = "refuse") -> None:
        if on_bad_row not in ("refuse", "skip"):
            raise ValueError(
                f'on_bad_row={on_bad_row!r}: give "refuse" (stop at the first bad row) or "skip" (count it).'
            )
        self.refuse = on_bad_row == "refuse"
        self.counts: Counter[str] = Counter()

    def __call__(self, reason: str, where: str, message: str) -> None:
        if self.refuse:
            raise ValueError(
                f'{where}: {message}. Correct the row, or pass on_bad_row="skip" to skip and count such rows.'
            )
        self.counts[reason] += 1


class RowError(Exception):
    """A value that a field does not allow."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


Check = Callable[[Any], Any]


def text(value: Any) -> str:
    """A string with something to see in it, which can be written as UTF-8 and has no NUL."""
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{_show(value)}, allowed is a string")
    if "\0" in value:
        raise RowError(
            "wrong_encoding", f"text with a NUL at character {value.index(chr(0))}, allowed is text without any"
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError("wrong_encoding", f"half of a surrogate pair at character {error.start}") from None
    if not value[:1].isalnum() and not any(map(_visible, value)):
        raise RowError("empty_field", f"empty or invisible ({value[:20]!a}), allowed is a string with text")
    return value


def identifier(value: Any) -> str:
    """A string or an integer, as a string without white space or invisible characters at its ends."""
    if isinstance(value, str) and value and value.isprintable() and value[0] != " " != value[-1]:
        return value  # nearly all are, and this is the fast way to see it
    name = _integer_or_text(value)
    if not (_visible(name[0]) and _visible(name[-1])):
        raise RowError("invisible_in_id", f"{name!a}, allowed is an id that begins and ends visibly")
    return name


def texts(value: Any) -> list[str]:
    """A list of strings."""
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{_show(value)}, allowed is a list of strings")
    return [_integer_or_text(element) for element in value]


def integer(value: Any) -> int:
    """An integer of 32 bits, also as text or as a float without fraction."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not number.is_integer() or not -_TOO_LARGE < number < _TOO_LARGE or isinstance(value, bool):
        raise RowError("wrong_type", f"{_show(value)}, allowed is an integer below 2^31")
    return int(number)


def optional(check: Check) -> Check:
    """Check a field that may be missing, null or empty, and return `None` then."""
    return lambda value: None if value is None or value == "" else check(value)


class Field(NamedTuple):
    """One column of a checked table.

    Args:
        check (`Callable`): value to value; raises `RowError`.
        type (`pa.DataType`, *optional*, defaults to string): its type in the table.
        also (`str`, *optional*): a second name under which sources have it.
    """

    check: Check
    type: pa.DataType = pa.string()
    also: str = ""


ITEM = {
    "id": Field(identifier),
    "query": Field(text),
    "passage": Field(text),
    "title": Field(optional(text)),
    "group": Field(optional(identifier)),
    "negatives": Field(optional(texts), pa.list_(pa.string())),
}
DOCUMENT = {"_id": Field(identifier, also="id"), "text": Field(text), "language": Field(optional(text))}
JUDGMENT = {"query-id": Field(identifier), "corpus-id": Field(identifier), "score": Field(integer, pa.int32())}


def check_table(source: Rows, fields: Mapping[str, Field], bad: BadRows, key: str | None = None) -> pa.Table:
    """Read rows into a table with the columns of `fields` and `number`, where the row was.

    Args:
        source (`Rows`): the rows.
        fields (`Mapping[str, Field]`): columns to read; others are ignored.
        bad (`BadRows`): what happens to the rest.
        key (`str`, *optional*): column that may not repeat a value.

    Raises:
        ValueError: at the first bad row if those are refused, or if there is no good row at all.

    Example:

        >>> source = Rows("de.jsonl", "line", [(1, {"id": "7", "query": "Wer?"})])
        >>> check_table(source, ITEM, BadRows())
        Traceback (most recent call last):
        ...
        ValueError: de.jsonl, line 1: field 'passage' is missing; the row has 'id', 'query'. Correct the row, ...
    """
    schema = pa.schema([*((name, field.type) for name, field in fields.items()), (NUMBER, pa.int64())])
    rows = _checked(source, fields, bad, key)
    batches = []
    while chunk := list(islice(rows, BATCH_ROWS)):
        columns = [
            pa.array(column, field.type) for column, field in zip(zip(*chunk, strict=True), schema, strict=True)
        ]
        batches.append(pa.record_batch(columns, schema=schema))
    if not batches:
        raise ValueError(f"{source.name} has no usable {source.unit}: fill it, or leave it out.")
    return pa.Table.from_batches(batches, schema)


def read_jsonl(path: Path, bad: BadRows) -> Rows:
    """Lines of a JSONL file; blank lines are passed over."""
    return Rows(str(path), "line", _json_lines(path, bad))


def read_tsv(path: Path, bad: BadRows, columns: Sequence[str], header: bool = True) -> Rows:
    """Lines of a tab-separated file whose header line names at least `columns`; without header it has just those."""
    return Rows(str(path), "line", _tsv_lines(path, bad, columns, header))


def dataset_rows(dataset: Dataset, name: str, language: str | None = None) -> Rows:
    """Rows of a `datasets.Dataset`; where a language is given, only those whose `language` column says so."""
    return Rows(name, "row", _dataset_rows(dataset, language))


def add_titles(source: Rows) -> Rows:
    """BEIR documents with the title, where there is one, before the text; a document may have only one of them."""
    return source._replace(rows=((number, _with_title(row)) for number, row in source.rows))


def refuse_lookalikes(ids: Iterable[str]) -> None:
    """Refuse two ids that are different strings but look the same: items of several files would not meet."""
    seen: dict[str, str] = {}
    for name in ids:
        shown = name if name.isascii() else "".join(filter(str.isprintable, normalize("NFC", name)))
        if (first := seen.setdefault(shown, name)) != name:
            raise ValueError(
                f"ids {first!a} and {name!a} look the same: they differ in invisible characters or in "
                "Unicode's normal form. Write both alike (NFC), or give each item an id of its own."
            )


class Judged(NamedTuple):
    """A retrieval set in BEIR's three tables, checked.

    Args:
        documents (`pa.Table`): columns `_id`, `text` (with the title) and `language`, null where the source has none.
        queries (`pa.Table`): likewise.
        judgments (`pa.Table`): columns `query-id`, `corpus-id`, `score` and `number`.
        where (`Callable[[int], str]`): where the judgment with that number was, for messages.
    """

    documents: pa.Table
    queries: pa.Table
    judgments: pa.Table
    where: Callable[[int], str]


def check_retrieval_set(documents: Rows, queries: Rows, judgments: Rows, bad: BadRows) -> Judged:
    """Check the three tables of a retrieval set."""
    return Judged(
        check_table(add_titles(documents), DOCUMENT, bad, key="_id"),
        check_table(queries, DOCUMENT, bad, key="_id"),
        check_table(judgments, JUDGMENT, bad),
        judgments.where,
    )


def _show(value: Any) -> str:
    return "null" if value is None else f"{str(value)[:40]!r} ({type(value).__name__})"


def _visible(character: str) -> bool:
    """False for white space, control characters and what only directs others (zero width, right to left, ...)."""
    return character.isprintable() and not character.isspace()


def _integer_or_text(value: Any) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)


def _checked(source: Rows, fields: Mapping[str, Field], bad: BadRows, key: str | None) -> Iterator[tuple[Any, ...]]:
    first: dict[str, int] = {}
    position = list(fields).index(key) if key else 0
    for number, row in source.rows:
        values: list[Any] = []
        for name, field in fields.items():
            value = row.get(name)
            try:
                values.append(field.check(row.get(field.also) if value is None and field.also else value))
            except RowError as error:
                _report(bad, source.where(number), name, row, error)
                break
        else:
            if key and first.setdefault(values[position], number) != number:
                message = f"{key} {values[position]!r} occurs twice, first in {source.unit} {first[values[position]]}"
                bad("duplicate_id", source.where(number), message)
            else:
                yield (*values, number)


def _with_title(row: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = [row.get("title"), row.get("text")]
    if not parts[0] or not all(part is None or isinstance(part, str) for part in parts):
        return row
    return {**row, "text": " ".join(part for part in parts if part)}


def _report(bad: BadRows, where: str, name: str, row: Mapping[str, Any], error: RowError) -> None:
    if row.get(name) is None:
        names = ", ".join(map(repr, row))
        bad("missing_field", where, f"field {name!r} is missing; the row has {names or 'nothing'}")
    else:
        bad(error.reason, where, f"field {name!r} is {error}")


def _lines(path: Path, bad: BadRows) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file without their ends."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                message = (
                    f"byte {error.start} of the line (0x{line[error.start]:02x}) is not UTF-8; save the file as UTF-8"
                )
                bad("wrong_encoding", f"{path}, line {number}", message)


def _json_lines(path: Path, bad: BadRows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(path, bad):
        if not line or line.isspace():
            continue
        try:
            row = loads(line)
        except json.JSONDecodeError as error:
            message = f"not JSON: {error.msg} at character {error.pos}, {line[error.pos : error.pos + 20]!a}"
            bad("invalid_json", f"{path}, line {number}", message)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            bad("invalid_json", f"{path}, line {number}", f"{_show(row)}, allowed is a JSON object {{...}}")


def _tsv_lines(
    path: Path, bad: BadRows, columns: Sequence[str], header: bool
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(path, bad):
        values = line.split("\t")
        if header:  # in the first line that can be read
            if missing := set(columns).difference(values):
                raise ValueError(
                    f"{path}, line {number}: the header has no {', '.join(sorted(missing))}; it must name the "
                    f"tab-separated columns {', '.join(columns)}. Found: {line[:80]!r}. Add it as the first line."
                )
            if len(set(values)) < len(values):
                raise ValueError(
                    f"{path}, line {number}: the header names a column twice: {line[:80]!r}. Keep one of them."
                )
            columns, header = values, False
        elif len(values) == len(columns):
            yield number, dict(zip(columns, values, strict=True))
        elif line:
            names = ", ".join(columns)
            bad(
                "wrong_columns",
                f"{path}, line {number}",
                f"{len(values)} columns, allowed are {len(columns)}: {names}",
            )


def _dataset_rows(dataset: Dataset, language: str | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow.compute as pc

    start = 0
    for batch in dataset.with_format("arrow").iter(batch_size=1000):
        numbers = pa.array(range(start, start + len(batch)))
        start += len(batch)
        if language is not None:
            wanted = pc.equal(batch["language"], language)
            batch, numbers = batch.filter(wanted), numbers.filter(pc.fill_null(wanted.combine_chunks(), False))
        yield from zip(numbers.to_pylist(), batch.to_pylist(), strict=True)
