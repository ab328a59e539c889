"""From the plan's item numbers to packed token ids, which are only gathered here (`token_cache.py` has made them).

1. `HybridCollator` takes a `HybridBatch`, keeps this rank's slice of the queries with their passages, and packs all of
   it into one row of tokens without padding.
2. Beside the tokens stand the targets of the loss, for all ranks: they follow from the plan, so nothing is exchanged.

Shape letters: T tokens, N sequences, B this rank's queries, C this rank's passages, P this rank's positives, G the
passages and Q the queries of all ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import torch

from hf_hybrid.data.sides import PASSAGE, QUERY

from .packing import pack
from .schedule import HybridBatch, HybridSchedule
from .token_cache import TokenCache

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

_NEGATIVES_STREAM = 3  # beside the streams of the schedule


class Targets(TypedDict):
    """Groups and positives of a global batch, for the loss; equal on all ranks unless a field says that it is local.

    Keys:
        query_groups_Q (`torch.Tensor`): Group of every query, rank after rank.
        passage_groups_G (`torch.Tensor`): Group of every passage, rank after rank; -1 where no item owns it.
        positive_query_P (`torch.Tensor`): For each local positive, the number of its query among the local ones.
        positive_passage_P (`torch.Tensor`): For each local positive, the number of its passage among all G.
        query_counts (`tuple[int, ...]`): Queries on each rank.
        passage_counts (`tuple[int, ...]`): Passages on each rank.
        num_positives (`int`): Positives on all ranks.
        rank (`int`): This rank.
    """

    query_groups_Q: torch.Tensor
    passage_groups_G: torch.Tensor
    positive_query_P: torch.Tensor
    positive_passage_P: torch.Tensor
    query_counts: Sequence[int]
    passage_counts: Sequence[int]
    num_positives: int
    rank: int


@dataclass(frozen=True)
class BatchFacts:
    """Facts about a global batch, for the resource log: sums over all ranks, `sum_squared_lengths` in tokens^2."""

    batch_type: str
    language_pair: str
    pairs: int
    tokens_per_language: dict[str, int]
    sum_squared_lengths: int
    predicted_tokens: int = 0  # of masked language modeling

    @property
    def tokens(self) -> int:
        """Tokens of all queries and passages."""
        return sum(self.tokens_per_language.values())


class HybridInputs(TypedDict):
    """A rank's share of a step.

    Keys:
        tokens (`dict`): What the encoder takes: queries, then passages, as `packing.pack` makes it.
        targets (`Targets`): What the loss must know.
        facts (`BatchFacts`): What the resource log says.
        lengths (`list[np.ndarray]`): The tokens of each sequence, of every rank.
    """

    tokens: dict[str, Any]
    targets: Targets
    facts: BatchFacts
    lengths: list[np.ndarray]


def hard_negatives(corpus: ParallelCorpus, num_negatives: int) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """The hard negatives of each language; none where none are asked for.

    Raises:
        ValueError: When some are asked for and the corpus has none.
    """
    found = [corpus.negatives(language) for language in corpus.languages] if num_negatives else []
    if num_negatives and not any(found):
        raise ValueError(f"num_negatives={num_negatives}, but the corpus has no hard negatives. Set it to 0.")
    return list(found)


class _Passages(NamedTuple):
    """Passages of some queries: language numbers, rows and groups; the positives first."""

    languages: np.ndarray
    rows: np.ndarray
    groups: np.ndarray


class HybridCollator:
    """Gathers this rank's share of a global batch from the token cache.

    Args:
        schedule (`HybridSchedule`): The plan.
        cache (`TokenCache`): The token ids of the plan's corpus.
        num_negatives (`int`, *optional*, defaults to 0): Hard negatives for each positive, drawn again at each step
            from those that the corpus gives; items with fewer get what they have.
        rank (`int`, *optional*, defaults to 0): This process.
        world_size (`int`, *optional*, defaults to 1): Number of processes; queries are split evenly, in order.

    Raises:
        ValueError: When hard negatives are asked for and the corpus has none.
    """

    def __init__(
        self, schedule: HybridSchedule, cache: TokenCache, num_negatives: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.schedule, self.cache, self.corpus = schedule, cache, schedule.corpus
        self.num_negatives, self.rank, self.world_size = num_negatives, rank, world_size
        self._negatives = hard_negatives(self.corpus, num_negatives)

    def __call__(self, step: int) -> HybridInputs:
        """The inputs of `step` for this rank."""
        batch = self.schedule.batch(step)
        shares = np.array_split(np.arange(len(batch.items)), self.world_size)
        groups = self.corpus.groups[batch.items]
        draw = np.random.default_rng([self.schedule.seed, _NEGATIVES_STREAM, step])
        negatives = self._draw_negatives(batch, draw)
        passages = [self._passages(batch, groups, negatives, share) for share in shares]
        positives = [np.flatnonzero(np.isin(batch.positive_items, share)) for share in shares]
        counts = tuple(len(part.rows) for part in passages)
        local, own = positives[self.rank], shares[self.rank]
        targets = Targets(
            query_groups_Q=torch.from_numpy(groups),
            passage_groups_G=torch.from_numpy(np.concatenate([part.groups for part in passages])),
            positive_query_P=torch.from_numpy(batch.positive_items[local] - (own[0] if len(own) else 0)),
            positive_passage_P=torch.arange(len(local)) + sum(counts[: self.rank]),
            query_counts=tuple(map(len, shares)),
            passage_counts=counts,
            num_positives=len(batch.positive_items),
            rank=self.rank,
        )
        sequences = [self._sequences(batch, share, part) for share, part in zip(shares, passages, strict=True)]
        facts = self._facts(batch, shares, passages, sequences)
        # Fewer items than ranks: one sequence without a target, so that all ranks step alike.
        sequences = [found or sequences[0][:1] for found in sequences]
        lengths = [np.fromiter(map(len, found), dtype=np.int64) for found in sequences]
        return HybridInputs(tokens=pack(sequences[self.rank]), targets=targets, facts=facts, lengths=lengths)

    @cached_property
    def _passage_groups(self) -> list[np.ndarray]:
        return [self.corpus.passage_groups(language) for language in self.corpus.languages]

    def _draw_negatives(self, batch: HybridBatch, draw: np.random.Generator) -> list[np.ndarray]:
        """For each positive of the batch, rows of hard negatives in its language."""
        drawn = []
        for item, language in zip(batch.items[batch.positive_items], batch.positive_languages, strict=True):
            known = self._negatives[language] if self.num_negatives else None
            rows = np.zeros(0, dtype=np.int64) if known is None else known[1][known[0][item] : known[0][item + 1]]
            drawn.append(draw.permutation(np.array(rows))[: self.num_negatives])  # a copy: the map is read-only
        return drawn

    def _passages(
        self, batch: HybridBatch, groups: np.ndarray, negatives: list[np.ndarray], share: np.ndarray
    ) -> _Passages:
        chosen = np.flatnonzero(np.isin(batch.positive_items, share))
        queries, languages = batch.positive_items[chosen], batch.positive_languages[chosen]
        parts = [_Passages(languages, self.corpus.rows[batch.items[queries], languages, PASSAGE], groups[queries])]
        for positive in chosen if self.num_negatives else ():
            rows, language = negatives[positive], batch.positive_languages[positive]
            parts.append(_Passages(np.full(len(rows), language), rows, self._passage_groups[language][rows]))
        return _Passages(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _sequences(self, batch: HybridBatch, share: np.ndarray, passages: _Passages) -> list[np.ndarray]:
        columns = batch.query_languages[share]
        query_rows = self.corpus.rows[batch.items[share], columns, QUERY]
        return [
            self.cache.tokens(side, self.corpus.languages[language], row)
            for side, languages, rows in ((QUERY, columns, query_rows), (PASSAGE, *passages[:2]))
            for language, row in zip(languages, rows, strict=True)
        ]

    def _facts(
        self,
        batch: HybridBatch,
        shares: list[np.ndarray],
        passages: list[_Passages],
        sequences: list[list[np.ndarray]],
    ) -> BatchFacts:
        per_language: Counter[str] = Counter()
        squares = 0
        for share, part, found in zip(shares, passages, sequences, strict=True):
            languages = [*batch.query_languages[share], *part.languages]
            for language, sequence in zip(languages, found, strict=True):
                per_language[self.corpus.languages[language]] += len(sequence)
                squares += len(sequence) ** 2
        return BatchFacts(batch.batch_type, batch.language_pair.name, len(batch.items), dict(per_language), squares)


class StepDataset(torch.utils.data.Dataset):
    """The steps of the plan as a map-style dataset of `HybridInputs`.

    Args:
        collator (`HybridCollator`): Makes the inputs of a step.
    """

    def __init__(self, collator: HybridCollator) -> None:
        self.collator = collator

    def __len__(self) -> int:
        return len(self.collator.schedule)

    def __getitem__(self, index: int) -> HybridInputs:
        return self.collator(index)
