"""What the local Hub of the tests answers: the table `ROUTES`, and the handler of each line.

A handler gets a `Call` and gives back an `Answer`, or raises a `Refusal`. It knows nothing of connections and faults,
which are the part of `hub_server.py`, nor of files, which are the part of `hub_store.py`; how a repository looks in
answers is in `hub_views.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode

from tests.support.hub.store import KINDS, Refusal, Repository, below
from tests.support.hub.views import commit_line, etag, listing, repository_info, upload_plan
from tests.support.hub_cards import problems

MISSING = ("Invalid username or password.", "Repository not found")  # to nobody, to a user


@dataclass
class Call:
    """A request on its way to a handler."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    user: str | None  # of its token; `""` when nobody has that token
    names: dict[str, str] = field(default_factory=dict)  # what the pattern of the route found in the path

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


@dataclass
class Answer:
    """What a handler gives back; a `body` that is no bytes is sent as JSON."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class HubApi:
    """The answers of the Hub.

    Args:
        root (`Path`): Its folder, made if need be.
        tokens (`dict`): The user of each token.

    Attributes:
        url (`str`): The endpoint, for the addresses in answers.
        page_size (`int`): Entries of a listing in one answer.
        part_bytes (`int`): Uploads larger than this are asked for in parts of this size.
    """

    def __init__(self, root: Path, tokens: dict[str, str]) -> None:
        self.root, self.tokens = Path(root), dict(tokens)  # a test may add to its own
        self.url = ""
        self.page_size, self.part_bytes = 1000, 5 * 2**30

    def answer(self, route: Route | None, call: Call) -> Answer:
        """Do what a request asks for."""
        try:
            if call.user == "":
                raise Refusal(401, "Invalid credentials in Authorization header")
            if route is None:
                raise Refusal(404, f"There is no such route: {call.method} {call.path}")
            return route.handler(self, call)
        except Refusal as refusal:
            return refused(refusal)

    def user(self, authorization: str | None) -> str | None:
        """The user of a token, `""` for an unknown one, and `None` without."""
        return self.tokens.get(authorization.removeprefix("Bearer "), "") if authorization else None

    # who may see and do what

    def repository(self, kind: str, repo_id: str) -> Repository:
        return Repository(self.root / kind / repo_id, repo_id, kind)

    def readable(self, call: Call) -> Repository:
        """The repository that a path names; one that this user may not know of does not exist."""
        repository = self.repository(call.names.get("kind") or KINDS[0], call.names["id"])
        if not repository.exists or (repository.settings["private"] and call.user != repository.owner):
            raise Refusal(404 if call.user else 401, MISSING[bool(call.user)], "RepoNotFound")
        return repository

    def ungated(self, call: Call) -> Repository:
        """The same, when its files may be read too."""
        repository = self.readable(call)
        if repository.settings["gated"] and call.user != repository.owner:
            message = f"Access to {repository.repo_id} is restricted. You must have access to it and be authenticated"
            raise Refusal(403 if call.user else 401, message, "GatedRepo")
        return repository

    def writable(self, call: Call, as_pull_request: bool = False) -> Repository:
        """The same, when it may be changed, or a change be proposed."""
        repository = self.readable(call)
        if call.user is None:
            raise Refusal(401, MISSING[0])
        if call.user != repository.owner and not as_pull_request:
            raise Refusal(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repository

    # accounts and repositories

    def whoami(self, call: Call) -> Answer:
        if call.user is None:
            raise Refusal(401, MISSING[0])
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return Answer({"type": "user", "name": call.user, "fullname": call.user, "orgs": [], "auth": token})

    def validate_yaml(self, call: Call) -> Answer:
        errors, warnings = problems(call.json["content"], call.json["repoType"])
        found = {"errors": errors, "warnings": warnings}
        messages = {name: [{"message": text} for text in texts] for name, texts in found.items()}
        return Answer(messages, 400 if errors else 200)

    def create_repo(self, call: Call) -> Answer:
        repository = self._named(call)
        if repository.exists:
            return Answer({"error": f"You already created {repository.repo_id}", **self._id(repository)}, 409)
        wanted = call.json
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        sdk = {"sdk": wanted["sdk"]} if repository.kind == "spaces" else {}
        Repository.create(repository.folder, repository.repo_id, repository.kind, private=private, **sdk)
        return Answer(self._id(repository))

    def delete_repo(self, call: Call) -> Answer:
        repository = self._named(call)
        if not repository.exists:
            raise Refusal(404, MISSING[1], "RepoNotFound")
        repository.delete()
        return Answer()

    def _named(self, call: Call) -> Repository:
        """The repository that a body names, when it is in the user's own namespace."""
        if call.user is None:
            raise Refusal(401, MISSING[0])
        owner, kind = call.json.get("organization") or call.user, f"{call.json.get('type') or 'model'}s"
        if owner != call.user:
            raise Refusal(403, f'You don\'t have the rights to create a repository under the namespace "{owner}"')
        return self.repository(kind, f"{owner}/{call.json['name']}")

    def _id(self, repository: Repository) -> dict[str, str]:
        return {"id": repository.repo_id, "name": repository.repo_id, "url": self.page(repository)}

    def page(self, repository: Repository) -> str:
        """Address of the page that people look at."""
        prefix = "" if repository.kind == KINDS[0] else f"{repository.kind}/"
        return f"{self.url}/{prefix}{repository.repo_id}"

    def settings(self, call: Call) -> Answer:
        wanted = call.json
        if "visibility" in wanted:
            wanted["private"] = wanted["visibility"] == "private"
        self.writable(call).change(**{name: wanted[name] for name in ("private", "gated") if name in wanted})
        return Answer({})

    def auth_check(self, call: Call) -> Answer:
        (self.writable if call.names["write"] else self.ungated)(call)
        return Answer({})

    def info(self, call: Call) -> Answer:
        repository = self.readable(call)
        oid = repository.oid(call.names["revision"] or "main")
        wanted = call.query.get("expand", []) + call.query.get("expand[]", [])
        return Answer(repository_info(repository, oid, details=call.flag("blobs"), expand=wanted))

    # what is in a repository

    def tree(self, call: Call) -> Answer:
        repository = self.readable(call)
        oid, folder = repository.oid(call.names["revision"]), call.names["path"].strip("/")
        files = below(repository.tree(oid), folder)
        if folder and not files:
            raise Refusal(404, f"{folder} does not exist on {call.names['revision']}", "EntryNotFound")
        found = listing(files)
        if not call.flag("recursive"):
            found = [entry for entry in found if entry["path"].rpartition("/")[0] == folder]
        return self._paginated(call, [self._detailed(repository, oid, call.flag("expand"), entry) for entry in found])

    def paths_info(self, call: Call) -> Answer:
        repository, form = self.readable(call), parse_qs(call.body.decode())
        oid, expand = repository.oid(call.names["revision"]), form.get("expand", [""])[0].lower() == "true"
        paths = [path.strip("/") for path in form.get("paths", [])]
        found = [entry for entry in listing(repository.tree(oid)) if entry["path"] in paths]
        return Answer([self._detailed(repository, oid, expand, entry) for entry in found])

    def _detailed(self, repository: Repository, oid: str, expand: bool, entry: dict[str, Any]) -> dict[str, Any]:
        if not expand:
            return entry
        return {**entry, "lastCommit": commit_line(repository.last_change(entry["path"], oid))}

    def _paginated(self, call: Call, entries: list[Any]) -> Answer:
        """A part of a listing, with the address of the next."""
        start = int(call.query.get("cursor", ["0"])[0])
        limit = min(self.page_size, int(call.query.get("limit", [str(self.page_size)])[0]))
        if start + limit >= len(entries):
            return Answer(entries[start:])
        query = urlencode({**call.query, "cursor": [start + limit]}, doseq=True)
        link = f'<{self.url}{call.path}?{query}>; rel="next"'
        return Answer(entries[start : start + limit], headers={"Link": link})

    def commits(self, call: Call) -> Answer:
        found = [
            {**commit_line(commit), "message": commit.message, "authors": [{"user": commit.author}]}
            for commit in self.readable(call).commits(call.names["revision"])
        ]
        return self._paginated(call, found)

    def refs(self, call: Call) -> Answer:
        groups: dict[str, list[dict[str, str]]] = {"heads": [], "tags": [], "convert": [], "pr": []}
        for ref, oid in sorted(self.readable(call).refs.items()):
            _, group, name = ref.split("/", 2)
            groups[group].append({"name": name, "ref": ref, "targetCommit": oid})
        found = {"branches": groups["heads"], "tags": groups["tags"], "converts": groups["convert"]}
        return Answer({**found, "pullRequests": groups["pr"]} if call.flag("include_prs") else found)

    def create_branch(self, call: Call) -> Answer:
        self.writable(call).create_ref(f"refs/heads/{call.names['branch']}", call.json.get("startingPoint") or "main")
        return Answer({})

    def create_tag(self, call: Call) -> Answer:
        self.writable(call).create_ref(f"refs/tags/{call.json['tag']}", call.names["revision"])
        return Answer({})

    def resolve(self, call: Call) -> Answer:
        """A file, or a range of it; of a large one with the headers that name it."""
        repository = self.ungated(call)
        oid = repository.oid(call.names["revision"])
        entry = repository.tree(oid).get(call.names["path"])
        commit = {"X-Repo-Commit": oid}
        if entry is None:
            raise Refusal(404, f"{call.names['path']} does not exist", "EntryNotFound", commit)
        headers = {**commit, "ETag": f'"{etag(entry)}"', "Accept-Ranges": "bytes"}
        if entry["lfs"]:
            headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-ETag": f'"{entry["sha256"]}"'}
        return _ranged(repository.content(entry), call.headers.get("range"), headers)

    # uploads and commits

    def preupload(self, call: Call) -> Answer:
        repository = self.writable(call, call.flag("create_pr"))
        revision = call.names["revision"]
        present = repository.tree(repository.branch(revision))
        return Answer({"files": [upload_plan(repository, revision, present, file) for file in call.json["files"]]})

    def lfs_batch(self, call: Call) -> Answer:
        # the client names no branch when it is going to propose
        repository = self.writable(call, as_pull_request="ref" not in call.json)
        in_parts = "multipart" in call.json["transfers"]
        objects = [self._upload_actions(repository, wanted, in_parts) for wanted in call.json["objects"]]
        return Answer({"transfer": "multipart" if in_parts else "basic", "objects": objects})

    def _upload_actions(self, repository: Repository, wanted: dict[str, Any], in_parts: bool) -> dict[str, Any]:
        size, known = wanted["size"], {"oid": wanted["oid"], "size": wanted["size"]}
        if repository.has(wanted["oid"], size):
            return known
        href = f"{self.url}/lfs/{repository.kind}/{repository.repo_id}/{wanted['oid']}"
        upload: dict[str, Any] = {"href": href}
        if in_parts and size > self.part_bytes:
            parts = {str(number): f"{href}/{number}" for number in range(1, ceil(size / self.part_bytes) + 1)}
            upload = {"href": f"{href}/complete", "header": {"chunk_size": str(self.part_bytes), **parts}}
        return {**known, "authenticated": True, "actions": {"upload": upload, "verify": {"href": f"{href}/verify"}}}

    # The address of an upload is its permission, as on the Hub: these come without a token.

    def lfs_upload(self, call: Call) -> Answer:
        self._uploaded_to(call).upload(call.names["sha256"], call.body)
        return Answer()

    def lfs_part(self, call: Call) -> Answer:
        etag = self._uploaded_to(call).upload_part(call.names["sha256"], int(call.names["number"]), call.body)
        return Answer(headers={"ETag": f'"{etag}"'})

    def lfs_complete(self, call: Call) -> Answer:
        etags = {part["partNumber"]: part["etag"] for part in call.json["parts"]}
        self._uploaded_to(call).join_parts(call.names["sha256"], etags)
        return Answer({})

    def lfs_verify(self, call: Call) -> Answer:
        if not self._uploaded_to(call).has(call.names["sha256"], call.json["size"]):
            raise Refusal(404, "There is no such object of this size")
        return Answer({})

    def _uploaded_to(self, call: Call) -> Repository:
        repository = self.repository(call.names["kind"], call.names["id"])
        if not repository.exists:
            raise Refusal(404, MISSING[1], "RepoNotFound")
        return repository

    def commit(self, call: Call) -> Answer:
        proposed = call.flag("create_pr")
        repository = self.writable(call, proposed)
        header, *changes = [json.loads(line) for line in call.body.splitlines() if line]
        asked = header["value"]
        oid, ref = repository.commit(
            changes,
            call.names["revision"],
            author=str(call.user),
            title=asked["summary"],
            message=asked.get("description", ""),
            parent=asked.get("parentCommit"),
            as_pull_request=proposed,
        )
        page = self.page(repository)
        found = {"success": True, "commitOid": oid, "commitUrl": f"{page}/commit/{oid}", "hookOutput": ""}
        proposal = {"pullRequestUrl": f"{page}/discussions/{ref.rsplit('/', 1)[1]}"} if proposed else {}
        return Answer({**found, **proposal})


