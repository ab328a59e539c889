"""The core trains where datasets, evaluate, beir, deepspeed and pyarrow are not installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.recipe_runs import REPOSITORY

PROGRAM = """
    import importlib.util, sys

    MISSING = {"datasets", "evaluate", "beir", "deepspeed", "pyarrow", "babel", "langcodes", "pandas"}
    find_spec = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: (
        None if name.split(".")[0] in MISSING else find_spec(name, package)
    )
    sys.modules.update(dict.fromkeys(MISSING))

    import numpy as np
    import torch

    from hf_hybrid.data.batches.collator import HybridCollator
    from hf_hybrid.models.encoder import HybridEncoder
    from hf_hybrid.training.losses import contrastive_loss
    from hf_hybrid.data.batches.schedule import HybridSchedule
    from hf_hybrid.training.trainer import HybridTrainer


    class Corpus:  # the part of ParallelCorpus that a plan and its batches read
        QUERY, PASSAGE = 0, 1
        languages, groups = ("en", "de"), np.arange(20)
        rows = np.repeat(np.arange(20, dtype=np.int32)[:, None, None], 4).reshape(20, 2, 2)

        def __len__(self): return 20
        def pair_counts(self): return np.full((2, 2), 20)
        def ids_of(self, items): return [str(item) for item in items]


    class Cache:
        def tokens(self, side, language, row): return np.array([2, 5 + int(row), 3])


    texts = [f"word{number} and some more" for number in range(40)]
    encoder = HybridEncoder.from_scratch(texts, hidden_size=16, num_layers=1, num_heads=2, vocab_size=200)
    collator = HybridCollator(HybridSchedule(Corpus(), global_batch_size=8, num_steps=4), Cache())
    inputs = collator(0)
    count = len(inputs["targets"]["query_groups_Q"])
    embeddings = encoder(**inputs["tokens"])
    contrastive_loss(embeddings[:count], embeddings[count:], inputs["targets"]).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert not MISSING & {name for name, module in sys.modules.items() if module is not None}
    print("trained")
"""


@pytest.mark.slow
def test_a_step_runs_without_the_data_packages(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    found = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)}
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.strip() == "trained"
