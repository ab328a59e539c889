"""A run from start to end in its folder: evaluation before, training, evaluation after, and what is written of it.

The same call resumes a run that was stopped: where it stood in training, and without measuring again what has
been measured.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from huggingface_hub import try_to_load_from_cache

from hf_hybrid.data.corpus import documents
from hf_hybrid.evaluation.evaluate import what_is_evaluated
from hf_hybrid.evaluation.per_query import EvaluationFiles
from hf_hybrid.hub.bundle import is_bundle_name, write_bundle
from hf_hybrid.hub.model_card import CARD_NAME, PICTURE_NAMES, PICTURES_NAME, write_card
from hf_hybrid.models.encoder import HybridEncoder
from hf_hybrid.models.flops import flops_terms
from hf_hybrid.records import events
from hf_hybrid.records.environment import environment
from hf_hybrid.records.schema import (
    BUNDLE_NAME,
    EVALUATIONS_NAME,
    FIXED_NAMES,
    MANIFEST_NAME,
    MODEL_NAME,
    PER_QUERY_NAME,
)
from hf_hybrid.utils import distributed, redaction
from hf_hybrid.utils.files import files_in
from hf_hybrid.utils.options import find_changed_options

from . import checkpoints
from .interruption import Interrupted, alone_in, ends_on_signal, lock_names

if TYPE_CHECKING:
    from hf_hybrid.data.batches.schedule import HybridSchedule
    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.models.encoder import HybridEncoder
    from hf_hybrid.records.run_folder import RunFolder
    from hf_hybrid.records.schema import Plan, Scores

    from .arguments import RunArguments
    from .plan_trainer import PlanTrainer

_WHEN = ("before", "after")
# Names of files in model folders and checkpoints, of this release and of the libraries that it uses.
_OF_MODELS = re.compile(
    r"(config|generation_config|manifest|special_tokens_map|added_tokens|vocab|unigram|modules|sentence_bert_config"
    r"|config_sentence_transformers|trainer_state|hybrid_state)\.json|(model|pytorch_model|tokenizer|sentencepiece)\b.*"
    r"|tokenizer_config\.json|(vocab|merges)\.txt|spiece\.model|training_args\.bin|(optimizer|scheduler|scaler)\b.*"
    r"|rng_state.*|\d_[A-Z]\w+/.*|(global_step|optimizer_|pytorch_model_).*|latest|zero_to_fp32\.py|README\.md"
)


class RunResult(NamedTuple):
    """Scores of a run.

    Args:
        before (`Scores`, *optional*): Before training.
        after (`Scores`): After it.
        trained (`bool`): False where the folder held the whole run already.
    """

    before: Scores | None
    after: Scores
    trained: bool


def run_training(
    trainer: PlanTrainer, folder: RunFolder, arguments: Sequence[Any], *, overwrite: bool = False
) -> RunResult:
    """Evaluate, train and evaluate, or resume it.

    Args:
        trainer (`PlanTrainer`): With one evaluation corpus.
        folder (`RunFolder`): That of the trainer's `output_dir`.
        arguments (`Sequence[Any]`): The dataclasses of all arguments, for `run.json`.
        overwrite (`bool`, *optional*, defaults to `False`): Delete what the folder holds of an earlier run first.

    Raises:
        ValueError: When another process writes to the folder, or it holds another run, another type of output, or
            a file that no recipe wrote where this run is to write one.
        Interrupted: When the process was told to stop; `run.json` says so too.
        HubError: When `push_to_hub` was asked for and did not go well. A run that has finished is safe, and the
            same call, or the command in the message, completes the push.
    """
    args = trainer.args
    if (problem := distributed.from_first(_find_foreign(folder))) is not None:
        raise ValueError(problem)
    with alone_in(folder.path), ends_on_signal():
        trainer.hub.open(overwrite)
        if overwrite and distributed.rank() == 0:
            folder.clear()
        trainer.identity()  # asked of all ranks: weights may be spread over them
        evaluated = json.loads(json.dumps(what_is_evaluated(trainer.eval_dataset, max_queries=args.max_eval_queries)))
        problem, before, after = distributed.from_first(_find_former(trainer, folder, evaluated))
        if problem is not None:
            raise ValueError(problem)
        if after is not None:
            _publish(trainer, folder, rebuild=False)  # what an earlier call may have failed at
            return RunResult(before, after, trained=False)
        run = _run_record(trainer, arguments)
        events.configure(run_log_level(args), folder.path)
        events.event("start", output_dir=folder.path, world_size=args.world_size, max_steps=args.max_steps)
        for corpus in (trainer.train_dataset, trainer.eval_dataset):
            if any(corpus.report.values()):
                events.event("refused_rows", corpus=corpus.fingerprint[:8], **corpus.report)
        if distributed.rank() == 0:
            folder.write_plan(_plan_record(trainer.schedule))
        with _recorded_status(folder, run):
            result = _evaluate_train_evaluate(trainer, folder, evaluated, before)
            run["model"]["step"] = _step_of_model(trainer)
            if counts := trainer.token_counts:
                run["corpus"]["texts"] = {name: counts[name] for name in ("texts", "truncated_texts")}
        _publish(trainer, folder, rebuild=True)
        return result


def already_done(folder: RunFolder) -> str:
    """Return the message for a run that has already finished."""
    return f"{folder.path} holds this very run, which has finished. --overwrite starts it over."


def run_log_level(args: RunArguments) -> int:
    """`--log_level` as a number; by default what happens is told, by the first process."""
    if args.log_level == "passive":
        return logging.INFO if args.process_index == 0 else logging.WARNING
    return args.get_process_log_level()


def _find_foreign(folder: RunFolder) -> str | None:
    """Say why a run must not write to the folder; `None` if it may."""
    if distributed.rank() != 0:
        return None
    outputs = folder.outputs
    checkpoint_names = {path.name for path in checkpoints.checkpoint_folders(folder.path)}
    checkpoint_names -= {path.name for path in checkpoints.checkpoints(folder.path)}  # which are not written again
    in_the_way = [
        f"{name}/{file}"
        for name in (MODEL_NAME, *sorted(checkpoint_names))
        for file in files_in(folder.path / name)
        if _OF_MODELS.fullmatch(file)
    ]
    bundle = [f"{BUNDLE_NAME}/{file}" for file in files_in(folder.path / BUNDLE_NAME) if is_bundle_name(file)]
    pictures = [f"{PICTURES_NAME}/{name}" for name in PICTURE_NAMES]
    folders = [f"{name}/{MANIFEST_NAME}" for name in (MODEL_NAME, BUNDLE_NAME)]
    try:
        outputs.begin("run", *FIXED_NAMES, *lock_names(outputs), *folders, *pictures, *bundle, *in_the_way)
    except ValueError as error:
        return str(error)
    return None


def _evaluate_train_evaluate(
    trainer: PlanTrainer, folder: RunFolder, evaluated: dict[str, Any], before: Scores | None
) -> RunResult:
    args, corpus = trainer.args, trainer.eval_dataset

    def measure(when: str, step: int) -> Scores:
        trainer.heartbeat.beat(f"evaluating {when} training", step, args.max_steps)
        with EvaluationFiles(folder.outputs.subfolder(f"{EVALUATIONS_NAME}/{when}"), corpus) as details:
            scores = trainer.score(corpus, details)
        events.event("evaluation", when=when, MAP=round(scores["multilingual"]["MAP"], 4))
        return scores

    def write(after: Scores | None) -> None:
        if distributed.rank() == 0:
            sizes = {when: path.stat().st_size for when in _WHEN if (path := _values_path(folder, when)).exists()}
            folder.write_eval({"before": before, "after": after, "evaluated": evaluated, "values_bytes": sizes})

    if args.evaluate_before and before is None:
        before = measure("before", 0)
        write(None)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or True)
    trainer.save_model(str(folder.path / MODEL_NAME))
    after = measure("after", args.max_steps)
    write(after)
    trainer.heartbeat.beat("finished", args.max_steps, args.max_steps)
    return RunResult(before, after, trained=True)


def _values_path(folder: RunFolder, when: str) -> Path:
    return folder.path / EVALUATIONS_NAME / when / PER_QUERY_NAME


def _step_of_model(trainer: PlanTrainer) -> int:
    """Return the step of the model's weights: the last step, or that of the best checkpoint."""
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    return trainer.state.global_step if best is None else best


