"""What a check finds: a figure that is right, one that is wrong and where it stands, or one that nobody can tell.

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
ROUNDING = 1e-9  # how far, of its size, a sum may lie from the same sum in another order
_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 100


class Finding(NamedTuple):
    """One thing that was checked.

    Args:
        check (`str`): The check, as `manifest` or `scores`.
        status (`str`): `OK`, `WRONG` or `UNKNOWN`.
        place (`str`): The file, and where in it.
        told (`str`, *optional*, defaults to `""`): What was expected and what was found, or why it is not known.
    """

    check: str
    status: str
    place: str
    told: str = ""

    @property
    def file(self) -> str:
        """The file of the place."""
        return re.split(r"[:,[]", self.place, maxsplit=1)[0]


def compare(
    check: str, place: str, expected: Any, found: Any, *, relative: float = ROUNDING, absolute: float = 0.0
) -> Iterator[Finding]:
    """A finding for each value in nested dictionaries and lists.

    Args:
        check (`str`): The check.
        place (`str`): Where `found` stands.
        expected (`Any`): What should be there.
        found (`Any`): What is.
        relative (`float`, *optional*, defaults to `ROUNDING`): How far numbers may lie apart, of the larger one.
        absolute (`float`, *optional*, defaults to 0.0): How far they may in any case.

    Example:

        >>> for finding in compare("sums", "a.json", {"pairs": 3, "steps": [1, 2]}, {"pairs": 4, "steps": [1, 2]}):
        ...     print(finding.status, finding.place, finding.told)
        wrong a.json: pairs expected 3, found 4
        ok a.json: steps[0]
        ok a.json: steps[1]
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*expected, *found]):
            inner = f"{place}: {key}"
            if key not in found:
                yield Finding(check, WRONG, inner, f"expected {_shown.repr(expected[key])}, found nothing")
            elif key not in expected:
                yield Finding(check, WRONG, inner, f"expected nothing, found {_shown.repr(found[key])}")
            else:
                yield from compare(check, inner, expected[key], found[key], relative=relative, absolute=absolute)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple) and len(expected) == len(found):
        for number, (wanted, value) in enumerate(zip(expected, found, strict=True)):
            inner = f"{place}[{number}]"
            yield from compare(check, inner, wanted, value, relative=relative, absolute=absolute)
    elif _same(expected, found, relative, absolute):
        yield Finding(check, OK, place)
    else:
        yield Finding(check, WRONG, place, f"expected {_shown.repr(expected)}, found {_shown.repr(found)}")


def _same(expected: Any, found: Any, relative: float, absolute: float) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expected, found))
    if numbers:
        return math.isclose(expected, found, rel_tol=relative, abs_tol=absolute)
    return type(expected) is type(found) and expected == found


def check(check: str, place: str, holds: bool, told: str) -> Finding:
    """A finding that is `OK` where something holds, and `WRONG` with `told` where not."""
    return Finding(check, OK, place) if holds else Finding(check, WRONG, place, told)


def findings_table(findings: Iterable[Finding]) -> str:
    """Findings as text: counts by check and file, then all that is wrong, then what is not known and why.

    Example:

        >>> findings = [Finding("plan", OK, "plan.json: batches"), Finding("plan", WRONG, "run.json: mix", "found b")]
        >>> print(findings_table(findings))
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
    rows = list(dict.fromkeys((finding.check, finding.file) for finding in findings))
    width = max([32, *(len(file) for _, file in rows)])
    lines = [f"{'check':<11} {'file':<{width}} {'ok':>5} {'wrong':>6} {'unknown':>8}"]
    for check, file in rows:
        ok, wrong, unknown = (counts[check, file, status] for status in (OK, WRONG, UNKNOWN))
        lines.append(f"{check:<11} {file:<{width}} {ok:>5} {wrong:>6} {unknown:>8}")
    for status in (UNKNOWN, WRONG):
        told = [finding for finding in findings if finding.status == status]
        lines += [""] * bool(told) + [f"{status}: {one.place}: {one.told}  ({one.check})" for one in told]
    totals = Counter(finding.status for finding in findings)
    return "\n".join([*lines, "", f"{totals[WRONG]} wrong, {totals[OK]} ok, {totals[UNKNOWN]} unknown"])


def compare_texts(check: str, file: str, expected: str, found: str) -> Finding:
    """Of two texts that differ, the first line where they do.

    Args:
        check (`str`): Its name.
        file (`str`): Name of the file that was found.
        expected, found (`str`): The texts.

    Example:

        >>> compare_texts("card", "README.md", "one\\ntwo", "one\\nten")
        Finding(check='card', status='wrong', place='README.md, line 2', told="expected 'two', found 'ten'")
    """
    if expected == found:
        return Finding(check, OK, file)
    number, told = first_difference(expected, found)
    return Finding(check, WRONG, f"{file}, line {number}", told)
