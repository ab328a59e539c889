"""Evaluation of all language pairs and their pool beside MTEB and BEIR; scoring and search memory by themselves.

    python benchmarks/evaluation.py --json FILE --corpus ../shared/data/xquad-r --only lookup
    python benchmarks/evaluation.py --json FILE --corpus ../shared/data/xquad-r --only model --model FOLDER --pairs 11
    python benchmarks/evaluation.py --json FILE --only scoring memory

1. *lookup*: queries of each language against the passages of each, and all queries against all passages, with
   embeddings (hashed trigrams) that lie ready in a table, so that search and scoring show. *model* is the same with an
   encoder, so that encoding shows. All sides ask the same object in the same process, with data in their own form in
   memory before the clock starts. MTEB runs without and with its cache of embeddings.
2. *scoring*: MAP, nDCG@10, MRR and Recall@100 of 10,000 queries with 1,000 hits, beside pytrec_eval.
3. *memory*: peak resident memory of a process that ranks 2 million vectors on disk for 1,000 queries, beside a flat
   FAISS index, which holds them.

A row of the result has `ours`, `peer`, their `ratio` (peer / ours) and the largest `difference` of a value. Rows of a
file that are not measured again stay in it. `--pairs N` runs the peers on N pairs and scales their time: with a
multiple of the number of languages every text is encoded equally often. The cached run always does all pairs.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import logging
import platform
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from evaluation_peers import POOL, Embed, Job, PeerRun, jobs_of, run_beir, run_mteb

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.sources.load import load_corpus
from hf_hybrid.data.sources.sample import build_sample_corpus
from hf_hybrid.evaluation.evaluate import evaluate_retrieval
from hf_hybrid.metrics.beir_cross_lingual.ranking import evaluate_runs
from hf_hybrid.training.meters import peak_host_memory

TOLERANCE = 1e-3  # of nDCG@10 of a pair: the sides place ties differently
DEPTH, DIMENSIONS, SHARD_ROWS, LIMIT_GIB = 100, 384, 2**16, 4.0
PACKAGES = ("torch", "transformers", "numpy", "mteb", "beir", "pytrec-eval-terrier", "faiss-cpu")


class Lookup:
    """An encoder that costs nothing: signed counts of hashed trigrams of all texts, computed beforehand.

    Args:
        corpus (`ParallelCorpus`): All its texts are known.
    """

    def __init__(self, corpus: ParallelCorpus) -> None:
        columns = [column(language) for language in corpus.languages for column in (corpus.queries, corpus.passages)]
        texts = dict.fromkeys(text.strip() for column in columns for text in column.to_pylist())
        self._place = {text: place for place, text in enumerate(texts)}
        vectors = np.stack([self._vector(text) for text in texts])
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._vectors[[self._place[text.strip()] for text in texts]]  # MTEB strips passages

    @staticmethod
    def _vector(text: str) -> np.ndarray:
        padded = f" {text.lower()} "
        hashes = np.array([zlib.crc32(padded[i : i + 3].encode()) for i in range(len(padded) - 2)], dtype=np.int64)
        noise = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIMENSIONS) / 100  # else many ties
        found = noise + np.bincount(hashes % DIMENSIONS, weights=hashes >> 30 & 2, minlength=DIMENSIONS)
        return (found - np.bincount(hashes % DIMENSIONS, minlength=DIMENSIONS)).astype(np.float32)


# Step 1: pairs and the pool


def run_ours(model: Any, corpus: ParallelCorpus) -> PeerRun:
    start = time.perf_counter()
    scores = evaluate_retrieval(model, corpus)
    values = {pair: found["nDCG@10"] for pair, found in scores["pairs"].items()}
    return PeerRun({"all": time.perf_counter() - start}, values | {POOL: scores["multilingual"]["nDCG@10"]})


def compare_pairs(
    name: str, model: Any, embed: Embed, corpus: ParallelCorpus, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A row for each peer."""
    jobs = jobs_of(corpus)
    chosen = jobs[: 1 + args.pairs] if args.pairs else jobs
    for side, column in (("query", corpus.queries), ("passage", corpus.passages)):  # warm up
        embed(column(corpus.languages[0]).slice(0, 32).to_pylist(), side)
    ours = run_ours(model, corpus)
    with tempfile.TemporaryDirectory() as cache:
        peers: dict[str, tuple[str, list[Job], Callable[[list[Job]], PeerRun]]] = {
            "beir": ("beir", chosen, lambda run: run_beir(embed, run)),
            "mteb": ("mteb", chosen, lambda run: run_mteb(embed, run)),
            "mteb_cached": ("mteb", jobs, lambda run: run_mteb(embed, run, Path(cache))),
        }
        for peer in args.peers:
            library, run, measure = peers[peer]
            gc.collect()
            found = measure(run)
            time_s, measured_s = total_s(found, len(jobs) - 1), sum(found.time_s.values())
            yield {
                "comparison": name,
                "library": f"{library} {importlib.metadata.version(library)}",
                "peer_name": peer,
                "what": f"{len(jobs) - 1} pairs of {len(corpus.languages)} languages and their pool",
                "encoder": args.model.name if name == "model" else "hashed trigrams, ready in a table",
                "corpus": Path(args.corpus).name if args.corpus else "sample",
                **sizes(jobs[0]),
                "ours": {"time_s": ours.time_s["all"]},
                "peer": {"time_s": time_s, "measured_s": measured_s, "measured_pairs": len(run) - 1},
                "ratio": time_s / ours.time_s["all"],
                "difference": difference(ours.values, found.values),
            }


