"""The same run, made again: are its losses and scores the same, bit for bit or within tolerances?

With the same versions on the same machine, processor, number of processes and of threads, a run on the CPU is repeated
bit for bit.
Elsewhere sums are made in another order: losses differ in their last digits, and the difference grows with each step.
What is trained is nevertheless as good, and that is what the tolerances are for: a measure may differ by what it
differs by between two such runs, not by what a better model gains.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_hybrid.records.schema import SCORE_GROUPS, Run, Scores

from .files import RunFiles, explain_python_run
from .findings import UNKNOWN, Finding, compare

TOLERANCE = 0.01  # of measures between 0 and 1; hybrid batches gain three to five times as much over monolingual ones
RELATIVE_TOLERANCE = 0.05  # of losses and of the rank distance
# How it was computed: what is trained does not depend on it, but digits do.
_HOW = ("chunk_tokens", "eval_batch_tokens", "full_determinism")
_WHERE = ("versions", "python", "platform", "cpu", "cpu_count", "cpu_threads", "devices")
_COUNTS = ("num_steps", "num_pairs", "tokens")
_LARGE = ("bias: rank_distance",)  # all else lies between -1 and 1, or is a count
_OF_THE_CLOCK = "times, rates, memory and energy are those of a machine and a moment, and not compared"


def compare_runs(
    path: str | os.PathLike[str],
    rerun: str | os.PathLike[str],
    tolerance: float = TOLERANCE,
    relative_tolerance: float = RELATIVE_TOLERANCE,
) -> list[Finding]:
    """Losses line by line, and scores, of a run and of one that was made again.

    Args:
        path (`str` or `Path`): The run folder or bundle.
        rerun (`str` or `Path`): The run folder of the second.
        tolerance (`float`, *optional*, defaults to 0.01): How far measures between 0 and 1 may lie apart.
        relative_tolerance (`float`, *optional*, defaults to 0.05): How far losses and the rank distance may, of the
            larger one. Neither counts where `unlike_machines` finds nothing: then all must be the same.

    Returns:
        `list[Finding]`: Places are those of the second.
    """
    first, second = (RunFiles(Path(folder), Path(folder)) for folder in (path, rerun))
    return list(_compared_runs(first, second, tolerance, relative_tolerance))


def rerun_options(run: Run, like: str | os.PathLike[str], **paths: str | None) -> list[str]:
    """Options of recipes/train.py that make a run again as it was made.

    Args:
        run (`Run`): Its `run.json`.
        like (`str` or `Path`): The folder of that file.
        **paths (`str`, *optional*): What lies elsewhere here: options of recipes/train.py, None for as it was.

    Example:

        >>> run = {"config": {"full_determinism": False, "chunk_tokens": None}, "environment": {"cpu_threads": 2}}
        >>> rerun_options(run, "mine/bundle", output_dir="runs/again", train_corpus=None)
        ['--like', 'mine/bundle', '--output_dir', 'runs/again', '--cpu_threads', '2', '--full_determinism', 'False']
    """
    threads = run["environment"].get("cpu_threads", run["config"].get("cpu_threads"))
    options = {"like": like, **paths, "cpu_threads": threads, **{name: run["config"].get(name) for name in _HOW}}
    return [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]


def refuse_rerun(run: Run, output_dir: str | os.PathLike[str]) -> None:
    """Refuse what a run cannot be made again with.

    Args:
        run (`Run`): Its `run.json`.
        output_dir (`str` or `Path`): Where the second will be.

    Raises:
        ValueError: When no command makes it, or there is a run already, which nothing would be trained beside.

    Example:

        >>> refuse_rerun({"config": {"max_steps": 60}}, "runs/rerun")
        Traceback (most recent call last):
        ...
        ValueError: the run was made in Python; run.json lacks train_corpus: only its own program makes it again.
    """
    if (reason := explain_python_run(run)) is not None:
        raise ValueError(f"{reason}: only its own program makes it again.")
    if (Path(output_dir) / "run.json").exists():
        raise ValueError(f"--output_dir {output_dir} holds a run already: name a new folder, or delete that one.")


def unlike_machines(first: Run, second: Run) -> list[str]:
    """In what two runs differ so that they cannot be the same bit for bit; empty where they can.

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
    pairs: dict[str, tuple[Any, Any]] = {"world_size": (first["world_size"], second["world_size"])}
    for name in _WHERE:
        pairs[name] = first["environment"].get(name), second["environment"].get(name)
    config = first["config"]
    pairs |= {name: (config[name], second["config"][name]) for name in _HOW}
    found = [f"{name}: {one}, {other}" for name, (one, other) in pairs.items() if one != other]
    if None in (first["environment"].get("cpu"), first["environment"].get("cpu_threads")):
        found.append("the first does not say on which processor, with how many threads it ran")
    if first["environment"]["devices"] and not (config["use_cpu"] or config["full_determinism"]):
        found.append("a GPU adds up in any order, without --full_determinism true")
    return found


def _compared_runs(
    first: RunFiles, second: RunFiles, tolerance: float, relative_tolerance: float
) -> Iterator[Finding]:
    yield from compare("rerun", "run.json: identity", first.run["identity"], second.run["identity"], relative=0)
    if not unlike_machines(first.run, second.run):
        tolerance = relative_tolerance = 0.0
    losses, again = ({line["step"]: line["loss"] for line in run.lines} for run in (first, second))
    yield from compare("rerun", "resources.jsonl: loss of step", losses, again, relative=relative_tolerance)
    counts, recounted = ({name: dict(run.resources)[name] for name in _COUNTS} for run in (first, second))
    yield from compare("rerun", "resources.json", counts, recounted, relative=0)
    for when in ("before", "after"):
        scores, rescored = (_flat(run.evaluation[when], tolerance == 0) for run in (first, second))
        for name in dict.fromkeys([*scores, *rescored]):
            is_small = name not in _LARGE
            yield from compare(
                "rerun",
                f"eval.json: {when}: {name}",
                scores.get(name),
                rescored.get(name),
                relative=0 if is_small else relative_tolerance,
                absolute=tolerance if is_small else 0,
            )
    yield Finding("rerun", UNKNOWN, "resources.json", _OF_THE_CLOCK)


def _flat(scores: Scores | None, exact: bool) -> dict[str, float]:
    """Scores by name. Of single pairs, which have fewer queries and scatter more, only where all must be the same."""
    if scores is None:
        return {}
    groups: dict[str, dict[str, float]] = {name: dict(scores)[name] for name in SCORE_GROUPS}  # type: ignore[misc]
    groups |= {f"pairs: {pair}": found for pair, found in scores["pairs"].items()} if exact else {}
    found = {f"{group}: {name}": value for group, values in groups.items() for name, value in values.items()}
    return {**found, "num_queries": scores["num_queries"]}
