"""Runs that were made, as a planner learns from them: what each had to do, where, and what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_hybrid.data.batches.mix import MixConfig

from .hardware import Hardware, hardware_of_run
from .workload import ModelSize, Workload

if TYPE_CHECKING:
    from hf_hybrid.records.run_folder import RunFolder
    from hf_hybrid.records.schema import ResourceLine, Resources, Run

WARMUP_STEPS = 5


class Measured(NamedTuple):
    """A run that was made.

    Args:
        name (`str`): Of its folder.
        hardware (`Hardware`): Where.
        workload (`Workload`): What it had to do.
        step_time_s (`float`): Of a step, see `typical_step_time`.
        setup_time_s (`float`): Until training began.
        host_memory_gib (`float`): Peak until training ended, of the process that took most.
        device_memory_gib (`float`, *optional*): Likewise on a GPU.
        power_w (`float`, *optional*): Mean over training, of all devices.
    """

    name: str
    hardware: Hardware
    workload: Workload
    step_time_s: float
    setup_time_s: float
    host_memory_gib: float
    device_memory_gib: float | None
    power_w: float | None


def read_measured(folder: RunFolder) -> Measured:
    """A run's facts and costs, from `run.json`, `resources.json` and `resources.jsonl`.

    Args:
        folder (`RunFolder`): Of a run that came to the end of training.

    Raises:
        ValueError: When the run has no step, or its encoder's shape is not in its resource log.
    """
    run, resources = folder.read_run(), folder.read_resources()
    lines, _ = folder.read_resource_lines()
    energy_wh, train_time_s = resources["energy_wh"], resources["train_time_s"]
    device_gib = resources["peak_device_memory_gib"]
    return Measured(
        name=folder.path.name,
        hardware=hardware_of_run(run),
        workload=workload_of(folder),
        step_time_s=typical_step_time(lines, resources),
        setup_time_s=resources["setup_time_s"],
        host_memory_gib=max(resources["peak_host_memory_gib"]),
        device_memory_gib=max(device_gib) if device_gib else None,
        power_w=3600 * energy_wh / train_time_s if energy_wh and train_time_s else None,
    )


def workload_of(folder: RunFolder) -> Workload:
    """Read the workload of a run from its arguments, its plan and its corpus.

    The lengths of texts are those that the run counted.

    Args:
        folder (`RunFolder`): The run.
    """
    run, resources = folder.read_run(), folder.read_resources()
    config, steps = run["config"], resources["num_steps"]
    items = list(run["corpus"]["items_per_language"].values())
    planned = [(pair["pairs"], pair["steps"]) for pair in run["plan"]["language_pairs"]]
    positives, negatives = config.get("max_positives") or 4, config.get("num_negatives") or 0
    pool = MixConfig.parse(run["mix"]).pool
    passages = (1 - pool + pool * min(positives, len(items))) * (1 + negatives)
    sequences = resources["num_pairs"] * (1 + passages)
    if not steps or not sequences or not resources["tokens"]:
        raise ValueError(f"{folder.path}: no step with pairs of texts was made, so there is nothing to learn from it.")
    model = _model_size(run, resources, str(folder.path))
    return Workload(
        languages=len(items),
        items=max(1, round(sum(items) / len(items))),
        model=model,
        batch_size=sum(pairs for pairs, _ in planned) / sum(steps for _, steps in planned),
        tokens_per_text=resources["tokens"] / sequences,
        steps=steps,
        mix=run["mix"],
        max_positives=positives,
        num_negatives=negatives,
        length_spread=_length_spread(resources, sequences),
        batches_per_step=config.get("gradient_accumulation_steps") or 1,
        num_devices=run["world_size"],
        strategy=_strategy(run),
        chunk_tokens=config.get("chunk_tokens"),
        gradient_checkpointing=bool(config.get("gradient_checkpointing")),
        evaluated_queries=_evaluated_queries(folder, config),
        eval_batch_tokens=config.get("eval_batch_tokens") or 16_384,
        language_pairs=len(run["plan"]["language_pairs"]),
    )


def typical_step_time(lines: Sequence[ResourceLine], resources: Resources) -> float:
    """The time of a step that nothing disturbed: the median over the lines of the log, by token.

    The first `WARMUP_STEPS` steps are excluded where others remain. The mean would have in it whatever else the
    machine did; the plain median would depend on which language pairs the middle of the lines was of, whose texts may
    be twice as long as others', so that lines are compared by the token and the median is that of a mean step.

    Example:

        >>> lines = [{"step": step, "time_s": time_s, "tokens": 100} for step, time_s in enumerate([9, 9, 1, 1, 7], 4)]
        >>> typical_step_time(lines, {"tokens": 500, "num_steps": 5, "train_time_s": 27})
        1.0
    """
    warm = [line for line in lines if line["step"] > WARMUP_STEPS and line["tokens"]] or [
        line for line in lines if line["tokens"]
    ]
    if not warm:
        return resources["train_time_s"] / resources["num_steps"]
    per_token_s = np.median([line["time_s"] / line["tokens"] for line in warm])
    return float(per_token_s * resources["tokens"] / resources["num_steps"])


def _model_size(run: Run, resources: Resources, place: str) -> ModelSize:
    if (terms := resources["flops_terms"]) is None:
        raise ValueError(f"{place}: flops_terms is null: the blocks of the encoder were not recognized.")
    matmul, width = terms["num_matmul_parameters"], terms["hidden_size"]
    total = run["model"]["num_parameters"]
    return ModelSize(terms["num_layers"], width, (total - matmul) // width, total, matmul)


def _length_spread(resources: Resources, sequences: float) -> float:
    squares = (resources["flops_terms"] or {}).get("sum_squared_lengths", 0)
    return max(1.0, squares * sequences / resources["tokens"] ** 2)


def _strategy(run: Run) -> str:
    found = run["environment"].get("distributed") or {}
    strategy, stage = str(found.get("type")), found.get("stage")
    return {"DEEPSPEED": f"zero{stage}", "FSDP": "fsdp2"}.get(strategy, "ddp")


def _evaluated_queries(folder: RunFolder, config: dict[str, Any]) -> int:
    if not config.get("evaluate_before") or not (folder.path / "eval.json").exists():
        return 0
    before = folder.read_eval()["before"]
    return before["num_queries"] if before else 0
