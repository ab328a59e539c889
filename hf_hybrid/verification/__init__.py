"""Check the figures of a run or a study by its files.

* `findings`: what a check finds: right, wrong or unknown
* `files`: `RunFiles`: the files of a run, each read once
* `rerun`: train again and compare
* `raw_files`: hashes, and raw files that must agree with each other
* `rebuild`: derived files, rebuilt with the functions that wrote them
* `study`: a study and all of its runs
* `verify`: `verify`: all checks of a run, a bundle or a study
"""
