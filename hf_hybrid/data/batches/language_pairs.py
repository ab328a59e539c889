"""The language pairs of a corpus that match some patterns, and the items of each pair.

Shape letters: B items of a batch, L languages, M languages that a language pair's passages may have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from hf_hybrid.data.sides import PASSAGE, QUERY

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

_BLOCK_ITEMS = 65_536  # a multiple of 8


@dataclass(frozen=True)
class LanguagePair:
    """A batch type with its languages. `passage_language` of pool, and both languages of mixed, are ``"*"`` for any.

    `num_items` items have both sides.
    """

    batch_type: str
    query_language: str
    passage_language: str
    num_items: int

    @property
    def name(self) -> str:
        """`"en->de"`, `"en->*"` for a pool, `"*->*"` for mixed batches."""
        return f"{self.query_language}->{self.passage_language}"


class PairMembers:
    """The language pairs of each batch type, their items, and the languages that their items may take.

    Args:
        corpus (`ParallelCorpus`): The aligned items.
        language_pairs (`str`, *optional*): Comma-separated patterns such as `"en->*,*->en"`; only matching pairs are
            used.
        exclude (`str`, *optional*): Patterns of pairs never used.

    Raises:
        ValueError: When a pattern matches no pair.

    Example:

        >>> from hf_hybrid.data.sources.sample import build_sample_corpus
        >>> members = PairMembers(build_sample_corpus(languages=["en", "de"]), exclude="de->de")
        >>> [pair.name for pair in members.language_pairs(["mono", "cross"])]
        ['en->en', 'en->de', 'de->en']
    """

    def __init__(self, corpus: ParallelCorpus, language_pairs: str | None = None, exclude: str | None = None) -> None:
        self.corpus = corpus
        self._allowed = _allowed_pairs(corpus.languages, language_pairs, exclude)
        self._present = _presence(corpus)

    def language_pairs(self, batch_types: Collection[str]) -> list[LanguagePair]:
        """Return the pairs of `batch_types` with at least two items: mono and cross, then pool, then mixed."""
        languages, counts = self.corpus.languages, self.corpus.pair_counts()
        pairs = zip(*np.nonzero(self._allowed & (counts >= 2)), strict=True)
        found = [
            LanguagePair(
                "mono" if query == passage else "cross",
                languages[query],
                languages[passage],
                int(counts[query, passage]),
            )
            for query, passage in pairs
        ]
        wide = [("pool", name, "*") for name in languages if "pool" in batch_types]
        wide += [("mixed", "*", "*")] if "mixed" in batch_types else []
        found += [LanguagePair(*names, len(self.items(LanguagePair(*names, 0)))) for names in wide]
        return [pair for pair in found if pair.batch_type in batch_types and pair.num_items >= 2]

    def items(self, pair: LanguagePair) -> np.ndarray:
        """Item numbers of a language pair, ascending."""
        if pair.batch_type == "mixed":
            others = [self._any_passage(allowed) for allowed in self._other_allowed]
            bits = np.bitwise_or.reduce(self._present[QUERY] & np.stack(others), axis=0)
        else:
            query = self.corpus.languages.index(pair.query_language)
            allowed = self._allowed[query]
            if pair.batch_type != "pool":
                allowed = np.arange(len(allowed)) == self.corpus.languages.index(pair.passage_language)
            bits = self._present[QUERY, query] & self._any_passage(allowed)
        return np.flatnonzero(np.unpackbits(bits, count=len(self.corpus)))

    def draw_positives(
        self, pair: LanguagePair, items: np.ndarray, max_positives: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Up to `max_positives` passage languages for each item of a pool batch, drawn evenly from those it has.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: For each positive the position of its item, and its language.
        """
        allowed_M = np.flatnonzero(self._allowed[self.corpus.languages.index(pair.query_language)])
        lottery_BM = rng.random((len(items), len(allowed_M)))
        lottery_BM[self.corpus.rows[items][:, allowed_M, PASSAGE] < 0] = np.inf
        drawn = np.argsort(lottery_BM, axis=1)[:, :max_positives]
        item, slot = np.nonzero(np.isfinite(np.take_along_axis(lottery_BM, drawn, axis=1)))
        return item, allowed_M[drawn[item, slot]]

    def draw_pairs(self, items: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For each item of a mixed batch a pair of two languages, drawn evenly from those it has.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: The query languages and the passage languages, of shape `(B,)`.
        """
        present_BL = self.corpus.rows[items] >= 0
        num_passages_BL = present_BL[:, :, PASSAGE].astype(np.int64) @ self._other_allowed.T.astype(np.int64)
        query_B = _draw_column(present_BL[:, :, QUERY] * num_passages_BL, rng)
        return query_B, _draw_column(present_BL[:, :, PASSAGE] & self._other_allowed[query_B], rng)

    @property
    def _other_allowed(self) -> np.ndarray:
        """Allowed pairs of two languages, `(L, L)`."""
        return self._allowed & ~np.eye(len(self._allowed), dtype=bool)

    def _any_passage(self, languages: np.ndarray) -> np.ndarray:
        """Bits of the items that have a passage in one of some languages."""
        return np.bitwise_or.reduce(self._present[PASSAGE, languages], axis=0)


def _draw_column(weights_BL: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A column for each row, with probabilities in proportion to whole-numbered weights."""
    sums_BL = np.cumsum(weights_BL, axis=1)
    drawn_B = rng.integers(sums_BL[:, -1])
    return (sums_BL <= drawn_B[:, None]).sum(axis=1)


def _allowed_pairs(languages: Sequence[str], language_pairs: str | None, exclude: str | None) -> np.ndarray:
    """Boolean matrix (query language, passage language) of the pairs that the patterns leave."""
    names = np.array([[f"{query}->{passage}" for passage in languages] for query in languages])

    def matches(patterns: str, argument: str) -> np.ndarray:
        found = np.zeros(names.shape, dtype=bool)
        for pattern in (part.strip() for part in patterns.split(",")):
            hits = np.vectorize(lambda name, pattern=pattern: fnmatchcase(name, pattern))(names)
            if not hits.any():
                raise ValueError(
                    f"{argument}: {pattern!r} matches no pair of the languages {', '.join(languages)}. "
                    "Write 'query->passage', with * for any, as in 'en->*,*->de'."
                )
            found |= hits
        return found

    allowed = matches(language_pairs, "language_pairs") if language_pairs else np.ones(names.shape, dtype=bool)
    return allowed & ~matches(exclude, "exclude") if exclude else allowed


def _presence(corpus: ParallelCorpus) -> np.ndarray:
    """Bits of shape `(2, num_languages, ceil(num_items / 8))`: which items have a query, a passage in a language."""
    rows = corpus.rows
    bits = np.empty((2, rows.shape[1], -(-len(rows) // 8)), dtype=np.uint8)
    for start in range(0, len(rows), _BLOCK_ITEMS):  # in one pass over the matrix, which may be larger than memory
        packed = np.packbits(rows[start : start + _BLOCK_ITEMS] >= 0, axis=0)
        bits[:, :, start // 8 : start // 8 + len(packed)] = packed.transpose(2, 1, 0)
    return bits
