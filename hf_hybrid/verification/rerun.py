"""Compare a run with its repetition: losses and scores are equal bit for bit, or within tolerances.

A run on the CPU repeats bit for bit with the same versions, machine, processor, and numbers of processes and threads.
Elsewhere sums are computed in another order: losses differ in their last digits, and more with each step. The trained
model is equally good. The tolerances are the differences between two such runs, not the gains of a better model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_hybrid.records.schema import SCORE_GROUPS, Run, Scores

from .files import RunFiles, explain_python_run
from .findings import UNKNOWN, Finding, compare

TOLERANCE = 0.01  # of measures between 0 and 1; hybrid batches gain 3 to 5 times as much over monolingual ones
RELATIVE_TOLERANCE = 0.05  # of losses and of the rank distance
_COMPUTE_OPTIONS = ("chunk_tokens", "eval_batch_tokens", "full_determinism")  # they change only the last digits
_MACHINE = ("versions", "python", "platform", "cpu", "cpu_count", "cpu_threads", "devices")
_COUNTS = ("num_steps", "num_pairs", "tokens")
_NOT_COMPARED = "times, rates, memory and energy differ from run to run and are not compared"


def compare_runs(
    path: str | os.PathLike[str],
    rerun: str | os.PathLike[str],
    tolerance: float = TOLERANCE,
    relative_tolerance: float = RELATIVE_TOLERANCE,
) -> list[Finding]:
    """Compare losses line by line, and scores, of a run and its repetition.

    Args:
        path (`str` or `Path`): The run folder or bundle.
        rerun (`str` or `Path`): The run folder of the repetition.
        tolerance (`float`, *optional*, defaults to 0.01): Largest difference of measures between 0 and 1.
        relative_tolerance (`float`, *optional*, defaults to 0.05): Largest relative difference of losses and of the
            rank distance. If `unlike_machines` finds nothing, both are 0.

    Returns:
        `list[Finding]`: Places are those of the repetition.
    """
    first, second = (RunFiles(Path(folder), Path(folder)) for folder in (path, rerun))
    if not unlike_machines(first.run, second.run):
        tolerance = relative_tolerance = 0.0
    return list(_compare(first, second, tolerance, relative_tolerance))


def _compare(first: RunFiles, second: RunFiles, tolerance: float, relative: float) -> Iterator[Finding]:
    yield from compare("rerun", "run.json: identity", first.run["identity"], second.run["identity"], relative=0)
    losses, again = ({line["step"]: line["loss"] for line in run.lines} for run in (first, second))
    yield from compare("rerun", "resources.jsonl: loss of step", losses, again, relative=relative)
    counts, recounted = ({name: dict(run.resources)[name] for name in _COUNTS} for run in (first, second))
    yield from compare("rerun", "resources.json", counts, recounted, relative=0)
    for when in ("before", "after"):
        scores, rescored = (_flatten(run.evaluation[when], tolerance == 0) for run in (first, second))
        for name in dict.fromkeys([*scores, *rescored]):
            bounds = (
                {"relative": relative} if name == "bias: rank_distance" else {"relative": 0, "absolute": tolerance}
            )
            yield from compare("rerun", f"eval.json: {when}: {name}", scores.get(name), rescored.get(name), **bounds)
    yield Finding("rerun", UNKNOWN, "resources.json", _NOT_COMPARED)


def _flatten(scores: Scores | None, exact: bool) -> dict[str, float]:
    """Return scores by name. Language pairs, which have few queries and vary more, only if all must be equal."""
    if scores is None:
        return {}
    groups: dict[str, dict[str, float]] = {name: dict(scores)[name] for name in SCORE_GROUPS}  # type: ignore[misc]
    groups |= {f"pairs: {pair}": found for pair, found in scores["pairs"].items()} if exact else {}
    found = {f"{group}: {name}": value for group, values in groups.items() for name, value in values.items()}
    return {**found, "num_queries": scores["num_queries"]}


def rerun_options(run: Run, like: str | os.PathLike[str], **paths: str | None) -> list[str]:
    """Return options of recipes/train.py that repeat a run.

    Args:
        run (`Run`): Its `run.json`.
        like (`str` or `Path`): The folder of that file.
        **paths (`str`, *optional*): Options that are paths on this machine; `None` keeps the run's own.

    Example:

        >>> run = {"config": {"full_determinism": False, "chunk_tokens": None}, "environment": {"cpu_threads": 2}}
        >>> rerun_options(run, "mine/bundle", output_dir="runs/again", train_corpus=None)
        ['--like', 'mine/bundle', '--output_dir', 'runs/again', '--cpu_threads', '2', '--full_determinism', 'False']
    """
    threads = run["environment"].get("cpu_threads", run["config"].get("cpu_threads"))
    options = {"like": like, **paths, "cpu_threads": threads}
    options |= {name: run["config"].get(name) for name in _COMPUTE_OPTIONS}
    return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


def refuse_rerun(run: Run, output_dir: str | os.PathLike[str]) -> None:
    """Refuse to repeat a run that no recipe started, or in a folder that has a run.

    Args:
        run (`Run`): Its `run.json`.
        output_dir (`str` or `Path`): Folder of the repetition.

    Raises:
        ValueError: With the reason.

    Example:

        >>> refuse_rerun({"config": {"max_steps": 60}}, "runs/rerun")
        Traceback (most recent call last):
        ...
        ValueError: the run was made in Python; run.json lacks train_corpus: only its own program can repeat it.
    """
    if (reason := explain_python_run(run)) is not None:
        raise ValueError(f"{reason}: only its own program can repeat it.")
    if (Path(output_dir) / "run.json").exists():
        raise ValueError(f"--output_dir {output_dir} already holds a run: name a new folder, or delete that one.")


def unlike_machines(first: Run, second: Run) -> list[str]:
    """Return the differences that prevent two runs from being equal bit for bit.

    Example:

        >>> config = {"use_cpu": True, "full_determinism": False}
        >>> config |= {"chunk_tokens": None, "eval_batch_tokens": 16384}
        >>> run = {"world_size": 1, "config": config}
        >>> environment = {"versions": {}, "python": "3.11.7", "platform": "Linux", "cpu": "x86", "cpu_count": 2}
        >>> environment |= {"cpu_threads": 2, "devices": []}
        >>> other = environment | {"cpu_threads": 1}
        >>> unlike_machines({**run, "environment": environment}, {**run, "environment": other})
        ['cpu_threads: 2, 1']
    """
    config, environment = first["config"], first["environment"]
    pairs: dict[str, tuple[Any, Any]] = {"world_size": (first["world_size"], second["world_size"])}
    pairs |= {name: (environment.get(name), second["environment"].get(name)) for name in _MACHINE}
    pairs |= {name: (config[name], second["config"][name]) for name in _COMPUTE_OPTIONS}
    found = [f"{name}: {one}, {other}" for name, (one, other) in pairs.items() if one != other]
    if None in (environment.get("cpu"), environment.get("cpu_threads")):
        found.append("the first run does not name its processor and its number of threads")
    if environment["devices"] and not (config["use_cpu"] or config["full_determinism"]):
        found.append("a GPU sums in any order without --full_determinism true")
    return found
