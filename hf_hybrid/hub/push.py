"""Publishing: a run as a model repository, the metric as a Space, the results of a study as a dataset repository.

Each push is one commit (see `hub/commit.py`) of the files that `hub/payload.py` names, after they were looked through
for secrets. A run's card is rebuilt for its repository; one that somebody has written in by hand is refused unless
it is to be kept.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_hybrid import __version__
from hf_hybrid.records.events import event
from hf_hybrid.records.output_folder import OutputFolder, differences
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import BUNDLE_NAME, EVALUATIONS_NAME, MODEL_NAME, OUTPUTS_NAME, CardOptions
from hf_hybrid.utils.files import UNFINISHED, cache_folder, files_in, size_words
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.text import first_difference

from .bundle import LOCK_NAME, belongs, write_bundle
from .commit import RECORD_NAME, Commit, Pusher, PushOptions, PushRecord, Target
from .errors import HubError
from .model_card import CARD_NAME, EVAL_RESULTS_NAME, PICTURE_NAMES, PICTURES_NAME, card_text, pictures_in, write_card
from .payload import (
    METRIC_FOLDER,
    UNSENT,
    Files,
    build_published_files,
    is_finished,
    metric_files,
    model_files,
    refuse_secrets,
    run_files,
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
    build_published_files(folder, unfinished)  # what is refused is refused before a card is written
    told = card_options(folder, repo_id, card)
    message = f"{folder.resolve().name}, by hf-hybrid {__version__}"
    renews = can_renew(folder)
    if not renews and not options.dry_run:
        problem = f"card and bundle are renewed for the push, but not in {folder}: it does not list them as its own"
        event("warning", logging.WARNING, problem=problem)
    if options.dry_run or not renews:
        with to_be_published(folder, told, keep_card) as copy:
            return _push(pusher, model_files(folder, unfinished) | run_files(copy), message)
    renew_card(folder, told, keep_card)
    renew_bundle(folder)
    return _push(pusher, build_published_files(folder, unfinished), message)


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
    if (folder / "run.json").exists():
        renew_card(folder, card_options(folder, repo_id, None), keep=True)  # no card is worth the end of a run
    return _push(pusher, {**files, **run_files(folder)}, "Model", stay)


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


def card_options(folder: Path, repo_id: str | None, given: CardOptions | None) -> CardOptions:
    """Return the options of the card: those given, else the stored ones; and its repository."""
    options: dict[str, Any] = {**RunFolder(folder).read_card_options()}
    options.update({name: value for name, value in (given or {}).items() if value is not None})
    return cast(CardOptions, {**options, "repo_id": repo_id})


def renew_card(folder: Path, options: CardOptions, keep: bool) -> None:
    """Write the card for these options; one that somebody has written in stays as it is, and that is told.

    Args:
        folder (`Path`): The run folder.
        options (`CardOptions`): What the card says besides.
        keep (`bool`): Such a card is to be published as it is.

    Raises:
        HubError: When there is such a card and it is not to be kept.
    """
    if not (folder / CARD_NAME).exists():
        write_card(folder, options)
        return
    found, text = (folder / CARD_NAME).read_bytes(), card_text(folder)
    if found == text.encode() or _is_of_bundle(folder, found):
        if found != text.encode() or not _is_up_to_date(folder, text, options):
            write_card(folder, options)
        return
    line, told = first_difference(text, found.decode("utf-8", errors="replace"))
    told = (
        f"{CARD_NAME}, line {line} of {folder.resolve().name} is not what the files of the run give ({told}): it was "
        "edited by hand, or written by another release of hf-hybrid or before the run resumed. License, repository "
        "name and figures in it are not updated"
    )
    if not keep:
        raise HubError(
            f"{told}. Give --keep_card to push it as it is, or delete {CARD_NAME}, which is then written again. "
            f"{UNSENT}"
        )
    event("warning", logging.WARNING, problem=f"{told}; it is pushed as it is")


def renew_bundle(folder: Path) -> None:
    """Rebuild the bundle, which contains the card. A run without a bundle, or an unfinished one, gets none.

    Raises:
        HubError: When it cannot be made; the former one stays.
    """
    bundle = folder / BUNDLE_NAME
    if not bundle.is_dir() or not is_finished(folder):
        return
    try:
        write_bundle(folder)
    except (OSError, ValueError) as error:
        raise HubError(
            f"The bundle of {folder} cannot be rebuilt: {error} Mend that, or delete {bundle} to push without it. "
            f"{UNSENT}"
        ) from None


@contextmanager
def to_be_published(folder: Path, options: CardOptions, keep_card: bool) -> Iterator[Path]:
    """A folder with the records of a run, and with the card and the bundle that `renew_*` would leave or refuse."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, folder.resolve().name)
        copy.mkdir()
        names = {CARD_NAME, *(path.name for pattern in ("*.json", "*.jsonl") for path in folder.glob(pattern))}
        for name in filter(lambda name: (folder / name).is_file(), names - {OUTPUTS_NAME}):
            shutil.copyfile(folder / name, copy / name)
        for name in (PICTURES_NAME, EVAL_RESULTS_NAME):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, copy / name)
        for name in (MODEL_NAME, EVALUATIONS_NAME):  # which are only read
            (copy / name).symlink_to((folder / name).resolve())
        if (folder / BUNDLE_NAME).is_dir():
            (copy / BUNDLE_NAME).mkdir()
            for name in (LOCK_NAME, CARD_NAME):
                if (folder / BUNDLE_NAME / name).is_file():
                    shutil.copyfile(folder / BUNDLE_NAME / name, copy / BUNDLE_NAME / name)
        OutputFolder(copy).note(*files_in(copy))
        renew_card(copy, options, keep_card)
        renew_bundle(copy)
        yield copy


def can_renew(folder: Path) -> bool:
    """Return whether card and bundle may be written to a run folder: no foreign file has their names."""
    pictures = [f"{PICTURES_NAME}/{name}" for name in PICTURE_NAMES]
    there = [f"{BUNDLE_NAME}/{name}" for name in files_in(folder / BUNDLE_NAME) if belongs(name)]
    return not OutputFolder(folder).find_taken(CARD_NAME, "card.json", *pictures, *there)


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
    with to_be_published(folder, options, keep_card) as copy:
        files = {name: content for name, content in run_files(copy).items() if not name.startswith(f"{BUNDLE_NAME}/")}
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


def _is_of_bundle(folder: Path, card: bytes) -> bool:
    """Return whether a card equals that of the bundle, so that nobody edited it."""
    bundled = folder / BUNDLE_NAME / CARD_NAME
    return bundled.is_file() and bundled.read_bytes() == card


def _is_up_to_date(folder: Path, text: str, options: CardOptions) -> bool:
    """Return whether the card has these options, and its pictures exist."""
    there = all((folder / name).exists() for name in pictures_in(text.encode()))
    return there and options == RunFolder(folder).read_card_options()
