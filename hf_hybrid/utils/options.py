"""From YAML files, earlier runs and the command line to dataclasses of arguments.

YAML, or an earlier run, sets defaults and the command line overrides them; all go through argparse, so all are checked
alike, and a name that does not exist is refused with the nearest one that does.
"""

from __future__ import annotations

import difflib
import logging
import os
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .redaction import redact

logger = logging.getLogger(__name__)


def option(default: Any, text: str, **metadata: Any) -> Any:
    """Return a dataclass field that becomes a command-line option with `text` as its help."""
    return field(default=default, metadata={"help": text, **metadata})


def split_words(text: str | None) -> list[str]:
    """Split a comma-separated option into words, without empty ones.

    Example:

        >>> split_words("mono, cross,")
        ['mono', 'cross']
    """
    return [word.strip() for word in (text or "").split(",") if word.strip()]


@contextmanager
def explained_errors(program: str) -> Iterator[None]:
    """A user's mistake ends in its explanation, not in a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError, ArithmeticError, MemoryError) as error:
        logger.debug("where it happened:", exc_info=True)  # --log_level debug
        print(redact(f"{program}: error: {error}"), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


class _Parser(HfArgumentParser):
    """An argparse parser that names the nearest option when one is not known."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(2)

    def refuse_unknown(self, names: Sequence[str], where: str, prefix: str) -> None:
        """Stop at the first of `names` that is no option."""
        known = {action.dest for action in self._actions}
        if prefix:  # `--no_evaluate_before` and its like are options without a field of that name
            known |= {text.lstrip("-").replace("-", "_") for action in self._actions for text in action.option_strings}
        for name in names:
            if name.replace("-", "_") not in known:
                near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
                hint = f"; did you mean {prefix}{near[0]}?" if near else "; see --help"
                self.error(f"{where}: {prefix}{name} is not known{hint}")


def parse_arguments(
    dataclasses: Sequence[Any],
    argv: Sequence[str] | None = None,
    default_config: str | os.PathLike[str] | None = None,
    flags: dict[str, str] | None = None,
    read_like: Callable[[str], Mapping[str, Any]] | None = None,
) -> tuple[Any, ...]:
    """Read dataclasses from `--config FILE.yaml` and the command line.

    Args:
        dataclasses (`Sequence[type]`): What to fill.
        argv (`Sequence[str]`, *optional*): The command line, by default that of the process.
        default_config (`str` or `Path`, *optional*): A YAML file read where no `--config` is given.
        flags (`dict[str, str]`, *optional*): Names of further on/off options, with their help.
        read_like (`Callable`, *optional*): Gives the settings of an earlier run by its name; with it there is an
            option `--like NAME`, which takes the place of `--config`.

    Returns:
        `tuple`: An instance of each dataclass, then a namespace with `config` and the flags.

    Example:

        >>> from hf_hybrid.training.arguments import ModelArguments
        >>> model, rest = parse_arguments([ModelArguments], ["--pooling", "cls"])
        >>> model.pooling, rest.config
        ('cls', None)
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(list(dataclasses), allow_abbrev=False)
    parser.add_argument("--config", help="YAML file of defaults for all other options.")
    if read_like is not None:
        parser.add_argument("--like", help="Run folder, or model on the Hub, whose settings are the defaults.")
    for name, text in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    given = [word[2:].split("=")[0] for word in argv if word.startswith("--")]
    names = [name for name in given if " " not in name]  # else it is a value, as in --train_options "--bf16 true"
    parser.refuse_unknown(names, "command line", "--")
    config, _ = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    settings: Mapping[str, Any] = {}
    if read_like is not None and config.like:
        if config.config:
            parser.error("--config and --like: both set the defaults; give one, and single options beside it.")
        settings = read_like(config.like)
    elif (path := config.config or default_config) is not None:
        settings = _read_yaml(parser, Path(path))
    parser.set_defaults(**{name: _as_typed(parser, name, value) for name, value in settings.items()})
    try:
        return parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.error(str(error))


def _read_yaml(parser: _Parser, path: Path) -> dict[str, Any]:
    """Options by name, each once and none but the parser's; YAML itself keeps the last of those that repeat."""
    try:
        content = path.read_bytes()
        settings, root = yaml.safe_load(content), yaml.compose(content, yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        parser.error(f"--config {path}: {error}")
    if not isinstance(settings, dict):
        parser.error(f"--config {path}: expected lines of `option: value`, got {type(settings).__name__}")
    if wrong := [name for name in settings if not isinstance(name, str)]:
        parser.error(f"--config {path}: expected lines of `option: value`, got the option {wrong[0]!r}")
    given = [key.value.replace("-", "_") for key, _ in root.value]
    if twice := [name for name in given if given.count(name) > 1 or name in ("config", "help")]:
        parser.error(f"--config {path}: {twice[0]} is given twice, or belongs on the command line; leave it out")
    parser.refuse_unknown(list(settings), str(path), "")
    return {name.replace("-", "_"): value for name, value in settings.items()}


def _as_typed(parser: _Parser, name: str, value: Any) -> Any:
    """A YAML value as it would stand on a command line, so that argparse checks and converts it."""
    action = next(action for action in parser._actions if action.dest == name)
    elements = value if isinstance(value, list) and action.type is str else [value]
    if action.nargs == 0 and not isinstance(value, bool):  # an on/off option
        parser.error(f"{name}: expected true or false, got {reprlib.repr(value)}")
    if action.nargs == 0 or (value is None and action.default is None):
        return value
    if action.type is str and any(isinstance(element, bool) for element in elements):
        parser.error(f"{name}: YAML reads a word of {reprlib.repr(value)} as true or false; put it in quotes")
    if not all(isinstance(element, str | int | float) for element in elements):
        example = f"text such as {action.default!r}" if isinstance(action.default, str) else "one value"
        parser.error(f"{name}: expected {example}, got {reprlib.repr(value)}; put words and dates in quotes")
    texts = list(map(str, elements))
    return texts if action.nargs == "+" else ",".join(texts)
