"""What a run took: `resources.jsonl` against the plan, `resources.json` against both, `curve.jsonl` against the first.

`curve.jsonl` says what had been taken by the time of an evaluation; so do the lines until then, and between two lines
both at least and at most. What nothing is left of to work out, such as the time of set-up, is said to be unknown.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from hf_hybrid.evaluation.aggregate import POOL
from hf_hybrid.records.schema import CurveLine, ResourceLine

from .evidence import Evidence
from .findings import ROUNDING, UNKNOWN, Finding, check, compare

_RAW = ("setup_time_s", "peak_host_memory_gib", "peak_device_memory_gib", "bytes_sent")
_AMOUNTS = ("time_s", "pairs", "tokens", "padding_tokens", "data_wait_s", "host_memory_gib")


def check_resources(evidence: Evidence) -> Iterator[Finding]:
    """`resources.jsonl` against the plan, `resources.json` against both, and `curve.jsonl` against the log."""
    for part in (_check_lines, _check_totals, _check_energy, _check_peaks, _check_parts, _check_flops):
        yield from part(evidence)
    resources = evidence.resources
    for name in _RAW:
        if resources.get(name) is not None:
            yield Finding("resources", UNKNOWN, f"resources.json: {name}", "no other file has its exact value")
    sent = resources.get("bytes_sent") is not None
    told = "one process has no one to send to"
    yield check("resources", "resources.json: bytes_sent", evidence.run["world_size"] > 1 or not sent, told)
    yield from _check_curve(evidence)


def _check_lines(evidence: Evidence) -> Iterator[Finding]:
    plan, spans = evidence.plan, evidence.spans
    yield from compare(
        "resources", f"resources.jsonl, line {len(spans)}: step", evidence.run["config"]["max_steps"], spans[-1][1]
    )
    if spans[0][0] > 0:
        told = f"the totals begin after step {spans[0][0]}: the run resumed from a checkpoint without any"
        yield Finding("resources", UNKNOWN, "resources.json: num_steps", told)
    for number, (line, (first, end)) in enumerate(zip(evidence.lines, spans, strict=True), start=1):
        place = f"resources.jsonl, line {number}"
        if not 0 <= first < end:
            yield check("resources", f"{place}: step", False, f"expected more than the earlier {first}, found {end}")
            continue
        language_pairs = [plan["language_pairs"][plan["batches"][batch]] for batch in evidence.batches(first, end)]
        for key in ("batch_type", "language_pair"):
            names = {POOL} if evidence.is_mlm and key == "language_pair" else {pair[key] for pair in language_pairs}
            yield from compare("resources", f"{place}: {key}", names.pop() if len(names) == 1 else None, line[key])
        below = [key for key in _AMOUNTS if line[key] < 0]  # type: ignore[literal-required]
        yield check("resources", f"{place}: amounts", not below, f"{', '.join(below)}: less than nothing")


def _check_totals(evidence: Evidence) -> Iterator[Finding]:
    """Totals are sums of lines, and rates are totals over the time."""
    resources, lines = evidence.resources, evidence.lines
    sums: dict[str, Any] = {
        "train_time_s": math.fsum(line["time_s"] for line in lines),
        "num_pairs": sum(line["pairs"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        "padding_tokens": sum(line["padding_tokens"] for line in lines),
    }
    time_s = sums["train_time_s"]
    sums["pairs_per_s"] = sums["num_pairs"] / time_s if time_s else None
    sums["tokens_per_s"] = sums["tokens"] / time_s if time_s else None
    yield from compare("resources", "resources.json", sums, {name: resources[name] for name in sums})  # type: ignore[literal-required]
    planned = sum(row["pairs"] for row in evidence.run["plan"]["language_pairs"])
    told = f"expected at most the {planned} pairs of the plan, found {resources['num_pairs']}"
    yield check("resources", "resources.json: num_pairs", resources["num_pairs"] <= planned, told)


def _check_energy(evidence: Evidence) -> Iterator[Finding]:
    """The energy is that of the lines, and unknown where it was at the last one; its source is the one asked for."""
    total, source = evidence.resources["energy_wh"], evidence.resources["energy_source"]
    parts, asked = [line["energy_wh"] for line in evidence.lines], evidence.run["config"]["energy"]
    if total is None or parts[-1] is None:
        yield from compare("resources", "resources.json: energy_wh", parts[-1], total)
    else:
        expected = math.fsum(part for part in parts if part is not None)
        yield from compare("resources", "resources.json: energy_wh", expected, total)
    holds = source is None if total is None else asked in ("auto", source) and source is not None
    told = f"found {source!r} for {total} watt hours, where the meter asked for was {asked!r}"
    yield check("resources", "resources.json: energy_source", holds, told)


def _check_peaks(evidence: Evidence) -> Iterator[Finding]:
    """Peaks of the run are no lower than those of its lines."""
    resources, lines = evidence.resources, evidence.lines
    for total, part in (
        ("peak_device_memory_gib", "peak_device_memory_gib"),
        ("peak_host_memory_gib", "host_memory_gib"),
    ):
        parts = [line[part] for line in lines if line[part] is not None]  # type: ignore[literal-required]
        peaks = resources[total] or []  # type: ignore[literal-required]
        holds = max(peaks, default=0.0) >= 0.99 * max(parts, default=0.0)  # the kernel counts pages in batches
        told = f"expected {max(parts, default=None)} at least, found {max(peaks, default=None)}"
        yield check("resources", f"resources.json: {total}", holds, told)


def _check_parts(evidence: Evidence) -> Iterator[Finding]:
    """Language pairs and languages add up to the whole, with the steps that the plan gives them."""
    resources, plan = evidence.resources, evidence.plan
    first, end = evidence.spans[0][0], evidence.lines[-1]["step"]
    batches = [evidence.batches(step, step + 1) for step in range(max(first, 0), end)]
    names = [
        [plan["language_pairs"][plan["batches"][batch]]["language_pair"] for batch in of_step] for of_step in batches
    ]
    expected = Counter(POOL if evidence.is_mlm else of_step[0] for of_step in names)
    found = {name: share["steps"] for name, share in resources["per_language_pair"].items()}
    yield from compare("resources", "resources.json: per_language_pair: steps", dict(expected), found)
    for part in ("per_language_pair", "per_language"):
        shares = resources[part].values()
        sums = {"tokens": sum(share["tokens"] for share in shares), "time_s": math.fsum(s["time_s"] for s in shares)}
        whole = {"tokens": resources["tokens"], "time_s": resources["train_time_s"]}
        yield from compare("resources", f"resources.json: {part}: sums", whole, sums)
    yield from _check_language_steps(resources["per_language"], names, evidence.run["corpus"]["items_per_language"])


def _check_language_steps(
    found: Mapping[str, Any], names: list[list[str]], languages: Mapping[str, int]
) -> Iterator[Finding]:
    """A step counts for each of its languages; which those of a pool are, only the texts can tell."""
    least: Counter[str] = Counter()
    possible: Counter[str] = Counter()
    for of_step in names:
        sides = {side for name in of_step for side in name.split("->")}
        least.update(sides - {POOL})
        possible.update(languages if POOL in sides else sides)
    for language in dict.fromkeys([*possible, *found]):
        steps = found[language]["steps"] if language in found else 0
        told = f"expected {least[language]} to {possible[language]}, found {steps}"
        holds = least[language] <= steps <= possible[language]
        yield check("resources", f"resources.json: per_language: {language}: steps", holds, told)


def _check_flops(evidence: Evidence) -> Iterator[Finding]:
    resources, run = evidence.resources, evidence.run
    flops, time_s, peak = resources["flops"], resources["train_time_s"], run["config"]["peak_flops"]
    expected = flops / time_s / (peak * run["world_size"]) if flops and time_s and peak else None
    yield from compare("resources", "resources.json: mfu", expected, resources["mfu"])
    place = "resources.json: flops"
    numbers = dict(re.findall(r"(\w+)=(\d+)", resources["flops_formula"]))
    if flops is None or len(numbers) < 3:
        yield check("resources", place, flops is None, f"found {flops} without the numbers of its formula")
        return
    parameters, layers, width = (int(numbers[name]) for name in ("num_matmul_parameters", "num_layers", "hidden_size"))
    tokens = resources["tokens"]
    head = 6 * int(numbers.get("num_head_parameters", 0)) * int(numbers.get("predicted_tokens", 0))
    squares = (flops - 6 * parameters * tokens - head) / (12 * layers * width)
    lengths = ("block_length",) if evidence.is_mlm else ("max_query_length", "max_passage_length")
    told_of = {**run["config"], **run["identity"]}  # whose lengths are those that texts were cut at
    most = tokens * max(told_of[name] for name in lengths)
    told = f"by its formula sum(length^2) would be {squares:.0f}, which cannot be for {tokens} tokens"
    yield check("resources", place, tokens <= squares * (1 + ROUNDING) and squares <= most * (1 + ROUNDING), told)
    yield Finding("resources", UNKNOWN, place, f"no file has sum(length^2); {squares:.0f} is what is left for it")


def _check_curve(evidence: Evidence) -> Iterator[Finding]:
    """Evaluations on the way follow each other, and what training had taken by then is what the log says."""
    config, before = evidence.run["config"], 0
    again = bool(config.get("eval_on_start"))  # at step 0, and where a run resumes
    for number, point in enumerate(evidence.curve, start=1):
        step, place = point["step"], f"curve.jsonl, line {number}"
        follows = (before <= step if again else before < step) and step <= config["max_steps"]
        told = f"expected {before if again else before + 1} to {config['max_steps']}, found {step}"
        yield check("resources", f"{place}: step", follows, told)
        if 0 <= step <= evidence.lines[-1]["step"]:
            yield from _check_point(place, point, evidence.lines)
        before = step


def _check_point(place: str, point: CurveLine, lines: list[ResourceLine]) -> Iterator[Finding]:
    """Time and tokens to the digit where a line of the log ends at the step; energy is read at another moment."""
    ends = [line["step"] for line in lines]
    first, after = bisect_left(ends, point["step"]), bisect_right(ends, point["step"])
    for name, amount in (("train_time_s", "time_s"), ("tokens", "tokens")):
        amounts = [line[amount] for line in lines[: first + 1]]  # type: ignore[literal-required]
        found, low, high = point[name], math.fsum(amounts[:after]), math.fsum(amounts)  # type: ignore[literal-required]
        yield check("resources", f"{place}: {name}", _lies(found, low, high), _expected(found, low, high))
    parts = [line["energy_wh"] for line in lines[: after + 1]]
    known = [part for part in parts if part is not None]  # once unknown, it is so until the end
    energy, low, high = point["energy_wh"], math.fsum(known[:first]), math.fsum(known)
    if energy is None:
        holds = parts[first] is None
    else:
        holds = None not in parts[:first] and _lies(energy, low, high if None not in parts else math.inf)
    yield check("resources", f"{place}: energy_wh", holds, _expected(energy, low, high))


def _lies(found: float, low: float, high: float) -> bool:
    return low * (1 - ROUNDING) <= found <= high * (1 + ROUNDING)


def _expected(found: float | None, low: float, high: float) -> str:
    return f"expected {low:.12g} to {high:.12g} by resources.jsonl, found {found}"
