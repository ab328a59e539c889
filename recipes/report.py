"""Write the report of a study: a page that opens from the disk, and its answer and table for a README.

    python recipes/report.py runs/sample-study
    python recipes/report.py runs/sample-study --step_profile benchmarks/step_profile.json

STUDY is a folder that recipes/scale.py made. It gets report.html and report.md, the same bytes for the same files.
"""

from __future__ import annotations

import sys

from hf_hybrid.parsing import explained_errors, parse_arguments
from hf_hybrid.study_report import ReportArguments, write_report


def main() -> None:
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--study")
    with explained_errors("report.py"):
        args, _ = parse_arguments([ReportArguments], argv)
        if not args.study:
            raise ValueError("study: name the folder of a study, as in: python recipes/report.py runs/sample-study")
        page, text = write_report(args.study, args.step_profile)
    print(f"{page}\n{text}")


if __name__ == "__main__":
    main()