def _find_former(
    trainer: PlanTrainer, folder: RunFolder, evaluated: dict[str, Any]
) -> tuple[str | None, Scores | None, Scores | None]:
    """Say what of another run would be lost, and return the scores of this run in the folder.

    Those after training are given only where the run has finished.
    """
    nothing = None, None, None
    if distributed.rank() != 0 or not (folder.path / "run.json").exists():
        return nothing
    try:
        run = folder.read_run()
    except ValueError as error:
        return f"{error} --overwrite starts over.", None, None
    try:
        trainer.checkpoints.refuse_another_run(run.get("identity", {}), str(folder.path))
        scores = folder.read_eval() if (folder.path / "eval.json").exists() else None
    except ValueError as error:
        something_to_lose = run["status"] == "finished" or checkpoints.checkpoints(folder.path)
        if something_to_lose:
            return str(error), None, None
        folder.clear()  # its log, for one, is not that of this run
        return nothing
    if scores is None or scores.get("evaluated") != evaluated:
        return nothing
    finished = run["status"] == "finished"
    if finished and (damage := checkpoints.find_damage(folder.path / MODEL_NAME)):
        events.event("warning", logging.WARNING, problem=f"{folder.path / MODEL_NAME} is written again: {damage}")
        finished = False
    return None, scores["before"], scores["after"] if finished else None


