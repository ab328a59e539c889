"""Runs that are killed again and again end as one that no one disturbed: `recipes/train.py` under SIGKILL.

    python benchmarks/kill_test.py --json FILE
    python benchmarks/kill_test.py --json FILE --parts kills --processes 1 --kills 4 --max_steps 24

1. *kills*: the recipe trains on the built-in corpus, with dropout, and with checkpoints in the midst of windows of the
   log. One run is left alone, in fresh processes. The same command is then started again and again in another folder,
   and all of its processes get SIGKILL at a random moment: within set-up, evaluation or training, while a checkpoint
   is being written (at least a third of the kills), while the model is. After each kill every checkpoint is compared
   with its manifest. After the last the command runs to its end, in fresh processes, and both folders are compared.
   `equal_*` of a row are bit for bit: the final weights; the loss series, which is each line of the trainer's log and
   of `resources.jsonl`; the scores of `eval.json`; steps, pairs and tokens of `resources.json`, in total, per language
   and per language pair; optimizer, schedule and random state of the last checkpoint; the items and tokens that each
   process got in each step, also in steps that were lost. `steps_done` is how many steps the attempts went through in
   all; `kill_list` has a line for each kill: what it was aimed at, where it fell, the last step before it, and the
   step that this attempt had resumed from.
2. *change*: the same without dropout, begun on 1 process, resumed on 2 and ended on 1. Differences from a run on
   1 are given relative to the losses, and to how far the weights moved (norms over all weights); beside them those of
   an undisturbed run on 2 processes.
3. *passes*: a kill in the second pass over the data on 2 processes, of ours and of `SentenceTransformerTrainer` with
   `NO_DUPLICATES`. `right_batches` of `resumed_batches` have the items of the undisturbed run's; `repeated` and
   `missed` count the rows that training met more than once, or not at all, in the pass of the kill.

Imports take most of a start, so attempts are forked from this process, which has imported everything and computed
nothing: no thread pool of torch, no file and no random state goes into them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import answer_child, device_name, versions, write_row

REPOSITORY = Path(__file__).parent.parent
RECIPE, CONFIG = REPOSITORY / "recipes" / "train.py", "sample/hybrid"
PARTS = ("kills", "change", "passes")
LOGGING_STEPS, SAVE_STEPS, KEPT = 3, 4, 2
SCRATCH = ("--scratch_hidden_size", "32", "--scratch_num_layers", "2", "--scratch_vocab_size", "2000")
SHARE_IN_CHECKPOINT, SHARE_IN_SETUP = 0.4, 0.08  # of the kills, at least
MANY = 25  # kills, of which some may fall outside of training
LINE_KEYS = (
    "step",
    "pairs",
    "tokens",
    "padding_tokens",
    "batch_type",
    "language_pair",
    "loss",
)  # what the clock has no part in
ENDING = ("trained", "evaluating after")  # phases in which a run will soon have finish
TRAINING = ("training", "saving", *ENDING)
READY = {"before": ("evaluating before", *TRAINING), "training": TRAINING, "checkpoint": TRAINING, "model": ENDING}
READY["after"] = LATER_THAN_MODEL = ("evaluating after",)
LATER = {"model": LATER_THAN_MODEL, "after": ("finished",)}
EVALUATION_S = 0.2
LEFT = {  # what a kill in the midst of something leaves
    "checkpoint": r"\.unfinished-checkpoint-",
    "model": r"\.unfinished-model",
    "removal of a checkpoint": r"\.unfinished-\w+-checkpoint-",
    "another file": r"\.unfinished-",
}
TOTALS = ("num_steps", "num_pairs", "tokens", "padding_tokens")
ITEMS_OF_SAMPLE, ROWS, BATCH = 1651, 352, 16  # of passes: all, those trained on, those of a step
BATCHES_A_PASS = -(-ROWS // BATCH)
TIMEOUT_S = 600.0
PACKAGES = ("torch", "transformers", "accelerate", "sentence-transformers", "hf-hybrid")


# A start of the command: a group of processes, one for each rank


@dataclass
class Run:
    """A run folder, and beside it `steps-RANK.jsonl`, what each rank went through, and `log.txt`."""

    place: Path
    options: Sequence[str]
    kind: str = "recipe"
    attempts: int = 0

    @property
    def folder(self) -> Path:
        return self.place / "run"

    def start(self, num_processes: int, fresh: bool = False) -> Attempt:
        self.place.mkdir(parents=True, exist_ok=True)
        self.attempts += 1
        return Attempt(self, num_processes, fresh)

    def finish(self, num_processes: int, fresh: bool = False) -> float:
        """Start it and let it finish; how long that took."""
        attempt = self.start(num_processes, fresh)
        while not attempt.ended():
            time.sleep(0.05)
        return time.monotonic() - attempt.started_at

    def steps(self, rank: int = 0) -> list[dict[str, Any]]:
        path = self.place / f"steps-{rank}.jsonl"
        return read_lines(path) if path.exists() else []


class Attempt:
    """The processes of one start.

    Args:
        run (`Run`): What to start.
        num_processes (`int`): How many ranks.
        fresh (`bool`): Whether each is a new Python, instead of a fork of this one.
    """

    def __init__(self, run: Run, num_processes: int, fresh: bool) -> None:
        self.run, self.number, self.world_size = run, run.attempts, num_processes
        self.started_at, port = time.monotonic(), free_port()
        self.pids: list[int] = []
        for rank in range(num_processes):
            job = {"kind": run.kind, "options": [*run.options, "--output_dir", str(run.folder)], "rank": rank}
            job |= {"steps": str(run.place / f"steps-{rank}.jsonl"), "attempt": self.number}
            group = self.pids[0] if self.pids else 0
            self.pids.append(fork(job, environment(rank, num_processes, port), group, run.place / "log.txt", fresh))
        self.statuses: dict[int, int] = {}

    def ended(self) -> bool:
        """Whether all came to a good end; RuntimeError where one failed."""
        for pid in self.pids:
            if pid not in self.statuses:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.statuses[pid] = os.waitstatus_to_exitcode(status)
        late = time.monotonic() - self.started_at > TIMEOUT_S
        if late or any(self.statuses.values()):
            self.kill()
            log = (self.run.place / "log.txt").read_text(errors="replace")
            raise RuntimeError(
                f"Attempt {self.number} {'hangs' if late else 'failed'}: {self.statuses}\n{log[-4000:]}"
            )
        return len(self.statuses) == self.world_size

    def kill(self) -> bool:
        """SIGKILL for all; whether one was still there to be killed."""
        with suppress(ProcessLookupError):
            os.killpg(self.pids[0], signal.SIGKILL)
        for pid in self.pids:
            if pid not in self.statuses:
                self.statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return self.statuses[self.pids[0]] == -signal.SIGKILL

    def stop_if(self, condition: Callable[[], Any]) -> bool:
        """Have all processes stand still; whether something holds then, else they continue."""
        with suppress(ProcessLookupError):
            os.killpg(self.pids[0], signal.SIGSTOP)
        for pid in self.pids:
            if pid not in self.statuses:
                status = os.waitpid(pid, os.WUNTRACED)[1]
                if not os.WIFSTOPPED(status):
                    self.statuses[pid] = os.waitstatus_to_exitcode(status)
        if condition():
            return True
        with suppress(ProcessLookupError):
            os.killpg(self.pids[0], signal.SIGCONT)
        return False

    def phase(self) -> str:
        """What this attempt last said it does; `setup` before it has said anything."""
        try:
            beat = json.loads((self.run.folder / "heartbeat.json").read_text())
        except FileNotFoundError:
            return "setup"
        return beat["phase"] if beat["pid"] in self.pids else "setup"


def fork(job: dict[str, Any], variables: dict[str, str], group: int, log: Path, fresh: bool) -> int:
    """A process of a group (0: its own) that does a job and ends; its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with suppress(OSError):  # it does so itself; anyone who comes first
            os.setpgid(pid, group)
        return pid
    status = 1
    try:
        with suppress(OSError):
            os.setpgid(0, group)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(variables)
        if fresh:
            os.execv(sys.executable, [sys.executable, __file__, "--child", json.dumps(job)])
        do(job)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)  # nothing of the parent's is to be cleaned up here


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """As a launcher sets it."""
    if world_size == 1:
        return {}
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    return {name: str(value) for name, value in (ranks | place).items()}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# What such a process does


