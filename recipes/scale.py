"""Train and evaluate a grid of arms, numbers of languages and seeds, and say how costs and quality go with languages.

    python recipes/scale.py --config sample/study
    python recipes/scale.py --config sample/study --list
    python recipes/scale.py --config sample/study --only "hybrid-*,mlm-*" --retry_failed
    python recipes/scale.py --plan MACHINE.yaml --study_dir runs/sample-study --languages 64 --batch_size 256
    sbatch --array 0-108 accelerate_configs/scale.sbatch --config sample/study

Each trial is a run of recipes/train.py, mlm.py or eval.py in a process and a folder of its own. The same command goes
on with a study that was stopped; more arms, seeds or numbers of languages add trials to it; `--overwrite` starts over.
Without a config and a corpus it runs the settings sample/study.
"""

import sys

from hf_hybrid.commands import console

if __name__ == "__main__":
    console.main(["scale", *sys.argv[1:]])
