"""The card and the bundle of a run as they are published: of its repository, and of what is known of the model now."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hf_hybrid.records.events import event
from hf_hybrid.records.output_folder import OUTPUTS_NAME, OutputFolder, differences
from hf_hybrid.records.run_folder import BUNDLE_NAME, EVALUATIONS_NAME, MODEL_NAME, CardOptions, RunFolder
from hf_hybrid.utils.files import UNFINISHED, files_in
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.text import first_difference

from .bundle import LOCK_NAME, belongs, write_bundle
from .errors import HubError
from .model_card import CARD_NAME, EVAL_RESULTS_NAME, PICTURE_NAMES, PICTURES_NAME, card_text, pictures_in, write_card
from .payload import UNSENT, is_finished, run_files


def card_options(folder: Path, repo_id: str | None, given: CardOptions | None) -> CardOptions:
    """What the card is to say besides the records: as given, else as before; and its repository."""
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
        "edited by hand, or written by another release of hf-hybrid or before the run went on. Licence, repository "
        "name and figures in it are not updated"
    )
    if not keep:
        raise HubError(
            f"{told}. Give --keep_card to push it as it is, or delete {CARD_NAME}, which is then written anew. "
            f"{UNSENT}"
        )
    event("warning", logging.WARNING, problem=f"{told}; it is pushed as it is")


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
    """Whether card and bundle may be written to a run folder, or a file that no recipe wrote is in the way."""
    pictures = [f"{PICTURES_NAME}/{name}" for name in PICTURE_NAMES]
    there = [f"{BUNDLE_NAME}/{name}" for name in files_in(folder / BUNDLE_NAME) if belongs(name)]
    return not OutputFolder(folder).taken(CARD_NAME, "card.json", *pictures, *there)


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
        raise HubError(f"{folder} holds no run that has come to its end. {UNSENT}")
    outputs = OutputFolder(target, "card_folder")
    outputs.check_kind("model card")
    if outputs.kind is None and target.is_dir() and any(target.iterdir()):
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
    """Whether a card is that of the bundle, which no hand wrote."""
    bundled = folder / BUNDLE_NAME / CARD_NAME
    return bundled.is_file() and bundled.read_bytes() == card


def _is_up_to_date(folder: Path, text: str, options: CardOptions) -> bool:
    """Whether the card of the files has these options, and its pictures are there."""
    there = all((folder / name).exists() for name in pictures_in(text.encode()))
    return there and options == RunFolder(folder).read_card_options()
