"""The command that repeats a run, from `run.json`."""

from __future__ import annotations

import json
import shlex
from typing import Any

import yaml

from hf_hybrid.records.schema import Run, is_mlm
from hf_hybrid.utils.options import find_settings
from hf_hybrid.utils.text import Markdown, visible

_WIDTH = 100


def command_options(run: Run, languages: list[str]) -> dict[str, Any]:
    """Return the options that repeat a run: those that it changed from the defaults.

    Without a model, the recipes need settings for an encoder from scratch: then the options name those of the sample
    corpus, and everything in which the run differs from them.

    Args:
        run (`Run`): From `run.json`.
        languages (`list[str]`): The languages of its corpus, in order.

    Example:

        >>> run = {"mix": "pool=1.0", "changed": ["model_name_or_path", "mix"]}
        >>> run["config"] = {"model_name_or_path": "user/e5", "mix": "pool=1.0", "seed": 42}
        >>> command_options(run, ["de", "en"])
        {'model_name_or_path': 'user/e5', 'mix': 'pool=1.0'}
    """
    config = run["config"]
    changed = {name: config[name] for name in run["changed"]}
    if changed.get("model_name_or_path") is not None:
        return changed
    sample = f"sample/{'mlm' if is_mlm(run) else 'hybrid'}"
    settings = yaml.safe_load(find_settings(sample).read_text(encoding="utf-8"))
    settings.pop("output_dir")
    given = changed | {name: config[name] for name in settings if name in config}
    given |= {"languages": config.get("languages") or ",".join(languages)}
    return {"config": sample, **{name: value for name, value in given.items() if value != settings.get(name, ...)}}


def build_command(run: Run, languages: list[str]) -> Markdown:
    """Return the command in lines, for a code block.

    Example:

        >>> run = {"mix": "pool=1.0", "changed": ["model_name_or_path", "mix", "query_prompt"]}
        >>> run["config"] = {"model_name_or_path": "user/e5", "query_prompt": "query: ", "mix": "pool=1.0"}
        >>> print(build_command(run, ["de"]))
        accelerate launch -m hf_hybrid train --model_name_or_path user/e5 --mix pool=1.0 \\
            --query_prompt 'query: '
    """
    lines = [f"accelerate launch -m hf_hybrid {'mlm' if is_mlm(run) else 'train'}"]
    for name, value in command_options(run, languages).items():
        option = f"--{name} {quote(value)}"
        if len(lines[-1]) + len(option) > _WIDTH:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {option}"
    return Markdown("\n".join(lines))


def quote(value: Any) -> str:
    """Return a value as a word of a command line."""
    text = value if isinstance(value, str) else json.dumps(value)
    return shlex.quote(visible(text))
