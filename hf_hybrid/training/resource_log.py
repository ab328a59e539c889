"""Costs of a run: time, tokens, FLOPs, memory and energy, in total, per language and per language pair.

1. The trainer tells the callback what each batch holds (`ResourceLogCallback.record_step`).
2. The callback takes the time of each step: the host's clock on CPU, CUDA events on CUDA, read without waiting.
3. Where the trainer logs, saves, evaluates or stops, a *window* of steps is closed: the device is waited for, and the
   wall time of the window is shared out over its steps in proportion to (2). Logging, saving and evaluation lie
   between windows, so `train_time_s` has none of them.
4. There the ranks exchange memory peaks, padding, bytes sent and energy; rank 0 writes a line of `resources.jsonl`, at
   the end `resources.json`. Both continue after a resume: the totals travel in the checkpoint's `trainer_state.json`.
5. An evaluation on the way is a line of `curve.jsonl`: quality beside what training has taken so far.

Nothing is invented: what no meter of this machine can tell is null.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from hf_hybrid.models.flops import FLOPS_FORMULA, HEAD_FORMULA, encoder_flops, encoder_shape, head_parameters
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import BytesSent, ResourceLine, Resources, Share
from hf_hybrid.utils import distributed

from . import communication
from .meters import ENERGY_CHOICES, Meter, Moment, open_meter, peak_host_memory

logger = logging.getLogger(__name__)

GIB = 2**30
_RANK_SUMS = ("padding_tokens", "embedding_bytes", "weight_bytes")  # what each rank alone knows
_LINE_SUMS = ("train_time_s", "data_wait_s", "num_steps", "num_pairs", "tokens", "padding_tokens", "energy_wh")


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


@dataclass
class _Totals:
    """Sums over the run so far; the times are those of rank 0's clock."""

    train_time_s: float = 0.0
    setup_time_s: float = 0.0
    data_wait_s: float = 0.0
    num_steps: int = 0
    num_pairs: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    embedding_bytes: int = 0
    weight_bytes: int = 0
    sum_squared_lengths: int = 0
    predicted_tokens: int = 0
    energy_wh: float | None = None
    energy_source: str | None = None
    peak_device_memory_gib: list[float] | None = None
    peak_host_memory_gib: list[float] = field(default_factory=list)
    per_language: dict[str, Share] = field(default_factory=dict)
    per_language_pair: dict[str, Share] = field(default_factory=dict)

    def add_step(self, records: list[StepRecord], time_s: float) -> None:
        """Add one optimizer step, whose time its languages share in proportion to their tokens."""
        per_language: dict[str, int] = {}
        for record in records:
            self.num_pairs += record.pairs
            self.sum_squared_lengths += record.sum_squared_lengths
            self.predicted_tokens += record.predicted_tokens
            self.data_wait_s += record.data_wait_s
            for language, tokens in record.tokens_per_language.items():
                per_language[language] = per_language.get(language, 0) + tokens
        tokens = sum(per_language.values())
        self.num_steps += 1
        self.tokens += tokens
        self.train_time_s += time_s
        _add(self.per_language_pair, records[0].language_pair, tokens, time_s)
        for language, own in per_language.items():
            _add(self.per_language, language, own, time_s * own / tokens if tokens else 0.0)


