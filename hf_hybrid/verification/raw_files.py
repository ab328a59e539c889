"""Check what no function rebuilds: files that exist, hashes, and raw files that must agree with each other."""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from hf_hybrid.data.batches.mix import MixConfig, largest_remainder
from hf_hybrid.data.batches.schedule import plan_fingerprint
from hf_hybrid.evaluation.aggregate import POOL
from hf_hybrid.hub.bundle import (
    LOCK_NAME,
    MODEL_HASHES_NAME,
    NEEDED,
    compare_versions,
    hash_ids,
    is_bundle_name,
    list_bundle,
)
from hf_hybrid.hub.model_card import CARD_NAME
from hf_hybrid.records.manifest import Entry, read_manifest
from hf_hybrid.records.resources import build_resources, empty_line
from hf_hybrid.records.schema import (
    BUNDLE_NAME,
    EVALUATIONS_NAME,
    EVENTS_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    PER_QUERY_NAME,
    CurveLine,
    ResourceLine,
    Resources,
    Run,
)
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.utils.files import sha256
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.strict_json import read_json, read_json_lines

from .files import RunFiles, Unreadable, explain_python_run
from .findings import OK, ROUNDING, UNKNOWN, WRONG, Finding, check, compare, compare_texts
from .rerun import RELATIVE_TOLERANCE, TOLERANCE

# Hashes and copies


def check_manifest(files: RunFiles) -> Iterator[Finding]:
    """Compare every file of a bundle with its manifest."""
    found = list_bundle(files.path)
    for name in found:
        if not is_bundle_name(name):
            yield Finding("manifest", WRONG, name, "is no part of a bundle")
    for name in (CARD_NAME, LOCK_NAME, MODEL_HASHES_NAME, *NEEDED):
        if name not in found:
            yield Finding("manifest", WRONG, name, "is missing, and every bundle has it")
    yield from compare_manifest("manifest", files.path / MANIFEST_NAME, files.path, found)


def check_no_manifest(files: RunFiles) -> Iterator[Finding]:
    """Report that nothing shows whether files of a run folder without a bundle were altered."""
    yield Finding("manifest", UNKNOWN, MANIFEST_NAME, f"there is no {BUNDLE_NAME}/: nothing tells what the files were")


def check_model(files: RunFiles) -> Iterator[Finding]:
    """Compare the files of the model with the hashes of the bundle."""
    if files.around == files.path and (files.path / MODEL_HASHES_NAME).is_file():
        told = "the model is not in a bundle; verify the run folder or the repository around it"
        yield Finding("model", UNKNOWN, MODEL_HASHES_NAME, told)
        return
    inside = files.around / MODEL_NAME
    folder = inside if inside.is_dir() else files.around
    weights = {path.name for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".py")}
    place = "" if folder == files.around else f"{MODEL_NAME}/"
    skipped = () if place else (CARD_NAME,)  # at the root of a repository this is the card
    listed = files.path / MODEL_HASHES_NAME
    yield from compare_manifest("model", listed, folder, sorted(weights), place, skipped)


def compare_manifest(
    name: str, manifest: Path, folder: Path, found: list[str], place: str = "", skipped: tuple[str, ...] = ()
) -> Iterator[Finding]:
    """Compare the files that a manifest lists, and those that were found, with its sizes and hashes."""
    try:
        listed = read_manifest(manifest)
    except (OSError, ValueError) as error:
        told = "is missing" if isinstance(error, FileNotFoundError) else str(error)
        yield Finding(name, WRONG, manifest.name, told)
        return
    for file in sorted({*found, *listed} - {*skipped}):
        if file in listed:
            yield _compare_file(name, folder / file, f"{place}{file}", listed[file])
        elif name == "model":
            yield Finding(name, WRONG, file, f"is not in {manifest.name}, though a library might load it")
        else:
            yield Finding(name, WRONG, file, f"is not in {manifest.name}: it was added")


