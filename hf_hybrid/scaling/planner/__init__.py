"""Predict time and memory of a run that nobody has made yet.

* `hardware`: a machine, as a run or a YAML file describes it
* `workload`: what a run has to compute, store and send
* `measured_runs`: workload and costs of finished runs
* `cost_model`: coefficients from measured runs, with intervals
* `advice`: what to change when memory is not enough
* `planner`: `plan`: a prediction, as values and as a table
"""
