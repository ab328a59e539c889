"""The checkpoints of one run: which one to resume from, and the state that is saved beside `Trainer`'s own.

A checkpoint is a model folder with the state of the trainer beside it. It belongs to one run, which its `identity`
names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from hf_hybrid.records.events import event
from hf_hybrid.records.output_folder import differences
from hf_hybrid.records.schema import STATE_NAME
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import delete_unfinished

from . import checkpoints


class RunCheckpoints:
    """Finds the checkpoint that a run resumes from, and refuses those of another run.

    Args:
        folder (`Path`): The run folder.
        identity (`Callable`): Returns what must be equal for a run to resume: names and values for JSON.
        accelerator (`Accelerator`): The accelerator of the trainer, which decides how checkpoints are laid out.

    `path` and `state` are those of the checkpoint that this run resumed from, `None` for a new run.
    """

    def __init__(self, folder: Path, identity: Callable[[], dict[str, Any]], accelerator: Accelerator) -> None:
        self.folder, self._identity, self._accelerator = folder, identity, accelerator
        self.path: Path | None = None
        self.state: dict[str, Any] | None = None

    @property
    def layout(self) -> str:
        """Layout of the training state in a checkpoint."""
        strategy, state = self._accelerator.distributed_type, self._accelerator.state
        if strategy == DistributedType.DEEPSPEED:
            return f"DeepSpeed ZeRO-{state.deepspeed_plugin.zero_stage}"
        return "FSDP" if strategy == DistributedType.FSDP else "one file"

    def open(self, asked: str | bool | None) -> str | None:
        """Find the checkpoint to resume from and read its state; the first process decides for all.

        Args:
            asked (`str` or `bool`, *optional*): A checkpoint, or `True` for the newest complete one of the run folder.

        Returns:
            `str`, *optional*: Its folder; `None` to start from the beginning.

        Raises:
            ValueError: When there is no such checkpoint, it is damaged, or it belongs to another run or layout.
        """
        found: tuple[str | None, str | None] = (None, None)
        if distributed.rank() == 0:
            delete_unfinished(self.folder, older_than_s=0.0)
            try:
                found = (self._find(asked), None)
            except ValueError as error:
                found = (None, str(error))
        path, problem = distributed.from_first(found)
        if problem is not None:
            raise ValueError(problem)
        self.path = None if path is None else Path(path)
        self.state = None if self.path is None else _read_state(self.path)
        if path is not None:
            event("resume", path=path, world_size=self._accelerator.num_processes)
        return path

    def _find(self, asked: str | bool | None) -> str | None:
        if isinstance(asked, str):
            path: Path | None = Path(asked)
            if not (Path(asked) / STATE_NAME).exists():
                raise ValueError(f"{asked} is no checkpoint of hf_hybrid: it has no {STATE_NAME}.")
            if damage := checkpoints.find_damage(asked):
                raise ValueError(f"{asked} is damaged: {damage}. Take an earlier one, or omit the option.")
        else:
            path = checkpoints.newest_whole(self.folder, _warn) if asked else None
        if path is None:
            return None
        state = _read_state(path)
        self.refuse_another_run(state["run"], str(path))
        self._refuse_another_layout(state, path)
        if state["model_only"]:
            raise ValueError(
                f"{path} holds only a model (save_only_model), so training cannot resume from it. Start a new run "
                "with it as model_name_or_path, in another output_dir."
            )
        return str(path)

    def refuse_another_run(self, then: dict[str, Any], place: str) -> None:
        """Raise a ValueError with both values of each setting in which a run differs from this one.

        Args:
            then (`dict`): The identity of the earlier run.
            place (`str`): Where it is, for the message.
        """
        now = json.loads(json.dumps(self._identity()))
        plans = then.get("plan"), now.get("plan")  # the plan follows from the other settings
        changed = differences({**then, "plan": None}, {**now, "plan": None})
        if changed or plans[0] != plans[1]:
            changed = changed or ["its plan differs, perhaps because another release made it"]
            raise ValueError(
                f"{place} belongs to another run: {'; '.join(changed)}. Choose another output_dir, or start over "
                "in this one with --overwrite."
            )

    def _refuse_another_layout(self, state: dict[str, Any], path: Path) -> None:
        then, now = state["layout"], self.layout
        if then != now:
            raise ValueError(
                f"{path} was written by {then}, and this run is set up for {now}. Launch it with the same accelerate "
                "configuration as before, or start over with --overwrite."
            )
        before, processes = state["world_size"], self._accelerator.num_processes
        if self._accelerator.distributed_type == DistributedType.DEEPSPEED and before != processes:
            raise ValueError(
                f"{path} holds the shards of {before} DeepSpeed processes, and this run has {processes}. Launch it "
                f"with {before}; DDP and FSDP2 resume on any number."
            )

    def write_state(self, folder: Path, **values: Any) -> None:
        """Write what `Trainer` does not save.

        Args:
            folder (`Path`): The folder of the checkpoint.
            **values: `model_only`, `model_files`, `loss_sums` (of each rank since the last log line),
                `last_logged_step` and `chunk_tokens`.
        """
        content = {
            "run": self._identity(),
            "layout": self.layout,
            "world_size": self._accelerator.num_processes,
            **values,
        }
        (folder / STATE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @property
    def has_other_world_size(self) -> bool:
        """Whether the checkpoint was written by another number of processes."""
        return self.state is not None and self.state["world_size"] != self._accelerator.num_processes

    def own_loss_sum(self) -> float:
        """Return this rank's sum of losses since the last log line; the mean over ranks if their number changed."""
        assert self.state is not None
        sums = self.state["loss_sums"]
        return float(np.mean(sums)) if self.has_other_world_size else sums[distributed.rank()]

    def seed_new_rank(self, seed: int, step: int) -> None:
        """Seed torch on a rank whose random state no checkpoint has: from seed, step and rank."""
        seeds = np.random.SeedSequence([seed, step, distributed.rank()])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))


def _read_state(path: Path) -> dict[str, Any]:
    return json.loads((path / STATE_NAME).read_text(encoding="utf-8"))


def _warn(problem: str) -> None:
    event("warning", logging.WARNING, problem=problem)
