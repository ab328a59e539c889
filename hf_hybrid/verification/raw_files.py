"""Check what no function rebuilds: existing files, hashes, and raw files that must agree with each other."""

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
from .findings import OK, ROUNDING, UNKNOWN, WRONG, Finding, compare, compare_texts, expect
from .rerun import RELATIVE_TOLERANCE, TOLERANCE

# Hashes and copies


def check_manifest(files: RunFiles) -> Iterator[Finding]:
    """Compare every file of a bundle with its manifest."""
    found = list_bundle(files.path)
    for name in found:
        if not is_bundle_name(name):
            yield Finding("manifest", WRONG, name, "is not part of a bundle")
    for name in (CARD_NAME, LOCK_NAME, MODEL_HASHES_NAME, *NEEDED):
        if name not in found:
            yield Finding("manifest", WRONG, name, "is missing, and every bundle has it")
    yield from compare_manifest("manifest", files.path / MANIFEST_NAME, files.path, found)


def report_no_manifest(files: RunFiles) -> Iterator[Finding]:
    """Report that a run folder without a bundle has no hashes of its files."""
    yield Finding(
        "manifest", UNKNOWN, MANIFEST_NAME, f"without {BUNDLE_NAME}/ nothing shows whether files were altered"
    )


def check_model(files: RunFiles) -> Iterator[Finding]:
    """Compare the files of the model with the hashes of the bundle."""
    if files.around == files.path and (files.path / MODEL_HASHES_NAME).is_file():
        reason = "the model is not in a bundle; verify the run folder or the repository around it"
        yield Finding("model", UNKNOWN, MODEL_HASHES_NAME, reason)
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
    """Compare the files in a manifest, and those that were found, with its sizes and hashes."""
    try:
        listed = read_manifest(manifest)
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else str(error)
        yield Finding(name, WRONG, manifest.name, reason)
        return
    for file in sorted({*found, *listed} - {*skipped}):
        if file in listed:
            problem = _compare_file(folder / file, listed[file])
            yield expect(name, f"{place}{file}", problem is None, problem or "")
        else:
            reason = "though a library might load it" if name == "model" else "it was added"
            yield Finding(name, WRONG, file, f"is not in {manifest.name}: {reason}")


def _compare_file(path: Path, entry: Entry) -> str | None:
    if not path.is_file():
        return "is missing"
    if (size := path.stat().st_size) != entry["bytes"]:
        return f"expected {entry['bytes']} bytes, found {size}"
    found = sha256(path)
    return None if found == entry["sha256"] else f"was altered: expected SHA-256 {entry['sha256']}, found {found}"


def check_copies(files: RunFiles) -> Iterator[Finding]:
    """Compare files of the bundle with files of the same name around it, in published form."""
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
                found = found[: len(expected)]  # a push, for example, follows the bundle
            yield from compare("copies", name, expected, found)
        elif copy.suffix == ".md":
            yield compare_texts("copies", name, *(file.read_text(encoding="utf-8") for file in (copy, original)))
        else:
            is_same = (
                _has_same_values(original, copy) if copy.name == PER_QUERY_NAME else sha256(original) == sha256(copy)
            )
            yield expect("copies", name, is_same, f"differs from {BUNDLE_NAME}/{name}")


def _has_same_values(original: Path, copy: Path) -> bool:
    """Return whether a bundle has the scores of a run folder, which has query ids, or of another bundle."""
    found, expected = (_replace_nan(pyarrow.parquet.read_table(path)) for path in (original, copy))
    return expected.equals(found) or expected.equals(hash_ids(found))


def _replace_nan(values: pa.Table) -> pa.Table:
    for number, field in enumerate(values.schema):
        if pa.types.is_floating(field.type):
            column = values.column(number)
            values = values.set_column(number, field, pc.if_else(pc.is_nan(column), None, column))
    return values


