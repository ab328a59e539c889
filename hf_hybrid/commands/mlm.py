"""Train an encoder by masked language modeling, as mBERT was, and evaluate it as a retriever before and after.

    hf-hybrid mlm
    hf-hybrid mlm --tokens_of runs/sample-hybrid
    hf-hybrid mlm --train_corpus FOLDER --model_name_or_path intfloat/multilingual-e5-small --num_processes 2
    hf-hybrid train --model_name_or_path runs/sample-mlm/model --train_corpus sample

The text is all queries and passages of the training corpus. The last line fine-tunes the model of such a run.
Without a config, a corpus and a model it runs the settings sample/mlm: the built-in corpus and a small encoder.
The same command resumes a run from its newest checkpoint. `--overwrite` deletes that run first.
Launchers of processes start it as `accelerate launch -m hf_hybrid mlm`, or by the recipe mlm.py.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence

from hf_hybrid import RunFolder
from hf_hybrid.data.sources.load import open_corpora
from hf_hybrid.evaluation.evaluate import scores_table
from hf_hybrid.models.masked_lm import MaskedLanguageModel
from hf_hybrid.training.arguments import DataArguments, EncoderArguments, MlmTrainingArguments
from hf_hybrid.training.mlm_trainer import MlmTrainer
from hf_hybrid.training.run import already_done, open_encoder, run_training
from hf_hybrid.utils import distributed
from hf_hybrid.utils.options import explain_errors

from .training_command import describe_files, parse_training

ARGUMENTS = (EncoderArguments, DataArguments, MlmTrainingArguments)
DEFAULT_CONFIG = "sample/mlm"
FLAGS = {
    "dry_run": "Print the plan and the first blocks as text, and train nothing.",
    "overwrite": "Delete the files of the run that output_dir holds, and start again.",
}


def main(argv: Sequence[str] | None = None, program: str = "hf-hybrid mlm") -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): Its options, by default those of the process.
        program (`str`, *optional*, defaults to `"hf-hybrid mlm"`): Its name in errors and in the help.
    """
    # Arguments
    started_at = time.perf_counter()
    argv = list(sys.argv[1:] if argv is None else argv)
    with explain_errors(program):
        model_args, data_args, args, rest = parse_training("mlm", ARGUMENTS, argv, program, DEFAULT_CONFIG, FLAGS)

    # Data, model, plan
    with explain_errors(program):
        with args.main_process_first(desc="reading the corpora"):
            train_corpus, eval_corpus = open_corpora(**dataclasses.asdict(data_args))
        trainer = MlmTrainer(
            model=open_encoder(MaskedLanguageModel, model_args, train_corpus),
            args=args,
            train_dataset=train_corpus,
            eval_dataset=eval_corpus,
            cache_dir=data_args.cache_dir,
            started_at=started_at,
        )
        plan = trainer.schedule.summary()
    say = print if trainer.is_world_process_zero() else lambda *_: None
    say(f"devices: {args.world_size} x {args.device}, {trainer.get_distributed_strategy()['type']}")
    say(f"training corpus: {train_corpus!r}")
    say(f"evaluation corpus: {eval_corpus!r}")
    say(plan)
    if rest.dry_run:
        say(trainer.preview())
        return

    # Before, training, after
    folder = RunFolder(args.output_dir)
    with explain_errors(program):
        result = run_training(trainer, folder, [model_args, data_args, args], overwrite=rest.overwrite)

    # What the run leaves
    say("\n" + scores_table(result.before, result.after))
    say(closing_words(folder) if result.trained else already_done(folder))
    distributed.leave_at_exit()


def closing_words(folder: RunFolder) -> str:
    lines, resources = folder.read_resource_lines()[0], folder.read_resources()
    known = [line["loss"] for line in lines if line["loss"] is not None]
    losses = (
        f"Loss {known[0]:.3f} in the first line of the log, {known[-1]:.3f} in the last, " if known else "Trained "
    )
    loads_with = "AutoModel, SentenceTransformer and AutoModelForMaskedLM"
    return f"""
{losses}on {resources["tokens"]:,} tokens.
{describe_files(folder, loads_with, "as a retriever, all language pairs")}
Next: hf-hybrid train --model_name_or_path {folder.path}/model --train_corpus ... fine-tunes it."""
