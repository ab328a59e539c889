"""Where the time of a training step of `HybridTrainer` goes, and how often the host waits for the device.

    python benchmarks/step_profile.py --json FILE --png FILE
    python benchmarks/step_profile.py --json FILE --png FILE --corpus FOLDER --model FOLDER --attention varlen sdpa
    python benchmarks/step_profile.py --json FILE --lengths LENGTHS.json --size xlmr-base --precision bf16

Every combination of the settings given is trained in a process of its own, or in `--processes` of them:

1. *Timed* steps. Marks are set where a step goes from one part to the next; a part that holds another does not count
   its time. On CPU a mark is the host's clock; on CUDA it is an event in the queue of the device, read when the run is
   over, so nothing waits inside a step and `data_wait` is the time that the device had nothing to do for want of data.
   `host_seconds` has the host's clock too: what is long there and short in `seconds` is launched late, not slow.
   The step time is measured apart from that, by the host's clock from the first step to the end of the last, with the
   device waited for at both ends alone. `other` is what lies between the parts, `unexplained` what no mark covers.
2. *Profiled* steps, after them, without logging: `torch.profiler` counts what makes the host wait. On CUDA these are
   the blocking calls of the runtime, and `sync_warnings` has the lines of Python behind them, as
   `torch.cuda.set_sync_debug_mode` tells them. On CPU nothing waits; counted are the operations that would: values
   read into Python and results whose size depends on values, but for those of the optimizer, which reads its step
   count on CPU alone.

`communication` of several processes is what a step stands still for: the collectives that training calls, and of the
exchange of gradients what the backward pass does not hide, from the last gradient to the end. Both include waiting for
a slower process. Figures are those of the first process, on CPU over gloo.

`mfu` is the operations that the model needs for the real tokens, by `encoder_flops` of hf_hybrid, over the
step time and the measured matrix rate. `padding_share` is of the positions that the linear layers computed on.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from measuring import DTYPES, answer_child, device_name, matrix_rate, run_child, synchronize, versions, write_row
from throughput_input import SIZES, save_random_model, write_texts
from torch.profiler import ProfilerActivity, profile, record_function
from train_throughput import OPTIMIZATION, numbers

from hf_hybrid.data.sources.load import load_corpus
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.flops import flops_terms
from hf_hybrid.records.resources import training_flops
from hf_hybrid.training import trainer as training
from hf_hybrid.training.arguments import HybridTrainingArguments
from hf_hybrid.training.meters import Moment
from hf_hybrid.training.resource_log import StepRecord
from hf_hybrid.utils import distributed

OTHER = "other"
PARTS = ("data_wait", "copy", "encode", "loss", "backward", "clipping", "optimizer", "communication", OTHER)
COLLECTIVES = ("all_gather", "all_gather_into_tensor", "all_reduce", "reduce_scatter_tensor", "all_gather_object")
BLOCKING_CALLS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
VALUE_READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")
HOST_READS = tuple(f"aten::{name}" for name in VALUE_READS)
PROFILED = "profiled steps"
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy")
SETTINGS = ("batch_size", "attention", "chunk_tokens", "processes", "precision", "torch_compile", "workers", "threads")
ROW_KEYS = ("model", "corpus", "device", *SETTINGS)


# Step 1: marks in time


class Stopwatch:
    """Marks where a step goes from one part to the next.

    Args:
        cuda (`bool`): Mark the device's queue too.

    Example:

        >>> stopwatch = Stopwatch(cuda=False)
        >>> for _ in range(3):
        ...     stopwatch.begin_step()
        ...     with stopwatch.part("loss"):
        ...         pass
        >>> sorted(stopwatch.seconds(0, 2))
        ['loss', 'other']
    """

    def __init__(self, cuda: bool) -> None:
        self._cuda, self._open = cuda, [OTHER]
        self._marks: list[tuple[str, Moment]] = []
        self._steps: list[int] = []  # the mark that each begins with

    def begin_step(self) -> None:
        """A step ends here, and the next begins."""
        self._steps.append(len(self._marks))
        self._mark()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside is this part, but for the parts inside it."""
        is_new = name != self._open[-1]
        self._open.append(name)
        if is_new:
            self._mark()
        try:
            yield
        finally:
            self._open.pop()
            if is_new:
                self._mark()

    def turn_into(self, name: str) -> None:
        """The rest of the open part is another one."""
        self._open[-1] = name
        self._mark()

    def seconds(self, first: int, end: int, host: bool = False) -> dict[str, float]:
        """Mean time of each part in the steps `first` to `end`, which is not included but must have begun."""
        found: Counter[str] = Counter()
        for (name, start), (_, stop) in itertools.pairwise(self._marks[self._steps[first] : self._steps[end] + 1]):
            found[name] += stop.host_s - start.host_s if host else start.until(stop, 0.0)()
        return {name: total / (end - first) for name, total in found.items()}

    def steps_s(self, first: int, end: int) -> list[float]:
        """The time of each of these steps."""
        begun = [self._marks[number][1] for number in self._steps[first : end + 1]]
        return [start.until(stop, 0.0)() for start, stop in itertools.pairwise(begun)]

    def _mark(self) -> None:
        self._marks.append((self._open[-1], Moment(self._cuda)))


