"""Publish a run, the metric, or the results of a study on the Hugging Face Hub, in one commit.

    python recipes/push.py runs/mine --repo_id user/name --dry_run
    python recipes/push.py runs/mine --repo_id user/name
    python recipes/push.py runs/mine --card_folder model_cards/mine
    python recipes/push.py --metric --repo_id user/beir_cross_lingual --public
    python recipes/push.py --study runs/study --repo_id user/study-results

A new repository is private unless `--public` says otherwise. The same command goes on where one was broken off.
"""

from __future__ import annotations

import logging
import sys

from hf_hybrid.commands.push import PushArguments, push
from hf_hybrid.records import events
from hf_hybrid.utils.options import explained_errors, parse_arguments


def main() -> None:
    words = sys.argv[1:]
    run = ["--run"] if words and not words[0].startswith("-") else []
    with explained_errors("push.py"):
        args, _ = parse_arguments([PushArguments], [*run, *words])
        events.configure(logging.INFO)
        told = push(args)
    if told is not None:
        print(told)


if __name__ == "__main__":
    main()
