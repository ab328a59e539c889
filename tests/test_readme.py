"""Every command and every example of the READMEs is run, on small input."""

from __future__ import annotations

import configparser
import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub.server import HubServer
from tests.support.pushes import TOKEN, USERS, push_command
from tests.support.recipe_runs import REPOSITORY, write_jsonl_corpus, write_model

pytestmark = pytest.mark.slow

READMES = [
    "README.md",
    "recipes/README.md",
    "accelerate_configs/README.md",
    "model_cards/README.md",
    "CONTRIBUTING.md",
]
SMALLER = "--max_steps 2 --max_eval_queries 3 --evaluate_before false --energy none --use_cpu true --bf16 false"
SMALLER += (
    " --global_batch_size 8 --save_strategy no --eval_strategy no --load_best_model_at_end false --report_to none"
)
PLACES = {
    "intfloat/multilingual-e5-small": "model",
    "MODEL": "model",
    "CORPUS": "corpus",
    "XQUAD_R": "corpus",
    "runs/sample-mlm/model": "model",
}


def commands(readme: str) -> list[str]:
    text = (REPOSITORY / readme).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [" ".join(line.split()) for line in lines if line]


ALL = list(dict.fromkeys(command for readme in READMES for command in commands(readme)))


def commands_with(*words: str) -> list[str]:
    return [command for command in ALL if any(word in command.split() for word in words)]


OF_THE_SCRIPT = [command for command in ALL if command.startswith("hf-hybrid ")]
OF_STUDIES = [command for command in commands_with("recipes/verify.py") if "stud" in command]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory as a user has it after `make train`, but for the size of things."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("recipes", "accelerate_configs", "hf_hybrid"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_model(folder / "model")
    write_jsonl_corpus(folder / "corpus")
    run(folder, f"accelerate launch --cpu recipes/train.py {SMALLER}")
    return folder


def run(folder: Path, command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    found = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )
    assert found.returncode == 0, f"{command}\n{found.stdout[-2000:]}\n{found.stderr[-5000:]}"
    return found.stdout


def test_every_command_is_run_by_a_test() -> None:
    recipes = (f"recipes/{name}.py" for name in ("train", "mlm", "eval", "push", "verify", "scale", "report"))
    known = {*commands_with("make", "pip", *recipes), *OF_THE_SCRIPT, *commands_with(".venv/bin/pre-commit", "venv")}
    assert len(ALL) > 12
    assert [command for command in ALL if command not in known] == []


@pytest.mark.parametrize("command", commands_with("make"))
def test_make_targets_are_there(command: str) -> None:
    planned = run(REPOSITORY, command.replace("make ", "make -n ", 1))
    assert "pip install" in planned or "pytest" in planned or "ruff" in planned or "accelerate" in planned


def test_make_train_is_the_recipe_without_arguments() -> None:
    assert "accelerate launch recipes/train.py\n" in run(REPOSITORY, "make -n train")


@pytest.mark.parametrize("command", commands_with("pip"))
def test_extras_are_declared(command: str) -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    extras = re.findall(r"\[([\w,]+)\]", command)
    assert all(extra in setup["options.extras_require"] for group in extras for extra in group.split(","))


@pytest.mark.distributed
@pytest.mark.parametrize("command", commands_with("recipes/eval.py"))
def test_evaluation_commands_run(command: str, folder: Path) -> None:
    words = [PLACES.get(word, word) for word in shlex.split(command)]
    options = "--use_cpu true --max_queries 3"
    assert "monolingual/" in run(folder, f"{shlex.join(words)} {options}")


@pytest.mark.parametrize("command", sorted({*commands_with("recipes/verify.py")} - {*OF_STUDIES}))
def test_verify_commands_run(command: str, folder: Path) -> None:
    assert "\n0 wrong, " in run(folder, f"{command} --cache_dir cache")


