"""Costs of a run: time, tokens, FLOPs, memory and energy, in total, per language and per language pair.

1. The trainer tells the callback what each batch holds (`ResourceLogCallback.record_step`).
2. The callback takes the time of each step: the host's clock on CPU, CUDA events on CUDA, read without waiting.
3. Where the trainer logs, saves, evaluates or stops, a *window* of steps is closed: the device is waited for, and the
   wall time of the window is shared out over its steps in proportion to (2). Logging, saving and evaluation lie
   between windows, so `train_time_s` has none of them.
4. There the ranks exchange memory peaks, padding, bytes sent and energy. Rank 0 writes a line of `resources.jsonl` at
   each log, and `resources.json`, the sum of the lines, at each checkpoint and at the end. A checkpoint keeps the sum
   of the lines and the line that was open, in `trainer_state.json`, so both continue after a resume.
5. An evaluation during training is a line of `curve.jsonl`: quality beside what training has taken so far.

What no meter of this machine measures is null.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from hf_hybrid.models.flops import flops_terms
from hf_hybrid.records.resources import add_share, build_resources, count_steps, empty_line, merge_lines
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import ResourceLine, Resources, Share
from hf_hybrid.utils import distributed

from .meters import ENERGY_CHOICES, Meter, Moment, open_meter, peak_host_memory

logger = logging.getLogger(__name__)

GIB = 2**30
_RANK_SUMS = ("padding_tokens", "embedding_bytes", "weight_bytes")  # what each rank alone knows


@dataclass(frozen=True)
class StepRecord:
    """Facts about one batch: sums over ranks, except for padding, waiting time and sent bytes, which are this rank's.

    Args:
        batch_type (`str`): `mono`, `cross`, `pool`, or another trainer's word.
        language_pair (`str`): The language pair, as in `en->de`.
        pairs (`int`): Queries contrasted; 0 where there are none.
        tokens_per_language (`Mapping[str, int]`): Tokens, padding excluded, of each language of the batch.
        sum_squared_lengths (`int`, *optional*, defaults to 0): Sum of the squared sequence lengths, in tokens squared.
        padding_tokens (`int`, *optional*, defaults to 0): Padding that this rank computed on.
        data_wait_s (`float`, *optional*, defaults to 0.0): How long this rank waited for the batch, in seconds.
        embedding_bytes (`int`, *optional*, defaults to 0): What this rank sent of embeddings and their gradients.
        weight_bytes (`int`, *optional*, defaults to 0): What it sent of weights and theirs, by formula.
        predicted_tokens (`int`, *optional*, defaults to 0): Tokens that a language model's head predicts, a sum too.
    """

    batch_type: str
    language_pair: str
    pairs: int
    tokens_per_language: Mapping[str, int]
    sum_squared_lengths: int = 0
    padding_tokens: int = 0
    data_wait_s: float = 0.0
    embedding_bytes: int = 0
    weight_bytes: int = 0
    predicted_tokens: int = 0


class ResourceLogCallback(TrainerCallback, ExportableState):
    """Writes `resources.jsonl` and `resources.json` of a run folder. Add it after the callbacks that ask for a save.

    Args:
        folder (`str` or `Path`): The run folder.
        energy (`str`, *optional*, defaults to `"auto"`): `auto`, `nvml`, `rapl`, `codecarbon` or `none`; see
            `hf_hybrid.training.meters.open_meter`.
        peak_flops (`float`, *optional*): Peak operations per second of one device in the precision used; without it
            `mfu` is null.
        started_at (`float`, *optional*): `time.perf_counter()` when set-up began; by default the callback's making.

    Example:

        >>> import tempfile
        >>> callback = ResourceLogCallback(tempfile.mkdtemp(), energy="none")
        >>> callback.record_step(StepRecord("cross", "en->de", pairs=2, tokens_per_language={"en": 8, "de": 30}))
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        energy: str = "auto",
        peak_flops: float | None = None,
        started_at: float | None = None,
    ) -> None:
        if energy not in ENERGY_CHOICES:
            raise ValueError(f"energy: got {energy!r}, allowed are {', '.join(ENERGY_CHOICES)}.")
        self.folder = RunFolder(folder)
        self.energy, self.peak_flops = energy, peak_flops
        self._started_at = time.perf_counter() if started_at is None else started_at
        self._flops_terms: dict[str, int] | None = None
        self._meter: Meter | None = None
        self._begin_run({})

    def _begin_run(self, saved: dict[str, Any]) -> None:
        self._total: ResourceLine | None = saved.get("total")  # of all lines
        self._earlier: ResourceLine | None = saved.get("open")  # steps since the last line, in an earlier process
        self._line: ResourceLine | None = None  # complete but for the loss
        self._energy_wh: float | None = 0.0  # of this process, at the last line
        self._records: list[StepRecord] = []  # of the current step
        self._window: list[tuple[list[StepRecord], Callable[[], float]]] = []  # steps and their durations
        self._window_start = 0.0
        self._training = False
        self._begin_line(0)

    def _begin_line(self, step: int) -> None:
        self._open = empty_line(step)  # of this process
        self._own = dict.fromkeys(_RANK_SUMS, 0)  # of this rank, since the last line
        self._batch_types: set[str] = set()
        self._language_pairs: set[str] = set()

    def _open_lines(self) -> list[ResourceLine]:
        """Return what is not written yet: a line without its loss, and what earlier processes and this one began."""
        own = self._open if self._open["per_language_pair"] else None
        return [line for line in (self._line, self._earlier, own) if line is not None]

    def _lines_so_far(self) -> list[ResourceLine]:
        """Return the sum of the written lines, and the open ones."""
        return [*([] if self._total is None else [self._total]), *self._open_lines()]

    def record_step(self, record: StepRecord) -> None:
        """Say what a batch holds; once for each batch, before the step that uses it ends."""
        self._records.append(record)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A checkpoint of a run without this callback has no entry for it, and the trainer fills only entries it finds.
        entries: Any = state.stateful_callbacks
        known = entries.setdefault(type(self).__name__, self.state())
        self._begin_run(known["attributes"]["saved"] if state.global_step else {})
        logged = sum(count_steps(line) for line in self._lines_so_far())
        if state.global_step != logged:
            logger.warning("The checkpoint holds no resource log: totals begin at step %d.", state.global_step)
        if distributed.rank() == 0:
            self._keep_lines()
            if self.folder.curve_path.exists():
                self.folder.keep_curve_lines(state.global_step)
        self._training = True
        self._cuda = args.device.type == "cuda"
        self._flops_terms = flops_terms(kwargs.get("model"))
        self._meter = open_meter(self.energy, self._cuda)
        self._open["setup_time_s"] = time.perf_counter() - self._started_at

    def _keep_lines(self) -> None:
        """Drop the lines after the checkpoint. Where the folder lacks those before, their sum is the first line."""
        total = self._total
        self.folder.keep_resource_lines(-1 if total is None else total["step"])
        lines, _ = self.folder.read_resource_lines()
        if total is not None and (not lines or reduce(merge_lines, lines) != total):
            self.folder.keep_resource_lines(-1)
            self.folder.append_resource_line(total)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step_start = Moment(self._cuda)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._records:
            raise ValueError("A step ended without a record: call record_step for every batch, in `training_step`.")
        wait_s = sum(record.data_wait_s for record in self._records)
        if not self._window:
            self._window_start = self._step_start.host_s - wait_s
        for name in _RANK_SUMS:
            self._own[name] += sum(getattr(record, name) for record in self._records)
        self._window.append((self._records, self._step_start.until(Moment(self._cuda), wait_s)))
        self._records = []
        self._settle(state, control)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._settle(state, control)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._write_line(logs["loss"])

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        if not self._training or not metrics or distributed.rank() != 0:
            return
        measures = {name.removeprefix("eval_"): value for name, value in metrics.items() if "/" in name}
        so_far = self.summary()
        self.folder.append_curve_line(
            {
                "step": state.global_step,
                "train_time_s": so_far["train_time_s"],
                "tokens": so_far["tokens"],
                "energy_wh": so_far["energy_wh"],
                "measures": measures,
            }
        )

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._write_resources()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._training = False
        self._close_window()
        if self._open_lines():  # else what the meter reads now is not of a step
            self._exchange()
            self._make_line(state.global_step)
        self._write_line(None)
        self._write_resources()
        if self._meter:
            self._meter.close()
        self._started_at = time.perf_counter()  # for the set-up of another `train()` of the same trainer

    def state(self) -> dict[str, Any]:
        """Return the totals that the trainer saves in a checkpoint."""
        lines = self._open_lines()
        saved = {"total": self._total, "open": reduce(merge_lines, lines) if lines else None}
        arguments = {"energy": self.energy, "peak_flops": self.peak_flops}  # not the folder: checkpoints are published
        return {"args": arguments, "attributes": {"saved": saved}}

    def _settle(self, state: TrainerState, control: TrainerControl) -> None:
        if control.should_log or control.should_save or control.should_evaluate or control.should_training_stop:
            self._close_window()
        if control.should_log or control.should_save or control.should_evaluate:
            self._exchange()
        if control.should_log:
            self._make_line(state.global_step)

    def _close_window(self) -> None:
        if not self._window:
            return
        if self._cuda:
            torch.cuda.synchronize()
        wall_s = time.perf_counter() - self._window_start
        durations_s = [duration() for _, duration in self._window]
        for (records, _), duration_s in zip(self._window, durations_s, strict=True):
            self._add_step(records, wall_s * duration_s / sum(durations_s))
        self._window = []

    def _add_step(self, records: list[StepRecord], time_s: float) -> None:
        """Add one optimizer step to the open line. Its languages share its time in proportion to their tokens."""
        line, per_language = self._open, Counter[str]()
        for record in records:
            line["pairs"] += record.pairs
            line["sum_squared_lengths"] += record.sum_squared_lengths
            line["predicted_tokens"] += record.predicted_tokens
            line["data_wait_s"] += record.data_wait_s
            per_language.update(record.tokens_per_language)
            self._batch_types.add(record.batch_type)
            self._language_pairs.add(record.language_pair)
        line["batch_type"] = min(self._batch_types) if len(self._batch_types) == 1 else None
        line["language_pair"] = min(self._language_pairs) if len(self._language_pairs) == 1 else None
        tokens = sum(per_language.values())
        line["tokens"] += tokens
        line["time_s"] += time_s
        whole: Share = {"steps": 1, "tokens": tokens, "time_s": time_s}
        add_share(line["per_language_pair"], records[0].language_pair, whole)
        for language, own in per_language.items():
            part: Share = {"steps": 1, "tokens": own, "time_s": time_s * own / tokens if tokens else 0.0}
            add_share(line["per_language"], language, part)

    def _exchange(self) -> None:
        """Bring together what each rank alone knows; every rank must come here."""
        meters = self._read_meter()  # before its source: one that fails is no longer there
        own = {
            **self._own,
            "meters": meters,
            "device_gib": torch.cuda.max_memory_allocated() / GIB if self._cuda else None,
            "host_gib": peak_host_memory() / GIB,
            "resident_gib": psutil.Process().memory_info().rss / GIB,
            "energy_source": self._meter.source if self._meter else None,
        }
        ranks, line = distributed.from_all(own), self._open
        for name in _RANK_SUMS:
            line[name] = sum(rank[name] for rank in ranks)  # type: ignore[literal-required]
        line["peak_host_memory_gib"] = [rank["host_gib"] for rank in ranks]
        if all(rank["device_gib"] is not None for rank in ranks):
            line["peak_device_memory_gib"] = [rank["device_gib"] for rank in ranks]
        line["host_memory_gib"] = max(rank["resident_gib"] for rank in ranks)
        self._read_wh, source = _sum_energy(ranks)
        is_known = self._read_wh is not None and self._energy_wh is not None
        line["energy_wh"] = self._read_wh - self._energy_wh if is_known else None  # type: ignore[operator]
        line["energy_source"] = source if is_known else None

    def _read_meter(self) -> dict[str, float]:
        try:
            return self._meter.read_wh() if self._meter else {}
        except OSError as error:
            logger.warning("The energy meter failed, energy_wh will be null: %s", error)
            self._meter = None
            return {}

    def _make_line(self, step: int) -> None:
        self._line = {**reduce(merge_lines, self._open_lines()), "step": step}
        self._earlier, self._energy_wh = None, self._read_wh
        self._begin_line(step)

    def _write_line(self, loss: float | None) -> None:
        if self._line is None:
            return
        line, self._line = self._line | {"loss": loss}, None
        self._total = line if self._total is None else merge_lines(self._total, line)
        if distributed.rank() == 0:
            self.folder.append_resource_line(line)

    def _write_resources(self) -> None:
        if distributed.rank() == 0:
            self.folder.write_resources(self.summary())

    def summary(self) -> Resources:
        """Return the totals so far, as `resources.json` has them."""
        peak_flops = self.peak_flops and self.peak_flops * distributed.world_size()
        return build_resources(self._lines_so_far() or [empty_line(0)], self._flops_terms, peak_flops)


def _sum_energy(ranks: list[dict[str, Any]]) -> tuple[float | None, str | None]:
    """Return watt hours of this process's ranks, each device once, and their source; nothing where a rank has none."""
    sources = {rank["energy_source"] for rank in ranks}
    if len(sources) > 1 or None in sources:
        return None, None
    devices: dict[str, float] = {}
    for rank in ranks:
        for name, energy_wh in rank["meters"].items():
            devices[name] = max(energy_wh, devices.get(name, 0.0))
    return sum(devices.values()), sources.pop()
