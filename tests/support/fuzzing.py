"""Changed files for a reader: whatever stands in them, it must read them or refuse them by name.

1. A target has a folder of valid files and reads it.
2. Hypothesis changes one of them: pieces are skipped, doubled, moved, or replaced by odd ones (`changed`).
3. The reader gives a result or raises a ValueError or OSError that names the folder (`attempt`). Any other error, an
   example that takes longer than `SLOW_S`, and a write outside of the folder are findings, made small (`fuzz`).
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

SLOW_S = 10
ROUND_EXAMPLES = 300
MAX_TOKENS = 1000  # at which a file can be cut
Files = dict[str, bytes]


class Target(NamedTuple):
    """A reader: valid files by their path in its folder, and the call that reads the folder."""

    files: Files
    read: Callable[[Path], object]


class Example(NamedTuple):
    """Files of which the one called `name` was changed."""

    name: str
    files: Files

    def __repr__(self) -> str:
        content = self.files[self.name]
        shown = repr(content) if len(content) < 2000 else f"{content[:200]!r}... {content[-200:]!r}"
        return f"{self.name} ({len(content)} bytes): {shown}"


class Finding(NamedTuple):
    """What a reader did with an example and should not have done."""

    target: str
    example: Example
    error: BaseException

    def save(self, folder: Path) -> Path:
        """Write the files and the traceback below `folder`."""
        name, files = self.example
        folder = folder / f"{self.target}-{hashlib.sha256(files[name]).hexdigest()[:8]}"
        write_files(folder / "files", files)
        (folder / "error.txt").write_text("".join(traceback.format_exception(self.error)), encoding="utf-8")
        return folder

    def __str__(self) -> str:
        return f"{self.target}: {type(self.error).__name__}: {str(self.error)[:300]}\n  {self.example}"


class NotNamed(Exception):
    """A refusal that does not say what it refuses."""


class TooSlow(Exception):
    """More than `SLOW_S`."""


class StrayWrite(Exception):
    """A write outside of the folder that was read."""


# How files are changed

ODD = [b"", b"null", b"true", b"0", b"-1", b"1.5", b"1e999", b"NaN", b"9" * 20, b"9" * 400, b"9" * 5000, b'""', b'" "']
ODD += [b'"\\ud800"', b'"\\u0000"', b'"../x"', b"[]", b"{}", b"[[]]", b"[null]", b'{"a": 1}', b"[" * 100_000]
ODD += [b"\x00", b"\xff", b"\t", b"\n", b"\r", b"\xef\xbb\xbf", "\u2028".encode(), b"1970-99-99", b"!!int x"]
_TOKEN = re.compile(rb'"(?:\\.|[^"\\])*"|[\w.+-]+|\s+|[^\w\s]', re.DOTALL)


def _spans(content: bytes) -> list[tuple[int, int]]:
    """Where pieces of JSON, of a table or of YAML start and end: words, lines, and what stands in brackets."""
    spans = [line.span() for line in re.finditer(rb"[^\n]*\n?", content)]
    opened: list[int] = []
    for token in islice(_TOKEN.finditer(content), MAX_TOKENS):
        spans.append(token.span())
        if token[0] in (b"[", b"{"):
            opened.append(token.start())
        elif token[0] in (b"]", b"}") and opened:
            spans.append((opened.pop(), token.end()))
    return spans


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with one to three changes."""
    for _ in range(draw(st.integers(1, 3))):
        spans = _spans(content)
        start, end = draw(st.sampled_from(spans))
        copied = slice(*draw(st.sampled_from(spans)))
        piece = draw(st.sampled_from([*ODD, content[copied]]) | st.binary(max_size=4))
        end = draw(st.sampled_from([start, end, end, end, len(content)]))
        content = content[:start] + piece + content[end:]
    return content


@st.composite
def changed_files(draw: st.DrawFn, files: Files) -> Example:
    """The files with one of them changed."""
    name = draw(st.sampled_from(sorted(files)))
    return Example(name, {**files, name: draw(changed(files[name]))})


# How a reader is tried


def write_files(folder: Path, files: Files) -> None:
    """Write files by their path in a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


_only_into: list[str] = []  # the folder that may be written to, while a reader is watched


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Stop Python's own writes outside of that folder; what Arrow writes stands beside files that Python makes."""
    paths = {"os.mkdir": arguments[:1], "os.rename": arguments[:2], "shutil.rmtree": arguments[:1]}.get(event, ())
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        paths = arguments[:1]
    for path in paths if _only_into else ():
        if not isinstance(path, int) and not os.path.realpath(os.fsdecode(path)).startswith(_only_into[0]):
            raise StrayWrite(f"{event} {path!r}")


sys.addaudithook(_watch)


def attempt(target: Target, files: Files) -> bool:
    """Whether the files were read; `False` where they were refused as they should be."""
    with tempfile.TemporaryDirectory() as place:
        write_files(Path(place, "given"), files)
        start, refusal = time.monotonic(), None
        _only_into.append(os.path.realpath(place))
        try:
            target.read(Path(place, "given"))
        except (ValueError, OSError) as error:
            refusal = error
        finally:
            _only_into.clear()
    if refusal is not None and place not in str(refusal):
        raise NotNamed(f"{type(refusal).__name__} without the file's name: {refusal}") from refusal
    if (taken_s := time.monotonic() - start) > SLOW_S:
        raise TooSlow(f"{taken_s:.1f} s")
    return refusal is None


def _place(error: BaseException) -> tuple[str, str]:
    """What tells a finding from others: its type and the last line of the package that it went through."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if "hf_hybrid" in Path(frame.filename).parts]
    return type(error).__name__, lines[-1] if lines else ""


def fuzz(name: str, target: Target, seconds: float, seed: int) -> tuple[Counter[str], list[Finding]]:
    """Try a target until the time is over.

    Args:
        name (`str`): For the findings.
        target (`Target`): The reader.
        seconds (`float`): Time for it, but for the last example.
        seed (`int`): Another seed gives other files.

    Returns:
        `tuple`: How often it `"read"` and `"refused"`, and one finding for each place in the code.
    """
    attempt(target, target.files)  # what is imported and cached at the first call is not its work
    counts, findings = Counter[str](), list[Finding]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        known = {_place(finding.error) for finding in findings}
        if finding := _round(name, target, seed, end, counts, known):
            findings.append(finding)
        seed += 1
    return counts, findings


def _round(
    name: str, target: Target, seed: int, end: float, counts: Counter[str], known: set[tuple[str, str]]
) -> Finding | None:
    """Some hundred examples, fewer where the time is over; stops at a finding that is not known, made small."""
    last: Example | None = None
    failed = False

    @hypothesis.seed(seed)
    @settings(
        max_examples=ROUND_EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
    )
    @given(changed_files(target.files))
    def examples(example: Example) -> None:
        nonlocal failed, last
        if time.monotonic() > end and not failed:
            return
        last = example
        # of what never ends the files are left where they are
        faulthandler.dump_traceback_later(10 * SLOW_S, exit=True, file=sys.__stderr__ or sys.stderr)
        try:
            counts["read" if attempt(target, example.files) else "refused"] += 1
        except Exception as error:
            if _place(error) not in known:
                failed = True
                raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    try:
        examples()
    except Exception as error:
        if last is None or not failed:
            raise  # a mistake of this module
        return Finding(name, last, error)
    return None
