"""The trials of a study: arms x numbers of languages x seeds.

* `arms`: the table of arms, the grid, and the commands of a trial
* `arguments`: the options of a study
* `folder`: the files of a study
* `inputs`: corpora, base models and settings that trials share
* `budget`: the same steps, tokens, time or quality for all trials
* `sweep`: run trials, each in its own process
* `setup`: from options to `study.json`
* `table`: one row of costs and scores for each trial
* `growth`: growth of a quantity with L, ratios and differences, with CIs over seeds
* `sentences`: sentences for these, which claim no more than their CI allows
* `fits`: `fits.json`: growth and comparison of the arms
"""
