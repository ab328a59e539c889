"""Several machines, with launchers on this one in their place; processes that die; batches with too few items.

Each run is the recipe that users run, over gloo, with a shipped configuration or the shipped Slurm script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.recipe_runs import LAUNCH, REPOSITORY, free_port, losses, run_recipe, shipped
from tests.training import test_distributed
from tests.training.test_distributed import assert_same_run, strategy_of_run

pytestmark = pytest.mark.distributed
CONFIGS = REPOSITORY / "accelerate_configs"
TIMEOUT_S = 300  # of a run; one that waits for another process for ever fails here
PATIENCE_S = 60  # within which a launcher must notice that a process died
inputs = test_distributed.inputs
one_process = test_distributed.one_process

# Says over which grid of processes weights are spread, then runs the script that is named next.
SAY_MESH = """
import runpy, sys
import torch.distributed.fsdp as fsdp
fully_shard = fsdp.fully_shard
def saying(module, **options):
    print(options["mesh"], flush=True)
    return fully_shard(module, **options)
fsdp.fully_shard = saying
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SCONTROL = """#!/bin/bash
[[ $* == "show hostnames node[1-2]" ]] && printf 'localhost\\nnode2\\n'
"""
# Runs the command on each machine, the second first, and ends all when one fails; not with SIGTERM, which bash forgets
# where it comes just before an exec.
SRUN = """#!/bin/bash
[[ $1 == --kill-on-bad-exit=1 && $2 == --cpus-per-task=3 ]] || exit 64
shift 2
for machine in 1 0; do SLURM_NODEID=$machine "$@" & done
wait -n && wait -n || { kill -KILL $(jobs -p); exit 1; }
"""
SLURM = {"JOB_NODELIST": "node[1-2]", "NNODES": "2", "GPUS_ON_NODE": "1", "CPUS_PER_TASK": "3"}


def on_two_machines(name: str, num_processes: int, *options: str, script: Sequence[Path] = ()) -> list[list[str]]:
    """The launchers of two machines that share `num_processes`; the second stands first, so that it has to wait."""
    meeting = ["--main_process_ip", "localhost", "--main_process_port", str(free_port())]
    command = shipped(name, "--num_processes", str(num_processes), *meeting, *options)
    return [[*command, "--machine_rank", machine, *map(str, script)] for machine in ("1", "0")]


def run_together(launchers: list[list[str]], options: Sequence[list[object]]) -> list[str]:
    """Run the recipe with all launchers at once, each with its options; what they printed."""
    with ThreadPoolExecutor(len(launchers)) as pool:
        runs = [
            pool.submit(run_recipe, *words, launch=launcher, timeout=TIMEOUT_S)
            for launcher, words in zip(launchers, options, strict=True)
        ]
    return [run.result().stdout for run in runs]


def test_two_machines_without_a_common_disk_equal_one_process(
    inputs: list[object], one_process: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "second", tmp_path / "first"]
    options = [[*inputs, "--cache_dir", folder / "cache", "--output_dir", folder / "run"] for folder in folders]
    run_together(on_two_machines("ddp_multi_node", 2), options)
    assert strategy_of_run(tmp_path / "first" / "run") == ("MULTI_CPU", None, 2)
    assert_same_run(tmp_path / "first" / "run", one_process)
    assert list((tmp_path / "second").glob("run/*")) == []


@pytest.mark.slow
def test_two_machines_with_deepspeed_equal_one_process(
    inputs: list[object], one_process: Path, tmp_path: Path
) -> None:
    options = [*inputs, "--output_dir", tmp_path, "--ddp_backend", "gloo"]
    run_together(on_two_machines("deepspeed_zero1_multi_node", 2), [options] * 2)
    assert strategy_of_run(tmp_path) == ("DEEPSPEED", 1, 2)
    assert_same_run(tmp_path, one_process)


@pytest.mark.slow
def test_two_machines_that_each_spread_a_copy_of_the_weights_equal_one_process(
    inputs: list[object], one_process: Path, tmp_path: Path
) -> None:
    say_mesh = tmp_path / "say_mesh.py"
    say_mesh.write_text(SAY_MESH)
    script = (say_mesh, REPOSITORY / "tests" / "support" / "fsdp_on_cpu.py")
    launchers = on_two_machines("fsdp2_multi_node", 4, "--parallelism_config_dp_shard_size", "2", script=script)
    printed = run_together(launchers, [[*inputs, "--output_dir", tmp_path]] * 2)
    assert all("DeviceMesh((dp_replicate=2, dp_shard_cp=2)" in text for text in printed)
    assert strategy_of_run(tmp_path) == ("FSDP", 2, 4)
    assert_same_run(tmp_path, one_process)


