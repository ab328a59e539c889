"""Write the report of a study: a page that opens from the disk, and its answer and table for a README.

    python recipes/report.py runs/sample-study
    python recipes/report.py runs/sample-study --step_profile benchmarks/step_profile.json
    python recipes/report.py runs/sample-study --copy_to studies/sample

STUDY is a folder that recipes/scale.py made. It gets report.html and report.md, the same bytes for the same files.
`--copy_to` writes a small copy, without weights, texts and values of single queries, that can be committed:
`python recipes/verify.py studies/sample` makes every number of its report again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hf_hybrid.scaling.grid.folder import StudyFolder
from hf_hybrid.scaling.report.copy import copy_study, refuse_copy
from hf_hybrid.scaling.report.page import ReportArguments, write_report
from hf_hybrid.utils.files import size_words
from hf_hybrid.utils.options import explained_errors, parse_arguments


def main() -> None:
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("-"):
        argv.insert(0, "--study")
    with explained_errors("report.py"):
        args, _ = parse_arguments([ReportArguments], argv)
        if not args.study:
            raise ValueError("study: name the folder of a study, as in: python recipes/report.py runs/sample-study")
        if args.copy_to:
            refuse_copy(StudyFolder(args.study), Path(os.path.abspath(args.copy_to)))
        page, text = write_report(args.study, args.step_profile)
        print(f"{page}\n{text}")
        if args.copy_to:
            sizes = [path.stat().st_size for path in copy_study(args.study, args.copy_to).rglob("*") if path.is_file()]
            print(f"{args.copy_to}: {size_words(sum(sizes))} in {len(sizes)} files")


if __name__ == "__main__":
    main()
