"""Errors of the Hub: which are retried, and how the others are explained."""

from __future__ import annotations

import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    parse_ratelimit_headers,
)

from hf_hybrid.records.events import event
from hf_hybrid.utils.redaction import redact

T = TypeVar("T")

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # before the second try, the third, ...
LONGEST_WAIT_S = 300.0  # that a server may ask for; after that the user knows better
TIMEOUT_S = 120.0  # without a byte; the client of huggingface_hub alone would wait for ever
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_QUOTA = re.compile(r"(?i)quota|storage limit|storage.{0,40}(exceed|full)|payment required")
_AGAIN = "give the same command again"
_ADVICE = {
    400: "The Hub refuses what was sent. Mend that and {again}",
    401: "The Hub does not know this token. Log in with `hf auth login`, or set HF_TOKEN to a valid one, and {again}",
    403: "This token may not write there. Take one with write access (https://huggingface.co/settings/tokens), or a "
    "repository of your own, and {again}",
    404: "There is no such repository, branch or namespace, or this token may not see it. Check how it is spelled and "
    "who the token belongs to, and {again}",
    409: "Something else is changing this repository, or stands in the way there. Wait a minute and {again}",
    412: "Somebody else has committed to it meanwhile. Look at what is new there; then `recipes/push.py --overwrite` "
    "puts these files on top, and --create_pr proposes them",
    413: "It is too large for the Hub. Leave out what is large (`--dry_run` shows all sizes), and {again}",
    429: "The Hub takes no more requests of this user for the time being. Wait {wait} and {again}",
}
_QUOTA_ADVICE = (
    "The storage of this namespace is full, or not in its plan. Make room (https://huggingface.co/settings/billing) "
    "or take another --repo_id, and {again}"
)
_NO_ANSWER = (
    "The Hub has trouble or cannot be reached, several tries in a row. Wait until it is well again and {again}"
)
_OFFLINE = "HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it and {again}"


UNSENT = "Nothing was sent."


class HubError(OSError):
    """A push that did not go well; the message says why, what holds now and what to do.

    Args:
        message (`str`): For the user, without secrets.
        transient (`bool`, *optional*, defaults to `False`): The same command may go well later, as it is.
        status (`int`, *optional*): What the Hub answered.
    """

    def __init__(self, message: str, *, transient: bool = False, status: int | None = None) -> None:
        super().__init__(message)
        self.transient, self.status = transient, status


def explain(error: Exception, place: str, token: str | None, holds: str) -> HubError:
    """Say what an error of `huggingface_hub` means.

    Args:
        error (`Exception`): What was raised.
        place (`str`): What was pushed to.
        token (`str`, *optional*): Must not be in the message.
        holds (`str`): What is on the Hub now.

    Example:

        >>> error = OfflineModeIsEnabled("no requests")
        >>> print(explain(error, "user/name", None, "Nothing was sent"))
        user/name: HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it and ... Nothing was sent.
    """
    if isinstance(error, HubError):
        return error
    status, said = status_of(error), without_token(_words_of(error), token)
    if isinstance(error, OfflineModeIsEnabled):
        advice, said = _OFFLINE, ""
    elif status == 402 or (status != 429 and _QUOTA.search(said)):
        advice = _QUOTA_ADVICE
    elif is_transient(error) and status != 429:
        advice = _NO_ANSWER
    elif isinstance(error, PermissionError) and status is None:
        advice = _ADVICE[403]
    else:
        advice = _ADVICE.get(status or 0, "It did not work. Mend what is said here and {again}")
    wait = f"{max(1, round((read_retry_after_s(error) or 60) / 60))} minute(s)"
    advice = advice.format(again=_AGAIN, wait=wait)
    facts = ": ".join(filter(None, [str(status or ""), said]))
    return HubError(
        f"{place}: {advice}. {holds}." + (f" [{facts}]" if facts else ""), transient=is_transient(error), status=status
    )


def _words_of(error: Exception) -> str:
    """In one line what the server said, else what the error says."""
    failed = error if isinstance(error, ValueError) else find_failed_request(error) or error  # the client's own words
    said = getattr(failed, "server_message", None) or str(failed) or type(failed).__name__
    if not isinstance(failed, HfHubHTTPError) and isinstance(failed, HTTPError):
        said = f"{type(failed).__name__}: {said}"
    return " ".join(said.split())[:300]


def without_token(text: str, token: str | None) -> str:
    """A text without secrets, this one among them."""
    return redact(text.replace(token, "***") if token else text)


def find_failed_request(error: BaseException | None) -> HTTPError | None:
    """The request behind an error: of large files, `huggingface_hub` wraps it into another."""
    while error is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """Return the response of the Hub, or `None` if there was none."""
    response = getattr(find_failed_request(error), "response", None)
    return None if response is None else int(response.status_code)


def is_transient(error: BaseException) -> bool:
    """Return whether an error is temporary: no response, or one that says so."""
    if find_failed_request(error) is None:  # Xet storage has its own errors
        return isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, OfflineModeIsEnabled)
    return status_of(error) in (None, *_TRANSIENT)


def read_retry_after_s(error: BaseException) -> float | None:
    """Return how long the server asks to wait."""
    response = getattr(find_failed_request(error), "response", None)
    if response is None:
        return None
    after = response.headers.get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(response.headers)
    return None if limit is None or limit.remaining else float(limit.reset_in_seconds)


def retrying(call: Callable[[], T], what: str) -> T:
    """Make a request that the client itself makes only once, again where that may help.

    Args:
        call (`Callable`): Makes it.
        what (`str`): In words, for the event.

    Raises:
        Exception: That of the last try.
    """
    for wait_s in waits():
        try:
            return call()
        except Exception as error:
            if not pause(error, wait_s, what):
                raise
    raise AssertionError("the last try returns or raises")


def waits() -> tuple[float | None, ...]:
    """The pause after each try; `None` after the last."""
    return (*WAITS_S, None)


def pause(error: Exception, wait_s: float | None, what: str) -> bool:
    """Wait before another try; `False` where there is to be none."""
    longest = max(wait_s or 0.0, read_retry_after_s(error) or 0.0)
    if wait_s is None or not is_transient(error) or longest > LONGEST_WAIT_S:
        return False
    event("retry", logging.WARNING, what=what, wait_s=longest, problem=_words_of(error))
    time.sleep(longest)
    return True


@contextmanager
def careful_client(token: str | None) -> Iterator[None]:
    """While it is entered, the client gives up where no byte comes, its log has no secrets, and no file has bars."""
    session, handlers = get_session(), logging.getLogger("huggingface_hub").handlers
    before, hide = session.timeout, _HideSecrets(token)
    no_bars = not sys.stderr.isatty() and not are_progress_bars_disabled()
    session.timeout = TIMEOUT_S
    for handler in handlers:
        handler.addFilter(hide)
    if no_bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # of a bundle
            yield
    finally:
        session.timeout = before
        if no_bars:
            enable_progress_bars()
        for handler in handlers:
            handler.removeFilter(hide)


class _HideSecrets(logging.Filter):
    """Addresses that files are uploaded to have signatures in them."""

    def __init__(self, token: str | None) -> None:
        super().__init__()
        self._token = token

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_token(record.getMessage(), self._token), ()
        return True
