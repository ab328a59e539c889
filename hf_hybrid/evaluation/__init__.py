"""Scores of all settings from rankings.

* `relevance`: which passages are relevant to the queries of a language
* `aggregate`: from ranks to measures, and from queries to pairs and settings
* `evaluate`: `evaluate_retrieval`, `evaluate_bm25`: all languages against all
* `folder`: the output folder of an evaluation, and which evaluation it holds
* `per_query`: values of single queries, TREC runs and qrels
* `compare`: two evaluations, query by query, with tests
* `heat_map`: pictures of the language pairs
"""
