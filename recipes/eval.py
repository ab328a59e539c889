"""Evaluate a model on all languages against all, from one encoding of each.

    python recipes/eval.py --model runs/sample-hybrid/model --languages en,de,ja --held_out 100
    python recipes/eval.py --model intfloat/multilingual-e5-small --corpus FOLDER --query_prompt "query: " \
        --passage_prompt "passage: " --save_runs
    accelerate launch recipes/eval.py --model runs/mine/model --corpus miracl --settings monolingual

The same command goes on where a killed one stopped. The output folder is by default one for each model and corpus;
one that holds another evaluation is refused, unless `--overwrite` replaces it.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState

from hf_hybrid import HybridEncoder, ParallelCorpus, RunFolder, load_corpus
from hf_hybrid.data.languages import split_codes
from hf_hybrid.evaluation.compare import check_comparable, compare, comparison_table, write_comparison
from hf_hybrid.evaluation.evaluate import check_asked, evaluate_bm25, evaluate_retrieval, table, what_is_evaluated
from hf_hybrid.evaluation.folder import BM25_NAME, COMPARISON_NAME, HEAT_MAP_NAME, open_evaluation, planned_names
from hf_hybrid.evaluation.heat_map import pair_heat_map
from hf_hybrid.evaluation.per_query import EvaluationFiles
from hf_hybrid.records.environment import environment
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.records.run_folder import PER_QUERY_NAME, Scores
from hf_hybrid.training.arguments import EvaluationArguments
from hf_hybrid.utils import distributed
from hf_hybrid.utils.options import explained_errors, parse_arguments

FLAGS = {"overwrite": "Begin anew where output_dir holds another evaluation, whose files are deleted."}
STARTED_AT = time.perf_counter()
# Preparing a large corpus, which the others wait for, takes longer than a collective may.
PATIENCE = timedelta(hours=12)


def main() -> None:
    # Arguments
    with explained_errors("eval.py"):
        args, rest = parse_arguments([EvaluationArguments], flags=FLAGS)
        check_asked(split_codes(args.settings) or [], split_codes(args.measures) or [], args.max_queries)
        # without a word from us, accelerate would not connect processes where there is no GPU
        process = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available(), timeout=PATIENCE)
    say = print if process.is_main_process else lambda *_: None

    # Corpus and model
    with explained_errors("eval.py"):
        with process.local_main_process_first():
            corpus = open_corpus(args)
        if args.compare:
            measures = split_codes(args.measures) or []
            check_comparable(args.compare, args.output_dir, corpus.fingerprint, args.max_queries, measures)
        outputs = open_outputs(args, corpus, rest.overwrite)
        model = open_model(args, process.device)
    say(f"devices: {process.num_processes} x {process.device}")
    say(f"corpus: {corpus!r}")

    # Evaluation
    with explained_errors("eval.py"):
        columns = {"model": evaluate(args, model, corpus, outputs)}
        if args.bm25:
            columns["BM25"] = evaluate(args, None, corpus, outputs.within(BM25_NAME))

    # What it leaves
    if process.is_main_process:
        say("\n" + table(dict(columns)))
        with explained_errors("eval.py"):
            tell_more(args, columns["model"], outputs)
        say(f"\n{time.perf_counter() - STARTED_AT:.0f} s. All pairs of languages: {args.output_dir}/eval.json")
        say(f"Values of single queries: {args.output_dir}/{PER_QUERY_NAME}")


def open_corpus(args: EvaluationArguments) -> ParallelCorpus:
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
    """The output folder, if this evaluation may write there."""
    asked = {"settings": split_codes(args.settings) or [], "measures": split_codes(args.measures) or []}
    compares = args.compare is not None
    names = planned_names(corpus.languages, asked["settings"], args.save_runs, args.bm25, compares)
    problem = None
    if PartialState().is_main_process:
        evaluated = describe(args, corpus, asked, str(args.model))
        try:
            open_evaluation(args.output_dir, evaluated, names, overwrite)
        except ValueError as error:
            problem = str(error)
    if (problem := distributed.from_first(problem)) is not None:
        raise ValueError(problem)
    return OutputFolder(args.output_dir)


def describe(args: EvaluationArguments, corpus: ParallelCorpus, asked: dict[str, Any], name: str) -> dict[str, Any]:
    """What eval.json says of the evaluation of a model, or of BM25."""
    asked = {**asked, "max_queries": args.max_queries}
    return what_is_evaluated(
        corpus, **asked, model=name, arguments=dataclasses.asdict(args), environment=environment()
    )


def open_model(args: EvaluationArguments, device: torch.device) -> Any:
    """The model on its device, with the prompts that were asked for."""
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
    asked: dict[str, Any] = {
        "settings": split_codes(args.settings) or [],
        "measures": split_codes(args.measures) or [],
        "max_queries": args.max_queries,
    }
    with EvaluationFiles(outputs, corpus, args.save_runs, args.run_depth) as details:
        shown: dict[str, Any] = {**asked, "details": details, "show_progress": PartialState().is_main_process}
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
                embedding_dir=outputs.within("embeddings"),
                keep_embeddings=args.keep_embeddings,
                index=args.index,
                **shown,
            )
    if PartialState().is_main_process:
        with suppress(OSError):  # there are others' embeddings in it
            (outputs.path / "embeddings").rmdir()
        evaluated = describe(args, corpus, asked, "BM25" if model is None else str(args.model))
        RunFolder(outputs).write_eval({"before": None, "after": scores, "evaluated": evaluated})
    return scores


def tell_more(args: EvaluationArguments, scores: Scores, outputs: OutputFolder) -> None:
    """The comparison that was asked for, and a picture where there are several pairs of languages."""
    folder, measures = outputs.path, split_codes(args.measures) or []
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


if __name__ == "__main__":
    main()
    distributed.leave_at_exit()
