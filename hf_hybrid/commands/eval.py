"""Evaluate a model on all languages against all, from one encoding of each.

    hf-hybrid eval --model runs/sample-hybrid/model --languages en,de,ja --held_out 100
    hf-hybrid eval --model intfloat/multilingual-e5-small --corpus FOLDER --query_prompt "query: " \\
        --passage_prompt "passage: " --save_runs true
    hf-hybrid eval --model runs/mine/model --corpus miracl --settings monolingual --num_processes 2

The same command resumes a killed one. The output folder is by default one for each model and corpus. A
folder that holds another evaluation is refused, unless `--overwrite` replaces it.
Launchers of processes start it as `accelerate launch -m hf_hybrid eval`, or by the recipe eval.py.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hf_hybrid.data.languages import split_codes
from hf_hybrid.evaluation.folder import (
    BM25_NAME,
    COMPARISON_NAME,
    HEAT_MAP_NAME,
    default_folder,
    list_planned_files,
    open_evaluation,
)
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import cache_folder
from hf_hybrid.utils.options import check_ranges, explain_errors, option, parse_arguments

from .console import introduction

# Whatever loads torch is imported in the functions that need it, for the command line is read before.
if TYPE_CHECKING:
    import torch

    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.records.schema import Scores

# Preparing a large corpus, which the others wait for, takes longer than a collective may.
PATIENCE = timedelta(hours=12)


@dataclass
class EvaluationArguments:
    """Options of `eval`: model, corpus, measures and outputs."""

    model: str | None = option(None, "Hub id or folder of the model.")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    library: str = option(
        "hf_hybrid", "What loads and runs the model: hf_hybrid (packed, no padding) or sentence_transformers."
    )
    pooling: str | None = option(None, "mean, cls or pooler; by default the checkpoint's, else mean.")
    query_prompt: str | None = option(None, "Put before every query, as in 'query: '; by default the checkpoint's.")
    passage_prompt: str | None = option(None, "Put before every passage; by default the checkpoint's.")
    max_length: int | None = option(
        None, "Most tokens of a text; by default the checkpoint's, else 256.", within=(3, 1_000_000)
    )
    attention: str = option("auto", "auto, varlen (packed, no padding), sdpa, flash_attention_2 or eager.")
    dtype: str = option("float32", "Of the weights: float32, bfloat16 or float16.")
    use_cpu: bool = option(False, "Stay on the CPU, even where there is a GPU.")
    corpus: str = option("sample", "Folder or preset to evaluate on; 'sample' is built in.")
    corpus_format: str = option("auto", "auto, jsonl, beir, xquad_r, pairs or hub.")
    split: str | None = option(None, "Split of a BEIR folder or a preset.")
    languages: str | None = option(None, "Comma-separated codes; all languages of the corpus by default.")
    held_out: float = option(
        0.0, "Only what train.py holds out of the corpus with the same --held_out; by default all of it."
    )
    on_bad_row: str = option("refuse", "refuse: stop at the first bad row; skip: drop and count it.")
    cache_dir: str = option(str(cache_folder()), "Where built corpora are kept.")
    settings: str = option("monolingual,cross_lingual,multilingual", "Which of these three.")
    measures: str = option(
        "MAP,nDCG@10,MRR@10,Recall@100", "Also MAP@k, P@k, MRR, R-precision, success@k, with any cutoff k."
    )
    max_queries: int | None = option(None, "Use the first so many queries of each language.")
    batch_tokens: int = option(16_384, "Most tokens of one forward pass of a process.", within=(1, 2**40))
    index: str = option("exact", "exact, or faiss: approximate search for corpora where exact search is too slow.")
    bm25: bool = option(False, "Evaluate BM25 beside the model.")
    compare: str | None = option(None, "Output folder of an earlier evaluation on the same corpus to test against.")
    output_dir: str = option(
        None, "The folder for eval.json and all else; by default runs/eval/ and the names of model and corpus."
    )
    save_runs: bool = option(False, "Write the rankings and the qrels as TREC files.")
    run_depth: int = option(1000, "Passages per query in the TREC run files.", within=(1, 2**40))
    keep_embeddings: bool = option(False, "Leave the embeddings in output_dir, for further evaluations of the model.")

    def __post_init__(self) -> None:
        known = {
            "library": ("hf_hybrid", "sentence_transformers"),
            "dtype": ("float32", "bfloat16", "float16"),
            "index": ("exact", "faiss"),
            "on_bad_row": ("refuse", "skip"),
        }
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if self.model is None:
            raise ValueError("--model is missing: give the folder or the Hub id of the model to evaluate.")
        only_ours = {"pooling": None, "attention": "auto", "batch_tokens": 16_384}
        for name, default in only_ours.items():
            if (value := getattr(self, name)) != default and self.library != "hf_hybrid":
                raise ValueError(f"{name}={value!r}: not known to sentence-transformers; omit it.")
        needed = {"bm25s": self.bm25, "faiss": self.index == "faiss"}
        for package, wanted in needed.items():
            if wanted and importlib.util.find_spec(package) is None:  # said now, not after hours of encoding
                extra = {"bm25s": "bm25"}.get(package, package)
                raise ValueError(f'{package} is not installed: pip install ".[{extra}]", in a clone.')
        check_ranges(self)
        if self.output_dir is None:
            self.output_dir = default_folder(self.model, self.corpus, self.revision)
        if not self.output_dir.strip():
            raise ValueError("output_dir is empty; name a folder.")
        if os.path.isfile(self.output_dir):
            raise ValueError(f"output_dir={self.output_dir!r} is a file; name a folder.")
        if self.run_depth != 1000 and not self.save_runs:
            raise ValueError(f"run_depth={self.run_depth} without save_runs: nothing is so deep. Add --save_runs.")


ARGUMENTS = (EvaluationArguments,)
FLAGS = {"overwrite": "Delete the files of the evaluation that output_dir holds, and start again."}


def main(argv: Sequence[str] | None = None, program: str = "hf-hybrid eval") -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): Its options, by default those of the process.
        program (`str`, *optional*, defaults to `"hf-hybrid eval"`): Its name in errors and in the help.
    """
    # Arguments
    started_at = time.perf_counter()
    with explain_errors(program):
        args, rest = parse_arguments(
            ARGUMENTS, argv, flags=FLAGS, launch=True, program=program, introduction=introduction("eval", program)
        )

    import torch
    from accelerate import PartialState

    from hf_hybrid.evaluation.compare import check_comparable
    from hf_hybrid.evaluation.evaluate import check_asked, table
    from hf_hybrid.records.schema import PER_QUERY_NAME

    with explain_errors(program):
        check_asked(**read_asked(args))
        # without a word from us, accelerate would not connect processes where there is no GPU
        process = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available(), timeout=PATIENCE)
    say = print if process.is_main_process else lambda *_: None

    # Corpus and model
    with explain_errors(program):
        with process.local_main_process_first():
            corpus = open_corpus(args)
        if args.compare:
            measures = read_asked(args)["measures"]
            check_comparable(args.compare, args.output_dir, corpus.fingerprint, args.max_queries, measures)
        outputs = open_outputs(args, corpus, rest.overwrite)
        model = open_model(args, process.device)
    say(f"devices: {process.num_processes} x {process.device}")
    say(f"corpus: {corpus!r}")

    # Evaluation
    with explain_errors(program):
        columns = {"model": evaluate(args, model, corpus, outputs)}
        if args.bm25:
            columns["BM25"] = evaluate(args, None, corpus, outputs.subfolder(BM25_NAME))

    # What it leaves
    if process.is_main_process:
        say("\n" + table(dict(columns)))
        with explain_errors(program):
            tell_more(args, columns["model"], outputs)
        say(f"\n{time.perf_counter() - started_at:.0f} s. All language pairs: {args.output_dir}/eval.json")
        say(f"Values of single queries: {args.output_dir}/{PER_QUERY_NAME}")
    distributed.leave_at_exit()


