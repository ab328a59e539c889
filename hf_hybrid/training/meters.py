"""Meters of a run: its time on host and device, peak memory of the host, and energy.

NVML (a GPU) and RAPL (a processor) measure energy, and codecarbon estimates it; `source` says which one a run used.
Without a meter the energy is None.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

logger = logging.getLogger(__name__)

JOULES_PER_WH = 3600.0
ENERGY_CHOICES = ("auto", "nvml", "rapl", "codecarbon", "none")


def peak_host_memory() -> int:
    """Return the peak memory of this process in bytes: the kernel's high-water mark, if it has one."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux a process inherits its parent's maximum, such as the launcher's.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss)


class Moment:
    """A point in time on the host, and on CUDA also in the queue of the device."""

    def __init__(self, cuda: bool) -> None:
        self.host_s = time.perf_counter()
        self.event = torch.cuda.Event(enable_timing=True) if cuda else None
        if self.event:
            self.event.record()

    def until(self, end: Moment, wait_s: float) -> Callable[[], float]:
        """Return a function that returns the seconds until `end`. On CUDA, synchronize the device before the call."""
        begun, ended = self.event, end.event
        if begun and ended:
            return lambda: begun.elapsed_time(ended) / 1000
        return lambda: end.host_s - self.host_s + wait_s


class Meter(Protocol):
    """Energy since the meter was opened, by physical device: two ranks may read the same one."""

    source: str

    def read_wh(self) -> dict[str, float]:
        """Return watt-hours by device; raise OSError when a device does not answer."""

    def close(self) -> None:
        """Stop measuring."""


class _CounterMeter:
    """Counters of joules that grow, and may start again from 0 at `wrap`.

    Args:
        source (`str`): Name of the meter.
        counters (`Mapping`): For each device a function that reads its counter, in joules.
        wrap (`Mapping`, *optional*): For each device the joules at which its counter starts again.
    """

    def __init__(
        self, source: str, counters: Mapping[str, Callable[[], float]], wrap: Mapping[str, float] | None = None
    ) -> None:
        self.source, self._counters, self._wrap = source, counters, wrap or {}
        self._last = {name: read() for name, read in counters.items()}
        self._joules = dict.fromkeys(counters, 0.0)

    def read_wh(self) -> dict[str, float]:
        for name, read in self._counters.items():
            now = read()
            self._joules[name] += now - self._last[name] + (self._wrap.get(name, 0.0) if now < self._last[name] else 0)
            self._last[name] = now
        return {name: joules / JOULES_PER_WH for name, joules in self._joules.items()}

    def close(self) -> None:
        """Nothing was started that must stop."""


def _open_nvml() -> Meter:
    """Open the energy counter of this process's GPU. It does not include the host."""
    import pynvml

    def read() -> float:
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1000  # counts millijoules
        except pynvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    try:
        pynvml.nvmlInit()
        # By UUID: CUDA_VISIBLE_DEVICES renumbers devices for CUDA only.
        uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
    return _CounterMeter("nvml", {uuid: read})


def _open_rapl(root: Path = Path("/sys/class/powercap")) -> Meter:
    """Open the counters of the processor packages. On most systems only root may read them."""
    zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if (zone / "name").read_text().startswith("package")]
    if not zones:
        raise OSError(f"no processor package under {root}")

    def joules(path: Path) -> float:
        return int(path.read_text()) / 1e6

    counters = {f"{socket.gethostname()}/{zone.name}": partial(joules, zone / "energy_uj") for zone in zones}
    wrap = [joules(zone / "max_energy_range_uj") for zone in zones]
    return _CounterMeter("rapl", counters, dict(zip(counters, wrap, strict=True)))


class _CodeCarbonMeter:
    """codecarbon's offline estimate for the whole machine, by the first rank of each machine."""

    source = "codecarbon"

    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.output_methods.base_output import BaseOutput

        class Sink(BaseOutput):
            energy_wh: float | None = None

            def out(self, total: Any, delta: Any) -> None:
                self.energy_wh = 1000 * total.energy_consumed  # kWh

        self._sink, self._tracker = Sink(), None
        if int(os.environ.get("LOCAL_RANK", 0)):
            return
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        self._tracker = OfflineEmissionsTracker(
            country_iso_code="USA",  # asked for, but only carbon depends on it, which is not used
            output_methods=[],
            output_handlers=[self._sink],
            log_level="error",
            allow_multiple_runs=True,  # without it codecarbon takes over SIGTERM and SIGINT
        )
        self._tracker.start()

    def read_wh(self) -> dict[str, float]:
        if self._tracker is None:
            return {}
        self._tracker.flush()
        if self._sink.energy_wh is None:  # codecarbon logs its own errors and continues
            raise OSError("codecarbon gave no figure")
        return {socket.gethostname(): self._sink.energy_wh}

    def close(self) -> None:
        if self._tracker:
            self._tracker.stop()


_OPEN_METER: dict[str, Callable[[], Meter]] = {
    "nvml": _open_nvml,
    "rapl": _open_rapl,
    "codecarbon": _CodeCarbonMeter,
}


def open_meter(choice: str, cuda: bool) -> Meter | None:
    """Open the energy meter of this rank.

    Args:
        choice (`str`): `nvml` (a meter: this rank's GPU, without the host), `rapl` (a meter: the processor packages),
            `codecarbon` (an *estimate* for the whole machine), `none`, or `auto`: `nvml` where the run is on CUDA,
            else the first of the other two that works here.
        cuda (`bool`): Whether the run is on CUDA.

    Returns:
        `Meter`, or None for `none` and where `auto` finds none.

    Raises:
        ValueError: If the choice is not one of these, or names a meter that does not work here.

    Example:

        >>> open_meter("none", cuda=False) is None
        True
    """
    if choice not in ENERGY_CHOICES:
        raise ValueError(f"energy: got {choice!r}, allowed are {', '.join(ENERGY_CHOICES)}.")
    candidates = {"auto": ["nvml"] if cuda else ["rapl", "codecarbon"], "none": []}.get(choice, [choice])
    for name in candidates:
        try:
            return _OPEN_METER[name]()
        except (ImportError, OSError) as error:
            if choice != "auto":
                raise ValueError(f"energy={choice!r} does not work here ({error}). Use 'auto' or 'none'.") from error
            logger.info("No energy from %s: %s", name, error)
    return None