def corpus_of(args: argparse.Namespace) -> ParallelCorpus:
    languages = args.languages.split(",") if args.languages else None
    corpus = load_corpus(args.corpus, languages=languages) if args.corpus else build_sample_corpus(languages=languages)
    return corpus.split(args.items)[1] if args.items and args.items < len(corpus) else corpus


def sizes(pool: Job) -> dict[str, Any]:
    languages = sorted({key.split("-", 1)[1].rsplit("-", 1)[0] for key in pool.passages})
    return {"languages": languages, "queries": len(pool.queries), "passages": len(pool.passages)}


def total_s(run: PeerRun, num_pairs: int) -> float:
    """Time of all pairs and the pool, from those that were run."""
    pairs = [time_s for name, time_s in run.time_s.items() if name != POOL]
    return run.time_s[POOL] + sum(pairs) * num_pairs / len(pairs)


def difference(ours: dict[str, float], peer: dict[str, float]) -> float:
    """The largest, which shows that both did the same job."""
    found = max(abs(ours[name] - value) for name, value in peer.items())
    if found > TOLERANCE:
        raise AssertionError(f"nDCG@10 differs by {found:.6f} from the peer's: this is not the same job.")
    return found


def compare_lookup(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    corpus = corpus_of(args)
    model = Lookup(corpus)
    return compare_pairs("lookup", model, lambda texts, side: model.encode(texts), corpus, args)


def compare_model(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from hf_hybrid.models.encoder import HybridEncoder

    if args.model is None:
        sys.exit("--only model needs --model FOLDER.")
    prompts = {"query_prompt": args.query_prompt, "passage_prompt": args.passage_prompt}
    model = HybridEncoder.from_pretrained(args.model, pooling="mean", **prompts)
    return compare_pairs("model", model, model.encode, corpus_of(args), args)


# Step 2: scoring


def compare_scoring(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import pytrec_eval

    names = {"MAP": "map", "nDCG@10": "ndcg_cut_10", "MRR": "recip_rank", "Recall@100": "recall_100"}
    asked = {"map", "ndcg_cut.10", "recip_rank", "recall.100"}
    num_queries, num_hits = (100, 100) if args.small else (10_000, 1000)
    predictions, references = random_runs(num_queries, num_hits)
    run = {row["query_id"]: dict(zip(row["doc_ids"], row["scores"], strict=True)) for row in predictions}
    qrels = {row["query_id"]: dict(zip(row["doc_ids"], row["relevance"], strict=True)) for row in references}
    ours_s, ours = best_of_three(lambda: evaluate_runs(predictions, references, list(names), "trec_eval"))
    peer_s, peer = best_of_three(lambda: pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run))
    means = {ours: float(np.mean([found[name] for found in peer.values()])) for ours, name in names.items()}
    worst = max(abs(ours.means[name] - means[name]) for name in names)
    assert worst < 1e-6, f"means differ by {worst}"
    yield {
        "comparison": "scoring",
        "library": f"pytrec-eval-terrier {importlib.metadata.version('pytrec-eval-terrier')}",
        "peer_name": "pytrec_eval",
        "what": f"{', '.join(names)} of {num_queries} queries with {num_hits} hits, from Python lists and dicts",
        "ours": {"time_s": ours_s},
        "peer": {"time_s": peer_s},
        "ratio": peer_s / ours_s,
        "difference": worst,
    }


def random_runs(num_queries: int, num_hits: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs, best hit first; references: five documents of the run, mostly in its top 100, and another one."""
    generator = np.random.default_rng(0)
    documents = [f"document-{number}" for number in range(20 * num_hits)]
    predictions, references = [], []
    for query in range(num_queries):
        hits = generator.choice(len(documents), num_hits + 1, replace=False).tolist()
        ids = [documents[number] for number in hits]
        scores = np.sort(generator.standard_normal(num_hits).astype(np.float32))[::-1].tolist()
        k = np.minimum(generator.geometric(5 / 50, size=5), num_hits // 5) * 5 - 1 - np.arange(5)
        relevant = [ids[place] for place in k.tolist()]
        grades = generator.integers(1, 4, size=6).tolist()
        predictions.append({"query_id": f"query-{query}", "doc_ids": ids[:-1], "scores": scores})
        references.append({"query_id": f"query-{query}", "doc_ids": [*relevant, ids[-1]], "relevance": grades})
    return predictions, references


def best_of_three(work: Callable[[], Any]) -> tuple[float, Any]:
    times, found = [], None
    for _ in range(3):
        found = None
        gc.collect()
        start = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - start)
    return min(times), found


# Step 3: memory


def compare_memory(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    num_vectors, num_queries = (100_000, 100) if args.small else (2_000_000, 1000)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_vectors(folder, num_vectors, num_queries)
        ours, peer = (search_in_process(side, folder) for side in SEARCHES)
        shared = float(np.mean(np.load(folder / "ours.npy") == np.load(folder / "faiss.npy")))
    assert shared > 0.999, f"only {shared:.4f} of the places hold the same vector"
    assert ours["peak_memory_gib"] < LIMIT_GIB, f"{ours['peak_memory_gib']:.2f} GiB resident, allowed {LIMIT_GIB}"
    yield {
        "comparison": "memory",
        "library": f"faiss-cpu {importlib.metadata.version('faiss-cpu')}",
        "peer_name": "faiss",
        "what": f"first {DEPTH} of {num_vectors} x {DIMENSIONS} float32 vectors on disk for {num_queries} queries",
        "ours": ours,
        "peer": peer,
        "ratio": peer["peak_memory_gib"] / ours["peak_memory_gib"],
        "limit_gib": LIMIT_GIB,
        "difference": 1 - shared,
    }


def write_vectors(folder: Path, num_vectors: int, num_queries: int) -> None:
    """Shards of random vectors, and queries of the same kind."""
    generator = np.random.default_rng(0)
    for start in range(0, num_vectors, SHARD_ROWS):
        rows = min(SHARD_ROWS, num_vectors - start)
        np.save(folder / f"shard-{start:09}.npy", generator.standard_normal((rows, DIMENSIONS), dtype=np.float32))
    np.save(folder / "queries.npy", generator.standard_normal((num_queries, DIMENSIONS), dtype=np.float32))


def search_in_process(side: str, folder: Path) -> dict[str, Any]:
    """Time and peak resident memory of a fresh process, mapped files included."""
    command = [sys.executable, __file__, "--search", side, "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def search_ours(folder: Path) -> np.ndarray:
    """As an evaluation does it: the top k, and the rank of a passage that is called relevant."""
    from hf_hybrid.retrieval.search import DensePool, Relevant

    shards, queries = sorted(folder.glob("shard-*.npy")), folder / "queries.npy"
    pool = DensePool([[queries]], [shards], torch.device("cpu"))
    found, height, num_queries = [], pool.block_height, len(np.load(queries, mmap_mode="r"))
    for start in range(0, num_queries, height):
        query_R = np.arange(min(height, num_queries - start))
        relevant = Relevant(query_R, np.zeros_like(query_R), query_R, np.ones_like(query_R))
        block = pool.rank(0, slice(start, start + len(query_R)), relevant, 10, DEPTH)
        found.append(block.best[-1].passage_BP)
    return np.concatenate(found)


def search_faiss(folder: Path) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatIP(DIMENSIONS)
    for shard in sorted(folder.glob("shard-*.npy")):
        index.add(np.load(shard))
    return index.search(np.load(folder / "queries.npy"), DEPTH)[1]


SEARCHES: dict[str, Callable[[Path], np.ndarray]] = {"ours": search_ours, "faiss": search_faiss}


def search(side: str, folder: Path) -> None:
    """The child: its ranking goes into the folder, its figures to standard output."""
    imports_gib, start = peak_host_memory() / 2**30, time.perf_counter()
    np.save(folder / f"{side}.npy", SEARCHES[side](folder))
    figures = {"peak_memory_gib": peak_host_memory() / 2**30, "imports_gib": imports_gib}
    print(json.dumps({**figures, "time_s": time.perf_counter() - start}))


COMPARISONS = {
    "lookup": compare_lookup,
    "model": compare_model,
    "scoring": compare_scoring,
    "memory": compare_memory,
}


def main() -> None:
    args = parse()
    if args.search:
        return search(args.search, args.folder)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    device = f"{platform.machine()}, {psutil.cpu_count()} cores, {torch.get_num_threads()} threads"
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in args.only:
        for row in COMPARISONS[name](args):
            write(args.json, {**row, "device": device, "versions": versions})
            print(
                f"{name:8} {row['library']:28} {row['peer_name']:12} ratio {row['ratio']:6.1f}  {row['what']}",
                flush=True,
            )
    return None


def write(path: Path, row: dict[str, Any]) -> None:
    """Put a row in the place of the same comparison measured before, if it was."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    keys = ("comparison", "peer_name", "what", "encoder", "corpus", "queries")
    rows = [old for old in rows if any(old.get(key) != row.get(key) for key in keys)]
    path.write_text(json.dumps({"rows": [*rows, row]}, indent=2) + "\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, help="where the result goes", required="--search" not in sys.argv)
    add("--only", nargs="+", choices=COMPARISONS, default=["lookup", "scoring", "memory"], help="which comparisons")
    add("--corpus", help="folder or preset; the sample corpus by default")
    add("--languages", help="some of its languages, such as ar,de; all by default")
    add("--items", type=int, help="so many of its items; all by default")
    add("--peers", nargs="+", choices=("beir", "mteb", "mteb_cached"), default=["beir", "mteb", "mteb_cached"])
    add("--pairs", type=int, help="run the peers on so many pairs and scale; best a multiple of the languages")
    add("--model", type=Path, help="model folder")
    add("--query_prompt", default="query: ")
    add("--passage_prompt", default="passage: ")
    add("--folder", type=Path, help="where the temporary vectors go (3 GB)")
    add("--small", action="store_true", help="scoring and memory in seconds, to see that they run")
    add("--search", choices=("ours", "faiss"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
