"""Evaluate a model on all languages against all, from one encoding of each.

    python recipes/eval.py --model runs/sample-hybrid/model
    python recipes/eval.py --model intfloat/multilingual-e5-small --corpus XQUAD_R --query_prompt "query: " \
        --passage_prompt "passage: " --save_runs true
    accelerate launch recipes/eval.py --model runs/mine/model --corpus miracl --settings monolingual

The same command goes on where a killed one stopped.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hf_hybrid import HybridEncoder, ParallelCorpus, RunFolder, build_sample_corpus, load_corpus
from hf_hybrid.arguments import EvaluationArguments, explained_errors, parse_arguments, split_codes
from hf_hybrid.bm25 import evaluate_bm25
from hf_hybrid.comparison import compare, comparison_table, write_comparison
from hf_hybrid.evaluation import evaluate_retrieval, table
from hf_hybrid.evaluation_files import PER_QUERY_NAME, EvaluationFiles
from hf_hybrid.machine import environment
from hf_hybrid.records import Scores
from hf_hybrid.report import pair_heat_map

STARTED_AT = time.perf_counter()


def main() -> None:
    # Arguments
    with explained_errors("eval.py"):
        args, _ = parse_arguments([EvaluationArguments])
        process = PartialState(cpu=args.use_cpu)
    say = print if process.is_main_process else lambda *_: None

    # Corpus and model
    with explained_errors("eval.py"):
        with process.main_process_first():
            corpus = open_corpus(args)
        model = open_model(args, process.device)
    say(f"devices: {process.num_processes} x {process.device}")
    say(f"corpus: {corpus!r}")

    # Evaluation
    with explained_errors("eval.py"):
        columns = {"model": evaluate(args, model, corpus)}
        if args.bm25:
            columns["BM25"] = evaluate_bm25(corpus, **shared_options(args))

    # What it leaves
    if not process.is_main_process:
        return
    folder = RunFolder(args.output_dir)
    evaluated = {**dataclasses.asdict(args), "corpus_fingerprint": corpus.fingerprint, "environment": environment()}
    folder.write_eval({"before": None, "after": columns["model"], "evaluated": evaluated})
    say("\n" + table(dict(columns)))
    with explained_errors("eval.py"):
        draw(args, columns["model"])
        if args.compare:
            found = compare(folder.path, args.compare, split_codes(args.measures) or [])
            write_comparison(folder.path / "comparison.json", found, args.compare)
            say(f"\nCompared with {args.compare}:\n{comparison_table(found)}\n")
    if not args.keep_embeddings:
        shutil.rmtree(folder.path / "embeddings", ignore_errors=True)
    say(f"\n{time.perf_counter() - STARTED_AT:.0f} s. All pairs of languages: {folder.path}/eval.json")
    say(f"Values of single queries: {folder.path}/{PER_QUERY_NAME}")


def open_corpus(args: EvaluationArguments) -> ParallelCorpus:
    languages = split_codes(args.languages)
    if args.corpus == "sample":
        return build_sample_corpus(cache_dir=args.cache_dir, languages=languages)
    return load_corpus(
        args.corpus,
        args.corpus_format,
        languages=languages,
        on_bad_row=args.on_bad_row,
        cache_dir=args.cache_dir,
        split=args.split,
    )


def open_model(args: EvaluationArguments, device: torch.device) -> Any:
    """The model on its device, with the prompts that were asked for."""
    dtype = getattr(torch, args.dtype)
    if args.library == "sentence_transformers":
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ImportError('It is not installed: pip install "hf-hybrid[sentence_transformers]".') from None
        model = SentenceTransformer(
            args.model, revision=args.revision, device=str(device), model_kwargs={"dtype": dtype}
        )
        model.max_seq_length = args.max_length or model.max_seq_length
        return model
    return (
        HybridEncoder.from_pretrained(
            args.model,
            revision=args.revision,
            attention=args.attention,
            dtype=dtype,
            pooling=args.pooling,
            query_prompt=args.query_prompt,
            passage_prompt=args.passage_prompt,
            max_length=args.max_length,
        )
        .to(device)
        .eval()
    )


def evaluate(args: EvaluationArguments, model: Any, corpus: ParallelCorpus) -> Scores:
    own_prompts = args.library == "hf_hybrid"
    with EvaluationFiles(args.output_dir, corpus, args.save_runs, args.run_depth) as details:
        return evaluate_retrieval(
            model,
            corpus,
            query_prompt=None if own_prompts else args.query_prompt,
            passage_prompt=None if own_prompts else args.passage_prompt,
            batch_tokens=args.batch_tokens,
            embedding_dir=Path(args.output_dir) / "embeddings",
            index=args.index,
            details=details,
            **shared_options(args),
        )


def shared_options(args: EvaluationArguments) -> dict[str, Any]:
    """What BM25 is asked for as well."""
    return {
        "settings": split_codes(args.settings),
        "measures": split_codes(args.measures),
        "max_queries": args.max_queries,
        "show_progress": PartialState().is_main_process,
    }


def draw(args: EvaluationArguments, scores: Scores) -> None:
    """The heat map, where there are pairs of languages to draw."""
    if len(scores["pairs"]) > 1:
        measure = (split_codes(args.measures) or [])[0]
        path = pair_heat_map(scores, Path(args.output_dir) / "heat_map.png", measure)
        print(f"Heat map of the pairs: {path}")


if __name__ == "__main__":
    main()
