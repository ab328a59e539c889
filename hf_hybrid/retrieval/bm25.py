"""BM25 over the passages of all languages: the row without a model in a table of results.

Terms are the words of Unicode, in form NFKC and lower case; of scripts that put no spaces between words (Chinese,
Japanese, Thai and others) they are pairs of neighboring characters. The scoring is `bm25s`' (Lucene's BM25, k1 = 1.5,
b = 0.75), with the term statistics of the whole pool.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .search import ScoredPool

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

_READ_ROWS = 2**14  # texts in memory at once

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
        show_progress (`bool`, *optional*, defaults to `False`): Show bars while the index is made.

    Raises:
        ImportError: When `bm25s` is not installed.
    """

    def __init__(
        self,
        corpus: ParallelCorpus,
        candidates: Sequence[np.ndarray],
        queries: Sequence[np.ndarray],
        show_progress: bool = False,
    ) -> None:
        try:
            import bm25s
        except ImportError:
            raise ImportError('BM25 needs bm25s: pip install ".[bm25]", in a clone.') from None
        self.sizes = [len(rows) for rows in candidates]
        self._corpus, self._queries = corpus, queries
        self._vocabulary: dict[str, int] = {}
        passages = []
        with tqdm(total=sum(self.sizes), desc="Reading", unit="text", disable=not show_progress, leave=False) as bar:
            for language, rows in zip(corpus.languages, candidates, strict=True):
                for text in _texts(corpus, corpus.PASSAGE, language, rows):
                    # numbers of four bytes, where each word would be an object of sixty
                    passages.append(array("i", (self._number(term) for term in terms(text))))
                    bar.update()
        self._index: Any = bm25s.BM25()
        if self._vocabulary:  # it cannot index nothing
            self._index.index((passages, self._vocabulary), create_empty_token=False, show_progress=show_progress)

    def scores(self, language: int, queries: slice, passages: slice = slice(None)) -> torch.Tensor:
        """Scores `(B, T)` of some queries of one language."""
        corpus, name = self._corpus, self._corpus.languages[language]
        none = np.zeros(sum(self.sizes), dtype=np.float32)
        found = []
        for text in _texts(corpus, corpus.QUERY, name, self._queries[language][queries]):
            known = [self._vocabulary[term] for term in terms(text) if term in self._vocabulary]
            found.append(np.asarray(self._index.get_scores_from_ids(known), dtype=np.float32) if known else none)
        return torch.from_numpy(np.stack(found))[:, passages]

    def _number(self, term: str) -> int:
        return self._vocabulary.setdefault(term, len(self._vocabulary))


def _texts(corpus: ParallelCorpus, side: int, language: str, rows: np.ndarray) -> Iterator[str]:
    """The texts at some rows, which increase, some at a time."""
    for start in range(0, len(rows), _READ_ROWS):
        yield from corpus.texts(side, language, rows[start : start + _READ_ROWS])
