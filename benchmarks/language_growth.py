"""Set-up time and memory of corpus and schedule as languages are added, beside sentence-transformers.

    python benchmarks/language_growth.py --json FILE

For each number of languages L, in a process of its own: (ours) load the built corpus, plan a hybrid run and take
batches; (peer) what the same training takes in sentence-transformers: one dataset for each ordered pair of languages,
a trainer over the `DatasetDict`, its sampler. The peer stops after the first L that takes longer than --peer_seconds.
Text is made up; memory is resident memory above that of the imports alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

STEPS, BATCH = 1000, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--languages", default="2,4,8,16,33,64,100", help="numbers of languages")
    parser.add_argument("--items", type=int, default=10_000, help="items, each in all languages")
    parser.add_argument("--peer_items", type=int, default=1_000, help="rows of each of the peer's L x L datasets")
    parser.add_argument("--peer_seconds", type=float, default=120, help="the peer goes no further than this")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_CHILDREN[args.child](args)))
        return
    rows, peer_goes_on = [], True
    for count in (int(word) for word in args.languages.split(",")):
        ours = measure("ours", args, count, args.items)
        same = measure("ours", args, count, args.peer_items)
        peer = measure("peer", args, count, args.peer_items) if peer_goes_on else None
        peer_goes_on = peer is not None and peer["setup_time_s"] < args.peer_seconds
        ratio = {name: peer[name] / same[name] for name in ("setup_time_s", "host_memory_mib")} if peer else None
        rows.append({"languages": count, "ours": ours, "ours_at_peer_items": same, "peer": peer, "ratio": ratio})
        print(table_row(rows[-1]), flush=True)
    names = ("numpy", "pyarrow", "torch", "transformers", "datasets", "sentence-transformers")
    result = {
        "device": f"{platform.machine()}, {psutil.cpu_count()} cores",
        "versions": {name: importlib.metadata.version(name) for name in names},
        "items": args.items,
        "peer_items": args.peer_items,
        "steps": STEPS,
        "rows": rows,
    }
    args.json.write_text(json.dumps(result, indent=2) + "\n")


def table_row(row: dict) -> str:
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


def measure(child: str, args: argparse.Namespace, count: int, items: int) -> dict:
    """Run one measurement in a fresh process, with a corpus of that size made before it starts."""
    with tempfile.TemporaryDirectory() as folder:
        if child == "ours":
            build_corpus(Path(folder) / "corpus", count, items)
        command = [sys.executable, __file__, "--json", folder, "--child", child]
        command += ["--languages", str(count), "--items", str(items)]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            sys.exit(f"{child} with {count} languages failed:\n{found.stderr[-3000:]}")
        return json.loads(found.stdout.splitlines()[-1])


def build_corpus(folder: Path, count: int, items: int) -> None:
    """A built corpus of made-up text, every item in every language."""
    from hf_hybrid.corpus import CorpusBuilder

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


def texts(code: str, items: int) -> tuple[list[str], list[str]]:
    """Queries of about 40 and passages of about 250 characters."""
    queries = [f"{code} question number {number} about something" for number in range(items)]
    return queries, [f"{code} passage {number} " + "with some words to read " * 10 for number in range(items)]


def resident_mib() -> float:
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / 2**20


def run_ours(args: argparse.Namespace) -> dict:
    from hf_hybrid.corpus import ParallelCorpus
    from hf_hybrid.schedule import HybridSchedule

    before, start = resident_mib(), time.perf_counter()
    corpus = ParallelCorpus.load(args.json / "corpus")
    schedule = HybridSchedule(corpus, "mono=0.5,cross=0.5", global_batch_size=BATCH, num_steps=STEPS)
    setup_s = time.perf_counter() - start
    steps = np.random.default_rng(0).permutation(STEPS)[:200]
    start = time.perf_counter()
    for step in steps:
        schedule.batch(int(step))
    batch_s = (time.perf_counter() - start) / len(steps)
    return {"setup_time_s": setup_s, "host_memory_mib": resident_mib() - before, "batch_time_s": batch_s}


def run_peer(args: argparse.Namespace) -> dict:
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
    codes = language_codes(int(args.languages))
    by_language = {code: texts(code, args.items) for code in codes}
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
        args.json / "out", max_steps=STEPS, per_device_train_batch_size=BATCH, report_to="none", use_cpu=True
    )
    trainer = SentenceTransformerTrainer(
        model, arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model)
    )
    iter(trainer.get_train_dataloader())
    setup_s = time.perf_counter() - start
    return {"setup_time_s": setup_s, "host_memory_mib": resident_mib() - before, "datasets": len(pairs)}


_CHILDREN = {"ours": run_ours, "peer": run_peer}

if __name__ == "__main__":
    main()
