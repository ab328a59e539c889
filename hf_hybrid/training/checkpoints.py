"""The checkpoints of a run folder: `checkpoint-N/` is complete or absent.

The trainer writes a checkpoint under another name, lists its files with size and SHA-256 in `manifest.json`, and then
renames it. A reader compares a checkpoint with its manifest first, which also finds a file that was changed or lost
later.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn
from transformers.trainer_pt_utils import get_model_param_count

from hf_hybrid.records.manifest import checkpoint_folders, checkpoints, find_damage, write_manifest
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.schema import MANIFEST_NAME
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import UNFINISHED, size_words

GIB = 2**30
_WEIGHT_BYTES, _MOMENT_BYTES = 4, 8  # of a parameter in float32; AdamW keeps two moments


def newest_whole(run_folder: str | os.PathLike[str], complain: Callable[[str], None]) -> Path | None:
    """Return the newest undamaged checkpoint, or `None`, and rename damaged newer ones to `damaged-checkpoint-N`.

    Args:
        run_folder (`str` or `Path`): The run folder.
        complain (`Callable[[str], None]`): Called with a message about each damaged checkpoint.

    Raises:
        ValueError: When a damaged checkpoint is not in the run folder's list of its own files.
    """
    outputs = OutputFolder(run_folder)
    for path in set(checkpoint_folders(run_folder)) - set(whole_or_damaged := checkpoints(run_folder)):
        outputs.delete(path.name)  # a kill interrupted its deletion
    for path in whole_or_damaged:
        if (damage := find_damage(path)) is None:
            return path
        if not outputs.lists(f"{path.name}/{MANIFEST_NAME}"):
            raise ValueError(
                f"{path} is damaged: {damage}. No run wrote it here: move it away, or choose another folder."
            )
        aside = path.with_name(f"damaged-{path.name}")
        complain(f"{path} is damaged and is skipped, as {aside.name}: {damage}.")
        outputs.move_folder(path.name, aside.name)
    return None


def write_folder(
    path: str | os.PathLike[str], stages: Sequence[Callable[[Path], None]], writes: bool, needed_bytes: int = 0
) -> None:
    """Write a folder under another name, list its files in a manifest, and rename it. Call it on all processes.

    Args:
        path (`str` or `Path`): Its final name.
        stages (`Sequence[Callable[[Path], None]]`): Each writes a part into the given folder, on all processes. After
            each stage the processes tell each other whether it succeeded.
        writes (`bool`): Whether this process creates, lists and renames the folder: one process per file system.
        needed_bytes (`int`, *optional*, defaults to 0): Estimated size; the disk must have as much space.

    Raises:
        OSError: On all processes, when one of them could not write, or the disk is full. An earlier folder at `path`
            is unchanged. If a stage has collective operations, the others wait there for a process that failed.
    """
    path = Path(path)
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")

    def begin(_: Path) -> None:
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if unfinished.exists():
            shutil.rmtree(unfinished)
        if shutil.disk_usage(path.parent).free < needed_bytes:
            raise OSError(errno.ENOSPC, "it was not begun")
        unfinished.mkdir()

    def finish(_: Path) -> None:
        if writes:
            write_manifest(unfinished)
            OutputFolder(path.parent).put_folder(unfinished, path.name)

    try:
        for stage in (begin, *stages, finish):
            _do_together(stage, unfinished, path, needed_bytes)
    except OSError:
        if writes:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise


def rotate(
    run_folder: str | os.PathLike[str], limit: int | None, keep: Sequence[str | os.PathLike[str] | None]
) -> None:
    """Delete all but `limit` checkpoints. Checkpoints that no run wrote here stay.

    Args:
        run_folder (`str` or `Path`): The run folder.
        limit (`int`, *optional*): Number of checkpoints to keep; by default all.
        keep (`Sequence[str or Path]`): Checkpoints that are never deleted. They count toward the limit, and `None`
            entries are ignored.
    """
    if not limit or limit < 1:
        return
    found, wanted = checkpoints(run_folder), {Path(path).resolve() for path in keep if path is not None}
    kept = [path for path in found if path.resolve() in wanted]
    others = [path for path in found if path not in kept]
    for path in others[max(0, limit - len(kept)) :]:
        OutputFolder(run_folder).delete(path.name)


def _do_together(stage: Callable[[Path], None], folder: Path, path: Path, needed_bytes: int) -> None:
    """Raise on all processes if one has failed, so that none waits for it."""
    problem: Exception | None = None
    try:
        stage(folder)
    except Exception as error:  # torch tells of a full disk by a RuntimeError, safetensors by an error of its own
        problem = error
    told = next((text for text in distributed.from_all(None if problem is None else repr(problem)) if text), None)
    if told is None:
        return
    free = shutil.disk_usage(path.parent).free
    if free < max(needed_bytes, 64 * 2**20) or "No space left" in told or "quota" in told.lower():
        need = f"about {size_words(needed_bytes)} are needed" if needed_bytes else "it does not fit"
        raise OSError(
            errno.ENOSPC,
            f"{path} could not be written: {need} and {size_words(free)} are free on its disk (or its quota is used "
            "up). Earlier checkpoints are whole. Make room, or lower save_total_limit, and start the same command "
            f"again [{told}]",
        ) from problem
    raise OSError(errno.EIO, f"{path} could not be written: {told}. Earlier checkpoints are whole") from problem


def estimate_bytes(model: nn.Module, model_only: bool) -> int:
    """Estimate the size of a checkpoint of all processes; some optimizers need less."""
    trained = 0 if model_only else get_model_param_count(model, trainable_only=True)
    return _WEIGHT_BYTES * get_model_param_count(model) + _MOMENT_BYTES * trained
