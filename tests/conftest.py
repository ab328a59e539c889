"""Settings that hold for every test: offline, its own cache, few threads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HYBRID_CACHE"] = tempfile.mkdtemp(prefix="hf-hybrid-tests-")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, a file stays on one worker, for its fixtures, and all files that start processes on the same one.

    Those would take each other's ports and cores.
    """
    starting = {item.path for item in items if item.get_closest_marker("distributed")}
    for item in items:
        name = "several processes" if item.path in starting else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more threads, and lose much where other work runs."""
    import torch  # after the environment is set

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
