"""Training throughput and memory of `HybridTrainer` beside sentence-transformers' trainer, doing the same work.

    python benchmarks/train_throughput.py --json FILE --corpus FOLDER --model FOLDER --batch_sizes 32,64
    python benchmarks/train_throughput.py --json FILE --lengths LENGTHS.json --size xlmr-base --device cuda

1. *The same work.* A plan of our batches is made, and the texts of its pairs are written down in its order for the
   peer: `SentenceTransformerTrainer` with `MultipleNegativesRankingLoss`, or with `CachedMultipleNegativesRankingLoss`
   where `--peer_mini_batch` is given. Both sides start from one model folder, whose configuration sets the dropout of
   both, and get the same optimizer, precision, schedule, temperature, prompts and greatest lengths.
2. *Checked.* In a first step with all dropout off, both must see the same tokens in the same order and have the same
   loss, to 1e-4 in float32 and 1e-2 in bf16; else the script stops.
3. *Timed.* Each side runs in a fresh process, by turns, `--rounds` times; the time from the end of the last warm-up
   step to the end of the last step counts, data loading included. Ours tokenizes all texts before the first step, the
   peer in each step; `tokenizing` says how long ours took for all texts of the corpus.

`--lengths` needs no data: texts of just the lengths of a JSON list of [query tokens, passage tokens], prompts and
special tokens included, are made up, and random weights for an encoder.

A row has `ours` and `peer`, each a dictionary or "out of memory", and their `ratio`: pairs/s of ours over the peer's,
memory of the peer's over ours. `padding_share` is of the positions computed on, `mfu` the operations that the
model needs for the real tokens, by `encoder_flops` of hf_hybrid, over the time and the measured matrix rate.
`peak_memory_gib` is of tensors on CUDA, of the whole process on CPU. `attention_dropout` is what was asked of both
sides, null for the model's own, and `dropout` what each side's model then had. `chunk_tokens` of ours is the bound of
its chunks at the end, null where batches ran all at once: ours goes over to chunks by itself where memory runs out.

It needs what hf_hybrid does, `sentence-transformers` 6.0 or later, and its requirements for training: `datasets` and
`accelerate`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import (
    DTYPES,
    OUT_OF_MEMORY,
    answer_child,
    device_name,
    matrix_rate,
    peak_memory_gib,
    run_child,
    synchronize,
    versions,
    write_row,
)
from throughput_input import ATTENTION_DROPOUT, OTHER_DROPOUT, SIZES, Job, prepare, without_dropout
from throughput_peer import peer_batches, peer_trainer
from transformers import AutoConfig, AutoModel, TrainerCallback

from hf_hybrid.data.sources.load import load_corpus
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.flops import flops_terms
from hf_hybrid.records.resources import training_flops
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.training.meters import Moment
from hf_hybrid.training.trainer import HybridTrainer

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "datasets", "tokenizers")
ALLOWED_DIFFERENCE = {"bf16": 1e-2, "float32": 1e-4}  # of the loss of the first step
OPTIMIZATION = {
    "optim": "adamw_torch_fused",
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "logging_nan_inf_filter": False,  # it waits for the device at every step
}
ROW_KEYS = (
    "comparison", "model", "corpus", "batch_size", "precision", "device", "sides", "attention_dropout", "settings",
)  # fmt: skip


# Step 1: one side, in a process of its own


class TimedWindow(TrainerCallback):
    """Notes when steps end; waits for the device only at both ends of the window.

    Args:
        job (`Job`): Which steps count, and whether to stop after the first.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.moments = job, list[Moment]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        job, step = self.job, state.global_step
        control.should_training_stop |= job.first_step_only
        if step in (job.warmup_steps, job.all_steps):
            synchronize(job.device)
        if step >= job.warmup_steps:
            self.moments.append(Moment(job.device == "cuda"))

    def figures(self) -> dict[str, Any]:
        """Wall time of the window and of each of its steps."""
        steps_s = [start.until(end, 0.0)() for start, end in itertools.pairwise(self.moments)]
        return {"time_s": self.moments[-1].host_s - self.moments[0].host_s, "step_time_s": steps_s}


