"""What it costs that a run cannot be lost: the time of a step, and of a checkpoint, with and without.

    python benchmarks/resume_overhead.py --json FILE
    python benchmarks/resume_overhead.py --json FILE --corpus FOLDER --model FOLDER --max_passage_length 256

1. *Steps.* Two trainers take the same steps of the same plan by turns, one as it is, one without what watches a run:
   the look at the gradient, the heartbeat, signals and the mean cosine of the embeddings. `ratio` is of the sums of
   the step times, `share` is the time spent in those functions over the time of the steps, which a busy machine
   changes less.
2. *Checkpoints.* One trainer saves by turns as it does (written aside, SHA-256 of all files, renamed) and as
   `transformers.Trainer` does; `peer` is the latter. `verify_s` is the time to check one before a run continues.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import GIB, device_name, synchronize, versions, write_row
from transformers import Trainer, TrainerCallback

from hf_hybrid import HybridEncoder, HybridTrainer, ParallelCorpus, load_corpus
from hf_hybrid.training import checkpoints, plan_trainer, trainer
from hf_hybrid.training.arguments import HybridTrainingArguments

PACKAGES = ("torch", "transformers", "accelerate")
ROW_KEYS = ("comparison", "model", "device")


class StepTimes(TrainerCallback):
    """The time of each step, from the end of the one before; must be the last of the callbacks."""

    def __init__(self, device: str) -> None:
        self.device, self.ends_s = device, list[float]()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        synchronize(self.device)
        self.ends_s.append(time.perf_counter())


class Stopwatch:
    """Adds up the time that wrapped functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def make_trainer(args: argparse.Namespace, corpus: ParallelCorpus, folder: str) -> tuple[HybridTrainer, StepTimes]:
    """A trainer of the corpus, the same at each call."""
    torch.manual_seed(args.seed)
    texts = [text for language in corpus.languages for text in corpus.passages(language).to_pylist()]
    encoder = HybridEncoder.from_pretrained(args.model) if args.model else HybridEncoder.from_scratch(texts)
    times = StepTimes(args.device)
    arguments = HybridTrainingArguments(
        folder,
        max_steps=args.steps,
        global_batch_size=args.batch_size,
        bf16=args.bf16,
        use_cpu=args.device == "cpu",
        save_strategy="no",
        energy="none",
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
    )
    made = HybridTrainer(
        encoder, arguments, corpus, max_passage_length=args.max_passage_length, cache_dir=Path(args.cache)
    )
    made.add_callback(times)
    return made, times


def compare_steps(args: argparse.Namespace, corpus: ParallelCorpus) -> dict[str, Any]:
    """The row of the steps."""
    sides: dict[str, list[float]] = {"ours": [], "peer": []}
    watch = Stopwatch()
    originals = plan_trainer.mark_not_finite, trainer.mean_cosine
    for number in range(2 * args.rounds):
        side = ("ours", "peer")[number % 2 ^ number // 2 % 2]  # ours, peer, peer, ours: a drift of the machine cancels
        with tempfile.TemporaryDirectory() as folder:
            made, times = make_trainer(args, corpus, folder)
            if side == "peer":
                plan_trainer.mark_not_finite, trainer.mean_cosine = lambda loss: loss, lambda vectors: torch.zeros(())
                made.finite_guard.check = lambda *_, **__: None  # type: ignore[method-assign]
                made.heartbeat.on_step_end = made.stop.on_step_end = lambda *_, **__: None  # type: ignore[method-assign]
            else:
                plan_trainer.mark_not_finite, trainer.mean_cosine = map(watch.around, originals)
                for holder, name in (
                    (made.finite_guard, "check"),
                    (made.heartbeat, "on_step_end"),
                    (made.stop, "on_step_end"),
                ):
                    setattr(holder, name, watch.around(getattr(holder, name)))
            made.train()
        plan_trainer.mark_not_finite, trainer.mean_cosine = originals
        sides[side].append(times.ends_s[-1] - times.ends_s[args.warmup_steps - 1])
    share = watch.seconds * (1 - args.warmup_steps / args.steps) / sum(sides["ours"])
    found = {
        side: {"steps_per_s": (args.steps - args.warmup_steps) / statistics.median(sides[side])} for side in sides
    }
    ratio = sum(sides["ours"]) / sum(sides["peer"])
    return {"comparison": "step", **found, "seconds_of_rounds": sides, "ratio": {"step_time": ratio}, "share": share}


def compare_checkpoints(args: argparse.Namespace, corpus: ParallelCorpus) -> dict[str, Any]:
    """The row of the checkpoints."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    verify_s = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        made, _ = make_trainer(args, corpus, folder)
        made.args.max_steps = made.args.save_steps = 2
        made.train()
        for number in range(args.rounds):
            for side, save in (("ours", HybridTrainer._save_checkpoint), ("peer", Trainer._save_checkpoint)):
                made.args.output_dir = f"{folder}/{side}-{number}"
                start = time.perf_counter()
                save(made, made.model, None)
                seconds[side].append(time.perf_counter() - start)
            whole = Path(folder, f"ours-{number}", "checkpoint-2")
            start = time.perf_counter()
            assert checkpoints.find_damage(whole) is None
            verify_s.append(time.perf_counter() - start)
        gib = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()) / GIB
    found = {side: {"seconds": statistics.median(times)} for side, times in seconds.items()}
    ratio = found["ours"]["seconds"] / found["peer"]["seconds"]
    return {
        "comparison": "checkpoint",
        **found,
        "ratio": {"seconds": ratio},
        "gib": gib,
        "verify_s": statistics.median(verify_s),
        "seconds_of_rounds": seconds,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, required=True, help="where the rows go; those of other runs stay")
    add("--corpus", default="sample", help="folder to train on")
    add("--model", help="folder of a model; by default a small one from scratch")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bf16", action="store_true")
    add("--batch_size", type=int, default=32)
    add("--max_passage_length", type=int, default=128)
    add("--steps", type=int, default=40)
    add("--warmup_steps", type=int, default=4)
    add("--rounds", type=int, default=4)
    add("--seed", type=int, default=42)
    add("--cache", default=tempfile.gettempdir() + "/hf_hybrid_resume_overhead", help="of corpus and token ids")
    add("--folder", help="disk to write checkpoints to; by default that of temporary files")
    return parser.parse_args()


def main() -> None:
    args = parse()
    corpus = load_corpus(args.corpus, cache_dir=args.cache)
    about = {
        "model": Path(args.model).name if args.model else "from scratch",
        "batch_size": args.batch_size,
        "device": device_name(args.device, torch.get_num_threads()),
        "versions": versions(PACKAGES),
    }
    for compare in (compare_steps, compare_checkpoints):
        row = {**compare(args, corpus), **about}
        write_row(args.json, row, ROW_KEYS)
        print({name: row[name] for name in ("comparison", "ours", "peer", "ratio")}, flush=True)


if __name__ == "__main__":
    main()
