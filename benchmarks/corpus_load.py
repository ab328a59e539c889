"""Time and memory of large corpora: a million rows read from JSONL, and a million items in 100 languages loaded.

    python benchmarks/corpus_load.py --json corpus_load.json

1. *build*: 100 files of 10,000 lines each are read, checked and written as a corpus.
2. *load*: a built corpus of 1,000,000 items x 100 languages (5 GB of text, written directly) is loaded, 1,000 random
   items are read, each as a query and a passage in random languages, and the items of all 10,000 language pairs are
   counted.

Each step runs in a process of its own, whose peak resident memory is what the system reports. The limits are 30 s and
2 GiB; a step that passes one makes the exit status 1. `--small` runs the same in seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import langcodes
import numpy as np
import pyarrow as pa

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sides import SIDE_PLURALS
from hf_hybrid.data.sources.jsonl import from_jsonl
from hf_hybrid.data.storage import BATCH_ROWS, FORMAT, MANIFEST

LIMIT_S, LIMIT_GIB = 30.0, 2.0
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def language_codes(num_languages: int) -> list[str]:
    """The first two-letter codes that are languages, each in its preferred spelling."""
    codes = (a + b for a in ALPHABET for b in ALPHABET)
    return [code for code in codes if langcodes.tag_is_valid(code) and langcodes.standardize_tag(code) == code][
        :num_languages
    ]


def write_jsonl(folder: Path, languages: list[str], num_items: int) -> None:
    """A file of `num_items` lines of 350 bytes for each language; every twentieth passage is shared by two items."""
    for language in languages:
        with (folder / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for i in range(num_items):
                about = i - i % 20 // 19  # 19, 39, ... say what the item before them says
                passage = " ".join(f"{language}{about * 31 % 9973}-{word}" for word in range(30))
                row = {"id": f"item-{i}", "query": f"What is number {i} in {language}?", "passage": passage}
                file.write(json.dumps(row) + "\n")


def write_built(folder: Path, languages: list[str], num_items: int) -> None:
    """A built corpus of that size; item `i` is absent from language `i % 101`, where there is one."""
    rows = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.int32, shape=(num_items, len(languages), 2)
    )
    for start in range(0, num_items, BATCH_ROWS):
        items = np.arange(start, min(start + BATCH_ROWS, num_items))
        present = (items[:, None] % 101) != np.arange(len(languages))
        rows[items] = np.where(present, items[:, None], -1)[:, :, None]
    rows.flush()
    ids, numbers = pa.array([f"item-{i}" for i in range(num_items)]), np.arange(num_items)
    table = pa.table({"id": ids, "group": numbers, "relevance": np.ones(num_items, np.int32)})
    with pa.ipc.new_file(str(folder / "items.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=BATCH_ROWS)
    for language in languages:
        for side in SIDE_PLURALS:
            write_texts(folder / f"{language}.{side}.arrow", f"{side[:-1]} {language} ", num_items)
    manifest = {"format": FORMAT, "languages": languages, "num_items": num_items, "counts": {}, "fingerprint": "none"}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "source": {}, "report": {}}))


def write_texts(path: Path, prefix: str, num_texts: int) -> None:
    """Texts of one width, the prefix and seven digits, straight into Arrow buffers."""
    schema = pa.schema([("text", pa.string())])
    with pa.ipc.new_file(str(path), schema) as file:
        for start in range(0, num_texts, BATCH_ROWS):
            numbers = np.arange(start, min(start + BATCH_ROWS, num_texts))
            digits = numbers[:, None] // 10 ** np.arange(6, -1, -1) % 10 + ord("0")
            data = np.concatenate(
                [np.tile(np.frombuffer(prefix.encode(), np.uint8), (len(numbers), 1)), digits], axis=1
            )
            offsets = np.arange(len(numbers) + 1, dtype=np.int32) * data.shape[1]
            buffers = [pa.py_buffer(offsets), pa.py_buffer(data.astype(np.uint8).tobytes())]
            array = pa.StringArray.from_buffers(len(numbers), *buffers)
            file.write_batch(pa.record_batch([array], schema=schema))


def build(folder: Path) -> dict[str, Any]:
    """Step 1, timed."""
    start = time.perf_counter()
    corpus = from_jsonl(folder / "jsonl", cache_dir=folder / "cache")
    rows = sum(len(corpus.queries(language)) for language in corpus.languages)
    return {"rows": rows, "languages": len(corpus.languages), "time_s": time.perf_counter() - start}


def load(folder: Path) -> dict[str, Any]:
    """Step 2, timed."""
    start = time.perf_counter()
    corpus = ParallelCorpus.load(folder / "built")
    loaded = time.perf_counter()
    generator = np.random.default_rng(0)
    for item in generator.integers(len(corpus), size=1000).tolist():
        pair = generator.integers(len(corpus.languages), size=2).tolist()
        for side, column in zip((corpus.QUERY, corpus.PASSAGE), pair, strict=True):
            if (row := corpus.rows[item, column, side]) >= 0:
                text = corpus.text(side, corpus.languages[column], row)
                assert int(text[-7:]) == item == int(corpus.item_ids[item][len("item-") :])
    touched = time.perf_counter()
    counts = corpus.pair_counts()
    counted = time.perf_counter()
    return {
        "items": len(corpus),
        "languages": len(corpus.languages),
        "pairs": int(counts.sum()),
        "load_s": loaded - start,
        "touch_1000_items_s": touched - loaded,
        "pair_counts_s": counted - touched,
        "time_s": counted - start,
    }


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {"build": build, "load": load}


def run_step(name: str, folder: Path) -> dict[str, Any]:
    """The figures of a step that ran in its own process."""
    command = [sys.executable, __file__, "--step", name, "--folder", str(folder)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    result["within_limits"] = result["time_s"] <= LIMIT_S and result["peak_memory_gib"] <= LIMIT_GIB
    print(json.dumps({name: result}), file=sys.stderr)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures; else they are printed")
    parser.add_argument("--small", action="store_true", help="a thousandth of the size")
    parser.add_argument("--folder", type=Path, help="where the temporary corpora go (6 GB)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        result = STEPS[arguments.step](arguments.folder)
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({**result, "peak_memory_gib": peak_kib / 2**20}))
        return 0
    languages = language_codes(10 if arguments.small else 100)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for part in ("jsonl", "built"):
            (folder / part).mkdir()
        write_jsonl(folder / "jsonl", languages, 100 if arguments.small else 10_000)
        write_built(folder / "built", languages, 10_000 if arguments.small else 1_000_000)
        results = {step: run_step(step, folder) for step in STEPS}
    report = json.dumps({"limits": {"time_s": LIMIT_S, "peak_memory_gib": LIMIT_GIB}, **results}, indent=1)
    if arguments.json:
        arguments.json.write_text(report + "\n")
    else:
        print(report)
    return 0 if all(result["within_limits"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
