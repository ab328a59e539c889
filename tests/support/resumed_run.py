"""A run of `recipes/train.py`, and once more from its checkpoint of step 3, in the same processes.

`accelerate launch --config_file FILE tests/support/resumed_run.py OPTIONS` leaves `whole/` and `again/` in
the output_dir.
"""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

from hf_hybrid.utils import distributed

RECIPE = str(Path(__file__).parents[2] / "recipes" / "train.py")


def train(folder: Path, options: list[str]) -> None:
    sys.argv = [RECIPE, *options, "--output_dir", str(folder)]
    runpy.run_path(RECIPE, run_name="__main__")


if __name__ == "__main__":
    *options, place = sys.argv[1:]
    folder = Path(place)
    train(folder / "whole", options)
    if distributed.rank() == 0:
        shutil.copytree(folder / "whole" / "checkpoint-3", folder / "again" / "checkpoint-3")
    distributed.barrier()
    train(folder / "again", options)
