"""Advice for a run that does not fit in memory: options to change, each with its predicted costs.

The order is that of what they cost: first what changes nothing but time, then other machines, last another batch,
which is another loss. An option is offered where the high end of its memory fits; where none does, what comes
nearest is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from .cost_model import Estimate
from .workload import SHARDED, Workload

GIB = 2**30
_LEAST_TEXTS = 8  # of a chunk that is still worth a forward pass of its own
_TABLE_IS_LARGE = 0.3  # of all weights


def advice_for(
    work: Workload,
    limit_gib: float,
    memory_gib: Callable[[Workload], Estimate],
    step_time_s: Callable[[Workload], Estimate],
    most_devices: int,
) -> list[str]:
    """Sentences for people, the mildest change first.

    Args:
        work (`Workload`): That does not fit, or may not.
        limit_gib (`float`): What there is.
        memory_gib (`Callable`): What a workload takes.
        step_time_s (`Callable`): How long its steps are.
        most_devices (`int`): That a run may use.

    Example:

        >>> from hf_hybrid.scaling.planner.workload import ModelSize
        >>> work = Workload(4, 1000, ModelSize(12, 768, 30_000), batch_size=1024, tokens_per_text=60, steps=10)
        >>> memory = lambda work: Estimate(work.kept_activations / 1e8, 0, 1.1 * work.kept_activations / 1e8, 0.9)
        >>> time = lambda work: Estimate(work.flops / 1e14, 0, 1, 0.9)
        >>> for sentence in advice_for(work, 4.0, memory, time, 1):
        ...     print(sentence)
        --chunk_tokens 30720: 2.83 GiB (0 to 3.11), steps 1.3 times as long, the same loss.
        --gradient_checkpointing true: 1.61 GiB (0 to 1.77), steps 1.3 times as long, the same loss.
        --global_batch_size 256: 2.83 GiB (0 to 3.11), steps 0.25 times as long, fewer negatives, another loss.
    """
    found = [_seen_rows_only(work)] if _table_is_large(work) else []
    nearest: tuple[float, str] | None = None
    before_s = step_time_s(work).value
    for option, changed, effect in _options(work, most_devices, lambda work: _is_within(memory_gib(work), limit_gib)):
        takes = memory_gib(changed)
        times = step_time_s(changed).value / before_s
        ends = "no interval" if takes.low is None or takes.high is None else f"{takes.low:.3g} to {takes.high:.3g}"
        sentence = f"{option}: {takes.value:.3g} GiB ({ends}), steps {times:.2g} times as long, {effect}."
        if _is_within(takes, limit_gib):
            found.append(sentence)
        elif nearest is None or takes.value < nearest[0]:
            nearest = takes.value, sentence
    if len(found) <= _table_is_large(work):
        found.append(
            "Nothing here makes sure that it fits: take devices with more memory, more of them, or less model."
        )
        if nearest:
            found.append(f"The nearest is {nearest[1]}")
    return found


def _options(
    work: Workload, most_devices: int, is_enough: Callable[[Workload], bool]
) -> Iterator[tuple[str, Workload, str]]:
    """Option, the workload with it, and what else it changes."""
    same_loss = "the same loss"
    chunked = _smaller(work, "chunk_tokens", round(work.tokens_in_pass), _least_chunk(work), is_enough)
    if chunked:
        yield f"--chunk_tokens {chunked.chunk_tokens}", chunked, same_loss
    kept = dataclasses.replace(work, gradient_checkpointing=True)
    if not work.gradient_checkpointing:
        yield "--gradient_checkpointing true", kept, same_loss
        if chunked and not is_enough(chunked) and not is_enough(kept):
            both = dataclasses.replace(chunked, gradient_checkpointing=True)
            yield f"--chunk_tokens {both.chunk_tokens} --gradient_checkpointing true", both, same_loss
    if work.num_devices > 1 and work.strategy not in SHARDED:
        spread = dataclasses.replace(work, strategy="fsdp2")
        yield "accelerate_configs/fsdp2.yaml (or deepspeed_zero3.yaml)", spread, same_loss
    more = work.num_devices * 2
    if more <= most_devices:
        spread = dataclasses.replace(work, num_devices=more, strategy="fsdp2")
        yield f"{more} devices with accelerate_configs/fsdp2.yaml", spread, same_loss
    smaller = _smaller(work, "batch_size", int(work.batch_size), 2, is_enough)
    if smaller:
        yield f"--global_batch_size {int(smaller.batch_size)}", smaller, "fewer negatives, another loss"


def _smaller(
    work: Workload, name: str, start: int, least: int, is_enough: Callable[[Workload], bool]
) -> Workload | None:
    """The first workload that is enough as a number is halved, or the last; None where it cannot be halved."""
    changed, value = None, start // 2
    while value >= least:
        changed = dataclasses.replace(work, **{name: value})  # type: ignore[arg-type]
        if is_enough(changed):
            break
        value //= 2
    return changed


def _least_chunk(work: Workload) -> int:
    return round(_LEAST_TEXTS * work.tokens_per_text)


def _table_is_large(work: Workload) -> bool:
    table = work.model.vocabulary * work.model.hidden_size
    return work.seen_rows is None and work.strategy not in SHARDED and table > _TABLE_IS_LARGE * work.model.parameters


def _seen_rows_only(work: Workload) -> str:
    row_bytes: Any = 12 * work.model.hidden_size  # gradient and two moments
    most_gib = row_bytes * work.model.vocabulary / GIB
    return (
        "--seen_embeddings_only true: without gradients and optimizer states of the tokens that the corpus does not "
        f"use, {row_bytes / 1024:.3g} KiB each, {most_gib:.3g} GiB at the most; give seen_rows to plan with it."
    )


def _is_within(memory: Estimate, limit_gib: float) -> bool:
    return memory.high is not None and memory.high <= limit_gib
