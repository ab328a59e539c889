"""The commands of the console script `hf-hybrid`, which the recipes run too.

* `console`: `hf-hybrid COMMAND OPTIONS`: check the names of the options, then run the command
* `option_names`: the options of a command, read from source text without importing anything heavy
* `launch`: `--num_processes` and `--accelerate_config`: run a command on several processes
* `training_command`: what `train` and `mlm` share
* `train`: train with hybrid batches, and evaluate before and after
* `mlm`: train by masked language modeling, the baseline
* `eval`: evaluate a model on all languages against all
* `push`: publish a run, the metric or a study
* `verify`: check the figures of a run or a study by its files
* `scale`: run a study of arms, numbers of languages and seeds
* `report`: make a page of a study

The folder `configs/` has the settings that come with the package: `--config sample/pool` is configs/sample/pool.yaml.
"""
