"""Write the report of a study: a page that opens from the disk, and its answer and table for a README.

    python recipes/report.py runs/sample-study
    python recipes/report.py runs/sample-study --step_profile benchmarks/step_profile.json
    python recipes/report.py runs/sample-study --copy_to studies/sample

STUDY is a folder that recipes/scale.py made. It gets report.html and report.md, the same bytes for the same files.
`--copy_to` writes a small copy, without weights, texts and values of single queries, that can be committed:
`python recipes/verify.py studies/sample` makes every number of its report again.
"""

import sys

from hf_hybrid.commands import console

if __name__ == "__main__":
    console.main(["report", *sys.argv[1:]])