def check_schema(files: RunFiles) -> Iterator[Finding]:
    """Read every file of a run."""
    reads: dict[str, Callable[[], Any]] = {
        "run.json": lambda: files.run,
        "plan.json": lambda: files.plan,
        "eval.json": lambda: files.evaluation,
        "resources.json": lambda: files.resources,
        "resources.jsonl": lambda: files.lines,
        EVENTS_NAME: lambda: files.events,
    }
    if (files.path / "curve.jsonl").exists():
        reads["curve.jsonl"] = lambda: files.curve
    if (files.path / "card.json").exists():
        reads["card.json"] = lambda: files.card_options
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
            reason = str(error).removeprefix(f"{path}{os.sep}").removeprefix(name).lstrip(":, ")
            yield Finding("schema", WRONG, name, reason)


# The plan


def check_plan(files: RunFiles) -> Iterator[Finding]:
    """Compare the plan with its fingerprint, the arguments, the mix, and its summary in `run.json`."""
    run, plan = files.run, files.plan
    config, identity = run["config"], run["identity"]
    names = [(pair["batch_type"], pair["language_pair"]) for pair in plan["language_pairs"]]
    is_known = all(type(number) is int and 0 <= number < len(names) for number in plan["batches"])
    reason = f"has a number that is not one of its {len(names)} language pairs"
    yield expect("plan", "plan.json: batches", is_known, reason)
    if not is_known:
        return
    steps, unit = Counter(names[number] for number in plan["batches"]), "blocks" if files.is_mlm else "steps"
    rows = [(f"{row['batch_type']} {row['language_pair']}", row[unit]) for row in run["plan"]["language_pairs"]]
    expected_steps = {" ".join(name): count for name, count in steps.items()}
    for place, expected, found in (
        ("plan.json: fingerprint", plan_fingerprint(names, plan["batches"]), plan["fingerprint"]),
        ("run.json: identity: plan", plan["fingerprint"], identity["plan"]),
        ("plan.json: number of batches", len(files.batches(0, config["max_steps"])), len(plan["batches"])),
        ("run.json: plan: steps", expected_steps, {name: count for name, count in rows if count}),
        ("run.json: seed", identity["data_seed"], run["seed"]),
        ("run.json: mix", identity["mix"], run["mix"]),
    ):
        yield from compare("plan", place, expected, found)
    yield from _check_mlm_shares(run, steps) if files.is_mlm else _check_shares(run["mix"], steps)
    yield from _check_identity(run)
    yield from _check_languages(run, names)


def _check_shares(mix: str, steps: Counter[tuple[str, str]]) -> Iterator[Finding]:
    """Compare the steps of each batch type with its share of the mix."""
    shares, found = MixConfig.parse(mix), Counter[str]()
    for (batch_type, _), count in steps.items():
        found[batch_type] += count
    weights = np.array([getattr(shares, batch_type) for batch_type in shares.batch_types])
    quotas = zip(shares.batch_types, largest_remainder(weights, sum(steps.values())).tolist(), strict=True)
    expected = {batch_type: count for batch_type, count in quotas if count}
    yield from compare("plan", "plan.json: steps of each batch type", expected, dict(found))


def _check_mlm_shares(run: Run, blocks: Counter[tuple[str, str]]) -> Iterator[Finding]:
    """Compare the blocks of each language with its exact share, rounded up or down."""
    rows, total = run["plan"]["language_pairs"], sum(blocks.values())
    weights = [row["tokens"] ** run["config"]["smoothing"] for row in rows]
    for row, weight in zip(rows, weights, strict=True):
        share, found = total * weight / sum(weights), blocks[row["batch_type"], row["language_pair"]]
        reason = f"expected {share:.2f} rounded up or down, found {found}"
        yield expect("plan", f"plan.json: blocks of {row['language_pair']}", abs(found - share) < 1 + ROUNDING, reason)


def _check_identity(run: Run) -> Iterator[Finding]:
    """Compare the identity of a run with its arguments."""
    config, longest = run["config"], run["model"]["max_length"]
    lengths = {"max_query_length": config.get("max_query_length", longest), "max_passage_length": longest}
    expected = {**config, **{name: min(length, longest) for name, length in lengths.items()}}
    expected["data_seed"] = config["seed"] if config["data_seed"] is None else config["data_seed"]
    reason = explain_python_run(run)
    for name, value in run["identity"].items():
        place = f"run.json: identity: {name}"
        if reason and name in lengths:
            yield Finding("plan", UNKNOWN, place, reason)
        else:
            yield from compare("plan", place, expected.get(name, value), value)


