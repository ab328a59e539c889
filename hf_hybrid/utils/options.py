"""From YAML files, earlier runs and the command line to dataclasses of arguments.

YAML, or an earlier run, sets defaults and the command line overrides them; all go through argparse, so all are checked
alike, and a name that does not exist is refused with the nearest one that does. Importing this module loads neither
torch nor transformers: the names of options are checked before either is needed.
"""

from __future__ import annotations

import difflib
import logging
import os
import reprlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from copy import copy
from dataclasses import Field, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml

from .redaction import redact

logger = logging.getLogger(__name__)

SETTINGS = Path(__file__).parents[1] / "commands" / "configs"  # the YAML files that come with the package
_SUFFIXES = (".yaml", ".yml")
# Options of the commands that can run on several processes. They stand on the command line, not in a YAML file.
LAUNCH_OPTIONS = {
    "num_processes": "Processes to start on this machine, one for each GPU, or on the CPU where there is none.",
    "accelerate_config": "Start the processes that this file of `accelerate config` describes.",
}
_ON_THE_COMMAND_LINE = ("config", "help", "like", *LAUNCH_OPTIONS)


# What an option decides, in the metadata of its field. Other options say where, how fast and with which log a run
# happens.
MODEL = "model"  # the trained model: it must be equal for a run to resume
RERUN = "rerun"  # what else a rerun needs to repeat: what is measured, logged and saved, and when
# What a study does with an option of its trials.
SETS = "sets"  # the study sets it, and refuses other values
READS = "reads"  # the study uses it for all trials, and does not pass it on


def option(default: Any, text: str, **metadata: Any) -> Any:
    """Return a dataclass field that becomes a command-line option.

    Args:
        default (`Any`): Its default.
        text (`str`): Its help.
        **metadata: `within`, the least and the greatest value of a number; `decides`, `MODEL` or `RERUN`; `study`,
            `SETS` or `READS`. A subclass that gives a field another default or help need not repeat them.
    """
    return field(default=default, metadata={"help": text, **metadata})


def option_metadata(arguments: Any) -> dict[str, dict[str, Any]]:
    """Return the metadata of each option of a dataclass, or of an instance: its own over those of the parent classes.

    A class may describe fields of its parents in another library in a class variable `INHERITED`, by name.
    """
    own_class = arguments if isinstance(arguments, type) else type(arguments)
    metadata: dict[str, dict[str, Any]] = {each.name: {} for each in fields(arguments)}
    for parent in reversed(own_class.__mro__):
        for each in fields(parent) if is_dataclass(parent) else ():
            metadata[each.name].update(each.metadata)
    for name, inherited in getattr(arguments, "INHERITED", {}).items():
        metadata[name].update(inherited)
    return metadata


def options_that_decide(arguments: Any, *what: str) -> list[str]:
    """Return the names of the options whose metadata says that they decide `MODEL` or `RERUN`."""
    return [name for name, metadata in option_metadata(arguments).items() if metadata.get("decides") in what]


def find_changed_options(arguments: Any) -> list[str]:
    """Return the names of the options that a rerun must set: they decide its result and differ from their defaults.

    Args:
        arguments (`Any`): An instance of a dataclass of options. One that derives values from those that were given
            keeps the names in an attribute `changed`, which is then the answer.

    Example:

        >>> from hf_hybrid.training.arguments import DataArguments
        >>> find_changed_options(DataArguments(languages="de,en", cache_dir="elsewhere"))
        ['languages']
    """
    if (known := getattr(arguments, "changed", None)) is not None:
        return known
    defaults = {each.name: _default_of(each) for each in fields(arguments)}
    names = options_that_decide(arguments, MODEL, RERUN)
    return [name for name in names if getattr(arguments, name) != defaults[name]]


def _default_of(field: Field) -> Any:
    return field.default_factory() if callable(field.default_factory) else field.default


def check_ranges(arguments: Any) -> None:
    """Check that numbers lie in the ranges of their options.

    Args:
        arguments (`Any`): An instance of a dataclass of options.

    Raises:
        ValueError: When a number is NaN or outside of its range.
    """
    for name, metadata in option_metadata(arguments).items():
        least, most = metadata.get("within", (None, None))
        value = getattr(arguments, name)
        if least is not None and isinstance(value, int | float) and not least <= value <= most:
            raise ValueError(f"{name} must be between {least:,} and {most:,}, got {value!r}.")


def split_words(text: str | None) -> list[str]:
    """Split a comma-separated option into words, without empty ones.

    Example:

        >>> split_words("mono, cross,")
        ['mono', 'cross']
    """
    return [word.strip() for word in (text or "").split(",") if word.strip()]


