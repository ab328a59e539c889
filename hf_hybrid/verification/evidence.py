"""The files of a run or of its bundle, each read when a check first asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet

from hf_hybrid.data.sources.load import open_corpora
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import (
    EVALUATIONS_NAME,
    EVENTS_NAME,
    MOST_VALUES_BYTES,
    PER_QUERY_NAME,
    CardOptions,
    CurveLine,
    Evaluation,
    Plan,
    ResourceLine,
    Resources,
    Run,
    is_mlm,
)
from hf_hybrid.utils.strict_json import read_json_lines

from .findings import UNKNOWN, WRONG, Finding

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

_Read = TypeVar("_Read")
Check = Callable[[Any], Iterator[Finding]]  # takes the evidence of its type of folder


class Unreadable(ValueError):
    """A file that a check needs cannot be read; that it should be there and readable is a check of its own."""


class Given(NamedTuple):
    """Optional inputs for verification.

    Args:
        train_corpus (`str`, *optional*): Folder or preset that the run was trained on, under its own name by default
            where that is built in.
        eval_corpus (`str`, *optional*): Likewise what it was evaluated on.
        cache_dir (`str`, *optional*): Where built corpora are kept.
    """

    train_corpus: str | None = None
    eval_corpus: str | None = None
    cache_dir: str | None = None


def explain_python_run(run: Run) -> str | None:
    """Why some figures of a run cannot be told, where no recipe made it and so no arguments say on what; else None.

    Example:

        >>> explain_python_run({"config": {"train_corpus": "sample"}}) is None
        True
        >>> explain_python_run({"config": {"max_steps": 60}})
        'the run was made in Python; run.json lacks train_corpus'
    """
    by_recipe = "train_corpus" in run["config"]
    return None if by_recipe else "the run was made in Python; run.json lacks train_corpus"


class Evidence:
    """The files of one run.

    Args:
        path (`Path`): The bundle, or else the run folder, whose files are read.
        around (`Path`): The run folder or repository that it lies in, where the model is; `path` itself for a bundle
            that lies alone.
        given (`Given`, *optional*): What else is at hand.
    """

    def __init__(self, path: Path, around: Path, given: Given | None = None) -> None:
        self.path, self.around, self.given = path, around, given or Given()
        self.folder = RunFolder(path)

    @cached_property
    def run(self) -> Run:
        """`run.json`."""
        return self._read("run.json", self.folder.read_run)

    @cached_property
    def plan(self) -> Plan:
        """`plan.json`."""
        return self._read("plan.json", self.folder.read_plan)

    @cached_property
    def resources(self) -> Resources:
        """`resources.json`."""
        return self._read("resources.json", self.folder.read_resources)

    @cached_property
    def evaluation(self) -> Evaluation:
        """`eval.json`."""
        return self._read("eval.json", self.folder.read_eval)

    @cached_property
    def lines(self) -> list[ResourceLine]:
        """`resources.jsonl`, none of them torn."""
        lines, torn = self._read("resources.jsonl", self.folder.read_resource_lines)
        if torn or not lines:
            raise Unreadable("resources.jsonl: " + ("its last line is torn" if torn else "it has no line"))
        return lines

    @cached_property
    def curve(self) -> list[CurveLine]:
        """`curve.jsonl`, none of its lines torn; empty where nothing was evaluated on the way."""
        lines, torn = self._read("curve.jsonl", self.folder.read_curve)
        if torn:
            raise Unreadable("curve.jsonl: its last line is torn")
        return lines

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First step, from 0, and the one after the last, of each line; a log may begin late, as after a resume."""
        ends = [line["step"] for line in self.lines]
        return list(zip([ends[-1] - self.resources["num_steps"], *ends], ends, strict=False))

    @property
    def is_mlm(self) -> bool:
        """Whether it was masked language modeling, whose plan has a number for each block of a batch."""
        return is_mlm(self.run)

    def batches(self, first: int, end: int) -> range:
        """Numbers, in the plan, of the batches of some steps, or of their blocks."""
        config = self.run["config"]
        size = config["gradient_accumulation_steps"] * (config["global_batch_size"] if self.is_mlm else 1)
        return range(first * size, end * size)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """`events.jsonl`."""
        return self._read(EVENTS_NAME, lambda: read_json_lines(self.path / EVENTS_NAME))

    @cached_property
    def card_options(self) -> CardOptions:
        """`card.json`, nothing where there is none."""
        return self._read("card.json", self.folder.read_card_options)

    def text(self, name: str) -> str:
        """A file of text."""
        return self._read(name, (self.path / name).read_bytes).decode("utf-8", errors="replace")

    def values(self, when: str) -> pa.Table:
        """Values of single queries `before` or `after` training."""
        name = f"{EVALUATIONS_NAME}/{when}/{PER_QUERY_NAME}"
        return self._read(name, lambda: pyarrow.parquet.read_table(self.path / name))

    def left_out(self, when: str) -> str | None:
        """Why the values of `before` or `after` training may be missing: they were too large; None for any other."""
        size = self.evaluation.get("values_bytes", {}).get(when, 0)
        there = (self.path / EVALUATIONS_NAME / when / PER_QUERY_NAME).exists()
        told = f"the values of single queries, {size / 2**20:,.0f} MiB, were too large for the bundle"
        return told if size > MOST_VALUES_BYTES and not there else None

    @cached_property
    def corpora(self) -> tuple[ParallelCorpus, ParallelCorpus]:
        """The training and the evaluation corpus.

        Raises:
            Unreadable: Where they are not built in and nobody gave them, cannot be opened, or are not named.
        """
        if (reason := explain_python_run(self.run)) is not None:
            raise Unreadable(reason)
        config, given = self.run["config"], self.given
        names: dict[str, Any] = {"train_corpus": given.train_corpus, "eval_corpus": given.eval_corpus}
        names |= {side: config[side] for side, name in names.items() if name is None and config[side] == "sample"}
        if lacking := [side for side, name in names.items() if name is None and config[side] is not None]:
            made = ", ".join(repr(config[side]) for side in lacking)
            raise Unreadable(f"it was made with {made}: give {' '.join(f'--{side} FOLDER' for side in lacking)}")
        options = ("corpus_format", "eval_corpus_format", "languages", "eval_languages", "held_out", "on_bad_row")
        try:
            return open_corpora(**names, **{name: config[name] for name in options}, cache_dir=given.cache_dir)
        except (OSError, ImportError, ValueError) as error:
            raise Unreadable(f"the corpus could not be opened ({error})") from error

    def _read(self, name: str, read: Callable[[], _Read]) -> _Read:
        try:
            return read()
        except (OSError, ValueError, pa.ArrowException) as error:
            missing = isinstance(error, FileNotFoundError)
            told = "it is missing" if missing else str(error).removeprefix(str(self.path / name)).lstrip(":, ")
            raise Unreadable(f"{name}: {told}") from error


def run_check(name: str, check: Check, evidence: Any) -> Iterator[Finding]:
    """What a check finds; where a file's content has not the form that it must have, that is a finding too.

    Args:
        name (`str`): Of the check.
        check (`Callable`): The check.
        evidence (`Evidence`): What it looks at.

    Example:

        >>> def check(run):
        ...     yield Finding("plan", WRONG, "run.json: seed", f"found {run['seed']}")
        >>> [finding.told for finding in run_check("plan", check, {"seed": 1})]
        ['found 1']
        >>> [finding.told for finding in run_check("plan", check, {})]
        ["what they say has not the form that it must have (KeyError: 'seed')"]
    """
    try:
        yield from check(evidence)
    except Unreadable as error:
        yield Finding(name, UNKNOWN, str(error).partition(":")[0], f"the rest of this check needs it: {error}")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        told = f"what they say has not the form that it must have ({type(error).__name__}: {error})"
        yield Finding(name, WRONG, f"the files that {name} is checked by", told)
