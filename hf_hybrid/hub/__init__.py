"""Publish a run: model card, bundle, one commit. Reads files only.

* `errors`: what went wrong on the Hub, in words, and what to retry
* `card_metadata`: the YAML head of a card, and facts that its sections share
* `rerun_command`: the command that repeats a run
* `card_sections`: tables and sentences of a card, and its limits
* `model_card`: `write_card`: the card of a run folder, with its pictures
* `bundle`: `write_bundle`: everything about a run that can be checked
* `payload`: which files go to the Hub for a run, the metric or a study
* `commit`: one commit, whole or nothing; what was pushed from a folder
* `push`: `push_run`, `push_metric`, `push_study`; the card and bundle as they are published
"""
