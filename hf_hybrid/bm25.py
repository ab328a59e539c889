"""BM25 over the passages of all languages: the row without a model in a table of results.

Terms are the words of Unicode, in form NFKC and lower case; of scripts that put no spaces between words (Chinese,
Japanese, Thai and others) they are pairs of neighbouring characters. The scoring is `bm25s`' (Lucene's BM25, k1 = 1.5,
b = 0.75), with the term statistics of the whole pool.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .evaluation import evaluate_pool
from .search import ScoredPool

if TYPE_CHECKING:
    from .corpus import ParallelCorpus
    from .records import Scores

# Han with its extensions, kana, Thai, Lao, Myanmar and Khmer
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
# vowel signs, accents and points belong to their word, which `\w` does not know; those of unspaced scripts are above
_MARKS = "".join(chr(i) for i in range(0x300, 0x1F000) if unicodedata.category(chr(i)).startswith("M"))
_TERM = re.compile(rf"[{_UNSPACED}]+|(?:[^\W{_UNSPACED}]+[{_MARKS}]*)+")
_PAIRS = re.compile(rf"[{_UNSPACED}]")


def terms(text: str) -> list[str]:
    """The terms of a text.

    Example:

        >>> terms("Das kostet 5 Euro."), terms("日本の円")
        (['das', 'kostet', '5', 'euro'], ['日本', '本の', 'の円'])
    """
    found = []
    for word in _TERM.findall(unicodedata.normalize("NFKC", text).lower()):
        pairs = [word[i : i + 2] for i in range(len(word) - 1)] if _PAIRS.match(word) else []
        found.extend(pairs or [word])
    return found


class TermPool(ScoredPool):
    """BM25 scores of queries against the pool; a `search.Pool`.

    Args:
        corpus (`ParallelCorpus`): The texts.
        candidates (`Sequence[np.ndarray]`): For each language the rows of its passages in the pool.
        queries (`Sequence[np.ndarray]`): Likewise of its queries.

    Raises:
        ImportError: When `bm25s` is not installed.
    """

    def __init__(
        self, corpus: ParallelCorpus, candidates: Sequence[np.ndarray], queries: Sequence[np.ndarray]
    ) -> None:
        try:
            import bm25s
        except ImportError:
            raise ImportError('BM25 needs bm25s: pip install "hf-hybrid[bm25]".') from None
        self.sizes = [len(rows) for rows in candidates]
        self._corpus, self._queries = corpus, queries
        passages = [
            terms(corpus.text(corpus.PASSAGE, language, row))
            for language, rows in zip(corpus.languages, candidates, strict=True)
            for row in rows
        ]
        self._index: Any = bm25s.BM25()
        if any(passages):  # it cannot index nothing
            self._index.index(passages, show_progress=False)

    def scores(self, language: int, queries: slice) -> torch.Tensor:
        """Scores `(B, N)` of some queries of one language."""
        name = self._corpus.languages[language]
        texts = [self._corpus.text(self._corpus.QUERY, name, row) for row in self._queries[language][queries]]
        known = getattr(self._index, "vocab_dict", {})
        rows = [[term for term in terms(text) if term in known] for text in texts]
        none = np.zeros(sum(self.sizes), dtype=np.float32)
        found = [np.asarray(self._index.get_scores(row), dtype=np.float32) if row else none for row in rows]
        return torch.from_numpy(np.stack(found))


def evaluate_bm25(corpus: ParallelCorpus, **options: Any) -> Scores:
    """Scores of BM25 in all settings.

    Args:
        corpus (`ParallelCorpus`): What to evaluate on.
        **options: `settings`, `measures`, `max_queries`, `details` and `show_progress` of `evaluate_retrieval`.

    Example:

        >>> from hf_hybrid.sample import build_sample_corpus
        >>> found = evaluate_bm25(build_sample_corpus(languages=["en", "de"]), max_queries=50)
        >>> found["monolingual"]["MAP"] > found["cross_lingual"]["MAP"] > 0
        True
    """
    return evaluate_pool(TermPool, corpus, **options)
