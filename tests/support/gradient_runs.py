"""Gradients of one optimizer step for each batch type, plain and in chunks, on any number of ranks.

    LAUNCHER tests/support/gradient_runs.py MODEL CORPUS CACHE OUT

For each case write a folder `OUT/<batch_type>-<plain or cached>` with the model after one step of SGD: the change of a
weight is its gradient. The step averages two batches of one language pair, the second one short: shards are uneven.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from hf_hybrid import HybridEncoder, HybridTrainer, load_corpus
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.utils import distributed

BATCH_TYPES = {"mono": "en->en", "cross": "en->de", "pool": "en->*"}
CHUNKS = {"plain": None, "cached": 40}
LEARNING_RATE = 100.0  # the change of a weight must not drown in the weight's own rounding


def main(model: str, corpus: str, cache: str, out: str) -> None:
    train = load_corpus(corpus, "jsonl", cache_dir=cache)
    for (batch_type, pair), (name, chunk_tokens) in itertools.product(BATCH_TYPES.items(), CHUNKS.items()):
        folder = Path(out) / f"{batch_type}-{name}"
        arguments = HybridTrainingArguments(
            str(folder), mix=f"{batch_type}=1", language_pairs=pair, chunk_tokens=chunk_tokens, max_steps=1,
            optim="sgd",
            gradient_accumulation_steps=2, global_batch_size=15, num_negatives=1, symmetric=True, temperature=0.1,
            learning_rate=LEARNING_RATE, lr_scheduler_type="constant", warmup_steps=0, max_grad_norm=0, energy="none",
            disable_tqdm=True, report_to="none", use_cpu=True,
        )  # fmt: skip
        trainer = HybridTrainer(HybridEncoder.from_pretrained(model), arguments, train, cache_dir=cache)
        strategy = trainer.get_distributed_strategy()
        calls = count_forward_passes(trainer)
        exchanges = count_exchanges(trainer)
        trainer.train()
        trainer.save_model(str(folder / "model"))
        if trainer.is_world_process_zero():
            facts: dict[str, Any] = {"forward_passes": sum(calls), "exchanges": sum(exchanges)}
            facts |= {"strategy": strategy, "world_size": arguments.world_size}
            facts["sharded"] = all(isinstance(weight, DTensor) for weight in trainer.model.parameters())
            (folder / "facts.json").write_text(json.dumps(facts))


def count_forward_passes(trainer: HybridTrainer) -> list[int]:
    calls: list[int] = []
    trainer.model.backbone.embeddings.register_forward_hook(lambda *_: calls.append(1))
    return calls


def count_exchanges(trainer: HybridTrainer) -> list[int]:
    """A 1 for each bucket of gradients that DDP exchanges."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from transformers import TrainerCallback

    found: list[int] = []

    # A lambda, since DDP reads annotations and knows no strings there.
    hook: Any = lambda state, bucket: (found.append(1), allreduce_hook(state, bucket))[1]  # type: ignore[func-returns-value]  # noqa: E731

    class Watch(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel):
                trainer.model_wrapped.register_comm_hook(None, hook)

    trainer.add_callback(Watch())
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Threads of as many groups as there were trainers may abort where they are taken down in Python's own order.
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)
