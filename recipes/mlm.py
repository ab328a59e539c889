"""Train an encoder by masked language modeling, as mBERT was, and evaluate it as a retriever before and after.

    accelerate launch recipes/mlm.py
    accelerate launch recipes/mlm.py --tokens_of runs/sample-hybrid
    accelerate launch recipes/mlm.py --config recipes/help/mlm.yaml --train_corpus FOLDER --tokens_of runs/help-hybrid
    accelerate launch recipes/train.py --model_name_or_path runs/sample-mlm/model --train_corpus sample

The text is all queries and passages of the training corpus. The last line fine-tunes what such a run has left.
The same command resumes a run from its newest checkpoint; `--overwrite` starts it over.
Without a config, a corpus and a model it runs the settings sample/mlm: the built-in corpus and a small encoder.
"""

import sys

from hf_hybrid.commands import console

if __name__ == "__main__":
    console.main(["mlm", *sys.argv[1:]])
