"""The model card of a run: what the model is, how to use it, what it scores and what it cost, for people and the Hub.

1. The files of the run folder are read, without secrets and local paths.
2. `card_metadata` makes the YAML at the head of them, `card_sections` the tables of the body.
3. `model_card_template.md` puts them together; whatever others have named is escaped.

The card is a function of `run.json`, `eval.json`, `resources.json`, `plan.json` and `card.json` alone: the same files
give the same bytes, here or in a copy that was published. Its size hardly depends on the number of languages.
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
from .card_metadata import CardFiles, card_data, check_options, eval_entries
from .card_sections import limits, results
from .rerun_command import build_command, quote

CARD_NAME, CARD_OPTIONS_NAME = "README.md", "card.json"
PICTURES_NAME = "pictures"
PICTURE_NAMES = ("pairs_after.png", "pairs_change.png")
EVAL_RESULTS_NAME = ".eval_results"
_TEMPLATE = Path(__file__).with_name("model_card_template.md")


def write_card(folder: str | os.PathLike[str], options: CardOptions | None = None) -> Path:
    """Write the model card of a run, its pictures, and what leaderboards on the Hub read; earlier ones are replaced.

    A run that has not finished gets a card too, which says so.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`, *optional*): What the run cannot know, kept in `card.json`; by default what is there.

    Returns:
        `Path`: `README.md` in the folder.

    Raises:
        ValueError: When the folder holds no run, a file is damaged, an option is not what the Hub takes, or a file is
            in the way that no recipe wrote. Nothing was written then.
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
    """Return `README.md`, its pictures, `card.json` and what leaderboards read, by name, from the files of a run.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`, *optional*): By default those of `card.json`.
        drawn (`Mapping[str, bytes]`, *optional*): Pictures that are there already. Others are drawn, and where they
            cannot be, the card refers to none.

    Raises:
        ValueError: When the folder holds no run, a file is damaged, or an option is not what the Hub takes.
    """
    run_folder = RunFolder(folder)
    chosen: Any = dict(run_folder.read_card_options() if options is None else options)
    chosen = {name: value for name, value in chosen.items() if name != "pictures" and value is not None}
    files = read_files(folder, chosen)
    pictures = {name: (drawn or {}).get(name) for name in picture_names(files)}
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
    """Return the results of a known benchmark, as leaderboards of the Hub read them, by name."""
    entries = eval_entries(files)
    return {
        f"{EVAL_RESULTS_NAME}/{entry.dataset_id.rsplit('/', 1)[-1]}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(entries), sort_keys=False
        ).encode()
        for entry in entries[:1]
    }


def build_pictures(files: CardFiles) -> dict[str, bytes]:
    """Draw the heat maps that the card refers to, and return them by name."""
    before, after, found = files.evaluation["before"], files.scores, {}
    measure = results(files).get("measure", "")
    with tempfile.TemporaryDirectory() as place:
        for name in picture_names(files):
            assert after is not None
            path = Path(place, Path(name).name)
            if path.name == PICTURE_NAMES[0]:
                pair_heat_map(after, path, measure, f"{to_plain_text(measure)} after training")
            elif before is not None:
                pair_change_map(before, after, path, measure, f"{to_plain_text(measure)}: after minus before")
            found[name] = path.read_bytes()
    return found


def can_draw() -> bool:
    """Return whether pictures can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def picture_names(files: CardFiles) -> list[str]:
    """Return the names of the pictures that a card refers to, with their folder."""
    shown = results(files)
    referred_to = (shown.get("picture"), shown.get("change_picture"))
    return [f"{PICTURES_NAME}/{name}" for name, shows in zip(PICTURE_NAMES, referred_to, strict=True) if shows]


def pictures_in(card: bytes) -> list[str]:
    """Return the names of the pictures that the text of a card refers to, with their folder.

    Example:

        >>> pictures_in(b"![Heat map](pictures/pairs_after.png)")
        ['pictures/pairs_after.png']
    """
    return sorted({name.decode() for name in re.findall(rb"\b%s/[\w.-]+" % PICTURES_NAME.encode(), card)})


def build_card(files: CardFiles) -> str:
    """Return the text of the card of a run; it needs no model and no pictures."""
    content: dict[str, Any] = {
        "name": files.name,
        "unfinished": None if files.run["status"] == "finished" else files.run["status"],
        "num_languages": f"{len(files.languages)} language{'s' if len(files.languages) != 1 else ''}",
        "facts": card_sections.facts(files),
        "place": None if files.options.get("repo_id") else files.folder,
        "code": card_sections.code(files),
        "results": results(files),
        "training": card_sections.training(files),
        "data": card_sections.data(files),
        "resources": card_sections.resources(files),
        "limits": limits(files),
        "again": _again(files),
        "like": files.by_recipe and not is_mlm(files.run),
        "command": build_command(files.run, files.languages) if files.by_recipe else None,
        "bibtex": _bibtex(files),
    }
    return f"{ModelCard.from_template(card_data(files), str(_TEMPLATE), **escape(content))}\n"


def read_files(folder: str | os.PathLike[str], options: CardOptions | None = None) -> CardFiles:
    """Read what a card is built from, without secrets and local paths.

    Args:
        folder (`str` or `Path`): The run folder.
        options (`CardOptions`, *optional*): By default those of `card.json`.

    Raises:
        ValueError: When there is no `run.json`, or a file is damaged.
    """
    run_folder = RunFolder(folder)

    def there(name: str) -> bool:
        return (run_folder.path / name).exists()

    if not there("run.json"):
        raise ValueError(f"{run_folder.path} holds no run.json: a model card is written of a run folder.")
    options = run_folder.read_card_options() if options is None else options
    check_options(options)  # as they were given: the last part of a path could be an id
    return CardFiles(
        run=publishable(run_folder.read_run()),
        evaluation=publishable(run_folder.read_eval() if there("eval.json") else {"before": None, "after": None}),
        resources=publishable(run_folder.read_resources()) if there("resources.json") else None,
        plan=run_folder.read_plan() if there("plan.json") else None,
        options=publishable(options),
    )


def _again(files: CardFiles) -> Markdown:
    """Commands that start the run again, and check what it left."""
    repo = files.options.get("repo_id")
    name = quote(files.name if repo else files.folder)
    start = (
        f"accelerate launch recipes/train.py --like {repo or name} --output_dir {quote(f'runs/{files.name}-again')}"
    )
    download = [f"hf download {repo} --local-dir {name}"] if repo else []
    begin = [start] if files.by_recipe and not is_mlm(files.run) else []
    return Markdown("\n".join([*begin, *download, f"python recipes/verify.py {name}"]))


def _bibtex(files: CardFiles) -> Markdown | None:
    if (repo := files.options.get("repo_id")) is None:
        return None
    user = repo.rpartition("/")[0]
    fields = {"title": files.name, "author": user, "howpublished": "Hugging Face Hub"}
    fields["url"] = f"https://huggingface.co/{repo}"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return Markdown("\n".join([f"@misc{{{re.sub('[^A-Za-z0-9]+', '-', repo)},", *lines, "}"]))