def _add(shares: dict[str, Share], name: str, tokens: int, time_s: float) -> None:
    share = shares.setdefault(name, {"steps": 0, "tokens": 0, "time_s": 0.0})
    share["steps"] += 1
    share["tokens"] += tokens
    share["time_s"] += time_s


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
        self._shape: tuple[int, int, int] | None = None  # of the encoder, as FLOPS_FORMULA names it
        self._head_parameters = 0
        self._meter: Meter | None = None
        self._begin_run({})

    def _begin_run(self, saved: dict[str, Any]) -> None:
        self.totals = _Totals(**saved.get("totals", {}))
        self._earlier = _Totals(**asdict(self.totals))  # what former processes of this run left
        self._line_start = saved.get("line_start") or _line_start(self.totals)
        self._own = dict.fromkeys(_RANK_SUMS, 0)  # of this rank in this process
        self._records: list[StepRecord] = []  # of the current step
        self._window: list[tuple[list[StepRecord], Callable[[], float]]] = []  # steps and their durations
        self._window_start = 0.0
        self._line: ResourceLine | None = None  # complete but for the loss
        self._training = False

    def record_step(self, record: StepRecord) -> None:
        """Say what a batch holds; once for each batch, before the step that uses it ends."""
        self._records.append(record)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A checkpoint of a run without this callback has no entry for it, and the trainer fills only entries it finds.
        entries: Any = state.stateful_callbacks
        known = entries.setdefault(type(self).__name__, self.state())
        self._begin_run(known["attributes"]["saved"] if state.global_step else {})
        if state.global_step != self.totals.num_steps:
            logger.warning("The checkpoint holds no resource log: totals begin at step %d.", state.global_step)
        if distributed.rank() == 0:
            # Up to the newest line that the totals know: a run that was stopped wrote one more, of its last steps.
            self.folder.keep_resource_lines(state.global_step - self.totals.num_steps + self._line_start["num_steps"])
            if self.folder.curve_path.exists():
                self.folder.keep_curve_lines(state.global_step)
        self._training = True
        self._cuda = args.device.type == "cuda"
        self._shape = encoder_shape(kwargs.get("model"))
        self._head_parameters = head_parameters(kwargs.get("model"))
        self._meter = open_meter(self.energy, self._cuda)
        self.totals.setup_time_s += time.perf_counter() - self._started_at

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
        self.folder.append_curve_line(
            {
                "step": state.global_step,
                "train_time_s": self.totals.train_time_s,
                "tokens": self.totals.tokens,
                "energy_wh": self.totals.energy_wh,
                "measures": measures,
            }
        )

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if distributed.rank() == 0:
            self.folder.write_resources(self.summary())

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._training = False
        self._close_window()
        if self.totals.num_steps > self._line_start["num_steps"]:  # else what the meter reads now is not of a step
            self._exchange()
            self._make_line(state.global_step)
            self._write_line(None)
        if distributed.rank() == 0:
            self.folder.write_resources(self.summary())
        if self._meter:
            self._meter.close()
        self._started_at = time.perf_counter()  # for the set-up of another `train()` of the same trainer

    def state(self) -> dict[str, Any]:
        """Return the totals that the trainer saves in a checkpoint."""
        saved = {"totals": asdict(self.totals), "line_start": self._line_start}
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
            self.totals.add_step(records, wall_s * duration_s / sum(durations_s))
            self._line_start["batch_types"] = sorted(
                {*self._line_start["batch_types"], *(record.batch_type for record in records)}
            )
            self._line_start["language_pairs"] = sorted(
                {*self._line_start["language_pairs"], *(record.language_pair for record in records)}
            )
        self._window = []

    def _exchange(self) -> None:
        """Bring together what each rank alone knows; every rank must come here."""
        own = {
            **self._own,
            "device_gib": torch.cuda.max_memory_allocated() / GIB if self._cuda else None,
            "host_gib": peak_host_memory() / GIB,
            "resident_gib": psutil.Process().memory_info().rss / GIB,
            "energy_source": self._meter.source if self._meter else None,
            "meters": self._read_meter(),
        }
        ranks = distributed.from_all(own)
        totals, earlier = self.totals, self._earlier
        for name in _RANK_SUMS:
            setattr(totals, name, getattr(earlier, name) + sum(rank[name] for rank in ranks))
        totals.peak_host_memory_gib = _highest(earlier.peak_host_memory_gib, [rank["host_gib"] for rank in ranks])
        if all(rank["device_gib"] is not None for rank in ranks):
            devices_gib = [rank["device_gib"] for rank in ranks]
            totals.peak_device_memory_gib = _highest(earlier.peak_device_memory_gib or [], devices_gib)
        totals.energy_wh, totals.energy_source = _sum_energy(ranks, earlier)
        self._resident_gib = max(rank["resident_gib"] for rank in ranks)

    def _read_meter(self) -> dict[str, float]:
        try:
            return self._meter.read_wh() if self._meter else {}
        except OSError as error:
            logger.warning("The energy meter failed, energy_wh will be null: %s", error)
            self._meter = None
            return {}

    def _make_line(self, step: int) -> None:
        now, start = self.totals, self._line_start
        since = {name: (getattr(now, name) or 0) - (start[name] or 0) for name in _LINE_SUMS}
        batch_types, language_pairs = start["batch_types"], start["language_pairs"]
        self._line = {
            "step": step,
            "time_s": since["train_time_s"],
            "pairs": since["num_pairs"],
            "tokens": since["tokens"],
            "padding_tokens": since["padding_tokens"],
            "batch_type": batch_types[0] if len(batch_types) == 1 else None,
            "language_pair": language_pairs[0] if len(language_pairs) == 1 else None,
            "loss": None,
            "data_wait_s": since["data_wait_s"],
            "peak_device_memory_gib": max(now.peak_device_memory_gib) if now.peak_device_memory_gib else None,
            "host_memory_gib": self._resident_gib,
            "energy_wh": None if now.energy_wh is None else since["energy_wh"],
        }
        self._line_start = _line_start(now)

    def _write_line(self, loss: float | None) -> None:
        if self._line and distributed.rank() == 0:
            self.folder.append_resource_line({**self._line, "loss": loss})
        self._line = None

    def summary(self) -> Resources:
        """The totals so far, as `resources.json` has them."""
        totals, time_s = self.totals, self.totals.train_time_s
        flops, formula = self._flops()
        peak_flops = self.peak_flops * distributed.world_size() if self.peak_flops else None
        return {
            "train_time_s": time_s,
            "setup_time_s": totals.setup_time_s,
            "num_steps": totals.num_steps,
            "num_pairs": totals.num_pairs,
            "tokens": totals.tokens,
            "padding_tokens": totals.padding_tokens,
            "pairs_per_s": totals.num_pairs / time_s if time_s else None,
            "tokens_per_s": totals.tokens / time_s if time_s else None,
            "flops": flops,
            "flops_formula": formula,
            "mfu": flops / time_s / peak_flops if flops and time_s and peak_flops else None,
            "peak_device_memory_gib": totals.peak_device_memory_gib,
            "peak_host_memory_gib": totals.peak_host_memory_gib,
            "energy_wh": totals.energy_wh,
            "energy_source": totals.energy_source,
            "per_language": totals.per_language,
            "per_language_pair": totals.per_language_pair,
            "bytes_sent": _bytes_sent(totals),
        }

    def _flops(self) -> tuple[float | None, str]:
        """Operations so far, and the formula with the numbers of the model."""
        totals, shape, predicted = self.totals, self._shape, self.totals.predicted_tokens
        formula = FLOPS_FORMULA + (HEAD_FORMULA if predicted else "")
        if shape is None:
            return None, formula
        numbers = dict(zip(("num_matmul_parameters", "num_layers", "hidden_size"), shape, strict=True))
        if predicted:
            numbers |= {"num_head_parameters": self._head_parameters, "predicted_tokens": predicted}
        flops = encoder_flops(*shape, totals.tokens, totals.sum_squared_lengths)
        flops += 6.0 * self._head_parameters * predicted
        return flops, ", ".join([formula, *(f"{name}={value}" for name, value in numbers.items())])


