"""A machine in numbers: what a plan must know of it, read from a small YAML or JSON file or from a run that was there.

name: H100
device_type: gpu
num_devices: 8
memory_per_device_gib: 79.6
matrix_tflops: 798       # reached in a product of large matrices, not the data sheet's
precision: bf16
interconnect_gb_per_s: 300
host_memory_gib: 1024
price_per_device_hour: 3.0
power_per_device_w: 700
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from hf_hybrid.records.schema import Run

DEVICE_TYPES, PRECISIONS = ("cpu", "gpu"), ("float32", "bf16")
_TEXTS = {"name": None, "device_type": DEVICE_TYPES, "precision": PRECISIONS, "currency": None}


@dataclass(frozen=True)
class Hardware:
    """Description of a machine. `None` means unknown: what depends on it is not predicted.

    Args:
        name (`str`): Runs are of this machine where theirs is the same.
        device_type (`str`, *optional*, defaults to `"gpu"`): `gpu` or `cpu`, where a device is a process of its own.
        num_devices (`int`, *optional*, defaults to 1): Devices that a run may use.
        memory_per_device_gib (`float`, *optional*): Of a device; of a CPU it is the host's that counts.
        matrix_tflops (`float`, *optional*): 10^12 operations a second of a device in a product of large matrices, in
            `precision`; `benchmarks/measuring.py` measures it.
        precision (`str`, *optional*, defaults to `"float32"`): `float32` or `bf16` (which `float16` counts as).
        memory_bandwidth_gb_per_s (`float`, *optional*): 10^9 bytes a second between a device and its memory.
        interconnect_gb_per_s (`float`, *optional*): 10^9 bytes a second that a device can send to another.
        host_memory_gib (`float`, *optional*): Of the host.
        price_per_device_hour (`float`, *optional*): In `currency`.
        currency (`str`, *optional*, defaults to `"USD"`): Of the price.
        power_per_device_w (`float`, *optional*): Drawn by a device at work, with its part of the host.

    Raises:
        ValueError: On a value that cannot be.

    Example:

        >>> Hardware("laptop", device_type="cpu", host_memory_gib=16).num_devices
        1
    """

    name: str
    device_type: str = "gpu"
    num_devices: int = 1
    memory_per_device_gib: float | None = None
    matrix_tflops: float | None = None
    precision: str = "float32"
    memory_bandwidth_gb_per_s: float | None = None
    interconnect_gb_per_s: float | None = None
    host_memory_gib: float | None = None
    price_per_device_hour: float | None = None
    currency: str = "USD"
    power_per_device_w: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name in _TEXTS:
                allowed = _TEXTS[name]
                if not isinstance(value, str) or not value or (allowed and value not in allowed):
                    raise ValueError(f"hardware: {name}: got {value!r}, allowed: {', '.join(allowed or ('a text',))}.")
            elif value is not None and not _is_positive(value):
                raise ValueError(f"hardware: {name}: got {value!r}; allowed is a number above 0, or nothing.")
        if not isinstance(self.num_devices, int):
            raise ValueError(f"hardware: num_devices: got {self.num_devices!r}; allowed is a whole number from 1 on.")


def read_hardware(path: str | Path) -> Hardware:
    """Read a description from a YAML or JSON file.

    Args:
        path (`str` or `Path`): The file; its keys are the arguments of `Hardware`.

    Raises:
        ValueError: When it is not such a file, lacks the name, or has a key that is not known.

    Example:

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "h100.yaml")
        >>> _ = path.write_text("name: H100\\nmemory_per_device_gib: 79.6\\nprecision: bf16\\n")
        >>> read_hardware(path).memory_per_device_gib
        79.6
    """
    try:
        found: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML or JSON file ({error}).") from None
    known = [field.name for field in dataclasses.fields(Hardware)]
    problem = _find_problem(found, known)
    if problem:
        raise ValueError(f"{path}: {problem}; expected name and any of {', '.join(known[1:])}.")
    try:
        return Hardware(**found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _find_problem(found: Any, known: Sequence[str]) -> str | None:
    """Say what is wrong with the keys."""
    if not isinstance(found, dict):
        return f"got {found!r}, which are no lines of `name: value`"
    for key in map(str, found):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            return f"{key} is not known" + (f" (did you mean {near[0]}?)" if near else "")
    return None if "name" in found else "there is no name"


def hardware_of_run(run: Run) -> Hardware:
    """The machine of a run, as far as `run.json` says: memory, rates and prices are not in it.

    Args:
        run (`Run`): Of `RunFolder.read_run`.

    Example:

        >>> run = {"environment": {"platform": "Linux", "cpu_count": 2, "devices": []}, "world_size": 1, "config": {}}
        >>> hardware_of_run(run).name
        'Linux, 2 cores'
    """
    environment, config = run["environment"], run["config"]
    devices, threads = environment.get("devices") or [], config.get("cpu_threads")
    on_cpu = not devices or bool(config.get("use_cpu"))
    host = f"{environment.get('platform', 'an unknown host')}, {environment.get('cpu_count')} cores"
    peak_flops = config.get("peak_flops")
    return Hardware(
        name=host + (f", threads of a process: {threads}" if threads else "") if on_cpu else devices[0],
        device_type="cpu" if on_cpu else "gpu",
        num_devices=max(run["world_size"], 1 if on_cpu else len(devices)),
        matrix_tflops=peak_flops / 1e12 if peak_flops else None,
        precision="bf16" if config.get("bf16") or config.get("fp16") else "float32",
    )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
