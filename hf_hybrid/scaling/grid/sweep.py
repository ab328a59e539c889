"""Runs the trials of a study in processes of their own, some at a time.

1. A trial that has finished is left alone; one that was stopped is resumed, since each recipe resumes.
2. A trial that fails leaves `failure.json` and its log, and the others run all the same.
3. SIGTERM and SIGINT are passed on: each run saves a checkpoint, and the sweep ends with the exit status `RESUME_ME`.
4. Where only the sweep was killed, its trials run on. The next one waits for them before it takes over their folders.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_hybrid.records.manifest import checkpoint_folders
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.training.interruption import LOCK_NAME, RESUME_ME, ends_on_signal, lock_names
from hf_hybrid.utils.files import files_in, unlink_files
from hf_hybrid.utils.redaction import redact

from .arms import Stage, Trial, build_command
from .folder import StudyFolder

LOG_NAME = "log.txt"
_TAIL_BYTES = 65_536
# Files of built corpora and of token ids, as `cache_dir` has them: their folders are named by a hash.
_CACHED = re.compile(
    r"tokens/[0-9a-f]{32}/[^/]+\.(queries|passages)\.(arrow|arrow\.seal|json)"
    r"|[^/]+-[0-9a-f]{8,64}/(manifest\.json|items\.arrow|rows\.npy|[^/]+\.(queries|passages)\.arrow|[^/]+\.negatives\.\w+\.npy)"
)


class Sweep:
    """Runs trials.

    Args:
        folder (`StudyFolder`): The study.
        launch (`Sequence[str]`): What starts `-m hf_hybrid`.
        jobs (`int`, *optional*, defaults to 1): Trials at a time.
        threads (`int`, *optional*): Of each; by default the cores of this machine shared out.
        say (`Callable`, *optional*): Is told what happens, a line at a time.
    """

    def __init__(
        self,
        folder: StudyFolder,
        launch: Sequence[str],
        jobs: int = 1,
        threads: int | None = None,
        say: Callable[[str], Any] = print,
    ) -> None:
        self.folder, self.launch, self.jobs, self.say = folder, list(launch), jobs, say
        self.threads = threads or max(1, num_cores() // jobs)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()

    def run(self, trials: Sequence[Trial], retry_failed: bool = False) -> dict[str, str]:
        """Run what is not finished.

        Args:
            trials (`Sequence[Trial]`): Of `study.json`.
            retry_failed (`bool`, *optional*, defaults to `False`): Also what has failed before.

        Returns:
            `dict[str, str]`: The status of each trial.

        Raises:
            Interrupted: When the process was told to stop; all trials have ended by then.
        """
        status = {trial["id"]: self.folder.status(trial) for trial in trials}
        wanted = ("missing", "failed") if retry_failed else ("missing",)
        todo = [trial for trial in trials if status[trial["id"]] in wanted]
        done, started = len(trials) - len(todo), time.monotonic()
        with ends_on_signal(), ThreadPoolExecutor(self.jobs) as pool:
            try:
                futures = {pool.submit(self._run_trial, trial): trial for trial in todo}
                for number, future in enumerate(as_completed(futures), start=1):
                    trial = futures[future]
                    status[trial["id"]] = future.result()
                    left_s = (time.monotonic() - started) / number * (len(todo) - number)
                    place = f"[{done + number}/{len(trials)}] {trial['id']}"
                    self.say(f"{place} {status[trial['id']]}{self._reason(trial)}; about {left_s / 60:.0f} min left")
            except BaseException:
                self._stop()
                raise
        return status

    def _reason(self, trial: Trial) -> str:
        if self.folder.status(trial) != "failed":
            return ""
        return f": {self.folder.read_failure(trial)['last_line']}"

    def _run_trial(self, trial: Trial) -> str:
        path, outputs = self.folder.trial_path(trial), self.folder.open_trial(trial)
        outputs.claim(LOG_NAME, *lock_names(outputs))
        path.mkdir(parents=True, exist_ok=True)
        if self._stopping.is_set() or not self._is_free(path):
            return "missing"
        self.folder.forget_failure(trial)
        for stage in trial["stages"]:
            if self.folder.is_finished(stage):
                continue
            code = self._run_stage(stage, path / LOG_NAME)
            if self._stopping.is_set() or code == RESUME_ME:
                return "missing"
            if code != 0 or not self.folder.is_finished(stage):
                line = last_line(path / LOG_NAME, code)
                self.folder.write_failure(trial, {"stage": stage["name"], "returncode": code, "last_line": line})
                return "failed"
        self._tidy(trial)
        return "finished"

    def _tidy(self, trial: Trial) -> None:
        """Delete what only a resumed run needs; the models stay."""
        for stage in trial["stages"]:
            outputs = OutputFolder(self.folder.stage_path(stage))
            outputs.delete(*(path.name for path in checkpoint_folders(outputs)))
        delete_cached(self.folder.trial_path(trial) / "cache")

    def _is_free(self, path: Path) -> bool:
        """Wait until no process of an earlier sweep writes there; False where this one is told to stop."""
        lock = FileLock(path / LOCK_NAME, is_singleton=False)
        while not self._stopping.is_set():
            try:
                with lock.acquire(timeout=1.0):
                    return True
            except Timeout:
                continue
        return False

    def _run_stage(self, stage: Stage, log: Path) -> int:
        words = build_command(stage, str(self.folder.path), self.launch)
        if stage["name"] != "eval":
            words += ["--cpu_threads", str(self.threads)]
        with open(log, "a", encoding="utf-8") as file:
            print(redact(f"$ {' '.join(words)}"), file=file, flush=True)
            with self._lock:  # no process begins once all have been told to stop
                if self._stopping.is_set():
                    return RESUME_ME
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=self.environment()
                )
                self._running.add(process)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def environment(self) -> Mapping[str, str]:
        """Return the environment of a trial's process."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        threads = {name: str(self.threads) for name in names}
        return {**os.environ, **threads, "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": str(self.threads > 1).lower()}

    def _stop(self) -> None:
        """Stop the running trials, and start no others."""
        with self._lock:
            self._stopping.set()
            for process in self._running:
                process.terminate()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_line(log: Path, code: int) -> str:
    """Return the last line of a log, or how its process ended.

    Example:

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "log.txt")
        >>> _ = path.write_text("$ python -m hf_hybrid train\\nloss 3\\nValueError: no\\n\\n")
        >>> last_line(path, 1), last_line(path, -9)
        ('ValueError: no', 'killed by signal 9 after: ValueError: no')
    """
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    begin = max((number for number, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    told = [line.strip() for line in lines[begin + 1 :] if line.strip()]
    line = redact(told[-1]) if told else "nothing was said"
    return f"killed by signal {-code} after: {line}" if code < 0 else line


def delete_cached(folder: Path) -> None:
    """Delete what a trial has cached, and nothing else that lies there."""
    unlink_files(folder, [name for name in files_in(folder) if _CACHED.fullmatch(name)])
    with suppress(OSError):
        folder.rmdir()
