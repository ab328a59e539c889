"""Train a multilingual retriever with hybrid batches, and evaluate it before and after.

    accelerate launch recipes/train.py
    accelerate launch recipes/train.py --config recipes/help/hybrid.yaml --train_corpus FOLDER --eval_corpus FOLDER
    accelerate launch recipes/train.py --dry_run --mix mono=1,cross=1,pool=1
    accelerate launch recipes/train.py --like user/name --output_dir runs/again

The same command resumes a run from its newest checkpoint; `--overwrite` starts it over.
Without a config, a corpus and a model it runs the settings sample/hybrid: the built-in corpus and a small encoder.
"""

import sys

from hf_hybrid.commands import console

if __name__ == "__main__":
    console.main(["train", *sys.argv[1:]])
