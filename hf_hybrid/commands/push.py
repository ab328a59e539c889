"""Publish a run, the metric, or the results of a study on the Hugging Face Hub, in one commit.

    hf-hybrid push runs/mine --repo_id user/name --dry_run
    hf-hybrid push runs/mine --repo_id user/name
    hf-hybrid push runs/mine --card_folder model_cards/mine
    hf-hybrid push --metric --repo_id user/beir_cross_lingual --public
    hf-hybrid push --study runs/study --repo_id user/study-results

A new repository is private unless `--public` says otherwise. The same command completes an interrupted push.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hf_hybrid.hub.card_metadata import find_doubts
from hf_hybrid.hub.commit import PushOptions
from hf_hybrid.hub.push import (
    Pushed,
    check_repo_id,
    choose_card_options,
    push_metric,
    push_run,
    push_study,
    write_card_folder,
)
from hf_hybrid.records import events
from hf_hybrid.records.schema import CardOptions
from hf_hybrid.utils.options import explain_errors, option, parse_arguments

from .console import introduction

_OF_CARDS = ("base_model", "datasets", "carbon_intensity_g_per_kwh", "carbon_intensity_source")
_OF_RUNS = ("card_folder", "unfinished", "keep_card", *_OF_CARDS)


@dataclass
class PushArguments:
    """Options of `push`: what to publish, and where."""

    run: str | None = option(None, "Run folder, whose model is published; also the first word of the command.")
    metric: bool = option(False, "Publish the metric beir_cross_lingual as a Space.")
    study: str | None = option(None, "Folder of a study, whose results are published as a dataset repository.")
    repo_id: str | None = option(None, "Where to: user/name or organization/name.")
    card_folder: str | None = option(
        None, "Push nothing; write the card of --run, with what it is made from but no weights, to this folder."
    )
    public: bool = option(False, "Make the repository, where it is new, for everybody to see.")
    revision: str | None = option(None, "Branch, made if need be; by default main.")
    commit_message: str | None = option(None, "First line of the commit's message.")
    dry_run: bool = option(False, "List the files with their sizes and what would be deleted; change nothing.")
    overwrite: bool = option(False, "Push on top of commits that are not from here; their history stays.")
    create_pr: bool = option(False, "Propose the commit as a pull request.")
    unfinished: bool = option(False, "Push a run that has not finished; its card says so.")
    keep_card: bool = option(
        False, "Publish a README.md that was edited by hand as it is; its license, name and figures are not updated."
    )
    license: str | None = option(
        None, "Of the model or of the results, for the card: an identifier of the Hub such as apache-2.0."
    )
    base_model: str | None = option(None, "Hub id of the model it was trained from, for its card.")
    datasets: str | None = option(None, "Comma-separated Hub ids of what it was trained on, for its card.")
    carbon_intensity_g_per_kwh: float | None = option(
        None, "Grams of CO2 for each kWh of the electricity that the run used: with its energy, the card's emissions."
    )
    carbon_intensity_source: str | None = option(None, "Who says so, for which place and time.")

    def __post_init__(self) -> None:
        given = [name for name in ("run", "metric", "study") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"Give one of --run FOLDER, --metric and --study FOLDER; got {' and '.join(given) or 'none'}."
            )
        if self.repo_id is not None:
            check_repo_id(self.repo_id)
        elif self.card_folder is None:
            raise ValueError("Give --repo_id user/name, or organization/name: the repository to push to.")
        of_runs = [name for name in _OF_RUNS if getattr(self, name) is not None and getattr(self, name) is not False]
        if of_runs and not self.run:
            raise ValueError(f"--{of_runs[0]} is for --run; omit it.")
        if self.license and self.metric:
            raise ValueError("--license is for --run and --study; the metric has its own. Omit it.")


ARGUMENTS = (PushArguments,)


def main(argv: Sequence[str] | None = None, program: str = "hf-hybrid push") -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): Its options, by default those of the process.
        program (`str`, *optional*, defaults to `"hf-hybrid push"`): Its name in errors and in the help.
    """
    with explain_errors(program):
        args, _ = parse_arguments(
            ARGUMENTS, argv, program=program, introduction=introduction("push", program), first_word="run"
        )
        events.configure(logging.INFO)
        told = push(args)
    if told is not None:
        print(told)


def push(args: PushArguments) -> str | None:
    """Publish what the arguments say, and what came of it, in words; on other processes than the first, nothing."""
    if os.environ.get("RANK", "0") != "0":
        return None
    for problem in find_doubts(args.license, args.base_model):
        events.event("warning", logging.WARNING, problem=problem)
    if args.card_folder:
        run, target = Path(str(args.run)), Path(args.card_folder)
        names = write_card_folder(run, choose_card_options(run, args.repo_id, _card(args)), target, args.keep_card)
        return f"Written to {target}, and nothing was sent: {', '.join(names)}"
    return _push(args).describe()


def _push(args: PushArguments) -> Pushed:
    assert args.repo_id is not None
    options = PushOptions(
        private=not args.public,
        revision=args.revision,
        commit_message=args.commit_message,
        dry_run=args.dry_run,
        overwrite=args.overwrite,
        create_pr=args.create_pr,
    )
    if args.metric:
        return push_metric(args.repo_id, options)
    if args.study:
        return push_study(args.study, args.repo_id, options, license=args.license)
    of_run: dict[str, Any] = {"unfinished": args.unfinished, "keep_card": args.keep_card}
    return push_run(str(args.run), args.repo_id, options, card=_card(args), **of_run)


def _card(args: PushArguments) -> CardOptions:
    given = {name: getattr(args, name) for name in ("license", *_OF_CARDS)}
    return cast(CardOptions, {**given, "datasets": args.datasets.split(",") if args.datasets else None})
