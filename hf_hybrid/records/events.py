"""Events of a run, one per line: `2026-11-26T10:12:13Z rank=0 checkpoint step=100 path=runs/x ...`.

Events go where Python's logging takes the logger `hf_hybrid`, and to `events.jsonl` of the run folder. Secrets are
taken out of every line: tokens of the Hub, and what stands before the host name in an address.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hf_hybrid.utils.redaction import redact, redact_json

from .output_folder import OutputFolder
from .schema import EVENTS_NAME

_logger = logging.getLogger("hf_hybrid")


def event(name: str, level: int = logging.INFO, **facts: Any) -> None:
    """Tell of an event.

    Args:
        name (`str`): `start`, `resume`, `checkpoint`, `evaluation`, `refused_rows`, `retry`, `skipped_step`, `push`,
            `warning` or `stop`.
        level (`int`, *optional*, defaults to `logging.INFO`): A level of Python's logging.
        **facts: What can be said of it: numbers and short texts.
    """
    words = " ".join(f"{key}={value if _is_plain(value) else json.dumps(str(value))}" for key, value in facts.items())
    _logger.log(level, "%s %s", name, words, extra={"event": {"event": name, **facts}})


def configure(level: int, folder: str | os.PathLike[str] | None = None) -> None:
    """Write this process's lines to stderr, and those of the first process to `events.jsonl` of a run folder.

    Args:
        level (`int`): The lowest that is written to stderr.
        folder (`str` or `Path`, *optional*): The run folder.
    """
    for handler in [handler for handler in _logger.handlers if getattr(handler, "of_run", False)]:
        _logger.removeHandler(handler)
        handler.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setLevel(level)
    handlers[0].setFormatter(_LineFormatter())
    if folder is not None and _rank() == 0:
        OutputFolder(folder).claim(EVENTS_NAME)
        handlers.append(logging.FileHandler(Path(folder) / EVENTS_NAME, encoding="utf-8"))
        handlers[1].setFormatter(_JsonFormatter())
        handlers[1].addFilter(lambda record: hasattr(record, "event"))
    for handler in handlers:
        handler.of_run = True  # type: ignore[attr-defined]
        _logger.addHandler(handler)
    _logger.setLevel(min(level, logging.INFO))
    _logger.propagate = False


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        word = "" if record.levelno <= logging.INFO else f"{record.levelname} "
        line = f"{utc(record.created)} rank={_rank()} {word}{record.getMessage()}"
        return redact(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {"time": utc(record.created), "rank": _rank(), **record.event}  # type: ignore[attr-defined]
        plain = json.loads(json.dumps(told, default=str))
        return json.dumps(redact_json(plain), ensure_ascii=False)


def _rank() -> int:
    return int(os.environ.get("RANK", 0))  # as launchers set it; torch is not needed for a line of text


def _is_plain(value: Any) -> bool:
    return not isinstance(value, str | Path) or re.fullmatch(r"[^\s\"=]+", str(value)) is not None


def utc(seconds: float) -> str:
    """Seconds since 1970 as in `2026-11-26T10:12:13Z`."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