def run_slurm_script(folder: Path, *options: object, **stubs: str) -> subprocess.CompletedProcess:
    """`sbatch slurm.sbatch OPTIONS` on two machines with a GPU each, as the script sees it."""
    for name, text in {"scontrol": SCONTROL, "srun": SRUN, **stubs}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        **os.environ,
        **{f"SLURM_{name}": value for name, value in SLURM.items()},
        "SLURM_JOB_ID": str(free_port()),
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", str(CONFIGS / "slurm.sbatch"), *map(str, options)]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_the_slurm_script_starts_a_launcher_on_each_machine(
    inputs: list[object], one_process: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder with spaces"
    found = run_slurm_script(tmp_path, *inputs, "--output_dir", folder)
    assert found.returncode == 0, found.stderr[-5000:]
    assert strategy_of_run(folder) == ("MULTI_CPU", None, 2)
    assert_same_run(folder, one_process)


@pytest.mark.parametrize("failing", ["0", "1"])
def test_the_slurm_script_fails_with_any_of_its_machines(failing: str, tmp_path: Path) -> None:
    accelerate = f"""#!/bin/bash
    [[ $* == *"--machine_rank {failing} "* ]] && echo "machine {failing} fails" && exit 1
    exec sleep {TIMEOUT_S + 1}
    """
    found = run_slurm_script(tmp_path, "--output_dir", tmp_path, accelerate=accelerate)
    assert (found.returncode, found.stdout) == (1, f"machine {failing} fails\n")


@pytest.fixture(scope="module")
def three_items(inputs: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of batches of at most three items."""
    folder = tmp_path_factory.mktemp("three")
    run_recipe(*inputs, "--global_batch_size", 3, "--output_dir", folder)
    assert all(0 < step["pairs"] <= 3 for step in steps(folder))
    assert len(set(losses(folder))) == test_distributed.STEPS
    return folder


def steps(folder: Path) -> list[dict[str, Any]]:
    """The steps that a run has logged so far."""
    file = folder / "resources.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2", "deepspeed_zero3"])
def test_batches_with_fewer_items_than_processes_equal_one_process(
    name: str, inputs: list[object], three_items: Path, tmp_path: Path
) -> None:
    launch = shipped(name, "--num_processes", "4")
    run_recipe(*inputs, "--global_batch_size", 3, "--output_dir", tmp_path, launch=launch, timeout=TIMEOUT_S)
    assert strategy_of_run(tmp_path)[2] == 4
    assert_same_run(tmp_path, three_items)


def wait_until(condition: Callable[[], bool]) -> None:
    """Look every tenth of a second."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"nothing for {TIMEOUT_S} s"
        time.sleep(0.1)


def ranks() -> dict[str, psutil.Process]:
    """The training processes that this one's launchers started, by rank."""
    launchers = [child for child in psutil.Process().children() if LAUNCH[-1] in child.cmdline()]
    return {child.environ()["RANK"]: child for launcher in launchers for child in launcher.children()}


@pytest.mark.parametrize("machines", [1, 2])
def test_a_process_that_dies_ends_the_run(machines: int, inputs: list[object], tmp_path: Path) -> None:
    one_machine = [shipped("ddp", "--main_process_port", str(free_port()))]
    launchers = one_machine if machines == 1 else on_two_machines("ddp_multi_node", 2)
    options = [*inputs, "--max_steps", 20_000, "--output_dir", tmp_path]
    with ThreadPoolExecutor(len(launchers)) as pool:
        runs = [
            pool.submit(run_recipe, *options, launch=launcher, check=False, timeout=TIMEOUT_S)
            for launcher in launchers
        ]
        wait_until(lambda: len(steps(tmp_path)) > 3)
        started = ranks()
        assert sorted(started) == ["0", "1"]
        try:
            started["1"].kill()
            assert 0 not in [run.result(PATIENCE_S).returncode for run in runs]
            assert [process for process in started.values() if process.is_running()] == []
        finally:
            for process in started.values():
                if process.is_running():
                    process.kill()
    assert json.loads((tmp_path / "run.json").read_text())["status"] in ("running", "failed")
    assert len(steps(tmp_path)) < 20_000
