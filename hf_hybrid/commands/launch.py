"""Start a command on several processes: `--num_processes N` and `--accelerate_config FILE`.

With GPUs the processes are started by accelerate's launcher. Without, they are started by torchrun: where mpirun is
missing, `accelerate launch` starts a single process in place of several on the CPU, and does not say so. Both run
within this process, which passes signals on and ends with the exit status of the processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hf_hybrid.utils.distributed import RESUME_ME
from hf_hybrid.utils.options import LAUNCH_OPTIONS, value_of


def run_launched(script: Sequence[str], options: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """Start the processes that the options ask for, and exit with their status when they end.

    Args:
        script (`Sequence[str]`): What each process runs: a file, or `-m` with a module and a command.
        options (`Sequence[str]`): The command line of the command.
        settings (`Mapping[str, Any]`): Options of its YAML file.

    Returns:
        `list[str]`: The options without those of the launch. It returns only where this process is to run the command.

    Raises:
        ValueError: When the processes cannot be started as asked.
    """
    given = {name: value_of(options, name) for name in LAUNCH_OPTIONS}
    rest = _without_launch_options(options)
    if given == dict.fromkeys(LAUNCH_OPTIONS) or {"-h", "--help"} & {*options}:
        return rest
    if (size := os.environ.get("WORLD_SIZE")) is not None:
        name = next(name for name, value in given.items() if value is not None)
        raise ValueError(
            f"--{name}: a launcher has started this process already (WORLD_SIZE={size}). Leave --{name} out, and give "
            "the number of processes to the launcher."
        )
    count, config = _count(given["num_processes"]), given["accelerate_config"]
    if config is not None and not Path(config).is_file():
        raise ValueError(f"--accelerate_config {config}: there is no such file. `accelerate config` writes one.")
    if config is not None:
        _exit_with(lambda: _run_accelerate(config, count, [*script, *rest], _wants_cpu(rest, settings)))
    if count == 1:
        return rest
    assert count is not None
    if _wants_cpu(rest, settings) or (devices := _num_devices()) == 0:
        _exit_with(lambda: _run_torchrun(count, [*script, *rest]))
    if count > devices:
        there = "is 1 GPU" if devices == 1 else f"are {devices} GPUs"
        raise ValueError(
            f"--num_processes {count}: there {there}, and each process needs one. Give a lower number, or add "
            "--use_cpu true to run on the CPU."
        )
    _exit_with(lambda: _run_accelerate(None, count, [*script, *rest], False))


def _without_launch_options(options: Sequence[str]) -> list[str]:
    rest, words = [], list(options)
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if not (name.startswith("--") and name[2:].replace("-", "_") in LAUNCH_OPTIONS):
            rest.append(word)
        elif not equals and words and not words[0].startswith("-"):
            words.pop(0)
    return rest


def _count(text: str | None) -> int | None:
    if text is not None and not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100_000):
        raise ValueError(f"--num_processes {text}: allowed is a whole number from 1 on.")
    return None if text is None else int(text)


def _wants_cpu(options: Sequence[str], settings: Mapping[str, Any]) -> bool:
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return True
    chosen = value_of(options, "use_cpu")
    return str(settings.get("use_cpu") if chosen is None else chosen).lower() in ("1", "t", "true", "y", "yes")


def _num_devices() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def _run_torchrun(count: int, words: Sequence[str]) -> None:
    from torch.distributed.run import parse_args, run

    os.environ["ACCELERATE_USE_CPU"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would, with a warning; `--cpu_threads` sets more
    run(parse_args(["--standalone", "--nproc_per_node", str(count), *words]))


def _run_accelerate(config: str | None, count: int | None, words: Sequence[str], wants_cpu: bool) -> None:
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    given = ["--config_file", config] if config else ["--multi_gpu", "--num_machines", "1", "--main_process_port", "0"]
    given += ["--num_processes", str(count)] if count else []
    given += [] if config else ["--mixed_precision", "no", "--dynamo_backend", "no"]  # what the command's options say
    args, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args([*given, *words]))
    several = args.use_deepspeed or args.use_fsdp or args.use_megatron_lm or args.multi_gpu or args.tpu
    if not several and args.num_processes > 1:
        _run_torchrun(args.num_processes, words)
    elif not several:
        # Its launcher for one process does not pass signals on, so that process takes the place of this one.
        command, environment = prepare_simple_launcher_cmd_env(args)
        sys.stdout.flush()
        os.execvpe(command[0], command, environment)
    else:
        if not args.use_deepspeed and (wants_cpu or _num_devices() == 0):  # accelerate would ignore DeepSpeed
            os.environ["ACCELERATE_USE_CPU"] = "true"
        launch.launch_command(launch.launch_command_parser().parse_args([*given, *words]))


def _exit_with(start: Callable[[], None]) -> NoReturn:
    """Run a launcher of several processes, and exit as a single process would have."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        start()
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        raise SystemExit(status if status >= 0 else 128 - status) from None
    except SignalException:  # all processes have got the signal and have ended
        raise SystemExit(RESUME_ME) from None
    raise SystemExit(0)
