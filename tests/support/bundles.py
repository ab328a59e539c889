"""A finished run with its bundle, and forgers of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hf_hybrid.data.sources.load import open_corpora
from hf_hybrid.hub.model_card import write_card
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.arguments import DataArguments, ModelArguments
from hf_hybrid.training.run import run_training
from tests.support.toy_runs import At, Kill, kill, toy_trainer

OPTIONS: dict[str, Any] = {
    "max_steps": 8,
    "gradient_accumulation_steps": 2,
    "mix": "mono=1,cross=1",
    "logging_steps": 3,  # so that the last line is written at the end of training
    "save_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,  # where a line of the log ends, and in between
}


def finished_run(root: Path, killed_after: int | None = None, fails_first: bool = False, **options: Any) -> Path:
    """The run folder of a toy model, trained on the sample corpus in two languages.

    Args:
        root (`Path`): Where its folder is made.
        killed_after (`int`, *optional*): It is killed after this step, and started again.
        fails_first (`bool`, *optional*, defaults to `False`): Another run has begun in its folder, and failed.
        **options: Of the trainer, and of `DataArguments`.
    """
    logger, threads = logging.getLogger("hf_hybrid"), torch.get_num_threads()
    before = logger.handlers[:], logger.level, logger.propagate
    of_data = {field.name for field in dataclasses.fields(DataArguments)} & {*options}
    chosen = {name: options.pop(name) for name in of_data} or {"languages": "de,en", "held_out": 24.0}
    data = DataArguments(**chosen, cache_dir=str(root / "corpora"))
    train, held_out = open_corpora(**dataclasses.asdict(data))
    calls: list[tuple[list[At], dict[str, Any]]] = [([], {})]
    calls += [([At("on_step_end", killed_after, kill)], {})] if killed_after else []
    calls += [([At("on_step_end", 1, kill)], {"max_steps": 999})] if fails_first else []
    try:
        while calls:
            callbacks, changed = calls.pop()
            chosen = OPTIONS | options | changed
            trainer = toy_trainer(root / "run", train, *callbacks, eval_corpus=held_out, **chosen)
            with contextlib.suppress(Kill):
                run_training(trainer, RunFolder(root / "run"), [ModelArguments(), data, trainer.args])
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
        torch.set_num_threads(threads)
    _add_energy(root / "run")
    write_card(root / "run")
    return root / "run"


def _add_energy(folder: Path) -> None:
    """What a meter would have left: half a watt hour for each line."""
    lines = [
        json.loads(line) | {"energy_wh": 0.5, "energy_source": "rapl"}
        for line in (folder / "resources.jsonl").read_text().splitlines()
    ]
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    for point in curve:
        point["energy_wh"] = 0.5 * sum(line["step"] <= point["step"] for line in lines)
    for name, content in (("resources.jsonl", lines), ("curve.jsonl", curve)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in content))
    change(folder / "run.json", {"config.energy": "rapl"})
    change(folder / "resources.json", {"energy_wh": 0.5 * len(lines), "energy_source": "rapl"})


def change(path: Path, values: dict[str, Any] | Callable[[Any], object]) -> None:
    """Set keys of a JSON file, `a.b` for one in another; or let a function do what it wants to its content."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if callable(values):
        values(content)
    else:
        for name, value in values.items():
            *outer, last = name.split(".")
            inner = content
            for key in outer:
                inner = inner[key]
            assert last in inner, f"{path.name} has no {name}"
            inner[last] = value
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