def test_push_commands_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HYBRID_CACHE", str(tmp_path / "cache"))
    with HubServer(tmp_path / "hub", tokens=USERS) as hub:
        for command in commands_with("recipes/push.py"):
            found = push_command(*shlex.split(command)[2:])
            assert found.status == 0, found.printed
            assert ("dry run" if "--dry_run" in command else "Pushed as commit") in found.printed
        assert "model.safetensors" in hub.repo("user/name").files()
        assert "beir_cross_lingual.py" in hub.repo("user/beir_cross_lingual", repo_type="space").files()


@pytest.mark.distributed
@pytest.mark.parametrize("command", commands_with("recipes/train.py"))
def test_launch_commands_run(command: str, folder: Path) -> None:
    words = [PLACES.get(word, word) for word in shlex.split(command)]
    options = SMALLER
    if "recipes/mmarco/xlmr_hybrid.yaml" in words or "recipes/help/hybrid.yaml" in words:
        options += " --model_name_or_path model --train_corpus corpus --eval_corpus corpus --languages en,de"
        options += " --eval_languages en,hi --dataloader_num_workers 1"
    if "--dry_run" in words:
        assert "step 0: " in run(folder, shlex.join(words))
        return
    options += " --overwrite --output_dir runs/again"
    assert "monolingual/MAP" in run(folder, f"{shlex.join(words)} {options}")


@pytest.mark.distributed
@pytest.mark.parametrize("command", OF_THE_SCRIPT)
def test_commands_of_the_console_script_run(command: str, folder: Path) -> None:
    words = ["python", "-m", "hf_hybrid", *shlex.split(command)[1:]]  # the script is there once it is installed
    options = "--max_queries 3" if "eval" in words else f"{SMALLER} --overwrite"
    output = "runs/evaluation" if "eval" in words else "runs/console"
    told = run(folder, f"{shlex.join(words)} {options} --output_dir {output}")
    assert "monolingual/MAP" in told
    assert ("2 x cpu" in told) == ("--num_processes" in words)


@pytest.mark.parametrize("command", commands_with("recipes/mlm.py"))
def test_language_modeling_runs(command: str, folder: Path) -> None:
    words = shlex.split(command)
    if "--dry_run" in words:
        assert "[MASK]" in run(folder, command)
        return
    options = SMALLER.replace("--max_steps 2", "--block_length 16")  # the other run had few tokens
    assert "monolingual/MAP" in run(folder, f"{command} {options} --overwrite")


def test_studies_are_run_told_of_and_checked(folder: Path) -> None:
    (folder / "MACHINE.yaml").write_text("name: L40S\nmemory_per_device_gib: 44\nmatrix_tflops: 180\n")
    (folder / "HERE.yaml").write_text("name: here\ndevice_type: cpu\nmatrix_tflops: 0.1\n")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks/step_profile.json").symlink_to(REPOSITORY / "benchmarks/step_profile.json")
    # a plan needs at least four trained runs
    smaller = "--arms zero_shot,mono --languages 1,2 --seeds 2 --order de,en --budget_value 2 --eval_every 2"
    for command in commands_with("recipes/scale.py"):
        if "--plan" in command:
            assert "set-up and training" in run(folder, command)
        elif "MODEL" in command.split():
            words = shlex.join([PLACES.get(word, word) for word in shlex.split(command)])
            assert "mono-L1-seed1" in run(folder, f"{words} --eval_languages en --languages 1 --order en --list")
        else:
            again = "--overwrite" if "recipes/sample" in command else ""  # the former place of the same settings
            assert "mono-L1-seed1" in run(folder, f"{command} {smaller} {again}")
    for command in commands_with("recipes/report.py"):
        assert "report.html" in run(folder, command)
    for command in OF_STUDIES:
        assert "\n0 wrong, " in run(folder, command)


def test_python_examples_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = doctest.testfile(str(REPOSITORY / "README.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 8
    assert found.failed == 0


def test_the_first_screens_of_the_readme() -> None:
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert next(i for i, line in enumerate(lines, 1) if "pip install" in line) <= 25
    assert next(i for i, line in enumerate(lines, 1) if line.startswith("monolingual/MAP")) <= 45


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme: str) -> None:
    path = REPOSITORY / readme
    links = re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
