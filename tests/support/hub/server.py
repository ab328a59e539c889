"""A Hugging Face Hub on this machine, for tests with the real client: its API over HTTP, with faults on demand.

    with HubServer(tmp_path / "hub", tokens={"hf_mine": "user"}) as hub:
        api(hub, "hf_mine").create_repo("user/name", private=True)             # in this process
        subprocess.run(command, env=environment(hub, tmp_path / "home", "hf_mine"))  # in another
        hub.fail("commit", status=503, times=2)
        hub.repo("user/name").files(), hub.repo("user/name").commits(), hub.count("commit")

What it answers is the table of `hub_api.py`, what a card may say `hub_cards.py`, what is on disk `hub_store.py`:
another server on the same folder shows it again. Things to know:

* The first commit of a repository is the Hub's: `.gitattributes`, and the card of a Space.
* A token may write where its user is the owner, and open pull requests where it may read. Repositories that it may not
  read do not exist for it. There are no organizations.
* There is no Xet storage. `huggingface_hub` 2.4 does not ask: it takes Xet wherever `hf_xet` is installed, unless
  `HF_HUB_DISABLE_XET` is set, which `environment` and the server do. Otherwise it gets a 404 for its Xet token.
* While a server is open, the client in this process is online, and the server is its Hub and its cache an empty one.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from huggingface_hub import HfApi, constants

from tests.support.hub.api import OPERATIONS, Answer, Call, HubApi, Route, find_route, refused
from tests.support.hub.store import Refusal, Repository

BODY_HEAD_BYTES = 1024
STATUSES = (401, 403, 404, 409, 412, 413, 416, 429, 500, 502, 503, 504)
Action = Literal["hang", "drop", "drop_after", "truncate", "quota"]


class Request(NamedTuple):
    """What the server remembers of a request."""

    method: str
    path: str  # with the query
    headers: dict[str, str]
    body: bytes  # its first KiB


@dataclass
class Fault:
    """What goes wrong with the next requests of an operation; see `HubServer.fail`."""

    operation: str
    refusal: Refusal | None
    action: Action | None
    times: int
    after: int


class HubServer(HubApi):
    """The local Hub; use it with `with`.

    Args:
        root (`Path`): Its folder, made if need be.
        tokens (`dict`, *optional*): The user of each token.
        port (`int`, *optional*, defaults to 0): 0 takes a free one.

    Attributes:
        url (`str`): The endpoint, once it is open.
        requests (`list[Request]`): All that came, first to last.
    """

    def __init__(self, root: Path, tokens: dict[str, str] | None = None, port: int = 0) -> None:
        super().__init__(root, tokens or {})
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._port, self._lock = port, threading.Lock()
        self._operations: list[str] = []
        self._faults: list[Fault] = []
        self._stack = ExitStack()

    def __enter__(self) -> HubServer:
        self.closing.clear()
        self._server = _Server(("127.0.0.1", self._port), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="hub")
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._server.stop)
        cache = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._stack.enter_context(mock.patch.multiple(constants, **_client_settings(self.url, cache)))
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._stack.close()

    def repo(self, repo_id: str, repo_type: str = "model") -> Repository:
        """A repository, to look at what is in it.

        Raises:
            KeyError: When there is none.
        """
        repository = self.repository(f"{repo_type}s", repo_id)
        if not repository.exists:
            raise KeyError(f"There is no {repo_type} {repo_id}")
        return repository

    def count(self, operation: str) -> int:
        """How many requests of an operation came, failed ones too."""
        return self._operations.count(_operation(operation))

    def fail(
        self,
        operation: str,
        *,
        status: int | None = None,
        times: int = 1,
        after: int = 0,
        headers: dict[str, str] | None = None,
        message: str | None = None,
        error_code: str | None = None,
        action: Action | None = None,
    ) -> None:
        """Let the next requests of an operation go wrong.

        Args:
            operation (`str`): Name of a route.
            status (`int`, *optional*): Answer with this one of `STATUSES` and do nothing.
            times (`int`, *optional*, defaults to 1): How many requests.
            after (`int`, *optional*, defaults to 0): How many go well before.
            headers (`dict`, *optional*): Of the answer; 429 has `Retry-After: 0` if no other.
            message (`str`, *optional*): Of the answer.
            error_code (`str`, *optional*): `X-Error-Code` of the answer.
            action (`str`, *optional*): In the place of a status. `"hang"`: no answer until the server is closed;
                `"drop"`: do the work, close in the middle of the answer; `"drop_after"`: do the work, close without
                any; `"truncate"`: read half of the body, do nothing, close; `"quota"`: the storage is full.
        """
        if (status is None) == (action is None):
            raise ValueError(f"Give a status or an action, not {status} and {action}")
        if status is not None and status not in STATUSES:
            raise ValueError(f"Status {status} is none of {STATUSES}")
        if action == "quota":
            status = 403
            message = message or "Private repository storage limit reached, please upgrade your plan"
        refusal = None
        if status is not None:
            headers = {**({"Retry-After": "0"} if status == 429 else {}), **(headers or {})}
            refusal = Refusal(status, message or f"Injected fault {status}", error_code, headers)
        with self._lock:
            self._faults.append(Fault(_operation(operation), refusal, action, times, after))

    def heal(self) -> None:
        """Forget the faults that are still to come."""
        with self._lock:
            self._faults.clear()

    # what the connections call

    def note(self, request: Request, operation: str) -> None:
        with self._lock:
            self.requests.append(request)
            self._operations.append(operation)

    def fault(self, operation: str) -> Fault | None:
        """The fault of this request, which is used up by it."""
        with self._lock:
            for fault in self._faults:
                if fault.operation == operation and fault.times > 0:
                    if fault.after > 0:
                        fault.after -= 1
                    else:
                        fault.times -= 1
                        return fault
        return None


def environment(hub: HubServer, home: Path, token: str | None = None) -> dict[str, str]:
    """The environment of another process whose Hub is this one and whose caches are in `home`."""
    ours = ("HF_", "HUGGING", "TRANSFORMERS_", "SENTENCE_TRANSFORMERS_", "XDG_CACHE")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(ours) or name == "HF_HYBRID_CACHE"
    }
    switches = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # `evaluate` counts its downloads at an address of its own
    switches["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
    switches["NO_PROXY"] = switches["no_proxy"] = "127.0.0.1,localhost"
    identity = {"HF_TOKEN": token} if token else {}
    return {**kept, **switches, **identity, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}


def api(hub: HubServer, token: str | None = None) -> HfApi:
    """The client in this process; without a token it is nobody, anyone who is logged in on this machine."""
    return HfApi(endpoint=hub.url, token=token or False)


# connections


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` waits for them
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], hub: HubServer) -> None:
        super().__init__(address, _Handler)
        self.hub, self._open = hub, set[socket.socket]()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; one of ours has to be seen."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        for connection in list(self._open):
            with suppress(OSError):  # it was closed meanwhile
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed: `HubServer.requests` has it all."""

    def do_GET(self) -> None:
        hub, parts = self.server.hub, urlsplit(self.path)
        route, names = find_route(self.command, parts.path)
        operation = route.operation if route else "unknown"
        fault = hub.fault(operation)
        action = fault.action if fault else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._body(half=action == "truncate")
        hub.note(Request(self.command, self.path, headers, body[:BODY_HEAD_BYTES]), operation)
        if action == "hang":
            hub.closing.wait()
        if action in ("hang", "truncate"):
            return self._hang_up()
        user = hub.user(headers.get("authorization"))
        call = Call(self.command, parts.path, parse_qs(parts.query), headers, body, user, names)
        answer = refused(fault.refusal) if fault and fault.refusal else self._work(route, call)
        if action == "drop_after":
            return self._hang_up()
        self._send(answer, broken=action == "drop")

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _body(self, half: bool) -> bytes:
        assert "Transfer-Encoding" not in self.headers, "the client tells the length of all that it sends"
        length = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(length // 2 if half else length)

    def _work(self, route: Route | None, call: Call) -> Answer:
        try:
            return self.server.hub.answer(route, call)
        except Exception as error:
            self.server.handle_error(self.request, self.client_address)
            return refused(Refusal(500, f"The test server is broken: {error!r}"))

    def _send(self, answer: Answer, broken: bool) -> None:
        """Send an answer; a broken one ends in the middle, and an empty one then lacks something all the same."""
        body, media_type = _encoded(answer.body)
        length = max(len(body), 2) if broken else len(body)
        self.send_response(answer.status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(length), **answer.headers}.items():
            self.send_header(name, value)
        if self.command == "HEAD":
            return self._hang_up() if broken else self.end_headers()
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if broken else body)
        if broken:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with suppress(OSError):  # the client may have done so first
            self.connection.shutdown(socket.SHUT_RDWR)


def _encoded(body: Any) -> tuple[bytes, str]:
    """Bytes and media type; the dates of a card's metadata become texts."""
    if isinstance(body, bytes):
        return body, "application/octet-stream"
    return b"" if body is None else json.dumps(body, default=str).encode(), "application/json"


def _operation(name: str) -> str:
    if name not in OPERATIONS:
        raise ValueError(f"There is no operation {name!r}; those of the table are {', '.join(OPERATIONS)}")
    return name


def _client_settings(url: str, cache: str) -> dict[str, Any]:
    """What the client has read from the environment when it was imported, for this process."""
    switches = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_HUB_CACHE": cache}
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    return {**switches, "ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": template}
