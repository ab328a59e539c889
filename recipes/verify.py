"""Check the figures of a run, or of a study, by its files: every hash, total, score and line of its card or report.

    python recipes/verify.py runs/sample-hybrid
    python recipes/verify.py DOWNLOADED_REPOSITORY --train_corpus FOLDER --eval_corpus FOLDER
    python recipes/verify.py runs/sample-hybrid/bundle --rerun --output_dir runs/again
    python recipes/verify.py runs/sample-study

PATH is a bundle, a run folder, a downloaded repository of a published run, a study of recipes/scale.py, or its copy.
It prints what is right, what is wrong and where, and what the files cannot tell; the exit code is 1 where anything is
wrong. `--rerun` trains a run again and compares.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hf_hybrid.hub.bundle import BUNDLE_NAME
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.utils.options import explained_errors, parse_arguments
from hf_hybrid.verification.evidence import Given
from hf_hybrid.verification.findings import WRONG, Finding, findings_table
from hf_hybrid.verification.rerun import compare_runs, refuse_rerun, rerun_options, unlike_machines
from hf_hybrid.verification.study_checks import refuse_study_rerun
from hf_hybrid.verification.verify import VerifyArguments, verify

PLACES = ("output_dir", "train_corpus", "eval_corpus", "model_name_or_path", "cache_dir")  # may be others here


def main() -> None:
    # Arguments
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--path")
    with explained_errors("verify.py"):
        args, _ = parse_arguments([VerifyArguments], argv)
    path = Path(args.path)

    # What the files tell
    with explained_errors("verify.py"):
        if args.rerun and (path / "study.json").is_file():
            refuse_study_rerun(path)
        findings = verify(path, Given(args.train_corpus, args.eval_corpus, args.cache_dir))
        print(findings_table(findings))

    # What the same run gives again
    if args.rerun:
        with explained_errors("verify.py"):
            again = run_again(path / BUNDLE_NAME if (path / BUNDLE_NAME).is_dir() else path, args)
            print(f"\n{findings_table(again)}")
            findings += again
    raise SystemExit(int(any(finding.status == WRONG for finding in findings)))


def run_again(bundle: Path, args: VerifyArguments) -> list[Finding]:
    """Train with the settings of a run in this environment, on one process, and compare."""
    first = RunFolder(bundle).read_run()
    refuse_rerun(first, args.output_dir)
    places = {name: getattr(args, name) for name in PLACES}
    command = [sys.executable, str(Path(__file__).with_name("train.py")), *rerun_options(first, bundle, **places)]
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


if __name__ == "__main__":
    main()