def measure(fields: dict[str, Any]) -> dict[str, Any]:
    """The child: train one side."""
    job = Job(**fields)
    torch.set_num_threads(job.threads)
    if job.side == "rate":
        return {
            "flops_per_s": matrix_rate(job.device, DTYPES[job.precision]),
            "device": device_name(job.device, job.threads),
        }
    window = TimedWindow(job)
    with tempfile.TemporaryDirectory() as output:
        trainer, found = (train_ours if job.side == "ours" else train_peer)(job, window, output)
        found["peak_memory_gib"] = peak_memory_gib(job.device)
        if job.first_step_only and any(getattr(module, "p", 0.0) for module in trainer.model.modules()):
            raise ValueError(f"{job.side}: the model has dropout that {OTHER_DROPOUT} do not turn off.")
        batches = ours_batches(trainer) if job.side == "ours" else peer_batches(trainer)
        start, end = (0, 1) if job.first_step_only else (job.warmup_steps, job.all_steps)
        contents = contents_of(itertools.islice(batches, start, end))
    return {**contents, **found, **({} if job.first_step_only else window.figures())}


def train_ours(job: Job, window: TimedWindow, output: str) -> tuple[Any, dict[str, Any]]:
    options = {"chunk_tokens": job.chunk_tokens} if job.chunk_tokens else {}
    arguments = HybridTrainingArguments(
        **training_arguments(job, output),
        **options,
        global_batch_size=job.batch_size,
        mix=job.mix,
        temperature=job.temperature,
        cpu_threads=job.threads,
        energy="none",
        torch_compile=job.torch_compile,
        seen_embeddings_only=job.seen_embeddings_only,
    )
    encoder = HybridEncoder.from_pretrained(
        job.model,
        attention_dropout=None,  # the configuration's, as for the peer
        query_prompt=job.query_prompt,
        passage_prompt=job.passage_prompt,
        max_length=max(job.max_query_length, job.max_passage_length),
    )
    trainer = HybridTrainer(
        encoder,
        arguments,
        load_corpus(job.corpus, cache_dir=job.cache),
        max_query_length=job.max_query_length,
        max_passage_length=job.max_passage_length,
        cache_dir=job.cache,
        callbacks=[window],
    )
    loss = trainer.train().training_loss
    resources = trainer.resource_log.summary()
    padding_share = resources["padding_tokens"] / (resources["tokens"] + resources["padding_tokens"])
    return trainer, {
        "loss": loss,
        "chunk_tokens": trainer.chunking.max_tokens,
        "padding_share": padding_share,
        "dropout": dropout_of(encoder.config),
    }


def train_peer(job: Job, window: TimedWindow, output: str) -> tuple[Any, dict[str, Any]]:
    trainer = peer_trainer(
        job.model,
        Path(job.pairs),
        training_arguments(job, output),
        [window],
        prompts=(job.query_prompt, job.passage_prompt),
        max_length=job.max_passage_length,
        temperature=job.temperature,
        mini_batch=job.peer_mini_batch,
        device=job.device,
    )
    return trainer, {
        "loss": trainer.train().training_loss,
        "dropout": dropout_of(trainer.model[0].auto_model.config),
    }


def training_arguments(job: Job, output: str) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        **OPTIMIZATION,
        "output_dir": output,
        "max_steps": job.all_steps,
        "bf16": job.precision == "bf16",
        "use_cpu": job.device == "cpu",
        "seed": job.seed,
        "dataloader_num_workers": job.workers,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def dropout_of(config: Any) -> dict[str, float]:
    """What the configuration of a loaded model says of dropout."""
    return {name: getattr(config, name) for name in (*ATTENTION_DROPOUT, *OTHER_DROPOUT) if hasattr(config, name)}


