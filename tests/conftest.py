"""Settings that hold for every test: offline, its own cache, few threads."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HYBRID_CACHE"] = tempfile.mkdtemp(prefix="hf-hybrid-tests-")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, a file stays on one worker, for its fixtures; the two whose commands take port 29500, on the same."""
    for item in items:
        takes_port = item.path.name in ("test_readme.py", "test_accelerate_configs.py")
        item.add_marker(pytest.mark.xdist_group("port 29500" if takes_port else item.path.name))


@pytest.fixture(autouse=True)
def usual_verbosity() -> Iterator[None]:
    """Runs set that of transformers for the whole process, and what later ones print depends on it."""
    yield
    if "transformers" in sys.modules:
        sys.modules["transformers"].logging.set_verbosity_warning()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more threads, and lose much where other work runs."""
    import torch  # after the environment is set

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
