"""Run the trials of a study, each in its own process.

1. A finished trial is skipped, and an interrupted one resumes, because each command resumes.
2. A trial that fails leaves `failure.json` and its log. The other trials run.
3. SIGTERM and SIGINT are passed on. Each run saves a checkpoint, and the sweep exits with `RESUME_ME`.
4. If only the sweep was killed, its trials are still running. The next sweep waits for them.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
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
# Files in `cache_dir`: token ids and built corpora, in folders whose names have a hash.
_CACHED = re.compile(
    r"tokens/[0-9a-f]{32}/[^/]+\.(queries|passages)\.(arrow|arrow\.seal|json)"
    r"|[^/]+-[0-9a-f]{8,64}/(manifest\.json|items\.arrow|rows\.npy|[^/]+\.(queries|passages)\.arrow|[^/]+\.negatives\.\w+\.npy)"
)


class Sweep:
    """Runs trials.

    Args:
        folder (`StudyFolder`): The study.
        launch (`Sequence[str]`): The launcher of `-m hf_hybrid`.
        jobs (`int`, *optional*, defaults to 1): Trials at a time.
        threads (`int`, *optional*): CPU threads of each trial. By default the cores of this machine divided by `jobs`.
        say (`Callable`, *optional*, defaults to `print`): Receives lines on the progress.
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
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = threads or max(1, cores // jobs)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()

    def run(self, trials: Sequence[Trial], retry_failed: bool = False) -> dict[str, str]:
        """Run the trials that have not finished.

        Args:
            trials (`Sequence[Trial]`): Of `study.json`.
            retry_failed (`bool`, *optional*, defaults to `False`): Run failed trials again.

        Returns:
            `dict[str, str]`: The status of each trial.

        Raises:
            Interrupted: When the process received a signal; all trials have ended by then.
        """
        status = {trial["id"]: self.folder.status(trial) for trial in trials}
        wanted = ("missing", "failed") if retry_failed else ("missing",)
        todo = [trial for trial in trials if status[trial["id"]] in wanted]
        done, started = len(trials) - len(todo), time.monotonic()
        with ends_on_signal(), ThreadPoolExecutor(self.jobs) as pool:
            try:
                futures = {pool.submit(self._run_trial, trial): trial for trial in todo}
                for number, future in enumerate(as_completed(futures), start=1):
                    trial, found = futures[future], future.result()
                    status[trial["id"]] = found
                    reason = f": {self.folder.read_failure(trial)['last_line']}" if found == "failed" else ""
                    left_s = (time.monotonic() - started) / number * (len(todo) - number)
                    place = f"[{done + number}/{len(trials)}] {trial['id']}"
                    self.say(f"{place} {found}{reason}; about {left_s / 60:.0f} min left")
            except BaseException:
                with self._lock:
                    self._stopping.set()
                    for process in self._running:
                        process.terminate()
                raise
        return status

    def _run_trial(self, trial: Trial) -> str:
        path, outputs = self.folder.trial_path(trial), self.folder.open_trial(trial)
        outputs.claim(LOG_NAME, *lock_names(outputs))
        path.mkdir(parents=True, exist_ok=True)
        if self._stopping.is_set() or not self._wait_until_free(path):
            return "missing"
        self.folder.delete_failure(trial)
        for stage in trial["stages"]:
            if self.folder.is_finished(stage):
                continue
            code = self._run_stage(stage, path / LOG_NAME)
            if self._stopping.is_set() or code == RESUME_ME:
                return "missing"
            if code != 0 or not self.folder.is_finished(stage):
                line = read_last_line(path / LOG_NAME, code)
                self.folder.write_failure(trial, {"stage": stage["name"], "returncode": code, "last_line": line})
                return "failed"
        self._delete_checkpoints(trial)
        return "finished"

    def _delete_checkpoints(self, trial: Trial) -> None:
        """Delete checkpoints and caches, which only a resumed run needs; the models stay."""
        for stage in trial["stages"]:
            outputs = OutputFolder(self.folder.stage_path(stage))
            outputs.delete(*(path.name for path in checkpoint_folders(outputs)))
        cache = self.folder.trial_path(trial) / "cache"
        unlink_files(cache, [name for name in files_in(cache) if _CACHED.fullmatch(name)])
        with suppress(OSError):  # it holds other files, or is not there
            cache.rmdir()

    def _wait_until_free(self, path: Path) -> bool:
        """Wait until no process of an earlier sweep writes there; return `False` if this sweep must stop."""
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
            with self._lock:  # no process starts after the others have been stopped
                if self._stopping.is_set():
                    return RESUME_ME
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=self._environment()
                )
                self._running.add(process)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        return code

    def _environment(self) -> dict[str, str]:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        threads = {name: str(self.threads) for name in names}
        return {**os.environ, **threads, "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": str(self.threads > 1).lower()}


def read_last_line(log: Path, code: int) -> str:
    """Return the last line that the last command of a log printed, and the signal that killed it, if any.

    Example:

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "log.txt")
        >>> _ = path.write_text("$ python -m hf_hybrid train\\nloss 3\\nValueError: no\\n\\n")
        >>> read_last_line(path, 1), read_last_line(path, -9)
        ('ValueError: no', 'killed by signal 9 after: ValueError: no')
    """
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    command = max((number for number, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    printed = [line.strip() for line in lines[command + 1 :] if line.strip()]
    line = redact(printed[-1]) if printed else "it printed nothing"
    return f"killed by signal {-code} after: {line}" if code < 0 else line
