"""The trials of a study: arms x numbers of languages x seeds.

* `arms`: the ways to train, and the grid
* `arguments`: the options of a study
* `folder`: the files of a study
* `inputs`: corpora, base models and settings that trials share
* `budget`: the same steps, tokens, time or quality for all trials
* `sweep`: run trials, each in its own process
* `setup`: from options to `study.json`
* `table`: one row of costs and scores for each trial
* `growth`: fit how a quantity grows with L, with intervals over seeds
* `sentences`: fits in words
* `fits`: `fits.json`: growth and comparison of the arms
"""
