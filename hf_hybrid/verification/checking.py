"""How a check runs: over the files of one thing, whatever state they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .evidence import Unreadable
from .findings import UNKNOWN, WRONG, Finding

Check = Callable[[Any], Iterator[Finding]]  # takes the evidence of its kind of folder


def found_by(name: str, check: Check, evidence: Any) -> Iterator[Finding]:
    """What a check finds; where a file's content has not the form that it must have, that is a finding too.

    Args:
        name (`str`): Of the check.
        check (`Callable`): The check.
        evidence (`Evidence`): What it looks at.

    Example:

        >>> def check(run):
        ...     yield Finding("plan", WRONG, "run.json: seed", f"found {run['seed']}")
        >>> [finding.told for finding in found_by("plan", check, {"seed": 1})]
        ['found 1']
        >>> [finding.told for finding in found_by("plan", check, {})]
        ["what they say has not the form that it must have (KeyError: 'seed')"]
    """
    try:
        yield from check(evidence)
    except Unreadable as error:
        yield Finding(name, UNKNOWN, str(error).partition(":")[0], f"the rest of this check needs it: {error}")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        told = f"what they say has not the form that it must have ({type(error).__name__}: {error})"
        yield Finding(name, WRONG, f"the files that {name} is checked by", told)
