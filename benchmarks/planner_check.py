"""Are predictions right? Runs of `recipes/train.py` that the planner learns from, and others that it has not seen.

    python benchmarks/planner_check.py --json FILE --folder FOLDER

1. Draw two sets of runs on the built-in corpus, Latin hypercubes over number of languages and which, batch size,
   width, layers, vocabulary, mix and chunks, by two seeds; the first has the smallest and the largest run as well,
   and the largest in chunks, so that what is drawn lies between.
2. Make them in mixed order, so that a machine that gets slower does so for both, each in a process of its own on
   --threads threads. Runs that --folder holds are not made again.
3. Learn from the first set. For each run of the second predict step time, memory and set-up from what was known
   before it ran: its arguments and its plan, and the number and the lengths of its tokens.
4. Compare with what it took. The step time is the median over the steps after the warm-up, by token (see
   `measured_runs.typical_step_time`): the mean has in it whatever else the machine did.

`summary` has, for each quantity, the median and the largest relative error, how many held-out runs lie inside their
interval beside the stated level and the probability of so few if the level were right, and the median error of a
planner that says the median of the first set to everything: what is easy to predict has a small one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import device_name, versions
from scipy import stats

from hf_hybrid.data.sources.sample import LANGUAGES
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.scaling.planner.cost_model import LEVEL, Estimate
from hf_hybrid.scaling.planner.measured_runs import Measured, read_measured
from hf_hybrid.scaling.planner.planner import Planner

TRAIN = Path(__file__).parents[1] / "recipes" / "train.py"
MIXES = ("mono=1,cross=1", "mono=1", "mono=1,cross=1,pool=1")
# Least and most; drawn evenly by the logarithm.
RANGES = {
    "languages": (2, 16),
    "global_batch_size": (24, 192),
    "scratch_hidden_size": (64, 256),
    "scratch_num_layers": (1, 4),
    "scratch_vocab_size": (2048, 16384),
}
MEASURED_SEED, HELD_OUT_SEED = 11, 12  # the planner's causes were chosen by runs of other seeds
CHUNKED_SHARE, CHUNK_TOKENS = 0.25, 512
QUANTITIES = {"step_time_s": "step", "memory_gib": "memory", "setup_time_s": "setup"}
PACKAGES = ("numpy", "scipy", "torch", "transformers")

Row = dict[str, Any]


def main() -> None:
    args = parse()
    sets = {
        "measured": [*corners(), *draw(args.measured - len(corners()), MEASURED_SEED)],
        "held_out": draw(args.held_out, HELD_OUT_SEED),
    }
    jobs = [(f"{name}-{number:02}", options) for name, drawn in sets.items() for number, options in enumerate(drawn)]
    random.Random(0).shuffle(jobs)
    for done, (name, options) in enumerate(jobs, start=1):
        seconds = make_run(args.folder / name, options, args)
        print(f"{done}/{len(jobs)} {name}: {seconds:.0f} s", flush=True)
    runs = {
        name: [read_measured(RunFolder(args.folder / f"{name}-{number:02}")) for number in range(len(drawn))]
        for name, drawn in sets.items()
    }
    result = {
        "device": device_name("cpu", args.threads),
        "versions": versions(PACKAGES),
        "settings": {name: getattr(args, name) for name in ("threads", "steps")} | {"ranges": RANGES, "mixes": MIXES},
        **check(runs["measured"], runs["held_out"], args.level),
    }
    args.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, summary in result["summary"].items():
        print(summary_line(name, summary))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, required=True, help="where the result goes")
    add("--folder", type=Path, required=True, help="where the runs are kept; those it holds are not made again")
    add("--measured", type=int, default=24, help="runs to learn from, those at the ends of the ranges among them")
    add("--held_out", type=int, default=12, help="runs to predict")
    add("--steps", type=int, default=35, help="steps of a run")
    add("--threads", type=int, default=1, help="of a run; more wait for each other on a busy machine")
    add("--level", type=float, default=LEVEL, help="of the intervals")
    return parser.parse_args(arguments)


# Steps 1 and 2


def draw(count: int, seed: int) -> list[Row]:
    """Options of so many runs, spread over the ranges."""
    points_NF = stats.qmc.LatinHypercube(len(RANGES) + 2, rng=np.random.default_rng(seed)).random(count)
    rng = random.Random(seed)
    return [_options(point, rng) for point in points_NF.tolist()]


def corners() -> list[Row]:
    """The smallest and the largest run of the ranges, and the largest in chunks."""
    rng = random.Random(0)
    return [_options([place] * len(RANGES) + [0.0, chunked], rng) for place, chunked in ((0, 1), (1, 1), (1, 0))]


def _options(point: Sequence[float], rng: random.Random) -> Row:
    """A point of the unit cube as options of `recipes/train.py`."""
    *places, mix, chunked = point
    found: Row = {
        name: round(least * (most / least) ** place)
        for place, (name, (least, most)) in zip(places, RANGES.items(), strict=True)
    }
    found["scratch_hidden_size"] = 32 * round(found["scratch_hidden_size"] / 32)
    found["languages"] = ",".join(rng.sample(sorted(LANGUAGES), found["languages"]))
    found["mix"] = MIXES[min(int(mix * len(MIXES)), len(MIXES) - 1)]
    return found | ({"chunk_tokens": CHUNK_TOKENS} if chunked < CHUNKED_SHARE else {})


def make_run(folder: Path, options: Row, args: argparse.Namespace) -> float:
    """Train, unless the folder has it; how long it took.

    Raises:
        RuntimeError: When the recipe failed; the message ends with its error output.
    """
    if (folder / "resources.json").exists() and RunFolder(folder).read_run()["status"] == "finished":
        return 0.0
    fixed = {
        "max_steps": args.steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "evaluate_before": "false",
        "max_eval_queries": 4,
        "energy": "none",
        "report_to": "none",
        "disable_tqdm": "true",
        "cpu_threads": args.threads,
        "cache_dir": folder.parent / "cache" / folder.name,  # its own: the set-up is that of a first run
        "output_dir": folder,
    }
    words = [f"--{name}={value}" for name, value in {**options, **fixed}.items()]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(args.threads)}
    start = time.perf_counter()
    found = subprocess.run(
        [sys.executable, str(TRAIN), *words, "--overwrite"], capture_output=True, text=True, env=environment
    )
    if found.returncode:
        last_lines = "\n".join(found.stderr.splitlines()[-40:])
        raise RuntimeError(f"{folder.name} failed with exit status {found.returncode}: {options}\n{last_lines}")
    return time.perf_counter() - start


# Steps 3 and 4


def check(measured: Sequence[Measured], held_out: Sequence[Measured], level: float) -> Row:
    """Rows of the runs, and the `summary` of each quantity."""
    planner = Planner(measured)
    rows = [compare(planner, run, level) for run in held_out]
    return {
        "measured": [facts(run) for run in measured],
        "held_out": rows,
        "weights": {
            name: dict(zip(learned.causes, learned.model.weights.tolist(), strict=True))
            for name, learned in ((name, getattr(planner, part)) for name, part in QUANTITIES.items())
        },
        "summary": {name: summarize(name, rows, measured, level) for name in QUANTITIES},
    }


def facts(run: Measured) -> Row:
    """What a run was and what it took."""
    work = run.workload
    return {
        "run": run.name,
        "languages": work.languages,
        "mix": work.mix,
        "batch_size": work.batch_size,
        "tokens_per_text": work.tokens_per_text,
        "hidden_size": work.model.hidden_size,
        "num_layers": work.model.num_layers,
        "num_parameters": work.model.parameters,
        "chunk_tokens": work.chunk_tokens,
        **{name: took(run, name) for name in QUANTITIES},
    }


def took(run: Measured, name: str) -> float:
    """A quantity of a run on the CPU."""
    return run.host_memory_gib if name == "memory_gib" else getattr(run, name)


def compare(planner: Planner, run: Measured, level: float) -> Row:
    """A held-out run, with what was predicted of it."""
    row = facts(run)
    for name, part in QUANTITIES.items():
        estimate = getattr(planner, part).estimate(run.workload, level)
        row[f"{name}_predicted"] = estimate._asdict()
        row[f"{name}_error"] = estimate.value / row[name] - 1
        row[f"{name}_inside"] = is_inside(estimate, row[name])
    return row


def is_inside(estimate: Estimate, value: float) -> bool:
    """Whether an interval holds a value; where there is none, it does not."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= value <= estimate.high