def _compare_file(name: str, path: Path, place: str, entry: Entry) -> Finding:
    if not path.is_file():
        return Finding(name, WRONG, place, "is missing")
    if (size := path.stat().st_size) != entry["bytes"]:
        return Finding(name, WRONG, place, f"expected {entry['bytes']} bytes, found {size}")
    if (found := sha256(path)) != entry["sha256"]:
        return Finding(name, WRONG, place, f"was altered: expected SHA-256 {entry['sha256']}, found {found}")
    return Finding(name, OK, place)


def check_copies(files: RunFiles) -> Iterator[Finding]:
    """Compare files of the bundle with those of the same name around it, in published form."""
    for name in list_bundle(files.path):
        original, copy = files.around / name, files.path / name
        if not original.is_file() or name in (LOCK_NAME, MODEL_HASHES_NAME):
            continue
        if copy.suffix in (".json", ".jsonl"):
            read: Callable[[Path], Any] = read_json if copy.suffix == ".json" else read_json_lines
            try:
                found, expected = publishable(read(original)), publishable(read(copy))
            except ValueError as error:
                yield Finding("copies", WRONG, name, str(error))
                continue
            if name == EVENTS_NAME:
                found = found[: len(expected)]  # a push, for one, comes after the bundle was made
            yield from compare("copies", name, expected, found)
        elif copy.suffix == ".md":
            yield compare_texts("copies", name, *(file.read_text(encoding="utf-8") for file in (copy, original)))
        else:
            same = _same_values(original, copy) if copy.name == PER_QUERY_NAME else sha256(original) == sha256(copy)
            yield check("copies", name, same, f"is another one than {BUNDLE_NAME}/{name}")


def _same_values(original: Path, copy: Path) -> bool:
    """Return whether a bundle has the values of a run folder, whose queries have their ids, or of another bundle."""
    found, expected = (_nan_as_null(pyarrow.parquet.read_table(path)) for path in (original, copy))
    return expected.equals(found) or expected.equals(hash_ids(found))


def _nan_as_null(values: pa.Table) -> pa.Table:
    for number, field in enumerate(values.schema):
        if pa.types.is_floating(field.type):
            column = values.column(number)
            values = values.set_column(number, field, pc.if_else(pc.is_nan(column), None, column))
    return values


def check_schema(files: RunFiles) -> Iterator[Finding]:
    """Read every file that a run leaves."""
    reads: dict[str, Callable[[], Any]] = {
        "run.json": lambda: files.run,
        "plan.json": lambda: files.plan,
        "eval.json": lambda: files.evaluation,
        "resources.json": lambda: files.resources,
        "resources.jsonl": lambda: files.lines,
        EVENTS_NAME: lambda: files.events,
    }
    optional: dict[str, Callable[[], Any]] = {
        "curve.jsonl": lambda: files.curve,
        "card.json": lambda: files.card_options,
    }
    reads |= {name: read for name, read in optional.items() if (files.path / name).exists()}
    for when in ("before", "after"):
        name = f"{EVALUATIONS_NAME}/{when}/{PER_QUERY_NAME}"
        try:
            has_scores = files.evaluation[when] is not None
        except Unreadable:  # eval.json is reported below
            continue
        if has_scores and (reason := files.explain_missing_values(when)) is not None:
            yield Finding("schema", UNKNOWN, name, reason)
        elif has_scores:
            reads[name] = lambda when=when: files.values(when)  # type: ignore[misc]
    yield from read_all(files.path, reads)


def read_all(path: Path, reads: Mapping[str, Callable[[], Any]]) -> Iterator[Finding]:
    """Report for each file whether it can be read."""
    for name, read in reads.items():
        try:
            read()
            yield Finding("schema", OK, name)
        except ValueError as error:
            told = str(error).removeprefix(f"{path}{os.sep}").removeprefix(name).lstrip(":, ")
            yield Finding("schema", WRONG, name, told)


# The plan