class StepProfile:
    """Takes a trainer's steps apart, from outside.

    Args:
        trainer (`HybridTrainer`): Before it trains. It must do `num_steps` steps: the last one only ends the others.
        warmup_steps, steps, profiled_steps (`int`): How many of each kind follow each other.
    """

    def __init__(
        self, trainer: training.HybridTrainer, warmup_steps: int, steps: int, profiled_steps: int = 0
    ) -> None:
        self.trainer, self.first, self.end = trainer, warmup_steps, warmup_steps + steps
        self.profiled_steps = profiled_steps
        self.cuda = trainer.args.device.type == "cuda"
        self.stopwatch, self.waits = Stopwatch(self.cuda), WaitCounter(self.cuda)
        self._started = 0
        self._wall_s: list[float] = []
        self._records: list[tuple[int, StepRecord]] = []
        self._undo = ExitStack()

    @property
    def num_steps(self) -> int:
        """Steps that the trainer must do."""
        return self.end + self.profiled_steps + 1

    def train(self) -> None:
        """Train, with every part wrapped."""
        trainer = self.trainer
        with self._undo, self.waits:
            self._wrap(trainer, "get_batch_samples", "data_wait", before=self._begin_step)
            self._wrap(trainer, "_prepare_input", "copy")
            self._wrap(training, "contrastive_loss", "loss")
            self._wrap(trainer.accelerator, "backward", "backward")
            self._wrap(torch.autograd, "backward", "backward")
            self._wrap(torch.autograd, "grad", "backward")
            self._wrap(trainer.accelerator, "clip_grad_norm_", "clipping")
            for name in COLLECTIVES:
                self._wrap(dist, name, "communication")
            self._wrap(trainer.resource_log, "record_step", OTHER, before=self._keep_record)
            encoder = trainer.model
            encoder.forward = self._timed(encoder.forward, "encode")  # type: ignore[method-assign]
            self._undo.callback(delattr, encoder, "forward")
            trainer.train()
        synchronize(trainer.args.device.type)

    def _wrap(self, owner: Any, name: str, part: str, before: Callable[..., None] | None = None) -> None:
        original = getattr(owner, name)
        setattr(owner, name, self._timed(original, part, before))
        self._undo.callback(setattr, owner, name, original)

    def _timed(self, original: Callable, part: str, before: Callable[..., None] | None = None) -> Callable:
        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if before:
                before(*args)
            with self.stopwatch.part(part):
                return original(*args, **kwargs)

        return timed

    def _begin_step(self, *_: Any) -> None:
        number, self._started = self._started, self._started + 1
        if number == 0:
            self._wrap_what_training_made()
        if number in (self.first, self.end):
            synchronize(self.trainer.args.device.type)
            self._wall_s.append(time.perf_counter())
        self.stopwatch.begin_step()
        if number == self.end and self.profiled_steps:
            self.waits.start()
        elif number == self.end + self.profiled_steps:
            self.waits.stop()

    def _wrap_what_training_made(self) -> None:
        self._wrap(self.trainer.optimizer, "step", "optimizer")
        model = self.trainer.model_wrapped
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            model.register_comm_hook(None, lambda _, bucket: self._exchange(bucket))

    def _exchange(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """What DDP does by itself; after the last gradient, the backward pass does nothing but wait for it."""
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        future = allreduce_hook(dist.group.WORLD, bucket)
        if bucket.is_last():
            self.stopwatch.turn_into("communication")
        return future

    def _keep_record(self, record: StepRecord) -> None:
        self._records.append((self._started - 1, record))

    def figures(self) -> dict[str, Any]:
        """What a row says of the steps; to be asked when training is over."""
        steps, found = self.end - self.first, self.stopwatch.seconds(self.first, self.end)
        step_s = (self._wall_s[1] - self._wall_s[0]) / steps
        seconds = {name: found.get(name, 0.0) for name in PARTS}
        host = self.stopwatch.seconds(self.first, self.end, host=True)
        unexplained_s = step_s - sum(seconds.values())
        lower, median, upper = np.quantile(self.stopwatch.steps_s(self.first, self.end), (0.25, 0.5, 0.75)).tolist()
        return {
            "step_time_s": step_s,
            "step_time_median_s": median,
            "step_time_quartiles_s": [lower, upper],
            "seconds": seconds,
            "host_seconds": {name: host.get(name, 0.0) for name in PARTS},
            "unexplained_s": unexplained_s,
            "shares": {name: value / step_s for name, value in {**seconds, "unexplained": unexplained_s}.items()},
            "data_wait_share": seconds["data_wait"] / step_s,
            **self._contents(step_s),
            **(self.waits.figures(self.profiled_steps) if self.profiled_steps else {}),
        }

    def _contents(self, step_s: float) -> dict[str, Any]:
        records = [record for number, record in self._records if self.first <= number < self.end]
        steps = self.end - self.first
        tokens = sum(sum(record.tokens_per_language.values()) for record in records)
        padding = sum(distributed.from_all(sum(record.padding_tokens for record in records)))
        squares = sum(record.sum_squared_lengths for record in records)
        terms = flops_terms(self.trainer.accelerator.unwrap_model(self.trainer.model))
        return {
            "pairs_per_s": sum(record.pairs for record in records) / steps / step_s,
            "tokens_per_step": tokens / steps,
            "padding_share": padding / (tokens + padding),
            "flops_per_step": training_flops(terms, tokens, squares, 0) / steps if terms else None,
        }


# Step 2: what the host waits for


class WaitCounter:
    """Counts, by `torch.profiler`, what makes the host wait for the device between `start` and `stop`.

    Args:
        cuda (`bool`): Count the blocking calls of the CUDA runtime; else what would make them.
    """

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._profile = profile(activities=activities)
        self._range = record_function(PROFILED)
        self._running = ExitStack()
        self._warnings: list[warnings.WarningMessage] = []

    def __enter__(self) -> WaitCounter:
        return self

    def __exit__(self, *_: Any) -> None:
        self._running.close()  # where training broke off

    def start(self) -> None:
        if self._cuda:
            self._warnings = self._running.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
        self._running.enter_context(self._profile)
        if self._cuda:
            torch.cuda.set_sync_debug_mode("warn")
            self._running.callback(torch.cuda.set_sync_debug_mode, "default")
        self._running.enter_context(self._range)  # the profiler itself waits for the device after it

    def stop(self) -> None:
        self._running.close()

    def figures(self, steps: int) -> dict[str, Any]:
        """Numbers for each of `steps` steps."""
        counts = self._counts()
        waits = BLOCKING_CALLS if self._cuda else HOST_READS
        found = {name: counts[name] / steps for name in (*BLOCKING_CALLS, *HOST_READS) if counts[name]}
        return {
            "host_syncs_per_step": sum(found.get(name, 0.0) for name in waits),
            "host_sync_counts_per_step": found,
            "sync_warnings": {place: number / steps for place, number in self._places().most_common()},
        }

    def _counts(self) -> Counter[str]:
        events = self._profile.events() or []
        whole = next(event.time_range for event in events if event.name == PROFILED)
        # The CPU's optimizer reads its step counts.
        left_out = [] if self._cuda else [found.time_range for found in events if found.name.startswith("Optimizer.")]
        return Counter(
            event.name
            for event in events
            if _within(event.time_range, whole) and not any(_within(event.time_range, part) for part in left_out)
        )

    def _places(self) -> Counter[str]:
        return Counter(
            f"{Path(warning.filename).name}:{warning.lineno}"
            for warning in self._warnings
            if "called a synchronizing" in str(warning.message)
        )


def _within(event: Any, whole: Any) -> bool:
    return whole.start <= event.start <= whole.end


# Step 3: a run


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """The child: a run with one combination of settings, or the matrix rate."""
    torch.set_num_threads(job["threads"])
    if job["work"] == "rate":
        rate = matrix_rate(job["device"], DTYPES[job["precision"]])
        return {"matrix_rate_flops_per_s": rate, "device": device_name(job["device"], job["threads"])}
    with tempfile.TemporaryDirectory() as output:
        trainer = make_trainer(job, output)
        profiled = StepProfile(trainer, job["warmup_steps"], job["steps"], job["profiled_steps"])
        assert profiled.num_steps == trainer.args.max_steps
        profiled.train()
        found = {**profiled.figures(), "attention": trainer.model.attention}
    if "result" in job and distributed.rank() == 0:
        Path(job["result"]).write_text(json.dumps(found))
    return found


def make_trainer(job: dict[str, Any], output: str) -> training.HybridTrainer:
    arguments = HybridTrainingArguments(
        **OPTIMIZATION,
        output_dir=output,
        max_steps=all_steps(job),
        global_batch_size=job["batch_size"],
        chunk_tokens=job["chunk_tokens"],
        mix=job["mix"],
        bf16=job["precision"] == "bf16",
        use_cpu=job["device"] == "cpu",
        cpu_threads=job["threads"],
        dataloader_num_workers=job["workers"],
        torch_compile=job["torch_compile"],
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        energy="none",
        disable_tqdm=True,
    )
    prompts = {name: job[name] for name in ("query_prompt", "passage_prompt")}
    encoder = HybridEncoder.from_pretrained(job["model"], attention=job["attention"], **prompts)
    corpus = load_corpus(job["corpus"], cache_dir=job["cache"])
    return training.HybridTrainer(
        encoder, arguments, corpus, max_passage_length=job["max_passage_length"], cache_dir=job["cache"]
    )


def all_steps(job: dict[str, Any]) -> int:
    """Steps of a run; the last one only ends the one before it."""
    return job["warmup_steps"] + job["steps"] + job["profiled_steps"] + 1


def run_processes(job: dict[str, Any]) -> dict[str, Any] | None:
    """What the first of several processes measured."""
    if job["processes"] == 1:
        return run_child(__file__, job)
    job = {**job, "result": str(Path(job["cache"]) / "result.json")}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(job["processes"]), __file__, "--child", json.dumps(job)]
    on_cpu = {"ACCELERATE_USE_CPU": "true"} if job["device"] == "cpu" else {}
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(job["threads"]), **os.environ, **on_cpu}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    if found.returncode:
        raise RuntimeError(f"{job['processes']} processes failed: {job}\n{found.stderr[-3000:]}")
    return json.loads(Path(job["result"]).read_text())


