"""Publishing: a run as a model repository, the metric as a Space, the results of a study as a dataset repository.

Each push is one commit (`hub/commit.py`) of the files from `hub/payload.py`, after a search for secrets. A push writes
only `hub.json` to the run folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple, cast

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_hybrid import __version__
from hf_hybrid.records.output_folder import OutputFolder, differences
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import BUNDLE_NAME, CardOptions
from hf_hybrid.utils.files import UNFINISHED, cache_folder, size_words
from hf_hybrid.utils.redaction import publishable

from .bundle import build_records
from .commit import RECORD_NAME, Commit, Pusher, PushOptions, PushRecord, Target
from .errors import UNSENT, HubError
from .payload import (
    METRIC_FOLDER,
    Files,
    build_metric_payload,
    build_record_files,
    build_run_payload,
    build_study_payload,
    is_finished,
    refuse_secrets,
)

_DEFAULTS = PushOptions()
_NOT_LOGGED_IN = (
    "You are not logged in: run `hf auth login` with a token that may write (https://huggingface.co/settings/tokens), "
    f"or set HF_TOKEN. {UNSENT}"
)


class Pushed(NamedTuple):
    """Result of a push.

    Args:
        commit (`Commit`): The commit.
        sizes (`dict[str, int]`): Bytes of each file.
        dry_run (`bool`): Whether nothing was sent.
    """

    commit: Commit
    sizes: dict[str, int]
    dry_run: bool

    def describe(self) -> str:
        """Return the result as lines of text."""
        target, remote, deleted, oid, pr_url, problem = self.commit
        width = max(map(len, self.sizes))
        lines = [f"  {name:<{width}}  {size_words(size):>10}" for name, size in sorted(self.sizes.items())]
        lines += [f"  {name:<{width}}     deleted" for name in deleted]
        total = f"{len(self.sizes)} files, {size_words(sum(self.sizes.values()))}"
        total += f"; {len(deleted)} of earlier pushes are deleted" if deleted else ""
        state = "whose state could not be read"
        if remote is not None:
            visibility = "private" if remote.private else "public"
            state = f"{visibility} as before" if remote.exists else f"{visibility}, new"
        lines.append(f"{total}: {target}, {state}")
        if self.dry_run:
            lines.append(f"A push would fail now. {problem}" if problem else "This was a dry run; nothing was sent.")
        elif remote is not None and oid == remote.head:
            lines.append(f"Nothing has changed since commit {oid}: {target.url}")
        else:
            lines.append(f"Pushed as commit {oid}: {pr_url or target.url}")
        return "\n".join(lines)


def push_run(
    folder: str | os.PathLike[str],
    repo_id: str,
    options: PushOptions = _DEFAULTS,
    *,
    unfinished: bool = False,
    card: CardOptions | None = None,
    keep_card: bool = False,
) -> Pushed:
    """Publish the model of a run, with its card and its records.

    Args:
        folder (`str` or `Path`): The run folder.
        repo_id (`str`): `namespace/name`.
        options (`PushOptions`, *optional*): Such as `PushOptions(dry_run=True)`.
        unfinished (`bool`, *optional*, defaults to `False`): Accept an unfinished run.
        card (`CardOptions`, *optional*): Facts for the card; by default those of the last push.
        keep_card (`bool`, *optional*, defaults to `False`): Publish a card that was edited by hand.

    Raises:
        HubError: When the card was edited by hand, or the push fails. No part of the commit is ever visible.
        ValueError: When a file of the run cannot be read.
    """
    folder = Path(folder)
    pusher = _open_pusher(repo_id, "model", folder / RECORD_NAME, options)
    chosen = choose_card_options(folder, repo_id, card)
    files = build_run_payload(folder, chosen, unfinished, keep_card)
    pushed = _push(pusher, files, f"{folder.resolve().name}, by hf-hybrid {__version__}")
    if not options.dry_run:
        pusher.record.keep_card_options(chosen)
    return pushed


def push_metric(repo_id: str, options: PushOptions = _DEFAULTS) -> Pushed:
    """Publish the metric as a Space, for `evaluate.load(repo_id)`. Arguments and errors are those of [`push_run`]."""
    record = cache_folder() / "pushes" / RECORD_NAME  # the folder of the metric belongs to the installation
    pusher = _open_pusher(repo_id, "space", record, options)
    files = build_metric_payload(repo_id.split("/")[-1])
    return _push(pusher, files, f"{METRIC_FOLDER.name} of hf-hybrid {__version__}")


def push_study(
    folder: str | os.PathLike[str], repo_id: str, options: PushOptions = _DEFAULTS, *, license: str | None = None
) -> Pushed:
    """Publish the results of a study as a dataset repository. Arguments and errors are those of [`push_run`].

    `license` is the license of the results, for the card of a study that has no card.
    """
    folder = Path(folder)
    pusher = _open_pusher(repo_id, "dataset", folder / RECORD_NAME, options)
    files = build_study_payload(folder, repo_id, license)
    return _push(pusher, files, f"Results of {folder.resolve().name}, by hf-hybrid {__version__}")


def push_files(
    folder: str | os.PathLike[str],
    files: Files,
    repo_id: str,
    options: PushOptions = _DEFAULTS,
    *,
    keep: frozenset[str] = frozenset(),
    record: str | os.PathLike[str] | None = None,
) -> Pushed:
    """Publish a run during training.

    Args:
        folder (`str` or `Path`): The run folder, or a copy of its records.
        files (`dict[str, Path or bytes]`): By path in the repository; card and records are added.
        repo_id, options: As for [`push_run`].
        keep (`frozenset[str]`, *optional*): Files that later pushes do not delete.
        record (`str` or `Path`, *optional*): The folder with `hub.json`, if it is another.

    Raises:
        HubError: When the push fails.
    """
    folder = Path(folder)
    pusher = _open_pusher(repo_id, "model", Path(record or folder) / RECORD_NAME, options)
    if not (folder / "run.json").exists():  # a trainer without a recipe
        return _push(pusher, {**files, **build_records(folder)}, "Model", keep)
    chosen = choose_card_options(folder, repo_id, record=pusher.record)
    found = build_record_files(folder, chosen, keep_card=True)  # an edited card must not end a run
    return _push(pusher, {**files, **found}, "Model", keep)


def open_repository(folder: str | os.PathLike[str], repo_id: str, options: PushOptions = _DEFAULTS) -> None:
    """Create the repository and the branch before a run, so that a problem shows now and not after hours.

    Arguments and errors are those of [`push_run`].
    """
    _open_pusher(repo_id, "model", Path(folder) / RECORD_NAME, options).open()


def _open_pusher(repo_id: str, repo_type: str, record: Path, options: PushOptions) -> Pusher:
    if os.environ.get("RANK", "0") != "0":
        raise HubError(f"Only the first process pushes. {UNSENT}")
    check_repo_id(repo_id)
    api = options.api or HfApi(library_name="hf-hybrid", library_version=__version__)
    token = options.token or (api.token if isinstance(api.token, str) else get_token())
    if token is None and not options.dry_run:
        raise HubError(_NOT_LOGGED_IN)
    target = Target(repo_id, repo_type, options.revision or constants.DEFAULT_REVISION, api.endpoint)
    return Pusher(target, PushRecord(record), options, token, api)


def check_repo_id(repo_id: str | None) -> None:
    """Check the name of a repository.

    Raises:
        ValueError: When it is not `namespace/name`.
    """
    try:
        validate_repo_id(repo_id or "")
        if (repo_id or "").count("/") != 1:
            raise HFValidationError("the namespace is missing")
    except HFValidationError as error:
        raise ValueError(f"repo_id must be user/name or organization/name, got {repo_id!r} ({error}).") from None


def _push(pusher: Pusher, files: Files, message: str, keep: frozenset[str] = frozenset()) -> Pushed:
    refuse_secrets(files, pusher.token)
    dry_run = pusher.options.dry_run
    commit = pusher.preview(files) if dry_run else pusher.push(files, message, keep)
    if pusher.token is None:  # only in a dry run, which sees what is public
        commit = commit._replace(problem=_NOT_LOGGED_IN)
    sizes = {name: len(found) if isinstance(found, bytes) else found.stat().st_size for name, found in files.items()}
    return Pushed(commit, sizes, dry_run)


def choose_card_options(
    folder: Path, repo_id: str | None, given: CardOptions | None = None, record: PushRecord | None = None
) -> CardOptions:
    """Return the options of the card: those given, else those of the last push, else those of `card.json`."""
    pushed = (record or PushRecord(folder / RECORD_NAME)).card_options
    options: dict[str, Any] = {**RunFolder(folder).read_card_options(), **pushed}
    options.update({name: value for name, value in (given or {}).items() if value is not None})
    return cast(CardOptions, {**options, "repo_id": repo_id})


def write_card_folder(folder: Path, options: CardOptions, target: Path, keep_card: bool = False) -> list[str]:
    """Write the card of a finished run, its pictures and its records to a folder, without the model and the bundle.

    Args:
        folder (`Path`): The run folder.
        options (`CardOptions`): Facts for the card.
        target (`Path`): A new folder, or one with a card of the same run.
        keep_card (`bool`, *optional*, defaults to `False`): Take a card that was edited by hand.

    Returns:
        `list[str]`: The names of the files.

    Raises:
        HubError: When the run is not finished, or its card was edited by hand.
        ValueError: When the target holds something else, or a needed name belongs to a file of somebody else.
    """
    if not is_finished(folder):
        raise HubError(f"{folder} is not a finished run. {UNSENT}")
    outputs = OutputFolder(target, "card_folder")
    outputs.check_type("model card")
    if outputs.output_type is None and target.is_dir() and any(target.iterdir()):
        raise HubError(f"{target} exists and is not the card of a run. Give the name of a new folder. {UNSENT}")
    if (target / "run.json").is_file():
        then, now = (publishable(RunFolder(path).read_run())["identity"] for path in (target, folder))
        if changed := differences(then, now):
            found = "; ".join(changed[:3])
            raise ValueError(f"{target} holds the card of another run: {found}. Choose another card_folder.")
    built = build_record_files(folder, options, keep_card)
    files = {name: content for name, content in built.items() if not name.startswith(f"{BUNDLE_NAME}/")}
    outputs.begin("model card", *files)
    unfinished = target / f"{UNFINISHED}card"
    for name, content in files.items():
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    outputs.put_folder(unfinished)
    return sorted(files)
