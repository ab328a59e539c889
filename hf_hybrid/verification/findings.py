"""The result of a check: a value is right, it is wrong, or no file can tell.

A *place* is a file and a way into it, as in `eval.json: after: pairs: de-en: MAP` or `resources.jsonl, line 3: loss`.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from hf_hybrid.utils.text import first_difference

OK, WRONG, UNKNOWN = "ok", "wrong", "unknown"
ROUNDING = 1e-9  # relative difference of equal sums in another order
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


class Finding(NamedTuple):
    """The result for one place.

    Args:
        check (`str`): Name of the check, such as `manifest` or `scores`.
        status (`str`): `OK`, `WRONG` or `UNKNOWN`.
        place (`str`): The file, and where in it.
        reason (`str`, *optional*, defaults to `""`): What was expected and found, or why it is not known.
    """

    check: str
    status: str
    place: str
    reason: str = ""

    @property
    def file(self) -> str:
        """The file of the place."""
        return re.split(r"[:,[]", self.place, maxsplit=1)[0]


def expect(check: str, place: str, holds: bool, reason: str) -> Finding:
    """Return `OK` if a condition holds, else `WRONG` with a reason."""
    return Finding(check, OK, place) if holds else Finding(check, WRONG, place, reason)


def compare(
    check: str, place: str, expected: Any, found: Any, *, relative: float = ROUNDING, absolute: float = 0.0
) -> Iterator[Finding]:
    """Compare nested dictionaries and lists, with a finding for each value.

    Args:
        check (`str`): Name of the check.
        place (`str`): Where `found` is.
        expected, found (`Any`): The values.
        relative, absolute (`float`, *optional*, defaults to `ROUNDING` and 0): Tolerances of `math.isclose`.

    Example:

        >>> for finding in compare("sums", "a.json", {"pairs": 3, "steps": [1, 2]}, {"pairs": 4, "steps": [1, 2]}):
        ...     print(finding.status, finding.place, finding.reason)
        wrong a.json: pairs expected 3, found 4
        ok a.json: steps[0]
        ok a.json: steps[1]
    """
    inner: Iterable[tuple[str, Any, Any]] | None = None
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        keys = dict.fromkeys([*expected, *found])
        inner = ((f"{place}: {key}", expected.get(key, _NOTHING), found.get(key, _NOTHING)) for key in keys)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        inner = ((f"{place}[{i}]", *pair) for i, pair in enumerate(zip(expected, found, strict=True)))
    if inner is None:
        is_same = _is_same(expected, found, relative, absolute)
        yield expect(check, place, is_same, f"expected {_short.repr(expected)}, found {_short.repr(found)}")
        return
    for name, one, other in inner:
        yield from compare(check, name, one, other, relative=relative, absolute=absolute)


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


def _is_same(expected: Any, found: Any, relative: float, absolute: float) -> bool:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expected, found)):
        return math.isclose(expected, found, rel_tol=relative, abs_tol=absolute)
    return type(expected) is type(found) and expected == found


def compare_texts(check: str, file: str, expected: str, found: str) -> Finding:
    """Compare two texts, and report the first line that differs.

    Example:

        >>> compare_texts("card", "README.md", "one\\ntwo", "one\\nten")
        Finding(check='card', status='wrong', place='README.md, line 2', reason="expected 'two', found 'ten'")
    """
    if expected == found:
        return Finding(check, OK, file)
    number, difference = first_difference(expected, found)
    return Finding(check, WRONG, f"{file}, line {number}", difference)


def format_findings(findings: Iterable[Finding]) -> str:
    """Return a table of counts by check and file, then everything that is wrong or not known.

    Example:

        >>> findings = [Finding("plan", OK, "plan.json: batches"), Finding("plan", WRONG, "run.json: mix", "found b")]
        >>> print(format_findings(findings))
        check       file                                ok  wrong  unknown
        plan        plan.json                            1      0        0
        plan        run.json                             0      1        0
        <BLANKLINE>
        wrong: run.json: mix: found b  (plan)
        <BLANKLINE>
        1 wrong, 1 ok, 0 unknown
    """
    findings = list(findings)
    counts = Counter((finding.check, finding.file, finding.status) for finding in findings)
    rows = dict.fromkeys((finding.check, finding.file) for finding in findings)
    width = max([32, *(len(file) for _, file in rows)])
    lines = [f"{'check':<11} {'file':<{width}} {'ok':>5} {'wrong':>6} {'unknown':>8}"]
    for check, file in rows:
        ok, wrong, unknown = (counts[check, file, status] for status in (OK, WRONG, UNKNOWN))
        lines.append(f"{check:<11} {file:<{width}} {ok:>5} {wrong:>6} {unknown:>8}")
    for status in (UNKNOWN, WRONG):
        shown = [f"{status}: {one.place}: {one.reason}  ({one.check})" for one in findings if one.status == status]
        lines += ["", *shown] if shown else []
    totals = Counter(finding.status for finding in findings)
    return "\n".join([*lines, "", f"{totals[WRONG]} wrong, {totals[OK]} ok, {totals[UNKNOWN]} unknown"])