def _line_start(totals: _Totals) -> dict[str, Any]:
    """Return the start of a line: the sums so far, and no batch types and language pairs yet."""
    return {**{name: getattr(totals, name) for name in _LINE_SUMS}, "batch_types": [], "language_pairs": []}


def _highest(earlier: list[float], now: list[float]) -> list[float]:
    """Peak of each rank over the processes of a run, whose number may have changed."""
    return [max(pair) for pair in zip_longest(earlier, now, fillvalue=0.0)]


def _bytes_sent(totals: _Totals) -> BytesSent | None:
    embeddings, weights = totals.embedding_bytes, totals.weight_bytes
    formula = communication.WEIGHT_BYTES_FORMULA
    return {"embeddings": embeddings, "weights": weights, "formula": formula} if embeddings or weights else None


def _sum_energy(ranks: list[dict[str, Any]], earlier: _Totals) -> tuple[float | None, str | None]:
    """Watt hours and source over all ranks and former processes, each device once; nothing where a part is unknown."""
    sources = {rank["energy_source"] for rank in ranks} | ({earlier.energy_source} if earlier.num_steps else set())
    if len(sources) > 1 or None in sources:
        return None, None
    devices: dict[str, float] = {}
    for rank in ranks:
        for name, energy_wh in rank["meters"].items():
            devices[name] = max(energy_wh, devices.get(name, 0.0))
    return (earlier.energy_wh or 0.0) + sum(devices.values()), sources.pop()
