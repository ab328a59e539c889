"""Train a multilingual retriever with hybrid batches, and evaluate it before and after.

    accelerate launch recipes/train.py
    accelerate launch recipes/train.py --config recipes/help/hybrid.yaml --train_corpus FOLDER --eval_corpus FOLDER
    accelerate launch recipes/train.py --dry_run --mix mono=1,cross=1,pool=1
    accelerate launch recipes/train.py --like user/name --output_dir runs/again

The same command goes on with a run that was stopped, from its newest checkpoint; `--overwrite` begins it anew.
Without a config, a corpus and a model it runs recipes/sample/hybrid.yaml: the built-in corpus and a small encoder.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from functools import cache
from pathlib import Path

from transformers import set_seed

from hf_hybrid import HybridEncoder, HybridTrainer, ParallelCorpus, RunFolder
from hf_hybrid.data.sources.load import open_corpora
from hf_hybrid.evaluation.evaluate import scores_table
from hf_hybrid.records import events
from hf_hybrid.training.arguments import DataArguments, HybridTrainingArguments, ModelArguments
from hf_hybrid.training.identity import differences, read_run_like, settings_like
from hf_hybrid.training.run import already_done, open_encoder, run_log_level, run_training
from hf_hybrid.utils import distributed
from hf_hybrid.utils.options import explained_errors, parse_arguments

STARTED_AT = time.perf_counter()
DEFAULT_CONFIG = Path(__file__).parent / "sample" / "hybrid.yaml"
FLAGS = {
    "dry_run": "Print the plan and the first batches as text, and train nothing.",
    "overwrite": "Begin anew where output_dir holds a run, whose files are deleted.",
}


def main() -> None:
    # Arguments
    read_run = cache(read_run_like)  # of --like: once, for on the Hub it may be another one the next moment
    named = {word.split("=")[0].lstrip("-").replace("-", "_") for word in sys.argv if word.startswith("--")}
    chosen = named & {"train_corpus", "model_name_or_path"}
    with explained_errors("train.py"):
        model_args, data_args, args, rest = parse_arguments(
            [ModelArguments, DataArguments, HybridTrainingArguments],
            default_config=None if chosen else DEFAULT_CONFIG,
            flags=FLAGS,
            read_like=lambda name: settings_like(read_run(name)),
        )
        if "train_corpus" in named and model_args.model_name_or_path is None and not (rest.config or rest.like):
            raise ValueError(
                "--train_corpus without a model: name one with --model_name_or_path, or take the settings for a small "
                "encoder from scratch with --config recipes/sample/hybrid.yaml."
            )
        set_seed(args.seed)
        events.configure(run_log_level(args))

    # Data, model, plan
    with explained_errors("train.py"):
        with args.main_process_first(desc="reading the corpora"):
            train_corpus, eval_corpus = open_corpora(**dataclasses.asdict(data_args))
        trainer = HybridTrainer(
            model=open_encoder(HybridEncoder, model_args, train_corpus),
            args=args,
            train_dataset=train_corpus,
            eval_dataset=eval_corpus,
            max_query_length=model_args.max_query_length,
            cache_dir=data_args.cache_dir,
            started_at=STARTED_AT,
        )
        plan = trainer.schedule.summary()
    say = print if trainer.is_world_process_zero() else lambda *_: None
    say(f"devices: {args.world_size} x {args.device}, {trainer.distributed_strategy()['type']}")
    say(describe(train_corpus, "training corpus"))
    say(describe(eval_corpus, "evaluation corpus"))
    say(plan)
    if rest.like:
        say(compared_with(rest.like, differences(read_run(rest.like), trainer.identity())))
    if rest.dry_run:
        say(trainer.schedule.preview())
        return

    # Before, training, after
    folder = RunFolder(args.output_dir)
    with explained_errors("train.py"):
        result = run_training(trainer, folder, [model_args, data_args, args], overwrite=rest.overwrite)

    # What the run leaves
    say("\n" + scores_table(result.before, result.after))
    say(closing_words(folder, trainer) if result.trained else already_done(folder))
    distributed.leave_at_exit()


def describe(corpus: ParallelCorpus, role: str) -> str:
    noticed = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in corpus.report.items() if count)
    return f"{role}: {corpus!r}" + (f"; noticed: {noticed}" if noticed else "")


def compared_with(name: str, differs: list[str]) -> str:
    """Whether this is the run that was named, and if not, why."""
    return f"not the run of {name}: {'; '.join(differs)}" if differs else f"the same run as that of {name}"


def closing_words(folder: RunFolder, trainer: HybridTrainer) -> str:
    cut, texts = (trainer.token_counts.get(name, 0) for name in ("truncated_texts", "texts"))
    query_length, passage_length = trainer.max_lengths
    return f"""
{cut} of {texts} training texts were cut, at {query_length} tokens (queries) or {passage_length} (passages).
{wire_words(trainer)}The model:        {folder.path}/model        loads with AutoModel and SentenceTransformer
The scores:       {folder.path}/eval.json    all pairs of languages
The cost:         {folder.path}/resources.json, .jsonl
What was run:     {folder.path}/run.json
The model card:   {folder.path}/README.md    and beside it bundle/, which recipes/verify.py checks
Next: recipes/README.md trains on your own corpus and from a checkpoint; --help lists every option."""


def wire_words(trainer: HybridTrainer) -> str:
    """What a step sends, on several processes; nothing on one."""
    resources = trainer.resource_log.summary()
    if (sent := resources["bytes_sent"]) is None:
        return ""
    parts = resources["num_steps"] * trainer.args.world_size * 2**20
    embeddings, weights = (f"{total / parts:,.2f} MiB" for total in (sent["embeddings"], sent["weights"]))
    parts_sent = f"embeddings {embeddings}, gradients and weights {weights} (by formula)"
    return f"Each step sends, from each process: {parts_sent}.\n"


if __name__ == "__main__":
    main()
