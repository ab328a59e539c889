"""From what is asked to `study.json`: what all cells share is made once, then each cell has its commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from .files import delete_folder, replacing
from .machine import environment
from .scaling import Cell, difference_of_cells, difference_of_settings, grid, stages_of
from .study_arguments import StudyArguments
from .study_budget import BudgetResolver
from .study_folder import Study, StudyFolder
from .study_inputs import (
    Inputs,
    Settings,
    describe_corpus,
    make_base,
    open_inputs,
    read_settings,
    shared_options,
    token_premiums,
    write_configs,
)


def open_study(args: StudyArguments, folder: StudyFolder, run_pilots: Callable[[Sequence[Cell]], Any]) -> Study:
    """The study that is asked for, which may have more cells than the folder's.

    Args:
        args (`StudyArguments`): What is asked.
        folder (`StudyFolder`): Where it lies.
        run_pilots (`Callable`): Runs cells, for a budget of time.

    Raises:
        ValueError: When the folder holds another study; it names what differs.
    """
    earlier: Study | None = folder.read("study.json") if folder.has("study.json") else None
    settings = read_settings(args)
    inputs = open_inputs(args, settings.data_args)
    fixed = _what_cells_share(args, settings, inputs)
    if earlier:
        _refuse(folder, difference_of_settings(earlier, fixed))
    write_configs(folder.path, settings)
    bases = _make_bases(args, settings, inputs)
    shared = shared_options(args, settings, inputs)
    cells, absent = grid(args.arm_list, inputs.sets, args.seed_list, inputs.train.languages, shared.base is None)
    known = earlier["budget"] if earlier else None
    budget = BudgetResolver(args, settings, inputs, bases[0], run_pilots).resolve(cells, shared, known)
    if known:  # another target is another way to read the same runs
        same = {"kind": budget["kind"], "value": budget["value"]}
        _refuse(folder, difference_of_settings(known, same))
    cells = [{**cell, "stages": stages_of(cell, shared, budget["steps"], budget["mlm_steps"])} for cell in cells]
    if earlier:
        _refuse(folder, difference_of_cells(earlier["cells"], cells))
    study: Study = {
        "language_order": inputs.order,
        "language_sets": {str(count): languages for count, languages in inputs.sets.items()},
        "arms": args.arm_list,
        "seeds": args.seed_list,
        "budget": budget,
        **fixed,  # type: ignore[typeddict-item]
        "tokens": token_premiums(inputs.evaluation, AutoTokenizer.from_pretrained(bases[0])),
        "environment": earlier["environment"] if earlier else environment(),
        "cells": cells,
        "absent": absent,
    }
    if study != earlier:
        folder.write("study.json", study)
    return study


def _what_cells_share(args: StudyArguments, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """Parts of `study.json` that stay as they are when cells are added."""
    return {
        "corpus": {"train": describe_corpus(inputs.train), "eval": describe_corpus(inputs.evaluation)},
        "eval_languages": list(inputs.evaluation.languages),
        "base": _describe_base(settings),
        "train_settings": settings.train,
        "mlm_settings": settings.mlm,
        "eval_every": args.eval_every,
    }


def _refuse(folder: StudyFolder, difference: str | None) -> None:
    if difference:
        raise ValueError(
            f"{folder.path} holds another study: {difference}. Choose another study_dir, or --overwrite to begin anew."
        )


def _make_bases(args: StudyArguments, settings: Settings, inputs: Inputs) -> list[str]:
    """The base models; one, where it is a checkpoint."""
    if settings.model_args.model_name_or_path is not None:
        return [settings.model_args.model_name_or_path]
    corpus = inputs.train.select_languages(inputs.sets[max(inputs.sets)])
    folder = Path(args.study_dir) / "base"
    made_of = json.dumps({**_describe_base(settings), "corpus": corpus.fingerprint})
    note = folder / "made_of.json"
    if not note.exists() or note.read_text(encoding="utf-8") != made_of:  # of a study that never began
        delete_folder(folder)
        with replacing(note) as unfinished:
            unfinished.write_text(made_of, encoding="utf-8")
    paths = {seed: folder / f"seed-{seed}" for seed in sorted({*args.seed_list, 1})}
    for seed, path in paths.items():
        make_base(path, corpus, settings.model_args, seed)
    return [str(path) for path in paths.values()]


def _describe_base(settings: Settings) -> dict[str, Any]:
    model = settings.model_args
    if model.model_name_or_path is not None:
        return {"model_name_or_path": model.model_name_or_path, "revision": model.model_revision}
    sizes = ("scratch_hidden_size", "scratch_num_layers", "scratch_vocab_size", "max_passage_length")
    return {"model_name_or_path": None, **{name: getattr(model, name) for name in sizes}}
