"""A prediction as a table for people."""

from __future__ import annotations

from .planner import GIB, Prediction
from .planner_model import Estimate


def prediction_table(prediction: Prediction) -> str:
    """The figures of a prediction with their intervals, then the notes, whether it fits and what to change."""
    found, hardware, work = prediction, prediction.hardware, prediction.workload
    rows = [
        ("set-up", found.setup_time_s, "s"),
        ("step", found.step_time_s, "s"),
        ("set-up and training", found.total_time_s.times(1 / 3600), "h"),
        ("memory of a device" if hardware.kind == "gpu" else "memory of a process", found.memory_gib, "GiB"),
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
