"""Runs of the recipes as a user starts them, on a small corpus and model in files."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from hf_hybrid.commands import console
from tests.support.toys import toy_corpus, toy_encoder

REPOSITORY = Path(__file__).parents[2]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


def write_jsonl_corpus(folder: Path, **options: Any) -> Path:
    """A folder of `<lang>.jsonl`."""
    corpus = toy_corpus(**options)
    folder.mkdir(parents=True)
    ids = corpus.item_ids.take(range(len(corpus)))
    for column, language in enumerate(corpus.languages):
        with open(folder / f"{language}.jsonl", "w", encoding="utf-8") as file:
            for number, (query, passage) in enumerate(corpus.rows[:, column].tolist()):
                if query >= 0:
                    texts = {"query": corpus.text(0, language, query), "passage": corpus.text(1, language, passage)}
                    negatives = [ids[(number + 7) % len(ids)], ids[(number + 11) % len(ids)]]
                    file.write(json.dumps({"id": ids[number], **texts, "negatives": negatives}) + "\n")
    return folder


def write_model(folder: Path, **options: Any) -> Path:
    """A model without dropout, so that runs on any number of processes can be compared."""
    encoder = toy_encoder(toy_corpus(), **options)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(encoder.config, name, 0.0)
    encoder.save_pretrained(folder)
    return folder


def run_recipe(
    *options: Any,
    script: str = "recipes/train.py",
    launch: list[str] | None = None,
    check: bool = True,
    timeout: float = 300,
) -> subprocess.CompletedProcess:
    """`accelerate launch recipes/train.py OPTIONS`, or another script or launcher."""
    command = [*(launch or [*LAUNCH, "--cpu", "--num_processes", "1"]), str(REPOSITORY / script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "DS_ACCELERATOR": "cpu"}
    found = subprocess.run(
        [*command, *map(str, options)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        cwd=REPOSITORY,
    )
    if check and found.returncode:
        raise AssertionError(
            f"{command} ended with {found.returncode}:\n{found.stdout[-3000:]}\n{found.stderr[-6000:]}"
        )
    return found


class Ended(NamedTuple):
    """How a recipe ended that was run in this process."""

    returncode: int
    stdout: str
    stderr: str


@contextmanager
def recipes_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """`python recipes/NAME.py OPTIONS` without the seconds that a process takes to start: `call(NAME, *OPTIONS)`."""
    logger, threads = logging.getLogger("hf_hybrid"), torch.get_num_threads()
    before = logger.handlers[:], logger.level, logger.propagate

    def call(name: str, *options: Any) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"recipes/{name}.py", *map(str, options)])
        capsys.readouterr()
        code = 0
        try:
            console.main([name, *map(str, options)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Ended(code, *capsys.readouterr())

    yield call
    logger.handlers[:], logger.level, logger.propagate = before
    torch.set_num_threads(threads)


def free_port() -> int:
    """A port of the ones that Slurm jobs take; suites that run side by side begin to look in different places."""
    for offset in range(10_000):
        port = 20_000 + (os.getpid() * 7 + offset) % 10_000
        with socket.socket() as tried:
            if tried.connect_ex(("localhost", port)):
                return port
    raise OSError("all ports from 20000 to 29999 are taken")


def shipped(name: str, *options: str) -> list[str]:
    """The launcher with one of `accelerate_configs/`, and a port that no other test takes."""
    command = [*LAUNCH, "--config_file", str(REPOSITORY / "accelerate_configs" / f"{name}.yaml"), *options]
    if "--main_process_port" not in options and name not in ("cpu", "single_gpu"):
        command += ["--main_process_port", str(free_port())]
    return [*command, str(REPOSITORY / "tests" / "support" / "fsdp_on_cpu.py")] if name == "fsdp2" else command


def losses(folder: Path) -> list[float]:
    """The loss of each logged step of a run folder."""
    return [json.loads(line)["loss"] for line in (folder / "resources.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a run left."""
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")
