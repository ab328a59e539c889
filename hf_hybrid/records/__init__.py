"""Files of a run, which later tools read without torch.

* `schema`: names of files and what each holds
* `output_list`: `outputs.jsonl`, the list of the files that recipes wrote to a folder
* `output_folder`: `OutputFolder`: replace and delete only listed files
* `run_folder`: `RunFolder`: read and write the files of one run
* `resources`: `resources.json` as the sum of the lines of `resources.jsonl`
* `events`: what happened when, as lines on stderr and in `events.jsonl`
* `archive`: the records of all trials of a study in one Parquet file
* `manifest`: sizes and hashes of the files of a folder; whole checkpoints
* `environment`: versions, devices and git revision
* `scores`: scores in other shapes: flat, or a matrix of language pairs
"""
