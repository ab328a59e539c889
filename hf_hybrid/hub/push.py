"""Publishing: a run as a model repository, the metric as a Space, the results of a study as a dataset repository.

Each push is one commit (see `hub/commit.py`) of the files that `hub/payload.py` builds, after they were looked through
for secrets. A push writes nothing to the run folder but `hub.json`.
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
    build_record_files,
    build_run_payload,
    is_finished,
    metric_files,
    refuse_secrets,
    size_of,
    study_files,
)

_AS_USUAL = PushOptions()
_NOBODY = (
    "Nobody is logged in: `hf auth login` asks for a token that may write "
    "(https://huggingface.co/settings/tokens), or set HF_TOKEN to one. Nothing was sent."
)


class Pushed(NamedTuple):
    """Result of a push.

    Args:
        commit (`Commit`): Where it went, and what it found there.
        sizes (`dict[str, int]`): Bytes of each file.
        dry_run (`bool`): Whether it was only looked at.
    """

    commit: Commit
    sizes: dict[str, int]
    dry_run: bool

    def describe(self) -> str:
        """In lines, for people."""
        target, remote, deleted, oid, pr_url, problem = self.commit
        width = max(map(len, self.sizes))
        lines = [f"  {name:<{width}}  {size_words(size):>10}" for name, size in sorted(self.sizes.items())]
        lines += [f"  {name:<{width}}     deleted" for name in deleted]
        total = f"{len(self.sizes)} files, {size_words(sum(self.sizes.values()))}"
        if deleted:
            total += f"; {len(deleted)} of earlier pushes are deleted"
        lines.append(f"{total}: {target}, {_state(self.commit)}")
        if self.dry_run:
            lines.append(
                f"It would not go well now. {problem}" if problem else "This was a dry run; nothing was sent."
            )
        elif remote is not None and oid == remote.head:
            lines.append(f"All of it was there already, in commit {oid}: {target.url}")
        else:
            lines.append(f"Pushed as commit {oid}: {pr_url or target.url}")
        return "\n".join(lines)


def _state(commit: Commit) -> str:
    if commit.remote is None:
        return "which could not be looked at"
    visibility = "private" if commit.remote.private else "public"
    return f"{visibility} as before" if commit.remote.exists else f"{visibility}, new"


def push_run(
    folder: str | os.PathLike[str],
    repo_id: str,
    options: PushOptions = _AS_USUAL,
    *,
    unfinished: bool = False,
    card: CardOptions | None = None,
    keep_card: bool = False,
) -> Pushed:
    """Publish the model of a run, with its card and what the card was made from.

    Args:
        folder (`str` or `Path`): The run folder.
        repo_id (`str`): `namespace/name`.
        options (`PushOptions`, *optional*): How; `push_run("runs/mine", "user/name", PushOptions(dry_run=True))`.
        unfinished (`bool`, *optional*, defaults to `False`): Accept an unfinished run.
        card (`CardOptions`, *optional*): What the card says besides; by default as before.
        keep_card (`bool`, *optional*, defaults to `False`): A card that was edited by hand is pushed as it is.

    Raises:
        HubError: When the card was edited by hand, or it did not go well; whatever the reason, a part of the commit
            is never visible.
        ValueError: When a file of the run cannot be read.
    """
    folder = Path(folder)
    pusher = _pusher(repo_id, "model", folder / RECORD_NAME, options)
    chosen = choose_card_options(folder, repo_id, card)
    files = build_run_payload(folder, chosen, unfinished, keep_card)
    pushed = _push(pusher, files, f"{folder.resolve().name}, by hf-hybrid {__version__}")
    if not options.dry_run:
        pusher.record.keep_card_options(chosen)
    return pushed


def push_metric(repo_id: str, options: PushOptions = _AS_USUAL) -> Pushed:
    """Publish the metric as a Space, for `evaluate.load(repo_id)`. Arguments and errors are those of [`push_run`]."""
    record = cache_folder() / "pushes" / RECORD_NAME  # its folder belongs to the installation
    pusher = _pusher(repo_id, "space", record, options)
    return _push(pusher, metric_files(repo_id.split("/")[-1]), f"{METRIC_FOLDER.name} of hf-hybrid {__version__}")


def push_study(
    folder: str | os.PathLike[str], repo_id: str, options: PushOptions = _AS_USUAL, *, license: str | None = None
) -> Pushed:
    """Publish the results of a study as a dataset repository; arguments and errors as for [`push_run`].

    `license` is that of the results; it goes into the card that a study without one gets.
    """
    folder = Path(folder)
    pusher = _pusher(repo_id, "dataset", folder / RECORD_NAME, options)
    message = f"Results of {folder.resolve().name}, by hf-hybrid {__version__}"
    return _push(pusher, study_files(folder, repo_id, license), message)


def push_files(
    folder: str | os.PathLike[str],
    files: Files,
    repo_id: str,
    options: PushOptions = _AS_USUAL,
    *,
    stay: frozenset[str] = frozenset(),
    record: str | os.PathLike[str] | None = None,
) -> Pushed:
    """Publish a state of a run in the midst of it.

    Args:
        folder (`str` or `Path`): The run folder, or a copy of its records.
        files (`dict[str, Path or bytes]`): By their path in the repository; its card and records are added.
        repo_id, options: As for [`push_run`].
        stay (`frozenset[str]`, *optional*): Files that later pushes leave there.
        record (`str` or `Path`, *optional*): The run folder, where that is another: it has `hub.json`.

    Raises:
        HubError: When it did not go well.
    """
    folder, noted = Path(folder), Path(record or folder) / RECORD_NAME
    pusher = _pusher(repo_id, "model", noted, options)
    if not (folder / "run.json").exists():  # of a trainer alone
        return _push(pusher, {**files, **build_records(folder)}, "Model", stay)
    chosen = choose_card_options(folder, repo_id, record=pusher.record)
    found = build_record_files(folder, chosen, keep_card=True)  # a card is not worth the end of a run
    return _push(pusher, {**files, **found}, "Model", stay)


def open_repository(folder: str | os.PathLike[str], repo_id: str, options: PushOptions = _AS_USUAL) -> None:
    """Make the repository and the branch of a run that is about to begin; arguments and errors as for [`push_run`].

    What stands in the way of a push is known now, not after hours.
    """
    _pusher(repo_id, "model", Path(folder) / RECORD_NAME, options).open()


def _pusher(repo_id: str, repo_type: str, record: Path, options: PushOptions) -> Pusher:
    if os.environ.get("RANK", "0") != "0":
        raise HubError("Only the first process pushes. Nothing was sent.")
    check_repo_id(repo_id)
    api = options.api or HfApi(library_name="hf-hybrid", library_version=__version__)
    token = options.token or (api.token if isinstance(api.token, str) else get_token())
    if token is None and not options.dry_run:
        raise HubError(_NOBODY)
    target = Target(repo_id, repo_type, options.revision or constants.DEFAULT_REVISION, api.endpoint)
    return Pusher(target, PushRecord(record), options, token, api)


def check_repo_id(repo_id: str | None) -> None:
    """Refuse what is no name of a repository with its namespace.

    Raises:
        ValueError: It says what is allowed.
    """
    try:
        validate_repo_id(repo_id or "")
        if (repo_id or "").count("/") != 1:
            raise HFValidationError("the namespace is missing")
    except HFValidationError as error:
        raise ValueError(
            f"repo_id is {repo_id!r}; give the name of a repository as user/name or organization/name ({error})."
        ) from None


def _push(pusher: Pusher, files: Files, message: str, stay: frozenset[str] = frozenset()) -> Pushed:
    refuse_secrets(files, pusher.token)
    dry_run = pusher.options.dry_run
    commit = pusher.try_out(files) if dry_run else pusher.push(files, message, stay)
    if pusher.token is None:  # only a dry run gets here, and sees what everybody may see
        commit = commit._replace(problem=_NOBODY)
    return Pushed(commit, {name: size_of(content) for name, content in files.items()}, dry_run)


def choose_card_options(
    folder: Path, repo_id: str | None, given: CardOptions | None = None, record: PushRecord | None = None
) -> CardOptions:
    """Return the options of the card: those given, else those of the last push, else those of `card.json`."""
    pushed = (record or PushRecord(folder / RECORD_NAME)).card_options
    options: dict[str, Any] = {**RunFolder(folder).read_card_options(), **pushed}
    options.update({name: value for name, value in (given or {}).items() if value is not None})
    return cast(CardOptions, {**options, "repo_id": repo_id})


def write_card_folder(folder: Path, options: CardOptions, target: Path, keep_card: bool = False) -> list[str]:
    """Write the card of a finished run, its pictures and the records that it is made from to a folder of their own.

    Args:
        folder (`Path`): The run folder.
        options (`CardOptions`): What the card says besides.
        target (`Path`): A new folder, or one that has a card of the same run.
        keep_card (`bool`, *optional*, defaults to `False`): A card that was edited by hand is taken as it is.

    Returns:
        `list[str]`: The names of the files; neither the model nor the bundle is among them.

    Raises:
        HubError: When there is no finished run, or its card was edited by hand.
        ValueError: When the target holds something else, another run, or a file of a name that is to be written and
            that this command did not write.
    """
    if not is_finished(folder):
        raise HubError(f"{folder} holds no run that has finished. {UNSENT}")
    outputs = OutputFolder(target, "card_folder")
    outputs.check_type("model card")
    if outputs.output_type is None and target.is_dir() and any(target.iterdir()):
        raise HubError(f"{target} is there and holds no card of a run. Give the name of a new folder. {UNSENT}")
    _refuse_another_run(folder, target)
    found = build_record_files(folder, options, keep_card)
    files = {name: content for name, content in found.items() if not name.startswith(f"{BUNDLE_NAME}/")}
    outputs.begin("model card", *files)
    unfinished = target / f"{UNFINISHED}card"
    for name, content in files.items():
        path = unfinished / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    outputs.put_folder(unfinished)
    return sorted(files)


def _refuse_another_run(folder: Path, target: Path) -> None:
    if not (target / "run.json").is_file():
        return
    then, now = (publishable(RunFolder(path).read_run()).get("identity") or {} for path in (target, folder))
    if changed := differences(then, now):
        raise ValueError(
            f"{target} holds the card of another run: {'; '.join(changed[:3])}. Choose another card_folder."
        )
