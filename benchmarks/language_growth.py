"""What more languages cost: set-up, memory, and the step time of real training.

    python benchmarks/language_growth.py --json FILE
    python benchmarks/language_growth.py --json FILE --parts training --device cuda --hidden_size 768 --layers 12

For each number of languages L, in a process of its own:

1. *setup*: (ours) load the built corpus, plan a hybrid run and take batches; (peer) what the same training takes in
   sentence-transformers: one dataset for each ordered language pair, a trainer over the `DatasetDict`, its
   sampler. The peer stops after the first L that takes longer than --peer_seconds.
2. *training*: build the token cache; then, in a further process, train with `HybridTrainer`. The encoder, its
   vocabulary, the batch and the length of every text are the same for all L. `step_cpu_time_s` is the processor time
   of a step on CPU, which other work on the machine lengthens less than `step_time_s`.

Ours is measured --repeats times; the training goes up and down through all L, so that a machine that gets slower does
not look like growth. Text is made up; memory is resident memory above that of the imports alone.

`fits` has least-squares lines through all runs, with 95% intervals. *Flat*: the change along the line from the fewest
to the most languages lies, with its whole interval, within 10% of the line at the fewest. *Linear*: the interval of
the slope lies above 0, and the medians of the runs lie on their line with an R^2 of at least 0.95.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measuring import answer_child, device_name, run_child, versions

STEPS, BATCH = 1000, 128
VOCABULARY, QUERY_WORDS, PASSAGE_WORDS = 8192, 10, 75  # of the training, where a word is a token
WARMUP_STEPS = 5
FLAT_WITHIN, LINEAR_R2 = 0.10, 0.95
PARTS = ("setup", "training")
FLAT = ("step_time_s", "step_cpu_time_s", "peak_device_memory_mib")
LINEAR = ("setup_time_s", "host_memory_mib", "token_cache_time_s", "peak_host_memory_mib")

PACKAGES = ("numpy", "pyarrow", "torch", "transformers", "datasets", "sentence-transformers")

Row = dict[str, Any]
Texts = Callable[[str, int], tuple[list[str], list[str]]]


def main() -> None:
    if answer_child(lambda job: _CHILDREN[job["child"]](job)):
        return
    args = parse()
    rows: list[Row] = [{"languages": int(word)} for word in args.languages.split(",")]
    fits: Row = {}
    if "setup" in args.parts:
        fits |= add_setup(rows, args)
    if "training" in args.parts:
        fits |= add_training(rows, args)
    result = {
        "device": device_name(args.device, args.threads),
        "versions": versions(PACKAGES),
        "items": args.items,
        "peer_items": args.peer_items,
        "steps": STEPS,
        "repeats": args.repeats,
        "training": training_settings(args),
        "rows": rows,
        "fits": fits,
    }
    args.json.write_text(json.dumps(result, indent=2) + "\n")
    for name, fit in fits.items():
        print(fit_line(name, fit))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, required=True, help="where the result goes")
    add("--languages", default="2,4,8,16,33,64,100", help="numbers of languages")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    add("--repeats", type=int, default=3, help="runs of ours for each number of languages")
    add("--items", type=int, default=10_000, help="items of the set-up, each in all languages")
    add("--peer_items", type=int, default=1_000, help="rows of each of the peer's L x L datasets")
    add("--peer_seconds", type=float, default=120, help="the peer goes no further than this")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="of the training, in bf16 on cuda")
    add(
        "--threads", type=int, default=1, help="of the training on the CPU; more wait for each other on a busy machine"
    )
    add("--train_items", type=int, default=1_024, help="items of the training, each in all languages")
    add("--train_steps", type=int, default=60, help=f"measured steps, after {WARMUP_STEPS} that warm up")
    add("--batch_size", type=int, default=32, help="queries of a training batch, each with one passage")
    add("--hidden_size", type=int, default=128, help="width of the encoder, 64 for each head")
    add("--layers", type=int, default=2, help="layers of the encoder")
    args = parser.parse_args(arguments)
    # else each pass over a language pair ends with a short batch, which happens more often with few language pairs
    if args.train_items % args.batch_size:
        parser.error(f"--train_items {args.train_items} is no multiple of --batch_size {args.batch_size}.")
    return args


# Step 1: set-up


def add_setup(rows: list[Row], args: argparse.Namespace) -> Row:
    """Put `ours`, `ours_at_peer_items`, `peer` and their `ratio` (peer / ours) into the rows; gives the fits."""
    runs, peer_goes_on = [], True
    for row in rows:
        count = row["languages"]
        own = measure_setup("ours", args, count, args.items, args.repeats)
        same = medians(measure_setup("ours", args, count, args.peer_items, args.repeats))
        peer = measure_setup("peer", args, count, args.peer_items, 1)[0] if peer_goes_on else None
        peer_goes_on = peer is not None and peer["setup_time_s"] < args.peer_seconds
        names = ("setup_time_s", "host_memory_mib")  # what is too small to measure has no ratio
        ratio = {name: peer[name] / same[name] if same[name] else None for name in names} if peer else None
        row |= {"ours": medians(own), "ours_at_peer_items": same, "peer": peer, "ratio": ratio}
        runs += [(count, run) for run in own]
        print(setup_line(row), flush=True)
    return fit_all(runs)


def setup_line(row: Row) -> str:
    """One line for people."""
    ours, peer = row["ours"], row["peer"]
    text = (
        f"L={row['languages']:>3}  ours: set-up {ours['setup_time_s']:6.2f} s, {ours['host_memory_mib']:7.1f} MiB, "
        f"batch {ours['batch_time_s'] * 1000:6.2f} ms"
    )
    if peer is None:
        return text + "  peer: not run (the size before took too long)"
    return (
        text
        + f"  peer: set-up {peer['setup_time_s']:6.2f} s, {peer['host_memory_mib']:7.1f} MiB, "
        + f"{peer['datasets']} datasets"
    )


def measure_setup(child: str, args: argparse.Namespace, count: int, items: int, repeats: int) -> list[Row]:
    """Runs in fresh processes, with a corpus of that size made before they start."""
    with tempfile.TemporaryDirectory() as name:
        if child == "ours":
            build_corpus(Path(name) / "corpus", count, items, sentences)
        return [measure_in_child(child, args, Path(name), count, items) for _ in range(repeats)]


def measure_in_child(child: str, args: argparse.Namespace, folder: Path, count: int, items: int) -> Row:
    """What a fresh process measures in a folder."""
    names = ("device", "threads", "train_steps", "batch_size", "hidden_size", "layers")
    job = {"child": child, "folder": str(folder), "languages": count, "items": items}
    found = run_child(__file__, job | {name: getattr(args, name) for name in names})
    if found is None:
        sys.exit(f"{child} with {count} languages ran out of memory.")
    return found


def build_corpus(folder: Path, count: int, items: int, texts: Texts) -> None:
    """A built corpus of made-up text, every item in every language."""
    from hf_hybrid.data.corpus import CorpusBuilder

    ids = [f"item-{number}" for number in range(items)]
    with CorpusBuilder(folder) as builder:
        for code in language_codes(count):
            builder.add_language(code, ids, *texts(code, items))
        builder.finish()


def language_codes(count: int) -> Sequence[str]:
    """`count` codes that langcodes knows as languages."""
    from langcodes import tag_is_valid

    letters = "abcdefghijklmnopqrstuvwxyz"
    return [a + b for a in letters for b in letters if tag_is_valid(a + b)][:count]


def sentences(code: str, items: int) -> tuple[list[str], list[str]]:
    """Queries of about 40 and passages of about 250 characters."""
    queries = [f"{code} question number {number} about something" for number in range(items)]
    return queries, [f"{code} passage {number} " + "with some words to read " * 10 for number in range(items)]


def resident_mib() -> float:
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / 2**20


def run_ours(job: Row) -> Row:
    import pandas  # noqa: F401  pyarrow imports it with the first conversion; the peer has it before its clock starts
    import pyarrow.compute  # noqa: F401

    from hf_hybrid.data.batches.schedule import HybridSchedule
    from hf_hybrid.data.corpus import ParallelCorpus

    before, start = resident_mib(), time.perf_counter()
    corpus = ParallelCorpus.load(Path(job["folder"], "corpus"))
    schedule = HybridSchedule(corpus, "mono=0.5,cross=0.5", global_batch_size=BATCH, num_steps=STEPS)
    setup_s = time.perf_counter() - start
    steps = np.random.default_rng(0).permutation(STEPS)[:200]
    start = time.perf_counter()
    for step in steps:
        schedule.batch(int(step))
    batch_s = (time.perf_counter() - start) / len(steps)
    return {"setup_time_s": setup_s, "host_memory_mib": resident_mib() - before, "batch_time_s": batch_s}


def run_peer(job: Row) -> Row:
    import torch
    from datasets import Dataset, DatasetDict
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(0)
    codes = language_codes(job["languages"])
    by_language = {code: sentences(code, job["items"]) for code in codes}
    model = SentenceTransformer(
        modules=[StaticEmbedding(Tokenizer(WordLevel({"[UNK]": 0}, "[UNK]")), embedding_dim=4)]
    )
    before, start = resident_mib(), time.perf_counter()
    pairs = DatasetDict({
        f"{query}-{passage}": Dataset.from_dict({"anchor": by_language[query][0], "positive": by_language[passage][1]})
        for query in codes
        for passage in codes
    })  # fmt: skip
    arguments = SentenceTransformerTrainingArguments(
        Path(job["folder"], "out"), max_steps=STEPS, per_device_train_batch_size=BATCH, report_to="none", use_cpu=True
    )
    trainer = SentenceTransformerTrainer(
        model, arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model)
    )
    iter(trainer.get_train_dataloader())
    setup_s = time.perf_counter() - start
    return {"setup_time_s": setup_s, "host_memory_mib": resident_mib() - before, "datasets": len(pairs)}


# Step 2: training


def add_training(rows: list[Row], args: argparse.Namespace) -> Row:
    """Put `training` into the rows; gives the fits."""
    counts = [row["languages"] for row in rows]
    runs = []
    with tempfile.TemporaryDirectory() as name:
        for count in counts:
            build_corpus(Path(name) / str(count) / "corpus", count, args.train_items, word_texts)
        for repeat in range(args.repeats):
            for count in counts[:: -1 if repeat % 2 else 1]:
                runs.append((count, measure_training(args, Path(name) / str(count), count)))
                print(training_line(*runs[-1]), flush=True)
    for row in rows:
        own = [run for count, run in runs if count == row["languages"]]
        times_s = [time_s for run in own for time_s in run["step_times_s"]]
        lower, median, upper = np.quantile(times_s, (0.25, 0.5, 0.75)).tolist()
        row["training"] = {
            **medians([{name: value for name, value in run.items() if name != "step_times_s"} for run in own]),
            "step_time_s": median,
            "step_time_quartiles_s": [lower, upper],
            "num_steps": len(times_s),
        }
    return fit_all([(count, {**run, "step_time_s": float(np.median(run["step_times_s"]))}) for count, run in runs])


def training_settings(args: argparse.Namespace) -> Row:
    """What is the same for every number of languages."""
    names = ("train_items", "train_steps", "batch_size", "hidden_size", "layers")
    return {
        **{name: getattr(args, name) for name in names},
        "warmup_steps": WARMUP_STEPS,
        "vocabulary": VOCABULARY,
        "query_words": QUERY_WORDS,
        "passage_words": PASSAGE_WORDS,
        "precision": "bf16" if args.device == "cuda" else "float32",
    }


def training_line(count: int, run: Row) -> str:
    """One line for people."""
    memory = "".join(f", {run[name]:7.1f} MiB {name[5:-11]}" for name in run if name.startswith("peak_"))
    step_s = float(np.median(run["step_times_s"]))
    return f"L={count:>3}  token cache {run['token_cache_time_s']:6.2f} s, step {step_s * 1000:7.2f} ms{memory}"


def measure_training(args: argparse.Namespace, folder: Path, count: int) -> Row:
    """The token cache and the training, each in a fresh process."""
    found = [measure_in_child(child, args, folder, count, args.train_items) for child in ("tokens", "training")]
    shutil.rmtree(folder / "cache")
    return found[0] | found[1]


def word_texts(code: str, items: int) -> tuple[list[str], list[str]]:
    """Texts of QUERY_WORDS and PASSAGE_WORDS words of the vocabulary, other ones for each language."""
    draw = np.random.default_rng(list(code.encode()))
    numbers = draw.integers(VOCABULARY, size=(items, QUERY_WORDS + PASSAGE_WORDS)).tolist()
    words = [[f"w{number}" for number in row] for row in numbers]
    return [" ".join(row[:QUERY_WORDS]) for row in words], [" ".join(row[QUERY_WORDS:]) for row in words]


def word_tokenizer() -> Any:
    """A token for each word, the same for any number of languages."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *(f"w{number}" for number in range(VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def run_tokens(job: Row) -> Row:
    from hf_hybrid.data.batches.token_cache import TokenCache
    from hf_hybrid.data.corpus import ParallelCorpus

    corpus = ParallelCorpus.load(Path(job["folder"], "corpus"))
    cache = TokenCache(corpus, word_tokenizer(), cache_dir=cache_folder(job))
    start = time.perf_counter()
    cache.build()
    return {"token_cache_time_s": time.perf_counter() - start}


