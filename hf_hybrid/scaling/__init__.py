"""Growth of costs and quality with the number of languages: a study, its report, and predictions.

* `planner`: predict the cost of a run from measured runs
* `grid`: the trials of a study: what is run, and what came out
* `report`: the page of a study
"""