def refused(refusal: Refusal) -> Answer:
    """An error as the client reads it."""
    code = {"X-Error-Code": refusal.code} if refusal.code else {}
    headers = {"X-Error-Message": refusal.message.encode("ascii", "replace").decode(), **code, **refusal.headers}
    return Answer({"error": refusal.message}, refusal.status, headers)


def _ranged(content: bytes, wanted: str | None, headers: dict[str, str]) -> Answer:
    """The bytes that a `Range` header asks for: `bytes=3-7`, `bytes=3-` or `bytes=-5`."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if found is None or found[0] == "bytes=-":
        return Answer(content, headers=headers)
    first, last = found.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    stop = min(len(content), int(last) + 1) if first and last else len(content)
    if start >= stop:
        raise Refusal(416, "Range Not Satisfiable", None, {"Content-Range": f"bytes */{len(content)}"})
    place = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
    return Answer(content[start:stop], 206, {**headers, **place})


class Route(NamedTuple):
    """A line of the table: the name that faults and counts go by, what requests it is for, and who answers them."""

    operation: str
    methods: str
    pattern: re.Pattern[str]
    handler: Callable[[HubApi, Call], Answer]


def _route(operation: str, methods: str, pattern: str, handler: Callable[[HubApi, Call], Answer]) -> Route:
    """A line with its pattern, in which words in capitals stand for what many patterns have."""
    kinds, name = f"(?P<kind>{'|'.join(KINDS)})", r"(?P<id>[\w.-]+/[\w.-]+?)"
    words = {
        "REPO": f"/api/{kinds}/{name}",
        "WEB": f"/(?:{kinds}/)?{name}",
        "LFS": f"/lfs/{kinds}/{name}/(?P<sha256>[0-9a-f]{{64}})",
        "REVISION": "(?P<revision>refs(?:/|%2[Ff])[a-z]+(?:/|%2[Ff])[^/]+|[^/]+)",
    }
    for word, meaning in words.items():
        pattern = pattern.replace(word, meaning)
    return Route(operation, methods, re.compile(pattern), handler)


ROUTES = [
    _route("whoami", "GET", "/api/whoami-v2", HubApi.whoami),
    _route("validate_yaml", "POST", "/api/validate-yaml", HubApi.validate_yaml),
    _route("create_repo", "POST", "/api/repos/create", HubApi.create_repo),
    _route("delete_repo", "DELETE", "/api/repos/delete", HubApi.delete_repo),
    _route("info", "GET", "REPO(?:/revision/REVISION)?", HubApi.info),
    _route("settings", "PUT", "REPO/settings", HubApi.settings),
    _route("auth_check", "GET", "REPO/auth-check(?P<write>/write)?", HubApi.auth_check),
    _route("preupload", "POST", "REPO/preupload/REVISION", HubApi.preupload),
    _route("lfs_batch", "POST", r"WEB\.git/info/lfs/objects/batch", HubApi.lfs_batch),
    _route("lfs_upload", "PUT", "LFS", HubApi.lfs_upload),
    _route("lfs_part", "PUT", r"LFS/(?P<number>\d+)", HubApi.lfs_part),
    _route("lfs_complete", "POST", "LFS/complete", HubApi.lfs_complete),
    _route("lfs_verify", "POST", "LFS/verify", HubApi.lfs_verify),
    _route("commit", "POST", "REPO/commit/REVISION", HubApi.commit),
    _route("commits", "GET", "REPO/commits/REVISION", HubApi.commits),
    _route("refs", "GET", "REPO/refs", HubApi.refs),
    _route("create_branch", "POST", "REPO/branch/(?P<branch>[^/]+)", HubApi.create_branch),
    _route("create_tag", "POST", "REPO/tag/REVISION", HubApi.create_tag),
    _route("tree", "GET", "REPO/tree/REVISION(?P<path>/.*)?", HubApi.tree),
    _route("paths_info", "POST", "REPO/paths-info/REVISION", HubApi.paths_info),
    _route("resolve", "GET HEAD", "WEB/resolve/REVISION/+(?P<path>.+)", HubApi.resolve),
]
OPERATIONS = sorted({route.operation for route in ROUTES} | {"unknown"})


def find_route(method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    """The line of the table that a request is for, and what its pattern found in the path; `""` where nothing is."""
    for route in ROUTES:
        if method in route.methods.split() and (found := route.pattern.fullmatch(path)):
            return route, {name: unquote(value or "") for name, value in found.groupdict().items()}
    return None, {}
