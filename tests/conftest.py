"""Settings that hold for every test: offline, its own cache, few threads."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HYBRID_CACHE"] = tempfile.mkdtemp(prefix="hf-hybrid-tests-")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
