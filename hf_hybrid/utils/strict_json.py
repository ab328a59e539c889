"""JSON as data should be: what Python's parser passes over or fails at in some other way is refused too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def loads(text: str, finite: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        text (`str`): The text.
        finite (`bool`, *optional*, defaults to `False`): Refuse numbers that are not finite as well, which JSON does
            not have: files of other programs do have them, also where nobody reads them; ours do not.

    Raises:
        json.JSONDecodeError: if it is not JSON, has a key twice in an object, or more levels than can be read.

    Example:

        >>> loads('{"id": 1, "id": 2}')
        Traceback (most recent call last):
        ...
        json.decoder.JSONDecodeError: key 'id' twice in one object: line 1 column 1 (char 0)
    """
    start = 0 if text[:1] == "{" else len(text) - len(text.lstrip())
    try:
        # `decode` looks for white space with two regular expressions, which takes as long as all else
        found, end = (_FINITE_DECODER if finite else _DECODER).raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError):  # the latter of an integer with more than 4,300 digits
        raise json.JSONDecodeError("more levels or digits than can be read", text, start) from None
    if text[end:].strip():
        raise json.JSONDecodeError("Extra data", text, end)
    return found


def read_json(path: Path) -> Any:
    """A whole JSON file.

    Raises:
        ValueError: if it is none; the message has the file and the line.
    """
    try:
        return loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f", line {error.lineno}" if error.doc else ""
        raise ValueError(f"{path}{where}: not JSON ({error.msg}); correct the file.") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        ValueError: if a line is none; the message has the file and the line.
    """
    found = []
    for number, line in enumerate(path.read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            found.append(dict(loads(line.decode())))
        except (ValueError, TypeError):
            raise ValueError(f"{path}, line {number}: expected a JSON object, got {line[:80]!r}") from None
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a key that repeats: which of its values is meant, nobody knows."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key in found if [name for name, _ in pairs].count(key) > 1)
        raise json.JSONDecodeError(f"key {twice!r} twice in one object", "", 0)
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise json.JSONDecodeError(f"{text} is not a finite number", "", 0)
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_once)
_FINITE_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)
