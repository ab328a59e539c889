"""Check the figures of a run, or of a study, by its files: every hash, total, score and line of its card or report.

    hf-hybrid verify runs/sample-hybrid
    hf-hybrid verify DOWNLOADED_REPOSITORY --train_corpus FOLDER --eval_corpus FOLDER
    hf-hybrid verify runs/sample-hybrid/bundle --rerun --output_dir runs/again
    hf-hybrid verify runs/sample-study

PATH is a bundle, a run folder, a downloaded repository of a published run, a study of `hf-hybrid scale`, or its copy.
It prints what is right, what is wrong and where, and what the files cannot tell; the exit code is 1 where anything is
wrong. `--rerun` trains a run again and compares.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_hybrid.hub.bundle import BUNDLE_NAME
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.utils.options import explain_errors, option, parse_arguments
from hf_hybrid.verification.files import Given
from hf_hybrid.verification.findings import WRONG, Finding, format_findings
from hf_hybrid.verification.rerun import (
    RELATIVE_TOLERANCE,
    TOLERANCE,
    compare_runs,
    refuse_rerun,
    rerun_options,
    unlike_machines,
)
from hf_hybrid.verification.study import refuse_study_rerun
from hf_hybrid.verification.verify import verify

from .console import introduction

PATHS = ("output_dir", "train_corpus", "eval_corpus", "model_name_or_path", "cache_dir")  # may be others here


@dataclass
class VerifyArguments:
    """Options of `verify`."""

    path: str | None = option(None, "Bundle, run folder, downloaded repository or study; also the first word.")
    train_corpus: str | None = option(
        None, "Folder or preset of the training corpus, which tells more; 'sample' is known."
    )
    eval_corpus: str | None = option(None, "Likewise of the evaluation corpus.")
    cache_dir: str | None = option(None, "Where built corpora are kept.")
    rerun: bool = option(False, "Train again with the same settings, and compare.")
    output_dir: str = option("runs/rerun", "The run folder of --rerun.")
    model_name_or_path: str | None = option(None, "Where the model lies that --rerun begins with, if it was a folder.")
    tolerance: float = option(
        TOLERANCE, "How far measures of --rerun may lie apart, where it cannot be the same bit for bit."
    )
    relative_tolerance: float = option(RELATIVE_TOLERANCE, "Likewise losses and the rank distance, of the larger one.")

    def __post_init__(self) -> None:
        if self.path is None:
            raise ValueError("--path is missing: give a bundle, a run folder, a downloaded repository or a study.")
        for name in ("tolerance", "relative_tolerance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a number from 0 to 1.")


ARGUMENTS = (VerifyArguments,)


def main(argv: Sequence[str] | None = None, program: str = "hf-hybrid verify") -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): Its options, by default those of the process.
        program (`str`, *optional*, defaults to `"hf-hybrid verify"`): Its name in errors and in the help.
    """
    # Arguments
    with explain_errors(program):
        args, _ = parse_arguments(
            ARGUMENTS, argv, program=program, introduction=introduction("verify", program), first_word="path"
        )
    path = Path(args.path)

    # What the files tell
    with explain_errors(program):
        if args.rerun and (path / "study.json").is_file():
            refuse_study_rerun(path)
        findings = verify(path, Given(args.train_corpus, args.eval_corpus, args.cache_dir))
        print(format_findings(findings))

    # What the same run gives again
    if args.rerun:
        with explain_errors(program):
            again = run_again(path / BUNDLE_NAME if (path / BUNDLE_NAME).is_dir() else path, args)
            print(f"\n{format_findings(again)}")
            findings += again
    raise SystemExit(int(any(finding.status == WRONG for finding in findings)))


def run_again(bundle: Path, args: VerifyArguments) -> list[Finding]:
    """Train with the settings of a run in this environment, on one process, and compare."""
    first = RunFolder(bundle).read_run()
    refuse_rerun(first, args.output_dir)
    paths = {name: getattr(args, name) for name in PATHS}
    command = [sys.executable, "-m", "hf_hybrid", "train", *rerun_options(first, bundle, **paths)]
    if (code := subprocess.run(command).returncode) != 0:
        raise ValueError(f"the run could not be made again: {' '.join(command)} ended with {code}; see above.")
    second = RunFolder(args.output_dir).read_run()
    if unlike := unlike_machines(first, second):
        print(
            f"\nCompared within {args.tolerance} (measures) and {args.relative_tolerance:.0%} (losses, rank distance)."
        )
        print("\n".join(f"Not bit for bit, for they are unlike in {reason}" for reason in unlike))
    else:
        print("\nCompared bit for bit: versions, machine, processes and threads are the same.")
    return compare_runs(bundle, args.output_dir, args.tolerance, args.relative_tolerance)
