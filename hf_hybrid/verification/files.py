"""The files of a run, each read once: `RunFiles`; and `run_check`, which reports files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet

from hf_hybrid.data.sources.load import open_corpora
from hf_hybrid.records.resources import count_steps
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
Check = Callable[[Any], Iterator[Finding]]  # takes `RunFiles` or `StudyFiles`


class Unreadable(ValueError):
    """Raised when a check needs a file that cannot be read. The `schema` check reports the file itself."""


class Given(NamedTuple):
    """Optional inputs for verification.

    Args:
        train_corpus (`str`, *optional*): Folder or preset of the training corpus; by default the built-in corpus if
            the run used it.
        eval_corpus (`str`, *optional*): Folder or preset of the evaluation corpus.
        cache_dir (`str`, *optional*): Folder of built corpora.
    """

    train_corpus: str | None = None
    eval_corpus: str | None = None
    cache_dir: str | None = None


def explain_python_run(run: Run) -> str | None:
    """Say why the inputs of a run are not known if no recipe started it; `None` for a run of a recipe.

    Example:

        >>> explain_python_run({"config": {"max_steps": 60}})
        'the run was made in Python; run.json lacks train_corpus'
    """
    is_by_recipe = "train_corpus" in run["config"]
    return None if is_by_recipe else "the run was made in Python; run.json lacks train_corpus"


class RunFiles:
    """The files of a run, or of its bundle, each read when a check first asks for it.

    Args:
        path (`Path`): The bundle or run folder to read.
        around (`Path`): The run folder or repository around a bundle, with the model; else `path` itself.
        given (`Given`, *optional*): Corpora.
    """

    def __init__(self, path: Path, around: Path, given: Given | None = None) -> None:
        self.path, self.around, self.given = path, around, given or Given()
        self.folder = RunFolder(path)

    @cached_property
    def run(self) -> Run:
        return self._read("run.json", self.folder.read_run)

    @cached_property
    def plan(self) -> Plan:
        return self._read("plan.json", self.folder.read_plan)

    @cached_property
    def resources(self) -> Resources:
        return self._read("resources.json", self.folder.read_resources)

    @cached_property
    def evaluation(self) -> Evaluation:
        return self._read("eval.json", self.folder.read_eval)

    @cached_property
    def lines(self) -> list[ResourceLine]:
        lines = self._read_lines("resources.jsonl", self.folder.read_resource_lines)
        if not lines:
            raise Unreadable("resources.jsonl: it has no line")
        return lines

    @cached_property
    def curve(self) -> list[CurveLine]:
        return self._read_lines("curve.jsonl", self.folder.read_curve)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return self._read(EVENTS_NAME, lambda: read_json_lines(self.path / EVENTS_NAME))

    @cached_property
    def card_options(self) -> CardOptions:
        return self._read("card.json", self.folder.read_card_options)

    @property
    def is_mlm(self) -> bool:
        """Whether the run is masked language modeling: its plan has a number for each block of a batch."""
        return is_mlm(self.run)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """For each line of `resources.jsonl`, its first step, from 0, and the step after its last one."""
        ends = [line["step"] for line in self.lines]
        return list(zip([ends[0] - count_steps(self.lines[0]), *ends], ends, strict=False))

    def batches(self, first: int, end: int) -> range:
        """Return the numbers, in the plan, of the batches of some steps, or of their blocks."""
        config = self.run["config"]
        size = config["gradient_accumulation_steps"] * (config["global_batch_size"] if self.is_mlm else 1)
        return range(first * size, end * size)

    def text(self, name: str) -> str:
        return self._read(name, (self.path / name).read_bytes).decode("utf-8", errors="replace")

    def values(self, when: str) -> pa.Table:
        """Return the scores of single queries `before` or `after` training."""
        name = f"{EVALUATIONS_NAME}/{when}/{PER_QUERY_NAME}"
        return self._read(name, lambda: pyarrow.parquet.read_table(self.path / name))

    def explain_missing_values(self, when: str) -> str | None:
        """Say that the scores of single queries were too large for a bundle; `None` in all other cases."""
        size = self.evaluation.get("values_bytes", {}).get(when, 0)
        exists = (self.path / EVALUATIONS_NAME / when / PER_QUERY_NAME).exists()
        reason = f"the scores of single queries, {size / 2**20:,.0f} MiB, were too large for the bundle"
        return reason if size > MOST_VALUES_BYTES and not exists else None

    @cached_property
    def corpora(self) -> tuple[ParallelCorpus, ParallelCorpus]:
        """The training and the evaluation corpus, built-in or given."""
        if (reason := explain_python_run(self.run)) is not None:
            raise Unreadable(reason)
        config, given = self.run["config"], self.given
        names: dict[str, Any] = {"train_corpus": given.train_corpus, "eval_corpus": given.eval_corpus}
        names |= {option: config[option] for option in names if names[option] is None and config[option] == "sample"}
        if lacking := [name for name, corpus in names.items() if corpus is None and config[name] is not None]:
            needed = ", ".join(repr(config[name]) for name in lacking)
            raise Unreadable(f"the run used {needed}: give {' '.join(f'--{name} FOLDER' for name in lacking)}")
        options = ("corpus_format", "eval_corpus_format", "languages", "eval_languages", "held_out", "on_bad_row")
        try:
            return open_corpora(**names, **{name: config[name] for name in options}, cache_dir=given.cache_dir)
        except (OSError, ImportError, ValueError) as error:
            raise Unreadable(f"the corpus could not be opened ({error})") from error

    def _read_lines(self, name: str, read: Callable[[], tuple[list[Any], int]]) -> list[Any]:
        lines, torn = self._read(name, read)
        if torn:
            raise Unreadable(f"{name}: its last line is torn")
        return lines

    def _read(self, name: str, read: Callable[[], _Read]) -> _Read:
        try:
            return read()
        except (OSError, ValueError, pa.ArrowException) as error:
            is_missing = isinstance(error, FileNotFoundError)
            reason = "it is missing" if is_missing else str(error).removeprefix(str(self.path / name)).lstrip(":, ")
            raise Unreadable(f"{name}: {reason}") from error


def run_check(name: str, check: Check, files: Any) -> Iterator[Finding]:
    """Run a check. A file that cannot be read, or that has another form than expected, is a finding too.

    Example:

        >>> def check(run):
        ...     yield Finding("plan", WRONG, "run.json: seed", f"found {run['seed']}")
        >>> [finding.reason for finding in run_check("plan", check, {"seed": 1})]
        ['found 1']
        >>> [finding.reason for finding in run_check("plan", check, {})]
        ["a file has another form than expected (KeyError: 'seed')"]
    """
    try:
        yield from check(files)
    except Unreadable as error:
        yield Finding(name, UNKNOWN, str(error).partition(":")[0], f"the rest of this check needs it: {error}")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        reason = f"a file has another form than expected ({type(error).__name__}: {error})"
        yield Finding(name, WRONG, f"the files of the check {name}", reason)