def summarize(name: str, rows: Sequence[Row], measured: Sequence[Measured], level: float) -> Row:
    """How well a quantity was predicted."""
    errors = [abs(row[f"{name}_error"]) for row in rows]
    inside = sum(row[f"{name}_inside"] for row in rows)
    levels = [row[f"{name}_predicted"]["level"] for row in rows]
    middle = float(np.median([took(run, name) for run in measured]))
    reached = min(level, len(measured) / (len(measured) + 1))
    return {
        "num_held_out": len(rows),
        "median_error": float(np.median(errors)),
        "largest_error": max(errors),
        "level": reached,
        "num_inside": inside,
        "probability_of_so_few": float(stats.binomtest(inside, len(rows), reached, alternative="less").pvalue),
        "num_without_level": levels.count(None),  # beyond what was measured
        "median_error_of_saying_the_median": float(np.median([abs(middle / row[name] - 1) for row in rows])),
    }


def summary_line(name: str, summary: Row) -> str:
    """One line for people."""
    return (
        f"{name:<13} median error {summary['median_error']:.1%} (of the measured runs' median "
        f"{summary['median_error_of_saying_the_median']:.1%}), largest {summary['largest_error']:.1%}; "
        f"{summary['num_inside']} of {summary['num_held_out']} inside their {summary['level']:.0%} intervals"
    )


if __name__ == "__main__":
    main()
