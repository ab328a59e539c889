"""Train a multilingual retriever with hybrid batches, and evaluate it before and after.

    hf-hybrid train
    hf-hybrid train --config sample/pool --num_processes 2
    hf-hybrid train --train_corpus FOLDER --model_name_or_path intfloat/multilingual-e5-small
    hf-hybrid train --dry_run --mix mono=1,cross=1,pool=1
    hf-hybrid train --like user/name --output_dir runs/again

Without a config, a corpus and a model it runs the settings sample/hybrid: the built-in corpus and a small encoder.
The same command resumes a run from its newest checkpoint. `--overwrite` deletes that run first.
Launchers of processes start it as `accelerate launch -m hf_hybrid train`, or by the recipe train.py.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from functools import cache

from hf_hybrid import HybridEncoder, HybridTrainer, ParallelCorpus, RunFolder
from hf_hybrid.data.sources.load import open_corpora
from hf_hybrid.evaluation.evaluate import scores_table
from hf_hybrid.training.arguments import DataArguments, HybridTrainingArguments, ModelArguments
from hf_hybrid.training.identity import differences_from_run, read_run_like, settings_like
from hf_hybrid.training.run import already_done, open_encoder, run_training
from hf_hybrid.utils import distributed
from hf_hybrid.utils.options import explain_errors

from .training_command import describe_files, parse_training

ARGUMENTS = (ModelArguments, DataArguments, HybridTrainingArguments)
DEFAULT_CONFIG = "sample/hybrid"
FLAGS = {
    "dry_run": "Print the plan and the first batches as text, and train nothing.",
    "overwrite": "Delete the files of the run that output_dir holds, and start again.",
}


def main(argv: Sequence[str] | None = None, program: str = "hf-hybrid train") -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): Its options, by default those of the process.
        program (`str`, *optional*, defaults to `"hf-hybrid train"`): Its name in errors and in the help.
    """
    # Arguments
    started_at = time.perf_counter()
    argv = list(sys.argv[1:] if argv is None else argv)
    read_run = cache(read_run_like)  # of --like: once, for on the Hub it may be another one the next moment
    with explain_errors(program):
        model_args, data_args, args, rest = parse_training(
            "train",
            ARGUMENTS,
            argv,
            program,
            DEFAULT_CONFIG,
            FLAGS,
            read_like=lambda name: settings_like(read_run(name)),
        )

    # Data, model, plan
    with explain_errors(program):
        with args.main_process_first(desc="reading the corpora"):
            train_corpus, eval_corpus = open_corpora(**dataclasses.asdict(data_args))
        trainer = HybridTrainer(
            model=open_encoder(HybridEncoder, model_args, train_corpus),
            args=args,
            train_dataset=train_corpus,
            eval_dataset=eval_corpus,
            max_query_length=model_args.max_query_length,
            cache_dir=data_args.cache_dir,
            started_at=started_at,
        )
        plan = trainer.schedule.summary()
    say = print if trainer.is_world_process_zero() else lambda *_: None
    say(f"devices: {args.world_size} x {args.device}, {trainer.get_distributed_strategy()['type']}")
    say(describe(train_corpus, "training corpus"))
    say(describe(eval_corpus, "evaluation corpus"))
    say(plan)
    if rest.like:
        say(describe_comparison(rest.like, differences_from_run(read_run(rest.like), trainer.identity())))
    if rest.dry_run:
        say(trainer.schedule.preview())
        return

    # Before, training, after
    folder = RunFolder(args.output_dir)
    with explain_errors(program):
        result = run_training(trainer, folder, [model_args, data_args, args], overwrite=rest.overwrite)

    # What the run leaves
    say("\n" + scores_table(result.before, result.after))
    say(closing_words(folder, trainer) if result.trained else already_done(folder))
    distributed.leave_at_exit()


def describe(corpus: ParallelCorpus, role: str) -> str:
    noticed = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in corpus.report.items() if count)
    return f"{role}: {corpus!r}" + (f"; noticed: {noticed}" if noticed else "")


def describe_comparison(name: str, differs: list[str]) -> str:
    """Say whether this is the named run, and if not, where it differs."""
    return f"not the run of {name}: {'; '.join(differs)}" if differs else f"the same run as that of {name}"


def closing_words(folder: RunFolder, trainer: HybridTrainer) -> str:
    cut, texts = (trainer.token_counts.get(name, 0) for name in ("truncated_texts", "texts"))
    query_length, passage_length = trainer.max_lengths
    return f"""
{cut} of {texts} training texts were cut, at {query_length} tokens (queries) or {passage_length} (passages).
{wire_words(trainer)}{describe_files(folder, "AutoModel and SentenceTransformer", "all language pairs")}
Next: --train_corpus FOLDER --model_name_or_path MODEL trains on your own corpus; --help lists every option."""


def wire_words(trainer: HybridTrainer) -> str:
    """Return a sentence on the bytes that a step sends; nothing for one process."""
    resources = trainer.resource_log.summary()
    if (sent := resources["bytes_sent"]) is None:
        return ""
    parts = resources["num_steps"] * trainer.args.world_size * 2**20
    embeddings, weights = (f"{total / parts:,.2f} MiB" for total in (sent["embeddings"], sent["weights"]))
    parts_sent = f"embeddings {embeddings}, gradients and weights {weights} (by formula)"
    return f"Each step sends, from each process: {parts_sent}.\n"