def prepare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Corpus and model of all runs, as jobs name them."""
    cache = folder / "cache"
    if args.lengths:
        model, corpus = folder / "random", folder / "texts"
        save_random_model(model, args.size, args.seed)
        write_texts(corpus, args, max(args.batch_sizes) * all_steps(vars(args)))
        return {"model": str(model), "corpus": str(corpus), "cache": str(cache), "mix": "mono=1"}
    found = {"corpus": str(args.corpus or "sample"), "cache": str(cache), "mix": "mono=0.5,cross=0.5"}
    built = load_corpus(found["corpus"], cache_dir=cache)
    if args.model:
        return {**found, "model": str(args.model)}
    texts = [text for language in built.languages for text in built.passages(language).to_pylist()]
    torch.manual_seed(args.seed)
    HybridEncoder.from_scratch(texts).save_pretrained(folder / "scratch")
    return {**found, "model": str(folder / "scratch")}


def rows_of(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each combination of settings."""
    same = ("device", "precision", "threads", "workers", "warmup_steps", "steps", "profiled_steps", "torch_compile")
    texts = ("query_prompt", "passage_prompt", "max_passage_length")
    fixed = {name: getattr(args, name) for name in (*same, *texts)} | prepare(args, folder)
    rate = run_child(__file__, {**fixed, "work": "rate"})
    assert rate is not None, "two matrices fit"
    names = {
        "model": args.size if args.lengths else args.model.name if args.model else "from scratch",
        "corpus": (args.lengths or args.corpus or Path("sample")).name,
    }
    for processes, attention, chunk_tokens, batch_size in itertools.product(
        args.processes, args.attention, args.chunk_tokens, args.batch_sizes
    ):
        settings = {
            "processes": processes,
            "attention": attention,
            "chunk_tokens": chunk_tokens or None,
            "batch_size": batch_size,
        }
        job = {**fixed, **settings, "work": "profile"}
        found = run_processes(job)
        if found is None:
            print(f"{label(job)}: out of memory".replace("\n", ", "), flush=True)
            continue
        flops = found["flops_per_step"]
        peak = rate["matrix_rate_flops_per_s"] * processes
        yield {
            **names,
            **{name: job[name] for name in (*SETTINGS, "mix", "warmup_steps", "steps", "profiled_steps")},
            **found,
            "mfu": flops / found["step_time_s"] / peak if flops else None,
            **rate,
            "versions": versions(PACKAGES),
        }


