"""Cases of the Space, worked by hand: a part of what `compute` gives for predictions, references and arguments.

Of query `en`, the relevant documents `1-en` and `1-de` stand first and last of four, of query `de` first and second.
"""

from __future__ import annotations

from typing import Any

_PREDICTIONS = [
    {"query_id": "en", "doc_ids": ["1-en", "2-en", "2-de", "1-de"], "scores": [0.9, 0.8, 0.7, 0.6]},
    {"query_id": "de", "doc_ids": ["1-de", "1-en", "2-de", "2-en"], "scores": [0.9, 0.8, 0.7, 0.6]},
]
_REFERENCES = [
    {"query_id": "de", "doc_ids": ["1-de", "1-en"], "relevance": [1, 1]},
    {"query_id": "en", "doc_ids": ["1-de", "1-en"], "relevance": [1, 1]},
]
_LANGUAGES = {
    "query_languages": {"en": "en", "de": "de"},
    "doc_languages": {"1-en": "en", "2-en": "en", "1-de": "de", "2-de": "de"},
}
_TIE = [{"query_id": "q", "doc_ids": ["a", "b"], "scores": [0.5, 0.5]}]
_SECOND = [{"query_id": "q", "doc_ids": ["b"], "relevance": [1]}]

test_cases: list[dict[str, Any]] = [
    {
        # average precision (1/1 + 2/4) / 2 and 1
        "predictions": _PREDICTIONS,
        "references": _REFERENCES,
        "arguments": {"k_values": [1, 10]},
        "result": {"MAP": 0.875, "P@1": 1.0, "Recall@1": 0.5, "P@10": 0.2, "MRR@10": 1.0, "num_queries": 2},
    },
    {
        # among German documents that of the English query is second, in all other pairs it is first
        "predictions": _PREDICTIONS,
        "references": _REFERENCES,
        "arguments": _LANGUAGES,
        "result": {
            "monolingual/MAP": 1.0,
            "cross_lingual/MAP": 0.75,
            "multilingual/MAP": 0.875,
            "pairs": {"en-de": {"MAP": 0.5, "MRR@10": 0.5}, "de-en": {"MAP": 1.0}},
            # distances 4 - 1 and 2 - 1; two of four documents are in the query's language
            "bias": {"rank_distance": 2.0, "same_language_share@10": 0.5, "rank_distance_num_queries": 2},
        },
    },
    {
        # two documents tie: the relevant one is second by our policy
        "predictions": _TIE,
        "references": _SECOND,
        "arguments": {"k_values": [10]},
        "result": {"MAP": 0.5, "MRR@10": 0.5, "nDCG@10": 0.6309297535714575},
    },
    {
        # BEIR takes the higher id first, but for MRR the order that was given
        "predictions": _TIE,
        "references": _SECOND,
        "arguments": {"k_values": [10], "policy": "beir"},
        "result": {"MAP": 1.0, "MRR@10": 0.5, "nDCG@10": 1.0},
    },
]