def _run_record(trainer: PlanTrainer, arguments: Sequence[Any]) -> dict[str, Any]:
    """`run.json` less its status."""
    config: dict[str, Any] = {}
    for group in arguments:
        config.update(group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group))
    corpus = trainer.train_dataset
    counts = corpus.pair_counts()
    return {
        "config": redaction.redact_json(config),
        "changed": [name for group in arguments for name in find_changed_options(group)],
        "identity": trainer.identity(),
        "model": _model_record(trainer.encoder)
        | {"commit": _hub_commit(config.get("model_name_or_path"), config.get("model_revision"))},
        "corpus": {
            "fingerprint": corpus.fingerprint,
            "items_per_language": {name: int(counts[i, i]) for i, name in enumerate(corpus.languages)},
            "license": corpus.source.get("license"),
            "source": redaction.redact_json(corpus.source),
        },
        "mix": str(trainer.schedule.mix),
        "plan": {"language_pairs": trainer.schedule.plan()},
        "seed": trainer.schedule.seed,
        "world_size": trainer.args.world_size,
        "environment": environment() | {"distributed": trainer.get_distributed_strategy()},
    }


def _model_record(encoder: HybridEncoder) -> dict[str, Any]:
    return {
        "architecture": encoder.config.model_type,
        "num_parameters": sum(getattr(weight, "ds_numel", weight.numel()) for weight in encoder.parameters()),
        "embedding_size": encoder.embedding_size,
        "max_length": encoder.max_length,
        "pooling": encoder.pooling,
        "normalize": encoder.normalize,
        "projection": encoder.projection is not None,
        "prompts": encoder.prompts,
        "flops_terms": flops_terms(encoder),
    }


def _hub_commit(name: str | None, revision: str | None) -> str | None:
    """Return the Hub commit of the checkpoint that training starts from; None for a folder or a new encoder."""
    if name is None or os.path.isdir(name):
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _plan_record(schedule: HybridSchedule) -> Plan:
    language_pairs = [{"batch_type": pair.batch_type, "language_pair": pair.name} for pair in schedule.language_pairs]
    return {"language_pairs": language_pairs, "batches": schedule.pair_numbers(), "fingerprint": schedule.fingerprint}


