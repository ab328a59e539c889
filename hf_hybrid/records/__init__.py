"""What a run leaves on disk, in files that later tools read without torch.

* `output_list`: `outputs.jsonl`, the list of the files that recipes wrote to a folder
* `output_folder`: `OutputFolder`: replace and delete only listed files
* `run_folder`: `RunFolder`: the files of one run, their schema and version
* `events`: what happened when, as lines on stderr and in `events.jsonl`
* `manifest`: sizes and hashes of the files of a folder; whole checkpoints
* `environment`: versions, devices and git revision
* `scores`: scores in other shapes: flat, or a matrix of language pairs
"""
