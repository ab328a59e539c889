"""The two sides of an item: its query and its passage. A side is also an index into the last axis of `corpus.rows`."""

from __future__ import annotations

QUERY, PASSAGE = 0, 1
SIDE_NAMES = ("query", "passage")
SIDE_PLURALS = ("queries", "passages")  # in names of files and counts