def do(job: dict[str, Any]) -> dict[str, Any]:
    """The work of a child."""
    {"recipe": run_recipe, "model": write_model, "peer": run_peer}[job["kind"]](job)
    return {}


def run_recipe(job: dict[str, Any]) -> None:
    """`python recipes/train.py OPTIONS`, with each step written down."""
    record_steps(step_writer(job))
    sys.argv = [str(RECIPE), *job["options"]]
    runpy.run_path(str(RECIPE), run_name="__main__")


def step_writer(job: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Appends a line; what it has taken stays, whenever the process is killed."""
    file = os.open(job["steps"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(step: dict[str, Any]) -> None:
        content = {"attempt": job["attempt"], "time": time.monotonic(), **step}
        os.write(file, (json.dumps(content) + "\n").encode())

    return write


def record_steps(write: Callable[[dict[str, Any]], None]) -> None:
    """Have `HybridTrainer` write down each batch that it has gone through, as the collator delivered it."""
    from hf_hybrid.data.batches.collator import HybridCollator
    from hf_hybrid.training.trainer import HybridTrainer

    collate, record = HybridCollator.__call__, HybridTrainer.record_batch

    def collate_and_note(self: Any, step: int) -> Any:
        inputs: Any = collate(self, step)
        digest = hashlib.sha256()
        for name, tensor in sorted(inputs["tokens"].items()):
            digest.update(name.encode() + (tensor.numpy().tobytes() if hasattr(tensor, "numpy") else b""))
        batch = self.schedule.batch(step)
        noted = {"language_pair": batch.language_pair.name, "items": batch.item_ids, "tokens": digest.hexdigest()[:16]}
        return {**inputs, "noted": noted}

    def record_and_write(self: Any, inputs: Any, chunks: Any) -> None:
        record(self, inputs, chunks)
        write({"step": self.state.global_step + 1, **inputs["noted"]})

    HybridCollator.__call__, HybridTrainer.record_batch = collate_and_note, record_and_write  # type: ignore[method-assign]


def write_model(job: dict[str, Any]) -> None:
    """A small encoder for the texts of the built-in corpus, without dropout."""
    from transformers import set_seed

    from hf_hybrid import HybridEncoder
    from hf_hybrid.data.sources.sample import build_sample_corpus

    set_seed(0)
    corpus = build_sample_corpus(languages=["en", "de"])
    texts = [text for language in corpus.languages for text in corpus.passages(language).to_pylist()]
    encoder = HybridEncoder.from_scratch(texts, hidden_size=32, num_layers=2, vocab_size=2000)
    encoder.config.hidden_dropout_prob = 0.0
    encoder.save_pretrained(job["options"][-1])


def run_peer(job: dict[str, Any]) -> None:
    """`SentenceTransformerTrainer` over pairs of the built-in corpus, in three epochs; resumes where it can."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers.trainer_utils import get_last_checkpoint

    from hf_hybrid.data.sources.sample import build_sample_corpus

    torch.set_num_threads(1)
    model_name, num_rows, batch_size, output_dir = (job["options"][i] for i in (0, 1, 2, 4))
    corpus, write = build_sample_corpus(languages=["en", "de"]), step_writer(job)
    passages = [corpus.passages(language).to_pylist() for language in corpus.languages]
    rows = [tuple(corpus.rows[item, language, 1] for language in (0, 1)) for item in range(int(num_rows))]
    # Every text is unique by its number, so that the sampler can put any rows together.
    columns = {
        name: [f"{number} {passages[side][row[side]]}" for number, row in enumerate(rows)]
        for side, name in enumerate(("anchor", "positive"))
    }

    class Trainer(SentenceTransformerTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            items = inputs.pop("items").tolist()
            loss = super().training_step(model, inputs, *args, **kwargs)
            write({"step": self.state.global_step + 1, "items": items})
            return loss

    args = SentenceTransformerTrainingArguments(
        output_dir, num_train_epochs=3, per_device_train_batch_size=int(batch_size) // 2, save_steps=SAVE_STEPS,
        batch_sampler="no_duplicates", save_total_limit=KEPT, use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    model = SentenceTransformer(model_name, device="cpu")
    trainer = Trainer(model, args, train_dataset=Dataset.from_dict(columns), loss=MultipleNegativesRankingLoss(model))
    trainer.data_collator = NumberedRows(trainer.data_collator)  # type: ignore[assignment]
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output_dir))


class NumberedRows:
    """The peer's collator, and the numbers that the rows' texts begin with."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collator, name)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        return {**self.collator(rows), "items": torch.tensor([int(row["anchor"].split()[0]) for row in rows])}


# Random moments


class Aim(NamedTuple):
    """`setup`, `before`, `training`, `checkpoint`, `model` or `after`, and how much of it is let pass."""

    word: str
    amount: float


@dataclass
class Killer:
    """Kills attempts at one run until there are enough kills.

    Args:
        run (`Run`): The run.
        max_steps (`int`): Its steps.
        world_sizes (`Sequence[int]`): Processes of each attempt; as many as there shall be kills.
        draw (`random.Random`): Where chance comes from.
        step_s, checkpoint_s (`float`): What a step takes, and at least a checkpoint, in the undisturbed run.
        spread (`float`, *optional*, defaults to 1.0): How unequal the ways between kills are, from 0 to 1.
    """

    run: Run
    max_steps: int
    world_sizes: Sequence[int]
    draw: random.Random
    step_s: float
    checkpoint_s: float
    spread: float = 1.0
    setup_s: float = 3.0
    kills: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def kill_all(self) -> None:
        while len(self.kills) < len(self.world_sizes):
            attempt = self.run.start(self.world_sizes[len(self.kills)])
            aim = self._aim()
            self._await(attempt, aim)
            phase = attempt.phase()
            if not attempt.kill():
                raise RuntimeError(f"The run ended before its kill {len(self.kills) + 1}, aimed at {aim}.")
            self._note(attempt, aim, phase)

    def _aim(self) -> Aim:
        done, wanted = len(self.kills), len(self.world_sizes)
        num_early, num_late = wanted // MANY, 2 * (wanted // MANY)  # in the first evaluation, and after training
        if done < num_early:
            return Aim("before", self.draw.random())
        if done >= wanted - num_late:
            return Aim(("model", "after")[done % 2], self.draw.random())
        newest = max(self._checkpoints(), default=0)
        checkpoints_a_kill = (self.max_steps - newest) / SAVE_STEPS / (wanted - num_late - done + 1)
        amount = self.draw.uniform(1 - self.spread, 1 + self.spread) * checkpoints_a_kill
        if wanted >= MANY and self.draw.random() < SHARE_IN_SETUP:
            return Aim("setup", amount)
        in_checkpoint = sum(kill["moment"] == "checkpoint" for kill in self.kills)
        if in_checkpoint < SHARE_IN_CHECKPOINT * (done + 1) and newest + SAVE_STEPS <= self.max_steps:
            return Aim("checkpoint", amount)
        return Aim("training", amount)

    def _await(self, attempt: Attempt, aim: Aim) -> None:
        """Wait for the moment; it comes at once where the attempt is further than that already."""
        word, part = aim.word, aim.amount % 1
        if word != "setup":
            self._until(attempt, lambda: attempt.phase().startswith(READY[word]))
        if word == "training":
            self.setup_s = time.monotonic() - attempt.started_at
        elif word == "checkpoint":
            self._stop_in_checkpoint(attempt, int(aim.amount) + 1)
            return
        elif word == "model":
            self._until(attempt, lambda: self._unfinished("model") or attempt.phase() != "trained")
        span_s = {
            "setup": part * self.setup_s,
            "training": aim.amount * SAVE_STEPS * self.step_s,
            "model": part * self.checkpoint_s,
        }.get(word, part * EVALUATION_S)
        end, over = time.monotonic() + span_s, LATER.get(word, ENDING)
        self._until(attempt, lambda: time.monotonic() > end or attempt.phase().startswith(over))

    def _stop_in_checkpoint(self, attempt: Attempt, number: int) -> None:
        """Stop it at a random moment of a checkpoint; the next one, where the moment was too late for this one."""
        seen: set[str] = set()

        def one_more() -> bool:
            seen.update(self._unfinished("checkpoint"))
            return len(seen) >= number or attempt.phase().startswith(ENDING)

        while not attempt.ended() and not attempt.phase().startswith(ENDING):
            self._until(attempt, one_more)
            time.sleep(self.draw.random() * self.checkpoint_s)
            if attempt.stop_if(lambda: self._unfinished("checkpoint")):
                return
            number = len(seen) + 1

    def _until(self, attempt: Attempt, condition: Callable[[], Any]) -> None:
        while not condition() and not attempt.ended():
            time.sleep(0.001)

    def _unfinished(self, what: str) -> list[str]:
        return [path.name for path in self.run.folder.glob(f".unfinished-{what}*")]

    def _checkpoints(self) -> list[int]:
        return [int(path.name.split("-")[1]) for path in self.run.folder.glob("checkpoint-*")]

    def _note(self, attempt: Attempt, aim: Aim, phase: str) -> None:
        """What the kill left."""
        from hf_hybrid.training import checkpoints

        moment, left = phase, sorted(path.name for path in self.run.folder.glob(".unfinished-*"))
        if phase not in ("setup", "evaluating before training"):  # what lies there then was left by an earlier kill
            found = [word for word, start in LEFT.items() if any(re.match(start, name) for name in left)]
            moment = found[0] if found else phase.replace("saving", "training")  # before or after it
        done = [line["step"] for line in self.run.steps() if line["attempt"] == attempt.number]
        kill = {"processes": attempt.world_size, "aim": aim.word, "moment": moment, "left": left}
        kill |= {"step": done[-1] if done else None, "from": done[0] - 1 if done else None}
        self.kills.append(kill | {"newest": max(self._checkpoints(), default=0)})
        for path in [*checkpoints.checkpoints(self.run.folder), self.run.folder / "model"]:
            if path.exists() and (damage := checkpoints.find_damage(path)):
                self.damaged.append(f"kill {len(self.kills)}: {path.name}: {damage}")
        print(f"kill {len(self.kills)}: {describe(kill)}", flush=True)

    def row(self) -> dict[str, Any]:
        """What a row says of the kills."""
        moments = Counter(kill["moment"] for kill in self.kills)
        from_steps = {line["attempt"]: line["step"] - 1 for line in reversed(self.run.steps())}
        resumed = [  # an attempt that was killed before its first step says nothing
            (kill["newest"], from_steps[number])
            for number, kill in enumerate(self.kills, start=2)
            if number in from_steps
        ]
        return {
            "kills": len(self.kills),
            "kills_in_checkpoint": moments["checkpoint"],
            "moments": dict(moments),
            "resumes_inside_a_log_window": sum(step % LOGGING_STEPS > 0 for _, step in resumed),
            "always_from_the_newest_checkpoint": all(newest == step for newest, step in resumed),
            "steps_done": len(self.run.steps()),
            "damaged_after_a_kill": self.damaged,
            "kill_list": [describe(kill) for kill in self.kills],
        }


def describe(kill: dict[str, Any]) -> str:
    steps = "no step" if kill["step"] is None else f"from {kill['from']} to {kill['step']}"
    left = f", left {' '.join(kill['left'])}" if kill["left"] else ""
    return f"{kill['processes']}p {kill['aim']}: {kill['moment']}, {steps}{left}"


# What two runs have in common


def compare(run: Run, whole: Run, num_ranks: int) -> dict[str, bool]:
    """What is equal, bit for bit."""
    return {
        "equal_weights": same_bytes(run, whole, "model/model.safetensors"),
        "equal_losses": loss_series(run) == loss_series(whole),
        "equal_scores": scores(run) == scores(whole),
        "equal_totals": totals(run) == totals(whole),
        "equal_states": all(same_bytes(run, whole, name) for name in state_names(whole)),
        "equal_batches": all(same_batches(run.steps(rank), whole.steps(rank)) for rank in range(num_ranks)),
    }


def same_bytes(run: Run, whole: Run, name: str) -> bool:
    return (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def last_checkpoint(run: Run) -> Path:
    from hf_hybrid.training import checkpoints

    return checkpoints.checkpoints(run.folder)[0]


def state_names(run: Run) -> list[str]:
    """The files of the last checkpoint that the clock has no part in, beside the weights."""
    last = last_checkpoint(run)
    found = [path.name for pattern in ("optimizer*", "scheduler*", "rng_state*") for path in last.glob(pattern)]
    return [f"{last.name}/{name}" for name in [*found, "model.safetensors"]]


def loss_series(run: Run) -> list[Any]:
    """Each line of the log of the trainer, and of the resource log."""
    state = json.loads((last_checkpoint(run) / "trainer_state.json").read_text())
    lines = [{key: line[key] for key in LINE_KEYS} for line in read_lines(run.folder / "resources.jsonl")]
    return [*state["log_history"], *lines]


def scores(run: Run) -> Any:
    return json.loads((run.folder / "eval.json").read_text())


def totals(run: Run) -> dict[str, Any]:
    """Of `resources.json`, what the clock has no part in."""
    content = json.loads((run.folder / "resources.json").read_text())
    shares = {
        f"{table} {name}": {key: value for key, value in share.items() if key != "time_s"}
        for table in ("per_language", "per_language_pair")
        for name, share in content[table].items()
    }
    return {key: content[key] for key in TOTALS} | shares


def same_batches(lines: list[dict[str, Any]], whole: list[dict[str, Any]]) -> bool:
    """Whether each step, also when done again, held what it held in the whole run; and no step is missing."""
    expected = {line["step"]: (line["items"], line.get("tokens")) for line in whole}
    found = all(expected[line["step"]] == (line["items"], line.get("tokens")) for line in lines)
    return found and {line["step"] for line in lines} == set(expected)


def leftovers(run: Run) -> list[str]:
    """What should not be in a finished run folder."""
    from hf_hybrid.training import checkpoints

    found = checkpoints.checkpoints(run.folder)
    wrong = [path.name for path in run.folder.glob(".unfinished-*")]
    wrong += [f"{path.name}: {damage}" for path in found if (damage := checkpoints.find_damage(path))]
    return wrong + ([f"{len(found)} checkpoints"] if len(found) > KEPT else [])


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# The parts


def recipe_options(place: Path, max_steps: int, *further: str) -> list[str]:
    """Of a small run of the recipe."""
    numbers = {"max_steps": max_steps, "save_steps": SAVE_STEPS, "logging_steps": LOGGING_STEPS, "cpu_threads": 1}
    numbers |= {"global_batch_size": BATCH, "max_eval_queries": 20, "save_total_limit": KEPT}
    words = {"energy": "none", "use_cpu": "true", "report_to": "none", "disable_tqdm": "true", "languages": "en,de,ja"}
    options = [word for name, value in (numbers | words).items() for word in (f"--{name}", str(value))]
    return ["--config", str(CONFIG), *options, "--cache_dir", str(place / "cache"), *further]


def killer(run: Run, whole: Run, max_steps: int, world_sizes: Sequence[int], draw: random.Random) -> Killer:
    """One that knows how long things take, from the undisturbed run."""
    times = [line["time"] for line in whole.steps()]
    events = read_lines(whole.folder / "events.jsonl")
    checkpoint_s = float(np.median([line["seconds"] for line in events if line["event"] == "checkpoint"])) / 2
    return Killer(run, max_steps, world_sizes, draw, (times[-1] - times[0]) / (len(times) - 1), checkpoint_s)


def kills_row(place: Path, processes: int, cli: argparse.Namespace, draw: random.Random) -> dict[str, Any]:
    """A run killed again and again on a number of processes, and one left alone."""
    start, options = time.monotonic(), recipe_options(place, cli.max_steps, *SCRATCH)
    whole, run = Run(place / f"whole-{processes}", options), Run(place / f"killed-{processes}", options)
    whole_s = whole.finish(processes, fresh=not cli.forked)
    killing = killer(run, whole, cli.max_steps, [processes] * cli.kills, draw)
    killing.kill_all()
    run.finish(processes, fresh=not cli.forked)
    dropout = json.loads((run.folder / "model" / "config.json").read_text())["hidden_dropout_prob"]
    row = {"part": "kills", "processes": str(processes), "dropout": dropout, "max_steps": cli.max_steps}
    row |= compare(run, whole, processes) | {"leftovers": leftovers(run)} | killing.row()
    return row | {"undisturbed_s": round(whole_s, 1), "wall_s": round(time.monotonic() - start, 1)}


def change_row(place: Path, cli: argparse.Namespace, draw: random.Random) -> dict[str, Any]:
    """A run that goes from 1 process to 2 and back, one left alone on 1 and one on 2."""
    start, model = time.monotonic(), Run(place / "model", [], kind="model")
    model.finish(1)
    options = recipe_options(place, cli.change_steps, "--model_name_or_path", str(model.folder))
    one, two, run = (Run(place / name, options) for name in ("one", "two", "changed"))
    one.finish(1)
    two.finish(2)
    killing = killer(run, two, cli.change_steps, [1, 1, 2, 2, 2, 1], draw)
    killing.spread = 0.3  # each number of processes shall come some way
    killing.kill_all()
    run.finish(1)
    last_by = {line["step"]: line["attempt"] for line in run.steps()}  # a step counts as it was last done
    sizes = [*killing.world_sizes, 1]
    kept = Counter(sizes[attempt - 1] for attempt in last_by.values())
    row = {"part": "change", "processes": "1,2,1", "dropout": 0.0, "max_steps": cli.change_steps}
    row |= {"kept_steps_by_processes": {str(size): count for size, count in sorted(kept.items())}}
    row |= differences(run, one, model) | {"undisturbed_on_2": differences(two, one, model)}
    return row | {"leftovers": leftovers(run), **killing.row(), "wall_s": round(time.monotonic() - start, 1)}


def differences(run: Run, one: Run, model: Run) -> dict[str, float]:
    """How far two runs from one model are from each other."""
    from safetensors.numpy import load_file

    first, here, there = (
        load_file(path / "model.safetensors") for path in (model.folder, run.folder / "model", one.folder / "model")
    )
    moved, apart = (
        np.concatenate([(a[name] - b[name]).ravel() for name in a]) for a, b in ((there, first), (here, there))
    )
    losses = [np.array([line["loss"] for line in read_lines(each.folder / "resources.jsonl")]) for each in (run, one)]
    return {
        "weights_relative": float(np.linalg.norm(apart) / np.linalg.norm(moved)),
        "weights_relative_largest": float(np.abs(apart).max() / np.abs(moved).max()),
        "losses_relative_largest": float(np.abs(losses[0] / losses[1] - 1).max()),
    }


def passes_row(place: Path, side: str, draw: random.Random) -> dict[str, Any]:
    """A kill in the second pass over the data, of `ours` or of the `peer`."""
    start, model = time.monotonic(), Run(place / "model", [], kind="model")
    if not model.folder.exists():
        model.finish(1)
    if side == "ours":  # a pass over each of two language pairs
        cross = ("--languages", "en,de", "--held_out", str(ITEMS_OF_SAMPLE - ROWS), "--mix", "cross=1")
        kind, steps_a_pass = "recipe", 2 * BATCHES_A_PASS
        options = [*recipe_options(place, 3 * steps_a_pass, *cross), "--model_name_or_path", str(model.folder)]
    else:
        kind, steps_a_pass, options = "peer", BATCHES_A_PASS, [str(model.folder), str(ROWS), str(BATCH)]
    whole, run = (Run(place / f"passes-{side}-{name}", options, kind) for name in ("whole", "killed"))
    whole.finish(2)
    # Two steps after a checkpoint, in the second pass.
    killed_at = SAVE_STEPS * round(steps_a_pass * draw.uniform(1.25, 1.5) / SAVE_STEPS) + 2
    attempt = run.start(2)
    while not any(line["step"] >= killed_at for line in run.steps()):
        if attempt.ended():
            raise RuntimeError(f"{side}: it ended before the kill.")
        time.sleep(0.002)
    attempt.kill()
    run.finish(2)
    row = {"part": "passes", "side": side, "processes": "2", "killed_after_step": killed_at}
    return row | pass_facts(run, whole) | {"wall_s": round(time.monotonic() - start, 1)}


def pass_facts(run: Run, whole: Run) -> dict[str, Any]:
    """What the steps after a resume held, and what the passes in which it was held in all."""
    kept, expected, passes = kept_items(run), kept_items(whole), steps_by_pass(whole)
    first = min(line["step"] for line in run.steps() if line["attempt"] == 2)
    cut = {key: steps for key, steps in passes.items() if steps[0] < first <= steps[-1]}
    here = [step for steps in cut.values() for step in steps if step >= first]
    later = [step for step in expected if step >= first and step not in here]
    return {
        "resumed_after_step": first - 1,
        "passes": sorted({number for _, number in cut}),
        "resumed_batches": len(here),
        "right_batches": sum(kept[step] == expected[step] for step in here),
        "batches_of_later_passes": len(later),
        "right_batches_of_later_passes": sum(kept[step] == expected[step] for step in later),
        "rows": sum(len(items_of(expected, steps)) for steps in cut.values()),
        "undisturbed": repeated_and_missed(expected, expected, cut),
        **repeated_and_missed(kept, expected, cut),
    }


def repeated_and_missed(
    kept: dict[int, list[Any]], expected: dict[int, list[Any]], passes: dict[tuple[str, int], list[int]]
) -> dict[str, int]:
    """Rows that were trained on again in the same pass, and rows that it should have met."""
    counts = [(items_of(kept, steps), items_of(expected, steps)) for steps in passes.values()]
    return {
        "repeated": sum(found.total() - len(found) for found, _ in counts),
        "missed": sum(len(wanted.keys() - found.keys()) for found, wanted in counts),
    }


def items_of(kept: dict[int, list[Any]], steps: Sequence[int]) -> Counter[Any]:
    return Counter(item for step in steps for items in kept[step] for item in items)


def steps_by_pass(run: Run) -> dict[tuple[str, int], list[int]]:
    """The steps of each pass over a language pair; the peer has one language pair."""
    visits: Counter[str] = Counter()
    passes: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for line in run.steps():
        language_pair = line.get("language_pair", "")
        passes[language_pair, visits[language_pair] // BATCHES_A_PASS + 1].append(line["step"])
        visits[language_pair] += 1
    return dict(passes)


def kept_items(run: Run) -> dict[int, list[Any]]:
    """The items of each step, as it was last done: ours writes those of the global batch, the peer each rank's."""
    num_ranks = 1 if run.kind == "recipe" else 2
    ranks = [{line["step"]: line["items"] for line in run.steps(rank)} for rank in range(num_ranks)]
    return {step: [rank[step] for rank in ranks] for step in sorted(ranks[0])}


def rows(place: Path, cli: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Those of the parts that were asked for."""
    draw = random.Random(cli.seed)
    if "kills" in cli.parts:
        for processes in cli.processes.split(","):
            yield kills_row(place, int(processes), cli, draw)
    if "change" in cli.parts:
        yield change_row(place, cli, draw)
    if "passes" in cli.parts:
        for side in ("ours", "peer"):
            yield passes_row(place, side, draw)


def main() -> None:
    if answer_child(do):
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the file of results; rows of other runs stay")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of kills, change, passes")
    parser.add_argument("--kills", type=int, default=50, help="for each number of processes")
    parser.add_argument("--processes", default="1,2", help="numbers of processes of the kills")
    parser.add_argument("--max_steps", type=int, default=240, help="of the run that is killed")
    parser.add_argument("--change_steps", type=int, default=60, help="of the run whose number of processes changes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; how fast the machine is counts too")
    parser.add_argument("--forked", action="store_true", help="no start is a new Python: faster, proves less")
    cli = parser.parse_args()
    preload()
    about = {"device": device_name("cpu", 1), "versions": versions(PACKAGES), "seed": cli.seed}
    with tempfile.TemporaryDirectory(prefix="kill-test-") as place:
        for row in rows(Path(place), cli):
            write_row(cli.json, row | about, ["part", "processes", "side"])
            print(json.dumps({key: value for key, value in row.items() if key != "kill_list"}), flush=True)


def preload() -> None:
    """Import what the children need, and compute nothing."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}

    assert threading.active_count() == 1, "A fork has the thread alone that forked."


if __name__ == "__main__":
    main()