def read_asked(args: EvaluationArguments) -> dict[str, Any]:
    """Return what is measured, as `evaluate_retrieval` takes it."""
    settings, measures = (split_codes(text) or [] for text in (args.settings, args.measures))
    return {"settings": settings, "measures": measures, "max_queries": args.max_queries}


def open_corpus(args: EvaluationArguments) -> ParallelCorpus:
    from hf_hybrid.data.sources.load import load_corpus

    corpus = load_corpus(
        args.corpus,
        args.corpus_format,
        languages=split_codes(args.languages),
        on_bad_row=args.on_bad_row,
        cache_dir=args.cache_dir,
        split=args.split,
    )
    share = args.held_out
    return corpus.split(held_out=int(share) if share.is_integer() else share)[1] if share else corpus


def open_outputs(args: EvaluationArguments, corpus: ParallelCorpus, overwrite: bool) -> OutputFolder:
    """Return the output folder, if this evaluation may write there."""
    from accelerate import PartialState

    compares = args.compare is not None
    names = list_planned_files(corpus.languages, read_asked(args)["settings"], args.save_runs, args.bm25, compares)
    problem = None
    if PartialState().is_main_process:
        evaluated = describe(args, corpus, str(args.model))
        try:
            open_evaluation(args.output_dir, evaluated, names, overwrite)
        except ValueError as error:
            problem = str(error)
    if (problem := distributed.from_first(problem)) is not None:
        raise ValueError(problem)
    return OutputFolder(args.output_dir)


