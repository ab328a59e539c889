"""Markdown from values that others have chosen: nothing in a name becomes a tag, a link, a heading or a column."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

MOST_CHARACTERS = 160  # of a name that is shown
_JOINERS = "\u200c\u200d"  # invisible, but some scripts spell with them
# What Markdown, its tables, mathematics, mentions and automatic links give a meaning within a line.
_ACTIVE = re.compile(r"[&<>|`*\[\]\\~$]|(?<![^\W_])_|_(?![^\W_])|(?<!\w)@|:(?=//)|(?<=www)\.")


class Markdown(str):
    """Text that is Markdown already; any other is escaped."""


def visible(text: str) -> str:
    """A text without what cannot be seen: no control characters or line breaks, no changes of direction."""
    seen = (" " if unicodedata.category(found) in ("Cc", "Zl", "Zp") else found for found in text)
    return "".join(found for found in seen if found in _JOINERS or not unicodedata.category(found).startswith("C"))


def to_plain_text(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return the visible text, in words with single spaces.

    Args:
        text (`str`): From anywhere.
        most (`int`, *optional*, defaults to `MOST_CHARACTERS`): Characters kept; an ellipsis stands for the rest.

    Example:

        >>> to_plain_text("a name\\n---\\n\\u202eover two lines")
        'a name --- over two lines'
    """
    line = " ".join(visible(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def escape(value: Any, most: int = MOST_CHARACTERS) -> Any:
    """A value whose texts, in lists and dictionaries too, can stand in a line or a table of Markdown.

    Args:
        value (`Any`): From anywhere.
        most (`int`, *optional*, defaults to `MOST_CHARACTERS`): Characters kept of a text.

    Example:

        >>> escape({"name": "<b>|*x*", "size": 3, "link": Markdown("[a](b)")})
        {'name': '&#60;b&#62;&#124;&#42;x&#42;', 'size': 3, 'link': '[a](b)'}
    """
    if isinstance(value, dict):
        return {key: escape(inner, most) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [escape(inner, most) for inner in value]
    if isinstance(value, str) and not isinstance(value, Markdown):
        return Markdown(_ACTIVE.sub(lambda found: f"&#{ord(found[0])};", to_plain_text(value, most)))
    return value


def sentence(words: str, **values: Any) -> Markdown:
    """A sentence of ours with values of others in it.

    Example:

        >>> sentence("Trained on {name}.", name="a|b")
        'Trained on a&#124;b.'
    """
    return Markdown(words.format(**escape(values)))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], texts: Sequence[int] = (0,)) -> Markdown:
    """Return a table with escaped entries.

    Args:
        head (`Sequence[str]`): Its columns.
        rows (`Sequence[Sequence]`): Their entries; `None` is empty.
        texts (`Sequence[int]`, *optional*, defaults to the first): Columns of text, on the left; numbers stand right.

    Example:

        >>> print(table(["batch type", "steps"], [["mono", 30]]))
        | batch type | steps |
        |---|---:|
        | mono | 30 |
    """
    rule = "|".join("---" if column in texts else "---:" for column in range(len(head)))
    columns = [["" if entry is None else str(escape(entry)) for entry in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in columns]
    return Markdown("\n".join([lines[0], f"|{rule}|", *lines[1:]]))


def join_names(names: Sequence[str], most: int = 20) -> Markdown:
    """Names with commas, the first of them where they are many.

    Example:

        >>> join_names(["ar", "de", "en"], most=2)
        'ar, de and 1 more'
    """
    shown = ", ".join(str(escape(name)) for name in names[:most])
    return Markdown(f"{shown} and {len(names) - most:,} more" if len(names) > most else shown)


def first_difference(expected: str, found: str) -> tuple[int, str]:
    """Return the number of the first line in which two different texts differ, and both lines from there.

    Example:

        >>> first_difference("one\\ntwo", "one\\nten")
        (2, "expected 'two', found 'ten'")
    """
    pairs = zip_longest(expected.split("\n"), found.split("\n"), fillvalue="")
    number, lines = next((number, pair) for number, pair in enumerate(pairs, start=1) if len({*pair}) > 1)
    same = next((i for i, pair in enumerate(zip(*lines, strict=False)) if len({*pair}) > 1), None)
    start = max(0, (min(map(len, lines)) if same is None else same) - 30)
    shown = (("..." if start else "") + line[start : start + 80] for line in lines)
    return number, "expected {!r}, found {!r}".format(*shown)
