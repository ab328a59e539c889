"""Memory and speed as the batch grows: all at once, in chunks (GradCache), and sentence-transformers' cached loss.

    python benchmarks/gradcache_memory.py --json FILE --lengths LENGTHS.json --size xlmr-base --batch_sizes 256,1024

1. *training*: for each batch size a row with `plain` (ours, all at once), `ours` (in chunks of `--chunk_tokens`) and
   `peer` (`CachedMultipleNegativesRankingLoss` with `--peer_mini_batch` pairs), measured as in `train_throughput.py`:
   the same model, texts and order, equal losses of the first step, processes of their own. By default a chunk has as
   many tokens as the peer's mini batch with its padding at most: mini batch * (longest query + longest passage).
2. *loss*: for each of `--loss_batch_sizes`, the memory that the loss alone takes over its input, forward and backward
   on random embeddings, beside the size of the matrix of all scores. In a plain loss it grows with the square of the
   batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from measuring import (
    GIB,
    OUT_OF_MEMORY,
    answer_child,
    device_name,
    peak_memory_gib,
    run_child,
    synchronize,
    versions,
    write_row,
)
from throughput_input import Job, prepare
from train_throughput import PACKAGES, ROW_KEYS, add_arguments, check_requirements, compare_jobs, line, numbers

from hf_hybrid.data.batches.collator import Targets
from hf_hybrid.training.losses import contrastive_loss

LOSS_KEYS = ("comparison", "batch_size", "embedding_size", "device")


# Step 1: training


def compare_training(args: argparse.Namespace, batch_size: int, folder: Path) -> dict[str, Any]:
    """The row of a batch size."""
    ours, inputs = prepare(args, batch_size, folder)
    return compare_jobs(jobs_of(ours, args), inputs, args.rounds, "gradcache")


def jobs_of(ours: Job, args: argparse.Namespace) -> dict[str, Job]:
    """Ours at once and in chunks, and the peer's."""
    lengths = np.array(json.loads(args.lengths.read_text()))
    chunk_tokens = args.chunk_tokens or args.peer_mini_batch * int(lengths.max(axis=0).sum())
    return {
        "plain": dataclasses.replace(ours, chunk_tokens=None),
        "ours": dataclasses.replace(ours, chunk_tokens=chunk_tokens),
        "peer": dataclasses.replace(ours, side="peer"),
    }


# Step 2: the loss alone


def compare_loss(args: argparse.Namespace, batch_size: int) -> dict[str, Any]:
    """The row of a batch size: what the loss takes over its input."""
    job = {"batch_size": batch_size, "embedding_size": args.embedding_size}
    found = run_child(__file__, {**job, "device": args.device, "threads": args.threads})
    return {
        "comparison": "loss",
        **job,
        "ours": found["ours"] if found else OUT_OF_MEMORY,
        "score_matrix_gib": 4 * batch_size**2 / GIB,
        "device": found["device"] if found else args.device,
        "versions": versions(PACKAGES),
    }


def measure_loss(job: dict[str, Any]) -> dict[str, Any]:
    """The child: forward and backward of the loss of as many queries as passages."""
    torch.set_num_threads(job["threads"])
    device, count = job["device"], job["batch_size"]
    generator = torch.Generator(device).manual_seed(0)
    queries_BD, passages_CD = (
        torch.nn.functional.normalize(
            torch.randn(count, job["embedding_size"], device=device, generator=generator), dim=1
        ).requires_grad_()
        for _ in range(2)
    )
    items = torch.arange(count, device=device)
    targets = Targets(
        query_groups_Q=items,
        passage_groups_G=items,
        positive_query_P=items,
        positive_passage_P=items,
        query_counts=(count,),
        passage_counts=(count,),
        num_positives=count,
        rank=0,
    )
    before_gib = held_memory_gib(device)
    synchronize(device)
    start = time.perf_counter()
    contrastive_loss(queries_BD, passages_CD, targets).backward()
    synchronize(device)
    time_s = time.perf_counter() - start
    ours = {"time_s": time_s, "memory_gib": peak_memory_gib(device) - before_gib}
    return {"ours": ours, "device": device_name(device, job["threads"])}


def held_memory_gib(device: str) -> float:
    """What this process holds now, as `peak_memory_gib` counts it."""
    return (torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss) / GIB


def loss_line(row: dict[str, Any]) -> str:
    """A row for people."""
    found, matrix = row["ours"], f"one matrix of scores {row['score_matrix_gib']:.3f} GiB"
    if isinstance(found, dict):
        found = f"{found['memory_gib']:.3f} GiB over its input, {found['time_s']:.2f} s"
    return f"loss batch {row['batch_size']} | ours: {found} | {matrix}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.set_defaults(batch_sizes=[256, 1024, 4096, 16384], steps=2, warmup_steps=1, rounds=1)
    parser.set_defaults(corpus=None, model=None, mix=None)
    add = parser.add_argument
    add("--chunk_tokens", type=int, help="ours: most tokens of one forward pass; by default those of a mini batch")
    add("--peer_mini_batch", type=int, default=64, help="peer: pairs of one forward pass")
    add("--loss_batch_sizes", type=numbers, default=[4096, 8192, 16384, 32768], help="of the loss alone")
    add("--embedding_size", type=int, default=768, help="of the loss alone")
    args = parser.parse_args(arguments)
    if args.lengths is None:
        parser.error("--lengths is needed: corpora have too few items in a language pair for such batches")
    return args


def main() -> None:
    if answer_child(measure_loss):
        return
    args = parse()
    check_requirements()
    for batch_size in args.loss_batch_sizes:
        row = compare_loss(args, batch_size)
        write_row(args.json, row, LOSS_KEYS)
        print(loss_line(row), flush=True)
    for batch_size in args.batch_sizes:
        with tempfile.TemporaryDirectory() as folder:
            row = compare_training(args, batch_size, Path(folder))
        write_row(args.json, row, ROW_KEYS)
        print(line(row), flush=True)


if __name__ == "__main__":
    main()