def check_plan(files: RunFiles) -> Iterator[Finding]:
    """Compare the plan with its fingerprint, the arguments, the mix, and what `run.json` says of it."""
    run, plan = files.run, files.plan
    config, identity, language_pairs = run["config"], run["identity"], plan["language_pairs"]
    names = [(pair["batch_type"], pair["language_pair"]) for pair in language_pairs]
    is_known = all(type(number) is int and 0 <= number < len(names) for number in plan["batches"])
    yield check(
        "plan", "plan.json: batches", is_known, f"has a number that is none of its {len(names)} language pairs"
    )
    if not is_known:
        return
    yield from compare("plan", "plan.json: fingerprint", plan_fingerprint(names, plan["batches"]), plan["fingerprint"])
    yield from compare("plan", "run.json: identity: plan", plan["fingerprint"], identity["plan"])
    num_batches = len(files.batches(0, config["max_steps"]))
    yield from compare("plan", "plan.json: number of batches", num_batches, len(plan["batches"]))
    steps, counted = Counter(names[number] for number in plan["batches"]), "blocks" if files.is_mlm else "steps"
    rows = [(f"{row['batch_type']} {row['language_pair']}", row[counted]) for row in run["plan"]["language_pairs"]]
    told = {name: count for name, count in rows if count}
    yield from compare("plan", "run.json: plan: steps", {" ".join(name): count for name, count in steps.items()}, told)
    yield from _check_mlm_shares(run, steps) if files.is_mlm else _check_shares(run["mix"], steps)
    yield from _check_arguments(config, identity, run)
    yield from _check_languages(run, names)


def _check_shares(mix: str, steps: Counter[tuple[str, str]]) -> Iterator[Finding]:
    shares, found = MixConfig.parse(mix), Counter[str]()
    for (batch_type, _), count in steps.items():
        found[batch_type] += count
    weights = np.array([getattr(shares, batch_type) for batch_type in shares.batch_types])
    quotas = zip(shares.batch_types, largest_remainder(weights, sum(steps.values())).tolist(), strict=True)
    planned = {batch_type: count for batch_type, count in quotas if count}
    yield from compare("plan", "plan.json: steps of each batch type", planned, dict(found))


def _check_mlm_shares(run: Mapping[str, Any], blocks: Counter[tuple[str, str]]) -> Iterator[Finding]:
    """Each language has its exact share, rounded up or down."""
    rows, total = run["plan"]["language_pairs"], sum(blocks.values())
    weights = [row["tokens"] ** run["config"]["smoothing"] for row in rows]
    for row, weight in zip(rows, weights, strict=True):
        share, found = total * weight / sum(weights), blocks[row["batch_type"], row["language_pair"]]
        told = f"expected {share:.2f} rounded up or down, found {found}"
        yield check("plan", f"plan.json: blocks of {row['language_pair']}", abs(found - share) < 1 + ROUNDING, told)


def _check_arguments(config: Mapping[str, Any], identity: Mapping[str, Any], run: Run) -> Iterator[Finding]:
    """Compare what `run.json` says in several places."""
    longest = run["model"]["max_length"]  # of what the model can read
    lengths = {"max_query_length": config.get("max_query_length", longest), "max_passage_length": longest}
    expected = {**config, **{name: min(length, longest) for name, length in lengths.items()}}
    expected["data_seed"] = config["seed"] if config["data_seed"] is None else config["data_seed"]
    reason = explain_python_run(run)
    for name, value in identity.items():
        place = f"run.json: identity: {name}"
        if reason and name in lengths:
            yield Finding("plan", UNKNOWN, place, reason)
        else:
            yield from compare("plan", place, expected.get(name, value), value)
    yield from compare("plan", "run.json: seed", identity["data_seed"], run["seed"])
    yield from compare("plan", "run.json: mix", identity["mix"], run["mix"])


def _check_languages(run: Mapping[str, Any], names: list[tuple[str, str]]) -> Iterator[Finding]:
    """Check the languages of each pair, and the items of monolingual pairs."""
    items = run["corpus"]["items_per_language"]
    for batch_type, name in names:
        query, _, passage = name.partition("->")
        fits = {"mono": query == passage, "cross": query != passage, "pool": passage == POOL, "mixed": query == POOL}
        told = f"{batch_type} {name} is no language pair of the languages {', '.join(items)}"
        holds = fits.get(batch_type, True) and {query, passage or query} <= {*items, POOL}
        yield check("plan", f"plan.json: language pairs: {name}", holds, told)
    for row in run["plan"]["language_pairs"]:
        if row["batch_type"] == "mono":
            expected = items[row["language_pair"].partition("->")[0]]
            yield from compare("plan", f"run.json: plan: {row['language_pair']}: items", expected, row["items"])


