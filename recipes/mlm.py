"""Train an encoder by masked language modelling, as mBERT was, and evaluate it as a retriever before and after.

    accelerate launch recipes/mlm.py
    accelerate launch recipes/mlm.py --tokens_of runs/sample-hybrid
    accelerate launch recipes/mlm.py --config recipes/help/mlm.yaml --train_corpus FOLDER --tokens_of runs/help-hybrid
    accelerate launch recipes/train.py --model_name_or_path runs/sample-mlm/model --train_corpus sample

The text is all queries and passages of the training corpus. The last line fine-tunes what such a run has left.
The same command goes on with a run that was stopped, from its newest checkpoint; `--overwrite` begins it anew.
Without a config, a corpus and a model it runs recipes/sample/mlm.yaml: the built-in corpus and a small encoder.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from transformers import set_seed

from hf_hybrid import RunFolder
from hf_hybrid.data.sources.load import open_corpora
from hf_hybrid.evaluation.evaluate import scores_table
from hf_hybrid.models.masked_lm import MaskedLanguageModel
from hf_hybrid.records import events
from hf_hybrid.training.arguments import DataArguments
from hf_hybrid.training.mlm_arguments import MlmModelArguments, MlmTrainingArguments
from hf_hybrid.training.mlm_trainer import MlmTrainer
from hf_hybrid.training.run import already_done, open_encoder, run_log_level, run_training
from hf_hybrid.utils import distributed
from hf_hybrid.utils.options import explained_errors, parse_arguments

STARTED_AT = time.perf_counter()
DEFAULT_CONFIG = Path(__file__).parent / "sample" / "mlm.yaml"
FLAGS = {
    "dry_run": "Print the plan and the first blocks as text, and train nothing.",
    "overwrite": "Begin anew where output_dir holds a run, whose files are deleted.",
}


def main() -> None:
    # Arguments
    named = {word.split("=")[0].lstrip("-").replace("-", "_") for word in sys.argv if word.startswith("--")}
    chosen = named & {"train_corpus", "model_name_or_path"}
    with explained_errors("mlm.py"):
        model_args, data_args, args, rest = parse_arguments(
            [MlmModelArguments, DataArguments, MlmTrainingArguments],
            default_config=None if chosen else DEFAULT_CONFIG,
            flags=FLAGS,
        )
        if "train_corpus" in named and model_args.model_name_or_path is None and not rest.config:
            raise ValueError(
                "--train_corpus without a model: name one with --model_name_or_path, or take the settings for a small "
                "encoder from scratch with --config recipes/sample/mlm.yaml."
            )
        set_seed(args.seed)
        events.configure(run_log_level(args))

    # Data, model, plan
    with explained_errors("mlm.py"):
        with args.main_process_first(desc="reading the corpora"):
            train_corpus, eval_corpus = open_corpora(**dataclasses.asdict(data_args))
        trainer = MlmTrainer(
            model=open_encoder(MaskedLanguageModel, model_args, train_corpus),
            args=args,
            train_dataset=train_corpus,
            eval_dataset=eval_corpus,
            cache_dir=data_args.cache_dir,
            started_at=STARTED_AT,
        )
        plan = trainer.schedule.summary()
    say = print if trainer.is_world_process_zero() else lambda *_: None
    say(f"devices: {args.world_size} x {args.device}, {trainer.distributed_strategy()['type']}")
    say(f"training corpus: {train_corpus!r}")
    say(f"evaluation corpus: {eval_corpus!r}")
    say(plan)
    if rest.dry_run:
        say(trainer.preview())
        return

    # Before, training, after
    folder = RunFolder(args.output_dir)
    with explained_errors("mlm.py"):
        result = run_training(trainer, folder, [model_args, data_args, args], overwrite=rest.overwrite)

    # What the run leaves
    say("\n" + scores_table(result.before, result.after))
    say(closing_words(folder) if result.trained else already_done(folder))
    distributed.leave_at_exit()


def closing_words(folder: RunFolder) -> str:
    lines, resources = folder.read_resource_lines()[0], folder.read_resources()
    known = [line["loss"] for line in lines if line["loss"] is not None]
    fell = f"The loss fell from {known[0]:.3f} to {known[-1]:.3f}, " if known else ""
    return f"""
{fell}on {resources["tokens"]:,} tokens.
The model:        {folder.path}/model        loads with AutoModel, SentenceTransformer and AutoModelForMaskedLM
The scores:       {folder.path}/eval.json    as a retriever, all pairs of languages
The cost:         {folder.path}/resources.json, .jsonl
What was run:     {folder.path}/run.json
The model card:   {folder.path}/README.md    and beside it bundle/, which recipes/verify.py checks
Next: accelerate launch recipes/train.py --model_name_or_path {folder.path}/model --train_corpus ... fine-tunes it."""


if __name__ == "__main__":
    main()
