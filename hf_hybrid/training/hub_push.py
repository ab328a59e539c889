"""Publish a run while it trains: after each checkpoint, and at the end.

A failed push never ends training. It runs in a thread beside training, from links to the files of the checkpoint, so
that the checkpoint may be deleted in the meantime.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import HubStrategy

from hf_hybrid.hub.bundle import RECORD_NAMES
from hf_hybrid.hub.commit import PushOptions
from hf_hybrid.hub.errors import HubError, hide_token
from hf_hybrid.hub.model_card import CARD_NAME, CARD_OPTIONS_NAME
from hf_hybrid.hub.payload import Files, list_checkpoint_files, list_manifest_files, list_model_files
from hf_hybrid.hub.push import open_repository, push_files, push_run
from hf_hybrid.records.events import event
from hf_hybrid.records.manifest import checkpoints
from hf_hybrid.records.schema import MANIFEST_NAME, OUTPUTS_NAME
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import UNFINISHED

if TYPE_CHECKING:
    from .arguments import RunArguments
    from .interruption import StopOnSignal

_LAST_CHECKPOINT = "last-checkpoint"  # the name in transformers


class HubPushCallback(TrainerCallback):
    """Publishes a run as `push_to_hub`, `hub_model_id`, `hub_strategy` and the other options of the Hub say.

    `hub_strategy` is `end` (once, at the end), `every_save` (also after each checkpoint: a model with a card that says
    it is unfinished), `checkpoint` (with the training state in `last-checkpoint/` until the end) or `all_checkpoints`
    (with that of each checkpoint in `checkpoint-N/`, permanently).

    Args:
        args (`RunArguments`): The arguments of the run.
        stop (`StopOnSignal`): Says whether the process was told to stop; then checkpoints are not pushed.
        announce (`Callable`): Runs `on_push_begin` of all callbacks.
    """

    def __init__(self, args: RunArguments, stop: StopOnSignal, announce: Callable[[], Any]) -> None:
        self.args, self._stop, self._announce = args, stop, announce
        self.folder = Path(args.output_dir)
        self._is_open = False
        self._thread: threading.Thread | None = None  # of the last push

    def open(self, overwrite: bool = False) -> None:
        """Create the repository before training, if `push_to_hub` is set: do not start a run that cannot be pushed.

        Args:
            overwrite (`bool`, *optional*, defaults to `False`): The run starts over, whatever its folder holds.

        Raises:
            HubError: On all processes, when later pushes of a new run would fail too, or `hub.json` is damaged. For
                temporary problems, and for a run that resumes, there is only a warning.
        """
        if not self.args.push_to_hub or self._is_open:
            return
        problem = None
        if distributed.rank() == 0:
            try:
                open_repository(self.folder, self.repo_id, self._options())
            except (OSError, ValueError) as error:  # any error: the other processes wait for an answer
                is_temporary = isinstance(error, HubError) and error.transient
                if is_temporary or (checkpoints(self.folder) and not overwrite):
                    self._warn(error)
                else:
                    advice = " Or choose another hub_model_id, or another branch with hub_revision."
                    problem = self._describe(error) + (advice if isinstance(error, HubError) else "")
        problem = distributed.from_first(problem)
        if problem is not None:
            raise HubError(problem)
        self._is_open = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Push the checkpoint, from the first process."""
        is_stopping = self._stop.asked or self._stop.stops  # there is no time, and the run will resume
        is_skipped = self._is_pushing and not self.args.hub_always_push
        strategy = HubStrategy(self.args.hub_strategy)
        if not self.args.push_to_hub or distributed.rank() != 0 or strategy == HubStrategy.END:
            return
        if is_stopping or is_skipped:
            return
        self._announce()
        options = self._options(f"Training in progress, step {state.global_step}")
        name = f"checkpoint-{state.global_step}"
        try:
            snapshot = _take_snapshot(self.folder, self.folder / name)
        except OSError as error:
            return self._warn(error)

        def push() -> None:
            try:
                checkpoint = snapshot / name
                training_state, stay = _training_state(strategy, checkpoint)
                files = list_checkpoint_files(checkpoint) | training_state
                push_files(snapshot, files, self.repo_id, options, keep=stay, record=self.folder)
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

        self._start(push)

    def push_model(self, options: dict[str, Any], blocking: bool) -> Any:
        """Push the model folder and the records of the run, from the first process.

        Args:
            options (`dict`): Fields of `PushOptions` that replace those of the arguments.
            blocking (`bool`): Wait for the push, and raise its errors. Otherwise they are warnings.
        """
        chosen = dataclasses.replace(self._options(), **options)
        if not (self.folder / "run.json").exists():
            problem = "pushed without a card: run_training writes the records that it is built from"
            event("warning", logging.WARNING, problem=problem)

        def push() -> Any:
            return push_files(self.folder, list_model_files(self.folder), self.repo_id, chosen)

        if blocking:
            self.wait()
            return push()
        self._start(push)
        return None

    def push_finished_run(self) -> None:
        """Push a finished run with everything, from the first process. Does nothing without `push_to_hub`.

        Raises:
            HubError: When the push fails. The run is safe, and the message has the command that completes the push.
        """
        if not self.args.push_to_hub or distributed.rank() != 0:
            return
        self.wait()
        try:
            push_run(self.folder, self.repo_id, self._options(), keep_card=True)
        except (OSError, ValueError) as error:
            raise HubError(
                f"The run is safe in {self.folder}; only its push failed. {self._describe(error)} Then push it with: "
                f"{self._command()}"
            ) from None

    @property
    def repo_id(self) -> str:
        """The repository to push to; a ValueError if none was given."""
        if self.args.hub_model_id is None:
            raise ValueError('push_to_hub needs a repository: set hub_model_id="user/name".')
        return self.args.hub_model_id

    @property
    def _is_pushing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait for the pushes that run, unless the process was told to stop."""
        if self._thread is not None and not self._stop.stops:
            self._thread.join()

    def _start(self, push: Callable[[], Any]) -> None:
        """Push in a thread that does not keep the process alive, after the push before it."""
        before = self._thread

        def attempt() -> None:
            if before is not None:
                before.join()
            try:
                push()
            except Exception as error:  # whatever it is, training continues
                self._warn(error)

        self._thread = threading.Thread(target=attempt, daemon=True, name="push")
        self._thread.start()

    def _options(self, commit_message: str | None = None) -> PushOptions:
        args = self.args
        return PushOptions(
            private=args.hub_private_repo is not False,
            revision=args.hub_revision,
            commit_message=commit_message,
            token=args.hub_token,
        )

    def _command(self) -> str:
        args = self.args
        words = ["python", "recipes/push.py", str(args.output_dir), "--repo_id", str(args.hub_model_id)]
        words += ["--public"] if args.hub_private_repo is False else []
        words += ["--revision", args.hub_revision] if args.hub_revision else []
        return shlex.join(words)

    def _describe(self, error: Exception) -> str:
        return hide_token(str(error) or repr(error), self.args.hub_token)

    def _warn(self, error: Exception) -> None:
        event("warning", logging.WARNING, problem=f"not pushed, and the run continues: {self._describe(error)}")


def _take_snapshot(folder: Path, checkpoint: Path) -> Path:
    """Copy the records of a run and link a checkpoint, in a folder that `delete_unfinished` knows."""
    snapshot = folder / f"{UNFINISHED}push-{uuid.uuid4().hex[:8]}"
    try:
        snapshot.mkdir()
        for name in (*RECORD_NAMES, CARD_NAME, CARD_OPTIONS_NAME, OUTPUTS_NAME):
            if (folder / name).exists():
                shutil.copyfile(folder / name, snapshot / name)
        _link(checkpoint, snapshot / checkpoint.name)
    except OSError:
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    return snapshot


def _link(folder: Path, second: Path) -> None:
    """Hard-link the files of a checkpoint, which nobody changes; copy them where the file system has no links."""
    try:
        shutil.copytree(folder, second, copy_function=os.link)
    except OSError:
        shutil.rmtree(second, ignore_errors=True)
        shutil.copytree(folder, second)


def _training_state(strategy: HubStrategy, checkpoint: Path) -> tuple[Files, frozenset[str]]:
    """Return the files of the whole checkpoint, if the strategy publishes them, and which of them stay permanently."""
    if strategy == HubStrategy.EVERY_SAVE:
        return {}, frozenset()
    place = checkpoint.name if strategy == HubStrategy.ALL_CHECKPOINTS else _LAST_CHECKPOINT
    names = [*list_manifest_files(checkpoint), MANIFEST_NAME]
    state: Files = {f"{place}/{name}": checkpoint / name for name in names}
    return state, frozenset(state) if strategy == HubStrategy.ALL_CHECKPOINTS else frozenset()
