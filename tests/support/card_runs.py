"""Run folders as a training leaves them, with made-up figures, for what is written from their files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from babel import localedata

from hf_hybrid.records.resources import FLOPS_FORMULA
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import Resources, Run, Scores

MEASURES = ("MAP", "nDCG@10", "MRR@10", "Recall@100")
BIAS = ("rank_distance", "PEER", "same_language_share@10", "same_language_recall@100", "MRC@10")
CODES = sorted(name for name in localedata.locale_identifiers() if len(name) == 2)


def write_run(folder: Path, languages: Sequence[str], seed: int = 0, **changes: Any) -> RunFolder:
    """A finished run on so many languages; `changes` replace what `run.json` has."""
    found, rng = RunFolder(folder), np.random.default_rng(seed)
    found.write_run({**make_run(languages, folder.name), **changes})  # type: ignore[typeddict-item]
    found.write_plan(
        {
            "language_pairs": [{"batch_type": "mono", "language_pair": "x->x"}],
            "batches": [0] * 60,
            "fingerprint": "f" * 64,
        }
    )
    found.write_resources(make_resources(languages, rng))
    before, after = (make_scores(languages, rng, least) for least in (0.1, 0.5))
    evaluated = {"corpus": {"path": "other-help", "license": "cc-by-sa-3.0"}, "corpus_fingerprint": "e" * 64}
    measured = {"languages": list(languages), "measures": list(MEASURES), "max_queries": None}
    found.write_eval({"before": before, "after": after, "evaluated": {**evaluated, **measured}})
    return found


def make_run(languages: Sequence[str], name: str) -> Run:
    """Monolingual and cross-lingual batches of all languages, from a checkpoint of the Hub."""
    language_pairs = [(a, b) for a in languages for b in languages]
    plan = [
        {
            "batch_type": "mono" if a == b else "cross",
            "language_pair": f"{a}->{b}",
            "items": 400,
            "steps": 2,
            "pairs": 128,
        }
        for a, b in language_pairs
    ]
    return {
        "config": {
            "model_name_or_path": "intfloat/multilingual-e5-small",
            "output_dir": f"runs/{name}",
            "train_corpus": "corpora/help",
            "query_prompt": "query: ",
            "max_query_length": 64,
            "global_batch_size": 128,
            "bf16": True,
        },
        "changed": ["model_name_or_path", "train_corpus", "query_prompt", "global_batch_size", "bf16"],
        "corpus": {
            "fingerprint": "c" * 64,
            "items_per_language": {code: 400 + number for number, code in enumerate(languages)},
            "license": "cc-by-sa-3.0",
            "source": {"format": "jsonl", "path": "help", "license": "cc-by-sa-3.0"},
        },
        "mix": "mono=0.5,cross=0.5",
        "plan": {"language_pairs": plan},
        "seed": 42,
        "world_size": 2,
        "environment": {"versions": {"torch": "2.13.0"}, "python": "3.11.7", "devices": ["NVIDIA H100 80GB HBM3"] * 2},
        "status": "finished",
        "identity": {"plan": "f" * 64},
        "model": {
            "architecture": "bert",
            "num_parameters": 117_653_760,
            "embedding_size": 384,
            "max_length": 256,
            "pooling": "mean",
            "normalize": True,
            "prompts": {"query": "query: ", "passage": "passage: "},
            "projection": False,
            "commit": "d" * 40,
        },
    }


def make_resources(languages: Sequence[str], rng: np.random.Generator) -> Resources:
    """As of two GPUs."""
    shares = {code: {"steps": 9, "tokens": 1000, "time_s": float(rng.random())} for code in languages}
    return {
        "train_time_s": 321.5,
        "setup_time_s": 12.5,
        "num_steps": 200,
        "num_pairs": 25_600,
        "tokens": 4_000_000,
        "padding_tokens": 0,
        "pairs_per_s": 79.6,
        "tokens_per_s": 12_441.7,
        "flops": 5.1e15,
        "flops_formula": FLOPS_FORMULA,
        "flops_terms": {"num_matmul_parameters": 85_054_464, "num_layers": 12, "hidden_size": 768},
        "mfu": None,
        "peak_device_memory_gib": [10.5, 11.25],
        "peak_host_memory_gib": [2.5, 2.25],
        "energy_wh": 52.25,
        "energy_source": "nvml",
        "per_language": shares,  # type: ignore[typeddict-item]
        "per_language_pair": {},
        "bytes_sent": {"embeddings": 2**30, "weights": 2**34, "formula": "f"},
    }


def make_scores(languages: Sequence[str], rng: np.random.Generator, least: float) -> Scores:
    """All pairs, monolingual ones higher."""

    def values(names: Sequence[str], more: float = 0.0) -> dict[str, float]:
        return {name: least + more + 0.2 * float(rng.random()) for name in names}

    return {
        "monolingual": values(MEASURES, 0.2),
        "cross_lingual": values(MEASURES, 0.1),
        "multilingual": values(MEASURES),
        "bias": {**values(BIAS), "rank_distance": 400 - 300 * least},
        "pairs": {f"{a}-{b}": values(MEASURES, 0.2 * (a == b)) for a in languages for b in languages},
        "num_queries": 100 * len(languages),
    }