def ours_batches(trainer: HybridTrainer) -> Iterator[tuple[Sequence[torch.Tensor], int]]:
    """For each batch: the token ids of the queries, then of the passages, and the number of positions."""
    for inputs in trainer.get_train_dataloader():
        ids, bounds = inputs["tokens"]["input_ids"], inputs["tokens"]["cu_seqlens"]
        yield ids.split(bounds.diff().tolist()), len(ids)


def contents_of(batches: Iterable[tuple[Sequence[torch.Tensor], int]]) -> dict[str, Any]:
    """What the batches hold: pairs of each, tokens, sum of squared lengths, padding, and a digest of all token ids."""
    lengths: list[int] = []
    pairs_per_step, positions, digest = [], 0, hashlib.sha256()
    for sequences, batch_positions in batches:
        pairs_per_step.append(len(sequences) // 2)
        positions += batch_positions
        for sequence in sequences:
            lengths.append(len(sequence))
            digest.update(np.asarray([len(sequence), *sequence.tolist()], dtype=np.int64).tobytes())
    return {
        "pairs_per_step": pairs_per_step,
        "tokens": sum(lengths),
        "sum_squared_lengths": sum(length**2 for length in lengths),
        "padding_share": 1 - sum(lengths) / positions,
        "digest": digest.hexdigest(),
    }


# Step 2: rows


def check_first_step(jobs: Mapping[str, Job]) -> dict[str, Any]:
    """The loss of the first step of each job without dropout, null where memory did not suffice.

    Raises:
        SystemExit: When two of them did not see the same tokens or differ in loss: that would be no comparison.
    """
    found = {name: run_child(__file__, dataclasses.asdict(without_dropout(job))) for name, job in jobs.items()}
    known = {name: figures for name, figures in found.items() if figures}
    precision = next(iter(jobs.values())).precision
    for name in ("digest", "pairs_per_step"):
        refuse_unequal(name, known)
    losses = {name: figures["loss"] for name, figures in known.items()}
    allowed = ALLOWED_DIFFERENCE[precision]
    difference = max(losses.values(), default=0.0) - min(losses.values(), default=0.0)
    if not difference <= allowed:
        sys.exit(
            f"The loss of the first step differs by {difference:.6f}, allowed are {allowed} in {precision}: {losses}."
        )
    return {**{name: losses.get(name) for name in jobs}, "difference": difference, "allowed": allowed}


def refuse_unequal(what: str, figures: Mapping[str, dict[str, Any]]) -> None:
    values = {name: found[what] for name, found in figures.items()}
    if len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1:
        sys.exit(f"The sides do not do the same work: {what} is {values}.")


def run_rounds(jobs: Mapping[str, Job], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The figures of each job in each round, by turns; a job that ran out of memory has none."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    left = dict(jobs)
    for _ in range(rounds):
        for name, job in tuple(left.items()):
            figures = run_child(__file__, dataclasses.asdict(job))
            if figures is None:
                del left[name]
                found[name] = []
            else:
                found[name].append(figures)
    done = {name: figures[0] for name, figures in found.items() if figures}
    for what in ("digest", "pairs_per_step", "dropout"):
        refuse_unequal(what, done)
    return found


def summary(rounds: Sequence[dict[str, Any]], terms: dict[str, int], rate: float) -> dict[str, Any] | str:
    """What a row says of a side."""
    if not rounds:
        return OUT_OF_MEMORY
    first, times_s = rounds[0], [found["time_s"] for found in rounds]
    flops = training_flops(terms, first["tokens"], first["sum_squared_lengths"], 0)
    per_second = {
        "pairs_per_s": sum(first["pairs_per_step"]),
        "tokens_per_s": first["tokens"],
        "mfu": flops / rate,
    }
    steps_s = [found["step_time_s"] for found in rounds]
    return {
        **{name: statistics.median(amount / time_s for time_s in times_s) for name, amount in per_second.items()},
        "pairs_per_s_of_rounds": [per_second["pairs_per_s"] / time_s for time_s in times_s],
        "step_time_s": {"median": statistics.median(itertools.chain.from_iterable(steps_s)), "rounds": steps_s},
        "peak_memory_gib": max(found["peak_memory_gib"] for found in rounds),
        "pairs_per_step": first["pairs_per_step"],
        "tokens": first["tokens"],
        "padding_share": first["padding_share"],
        "dropout": first["dropout"],
        **{name: first[name] for name in ("chunk_tokens",) if name in first},
    }


def ratio_of(ours: dict[str, Any] | str | None, peer: dict[str, Any] | str | None) -> dict[str, float] | None:
    """Above 1 where ours is better."""
    if not isinstance(ours, dict) or not isinstance(peer, dict):
        return None
    return {
        "pairs_per_s": ours["pairs_per_s"] / peer["pairs_per_s"],
        "peak_memory_gib": peer["peak_memory_gib"] / ours["peak_memory_gib"],
    }


def find_flops_terms(job: Job) -> dict[str, int]:
    """Return the sizes of the model that `training_flops` needs."""
    with torch.device("meta"):
        terms = flops_terms(AutoModel.from_config(AutoConfig.from_pretrained(job.model)))
    if terms is None:
        sys.exit(f"{job.model}: the blocks of this model are not recognized, so its operations cannot be counted.")
    return terms


def measured_rate(job: Job) -> dict[str, Any]:
    """The device's name and its matrix rate in the precision of the job."""
    rate = run_child(__file__, dataclasses.asdict(dataclasses.replace(job, side="rate")))
    assert rate is not None, "two matrices fit"
    return rate


def compare(args: argparse.Namespace, batch_size: int, folder: Path) -> dict[str, Any]:
    """The row of a batch size."""
    ours, inputs = prepare(args, batch_size, folder)
    return compare_jobs({side: dataclasses.replace(ours, side=side) for side in args.only}, inputs, args.rounds)


def compare_jobs(
    jobs: Mapping[str, Job], inputs: Mapping[str, Any], rounds: int, comparison: str = "training"
) -> dict[str, Any]:
    """The row of jobs that do the same work; `ratio` is of those named `ours` and `peer`."""
    one = jobs.get("ours") or next(iter(jobs.values()))
    first_step = check_first_step(jobs)
    rate, terms = measured_rate(one), find_flops_terms(one)
    fitting = {name: job for name, job in jobs.items() if first_step[name] is not None}
    times = run_rounds(fitting, rounds)
    found = {name: summary(times.get(name, []), terms, rate["flops_per_s"]) for name in jobs}
    return {
        "comparison": comparison,
        **inputs,
        **row_head(one, rate, rounds),
        "peer_name": peer_name(one),
        "sides": list(jobs),
        **found,
        "ratio": ratio_of(found.get("ours"), found.get("peer")),
        "first_step_loss": first_step,
    }


def row_head(job: Job, rate: dict[str, Any], rounds: int) -> dict[str, Any]:
    """What rows say of how and on what they were measured."""
    not_settings = {"side", "model", "corpus", "pairs", "cache", "batch_size", "device", "precision", "steps"}
    not_settings |= {"warmup_steps", "first_step_only"}
    settings = {name: value for name, value in dataclasses.asdict(job).items() if name not in not_settings}
    return {
        "batch_size": job.batch_size,
        "precision": job.precision,
        "device": rate["device"],
        "matrix_rate_flops_per_s": rate["flops_per_s"],
        "versions": versions(PACKAGES),
        "steps": job.steps,
        "warmup_steps": job.warmup_steps,
        "rounds": rounds,
        "settings": {**settings, "optimization": OPTIMIZATION},
    }


def peer_name(job: Job) -> str:
    """The peer's loss."""
    if job.peer_mini_batch:
        return f"sentence-transformers, CachedMultipleNegativesRankingLoss(mini_batch_size={job.peer_mini_batch})"
    return "sentence-transformers, MultipleNegativesRankingLoss"


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    parts = [f"{row['comparison']} {row['model']} batch {row['batch_size']} {row['precision']}"]
    for side in row["sides"]:
        found = row[side]
        if isinstance(found, dict):
            found = (
                f"{found['pairs_per_s']:.2f} pairs/s, {found['peak_memory_gib']:.2f} GiB, padding "
                f"{found['padding_share']:.0%}, mfu {found['mfu']:.1%}"
            )
        parts.append(f"{side}: {found}")
    if row["ratio"]:
        parts.append(", ".join(f"{name} x {value:.2f}" for name, value in row["ratio"].items()))
    return " | ".join(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that fix the work; shared with `gradcache_memory.py`."""
    add = parser.add_argument
    add("--json", type=Path, required=True, help="where the rows go; those of other runs stay")
    add("--lengths", type=Path, help="JSON list of [query tokens, passage tokens]: texts are made up")
    add("--size", choices=SIZES, default="xlmr-base", help="of the random model for --lengths")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", choices=DTYPES, default="bf16")
    add("--batch_sizes", type=numbers, default=[32, 64], help="pairs of a batch, such as 32,64: a row for each")
    add("--steps", type=int, default=10, help="timed steps")
    add("--warmup_steps", type=int, default=2, help="steps before them, at least 1")
    add("--rounds", type=int, default=2, help="how often each side is measured")
    add("--threads", type=int, default=torch.get_num_threads(), help="of the processor")
    workers = 2 if torch.cuda.is_available() else 0
    add("--workers", type=int, default=workers, help="processes that load data, of both sides; 2 where there is a GPU")
    add("--attention_dropout", type=float, help="of both sides; by default the model's")
    add("--query_prompt", default="query: ")
    add("--passage_prompt", default="passage: ")
    add("--max_query_length", type=int, default=64)
    add("--max_passage_length", type=int, default=160)
    add("--temperature", type=float, default=0.02)
    add("--seed", type=int, default=42)
    add("--torch_compile", action="store_true", help="ours only")
    add("--seen_embeddings_only", action="store_true", help="ours only: the same model, to rounding")


def numbers(words: str) -> list[int]:
    """Those of a comma-separated list."""
    return [int(word) for word in words.split(",")]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add = parser.add_argument
    add("--corpus", type=Path, help="folder to train on, with --model")
    add("--model", type=Path, help="folder of the model")
    add("--mix", help="of our plan, without pool; by default mono=0.5,cross=0.5 (mono=1 with --lengths)")
    add("--only", nargs="+", choices=("ours", "peer"), default=["ours", "peer"], help="which sides")
    add("--chunk_tokens", type=int, help="ours: most tokens of one forward pass")
    add("--peer_mini_batch", type=int, help="peer: the cached loss, with so many pairs in one forward pass")
    args = parser.parse_args(arguments)
    if (args.lengths is None) == (args.corpus is None) or (args.corpus is None) != (args.model is None):
        parser.error("give --lengths, or --corpus and --model")
    return args


def check_requirements() -> None:
    """The peer's trainer needs `datasets`, and says so only after the model is loaded."""
    missing = [
        name for name in ("datasets", "sentence_transformers", "accelerate") if not importlib.util.find_spec(name)
    ]
    if missing:
        sys.exit(f"The peer needs {', '.join(missing)}: pip install {' '.join(missing)}")


def main() -> None:
    if answer_child(measure):
        return
    args = parse()
    check_requirements()
    with tempfile.TemporaryDirectory() as folder:
        for batch_size in args.batch_sizes:
            row = compare(args, batch_size, Path(folder))
            write_row(args.json, row, ROW_KEYS)
            print(line(row), flush=True)


if __name__ == "__main__":
    main()
