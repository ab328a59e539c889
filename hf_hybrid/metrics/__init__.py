"""Metrics that other projects load with `evaluate.load`."""
