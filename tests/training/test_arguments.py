"""YAML sets defaults, the command line overrides, and what is not known is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hf_hybrid.training.arguments import DataArguments, HybridTrainingArguments, ModelArguments
from hf_hybrid.utils.options import SETTINGS, parse_arguments

ALL = [ModelArguments, DataArguments, HybridTrainingArguments]
FILES = sorted([*(Path(__file__).parents[2] / "recipes").rglob("*.yaml"), *SETTINGS.rglob("*.yaml")])
OTHERS = ("mlm", "study")  # `test_mlm_recipe.py` and `test_scale_recipe.py` have those
RECIPES = [path for path in FILES if path.stem not in OTHERS]


def yaml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_command_line_overrides_yaml(tmp_path: Path) -> None:
    config = yaml(
        tmp_path, "learning_rate: 2e-5\nmax_steps: 7\nbf16: false\nmix: pool=1\nuse_cpu: true\nlanguages: en,de\n"
    )
    _, data, args, rest = parse_arguments(ALL, ["--config", config, "--max_steps", "9", "--languages=fr"])
    assert (args.learning_rate, args.max_steps, args.mix, args.bf16) == (2e-5, 9, "pool=1", False)
    assert data.languages == "fr"
    assert rest.config == config


def test_a_default_config_gives_way_to_one_that_is_named(tmp_path: Path) -> None:
    config = yaml(tmp_path, "pooling: cls\n")
    assert parse_arguments([ModelArguments], [], default_config=config)[0].pooling == "cls"
    other = tmp_path / "other.yaml"
    other.write_text("pooling: mean\n")
    assert parse_arguments([ModelArguments], ["--config", str(other)], default_config=config)[0].pooling == "mean"


def test_flags_stand_beside_the_dataclasses() -> None:
    assert parse_arguments([ModelArguments], ["--dry_run"], flags={"dry_run": "help"})[1].dry_run is True
    assert parse_arguments([ModelArguments], [], flags={"dry_run": "help"})[1].dry_run is False


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("learning_rte: 1e-5", [], "learning_rte is not known; did you mean learning_rate?"),
        ("max_steps: many", [], "argument --max_steps/--max-steps: invalid int value: 'many'"),
        ("max_steps: 1.5", [], "invalid int value"),
        ("- a list", [], "expected lines of `option: value`, got list"),
        ("max_steps: [1", [], "while parsing"),
        ("x: !!python/object/apply:os.system [ls]", [], "could not determine a constructor"),
        ("", [], "got NoneType"),
        ("max_steps: 3", ["--max_step", "4"], "--max_step is not known; did you mean --max_steps?"),
        ("max_steps: 3", ["--mixx=mono=1"], "--mixx is not known; did you mean --mix?"),
        ("mix: mono=1,mono=2", [], "given twice"),
        ("temperature: 0", [], "temperature must be between 0.0001 and 1,000, got 0.0"),
        pytest.param(
            "bf16: true",
            ["--use_cpu", "false"],
            "add --use_cpu true",
            marks=pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU"),
        ),
        ("max_steps: -1", [], "max_steps must be between 1 and"),
        ("save_strategy: epoch", [], "a plan has no epochs"),
        ("per_device_train_batch_size: 8", [], "Set global_batch_size alone"),
        ("auto_find_batch_size: true", [], "another batch size is another loss"),
        ("num_train_epochs: 3", [], "a plan has steps and no epochs"),
        ("per_device_eval_batch_size: 3", [], "set eval_batch_tokens"),
        ("load_best_model_at_end: true\nsave_strategy: steps\neval_strategy: steps", [], "name the best measure"),
        ("temperature: .nan", [], "got nan"),
        ("max_eval_queries: 0", [], "max_eval_queries must be between 1 and"),
        ("seed: -1", [], "seed must be between 0 and"),
        ("languages: no", [], "put it in quotes"),
        ("mix: {mono: 1}", [], "expected text such as 'mono=0.5,cross=0.5'"),
        ("ignore_data_skip: true", [], "would see its first batches again"),
        ("restore_callback_states_from_checkpoint: true", [], "resume without it"),
        ("dataloader_drop_last: true", [], "short batches belong to the plan"),
        ("label_smoothing_factor: 0.1", [], "no labels to smooth"),
    ],
)
def test_what_is_wrong_is_named(
    text: str, argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(ALL, ["--config", yaml(tmp_path, text), "--use_cpu", "true", *argv])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_natural_yaml_and_negated_options_are_understood(tmp_path: Path) -> None:
    config = yaml(tmp_path, "languages: [de, en]\nuse_cpu: true\ndry_run: false\n")
    _, data, args, rest = parse_arguments(ALL, ["--config", config, "--no_evaluate_before"], flags={"dry_run": "help"})
    assert (data.languages, args.evaluate_before, rest.dry_run) == ("de,en", False, False)


def test_a_config_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(ALL, ["--config", "nowhere.yaml"])
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_recipe_parses(path: Path) -> None:
    model, _, args, _ = parse_arguments(ALL, ["--config", str(path), "--use_cpu", "true", "--bf16", "false"])
    assert args.output_dir == f"runs/{path.parent.name}-{path.stem.replace('_', '-')}"
    assert args.max_steps > 0
    assert (model.model_name_or_path is None) == (path.parent.name == "sample")


def test_recipes_are_there() -> None:
    assert len(RECIPES) >= 9


def test_the_share_of_a_process_follows_from_the_global_batch(tmp_path: Path) -> None:
    assert HybridTrainingArguments(str(tmp_path), use_cpu=True, global_batch_size=30).per_device_train_batch_size == 30


@pytest.mark.parametrize(("metric", "greater"), [("bias/rank_distance", False), ("multilingual/MAP", True)])
def test_the_better_of_two_models_is_known(metric: str, greater: bool, tmp_path: Path) -> None:
    arguments = HybridTrainingArguments(str(tmp_path), use_cpu=True, metric_for_best_model=metric)
    assert arguments.greater_is_better is greater


@pytest.mark.parametrize(("variable", "option", "threads"), [("3", None, 3), ("3", 2, 2), ("1", 1, 1)])
def test_threads_are_those_asked_for(
    variable: str, option: int | None, threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    HybridTrainingArguments(str(tmp_path), use_cpu=True, cpu_threads=option)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for processes in (1, cores):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        HybridTrainingArguments(str(tmp_path), use_cpu=True)
        found.append(torch.get_num_threads())
    assert found == [cores, 1]
    torch.set_num_threads(before)
