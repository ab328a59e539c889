"""What the benchmark scripts share: child processes, device and versions, the rate of a matrix product, result files.

1. `run_child` runs one measurement in a fresh process of the same script, so that nothing a former one left behind
   (memory, caches, threads) counts; the script begins with `answer_child`.
2. `device_name`, `versions` and `matrix_rate` say what it was measured on.
3. `write_row` puts a row into the file of results and keeps those of other runs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import torch

from hf_hybrid.training.meters import peak_host_memory

GIB = 2**30
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
OUT_OF_MEMORY = "out of memory"  # stands in a row where the figures of a side would
_OUT_OF_MEMORY_SIGNS = ("outofmemory", "out of memory", "not enough memory", "t allocate memory", "memoryerror")
_KILLED = -9  # by the kernel, where the machine has no memory left


# Step 1: a measurement in a process of its own


def run_child(script: str, job: dict[str, Any]) -> dict[str, Any] | None:
    """Run `script --child JOB` in a fresh process.

    Args:
        script (`str`): The file of the calling script, `__file__`.
        job (`dict[str, Any]`): What `answer_child` gives to the work; goes through JSON.

    Returns:
        `dict[str, Any]`: What the work returned, or None where it ran out of memory.

    Raises:
        RuntimeError: When it failed in another way; the message ends with its error output.
    """
    environment = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "0", **os.environ}
    command = [sys.executable, script, "--child", json.dumps(job)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    if found.returncode == 0:
        return json.loads(found.stdout.splitlines()[-1])
    last_lines = "\n".join(found.stderr.splitlines()[-40:])
    if found.returncode == _KILLED or any(sign in last_lines.lower() for sign in _OUT_OF_MEMORY_SIGNS):
        return None
    raise RuntimeError(f"A measurement failed with exit status {found.returncode}: {job}\n{last_lines}")


def answer_child(work: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Whether this process is such a child; if so the work was done and its result printed as the last line."""
    if len(sys.argv) != 3 or sys.argv[1] != "--child":
        return False
    print("\n" + json.dumps(work(json.loads(sys.argv[2]))), flush=True)
    return True


def peak_memory_gib(device: str) -> float:
    """The most memory that this process held: tensors on a CUDA device, or all of it on the host."""
    return (torch.cuda.max_memory_allocated() if device == "cuda" else peak_host_memory()) / GIB


# Step 2: what it is measured on


def device_name(device: str, threads: int) -> str:
    """The name of the GPU, or the processor with its cores and the threads that are used."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{_processor_name()}, {psutil.cpu_count()} cores, {threads} threads"


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each package, None where it is not installed."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def matrix_rate(device: str, dtype: torch.dtype, size: int | None = None, seconds: float = 1.0) -> float:
    """The most operations a second that a product of two square matrices reaches, by torch's own settings.

    Args:
        device (`str`): `"cpu"` or `"cuda"`.
        dtype (`torch.dtype`): Of the matrices.
        size (`int`, *optional*): Rows and columns; by default 8192 on CUDA and 2048 on CPU.
        seconds (`float`, *optional*, defaults to 1.0): How long to continue; the fastest tenth of that time counts.
    """
    size = size or (8192 if device == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    warm_up_s = [_time_products(a, b, 1) for _ in range(3)]
    repeats = max(1, int(seconds / 10 / min(warm_up_s)))
    return 2 * size**3 * repeats / min(_time_products(a, b, repeats) for _ in range(10))


def _time_products(a: torch.Tensor, b: torch.Tensor, repeats: int) -> float:
    synchronize(a.device.type)
    start = time.perf_counter()
    for _ in range(repeats):
        torch.matmul(a, b)
    synchronize(a.device.type)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


# Step 3: the file of results


def write_row(path: Path, row: dict[str, Any], keys: Iterable[str]) -> None:
    """Add a row to `{"rows": [...]}`, in the place of one with the same values under `keys`; others stay.

    Args:
        path (`Path`): The file; made where there is none.
        row (`dict[str, Any]`): What was measured.
        keys (`Iterable[str]`): What tells one row from another, such as the batch size and the device.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    row, keys = json.loads(json.dumps(row)), tuple(keys)  # as it will be read: tuples are lists then
    rows = [old for old in rows if any(old.get(key) != row.get(key) for key in keys)]
    path.write_text(json.dumps({"rows": [*rows, row]}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
