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
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, eval_result_entries_to_yaml

from hf_hybrid.evaluation.heat_map import pair_change_map, pair_heat_map
from hf_hybrid.records import events
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import CardOptions
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.text import Markdown, escape, to_plain_text

from . import card_sections
from .card_metadata import CardFiles, card_data, check_options, eval_entries
from .card_sections import has_pictures, limits, results
from .rerun_command import build_command, quote

CARD_NAME = "README.md"
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
    run_folder = RunFolder(folder)
    outputs = run_folder.outputs
    chosen: dict[str, Any] = dict(run_folder.read_card_options() if options is None else options)
    files = read_files(folder, options)
    several = has_pictures(files._replace(options={}))
    drawn = several and can_draw()
    if several and not drawn:
        events.event("warning", logging.WARNING, problem='no pictures in the card: pip install ".[plots]", in a clone')
    chosen = {name: value for name, value in chosen.items() if name != "pictures" and value is not None}
    chosen |= {} if drawn or not several else {"pictures": False}
    renews_options = bool(chosen) or (run_folder.path / "card.json").exists()
    entries = eval_entries(files)
    eval_results = {
        f"{EVAL_RESULTS_NAME}/{entry.dataset_id.rsplit('/', 1)[-1]}.yaml": entries for entry in entries[:1]
    }
    pictures = picture_names(files._replace(options={})) if drawn else []
    names = [CARD_NAME, *(["card.json"] if renews_options else []), *eval_results]
    outputs.check(*names, *(f"{PICTURES_NAME}/{name}" for name in pictures))
    if renews_options:
        run_folder.write_card_options(chosen)  # type: ignore[arg-type]
    outputs.delete(PICTURES_NAME, EVAL_RESULTS_NAME)
    if drawn:
        outputs.claim(*(f"{PICTURES_NAME}/{name}" for name in pictures))
        _draw(files, run_folder.path / PICTURES_NAME)
    for name, found in eval_results.items():
        with outputs.writing(name) as unfinished:
            unfinished.write_text(yaml.safe_dump(eval_result_entries_to_yaml(found), sort_keys=False), "utf-8")
    with outputs.writing(CARD_NAME) as unfinished:
        unfinished.write_text(card_text(folder), encoding="utf-8", newline="\n")
    return run_folder.path / CARD_NAME


def can_draw() -> bool:
    """Return whether pictures can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def picture_names(files: CardFiles) -> list[str]:
    """The pictures that a card refers to."""
    shown = results(files)
    referred_to = (shown.get("picture"), shown.get("change_picture"))
    return [name for name, shows in zip(PICTURE_NAMES, referred_to, strict=True) if shows]


def pictures_in(card: bytes) -> list[str]:
    """Return the names of the pictures that the text of a card refers to, with their folder.

    Example:

        >>> pictures_in(b"![Heat map](pictures/pairs_after.png)")
        ['pictures/pairs_after.png']
    """
    return sorted({name.decode() for name in re.findall(rb"\b%s/[\w.-]+" % PICTURES_NAME.encode(), card)})


def card_text(folder: str | os.PathLike[str]) -> str:
    """The card of a run as text, from the files of its folder; it needs no model and no pictures there.

    Args:
        folder (`str` or `Path`): A run folder, or a copy of its files that was published.

    Raises:
        ValueError: When the folder holds no run, or a file is damaged.
    """
    files = read_files(folder)
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
        "like": files.by_recipe and files.run["mix"] != "mlm",
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
    begin = [start] if files.by_recipe and files.run["mix"] != "mlm" else []
    return Markdown("\n".join([*begin, *download, f"python recipes/verify.py {name}"]))


def _bibtex(files: CardFiles) -> Markdown | None:
    if (repo := files.options.get("repo_id")) is None:
        return None
    user = repo.rpartition("/")[0]
    fields = {"title": files.name, "author": user, "howpublished": "Hugging Face Hub"}
    fields["url"] = f"https://huggingface.co/{repo}"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return Markdown("\n".join([f"@misc{{{re.sub('[^A-Za-z0-9]+', '-', repo)},", *lines, "}"]))


def _draw(files: CardFiles, folder: Path) -> None:
    """The heat maps that the card refers to."""
    before, after = files.evaluation["before"], files.scores
    assert after is not None
    shown = results(files)
    measure = shown["measure"]
    pair_heat_map(after, folder / PICTURE_NAMES[0], measure, f"{to_plain_text(measure)} after training")
    if before is not None and shown["change_picture"]:
        title = f"{to_plain_text(measure)}: after minus before"
        pair_change_map(before, after, folder / PICTURE_NAMES[1], measure, title)
