"""Train and evaluate a grid of arms, numbers of languages and seeds, and say how costs and quality go with languages.

    hf-hybrid scale --config sample/study
    hf-hybrid scale --config sample/study --list
    hf-hybrid scale --config sample/study --only "hybrid-*,mlm-*" --retry_failed
    hf-hybrid scale --plan MACHINE.yaml --study_dir runs/sample-study --languages 64 --batch_size 256
    sbatch --array 0-108 accelerate_configs/scale.sbatch --config sample/study

Each trial is a run of `hf-hybrid train`, `mlm` or `eval` in a process and a folder of its own. The same command goes
on with a study that was stopped; more arms, seeds or numbers of languages add trials to it; `--overwrite` deletes it
first. Without a config and a corpus it runs the settings sample/study.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_hybrid.scaling.grid.arguments import StudyArguments
from hf_hybrid.scaling.planner.planner import PlanArguments, plan_from_study, prediction_table
from hf_hybrid.utils.options import explain_errors, find_named_options, parse_arguments

from .console import introduction

# The modules that run a study load torch. They are imported in `main`, for the command line is read before.
if TYPE_CHECKING:
    from hf_hybrid.scaling.grid.folder import Study, StudyFolder

ARGUMENTS = (StudyArguments, PlanArguments)
DEFAULT_CONFIG = "sample/study"
PATIENCE_S = 3600.0  # jobs of an array wait for the one that prepares the study
FLAGS = {
    "list": "Print the trials with their numbers and how far they are, and run none.",
    "overwrite": "Delete the files of the study that study_dir holds, and start again.",
}


def main(argv: Sequence[str] | None = None, program: str = "hf-hybrid scale") -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): Its options, by default those of the process.
        program (`str`, *optional*, defaults to `"hf-hybrid scale"`): Its name in errors and in the help.
    """
    # Arguments
    argv = list(sys.argv[1:] if argv is None else argv)
    named = {name.replace("-", "_") for name in find_named_options(argv)}
    with explain_errors(program):
        own = named & {"train_corpus", "train_config", "plan"}
        args, plan_args, rest = parse_arguments(
            ARGUMENTS,
            argv,
            default_config=None if own else DEFAULT_CONFIG,
            flags=FLAGS,
            program=program,
            introduction=introduction("scale", program),
        )
        if plan_args.plan:
            print(prediction_table(plan_from_study(args.study_dir, args.counts, plan_args)))
            return
        if rest.list and rest.overwrite:
            raise ValueError("--list shows the trials of a study and --overwrite deletes them: leave one of them out.")

    from hf_hybrid.scaling.grid.arms import select_trials
    from hf_hybrid.scaling.grid.folder import StudyFolder
    from hf_hybrid.scaling.grid.setup import check_request, prepare_study
    from hf_hybrid.scaling.grid.sweep import Sweep
    from hf_hybrid.training.interruption import alone_in

    # What all trials share: what can be wrong is looked for before anything is written or deleted
    folder = StudyFolder(args.study_dir)
    with explain_errors(program):
        request = check_request(args, folder, rest.overwrite)
        select_trials(request.trials, args.only, args.trial)
        launch = shlex.split(args.launch) if args.launch else [sys.executable]
        sweep = Sweep(folder, launch, args.jobs, args.threads, say)
        with alone_in(folder.path, PATIENCE_S):
            study = prepare_study(request, folder, sweep.run, rest.overwrite)
        trials = select_trials(study["trials"], args.only, args.trial)
    if rest.list:
        for number, trial in enumerate(study["trials"]):
            say(f"{number:>4}  {trial['id']:<36} {folder.status(trial)}")
        for gap in study["absent"]:
            say(f"   -  {gap['id']:<36} absent: {gap['reason']}")
        return

    # Trials
    say(f"{len(trials)} of {len(study['trials'])} trials, {args.jobs} at a time; {study['budget']['how']}")
    with explain_errors(program):
        try:
            status = sweep.run(trials, args.retry_failed)
        finally:
            collect(folder, study)
    say(f"\n{args.study_dir}/table.json, fits.json; the run folders: {args.study_dir}/trials/")
    sys.exit(1 if "failed" in status.values() else 0)


def collect(folder: StudyFolder, study: Study) -> None:
    """Write and tell what is known so far."""
    from hf_hybrid.scaling.grid.fits import make_fits
    from hf_hybrid.scaling.grid.table import format_table, make_table

    table = make_table(folder, study)
    folder.write("table.json", table)
    folder.write("fits.json", make_fits(study, table))
    say("\n" + format_table(table))


def say(text: str) -> None:
    print(text, flush=True)
