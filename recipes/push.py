"""Publish a run, the metric, or the results of a study on the Hugging Face Hub, in one commit.

    python recipes/push.py runs/mine --repo_id user/name --dry_run
    python recipes/push.py runs/mine --repo_id user/name
    python recipes/push.py runs/mine --card_folder model_cards/mine
    python recipes/push.py --metric --repo_id user/beir_cross_lingual --public
    python recipes/push.py --study runs/study --repo_id user/study-results

A new repository is private unless `--public` says otherwise. The same command completes an interrupted push.
"""

import sys

from hf_hybrid.commands import console

if __name__ == "__main__":
    console.main(["push", *sys.argv[1:]])
