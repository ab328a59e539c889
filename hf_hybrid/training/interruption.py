"""Supervision of a run: signals, a heartbeat, and one process per folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_hybrid.records.events import utc
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.schema import HEARTBEAT_NAME, LOCK_NAME
from hf_hybrid.utils import distributed
from hf_hybrid.utils.distributed import RESUME_ME

_LOCK_WAIT_S = 10.0  # workers of a killed run, which share its lock, take a few seconds to notice
_BEAT_EVERY_S = 10.0
_SECOND_CTRL_C_S = 3.0


class Interrupted(SystemExit):
    """Raised when a signal stops the run, in training after a checkpoint. The exit status is `RESUME_ME`.

    Args:
        told (`bool`, *optional*, defaults to `False`): Whether there was an event of it.
    """

    def __init__(self, told: bool = False) -> None:
        super().__init__(RESUME_ME)
        self.told = told


@contextmanager
def alone_in(folder: str | os.PathLike[str], wait_s: float = _LOCK_WAIT_S) -> Iterator[None]:
    """Lock a run folder, so that no other run writes to it. The system unlocks it if this process is killed.

    Args:
        folder (`str` or `Path`): The run folder. It is created if it does not exist.
        wait_s (`float`, *optional*, defaults to 10.0): How long to wait for another run to end, in seconds.

    Raises:
        ValueError: On all processes, when another run has the lock, or no run wrote the file with the lock's name.
    """
    folder, problem = Path(folder), ""
    lock = FileLock(folder / LOCK_NAME, timeout=wait_s, is_singleton=True)
    if distributed.rank() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            outputs = OutputFolder(folder)
            outputs.claim(*lock_names(outputs))
            lock.acquire()
        except ValueError as error:
            problem = str(error)
        except Timeout:
            beat = folder / HEARTBEAT_NAME
            seen = f" Its last sign of life: {beat.read_text(encoding='utf-8').strip()}" if beat.exists() else ""
            problem = f"{folder} is in use by another run. Choose another output_dir, or wait for its end.{seen}"
    problem = distributed.from_first(problem)
    if problem:
        raise ValueError(problem)
    try:
        yield
    finally:
        if distributed.rank() == 0:
            lock.release()


def lock_names(outputs: OutputFolder) -> list[str]:
    """Return the name of the lock, whose file is emptied; nothing if an empty file is already there."""
    path = outputs.path / LOCK_NAME
    is_empty = path.is_file() and not path.stat().st_size and not outputs.lists(LOCK_NAME)
    return [] if is_empty else [LOCK_NAME]


@contextmanager
def ends_on_signal() -> Iterator[None]:
    """Raise `Interrupted` at once on SIGTERM or SIGINT: outside of training there is nothing to save.

    Later signals are ignored, since the process is about to end.
    """

    def end(number: int, frame: FrameType | None) -> None:
        ignore()
        raise Interrupted

    def ignore() -> None:
        for number in former:  # a second one must not break off what the first one leads to
            signal.signal(number, signal.SIG_IGN)

    former = _handle_signals(end)
    try:
        yield
    except Interrupted:
        ignore()
        raise
    except BaseException:
        _restore(former)
        raise
    _restore(former)


def _handle_signals(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Handle SIGTERM and SIGINT, and return the former handlers. Only the main thread may set handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}


def _restore(former: dict[signal.Signals, Any]) -> None:
    for number, handler in former.items():
        signal.signal(number, handler)


class StopOnSignal(TrainerCallback):
    """Context in which a first SIGTERM or SIGINT ends training after a checkpoint at the end of the step.

    An evaluation in progress finishes first. Later signals are ignored, since launchers repeat signals that a process
    already has, but a second Ctrl-C ends the process at once. When one process is told to stop, all stop.
    """

    def __init__(self) -> None:
        self.asked = False  # here
        self.stops = False  # on all processes
        self._former: dict[signal.Signals, Any] = {}
        self._asked_at = 0.0

    def __enter__(self) -> StopOnSignal:
        self.asked = self.stops = False
        self._former = _handle_signals(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        _restore(self._former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT and time.monotonic() - self._asked_at > _SECOND_CTRL_C_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_at = True, time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if distributed.any_rank(self.asked):
            self.stops = control.should_save = control.should_training_stop = True


class Heartbeat(TrainerCallback):
    """Keeps `heartbeat.json` of a run folder fresh: `time`, `step`, `max_steps`, `phase`, `host` and `pid`.

    If the file is older than the longest evaluation lasts, a scheduler may assume that the run hangs.

    Args:
        folder (`str` or `Path`): The run folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.outputs, self._last = OutputFolder(folder), 0.0

    def beat(self, phase: str, step: int = 0, max_steps: int = 0) -> None:
        """Write it now, from the first process."""
        self._last = time.monotonic()
        if distributed.rank() == 0:
            content = {"time": utc(time.time()), "phase": phase, "step": step, "max_steps": max_steps}
            with self.outputs.writing(HEARTBEAT_NAME, durable=False) as unfinished:
                unfinished.write_text(json.dumps({**content, "host": socket.gethostname(), "pid": os.getpid()}) + "\n")

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.beat("training", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        phase = "evaluating" if control.should_evaluate else "saving" if control.should_save else "training"
        if phase != "training" or time.monotonic() - self._last > _BEAT_EVERY_S:
            self.beat(phase, state.global_step, state.max_steps)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.beat("training", state.global_step, state.max_steps)

    on_save = on_evaluate

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.beat("trained", state.global_step, state.max_steps)
