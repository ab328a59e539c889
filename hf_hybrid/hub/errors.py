"""Errors of the Hub: some are retried, the others are explained."""

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

WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, None)  # after each try; None after the last
LONGEST_WAIT_S = 300.0  # that a server may ask for; beyond it the user decides
TIMEOUT_S = 120.0  # without a byte; huggingface_hub alone would wait without end
UNSENT = "Nothing was sent."
_TRANSIENT = (None, 408, 429, 500, 502, 503, 504)  # None: no response
_QUOTA = re.compile(r"(?i)quota|storage limit|storage.{0,40}(exceed|full)|payment required")
_ADVICE = {
    400: "The Hub refuses the request. Correct it and {again}",
    401: "The Hub does not know this token. Log in with `hf auth login`, or set HF_TOKEN to a valid one, and {again}",
    403: "This token may not write there. Use one with write access (https://huggingface.co/settings/tokens), or a "
    "repository of your own, and {again}",
    404: "The repository, branch or namespace does not exist, or this token may not see it. Check its spelling and "
    "the owner of the token, and {again}",
    409: "Something else is changing this repository, or a file has the same name. Wait a minute and {again}",
    412: "Somebody else committed to it in the meantime. Look at the new commits. Then `recipes/push.py --overwrite` "
    "pushes on top of them, and --create_pr opens a pull request",
    413: "It is too large for the Hub. Remove large files (`--dry_run` shows all sizes), and {again}",
    429: "The Hub limits the requests of this user. Wait {wait} and {again}",
}
_QUOTA_ADVICE = (
    "The storage of this namespace is full, or not in its plan. Make room (https://huggingface.co/settings/billing) "
    "or use another --repo_id, and {again}"
)
_NO_ANSWER = "The Hub failed or did not answer several times. Wait until it works again and {again}"
_OFFLINE = "HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it and {again}"


class HubError(OSError):
    """Raised when a push fails. The message gives the cause, the state of the repository and the next step.

    Args:
        message (`str`): For the user, without secrets.
        transient (`bool`, *optional*, defaults to `False`): Whether the same command may succeed later.
        status (`int`, *optional*): Status of the Hub's response.
    """

    def __init__(self, message: str, *, transient: bool = False, status: int | None = None) -> None:
        super().__init__(message)
        self.transient, self.status = transient, status


def explain(error: Exception, place: str, token: str | None, state: str) -> HubError:
    """Explain an error of `huggingface_hub`.

    Args:
        error (`Exception`): The error.
        place (`str`): The target of the push.
        token (`str`, *optional*): Is removed from the message.
        state (`str`): What is on the Hub now.

    Example:

        >>> error = OfflineModeIsEnabled("no requests")
        >>> print(explain(error, "user/name", None, "Nothing was sent"))
        user/name: HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it and ... Nothing was sent.
    """
    if isinstance(error, HubError):
        return error
    status, said = status_of(error), hide_token(_words_of(error), token)
    if isinstance(error, OfflineModeIsEnabled):
        advice, said = _OFFLINE, ""
    elif status == 402 or (status != 429 and _QUOTA.search(said)):
        advice = _QUOTA_ADVICE
    elif is_transient(error) and status != 429:
        advice = _NO_ANSWER
    elif isinstance(error, PermissionError) and status is None:
        advice = _ADVICE[403]
    else:
        advice = _ADVICE.get(status or 0, "The push failed. Correct the cause below and {again}")
    wait = f"{max(1, round((read_retry_after_s(error) or 60) / 60))} minute(s)"
    facts = ": ".join(filter(None, [str(status or ""), said]))
    message = f"{place}: {advice.format(again='give the same command again', wait=wait)}. {state}."
    return HubError(message + (f" [{facts}]" if facts else ""), transient=is_transient(error), status=status)


def _words_of(error: Exception) -> str:
    """Return the words of the server, or of the error, in one line."""
    failed = error if isinstance(error, ValueError) else find_failed_request(error) or error  # the client's own words
    said = getattr(failed, "server_message", None) or str(failed) or type(failed).__name__
    if not isinstance(failed, HfHubHTTPError) and isinstance(failed, HTTPError):
        said = f"{type(failed).__name__}: {said}"
    return " ".join(said.split())[:300]


def hide_token(text: str, token: str | None) -> str:
    """Return a text without secrets and without this token."""
    return redact(text.replace(token, "***") if token else text)


def find_failed_request(error: BaseException | None) -> HTTPError | None:
    """Return the failed request behind an error: for large files, `huggingface_hub` wraps it."""
    while error is not None and not isinstance(error, HTTPError):
        error = error.__cause__
    return error


def status_of(error: BaseException) -> int | None:
    """Return the status of the response, or `None` if there was none."""
    response = getattr(find_failed_request(error), "response", None)
    return None if response is None else int(response.status_code)


def is_transient(error: BaseException) -> bool:
    """Return whether an error is temporary."""
    if find_failed_request(error) is None:  # Xet storage has its own errors
        return isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, OfflineModeIsEnabled)
    return status_of(error) in _TRANSIENT


def read_retry_after_s(error: BaseException) -> float | None:
    """Return how long the server asks the client to wait, in seconds."""
    response = getattr(find_failed_request(error), "response", None)
    if response is None:
        return None
    after = response.headers.get("Retry-After", "").strip()
    if after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(response.headers)
    return None if limit is None or limit.remaining else float(limit.reset_in_seconds)


def retry(call: Callable[[], T], what: str) -> T:
    """Call a function until it succeeds, fails for good, or has failed too often.

    Args:
        call (`Callable`): Makes a request that `huggingface_hub` itself makes only once.
        what (`str`): Its name in the event log.

    Raises:
        Exception: The last error.
    """
    for wait_s in WAITS_S:
        try:
            return call()
        except Exception as error:
            if not pause(error, wait_s, what):
                raise
    raise AssertionError("the last try returns or raises")


def pause(error: Exception, wait_s: float | None, what: str) -> bool:
    """Wait before the next try. Return `False` if there should be none."""
    longest = max(wait_s or 0.0, read_retry_after_s(error) or 0.0)
    if wait_s is None or not is_transient(error) or longest > LONGEST_WAIT_S:
        return False
    event("retry", logging.WARNING, what=what, wait_s=longest, problem=_words_of(error))
    time.sleep(longest)
    return True


@contextmanager
def set_up_client(token: str | None) -> Iterator[None]:
    """Give the client a timeout, hide secrets in its log, and show progress bars only on a terminal."""
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
    """Removes the signatures in upload addresses."""

    def __init__(self, token: str | None) -> None:
        super().__init__()
        self._token = token

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = hide_token(record.getMessage(), self._token), ()
        return True
