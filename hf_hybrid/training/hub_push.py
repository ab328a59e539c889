"""A `transformers.Trainer` that publishes its run: what it has after each checkpoint, and the whole at the end.

What goes wrong with a push is told of and never ends training.  A push goes on in a thread beside training, from links
to the files of its checkpoint, so the checkpoint may be deleted meanwhile.
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
from typing import Any

from transformers.trainer_utils import HubStrategy

from hf_hybrid.hub.commit import PushOptions
from hf_hybrid.hub.errors import HubError, without_token
from hf_hybrid.hub.model_card import CARD_NAME, write_card
from hf_hybrid.hub.payload import RUN_FILES, Files, checkpoint_files, listed_files, model_files
from hf_hybrid.hub.push import open_repository, push_files, push_run
from hf_hybrid.records.events import event
from hf_hybrid.records.manifest import checkpoints
from hf_hybrid.records.schema import MANIFEST_NAME, MODEL_NAME
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import UNFINISHED

from .resume import ResumableTrainer

_LAST_CHECKPOINT = "last-checkpoint"  # where transformers puts it
_ELSEWHERE = " Or take another hub_model_id, or another branch with hub_revision."


class PushingTrainer(ResumableTrainer):
    """What `push_to_hub`, `hub_model_id`, `hub_strategy` and the other options of the Hub ask for.

    `hub_strategy` says when: `end`, once, when a run has come to its end; `every_save`, also after each checkpoint, a
    model that can be loaded, with a card that says it is unfinished; `checkpoint`, with the state of training in
    `last-checkpoint/` until the end; `all_checkpoints`, with that of each in `checkpoint-N/`, for good.
    """

    hub_model_id: str | None  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pushes, self._is_hub_open = _InTheBackground(), False
        super().__init__(*args, **kwargs)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing is asked of the Hub where a trainer is made: it may be for a dry run. See `open_hub`."""
        self.hub_model_id = self.args.hub_model_id

    def open_hub(self, anew: bool = False) -> None:
        """Where there is to be a push, make the repository before time is spent on a run that cannot be pushed.

        Args:
            anew (`bool`, *optional*, defaults to `False`): The run begins anew, whatever is in its folder.

        Raises:
            HubError: On all processes, when a push of a new run would not go well later either, or `hub.json` is
                damaged.  There is only a warning where it may, and for a run that goes on from a checkpoint.
        """
        if not self.args.push_to_hub or self._is_hub_open:
            return
        problem = None
        if distributed.rank() == 0:
            try:
                open_repository(self.args.output_dir, self._repo_id(), self._push_options())
            except (OSError, ValueError) as error:  # whatever it is, the other processes wait for a word
                passes = isinstance(error, HubError) and error.transient
                if passes or (checkpoints(self.args.output_dir) and not anew):
                    self._warn(error)
                else:
                    problem = self._said(error) + (_ELSEWHERE if isinstance(error, HubError) else "")
        problem = distributed.from_first(problem)
        if problem is not None:
            raise HubError(problem)
        self._is_hub_open = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See [`ResumableTrainer.train`]."""
        self.open_hub()
        return super().train(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the model as it is now, with its card and the records of the run; all processes come here.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): First line of the commit's message.
            blocking (`bool`, *optional*, defaults to `True`): Wait for it. Else a failure is only warned of.
            token (`str`, *optional*): By default `hub_token`, HF_TOKEN, or that of `hf auth login`.
            revision (`str`, *optional*): By default `hub_revision`, else main.
            private (`bool`, *optional*): Of a new repository; by default `hub_private_repo`, else private.
            **kwargs: Refused: the card follows from the files of the run.

        Returns:
            `Pushed`, *optional*: On the first process, if it was waited for.

        Raises:
            HubError: When it did not go well.
            ValueError: When there is no `hub_model_id`.
        """
        if kwargs:
            raise ValueError(f"push_to_hub does not take {min(kwargs)}: the card follows from the files of the run.")
        repo_id = self._repo_id()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(self.args.output_dir)
        self.save_model(str(folder / MODEL_NAME))
        if distributed.rank() != 0:
            return None
        given: dict[str, Any] = {"token": token, "revision": revision, "private": private}
        given = {name: value for name, value in given.items() if value is not None}
        options = dataclasses.replace(self._push_options(), commit_message=commit_message, **given)
        if not (folder / "run.json").exists():
            event(
                "warning", logging.WARNING, problem="pushed without a card: run_training writes what it is made from"
            )

        def push() -> Any:
            return push_files(folder, model_files(folder), repo_id, options)

        if blocking:
            self._finish_current_push()
            return push()
        self._start(push)
        return None

    def push_finished_run(self) -> None:
        """Where it was asked for, publish a run that has come to its end; the first process does.

        Raises:
            HubError: When it did not go well: the run is safe, and the message has the command that completes it.
        """
        if not self.args.push_to_hub or distributed.rank() != 0:
            return
        self._finish_current_push()
        folder = Path(self.args.output_dir)
        try:
            push_run(folder, self._repo_id(), self._push_options(), keep_card=True)
        except (OSError, ValueError) as error:
            raise HubError(
                f"The run is safe in {folder}; only its push did not go well. {self._said(error)} When that is "
                f"mended, this pushes it: {self._command()}"
            ) from None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the run folder, from its files alone."""
        if args or kwargs:
            raise ValueError("create_model_card takes no arguments: the card follows from the files of the run.")
        if self.is_world_process_zero():
            write_card(self.args.output_dir)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """On the first process, after a checkpoint."""
        told_to_stop = self._stop.asked or self._stop.stops  # then there is no time, and the run will go on
        skipped = self._pushes.busy and not self.args.hub_always_push
        strategy = HubStrategy(self.args.hub_strategy)
        if not self.is_world_process_zero() or strategy == HubStrategy.END or told_to_stop or skipped:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder, repo_id = Path(self.args.output_dir), self._repo_id()
        options = self._push_options(f"Training in progress, step {self.state.global_step}")
        try:
            snapshot = _snapshot(folder, Path(checkpoint_folder))
        except OSError as error:
            return self._warn(error)

        def push() -> None:
            try:
                checkpoint = snapshot / Path(checkpoint_folder).name
                state, stay = _training_state(strategy, checkpoint)
                files = checkpoint_files(checkpoint) | state
                push_files(snapshot, files, repo_id, options, stay=stay, record=folder)
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

        self._start(push)

    def _start(self, push: Callable[[], Any]) -> None:
        def attempt() -> None:
            try:
                push()
            except Exception as error:  # whatever it is, training goes on
                self._warn(error)

        self._pushes.start(attempt)

    def _finish_current_push(self) -> None:
        if not self._stop.stops:
            self._pushes.wait()

    def _repo_id(self) -> str:
        if self.args.hub_model_id is None:
            raise ValueError('push_to_hub: say where to, with hub_model_id="user/name" among the arguments.')
        return self.args.hub_model_id

    def _push_options(self, commit_message: str | None = None) -> PushOptions:
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

    def _said(self, error: Exception) -> str:
        return without_token(str(error) or repr(error), self.args.hub_token)

    def _warn(self, error: Exception) -> None:
        event("warning", logging.WARNING, problem=f"not pushed, and the run goes on: {self._said(error)}")


def _snapshot(folder: Path, checkpoint: Path) -> Path:
    """The records of a run and a checkpoint as they are now, in a folder that `delete_unfinished` knows."""
    snapshot = folder / f"{UNFINISHED}push-{uuid.uuid4().hex[:8]}"
    try:
        snapshot.mkdir()
        for name in (*RUN_FILES, CARD_NAME):
            if (folder / name).exists():
                shutil.copyfile(folder / name, snapshot / name)
        _link(checkpoint, snapshot / checkpoint.name)
    except OSError:
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    return snapshot


def _link(folder: Path, second: Path) -> None:
    """The same files under another name, as nobody writes to those of a checkpoint."""
    try:
        shutil.copytree(folder, second, copy_function=os.link)
    except OSError:  # a file system without links
        shutil.rmtree(second, ignore_errors=True)
        shutil.copytree(folder, second)


def _training_state(strategy: HubStrategy, checkpoint: Path) -> tuple[Files, frozenset[str]]:
    """The whole checkpoint, where the strategy asks for it, and what of it stays for good."""
    if strategy == HubStrategy.EVERY_SAVE:
        return {}, frozenset()
    place = checkpoint.name if strategy == HubStrategy.ALL_CHECKPOINTS else _LAST_CHECKPOINT
    names = [*listed_files(checkpoint), MANIFEST_NAME]
    state: Files = {f"{place}/{name}": checkpoint / name for name in names}
    return state, frozenset(state) if strategy == HubStrategy.ALL_CHECKPOINTS else frozenset()


class _InTheBackground:
    """Does one thing after the other in threads that do not keep the process from its end."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        return self._last is not None and self._last.is_alive()

    def start(self, action: Callable[[], None]) -> None:
        before = self._last

        def act() -> None:
            if before is not None:
                before.join()
            action()

        self._last = threading.Thread(target=act, daemon=True, name="push")
        self._last.start()

    def wait(self) -> None:
        if self._last is not None:
            self._last.join()
