"""The shipped files are what accelerate reads, and each key is explained."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[1] / "accelerate_configs"
EXPECTED = {
    "cpu": (DistributedType.NO, 1),
    "single_gpu": (DistributedType.NO, 1),
    "ddp": (DistributedType.MULTI_GPU, 2),
    "fsdp2": (DistributedType.FSDP, 2),
    "deepspeed_zero1": (DistributedType.DEEPSPEED, 2),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, 2),
    "deepspeed_zero3": (DistributedType.DEEPSPEED, 2),
}


def load(name: str) -> ClusterConfig:
    return load_config_from_file(str(FOLDER / f"{name}.yaml"))


def test_the_folder_holds_these_files_and_its_readme_names_them() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(EXPECTED)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in EXPECTED if f"`{name}.yaml`" not in readme] == []


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_each_file(name: str) -> None:
    config = load(name)
    assert (config.distributed_type, config.num_processes) == EXPECTED[name]
    assert config.use_cpu == (name == "cpu")
    assert config.mixed_precision is None  # a training argument: DeepSpeed refuses it in both places


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_deepspeed_file_has_the_stage_of_its_name(stage: int) -> None:
    assert load(f"deepspeed_zero{stage}").deepspeed_config["zero_stage"] == stage


def test_fsdp_is_version_2_and_saves_whole_weights() -> None:
    config = load("fsdp2").fsdp_config
    assert config["fsdp_version"] == 2
    assert config["fsdp_state_dict_type"] == "FULL_STATE_DICT"


@pytest.mark.parametrize("name", EXPECTED)
def test_every_key_has_a_comment_above_and_the_file_is_short(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    keys = [index for index, line in enumerate(lines) if not line.lstrip().startswith("#")]
    bare = [lines[index] for index in keys if index == 0 or not lines[index - 1].lstrip().startswith("#")]
    assert [line for line in bare if not line.endswith("_config:")] == []
    assert 2 <= len(keys) <= 12
