"""What the recipes and the console script `hf-hybrid` run.

* `push`: publish a run, the metric or a study
"""
