"""Check the figures of a run, or of a study, by its files: every hash, total, score and line of its card or report.

    python recipes/verify.py runs/sample-hybrid
    python recipes/verify.py DOWNLOADED_REPOSITORY --train_corpus FOLDER --eval_corpus FOLDER
    python recipes/verify.py runs/sample-hybrid/bundle --rerun --output_dir runs/again
    python recipes/verify.py runs/sample-study

PATH is a bundle, a run folder, a downloaded repository of a published run, a study of recipes/scale.py, or its copy.
It prints what is right, what is wrong and where, and what the files cannot tell; the exit code is 1 where anything is
wrong. `--rerun` trains a run again and compares.
"""

import sys

from hf_hybrid.commands import console

if __name__ == "__main__":
    console.main(["verify", *sys.argv[1:]])