def _publish(trainer: PlanTrainer, folder: RunFolder, rebuild: bool) -> None:
    """Write card and bundle of a finished run, if they are missing or to be rebuilt, and push if asked."""
    args = trainer.args
    with distributed.others_wait():
        there = (folder.path / CARD_NAME).exists() and (folder.path / BUNDLE_NAME).is_dir()
        if distributed.rank() == 0 and (rebuild or not there):
            _write_card_and_bundle(folder, args.hub_model_id if args.push_to_hub else None)
        trainer.hub.push_finished_run()


def _write_card_and_bundle(folder: RunFolder, repo_id: str | None) -> None:
    """Write card and bundle. A failure is only a warning, since the run itself is complete."""
    try:
        write_card(folder.path, {**folder.read_card_options(), "repo_id": repo_id} if repo_id else None)
        write_bundle(folder.path)
    except Exception as error:
        problem = f"the model card or the bundle could not be written: {type(error).__name__}: {error}"
        events.event("warning", logging.WARNING, problem=problem)


@contextmanager
def _recorded_status(folder: RunFolder, run: dict[str, Any]) -> Iterator[None]:
    """Write to `run.json` how the run ended, also after an error."""

    def write(status: str) -> None:
        if distributed.rank() == 0:
            folder.write_run({**run, "status": status})  # type: ignore[typeddict-item]

    write("running")
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        write("interrupted")
        if not getattr(error, "told", False):
            events.event("stop", reason="told to stop; start the same command again")
        raise
    except BaseException as error:
        write("failed")
        events.event("stop", logging.ERROR, reason=f"{type(error).__name__}: {error}")
        raise
    write("finished")
    events.event("stop", reason="finished")


Encoder = TypeVar("Encoder", bound=HybridEncoder)


def open_encoder(encoder_class: type[Encoder], arguments: Any, corpus: ParallelCorpus) -> Encoder:
    """Load `model_name_or_path`; without it, create a small encoder and train its tokenizer on the corpus.

    Args:
        encoder_class (`type`): `HybridEncoder`, or a subclass of it.
        arguments (`Any`): `ModelArguments`, or others that have the same names.
        corpus (`ParallelCorpus`): What the run is trained on.

    Raises:
        ValueError: When the checkpoint or a setting is not one that the encoder takes.
        OSError: When there is no such checkpoint.
    """
    if arguments.model_name_or_path is None:
        return encoder_from_scratch(encoder_class, arguments, corpus, attention=arguments.attention)
    found: Any = encoder_class.from_pretrained(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        attention=arguments.attention,
        attention_dropout=arguments.attention_dropout,
        **_settings(arguments),
    )
    return found


def encoder_from_scratch(encoder_class: type[Encoder], arguments: Any, corpus: ParallelCorpus, **more: Any) -> Encoder:
    """Create a small encoder with random weights from torch's global seed, and train its tokenizer on the corpus.

    Args:
        encoder_class, arguments, corpus: As for [`open_encoder`].
        **more: Further settings of `encoder_class.from_scratch`.
    """
    made: Any = encoder_class.from_scratch(
        chain.from_iterable(documents(corpus, language) for language in corpus.languages),
        hidden_size=arguments.scratch_hidden_size,
        num_layers=arguments.scratch_num_layers,
        vocab_size=arguments.scratch_vocab_size,
        **{name: value for name, value in _settings(arguments).items() if value is not None},
        **more,
    )
    return made


def _settings(arguments: Any) -> dict[str, Any]:
    return {
        "query_prompt": arguments.query_prompt,
        "passage_prompt": arguments.passage_prompt,
        "max_length": arguments.max_passage_length,
        "pooling": arguments.pooling,
    }
