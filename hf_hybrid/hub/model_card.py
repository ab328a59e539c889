"""The model card of a run: what the model is, how to use it, its scores and its cost, for people and for the Hub.

1. `read_files` reads the records of the run folder, without secrets and local paths.
2. `card_metadata` builds the YAML header, and `card_sections` the tables.
3. `model_card_template.md` puts them together. Names that others chose are escaped.

The card is a function of `run.json`, `eval.json`, `resources.json` and `card.json` alone: the same files give the same
bytes, also in a published copy. Its size hardly depends on the number of languages.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, eval_result_entries_to_yaml

from hf_hybrid.evaluation.heat_map import pair_change_map, pair_heat_map
from hf_hybrid.records import events
from hf_hybrid.records.run_folder import RunFolder, encode_card_options
from hf_hybrid.records.schema import CardOptions, is_mlm
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.text import Markdown, escape, to_plain_text

from . import card_sections
from .card_metadata import CardFiles, build_metadata, check_options, list_eval_entries
from .rerun_command import build_command, quote

CARD_NAME, CARD_OPTIONS_NAME = "README.md", "card.json"
PICTURES_NAME = "pictures"
PICTURE_NAMES = ("pairs_after.png", "pairs_change.png")
EVAL_RESULTS_NAME = ".eval_results"
_TEMPLATE = Path(__file__).with_name("model_card_template.md")


def write_card(folder: str | os.PathLike[str], options: CardOptions | None = None) -> Path:
    """Write the model card of a run, with its pictures and leaderboard results. Earlier ones are replaced.

    The card of an unfinished run says so.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`, *optional*): Facts that the run cannot know; by default those of `card.json`.

    Returns:
        `Path`: `README.md` in the folder.

    Raises:
        ValueError: When the folder is not a run, a file is damaged, the Hub would refuse an option, or a file that no
            recipe wrote has the same name. Then nothing is written.
    """
    outputs = RunFolder(folder).outputs
    found = build_card_files(folder, options)
    outputs.check(*found)
    outputs.delete(PICTURES_NAME, EVAL_RESULTS_NAME)
    for name, content in found.items():
        outputs.write(name, content)
    return outputs.path / CARD_NAME


def build_card_files(
    folder: str | os.PathLike[str], options: CardOptions | None = None, drawn: Mapping[str, bytes] | None = None
) -> dict[str, bytes]:
    """Build `README.md`, its pictures, `card.json` and leaderboard results, by name, from the records of a run.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`, *optional*): By default those of `card.json`.
        drawn (`Mapping[str, bytes]`, *optional*): Existing pictures. Others are drawn; without matplotlib the card
            has no pictures.

    Raises:
        ValueError: When the folder is not a run, a file is damaged, or the Hub would refuse an option.
    """
    run_folder = RunFolder(folder)
    chosen: Any = dict(run_folder.read_card_options() if options is None else options)
    chosen = {name: value for name, value in chosen.items() if name != "pictures" and value is not None}
    files = read_files(folder, chosen)
    pictures = {name: (drawn or {}).get(name) for name in list_pictures(files)}
    if None in pictures.values():
        if can_draw():
            pictures |= build_pictures(files)
        else:
            problem = 'no pictures in the card: pip install ".[plots]", in a clone'
            events.event("warning", logging.WARNING, problem=problem)
            chosen, pictures = {**chosen, "pictures": False}, {}
            files = read_files(folder, chosen)
    found: dict[str, Any] = {CARD_NAME: build_card(files).encode(), **build_eval_results(files), **pictures}
    if chosen or (run_folder.path / CARD_OPTIONS_NAME).exists():
        found[CARD_OPTIONS_NAME] = encode_card_options(chosen)
    return found


def build_eval_results(files: CardFiles) -> dict[str, bytes]:
    """Build the results of a known benchmark for the leaderboards of the Hub, by name."""
    entries = list_eval_entries(files)
    if not entries:
        return {}
    content = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return {f"{EVAL_RESULTS_NAME}/{entries[0].dataset_id.rsplit('/', 1)[-1]}.yaml": content.encode()}


def build_pictures(files: CardFiles) -> dict[str, bytes]:
    """Draw the heat maps of the card, by name."""
    before, after, found = files.evaluation["before"], files.scores, {}
    measure = card_sections.build_results(files).get("measure", "")
    with tempfile.TemporaryDirectory() as place:
        for name in list_pictures(files):
            assert after is not None
            path = Path(place, Path(name).name)
            if path.name == PICTURE_NAMES[0]:
                pair_heat_map(after, path, measure, f"{to_plain_text(measure)} after training")
            elif before is not None:
                pair_change_map(before, after, path, measure, f"{to_plain_text(measure)}: after minus before")
            found[name] = path.read_bytes()
    return found


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def list_pictures(files: CardFiles) -> list[str]:
    """Return the names of the pictures of a card, with their folder."""
    shown = card_sections.build_results(files)
    needed = (shown.get("picture"), shown.get("change_picture"))
    return [f"{PICTURES_NAME}/{name}" for name, is_needed in zip(PICTURE_NAMES, needed, strict=True) if is_needed]


def find_pictures(card: bytes) -> list[str]:
    """Return the names of the pictures in the text of a card, with their folder.

    Example:

        >>> find_pictures(b"![Heat map](pictures/pairs_after.png)")
        ['pictures/pairs_after.png']
    """
    return sorted({name.decode() for name in re.findall(rb"\b%s/[\w.-]+" % PICTURES_NAME.encode(), card)})


def build_card(files: CardFiles) -> str:
    """Build the text of the card of a run. It needs neither the model nor the pictures."""
    content: dict[str, Any] = {
        "name": files.name,
        "unfinished": None if files.run["status"] == "finished" else files.run["status"],
        "num_languages": f"{len(files.languages)} language{'s' if len(files.languages) != 1 else ''}",
        "facts": card_sections.build_facts(files),
        "place": None if files.options.get("repo_id") else files.folder,
        "code": card_sections.build_code(files),
        "results": card_sections.build_results(files),
        "training": card_sections.build_training(files),
        "data": card_sections.build_data(files),
        "resources": card_sections.build_resources_section(files),
        "limits": card_sections.list_limitations(files),
        "again": _build_rerun(files),
        "like": files.is_by_recipe and not is_mlm(files.run),
        "command": build_command(files.run, files.languages) if files.is_by_recipe else None,
        "bibtex": _build_bibtex(files),
    }
    return f"{ModelCard.from_template(build_metadata(files), str(_TEMPLATE), **escape(content))}\n"


def read_files(folder: str | os.PathLike[str], options: CardOptions | None = None) -> CardFiles:
    """Read the records that a card is built from, without secrets and local paths.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`, *optional*): By default those of `card.json`.

    Raises:
        ValueError: When there is no `run.json`, or a file is damaged.
    """
    run_folder = RunFolder(folder)
    path = run_folder.path
    if not (path / "run.json").exists():
        raise ValueError(f"{path} holds no run.json: a model card needs a run folder.")
    options = run_folder.read_card_options() if options is None else options
    check_options(options)  # before paths are cut: the last part of a path could be an id
    evaluation: Any = {"before": None, "after": None, "evaluated": {}}
    return CardFiles(
        run=publishable(run_folder.read_run()),
        evaluation=publishable(run_folder.read_eval() if (path / "eval.json").exists() else evaluation),
        resources=publishable(run_folder.read_resources()) if (path / "resources.json").exists() else None,
        options=publishable(options),
    )


def _build_rerun(files: CardFiles) -> Markdown:
    """Return the commands that repeat the run and verify its records."""
    repo = files.options.get("repo_id")
    name = quote(files.name if repo else files.folder)
    output = quote(f"runs/{files.name}-again")
    train = [f"accelerate launch recipes/train.py --like {repo or name} --output_dir {output}"]
    download = [f"hf download {repo} --local-dir {name}"] if repo else []
    start = train if files.is_by_recipe and not is_mlm(files.run) else []
    return Markdown("\n".join([*start, *download, f"python recipes/verify.py {name}"]))


def _build_bibtex(files: CardFiles) -> Markdown | None:
    if (repo := files.options.get("repo_id")) is None:
        return None
    fields = {"title": files.name, "author": repo.rpartition("/")[0], "howpublished": "Hugging Face Hub"}
    fields["url"] = f"https://huggingface.co/{repo}"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return Markdown("\n".join([f"@misc{{{re.sub('[^A-Za-z0-9]+', '-', repo)},", *lines, "}"]))
