"""Train multilingual retrievers with hybrid batches, and measure what each language costs.

Public names are imported when they are first used, so that ``import hf_hybrid`` stays fast and needs nothing but the
standard library: the metric and the file formats work where torch is not installed.

Example:

    >>> import hf_hybrid
    >>> "HybridTrainer" in dir(hf_hybrid)
    True
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ParallelCorpus": "data.corpus",
    "load_corpus": "data.sources.load",
    "build_sample_corpus": "data.sources.sample",
    "MixConfig": "data.batches.mix",
    "HybridSchedule": "data.batches.schedule",
    "HybridEncoder": "models.encoder",
    "ModelArguments": "training.arguments",
    "DataArguments": "training.arguments",
    "HybridTrainingArguments": "training.arguments",
    "HybridTrainer": "training.trainer",
    "MlmTrainer": "training.mlm_trainer",
    "run_training": "training.run",
    "evaluate_retrieval": "evaluation.evaluate",
    "evaluate_bm25": "evaluation.evaluate",
    "RunFolder": "records.run_folder",
    "push_run": "hub.push",
    "verify": "verification.verify",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