def _check_languages(run: Run, names: list[tuple[str, str]]) -> Iterator[Finding]:
    """Check the languages of each pair, and the items of monolingual pairs."""
    items = run["corpus"]["items_per_language"]
    for batch_type, name in names:
        query, _, passage = name.partition("->")
        fits = {"mono": query == passage, "cross": query != passage, "pool": passage == POOL, "mixed": query == POOL}
        holds = fits.get(batch_type, True) and {query, passage or query} <= {*items, POOL}
        reason = f"{batch_type} {name} is not a language pair of the languages {', '.join(items)}"
        yield expect("plan", f"plan.json: language pairs: {name}", holds, reason)
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
        reason = f"the lines begin after step {spans[0][0]}: the run resumed from a checkpoint without a log"
        yield Finding("resources", UNKNOWN, "resources.jsonl, line 1: step", reason)
    for number, (line, (first, end)) in enumerate(zip(files.lines, spans, strict=True), start=1):
        place = f"resources.jsonl, line {number}"
        if not 0 <= first < end:
            yield expect("resources", f"{place}: step", False, f"expected more than the earlier {first}, found {end}")
            continue
        pairs = [plan["language_pairs"][plan["batches"][batch]] for batch in files.batches(first, end)]
        firsts = pairs[:: max(1, len(pairs) // (end - first))]  # a step counts for the pair of its first batch
        pair_names = [POOL] * (end - first) if files.is_mlm else [pair["language_pair"] for pair in firsts]
        all_names = {POOL} if files.is_mlm else {pair["language_pair"] for pair in pairs}
        expected = {
            "batch_type": _get_single({pair["batch_type"] for pair in pairs}),
            "language_pair": _get_single(all_names),
            "per_language_pair: steps": dict(Counter(pair_names)),
            "tokens": sum(share["tokens"] for share in line["per_language"].values()),
        }
        steps = {name: share["steps"] for name, share in line["per_language_pair"].items()}
        found = {**line, "per_language_pair: steps": steps}
        yield from compare("resources", place, expected, {name: found[name] for name in expected})
        below = [
            name for name, value in line.items() if name != "loss" and isinstance(value, int | float) and value < 0
        ]
        yield expect("resources", f"{place}: amounts", not below, f"{', '.join(below)}: below 0")
    sources = {line["energy_source"] for line in files.lines} - {None, config["energy"]}
    reason = f"found {', '.join(map(str, sources))}, but the option says {config['energy']!r}"
    yield expect("resources", "resources.jsonl: energy_source", config["energy"] == "auto" or not sources, reason)
    yield from _check_curve(files)


def _get_single(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _check_curve(files: RunFiles) -> Iterator[Finding]:
    """Check that evaluations during training are in order, and that their costs lie between those of two lines."""
    config, before = files.run["config"], 0
    may_repeat = bool(config.get("eval_on_start"))  # at step 0, and when a run resumes
    ends = [line["step"] for line in files.lines]
    for number, point in enumerate(files.curve, start=1):
        step, place = point["step"], f"curve.jsonl, line {number}"
        least = before if may_repeat else before + 1
        reason = f"expected {least} to {config['max_steps']}, found {step}"
        yield expect("resources", f"{place}: step", least <= step <= config["max_steps"], reason)
        if 0 <= step <= ends[-1]:
            yield from _check_point(place, point, files.lines, bisect_left(ends, step), bisect_right(ends, step))
        before = step


def _check_point(place: str, point: CurveLine, lines: list[ResourceLine], start: int, end: int) -> Iterator[Finding]:
    """Compare the costs of a point with sums of lines: `start` lines end before it, `end` lines not after it."""

    def total(count: int) -> Resources:
        return build_resources(lines[:count] or [empty_line(0)])

    bounds: dict[str, tuple[float, float]] = {
        "train_time_s": (total(end)["train_time_s"], total(start + 1)["train_time_s"]),
        "tokens": (total(end)["tokens"], total(start + 1)["tokens"]),
    }
    most = total(end + 1)["energy_wh"]  # the meter is read at another moment than for the line of this step
    if most is not None:
        bounds["energy_wh"] = (total(start)["energy_wh"] or 0.0, most)
    elif lines[0]["energy_wh"] is None:
        yield from compare("resources", f"{place}: energy_wh", None, point["energy_wh"])
    for name, (low, high) in bounds.items():
        found: float | None = point[name]  # type: ignore[literal-required]
        holds = found is not None and low * (1 - ROUNDING) <= found <= high * (1 + ROUNDING)
        reason = f"expected {low:.12g} to {high:.12g} by resources.jsonl, found {found}"
        yield expect("resources", f"{place}: {name}", holds, reason)


def check_events(files: RunFiles) -> Iterator[Finding]:
    """Compare the event log with the begin and end of the run, and with its scores."""
    run, events = files.run, files.events
    steps = run["config"]["max_steps"]
    starts, checkpoints = ([e for e in events if e["event"] == name] for name in ("start", "checkpoint"))
    begins = bool(events) and events[0]["event"] == "start"
    yield expect("events", f"{EVENTS_NAME}, line 1", begins, "expected the start of a run")
    last = [event for event in events if event["event"] in ("start", "stop")][-1]
    logged = {event["when"]: event["MAP"] for event in events if event["event"] == "evaluation"}
    for place, expected, found in (
        ("run.json: status", "finished", run["status"]),
        (f"{EVENTS_NAME}: last stop", "finished", last.get("reason")),
        *((f"{EVENTS_NAME}: start: max_steps", steps, event["max_steps"]) for event in starts),
        ("run.json: world_size", starts[-1]["world_size"], run["world_size"]),
        *(
            (
                f"{EVENTS_NAME}: evaluation {when}: MAP",
                None if (scores := files.evaluation[when]) is None else round(scores["multilingual"]["MAP"], 4),
                logged.get(when),
            )
            for when in ("before", "after")
        ),
    ):
        yield from compare("events", place, expected, found)
    saved = {event["step"] for event in checkpoints}
    outside = sorted(step for step in saved if not 0 < step <= steps)
    yield expect("events", f"{EVENTS_NAME}: checkpoint: step", not outside, f"expected 1 to {steps}, found {outside}")
    if (step := run["model"].get("step")) is not None:
        possible = {steps} | (saved if run["config"]["load_best_model_at_end"] else set())
        reason = f"expected one of the steps {', '.join(map(str, sorted(possible)))}, found {step}"
        yield expect("events", "run.json: model: step", step in possible, reason)
    lasted, needed = _get_seconds(last) - _get_seconds(events[0]), files.resources["train_time_s"]
    reason = f"{needed:.1f} s do not fit between the first start and the last stop, {lasted:.0f} s"
    yield expect("events", "resources.json: train_time_s", needed <= lasted + 1, reason)  # whole seconds
    yield from _check_last_point(files, at_once=len(starts) == 1)


def _get_seconds(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()  # Python 3.10 does not know Z


def _check_last_point(files: RunFiles, at_once: bool) -> Iterator[Finding]:
    """Compare an evaluation at the last step with the scores after training, unless another checkpoint was taken."""
    config, after = files.run["config"], files.evaluation["after"]
    if after is None or config["load_best_model_at_end"]:
        return
    on_cpu = config["use_cpu"] or not files.run["environment"]["devices"]
    bounds = {} if on_cpu and at_once else {"relative": RELATIVE_TOLERANCE, "absolute": TOLERANCE}  # other processes
    for number, point in enumerate(files.curve, start=1):
        if point["step"] == config["max_steps"]:
            place = f"curve.jsonl, line {number}: measures"
            yield from compare("scores", place, flatten_scores(after), point["measures"], **bounds)


def check_environment(files: RunFiles) -> Iterator[Finding]:
    """Compare the versions of `run.json` with the environment lock."""
    recorded, lock = files.run["environment"], files.text(LOCK_NAME)
    wrong = dict(compare_versions(recorded["versions"], lock))
    for name, found in recorded["versions"].items():
        place = f"run.json: environment: versions: {name}"
        yield expect("environment", place, name not in wrong, f"{LOCK_NAME} has {wrong.get(name)}, found {found}")
    python = re.match(r"# Python ([^,\s]+)", lock)
    yield from compare("environment", "run.json: environment: python", python and python[1], recorded["python"])
