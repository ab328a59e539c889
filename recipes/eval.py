"""Evaluate a model on all languages against all, from one encoding of each.

    python recipes/eval.py --model runs/sample-hybrid/model --languages en,de,ja --held_out 100
    python recipes/eval.py --model intfloat/multilingual-e5-small --corpus FOLDER --query_prompt "query: " \
        --passage_prompt "passage: " --save_runs
    accelerate launch recipes/eval.py --model runs/mine/model --corpus miracl --settings monolingual

The same command resumes a killed one. The output folder is by default one for each model and corpus;
one that holds another evaluation is refused, unless `--overwrite` replaces it.
"""

import sys

from hf_hybrid.commands import console

if __name__ == "__main__":
    console.main(["eval", *sys.argv[1:]])
