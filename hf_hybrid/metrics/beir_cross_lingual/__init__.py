"""Cross-lingual retrieval measures: a folder that `evaluate.load` takes as it is."""