def cache_folder(job: Row) -> Path:
    """Where the trainer looks for token ids."""
    return Path(job["folder"], "cache", "tokens")


def run_training(job: Row) -> Row:
    import torch
    from transformers import BertConfig, BertModel

    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.models.encoder import HybridEncoder
    from hf_hybrid.training.meters import peak_host_memory
    from hf_hybrid.training.trainer import HybridTrainer

    before = resident_mib()
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=job["hidden_size"],
        num_hidden_layers=job["layers"],
        num_attention_heads=max(1, job["hidden_size"] // 64),
        intermediate_size=4 * job["hidden_size"],
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    trainer = HybridTrainer(
        HybridEncoder(BertModel(config, add_pooling_layer=False), tokenizer),
        training_arguments(job),
        ParallelCorpus.load(Path(job["folder"], "corpus")),
        cache_dir=Path(job["folder"], "cache"),
    )
    caches = set(cache_folder(job).iterdir())
    times = time_steps(trainer)
    assert set(cache_folder(job).iterdir()) == caches, "the token cache was made again: the training paid for it"
    resources = trainer.resource_log.summary()
    found = {
        **times,
        "tokens_per_step": resources["tokens"] / resources["num_steps"],
        "peak_host_memory_mib": peak_host_memory() / 2**20 - before,
    }
    on_device = {"peak_device_memory_mib": torch.cuda.max_memory_allocated() / 2**20}
    return found | (on_device if job["device"] == "cuda" else {})


def training_arguments(job: Row) -> Any:
    from hf_hybrid.training.arguments import HybridTrainingArguments

    return HybridTrainingArguments(
        output_dir=str(Path(job["folder"], "run")),
        max_steps=WARMUP_STEPS + job["train_steps"],
        global_batch_size=job["batch_size"],
        use_cpu=job["device"] == "cpu",
        bf16=job["device"] == "cuda",
        cpu_threads=job["threads"],
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        energy="none",
        disable_tqdm=True,
    )


def time_steps(trainer: Any) -> Row:
    """Train; the times from the end of a step to the end of the next, without those that warm up."""
    import torch
    from transformers import TrainerCallback

    from hf_hybrid.training.meters import Moment

    cuda, ends, processor_s = trainer.args.device.type == "cuda", [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(Moment(cuda))
            processor_s.append(time.process_time())

    trainer.add_callback(Clock())
    trainer.train()
    if cuda:
        torch.cuda.synchronize()
    first = WARMUP_STEPS - 1
    step_times_s = [start.until(end, 0.0)() for start, end in itertools.pairwise(ends[first:])]
    on_cpu = {} if cuda else {"step_cpu_time_s": float(np.median(np.diff(processor_s[first:])))}
    return {"step_times_s": step_times_s, **on_cpu}


# Fits


def medians(runs: list[Row]) -> Row:
    """The median of each figure over the runs."""
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def fit_all(runs: list[tuple[int, Row]]) -> Row:
    """A fit for each quantity that was measured and is said to be flat or linear."""
    return dict(_fits(runs)) if len({count for count, _ in runs}) > 2 else {}


def _fits(runs: list[tuple[int, Row]]) -> Iterator[tuple[str, Row]]:
    languages = np.array([count for count, _ in runs], dtype=float)
    for name in (*FLAT, *LINEAR):
        if name in runs[0][1]:
            fit = fit_line_through(languages, np.array([run[name] for _, run in runs]))
            if name in FLAT:
                low, high = fit["relative_change_interval_95"]
                yield name, {**fit, "flat": low > -FLAT_WITHIN and high < FLAT_WITHIN}
            else:
                yield name, {**fit, "linear": fit["slope_interval_95"][0] > 0 and fit["r2_of_medians"] >= LINEAR_R2}


def fit_line_through(languages: np.ndarray, values: np.ndarray) -> Row:
    """Least squares of values against numbers of languages; the interval follows Student's t."""
    from scipy.stats import t

    slope, intercept = np.polyfit(languages, values, 1)
    residuals = values - (intercept + slope * languages)
    freedom = len(values) - 2
    deviation = float(np.sqrt(residuals @ residuals / freedom / np.square(languages - languages.mean()).sum()))
    half = float(t.ppf(0.975, freedom)) * deviation
    interval = [float(slope) - half, float(slope) + half]
    fewest, most = languages.min(), languages.max()
    scale = float((most - fewest) / (intercept + slope * fewest))
    return {
        "slope_per_language": float(slope),
        "slope_interval_95": interval,
        "intercept": float(intercept),
        "relative_change": float(slope) * scale,
        "relative_change_interval_95": [bound * scale for bound in interval],
        "r2_of_medians": r_squared(languages, values),
    }


def r_squared(languages: np.ndarray, values: np.ndarray) -> float:
    """Share of the variance of the medians that a line explains; 1 where they do not vary."""
    counts = np.unique(languages)
    points = np.array([np.median(values[languages == count]) for count in counts])
    residuals = points - np.polyval(np.polyfit(counts, points, 1), counts)
    total = float(np.square(points - points.mean()).sum())
    return 1 - float(residuals @ residuals) / total if total else 1.0


def fit_line(name: str, fit: Row) -> str:
    """One line for people."""
    low, high = (100 * bound for bound in fit["relative_change_interval_95"])
    verdict = next(f"{word}: {fit[word]}" for word in ("flat", "linear") if word in fit)
    return f"{name:24} {verdict:14} change {low:+.1f}% to {high:+.1f}%, R^2 {fit['r2_of_medians']:.3f}"


_CHILDREN = {"ours": run_ours, "peer": run_peer, "tokens": run_tokens, "training": run_training}

if __name__ == "__main__":
    main()
