"""Write the report of a study: a page that opens from the disk, and its answer and table for a README.

    hf-hybrid report runs/sample-study
    hf-hybrid report runs/sample-study --step_profile benchmarks/step_profile.json
    hf-hybrid report runs/sample-study --copy_to studies/sample

STUDY is a folder that `hf-hybrid scale` made. It gets report.html and report.md, the same bytes for the same files.
`--copy_to` writes a small copy, without weights, texts and values of single queries, that can be committed:
`hf-hybrid verify studies/sample` makes every number of its report again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_hybrid.scaling.grid.folder import StudyFolder
from hf_hybrid.scaling.report.copy import copy_study, is_copy, open_study, refuse_copy
from hf_hybrid.scaling.report.page import write_report
from hf_hybrid.utils.files import size_words
from hf_hybrid.utils.options import explain_errors, option, parse_arguments

from .console import introduction


@dataclass
class ReportArguments:
    """Options of `report`."""

    study: str | None = option(None, "Folder of a study; also the first word.")
    step_profile: str | None = option(
        None, "File of benchmarks/step_profile.py: where a step's time goes. A copy stays in the study."
    )
    copy_to: str | None = option(
        None, "Folder for a small copy of the study: no weights, no texts, and it verifies by itself."
    )


ARGUMENTS = (ReportArguments,)


def main(argv: Sequence[str] | None = None, program: str = "hf-hybrid report") -> None:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): Its options, by default those of the process.
        program (`str`, *optional*, defaults to `"hf-hybrid report"`): Its name in errors and in the help.
    """
    with explain_errors(program):
        args, _ = parse_arguments(
            ARGUMENTS, argv, program=program, introduction=introduction("report", program), first_word="study"
        )
        if not args.study:
            raise ValueError("study: name the folder of a study, as in: hf-hybrid report runs/sample-study")
        has_copy = is_copy(args.study)
        copies = [Path(name) for name in (args.copy_to, args.study if has_copy else None) if name]
        with open_study(args.study) as folder:
            for target in copies:
                refuse_copy(StudyFolder(folder), Path(os.path.abspath(target)))
            page, text = write_report(folder, args.step_profile)
            for target in copies:
                copy_study(folder, target)
        if not has_copy:
            print(f"{page}\n{text}")
        for target in copies:
            sizes = [path.stat().st_size for path in target.iterdir() if path.is_file()]
            print(f"{target}: {size_words(sum(sizes))} in {len(sizes)} files")