# Logs


def check_lines(files: RunFiles) -> Iterator[Finding]:
    """Compare `resources.jsonl` with the plan, and `curve.jsonl` with `resources.jsonl`."""
    plan, spans, config = files.plan, files.spans, files.run["config"]
    yield from compare("resources", f"resources.jsonl, line {len(spans)}: step", config["max_steps"], spans[-1][1])
    if spans[0][0] > 0:
        told = f"the lines begin after step {spans[0][0]}: the run resumed from a checkpoint without a log"
        yield Finding("resources", UNKNOWN, "resources.jsonl, line 1: step", told)
    for number, (line, (first, end)) in enumerate(zip(files.lines, spans, strict=True), start=1):
        place = f"resources.jsonl, line {number}"
        if not 0 <= first < end:
            yield check("resources", f"{place}: step", False, f"expected more than the earlier {first}, found {end}")
            continue
        pairs = [plan["language_pairs"][plan["batches"][batch]] for batch in files.batches(first, end)]
        for key in ("batch_type", "language_pair"):
            names = {POOL} if files.is_mlm and key == "language_pair" else {pair[key] for pair in pairs}
            yield from compare("resources", f"{place}: {key}", names.pop() if len(names) == 1 else None, line[key])
        firsts = pairs[:: max(1, len(pairs) // (end - first))]  # a step counts for the pair of its first batch
        steps = {POOL: end - first} if files.is_mlm else dict(Counter(pair["language_pair"] for pair in firsts))
        found = {name: share["steps"] for name, share in line["per_language_pair"].items()}
        yield from compare("resources", f"{place}: per_language_pair: steps", steps, found)
        yield from compare("resources", f"{place}: tokens", _sum_tokens(line["per_language"]), line["tokens"])
        below = [name for name, value in line.items() if name not in ("loss",) and _is_below_zero(value)]
        yield check("resources", f"{place}: amounts", not below, f"{', '.join(below)}: less than nothing")
    sources = {line["energy_source"] for line in files.lines} - {None, config["energy"]}
    told = f"found {', '.join(map(str, sources))}, where the meter asked for was {config['energy']!r}"
    yield check("resources", "resources.jsonl: energy_source", config["energy"] == "auto" or not sources, told)
    yield from _check_curve(files)


def _sum_tokens(shares: Mapping[str, Any]) -> int:
    return sum(share["tokens"] for share in shares.values())


def _is_below_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value < 0


def _check_curve(files: RunFiles) -> Iterator[Finding]:
    """Evaluations during training follow each other, and costs until then lie between those of two lines."""
    config, before = files.run["config"], 0
    again = bool(config.get("eval_on_start"))  # at step 0, and where a run resumes
    ends = [line["step"] for line in files.lines]
    for number, point in enumerate(files.curve, start=1):
        step, place = point["step"], f"curve.jsonl, line {number}"
        follows = (before <= step if again else before < step) and step <= config["max_steps"]
        told = f"expected {before if again else before + 1} to {config['max_steps']}, found {step}"
        yield check("resources", f"{place}: step", follows, told)
        if 0 <= step <= ends[-1]:
            yield from _check_point(place, point, files.lines, bisect_left(ends, step), bisect_right(ends, step))
        before = step


def _check_point(place: str, point: CurveLine, lines: list[ResourceLine], start: int, end: int) -> Iterator[Finding]:
    """Compare the costs of a point with the totals of lines. `start` lines end before it, `end` lines not after it."""

    def total(count: int) -> Resources:
        return build_resources(lines[:count] or [empty_line(0)])

    for name in ("train_time_s", "tokens"):
        low, high = (total(count)[name] for count in (end, start + 1))
        yield _check_between(f"{place}: {name}", point[name], low, high)
    most = total(end + 1)["energy_wh"]  # energy is read at another moment than the line that ends at this step
    if most is not None:
        yield _check_between(f"{place}: energy_wh", point["energy_wh"], total(start)["energy_wh"] or 0.0, most)
    elif lines[0]["energy_wh"] is None:
        yield from compare("resources", f"{place}: energy_wh", None, point["energy_wh"])


def _check_between(place: str, found: float | None, low: float, high: float) -> Finding:
    holds = found is not None and low * (1 - ROUNDING) <= found <= high * (1 + ROUNDING)
    return check("resources", place, holds, f"expected {low:.12g} to {high:.12g} by resources.jsonl, found {found}")


def check_events(files: RunFiles) -> Iterator[Finding]:
    """Compare the event log with how the run began and ended, and with its scores."""
    run, events = files.run, files.events
    steps = run["config"]["max_steps"]
    starts, checkpoints = ([e for e in events if e["event"] == name] for name in ("start", "checkpoint"))
    begins = bool(events) and events[0]["event"] == "start"
    yield check("events", f"{EVENTS_NAME}, line 1", begins, "expected the start of a run")
    yield from compare("events", "run.json: status", "finished", run["status"])
    ends = [event for event in events if event["event"] in ("start", "stop")]
    yield from compare("events", f"{EVENTS_NAME}: last stop", "finished", ends[-1].get("reason"))
    for event in starts:
        yield from compare("events", f"{EVENTS_NAME}: start: max_steps", steps, event["max_steps"])
    yield from compare("events", "run.json: world_size", starts[-1]["world_size"], run["world_size"])
    saved = {event["step"] for event in checkpoints}
    outside = sorted(step for step in saved if not 0 < step <= steps)
    yield check("events", f"{EVENTS_NAME}: checkpoint: step", not outside, f"expected 1 to {steps}, found {outside}")
    if (step := run["model"].get("step")) is not None:
        possible = {steps} | (saved if run["config"]["load_best_model_at_end"] else set())
        told = f"expected one of the steps {', '.join(map(str, sorted(possible)))}, found {step}"
        yield check("events", "run.json: model: step", step in possible, told)
    lasted, needed = _seconds(ends[-1]) - _seconds(events[0]), files.resources["train_time_s"]
    told = f"{needed:.1f} s do not fit between the first start and the last stop, {lasted:.0f} s"
    yield check("events", "resources.json: train_time_s", needed <= lasted + 1, told)  # times are whole seconds
    logged = {event["when"]: event["MAP"] for event in events if event["event"] == "evaluation"}
    for when in ("before", "after"):
        scores = files.evaluation[when]
        expected = None if scores is None else round(scores["multilingual"]["MAP"], 4)
        yield from compare("events", f"{EVENTS_NAME}: evaluation {when}: MAP", expected, logged.get(when))
    yield from _check_last_point(files, at_once=len(starts) == 1)


def _seconds(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()  # Python 3.10 does not know Z


def _check_last_point(files: RunFiles, at_once: bool) -> Iterator[Finding]:
    """Compare an evaluation after the last step with the scores of the finished model, unless an earlier one is it."""
    config, after = files.run["config"], files.evaluation["after"]
    if after is None or config["load_best_model_at_end"]:
        return
    on_cpu = config["use_cpu"] or not files.run["environment"]["devices"]
    near = {} if on_cpu and at_once else {"relative": RELATIVE_TOLERANCE, "absolute": TOLERANCE}  # other processes
    for number, point in enumerate(files.curve, start=1):
        if point["step"] == config["max_steps"]:
            place = f"curve.jsonl, line {number}: measures"
            yield from compare("scores", place, flatten_scores(after), point["measures"], **near)


def check_environment(files: RunFiles) -> Iterator[Finding]:
    """Compare the versions of `run.json` with the environment lock."""
    told, lock = files.run["environment"], files.text(LOCK_NAME)
    wrong = dict(compare_versions(told["versions"], lock))
    for name, found in told["versions"].items():
        place = f"run.json: environment: versions: {name}"
        yield check("environment", place, name not in wrong, f"{LOCK_NAME} has {wrong.get(name)}, found {found}")
    python = re.match(r"# Python ([^,\s]+)", lock)
    yield from compare("environment", "run.json: environment: python", python and python[1], told["python"])