def describe(args: EvaluationArguments, corpus: ParallelCorpus, name: str, **more: Any) -> dict[str, Any]:
    """Return what eval.json says of the evaluation of a model, or of BM25."""
    from hf_hybrid.evaluation.evaluate import what_is_evaluated

    return what_is_evaluated(corpus, **read_asked(args), model=name, arguments=dataclasses.asdict(args), **more)


def open_model(args: EvaluationArguments, device: torch.device) -> Any:
    """The model on its device, with the prompts that were asked for."""
    import torch

    from hf_hybrid.models.encoder import HybridEncoder

    dtype = getattr(torch, args.dtype)
    if args.library == "sentence_transformers":
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            name = "sentence_transformers"
            raise ImportError(f'{name} is not installed: pip install ".[{name}]", in a clone.') from None
        kwargs = {"dtype": dtype}
        model = SentenceTransformer(args.model, revision=args.revision, device=str(device), model_kwargs=kwargs)
        model.max_seq_length = args.max_length or model.max_seq_length
        return model
    encoder = HybridEncoder.from_pretrained(
        str(args.model),
        revision=args.revision,
        attention=args.attention,
        dtype=dtype,
        pooling=args.pooling,
        query_prompt=args.query_prompt,
        passage_prompt=args.passage_prompt,
        max_length=args.max_length,
    )
    return encoder.to(device).eval()


def evaluate(args: EvaluationArguments, model: Any, corpus: ParallelCorpus, outputs: OutputFolder) -> Scores:
    """Evaluate a model, or BM25 without one, and write all but pictures to the folder."""
    from accelerate import PartialState

    from hf_hybrid.evaluation.evaluate import evaluate_bm25, evaluate_retrieval
    from hf_hybrid.evaluation.per_query import EvaluationFiles
    from hf_hybrid.records.environment import environment
    from hf_hybrid.records.run_folder import RunFolder

    with EvaluationFiles(outputs, corpus, args.save_runs, args.run_depth) as details:
        shown: dict[str, Any] = {
            **read_asked(args),
            "details": details,
            "show_progress": PartialState().is_main_process,
        }
        if model is None:
            scores = evaluate_bm25(corpus, **shown)
        else:
            own_prompts = args.library == "hf_hybrid"  # they went to the model
            scores = evaluate_retrieval(
                model,
                corpus,
                query_prompt=None if own_prompts else args.query_prompt,
                passage_prompt=None if own_prompts else args.passage_prompt,
                batch_tokens=args.batch_tokens,
                embedding_dir=outputs.subfolder("embeddings"),
                keep_embeddings=args.keep_embeddings,
                index=args.index,
                **shown,
            )
    if PartialState().is_main_process:
        with suppress(OSError):  # there are others' embeddings in it
            (outputs.path / "embeddings").rmdir()
        name = "BM25" if model is None else str(args.model)
        evaluated = describe(args, corpus, name, environment=environment())
        RunFolder(outputs).write_eval({"before": None, "after": scores, "evaluated": evaluated})
    return scores


def tell_more(args: EvaluationArguments, scores: Scores, outputs: OutputFolder) -> None:
    """The comparison that was asked for, and a picture where there are several language pairs."""
    from hf_hybrid.evaluation.compare import compare, comparison_table, write_comparison
    from hf_hybrid.evaluation.heat_map import pair_heat_map

    folder, measures = outputs.path, read_asked(args)["measures"]
    outputs.delete(COMPARISON_NAME, HEAT_MAP_NAME)  # of an earlier evaluation
    if args.compare:
        found = compare(folder, args.compare, measures)
        outputs.claim(COMPARISON_NAME)
        write_comparison(folder / COMPARISON_NAME, found, args.compare)
        print(f"\nCompared with {args.compare}:\n{comparison_table(found)}")
    if len(scores["pairs"]) > 1:
        outputs.claim(HEAT_MAP_NAME)
        try:
            print(f"\nHeat map of the pairs: {pair_heat_map(scores, folder / HEAT_MAP_NAME, measures[0])}")
        except ImportError as error:  # not worth the evaluation
            print(f"\n{error}")
