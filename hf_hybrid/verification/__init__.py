"""Check the figures of a run or a study by its files.

* `findings`: what a check finds: right, wrong or unknown
* `evidence`: the files of a run, read once; run checks, and report files that cannot be read
* `file_checks`: hashes, copies and schema
* `plan_checks`: the plan, recomputed from the corpus
* `cost_checks`: sums of the resource log
* `event_checks`: the event log against the run
* `rerun`: train again and compare
* `score_checks`: scores, recomputed from values of single queries
* `study_evidence`: the files of a study, read once
* `study_trials`: the trials of a study
* `study_checks`: table, fits and report of a study
* `verify`: `verify`: all checks of a run, a bundle or a study
"""
