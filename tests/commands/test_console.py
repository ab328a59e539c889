"""`hf-hybrid`: the names of options are checked before torch is imported, and commands run on several processes."""

from __future__ import annotations

import configparser
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hf_hybrid import __version__
from hf_hybrid.commands import console, launch
from hf_hybrid.commands.option_names import option_names
from hf_hybrid.utils.distributed import RESUME_ME
from hf_hybrid.utils.options import list_shipped_settings, make_parser, parse_arguments
from tests.support.recipe_runs import REPOSITORY, write_jsonl_corpus, write_model

# Runs a command, and says on the last line of stderr which heavy libraries were loaded.
PROBE = """
import sys
from hf_hybrid.commands import console
try:
    console.main(sys.argv[1:])
finally:
    print(*sorted({"torch", "transformers"} & {*sys.modules}), file=sys.stderr)
"""
SMALL = ["--max_steps", 3, "--global_batch_size", 8, "--logging_steps", 1, "--energy", "none", "--save_strategy", "no"]
SMALL += ["--evaluate_before", "false", "--disable_tqdm", "true", "--max_eval_queries", 3, "--cpu_threads", 1]


def environment() -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    return {**found, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start(*words: object, code: str | None = None, **how: Any) -> subprocess.Popen[str]:
    """`python -m hf_hybrid WORDS`, or the code with the words."""
    command = [sys.executable, *(["-c", code] if code else ["-m", "hf_hybrid"]), *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=REPOSITORY, **how
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The command in this process."""
    try:
        console.main(words)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


# Names of options


@pytest.mark.parametrize("command", console.COMMANDS)
def test_the_names_in_the_sources_are_those_of_the_parser(command: str) -> None:
    module = importlib.import_module(f"hf_hybrid.commands.{command}")
    launches = command in console.LAUNCHED
    parser = make_parser(module.ARGUMENTS, getattr(module, "FLAGS", None), command == "train", launches)
    names = option_names(command, launches)
    assert names is not None
    assert names.yaml == parser.names(on_command_line=False)
    assert names.command_line == parser.names(on_command_line=True)
    assert len(names.yaml) > 3


def test_inherited_options_that_do_not_apply_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    names = option_names("mlm")
    assert names is not None
    assert {"mix", "temperature", "max_query_length", "deepspeed_plugin", "like"} & names.yaml == set()
    assert {"no_evaluate_before", "mask_duplicates", "learning_rate"} <= names.command_line


def test_sources_of_another_form_leave_it_to_the_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_hybrid.commands.option_names.HERE", tmp_path)
    (tmp_path / "other.py").write_text("ARGUMENTS = tuple(made())\n")
    assert option_names("other") is None
    assert option_names("absent") is None


MISTAKES: list[tuple[str, list[str], str]] = [
    ("train", ["--mxi", "mono=1"], "command line: --mxi is not known; did you mean --mix?"),
    ("train", ["--max-step=4"], "command line: --max-step is not known; did you mean --max_steps?"),
    ("mlm", ["--temperature", "1"], "command line: --temperature is not known; see --help"),
    ("eval", ["--corpra", "x"], "command line: --corpra is not known; did you mean --corpus?"),
    ("push", ["runs/x", "--licnece", "x"], "command line: --licnece is not known; did you mean --license?"),
    ("verify", ["x", "--rerunn"], "command line: --rerunn is not known; did you mean --rerun?"),
    ("scale", ["--lst"], "command line: --lst is not known; did you mean --list?"),
    ("report", ["x", "--copyto", "y"], "command line: --copyto is not known; did you mean --copy_to?"),
    ("train", ["--config", "YAML"], "YAML: learning_rte is not known; did you mean learning_rate?"),
    ("train", ["--config=YAML"], "YAML: learning_rte is not known; did you mean learning_rate?"),
    ("scale", ["--config", "YAML"], "YAML: learning_rte is not known; see --help"),
    ("train", ["--config", "sample/pol"], "--config sample/pol: there is no such file. Settings that come with"),
]


@pytest.mark.parametrize(("command", "words", "message"), MISTAKES)
def test_a_mistyped_name_is_answered_before_torch_is_loaded(
    command: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("learning_rte: 1\n")
    words = [word.replace("YAML", str(config)) for word in words]
    code, out, err = finish(start(command, *words, code=PROBE))
    assert (code, out) == (2, "")
    answer, loaded = err.splitlines()
    assert answer.startswith(f"hf-hybrid {command}: error: {message.replace('YAML', str(config))}")
    assert loaded == ""
    module = importlib.import_module(f"hf_hybrid.commands.{command}")
    with pytest.raises(SystemExit) as stopped:  # the parser itself says the same
        module.main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == answer


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("push", ["--run", "x", "--repo_id", "one/two/three"], "repo_id"),
        ("verify", ["x", "--tolerance", "2"], "give a number from 0 to 1"),
        ("report", ["--study"], "expected one argument"),
        ("scale", ["--budget", "money"], "budget='money'"),
        ("eval", ["--model", "x", "--index", "hnsw"], "index must be one of exact, faiss"),
    ],
)
def test_commands_without_training_read_the_whole_command_line_without_torch(
    command: str, words: list[str], message: str
) -> None:
    code, _, err = finish(start(command, *words, code=PROBE))
    assert code == 2
    assert message in err
    assert "torch" not in err.splitlines()[-1].split()


def test_the_first_check_is_not_stricter_than_the_parser(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_hybrid.commands.report.main", lambda argv, program: print(argv, program))
    for words in (["x"], ["--study=x"], ["--step-profile", "x"], ["-h"], ["--study", "--config is a value"]):
        assert called(capsys, "report", *words) == (0, f"{words} hf-hybrid report\n", "")


# The program


def test_without_a_command_it_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    listed = called(capsys)
    assert listed == called(capsys, "--help") == called(capsys, "-h")
    assert listed[0] == 0
    lines = [line.split() for line in listed[1].splitlines() if line.startswith("  ")]
    assert [line[0] for line in lines] == list(console.COMMANDS)
    assert min(map(len, lines)) > 5
    assert called(capsys, "--version") == (0, f"hf-hybrid {__version__}\n", "")


def test_a_command_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "trian") == (2, "", "hf-hybrid: error: trian is not a command; did you mean train?\n")
    code, _, err = called(capsys, "--mix", "mono=1")
    assert code == 2
    assert "--mix is not a command" in err


@pytest.mark.parametrize("command", console.COMMANDS)
def test_help_begins_with_examples(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = called(capsys, command, "--help")
    assert code == 0
    assert out.splitlines()[2].startswith(f"    hf-hybrid {command}")
    assert f"usage: hf-hybrid {command} [" in out
    assert ("--num_processes" in out) == (command in console.LAUNCHED)
    monkeypatch.setattr(sys, "argv", [f"recipes/{command}.py"])
    of_recipe = called(capsys, command, "--help")[1]
    assert of_recipe.splitlines()[2].startswith(f"    python recipes/{command}.py")
    assert f"usage: {command}.py [" in of_recipe


def test_a_recipe_is_called_by_its_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["recipes/train.py"])
    assert called(capsys, "train", "--mxi", "x")[2].startswith("train.py: error: command line: --mxi is not known")


def test_the_entry_point_is_declared() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    name, _, target = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = target.partition(":")
    assert name == console.NAME
    assert getattr(importlib.import_module(module), function) is console.main
    assert "configs/*/*.yaml" in setup["options.package_data"]["hf_hybrid.commands"]


# Settings that come with the package


@pytest.mark.parametrize("name", ["sample/pool", "recipes/sample/pool.yaml"])
def test_shipped_settings_are_found_by_name_and_by_their_former_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("hf_hybrid.commands.train")
    _, data, args, _ = parse_arguments(module.ARGUMENTS, ["--config", name])
    assert (data.train_corpus, args.mix, args.output_dir) == ("sample", "pool=1", "runs/sample-pool")


def test_a_file_is_taken_before_what_lay_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "sample").mkdir(parents=True)
    (tmp_path / "recipes" / "sample" / "pool.yaml").write_text("mix: mono=1\nuse_cpu: true\n")
    module = importlib.import_module("hf_hybrid.commands.train")
    assert parse_arguments(module.ARGUMENTS, ["--config", "recipes/sample/pool.yaml"])[2].mix == "mono=1"


def test_unknown_settings_list_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"sample/hybrid", "sample/mlm", "sample/study"} <= {*list_shipped_settings()}
    for name in ("sample/pol", "nowhere.yaml", "sample"):
        code, _, err = called(capsys, "train", "--config", name)
        assert code == 2
        assert f"--config {name}: " in err
        assert all(shipped in err for shipped in list_shipped_settings())


@pytest.mark.slow
def test_settings_from_a_stream_are_read_once(tmp_path: Path) -> None:
    command = f"{sys.executable} -m hf_hybrid train --config <(echo mix: magic=1)"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(), cwd=REPOSITORY)
    assert found.returncode == 2
    assert "'magic' is not a batch type" in found.stderr


# Several processes


@pytest.mark.parametrize("words", [["--num_processes", "2"], ["--accelerate-config=x.yaml"]])
def test_a_launched_process_does_not_launch(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = called(capsys, "train", *words)
    assert code == 2
    assert "a launcher has started this process already (WORLD_SIZE=2)" in err


@pytest.mark.parametrize("count", ["0", "-1", "two", "2.0"])
def test_numbers_of_processes(count: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    code, _, err = called(capsys, "eval", f"--num_processes={count}")
    assert (code, f"--num_processes {count}: allowed is a whole number from 1 on" in err) == (2, True)


def test_one_process_runs_here_and_help_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    words = ["--num_processes", "1", "--mix", "pool=1", "--num-processes=1"]
    assert launch.run_launched(["x"], words, {}) == ["--mix", "pool=1"]
    assert launch.run_launched(["x"], ["--num_processes", "2", "--help"], {}) == ["--help"]


@pytest.mark.parametrize(
    ("devices", "words", "settings", "launcher"),
    [
        (0, [], {}, "torchrun"),
        (2, [], {}, "accelerate"),
        (2, ["--use_cpu", "true"], {}, "torchrun"),
        (2, ["--use_cpu"], {}, "torchrun"),
        (2, [], {"use_cpu": True}, "torchrun"),
        (2, ["--use_cpu", "false"], {"use_cpu": True}, "accelerate"),
        (1, [], {}, "--num_processes 2: there is 1 GPU"),
    ],
)
def test_the_launcher_is_that_of_the_devices(
    devices: int, words: list[str], settings: dict[str, Any], launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    used: list[str] = []
    monkeypatch.setattr(launch, "_num_devices", lambda: devices)
    monkeypatch.setattr(launch, "_run_torchrun", lambda *_: used.append("torchrun"))
    monkeypatch.setattr(launch, "_run_accelerate", lambda *_: used.append("accelerate"))
    try:
        launch.run_launched(["x"], ["--num_processes", "2", *words], settings)
    except ValueError as error:
        used.append(str(error))
    except SystemExit:  # of the launcher that has ended
        assert used
    assert used[0].startswith(launcher)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("console")
    corpus, model = write_jsonl_corpus(folder / "corpus"), write_model(folder / "model")
    return [
        "--train_corpus",
        corpus,
        "--model_name_or_path",
        model,
        "--cache_dir",
        folder / "cache",
        "--use_cpu",
        "true",
    ]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("described", ["by a number", "by a file"])
def test_two_processes_on_the_cpu(described: str, inputs: list[object], tmp_path: Path) -> None:
    """Also with a file for several processes on the CPU, of which accelerate alone would start one."""
    file = tmp_path / "processes.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n"
    )
    how = ["--num_processes", 2] if described == "by a number" else ["--accelerate_config", file]
    code, out, err = finish(start("train", *how, *inputs, *SMALL, "--output_dir", tmp_path / "run"))
    assert code == 0, err[-3000:]
    assert "devices: 2 x cpu" in out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world_size"] == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_signals_and_exit_codes_pass_through(inputs: list[object], tmp_path: Path) -> None:
    code, _, err = finish(start("train", "--num_processes", 2, *inputs, "--mix", "magic=1"))
    assert code == 2
    assert "'magic' is not a batch type" in err
    words = [*inputs, *SMALL, "--max_steps", 100_000, "--output_dir", tmp_path / "run"]
    process = start("train", "--num_processes", 2, *words)
    log = tmp_path / "run" / "resources.jsonl"
    for _ in range(1200):
        if process.poll() is not None or (log.exists() and log.stat().st_size):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == RESUME_ME, err[-3000:]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
