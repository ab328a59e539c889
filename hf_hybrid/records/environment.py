"""The environment of a run: versions of packages, processor, devices and git revision."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

_CPU_INFO = Path("/proc/cpuinfo")
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "deepspeed")


def find_installed_version(name: str) -> str | None:
    """The version of a distribution; None where it is not installed.

    Example:

        >>> find_installed_version("no such distribution") is None
        True
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_installed_versions() -> dict[str, str]:
    """The version of every distribution, by its name as indexes write it."""
    names = {name for found in importlib.metadata.distributions() if (name := found.metadata["Name"])}
    return {normal_name(name): importlib.metadata.version(name) for name in sorted(names)}


def normal_name(name: str) -> str:
    """A distribution's name as indexes write it.

    Example:

        >>> normal_name("Typing_Extensions")
        'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def environment() -> dict[str, Any]:
    """Return the environment for `run.json`: versions, devices, host, and the git revision of the working directory.

    Example:

        >>> sorted(environment())
        ['cpu', 'cpu_count', 'cpu_threads', 'devices', 'git_revision', 'platform', 'python', 'versions']
    """
    import torch  # not at the top: reading a run's records needs none

    versions = {name: find_installed_version(name) for name in _PACKAGES}
    git = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    revision = subprocess.run(git, capture_output=True, text=True) if shutil.which("git") else None
    return {
        "versions": {name: version for name, version in versions.items() if version is not None},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "cpu_count": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),  # of this process, now
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "git_revision": revision.stdout.strip() if revision and revision.returncode == 0 else None,
    }


def _processor() -> str:
    """The processor's model, and the instructions that torch makes use of: both decide the order of sums."""
    import torch

    lines = _CPU_INFO.read_text(encoding="utf-8").splitlines() if _CPU_INFO.exists() else []
    fields = (line.partition(":") for line in lines)
    named = (value.strip() for name, _, value in fields if name.strip() == "model name")
    model = next(named, "") or platform.processor() or platform.machine()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"
