"""Publish a run: model card, bundle, one commit. It reads files only.

* `errors`: which errors of the Hub are retried, and what the others mean
* `card_metadata`: the YAML header of a card, and facts that its sections share
* `rerun_command`: the command that repeats a run
* `card_sections`: tables and sentences of a card, and its limitations
* `model_card`: `build_card`, the card of a run, with its pictures
* `bundle`: `build_bundle`, the evidence for the figures of a run
* `payload`: which files go to the Hub for a run, the metric or a study
* `commit`: one commit, all or nothing; what was pushed from a folder
* `push`: `push_run`, `push_metric`, `push_study`
"""
