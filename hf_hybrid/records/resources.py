"""`resources.json` as a function of `resources.jsonl`: what a run took, from what each logging step took.

`ResourceLogCallback` writes each line when the trainer logs, and `build_resources` adds the lines up. The trainer, the
bundle and `verify` all call that one function, so no total is computed by two implementations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import zip_longest
from typing import Any

from .schema import BytesSent, ResourceLine, Resources, Run, Share

FLOPS_FORMULA = "6 * num_matmul_parameters * tokens + 12 * num_layers * hidden_size * sum_squared_lengths"
HEAD_FORMULA = " + 6 * num_head_parameters * predicted_tokens"  # of masked language modeling
WEIGHT_BYTES_FORMULA = (  # see `training/communication.py`
    "of a rank, for a batch in n chunks, in a ring: (W - 1) / W times "
    "DDP: 2g at the last batch of a step; ZeRO 1: 3g at the last; ZeRO 2: 2gn, and g at the last; "
    "ZeRO 3: w + g, in several chunks 3wn + gn; FSDP2: 2w, in several chunks 3wn, and g at the last; "
    "W processes, w bytes of weights, g bytes of gradients"
)
_SUMS = (
    *("time_s", "setup_time_s", "data_wait_s", "pairs", "tokens", "padding_tokens", "sum_squared_lengths"),
    *("predicted_tokens", "embedding_bytes", "weight_bytes"),
)
_PEAKS = ("peak_device_memory_gib", "peak_host_memory_gib")
_SHARES = ("per_language", "per_language_pair")


def encoder_flops(
    num_matmul_parameters: int, num_layers: int, hidden_size: int, tokens: int, sum_squared_lengths: int
) -> float:
    """Return the floating-point operations of one training step of a transformer encoder.

    A matrix product of m x k and k x n takes 2mkn operations, so a token takes 2 for each weight it is multiplied
    with, and a sequence of n tokens takes 4 * n^2 * hidden_size for the scores and the weighted sum of each layer; the
    backward pass takes twice the forward pass. These are the operations that the model needs: recomputation (cached
    loss, gradient checkpointing) and padding are not counted, and local attention is counted as if it were global.

    Args:
        num_matmul_parameters (`int`): Weights that every token is multiplied with; see `models.flops.flops_terms`.
        num_layers (`int`): Number of layers.
        hidden_size (`int`): Width of the attention, all heads together.
        tokens (`int`): Tokens of the step, padding excluded.
        sum_squared_lengths (`int`): Sum over the sequences of the square of their length, in tokens.

    Returns:
        `float`: Operations, forward and backward.

    Example:

        >>> encoder_flops(num_matmul_parameters=10, num_layers=1, hidden_size=2, tokens=3, sum_squared_lengths=5)
        300.0
    """
    return 6.0 * num_matmul_parameters * tokens + 12.0 * num_layers * hidden_size * sum_squared_lengths


def training_flops(terms: Mapping[str, int], tokens: int, sum_squared_lengths: int, predicted_tokens: int) -> float:
    """Return the operations of some training steps: those of the encoder and of a language model's head.

    Args:
        terms (`Mapping[str, int]`): Sizes of the model, from `models.flops.flops_terms`.
        tokens, sum_squared_lengths (`int`): As for `encoder_flops`.
        predicted_tokens (`int`): Tokens that a language model's head predicts.
    """
    shape = (terms["num_matmul_parameters"], terms["num_layers"], terms["hidden_size"])
    return encoder_flops(*shape, tokens, sum_squared_lengths) + 6.0 * terms["num_head_parameters"] * predicted_tokens


def empty_line(step: int) -> ResourceLine:
    """Return a line of no steps, with nothing measured yet."""
    amounts: dict[str, Any] = dict.fromkeys(_SUMS, 0)
    shares: dict[str, Any] = {name: {} for name in _SHARES}
    unknown: dict[str, Any] = {"peak_device_memory_gib": None, "peak_host_memory_gib": [], "host_memory_gib": 0.0}
    unknown |= dict.fromkeys(("batch_type", "language_pair", "loss", "energy_wh", "energy_source"))
    line: Any = {"step": step, **amounts, **shares, **unknown}
    return line


def add_share(shares: dict[str, Share], name: str, share: Share) -> None:
    """Add the costs of some steps to those of a language or a language pair."""
    total = shares.setdefault(name, {"steps": 0, "tokens": 0, "time_s": 0.0})
    for key in total:
        total[key] += share[key]  # type: ignore[literal-required]


def count_steps(line: ResourceLine) -> int:
    """Return the number of optimizer steps of a line."""
    return sum(share["steps"] for share in line["per_language_pair"].values())


def merge_lines(first: ResourceLine, second: ResourceLine) -> ResourceLine:
    """Return one line for the steps of two successive lines.

    Amounts are added, peaks are those of the higher line for each rank, and energy is known only where both lines have
    it from the same meter. The loss and the resident memory are those of the second line.
    """
    merged: Any = dict(second)
    one: Any = first
    merged |= {name: one[name] + merged[name] for name in _SUMS}
    merged |= {name: _highest(one[name], merged[name]) for name in _PEAKS}
    for name in _SHARES:
        shares: dict[str, Share] = {}
        for key, share in (*one[name].items(), *merged[name].items()):
            add_share(shares, key, share)
        merged[name] = shares
    merged |= {name: merged[name] if merged[name] == one[name] else None for name in ("batch_type", "language_pair")}
    is_known = first["energy_wh"] is not None and first["energy_source"] == second["energy_source"]
    is_known &= second["energy_wh"] is not None
    merged["energy_wh"] = one["energy_wh"] + merged["energy_wh"] if is_known else None
    merged["energy_source"] = merged["energy_source"] if is_known else None
    return merged


def _highest(first: list[float] | None, second: list[float] | None) -> list[float] | None:
    """Return the peak of each rank; the number of ranks may have changed at a resume."""
    if first is None or second is None:
        return second if first is None else first
    return [max(pair) for pair in zip_longest(first, second, fillvalue=0.0)]


def build_resources(
    lines: Sequence[ResourceLine], flops_terms: Mapping[str, int] | None = None, peak_flops: float | None = None
) -> Resources:
    """Return `resources.json` of some lines.

    Args:
        lines (`Sequence[ResourceLine]`): The lines of `resources.jsonl`, in order; at least one.
        flops_terms (`Mapping[str, int]`, *optional*): Sizes of the model, from `models.flops.flops_terms`; without
            them `flops` is null.
        peak_flops (`float`, *optional*): Peak operations per second of all devices together; without it `mfu` is null.

    Example:

        >>> line = empty_line(2) | {"time_s": 2.0, "pairs": 8, "tokens": 100, "sum_squared_lengths": 1000}
        >>> resources = build_resources([line, line | {"step": 4}], {"num_matmul_parameters": 10, "num_layers": 1,
        ...     "hidden_size": 2, "num_head_parameters": 0}, peak_flops=1e5)
        >>> resources["tokens"], resources["pairs_per_s"], resources["flops"], resources["mfu"]
        (200, 4.0, 60000.0, 0.15)
    """
    total = reduce(merge_lines, lines)
    time_s, tokens, predicted = total["time_s"], total["tokens"], total["predicted_tokens"]
    flops, terms = None, None
    if flops_terms is not None:
        flops = training_flops(flops_terms, tokens, total["sum_squared_lengths"], predicted)
        terms = {**flops_terms, "sum_squared_lengths": total["sum_squared_lengths"], "predicted_tokens": predicted}
    return {
        "train_time_s": time_s,
        "setup_time_s": total["setup_time_s"],
        "num_steps": count_steps(total),
        "num_pairs": total["pairs"],
        "tokens": tokens,
        "padding_tokens": total["padding_tokens"],
        "pairs_per_s": total["pairs"] / time_s if time_s else None,
        "tokens_per_s": tokens / time_s if time_s else None,
        "flops": flops,
        "flops_formula": FLOPS_FORMULA + (HEAD_FORMULA if predicted else ""),
        "flops_terms": terms,
        "mfu": flops / time_s / peak_flops if flops and time_s and peak_flops else None,
        "peak_device_memory_gib": total["peak_device_memory_gib"],
        "peak_host_memory_gib": total["peak_host_memory_gib"],
        "energy_wh": total["energy_wh"],
        "energy_source": total["energy_source"],
        "per_language": total["per_language"],
        "per_language_pair": total["per_language_pair"],
        "bytes_sent": _bytes_sent(total),
    }


def build_resources_of_run(run: Run, lines: Sequence[ResourceLine]) -> Resources:
    """Return `resources.json` of a run from its `run.json` and the lines of its `resources.jsonl`."""
    peak_flops = run["config"].get("peak_flops")
    return build_resources(lines, run["model"]["flops_terms"], peak_flops and peak_flops * run["world_size"])


def _bytes_sent(total: ResourceLine) -> BytesSent | None:
    embeddings, weights = total["embedding_bytes"], total["weight_bytes"]
    return (
        {"embeddings": embeddings, "weights": weights, "formula": WEIGHT_BYTES_FORMULA}
        if embeddings or weights
        else None
    )
