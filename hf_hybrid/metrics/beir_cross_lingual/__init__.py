"""Cross-lingual retrieval measures."""
