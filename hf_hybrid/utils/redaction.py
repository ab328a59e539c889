"""Remove secrets and local paths from texts before they are logged, stored or published."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

# What tokens look like, wherever they stand: of the Hub, GitHub, AWS, providers of models. The last have a digit, for
# `sk` is Slovak too.
TOKENS = (
    r"\b(hf_)[A-Za-z0-9]{20,}\b",
    r"\b(gh[pousr]_)\w{36,}",
    r"\b(github_pat_)\w+",
    r"\b(AKIA)[0-9A-Z]{16}\b",
    r"\b(sk-)(?=[\w-]*\d)[\w-]{20,}",
)
_KEYS = r"token|api[_-]?key|secret|password|signature"
_SECRETS = (
    (re.compile(r"(?<=://)[^/\s]+(?=@)"), "***"),  # user:password@host
    *((re.compile(shape), r"\1***") for shape in TOKENS),
    # as in an address, a command, a file of settings, JSON in a text
    (re.compile(rf"""(?i)((?:{_KEYS})\\*["']?[ \t]*[:=][ \t]*\\*["']?)[^\s&'"\\]+"""), r"\1***"),
    (re.compile(r"(?i)\b(bearer|basic) [A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
)


def redact(text: str) -> str:
    """A text without secrets.

    Example:

        >>> redact("https://me:pass@host/x?token=abc of hf_abcdefghijklmnopqrstuvwxyz")
        'https://***@host/x?token=*** of hf_***'
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if len(secret := os.environ.get(name, "")) >= 4:
            text = text.replace(secret, "***")
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def redact_json(value: Any) -> Any:
    """Redact all texts in lists and dictionaries."""
    if isinstance(value, dict):
        return {key: redact_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_json(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


# What a place begins with: a root, a drive, a share, a home, a folder above, storage; an address of the web does not.
_ROOT = r"(?:(?!https?:|hf:)[A-Za-z][\w+.-]+://|[A-Za-z]:[\\/]|\\\\|/(?!/)|~\w*[\\/]|\.\.[\\/])"
_CHARACTER = r"""(?:[^\s/\\"'<>|:]|(?<=\w)'(?=\w))"""  # of a name within a text, O'Brien's too
_PATH = re.compile(rf"(?<![\w./\\~-])(?:{_ROOT}(?:{_CHARACTER}+[/\\])+|(?:~\w*|\.\.)[/\\]){_CHARACTER}*")
_QUOTED = re.compile(rf"""(?<!\w)(?:"({_ROOT}[^"\n]*)"|'({_ROOT}(?:[^'\n]|(?<=\w)'(?=\w))*)'|`({_ROOT}[^`\n]*)`)""")
_WHOLE_PATH = re.compile(rf"{_ROOT}[^\n:\"]*")
# Arguments and facts that are paths, whatever they look like.
_PATH_NAMES = frozenset(
    {"output_dir", "logging_dir", "train_corpus", "eval_corpus", "cache_dir", "resume_from_checkpoint", "deepspeed"}
    | {"fsdp_config", "accelerator_config", "path"}
)


def publishable(value: Any) -> Any:
    """A value of JSON as it may be shown to anyone: secrets redacted, and of paths on this machine the last part.

    Arguments that are paths lose the folders around them even where these are relative, and so does a model that is
    not known to be the Hub's.

    Example:

        >>> publishable({"corpus": "/data/mine/help", "url": "https://me:pass@host/a/b", "said": "no /data/x/y.json"})
        {'corpus': 'help', 'url': 'https://***@host/a/b', 'said': 'no y.json'}
        >>> publishable({"config": {"train_corpus": "mine/help", "mix": "mono=1/2"}})
        {'config': {'train_corpus': 'help', 'mix': 'mono=1/2'}}
    """
    shown = cache(_publishable_value)  # in the scores of many languages the same names come again and again

    def of(inner: Any, path_names: frozenset[str]) -> Any:
        if isinstance(inner, dict):
            if "config" in inner and not _is_of_hub(inner.get("model")):
                path_names |= {"model_name_or_path"}
            found = {shown(key): of(element, path_names) for key, element in inner.items()}
            return {key: _last_part(element) if key in path_names else element for key, element in found.items()}
        if isinstance(inner, list | tuple):
            return [of(element, path_names) for element in inner]
        return shown(inner) if isinstance(inner, str) else inner

    return of(value, _PATH_NAMES)


def publishable_text(text: str) -> str:
    """Return a text of any length, such as a table or a log, as it may be published.

    Example:

        >>> publishable_text("read '/data/my corpora/help.csv'\\nwrote ../../me/runs/x, 1/2 of it")
        "read 'help.csv'\\nwrote x, 1/2 of it"
    """
    text = redact(text)
    for place in {os.path.expanduser("~"), os.getcwd()}:  # which may have spaces in it
        if len(Path(place).parts) > 2:
            text = re.sub(rf"(?<![\w.]){re.escape(place)}(?=[/\\])", "~", text)
    text = _QUOTED.sub(lambda found: found[0][0] + _last_part(next(filter(None, found.groups()))) + found[0][0], text)
    return _PATH.sub(lambda found: _last_part(found[0]), text)


def _publishable_value(text: str) -> str:
    if _WHOLE_PATH.fullmatch(text):
        return _last_part(redact(text))
    return publishable_text(text)


def _last_part(place: Any) -> Any:
    """Return the last part of a path; URLs and other values are returned unchanged."""
    if not isinstance(place, str) or re.match("https?://", place):
        return place
    path = PureWindowsPath(place)  # which knows both separators
    if path.parent.name in ("home", "Users"):
        return "~"  # the name of a user
    return path.name or place


def _is_of_hub(model: Any) -> bool:
    return isinstance(model, dict) and model.get("commit") is not None