# Step 4: for people


def label(row: dict[str, Any]) -> str:
    """The settings in which rows may differ."""
    parts = [f"batch {row['batch_size']}", row["attention"]]
    parts += [f"chunks of {row['chunk_tokens']:,}"] if row["chunk_tokens"] else []
    parts += ["compiled"] if row["torch_compile"] else []
    parts += [f"{row['processes']} processes"] if row["processes"] > 1 else []
    return "\n".join(parts)


def line(row: dict[str, Any]) -> str:
    """A row in one line."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in row["shares"].items())
    mfu = "" if row["mfu"] is None else f", mfu {row['mfu']:.1%}"
    syncs = f", {row['host_syncs_per_step']:g} host syncs" if "host_syncs_per_step" in row else ""
    head = f"{label(row)}, {row['step_time_s'] * 1000:.1f} ms a step{mfu}{syncs}, padding {row['padding_share']:.1%}"
    return f"{head} | {shares}".replace("\n", ", ")


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A stacked bar for each row, in seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(3.2 + 1.5 * len(rows), 5.2), layout="constrained")
    places = np.arange(len(rows))
    bottoms, highest = np.zeros(len(rows)), max(row["step_time_s"] for row in rows)
    for part, color in zip(PARTS, (*mpl.colormaps["Set2"](range(8)), "#e4e4e4"), strict=True):
        heights = np.array([row["seconds"][part] for row in rows])
        if heights.max() == 0:
            continue
        axis.bar(places, heights, 0.62, bottom=bottoms, color=color, label=part.replace("_", " "), edgecolor="white")
        for place, height, bottom, row in zip(places, heights, bottoms, rows, strict=True):
            if height > 0.045 * highest:
                share = f"{height / row['step_time_s']:.0%}"
                axis.text(place, bottom + height / 2, share, ha="center", va="center", fontsize=9)
        bottoms += heights
    for place, bottom, row in zip(places, bottoms, rows, strict=True):
        axis.text(place, bottom + 0.015 * highest, note(row), ha="center", va="bottom", fontsize=8)
    axis.set_xticks(places, [label(row) for row in rows])
    axis.set_ylim(0, 1.2 * highest)
    axis.set_ylabel("time of a step (seconds)")
    axis.set_title(f"{rows[0]['model']}, {rows[0]['precision']}\n{rows[0]['device']}", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def note(row: dict[str, Any]) -> str:
    """What stands above a bar."""
    lines = [f"{row['pairs_per_s']:,.0f} pairs/s"]
    lines += [f"mfu {row['mfu']:.0%}"] if row["mfu"] is not None else []
    lines += [f"{row['host_syncs_per_step']:g} host syncs"] if "host_syncs_per_step" in row else []
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, required=True, help="where the rows go; those of other runs stay")
    add("--png", type=Path, help="where the bars go")
    add("--only_draw", action="store_true", help="draw all rows of the file, and measure nothing")
    add("--corpus", type=Path, help="folder to train on, with --model; the built-in sample corpus by default")
    add("--model", type=Path, help="folder of the model; a small one from scratch by default")
    add("--lengths", type=Path, help="JSON list of [query tokens, passage tokens]: texts are made up")
    add("--size", choices=SIZES, default="tiny", help="of the random model for --lengths")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", choices=DTYPES, default="float32")
    add("--batch_sizes", type=numbers, default=[32, 128], help="queries of a batch, such as 32,128")
    add("--attention", nargs="+", default=["auto"], help="varlen (packed), sdpa (padded), ...")
    add("--chunk_tokens", type=numbers, default=[0], help="most tokens of one forward pass; 0: all at once")
    add("--processes", type=numbers, default=[1], help="such as 1,2; a batch is shared among them")
    add("--torch_compile", action="store_true")
    add("--warmup_steps", type=int, default=3, help="steps before those that are timed")
    add("--steps", type=int, default=10, help="timed steps")
    add("--profiled_steps", type=int, default=3, help="steps after them, in which waits are counted")
    add("--threads", type=int, default=torch.get_num_threads(), help="of each process on the CPU")
    add("--workers", type=int, default=2 if torch.cuda.is_available() else 0, help="processes that load data")
    add("--query_prompt", default="query: ")
    add("--passage_prompt", default="passage: ")
    add("--max_passage_length", type=int, default=160)
    add("--seed", type=int, default=42, help="of made-up texts and weights")
    args = parser.parse_args(arguments)
    if (args.model and not args.corpus) or (args.lengths and args.corpus):
        parser.error("give --lengths, or --corpus, or --corpus and --model, or none of them")
    if args.only_draw and not args.png:
        parser.error("--only_draw needs --png")
    return args


def main() -> None:
    if answer_child(measure):
        return
    args = parse()
    rows = json.loads(args.json.read_text())["rows"] if args.only_draw else []
    if not args.only_draw:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(args, Path(folder)):
                rows.append(row)
                write_row(args.json, row, ROW_KEYS)
                print(line(row), flush=True)
    if args.png and rows:
        draw(rows, args.png)


if __name__ == "__main__":
    main()
