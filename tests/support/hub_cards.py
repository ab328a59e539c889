"""Which metadata of a card the local Hub of the tests refuses; the real one is asked at `/api/validate-yaml`.

The rules are the Hub's that a card of this project could break; the Hub has more. Checked are: the front matter is
YAML and a mapping; `license`, `pipeline_tag` and `sdk` are known ones; a `language` is ISO 639 in small letters, no
region or script; `base_model` and `datasets` are Hub ids; `tags` are texts; what each result of a `model-index` must
have; the length of `short_description`, and the colors of a Space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import langcodes
import yaml

from tests.support.hub.store import front_matter

# Of the licenses: all that the Hub lists but those of single models. Of the tasks: those that take only text.
LICENSES = set(
    """afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc
    cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl
    gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
    openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib""".split()  # noqa: SIM905
)
TEXT_TASKS = set(
    """feature-extraction fill-mask question-answering sentence-similarity summarization table-question-answering
    text-classification text-generation text-ranking token-classification translation
    zero-shot-classification""".split()  # noqa: SIM905
)
SDKS = {"gradio", "docker", "static"}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
LANGUAGE_WORDS = {"code", "multilingual"}
REQUIRED_OF_RESULT = ("task.type", "dataset.type", "dataset.name")


def problems(card: str, repo_type: str) -> tuple[list[str], list[str]]:
    """What is wrong with the front matter of a card.

    Args:
        card (`str`): All of `README.md`.
        repo_type (`str`): `model`, `dataset` or `space`.

    Returns:
        `tuple[list[str], list[str]]`: Errors and warnings.
    """
    try:
        data = front_matter(card)
    except yaml.YAMLError as error:
        return [f"YAML metadata cannot be read: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return [f"YAML metadata must be a mapping, not {type(data).__name__}"], []
    return [
        error for name, check in _RULES[repo_type].items() if name in data for error in check(name, data[name])
    ], []


_Check = Callable[[str, Any], Iterator[str]]


def _one_of(allowed: set[str]) -> _Check:
    def check(name: str, value: Any) -> Iterator[str]:
        if value not in allowed:
            yield f'"{name}" must be one of {sorted(allowed)}, not {value!r}'

    return check


def _each(is_good: Callable[[str], bool], meaning: str) -> _Check:
    def check(name: str, value: Any) -> Iterator[str]:
        for place, text in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(text, str) or not is_good(text):
                yield f'"{name}[{place}]" must be {meaning}, not {text!r}'

    return check


def _is_language(text: str) -> bool:
    is_code = re.fullmatch("[a-z]{2,3}", text) is not None and langcodes.get(text).is_valid()
    return is_code or text in LANGUAGE_WORDS


def _is_hub_id(text: str) -> bool:
    return re.fullmatch(r"(?:[\w.-]+/)?[\w.-]+", text, re.ASCII) is not None


def _model_index(name: str, value: Any) -> Iterator[str]:
    for place, model in enumerate(value if isinstance(value, list) else [value]):
        for number, result in enumerate(_get(model, "results") or []):
            where = f'"{name}[{place}].results[{number}]'
            yield from (f'{where}.{path}" is required' for path in REQUIRED_OF_RESULT if not _get(result, path))
            for metric in _get(result, "metrics") or [{}]:
                needed = ("type", "value")
                yield from (f'{where}.metrics.{path}" is required' for path in needed if _get(metric, path) is None)


def _get(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


_HUB_ID = _each(_is_hub_id, "the id of a repository on the Hub")
_COMMON: dict[str, _Check] = {
    "license": _one_of(LICENSES),
    "language": _each(_is_language, "an ISO 639 code of two or three small letters (BCP-47: see `language_bcp47`)"),
    "tags": _each(bool, "a text"),
}
_RULES: dict[str, dict[str, _Check]] = {
    "model": {
        **_COMMON,
        "pipeline_tag": _one_of(TEXT_TASKS),
        "base_model": _HUB_ID,
        "datasets": _HUB_ID,
        "model-index": _model_index,
    },
    "dataset": _COMMON,
    "space": {
        "sdk": _one_of(SDKS),
        "tags": _COMMON["tags"],
        "colorFrom": _one_of(COLOURS),
        "colorTo": _one_of(COLOURS),
        "short_description": _each(lambda text: len(text) <= 60, "no longer than 60 letters"),
    },
}
