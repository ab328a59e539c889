"""Prediction of the cost of a run, from measured runs and the description of a machine.

1. `CostModel`s learn set-up, step time and memory from the causes that `Workload` names, on one machine in one
   precision (see `scaling/planner/cost_model.py` for the intervals).
2. For that machine, they predict. For another, operations are scaled by the rates of the matrix products, what moves
   memory by the bandwidths, and what the host does not at all; where a bandwidth is not known the interval goes from
   one of these to the other. Of memory, weights and states are counted, and layers' outputs are taken for what was
   measured, give or take a factor of two. No run was made there, so such an interval says no level.
3. What devices send each other is counted (`Workload.bytes_sent`). Its time is learned where runs of several devices
   are among the measured ones; else it is bytes over the interconnect's rate, and the interval goes from all of it
   hidden behind the computation to none.
4. Where the memory is not enough, `scaling/planner/advice.py` says what to change.

    prediction = plan([RunFolder("runs/a"), ...], read_hardware("machine.yaml"), Workload(...))
    print(prediction_table(prediction))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_hybrid.data.batches.mix import MixConfig
from hf_hybrid.records.archive import open_trials
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import is_mlm
from hf_hybrid.utils.options import option, split_words

from .advice import advice_for
from .cost_model import FARTHEST, LEVEL, CostModel, Estimate
from .hardware import Hardware, read_hardware
from .measured_runs import Measured, read_measured
from .workload import ModelSize, Workload

GIB = 2**30
Causes = Mapping[str, Callable[[Workload], float]]

STEP: Causes = {
    "batches": lambda work: work.batches_per_step,
    "passes through layers": lambda work: work.passes * work.model.num_layers,
    "operations": lambda work: work.flops,
    "layers' outputs": lambda work: work.activations,
    "gradients": lambda work: work.passes * work.trained_parameters,
    "updated weights": lambda work: work.updated_parameters,
    "texts of a batch": lambda work: work.sequences * work.batches_per_step / work.num_devices,
}
SETUP: Causes = {
    "a run": lambda work: 1.0,
    "texts": lambda work: work.texts,
    "languages": lambda work: work.languages,
    "language_pairs": lambda work: work.planned_pairs,
    "weights": lambda work: work.model.parameters,
    "evaluation before training": lambda work: work.evaluation_flops,
}
TRAINING_MEMORY: Causes = {
    "a run": lambda work: 1.0,
    "weights, gradients and optimizer states": lambda work: work.state_bytes,
    "layers' outputs that are kept": lambda work: work.kept_activations,
    "embeddings that are kept": lambda work: work.kept_embeddings,
}
_KEPT = ("layers' outputs that are kept", "embeddings that are kept")
HOST_MEMORY: Causes = {
    "a run": lambda work: 1.0,
    "weights": lambda work: work.model.parameters,
    "texts": lambda work: work.texts,
}
_WIDTHS = {"float32": 4, "bf16": 2}
_BY_THE_HOST = ("batches", "passes through layers", "texts of a batch")


@dataclass(frozen=True)
class Prediction:
    """Predicted costs of a run. `None` means unknown.

    Args:
        hardware (`Hardware`): Where.
        workload (`Workload`): What it has to do.
        measured_on (`str`): The machine of the measured runs.
        num_runs (`int`): How many those are.
        setup_time_s (`Estimate`): Until training begins, the evaluation before it included.
        step_time_s (`Estimate`): Of a step.
        total_time_s (`Estimate`): Set-up and all steps; without checkpoints and the evaluation after training.
        memory_gib (`Estimate`): Peak until training ends, of a device; on a CPU, of a process.
        host_memory_gib (`Estimate`, *optional*): Peak of a process on the host, for GPUs.
        energy_wh (`Estimate`, *optional*): Of all devices.
        cost (`Estimate`, *optional*): In the currency of the hardware.
        bytes_sent_per_step (`float`): By each device.
        memory_limit_gib (`float`, *optional*): What there is for `memory_gib`.
        fits (`bool`, *optional*): True where the high end does, False where the value does not; None in between, and
            where limit or interval are not known.
        notes (`list[str]`): On what the figures rest, and where they go beyond what was measured.
        advice (`list[str]`): What to change where the run will not fit, or may not.
    """

    hardware: Hardware
    workload: Workload
    measured_on: str
    num_runs: int
    setup_time_s: Estimate
    step_time_s: Estimate
    total_time_s: Estimate
    memory_gib: Estimate
    host_memory_gib: Estimate | None
    energy_wh: Estimate | None
    cost: Estimate | None
    bytes_sent_per_step: float
    memory_limit_gib: float | None
    fits: bool | None
    notes: list[str]
    advice: list[str]

    def as_json(self) -> dict[str, Any]:
        """All of it, for a file: estimates as objects with `value`, `low`, `high` and `level`."""
        found = dataclasses.asdict(self)
        for name, value in vars(self).items():
            if isinstance(value, Estimate):
                found[name] = value._asdict()
        return found


def plan(
    measured: Sequence[RunFolder | Measured],
    hardware: Hardware | None,
    wanted: Workload,
    measured_on: Hardware | None = None,
    level: float = LEVEL,
) -> Prediction:
    """Predict what a run will take.

    Args:
        measured (`Sequence[RunFolder]`): Runs that were made, with batches, models and corpora like the wanted one and
            smaller and larger; 20 or so make intervals of 90%, fewer make wider ones or say a lower level.
        hardware (`Hardware`, *optional*): Where the run will be; by default where the measured ones were.
        wanted (`Workload`): What it has to do.
        measured_on (`Hardware`, *optional*): The machine of the measured runs with what `run.json` does not know of
            it: `matrix_tflops` must be given, or `peak_flops` in the runs, to plan for another machine.
        level (`float`, *optional*, defaults to `0.9`): Of the intervals, as far as the number of runs admits it.

    Returns:
        `Prediction`: See there; `prediction_table` makes a text of it.

    Raises:
        ValueError: When the runs are too few or of several machines, or a rate that is needed is not known.

    Example:

        >>> from hf_hybrid.scaling.planner.workload import ModelSize
        >>> def work(width, batch_size):
        ...     return Workload(4, 1000, ModelSize(2, width, 8000), batch_size, tokens_per_text=10, steps=100)
        >>> laptop = Hardware("laptop", device_type="cpu", host_memory_gib=8)
        >>> runs = [
        ...     Measured(str(n), laptop, work(width, n), work(width, n).flops / 1e10, 3.0, 0.5 + n / 1000, None, None)
        ...     for width in (64, 128, 256) for n in (16, 32, 64, 128)
        ... ]
        >>> found = plan(runs, laptop, work(128, 48))
        >>> found.fits, round(found.step_time_s.value, 3), round(work(128, 48).flops / 1e10, 3)
        (True, 0.23, 0.23)
    """
    runs = [read_measured(run) if isinstance(run, RunFolder) else run for run in measured]
    return Planner(runs, hardware, measured_on, level).predict(wanted)


class Learned:
    """One cost, as the sum of its causes that measured runs say.

    Args:
        causes (`Mapping[str, Callable]`): By name, how much of it a workload has.
        runs (`Sequence[Measured]`): To learn from.
        costs (`Sequence[float]`): What each took.
    """

    def __init__(self, causes: Causes, runs: Sequence[Measured], costs: Sequence[float]) -> None:
        self.causes = causes
        causes_NF = np.array([self.amounts(run.workload) for run in runs])
        self.model = CostModel(list(causes), causes_NF, np.array(costs, dtype=float))

    def amounts(self, work: Workload) -> np.ndarray:
        """Return the amount of each cause, in the order of the weights."""
        return np.array([amount(work) for amount in self.causes.values()], dtype=float)

    def estimate(self, work: Workload, level: float = LEVEL) -> Estimate:
        """See [`CostModel.estimate`]."""
        return self.model.estimate(self.amounts(work), level)

    def beyond(self, work: Workload) -> dict[str, float]:
        """See [`CostModel.beyond`]."""
        return self.model.beyond(self.amounts(work))


class Planner:
    """Learns from runs once, for any number of predictions.

    Args:
        measured (`Sequence[Measured]`): As in `plan`, read.
        hardware (`Hardware`, *optional*): As in `plan`.
        measured_on (`Hardware`, *optional*): As in `plan`.
        level (`float`, *optional*, defaults to `0.9`): As in `plan`.
    """

    def __init__(
        self,
        measured: Sequence[Measured],
        hardware: Hardware | None = None,
        measured_on: Hardware | None = None,
        level: float = LEVEL,
    ) -> None:
        self.runs, self.level = _of_one_machine(measured, hardware), level
        place = self.runs[0].hardware
        self.measured_on = measured_on or place
        self.hardware = hardware or self.measured_on
        self.same = (self.hardware.name, self.hardware.precision) == (place.name, place.precision)
        self.on_gpu = self.hardware.device_type == "gpu"
        self.halved = self.hardware.precision == "bf16"
        self.learned_bytes = self.same and any(run.workload.num_devices > 1 for run in self.runs)
        exchange: Causes = {"bytes sent": self.bytes_sent} if self.learned_bytes else {}
        self.step = Learned({**STEP, **exchange}, self.runs, [run.step_time_s for run in self.runs])
        self.setup = Learned(SETUP, self.runs, [run.setup_time_s for run in self.runs])
        host_gib = [run.host_memory_gib for run in self.runs]
        device_gib = [run.device_memory_gib for run in self.runs if run.device_memory_gib is not None]
        measured_gpus = place.device_type == "gpu" and len(device_gib) == len(self.runs)
        on_host: Causes = {} if measured_gpus else {"texts": HOST_MEMORY["texts"]}
        self.memory = Learned({**TRAINING_MEMORY, **on_host}, self.runs, device_gib if measured_gpus else host_gib)
        self.host = Learned(HOST_MEMORY, self.runs, host_gib)
        self.alike = self.on_gpu == measured_gpus

    def predict(self, work: Workload) -> Prediction:
        """Predict the costs of a workload, and what to change if it does not fit.

        Args:
            work (`Workload`): What a run has to do.
        """
        if work.num_devices > self.hardware.num_devices:
            raise ValueError(
                f"num_devices={work.num_devices}, but {self.hardware.name} has {self.hardware.num_devices}: plan for "
                "fewer, or correct its num_devices."
            )
        setup, step, memory = self._setup(work), self.step_time(work), self.memory_gib(work)
        total = setup.plus(step.times(work.steps))
        limit = self.memory_limit_gib(work)
        enough = fits(memory, limit)
        advice = []
        if limit is not None and (enough is False or (enough is None and memory.high is not None)):
            advice = advice_for(work, limit, self.memory_gib, self.step_time, self.hardware.num_devices)
        return Prediction(
            hardware=self.hardware,
            workload=work,
            measured_on=self.measured_on.name,
            num_runs=len(self.runs),
            setup_time_s=setup,
            step_time_s=step,
            total_time_s=total,
            memory_gib=memory,
            host_memory_gib=self._host_memory_gib(work),
            energy_wh=self._energy_wh(work, total),
            cost=self._cost(work, total),
            bytes_sent_per_step=self.bytes_sent(work),
            memory_limit_gib=limit,
            fits=enough,
            notes=self._notes(work),
            advice=advice,
        )

    # Steps 1 to 3

    def step_time(self, work: Workload) -> Estimate:
        """Predict the time of a step in seconds."""
        sent, found = self.bytes_sent(work), self.step.estimate(work, self.level)
        if not self.same:
            times_F = self.step.amounts(work) * self.step.model.weights
            found = _moved(found, *(float(times_F @ scale_F) for scale_F in self._scales()))
        if not sent or self.learned_bytes:
            return found
        rate = self.hardware.interconnect_gb_per_s
        if rate is None:
            raise ValueError(
                f"{work.num_devices} devices send {sent / 1e9:.2f} GB each in a step, but how fast "
                f"{self.hardware.name} sends is not known: give its interconnect_gb_per_s, or runs measured "
                "there on several devices."
            )
        exchange_s = sent / (rate * 1e9)
        low = None if found.low is None else max(found.low, exchange_s)
        high = None if found.high is None else found.high + exchange_s
        return Estimate(found.value + exchange_s, low, high, None)

    def bytes_sent(self, work: Workload) -> float:
        """By each device in a step."""
        return work.bytes_sent(self.halved)

    def memory_gib(self, work: Workload) -> Estimate:
        """Predict the memory of a device, or of a process on a CPU."""
        if self.same:
            return self.memory.estimate(work, self.level)
        parts = dict(zip(self.memory.causes, self.memory.amounts(work) * self.memory.model.weights, strict=True))
        narrower = _WIDTHS[self.hardware.precision] / _WIDTHS[self.runs[0].hardware.precision]
        kept = narrower * float(sum(parts[name] for name in _KEPT))
        value = (float(parts["a run"]) if self.alike else 0.0) + work.state_bytes / GIB + kept
        return Estimate(value, value - kept / 2, value + kept, None)

    def memory_limit_gib(self, work: Workload) -> float | None:
        """Return the available memory of a device, or of each process of a CPU."""
        if self.on_gpu:
            return self.hardware.memory_per_device_gib
        host_gib = self.hardware.host_memory_gib
        return host_gib / work.num_devices if host_gib else None

    def _setup(self, work: Workload) -> Estimate:
        found = self.setup.estimate(work, self.level)
        return found if self.same else found._replace(level=None)

    def _host_memory_gib(self, work: Workload) -> Estimate | None:
        """Predict host memory beside GPUs; another type of machine does not predict it."""
        return self.host.estimate(work, self.level) if self.on_gpu and self.same else None

    def _energy_wh(self, work: Workload, total: Estimate) -> Estimate | None:
        power_w = self.power_w(work)
        return total.times(power_w / 3600)._replace(level=None) if power_w else None

    def power_w(self, work: Workload) -> float | None:
        """Return the power of all devices: the median of the measured runs, or that of the machine's description."""
        measured_w = [run.power_w / run.workload.num_devices for run in self.runs if run.power_w]
        if self.same and len(measured_w) == len(self.runs):
            return float(np.median(measured_w)) * work.num_devices
        known_w = self.hardware.power_per_device_w
        return known_w * work.num_devices if known_w else None

    def _cost(self, work: Workload, total: Estimate) -> Estimate | None:
        price = self.hardware.price_per_device_hour
        return total.times(price * work.num_devices / 3600) if price else None

    def _scales(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest factor on each cause's time on the other machine."""
        here, there = self.measured_on, self.hardware
        if here.matrix_tflops is None or there.matrix_tflops is None:
            raise ValueError(
                f"No run was measured on {there.name!r} in {there.precision} (they are of {here.name!r} in "
                f"{self.runs[0].hardware.precision}), so matrix_tflops must be known of both: describe the "
                "machine of the runs with --measured_on FILE. Where it is the same machine, give it that name."
            )
        operations = here.matrix_tflops / there.matrix_tflops
        rates = here.memory_bandwidth_gb_per_s, there.memory_bandwidth_gb_per_s
        moved = [rates[0] / rates[1]] * 2 if rates[0] and rates[1] else sorted((operations, 1.0))
        pairs = [(1.0, 1.0) if name in _BY_THE_HOST else moved for name in STEP]
        pairs[list(STEP).index("operations")] = (operations, operations)
        fast, slow = np.array(pairs).T
        return fast, slow

    def _notes(self, work: Workload) -> list[str]:
        notes = []
        for what, learned in {"step time": self.step, "set-up": self.setup, "memory": self.memory}.items():
            for name, factor in learned.beyond(work).items():
                times = f"{factor:.1f} times" if math.isfinite(factor) else "none of it was"
                end = "there is no interval" if factor > FARTHEST else "the interval is wider and says no level"
                notes.append(f"{what}: {name} beyond what was measured ({times}), so that {end}.")
        if not self.same:
            notes.append(
                f"No run was measured on {self.hardware.name} in {self.hardware.precision}: figures are carried over "
                f"from {self.measured_on.name}, and no interval says a level."
            )
        if work.num_devices > 1 and not self.learned_bytes:
            notes.append("The exchange between devices is by formula: bytes over the interconnect's rate.")
        if (power_w := self.power_w(work)) is not None:
            notes.append(f"Energy is time at {power_w:,.0f} W.")
        return notes


def fits(memory: Estimate, limit_gib: float | None) -> bool | None:
    """True where the high end of the memory is within the limit, False where the value is not; else None.

    Example:

        >>> fits(Estimate(5.0, 4.0, 7.0, 0.9), 6.0) is None, fits(Estimate(5.0, 4.0, 5.5, 0.9), 6.0)
        (True, True)
    """
    if limit_gib is None:
        return None
    if memory.value > limit_gib:
        return False
    return True if memory.high is not None and memory.high <= limit_gib else None


def _of_one_machine(measured: Sequence[Measured], hardware: Hardware | None) -> list[Measured]:
    """Return the runs of the machine, else all, which must be of one machine."""
    own = [
        run
        for run in measured
        if hardware and (run.hardware.name, run.hardware.precision) == (hardware.name, hardware.precision)
    ]
    runs = own or list(measured)
    machines = sorted({f"{run.hardware.name} in {run.hardware.precision}" for run in runs})
    if len(machines) != 1:
        raise ValueError(
            f"Runs of one machine in one precision are needed; got {len(machines)}: {'; '.join(machines)}."
        )
    return runs


def _moved(found: Estimate, fast: float, slow: float) -> Estimate:
    """An estimate on another machine, whose value is between these; relative ends stay as they were."""
    low = None if found.low is None else fast * found.low / found.value
    high = None if found.high is None else slow * found.high / found.value
    return Estimate(math.sqrt(fast * slow), low, high, None)


def prediction_table(prediction: Prediction) -> str:
    """The figures of a prediction with their intervals, then the notes, whether it fits and what to change."""
    found, hardware, work = prediction, prediction.hardware, prediction.workload
    rows = [
        ("set-up", found.setup_time_s, "s"),
        ("step", found.step_time_s, "s"),
        ("set-up and training", found.total_time_s.times(1 / 3600), "h"),
        ("memory of a device" if hardware.device_type == "gpu" else "memory of a process", found.memory_gib, "GiB"),
        ("memory of a process on the host", found.host_memory_gib, "GiB"),
        ("energy", found.energy_wh, "Wh"),
        ("cost", found.cost, hardware.currency),
    ]
    head = (
        f"{work.languages} languages, {work.steps} steps of {work.batch_size:,.0f} queries, "
        f"{work.model.parameters / 1e6:,.1f} million weights, {work.num_devices} x {hardware.name}; "
        f"learned from {found.num_runs} runs"
    )
    lines = [head, f"{'':<32}{'predicted':>12}   interval"]
    lines += [_table_line(name, estimate, unit) for name, estimate, unit in rows if estimate is not None]
    if prediction.bytes_sent_per_step:
        lines.append(
            f"{'sent by each device in a step':<32}{prediction.bytes_sent_per_step / GIB:>12.3g} GiB (counted)"
        )
    if prediction.memory_limit_gib is not None:
        unknown = "Whether it fits cannot be said" if prediction.memory_gib.high is None else "It may not fit"
        word = {True: "It fits", False: "It will not fit", None: unknown}[prediction.fits]
        lines.append(f"{word}: there are {prediction.memory_limit_gib:.3g} GiB.")
    lines += [f"- {text}" for text in prediction.advice]
    return "\n".join([*lines, *(f"Note: {text}" for text in prediction.notes)])


def _table_line(name: str, estimate: Estimate, unit: str) -> str:
    low, high, level = estimate.low, estimate.high, estimate.level
    interval = "none" if low is None or high is None else f"{low:.3g} to {high:.3g}"
    rate = "" if low is None else f" ({level:.0%})" if level is not None else " (no level)"
    return f"{name:<32}{estimate.value:>12.3g} {unit:<4}{interval}{rate}"


_SIZES = ("num_layers", "hidden_size", "vocabulary", "num_parameters")


def plan_from_study(study_dir: str, counts: Sequence[int], wanted: PlanArguments) -> Prediction:
    """Predict a run on a machine.

    Args:
        study_dir (`str`): Folder of the study, which has the measured runs.
        counts (`Sequence[int]`): The number of languages that is wanted; exactly one.
        wanted (`PlanArguments`): The machine, and what is known of the run.

    Raises:
        ValueError: When there are no runs to learn from, more than one L is asked for, or a machine is not described.
    """
    if len(counts) != 1:
        given = ",".join(map(str, counts))
        raise ValueError(f"languages={given}: a plan is of one number of languages; give the one wanted.")
    assert wanted.plan is not None
    hardware = _machine("plan", wanted.plan)
    measured_on = _machine("measured_on", wanted.measured_on) if wanted.measured_on else None
    with open_trials(study_dir) as folder:
        paths = wanted.folders(str(folder))
        runs = [read_measured(RunFolder(path)) for path in paths if wanted.runs or _teaches(path)]
    if not runs:
        raise ValueError(f"{study_dir} has no finished training to learn from; name run folders with --runs.")
    work = build_workload(runs, counts[0], {"num_devices": hardware.num_devices, **wanted.list_given()})
    return plan(runs, hardware, work, measured_on)


def _machine(option: str, path: str) -> Hardware:
    if not Path(path).is_file():
        raise ValueError(f"--{option} {path}: there is no such file. It describes a machine; see recipes/README.md.")
    return read_hardware(path)


def _teaches(path: Path) -> bool:
    """Return whether a trial is a finished contrastive training."""
    if not (path / "run.json").exists():
        return False
    run = RunFolder(path).read_run()
    return run["status"] == "finished" and not is_mlm(run)


def build_workload(runs: Sequence[Measured], languages: int, given: Mapping[str, Any]) -> Workload:
    """The workload of the measured run with the most languages, of the same mix where there is one, but for these.

    Args:
        runs (`Sequence[Measured]`): Measured.
        languages (`int`): L.
        given (`Mapping[str, Any]`): Fields of `Workload` and of `ModelSize`.
    """
    mix = str(MixConfig.parse(given["mix"]))
    alike = [run for run in runs if str(MixConfig.parse(run.workload.mix)) == mix] or list(runs)
    work = max(alike, key=lambda run: run.workload.languages).workload
    sizes = {name: given[name] for name in _SIZES if name in given}
    model = work.model
    if sizes:
        model = ModelSize(**{name: getattr(model, name) for name in _SIZES[:3]} | sizes)
    rest = {name: value for name, value in given.items() if name not in _SIZES}
    return dataclasses.replace(
        work, **{**rest, "mix": mix, "languages": languages, "model": model, "language_pairs": None}
    )


@dataclass
class PlanArguments:
    """The run that `--plan` predicts: as the largest measured one of its mix, but for what is given."""

    plan: str | None = option(None, "YAML file of a machine: predict a run there from the runs of the study.")
    runs: str | None = option(None, "Comma-separated run folders to learn from; by default the trials of the study.")
    measured_on: str | None = option(None, "YAML file of the machine that those runs were made on.")
    items: int | None = option(None, "Items of each language.")
    num_layers: int | None = option(None, "Layers of the encoder.")
    hidden_size: int | None = option(None, "Width of the encoder.")
    vocabulary: int | None = option(None, "Rows of its embedding tables together.")
    num_parameters: int | None = option(None, "All its weights; by default those of the layers and tables.")
    batch_size: int | None = option(None, "Queries that a batch contrasts, over all devices.")
    tokens_per_text: float | None = option(None, "Mean length of queries and passages.")
    steps: int | None = option(None, "Optimizer steps.")
    mix: str = option("mono=0.5,cross=0.5", "Shares of the batch types.")
    num_devices: int | None = option(None, "Devices of the run; by default all of the machine.")
    strategy: str | None = option(None, "ddp, zero1, zero2, zero3 or fsdp2.")
    chunk_tokens: int | None = option(None, "Most tokens of one forward pass of a device.")
    gradient_checkpointing: bool | None = option(None, "Keep the layers' inputs only.")

    def list_given(self) -> dict[str, Any]:
        """Return the given options of the run.

        Example:

            >>> PlanArguments(batch_size=64).list_given()
            {'mix': 'mono=0.5,cross=0.5', 'batch_size': 64}
        """
        excluded = ("plan", "runs", "measured_on", "mix")
        found = {name: value for name, value in dataclasses.asdict(self).items() if name not in excluded}
        return {"mix": self.mix, **{name: value for name, value in found.items() if value is not None}}

    def folders(self, study_dir: str) -> list[Path]:
        """The run folders that are named, else those of the study."""
        return (
            [Path(word) for word in split_words(self.runs)]
            if self.runs
            else sorted(Path(study_dir, "trials").glob("*"))
        )