@contextmanager
def explain_errors(program: str) -> Iterator[None]:
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


def find_named_options(argv: Sequence[str]) -> list[str]:
    """Return the options that a command line names, as they are written there.

    Example:

        >>> find_named_options(["runs/a", "--max-steps", "3", "--mix=pool=1", "--train_options", "--bf16 true"])
        ['max-steps', 'mix', 'train_options']
    """
    given = [word[2:].split("=")[0] for word in argv if word.startswith("--")]
    return [name for name in given if " " not in name]  # else it is a value, as in --train_options "--bf16 true"


def value_of(argv: Sequence[str], name: str) -> str | None:
    """Return the last value that a command line gives to an option, or None. A bare option has the value "true".

    Example:

        >>> value_of(["--config", "a.yaml", "--config=b.yaml", "--use-cpu"], "config")
        'b.yaml'
        >>> value_of(["--use-cpu"], "use_cpu"), value_of([], "use_cpu")
        ('true', None)
    """
    found = None
    for word, following in zip(argv, [*argv, "--"][1:], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("--") and option[2:].replace("-", "_") == name:
            found = value if equals else "true" if following.startswith("-") else following
    return found


def explain_unknown(names: Sequence[str], known: Collection[str], where: str, prefix: str) -> str | None:
    """Return the error message for the first name that is not known, or None when all are.

    Args:
        names (`Sequence[str]`): Names of options as the user wrote them.
        known (`Collection[str]`): Names of options, with underscores.
        where (`str`): Where the names stand: `command line`, or a file.
        prefix (`str`): What precedes a name there: `--` or nothing.

    Example:

        >>> explain_unknown(["seed", "mxi"], {"seed", "mix"}, "command line", "--")
        'command line: --mxi is not known; did you mean --mix?'
    """
    for name in names:
        if name.replace("-", "_") not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else "; see --help"
            return f"{where}: {prefix}{name} is not known{hint}"
    return None


def refuse(program: str, message: str) -> NoReturn:
    """Print an error and exit with status 2."""
    print(f"{program}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def list_shipped_settings() -> list[str]:
    """Return the names of the settings that come with the package, as in `sample/hybrid`."""
    return sorted(path.relative_to(SETTINGS).with_suffix("").as_posix() for path in SETTINGS.rglob("*.yaml"))


def find_settings(name: str | os.PathLike[str]) -> Path:
    """Return the file of the settings that `--config` names.

    A name of `list_shipped_settings` is one of these, and anything else is a file. Model cards
    name shipped settings by their former place, `recipes/sample/hybrid.yaml`: where there is no such file, they are
    found too.

    Args:
        name (`str` or `Path`): A file, or the name of shipped settings.

    Raises:
        FileNotFoundError: When there is neither; the message lists the names.

    Example:

        >>> find_settings("sample/pool").name
        'pool.yaml'
    """
    path, shipped = Path(name), list_shipped_settings()
    if path.suffix not in _SUFFIXES and path.as_posix() in shipped:
        return SETTINGS / f"{path.as_posix()}.yaml"
    if path.exists():
        return path
    former = path.with_suffix("").as_posix()
    if path.suffix in _SUFFIXES and former.removeprefix("recipes/") in shipped and former.startswith("recipes/"):
        return SETTINGS / f"{former.removeprefix('recipes/')}.yaml"
    raise FileNotFoundError(f"there is no such file. Settings that come with hf_hybrid: {', '.join(shipped)}")


def read_settings(name: str, known: Set[str], stop: Callable[[str], NoReturn]) -> dict[str, Any]:
    """Read options by name from a YAML file, each once and none but the known ones.

    Args:
        name (`str`): A file, or the name of shipped settings.
        known (`Set[str]`): Names of options.
        stop (`Callable`): Called with the error message when the file is not right.
    """
    try:
        content = find_settings(name).read_bytes()
        settings, root = yaml.safe_load(content), yaml.compose(content, yaml.SafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        stop(f"--config {name}: {error}")
    if not isinstance(settings, dict):
        stop(f"--config {name}: expected lines of `option: value`, got {type(settings).__name__}")
    if wrong := [key for key in settings if not isinstance(key, str)]:
        stop(f"--config {name}: expected lines of `option: value`, got the option {wrong[0]!r}")
    given = [key.value.replace("-", "_") for key, _ in root.value]  # YAML itself keeps the last of repeated keys
    if twice := [key for key in given if given.count(key) > 1 or key in known & {*_ON_THE_COMMAND_LINE}]:
        stop(f"--config {name}: {twice[0]} is given twice, or belongs on the command line; omit it")
    if problem := explain_unknown(list(settings), known, name, ""):
        stop(problem)
    return {key.replace("-", "_"): value for key, value in settings.items()}


@cache
def _parser_class() -> Any:
    """Make the class of parsers. It is not made at import, for its parent class imports transformers."""
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        """An argparse parser whose errors are one line, and whose help begins with what the command does."""

        introduction = ""

        @staticmethod
        def _parse_dataclass_field(parser: Any, field: Field) -> None:
            shown = copy(field)  # transformers passes all metadata on to argparse
            shown.metadata = MappingProxyType({"help": field.metadata.get("help")})
            HfArgumentParser._parse_dataclass_field(parser, shown)

        def error(self, message: str) -> NoReturn:
            refuse(self.prog, message)

        def format_help(self) -> str:
            return f"{self.introduction}{super().format_help()}"

        def names(self, on_command_line: bool) -> set[str]:
            """The options: those of a YAML file, or also `--no_evaluate_before` and its like, which have no field."""
            known = {action.dest for action in self._actions}
            if on_command_line:
                known |= {text.lstrip("-").replace("-", "_") for act in self._actions for text in act.option_strings}
            return known

    return Parser


def make_parser(
    dataclasses: Sequence[Any],
    flags: Mapping[str, str] | None = None,
    like: bool = False,
    launch: bool = False,
    program: str | None = None,
    introduction: str | None = None,
) -> Any:
    """Make the parser of [`parse_arguments`], whose arguments these are; `like` adds the option `--like`."""
    usage = f"{program} [--option value ...]" if program else None
    parser = _parser_class()(list(dataclasses), allow_abbrev=False, prog=program, usage=usage)
    parser.introduction = f"{introduction.strip()}\n\n" if introduction else ""
    parser.add_argument("--config", help="YAML file of defaults for all other options, or a name as in sample/hybrid.")
    if like:
        parser.add_argument("--like", help="Run folder, or model on the Hub, whose settings are the defaults.")
    for name, text in (LAUNCH_OPTIONS if launch else {}).items():
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", help=text)
    for name, text in (flags or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def parse_arguments(
    dataclasses: Sequence[Any],
    argv: Sequence[str] | None = None,
    default_config: str | os.PathLike[str] | None = None,
    flags: Mapping[str, str] | None = None,
    read_like: Callable[[str], Mapping[str, Any]] | None = None,
    launch: bool = False,
    program: str | None = None,
    introduction: str | None = None,
    first_word: str | None = None,
) -> tuple[Any, ...]:
    """Read dataclasses from `--config FILE.yaml` and the command line.

    Args:
        dataclasses (`Sequence[type]`): What to fill.
        argv (`Sequence[str]`, *optional*): The command line, by default that of the process.
        default_config (`str` or `Path`, *optional*): The settings that are read where no `--config` is given.
        flags (`Mapping[str, str]`, *optional*): Names of further on/off options, with their help.
        read_like (`Callable`, *optional*): Gives the settings of an earlier run by its name; with it there is an
            option `--like NAME`, which takes the place of `--config`.
        launch (`bool`, *optional*, defaults to `False`): Whether the help has the `LAUNCH_OPTIONS`, which
            `commands/console.py` takes from the command line before the command runs.
        program (`str`, *optional*): Name of the program in errors and in the help, by default that of the process.
        introduction (`str`, *optional*): Text at the beginning of the help.
        first_word (`str`, *optional*): Name of the option whose value the command line may begin with.

    Returns:
        `tuple`: An instance of each dataclass, then a namespace with `config` and the flags.

    Example:

        >>> from hf_hybrid.training.arguments import ModelArguments
        >>> model, rest = parse_arguments([ModelArguments], ["--pooling", "cls"])
        >>> model.pooling, rest.config
        ('cls', None)
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if first_word is not None and argv and not argv[0].startswith("-"):
        argv.insert(0, f"--{first_word}")
    parser = make_parser(dataclasses, flags, read_like is not None, launch, program, introduction)
    if problem := explain_unknown(find_named_options(argv), parser.names(on_command_line=True), "command line", "--"):
        parser.error(problem)
    config, _ = parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])
    settings: Mapping[str, Any] = {}
    if read_like is not None and config.like:
        if config.config:
            parser.error("--config and --like: both set the defaults; give one, and single options beside it.")
        settings = read_like(config.like)
    elif (name := config.config or default_config) is not None:
        settings = read_settings(str(name), parser.names(on_command_line=False), parser.error)
    parser.set_defaults(**{name: _as_typed(parser, name, value) for name, value in settings.items()})
    try:
        return parser.parse_args_into_dataclasses(argv)
    except ValueError as error:
        parser.error(str(error))
        raise  # for type checkers: the line above exits


def _as_typed(parser: Any, name: str, value: Any) -> Any:
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
