"""The shipped files are what accelerate reads, each key is explained, and what the README says of them is so."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env

FOLDER = Path(__file__).parents[1] / "accelerate_configs"
EXPECTED = {
    "cpu": (DistributedType.NO, 1),
    "single_gpu": (DistributedType.NO, 1),
    "ddp": (DistributedType.MULTI_GPU, 2),
    "fsdp2": (DistributedType.FSDP, 2),
    "deepspeed_zero1": (DistributedType.DEEPSPEED, 2),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, 2),
    "deepspeed_zero3": (DistributedType.DEEPSPEED, 2),
    "ddp_multi_node": (DistributedType.MULTI_GPU, 16),
    "fsdp2_multi_node": (DistributedType.FSDP, 16),
    "deepspeed_zero1_multi_node": (DistributedType.DEEPSPEED, 16),
}
SEVERAL_MACHINES = [name for name in EXPECTED if name.endswith("_multi_node")]

# Programs that the README's commands call. Each launcher only notes what it was asked for.
PROGRAMS = {
    "accelerate": 'echo "$*" >> "$NOTES"',
    "torchrun": "[[ $1 == --nproc_per_node && -f $3 ]]",
    "ssh": '[[ $1 == -n ]] && bash -c "$3"',
    "sbatch": """
        given() { sed -n "s/^#SBATCH --$1=//p" accelerate_configs/slurm.sbatch; }
        export SLURM_NNODES=$(given nodes) SLURM_GPUS_ON_NODE=$(given gpus-per-node)
        export SLURM_JOB_ID=4321 SLURM_JOB_NODELIST=all SLURM_CPUS_PER_TASK=$(given cpus-per-task)
        while [[ $1 == --* ]]; do
            case $1 in --nodes) SLURM_NNODES=$2;; --gpus-per-node) SLURM_GPUS_ON_NODE=$2;; *) exit 64;; esac
            shift 2
        done
        bash "$@"
    """,
    "scontrol": "seq -f node%g $SLURM_NNODES",
    "srun": """
        shift 2
        for ((machine = 0; machine < SLURM_NNODES; machine++)); do SLURM_NODEID=$machine "$@"; done
    """,
}


def load(name: str) -> ClusterConfig:
    return load_config_from_file(str(FOLDER / f"{name}.yaml"))


def test_the_folder_holds_these_files_and_its_readme_names_them() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(EXPECTED)
    rows = re.findall(r"^\| `([\w.]+)` \|", readme().split("```")[0], flags=re.MULTILINE)
    assert sorted(rows) == sorted(path.name for path in FOLDER.iterdir() if path.name != "README.md")


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_each_file(name: str) -> None:
    config = load(name)
    assert (config.distributed_type, config.num_processes) == EXPECTED[name]
    assert config.use_cpu == (name == "cpu")
    assert config.mixed_precision is None  # a training argument: DeepSpeed refuses it in both places


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("deepspeed")])
def test_a_deepspeed_file_has_the_stage_of_its_name(name: str) -> None:
    assert f"deepspeed_zero{load(name).deepspeed_config['zero_stage']}" == name.removesuffix("_multi_node")


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2_multi_node"])
def test_fsdp_is_version_2_and_saves_whole_weights(name: str) -> None:
    config = load(name).fsdp_config
    assert config == load("fsdp2").fsdp_config
    assert config["fsdp_version"] == 2
    assert config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


@pytest.mark.parametrize("name", SEVERAL_MACHINES)
def test_a_file_for_several_machines_leaves_to_the_command_line_what_differs_between_them(name: str) -> None:
    keys = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert keys["num_machines"] == 2
    assert {"machine_rank", "main_process_ip", "main_process_port"}.isdisjoint(keys)


def test_weights_are_spread_over_all_gpus_of_a_machine() -> None:
    config = load("fsdp2_multi_node")
    machines, gpus = (
        config.parallelism_config[f"parallelism_config_dp_{part}_size"] for part in ("replicate", "shard")
    )
    assert (machines, machines * gpus) == (config.num_machines, config.num_processes)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_key_has_a_comment_above_and_the_file_is_short(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    keys = [index for index, line in enumerate(lines) if not line.lstrip().startswith("#")]
    bare = [lines[index] for index in keys if index == 0 or not lines[index - 1].lstrip().startswith("#")]
    assert [line for line in bare if not line.endswith("_config:")] == []
    assert 2 <= len(keys) <= 12


def parsed(words: list[str]) -> argparse.Namespace:
    """What `accelerate launch` makes of its arguments and of the file that they name."""
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    return arguments


@pytest.mark.parametrize("name", ["deepspeed_zero1_multi_node", "deepspeed_zero2", "deepspeed_zero3"])
def test_deepspeed_starts_only_processes_of_its_own_machine(name: str) -> None:
    words = ["--config_file", str(FOLDER / f"{name}.yaml"), "--machine_rank", "1", "--main_process_ip", "node1"]
    if name not in SEVERAL_MACHINES:
        words += ["--num_machines", "2", "--deepspeed_multinode_launcher", "standard"]
    arguments = parsed([*words, "recipes/train.py"])
    arguments.deepspeed_fields_from_accelerate_config = ""
    other_launcher, _ = prepare_deepspeed_cmd_env(arguments)
    assert other_launcher is None
    assert (arguments.nnodes, arguments.node_rank, arguments.rdzv_endpoint) == ("2", 1, "node1:29500")


def readme() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def blocks(*kinds: str) -> list[str]:
    """The commands that the README shows; those of kind `bash` are also run, by test_readme.py."""
    return re.findall(rf"```(?:{'|'.join(kinds)})\n(.*?)```", readme(), flags=re.DOTALL)


def launches(block: str, folder: Path) -> list[argparse.Namespace]:
    """What the launchers would be asked for that the commands of a block start."""
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/bash\nset -e\n{text}\n")
        (folder / name).chmod(0o755)
    for name in ("accelerate_configs", "recipes"):
        (folder / name).symlink_to(FOLDER.parent / name)
    (folder / "hosts").write_text("node1\nnode2\nnode3\n")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "NOTES": str(folder / "notes")}
    environment = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
    subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, env=environment, check=True, timeout=60)
    notes = [line.split() for line in (folder / "notes").read_text().splitlines()]
    assert {words[0] for words in notes} == {"launch"}
    found = [parsed(words[1:]) for words in notes]
    assert all((folder / arguments.training_script).exists() for arguments in found)
    return found


@pytest.mark.parametrize("block", blocks("bash"))
def test_commands_for_one_machine_are_what_accelerate_takes(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    assert {arguments.num_machines for arguments in launches(block, tmp_path)} == {1}


@pytest.mark.parametrize("block", blocks("shell"))
def test_commands_for_several_machines_start_a_launcher_on_each(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER.parent)
    runs: dict[str, list[argparse.Namespace]] = {}
    for arguments in launches(block, tmp_path):
        runs.setdefault(Path(arguments.config_file).stem, []).append(arguments)
    for name, launchers in runs.items():
        ranks = sorted(int(arguments.machine_rank) for arguments in launchers)
        size = 3 if "< hosts" in block else 4 if name == "fsdp2_multi_node" else 2
        assert ranks == list(range(size))
        for arguments in launchers:
            assert (arguments.num_machines, arguments.num_processes) == (size, 8 * size)
            assert arguments.main_process_ip == "node1"
            assert arguments.training_script_args[:-1] == ["--use_cpu", "false", "--bf16", "true", "--output_dir"]
            if arguments.use_parallelism_config:
                assert arguments.parallelism_config_dp_replicate_size == size
                assert arguments.parallelism_config_dp_shard_size == 8
    assert set(runs) in ({"ddp_multi_node"}, {"ddp_multi_node", "fsdp2_multi_node"})


def test_there_are_commands_of_both_kinds() -> None:
    assert (len(blocks("bash")), len(blocks("shell"))) == (2, 3)


def test_files_that_the_readme_names_are_there() -> None:
    named = re.findall(r"(?:accelerate_configs|recipes)/[\w/.]*\w", readme())
    assert len(named) > 10
    assert [name for name in named if not (FOLDER.parent / name).exists()] == []


@pytest.fixture(scope="module")
def parameters() -> dict[str, int]:
    """Parameters of XLM-R, counted on models without memory."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    sizes = {"base": (768, 12), "large": (1024, 24)}
    found = {}
    for name, (width, depth) in sizes.items():
        config = XLMRobertaConfig(
            vocab_size=250_002,
            max_position_embeddings=514,
            type_vocab_size=1,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
        )
        with torch.device("meta"):
            found[name] = XLMRobertaModel(config).num_parameters()
    return found


def test_the_memory_table_is_right(parameters: dict[str, int]) -> None:
    rows = re.findall(r"^\| (`[^|]*) \| ([\d +/]+) \| ([\d.]+) \| ([\d.]+) \|$", readme(), flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)\.yaml`", row[0])} == set(EXPECTED) - {"cpu"}
    for _, sum_of_bytes, base, large in rows:
        bytes_each = float(sum(map(Fraction, sum_of_bytes.replace(" ", "").split("+"))))
        assert [base, large] == [f"{bytes_each * count / 2**30:.1f}" for count in parameters.values()]
    assert [f"XLM-R {name}, {count / 1e6:.0f}M" in readme() for name, count in parameters.items()] == [True, True]
