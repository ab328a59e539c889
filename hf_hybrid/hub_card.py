"""The card and the bundle of a run as they are published: of its repository, and of what is known of the model now."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from .bundle import LOCK_NAME, write_bundle
from .cards import CARD_NAME, EVAL_RESULTS_NAME, PICTURES_NAME, card_text, write_card
from .events import event
from .files import UNFINISHED, replace_folder
from .hub_errors import HubError
from .hub_files import UNSENT, is_finished, run_files
from .records import BUNDLE_NAME, EVALUATIONS_NAME, MODEL_NAME, CardOptions, RunFolder


def card_options(folder: Path, repo_id: str | None, given: CardOptions | None) -> CardOptions:
    """What the card is to say besides the records: as given, else as before; and its repository."""
    options: dict[str, Any] = {**RunFolder(folder).read_card_options()}
    options.update({name: value for name, value in (given or {}).items() if value is not None})
    return cast(CardOptions, {**options, "repo_id": repo_id})


def renew_card(folder: Path, options: CardOptions) -> None:
    """Write the card for these options; one that somebody has written in stays as it is, and that is told."""
    if not _is_ours(folder):
        event("warning", logging.WARNING, problem=f"{CARD_NAME} is not what the run gives: it is pushed as it is")
    elif not _is_up_to_date(folder, options):
        write_card(folder, options)


def renew_bundle(folder: Path) -> None:
    """Make the bundle anew, which has the card too; there is none where the run has none, or has not finished.

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
            f"The bundle of {folder} cannot be made anew: {error} Mend that, or delete {bundle} to push without it. "
            f"{UNSENT}"
        ) from None


@contextmanager
def to_be_published(folder: Path, options: CardOptions) -> Iterator[Path]:
    """A folder with the records of a run, and with the card and the bundle that `renew_*` would leave."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, folder.resolve().name)
        copy.mkdir()
        names = [CARD_NAME, *(path.name for pattern in ("*.json", "*.jsonl") for path in folder.glob(pattern))]
        for name in filter(lambda name: (folder / name).is_file(), names):
            shutil.copyfile(folder / name, copy / name)
        for name in (PICTURES_NAME, EVAL_RESULTS_NAME):
            if (folder / name).is_dir():
                shutil.copytree(folder / name, copy / name)
        for name in (MODEL_NAME, EVALUATIONS_NAME):  # which are only read
            (copy / name).symlink_to((folder / name).resolve())
        if (folder / BUNDLE_NAME).is_dir():
            (copy / BUNDLE_NAME).mkdir()
            if (folder / BUNDLE_NAME / LOCK_NAME).is_file():
                shutil.copyfile(folder / BUNDLE_NAME / LOCK_NAME, copy / BUNDLE_NAME / LOCK_NAME)
        renew_card(copy, options)
        renew_bundle(copy)
        yield copy


def write_card_folder(folder: Path, options: CardOptions, target: Path) -> list[str]:
    """Write the card of a finished run, its pictures and the records that it is made from to a folder of their own.

    Args:
        folder (`Path`): The run folder.
        options (`CardOptions`): What the card says besides.
        target (`Path`): What is there gives way, if it is such a folder.

    Returns:
        `list[str]`: The names of the files; neither the model nor the bundle is among them.

    Raises:
        HubError: When there is no finished run, or something else is in the target's place.
    """
    if not is_finished(folder):
        raise HubError(f"{folder} holds no run that has come to its end. {UNSENT}")
    if target.exists() and not (target / "run.json").is_file():
        raise HubError(f"{target} is there and holds no card of a run. Give the name of a new folder. {UNSENT}")
    with to_be_published(folder, options) as copy:
        files = {name: content for name, content in run_files(copy).items() if not name.startswith(f"{BUNDLE_NAME}/")}
        unfinished = target.with_name(f"{UNFINISHED}{target.name}")
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    replace_folder(unfinished, target)
    return sorted(files)


def _is_ours(folder: Path) -> bool:
    card = folder / CARD_NAME
    return not card.exists() or card.read_bytes() == card_text(folder).encode()


def _is_up_to_date(folder: Path, options: CardOptions) -> bool:
    card = folder / CARD_NAME
    if not card.exists() or options != RunFolder(folder).read_card_options():
        return False
    named = re.findall(rf"{PICTURES_NAME}/[\w.-]+", card.read_text(encoding="utf-8"))
    return all((folder / name).exists() for name in named)
