"""The schedule: items and languages of the global batch of each step.

A schedule is a pure function of (corpus, mix, global batch size, number of steps, seed). It is made in three steps:

1. *Language pairs.* Every pair (query language, passage language) with at least two items is a ``mono`` or a
   ``cross`` language pair, every query language a ``pool`` language pair; there is one ``mixed`` language pair.
2. *Plan.* Each batch type gets its share of the steps and each of its language pairs a share that follows ``n **
   smoothing``, rounded up or down (shares are exact, not drawn); the list of language pairs is then shuffled.
3. *Batches.* The v-th visit to a language pair takes one of the ``ceil(n / global_batch_size)`` batches of a pass
   over its items; each pass is shuffled again.

Nothing depends on the rank, the world size, the number of workers or what ran before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_hybrid.data.sides import PASSAGE, QUERY

from .language_pairs import LanguagePair, PairMembers
from .mix import BATCH_TYPES, MixConfig, largest_remainder, spread_quotas

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

_PLAN_STREAM, _PASS_STREAM, _POOL_STREAM, _MIXED_STREAM = 0, 1, 2, 4  # keep the random streams of one seed apart
_CACHED_PASSES = 64  # dealt passes kept in memory; a visit to any other is dealt again


@dataclass(frozen=True)
class HybridBatch:
    """The global batch of one step, over all ranks.

    Args:
        step (`int`): The step it belongs to.
        language_pair (`LanguagePair`): Its batch type and languages.
        passage_languages (`tuple[str, ...]`): The languages that the passages are in.
        items (`np.ndarray` of shape `(B,)`): Item numbers in the corpus; no two share a group.
        item_ids (`list[str]`): Their ids.
        query_languages (`np.ndarray` of shape `(B,)`): For each item the number of its query's language; all the same
            but in mixed batches.
        positive_items (`np.ndarray` of shape `(P,)`): For each positive, the position in `items` of its query.
        positive_languages (`np.ndarray` of shape `(P,)`): For each positive, the number of its language.
    """

    step: int
    language_pair: LanguagePair
    passage_languages: tuple[str, ...]
    items: np.ndarray
    item_ids: list[str]
    query_languages: np.ndarray
    positive_items: np.ndarray
    positive_languages: np.ndarray

    @property
    def batch_type(self) -> str:
        """`"mono"`, `"cross"`, `"pool"` or `"mixed"`."""
        return self.language_pair.batch_type

    def digest(self) -> str:
        """sha256 of what the step contrasts: batch type, languages, item ids and positives."""
        content = [self.step, self.batch_type, self.language_pair.name, self.item_ids]
        content += [self.positive_items.tolist(), self.positive_languages.tolist()]
        if self.batch_type == "mixed":
            content.append(self.query_languages.tolist())
        return hashlib.sha256(repr(content).encode()).hexdigest()


class HybridSchedule:
    """The plan of a run, with random access to the batch of any step.

    Args:
        corpus (`ParallelCorpus`): The aligned items.
        mix (`str` or `MixConfig`, *optional*, defaults to `"mono=0.5,cross=0.5"`): Shares of the batch types.
        global_batch_size (`int`): Most items in one batch, over all ranks.
        num_steps (`int`): Length of the plan.
        seed (`int`, *optional*, defaults to 42): Seed of the plan and of every batch.
        smoothing (`float`, *optional*, defaults to 1.0): Language pairs of a batch type are visited in proportion to
            ``n ** smoothing``: 1 by size, 0 uniformly (mBERT sampled its languages with 0.7).
        language_pairs (`str`, *optional*): Comma-separated patterns such as `"en->*,*->en"`; only matching pairs are
            used.
        exclude (`str`, *optional*): Patterns of pairs never used, such as `"en->en"`.
        max_positives (`int`, *optional*, defaults to 4): Most passages of an item in a pool batch.

    A pass over a language pair of n items takes ``ceil(n / global_batch_size)`` batches of nearly equal size and gives
    every item once, in a new order. Two items of one group never meet in a batch; a group larger than the number of
    batches of a pass gives that many members a pass, the others in the passes that follow.

    Raises:
        ValueError: When a batch type with a share has no language pair, a pattern matches nothing, or a number is out
            of range.

    Example:

        >>> from hf_hybrid.data.sources.sample import build_sample_corpus
        >>> corpus = build_sample_corpus(languages=["en", "de"])
        >>> schedule = HybridSchedule(corpus, "mono=0.5,cross=0.5", global_batch_size=64, num_steps=8, seed=0)
        >>> sorted(schedule.batch(step).language_pair.name for step in range(8))
        ['de->de', 'de->de', 'de->en', 'de->en', 'en->de', 'en->de', 'en->en', 'en->en']
        >>> schedule.batch(3).item_ids == schedule.batch(3).item_ids
        True
    """

    def __init__(
        self,
        corpus: ParallelCorpus,
        mix: str | MixConfig = "mono=0.5,cross=0.5",
        *,
        global_batch_size: int,
        num_steps: int,
        seed: int = 42,
        smoothing: float = 1.0,
        language_pairs: str | None = None,
        exclude: str | None = None,
        max_positives: int = 4,
    ) -> None:
        for name, value, least in [
            ("global_batch_size", global_batch_size, 2),
            ("num_steps", num_steps, 1),
            ("max_positives", max_positives, 1),
            ("seed", seed, 0),
        ]:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if not 0 <= smoothing <= 10:
            raise ValueError(f"smoothing must lie between 0 (uniform) and 10, got {smoothing}; 1 is by size.")
        self.corpus, self.mix = corpus, MixConfig.parse(mix)
        self.global_batch_size, self.num_steps, self.seed = global_batch_size, num_steps, seed
        self.smoothing, self.max_positives = smoothing, max_positives
        self._members = PairMembers(corpus, language_pairs, exclude)
        self._group_numbers = np.unique(corpus.groups, return_inverse=True)[1]
        self._num_groups = int(self._group_numbers.max(initial=-1)) + 1
        self.language_pairs = self._find_language_pairs()
        self._plan = self._make_plan()
        self._visits = occurrence_numbers(self._plan)
        self._pass = lru_cache(maxsize=_CACHED_PASSES)(self._deal_pass)

    def __len__(self) -> int:
        return self.num_steps

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pass"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pass = lru_cache(maxsize=_CACHED_PASSES)(self._deal_pass)

    def batch(self, step: int) -> HybridBatch:
        """The global batch of `step`.

        Args:
            step (`int`): From 0 to `num_steps - 1`, in any order.

        Raises:
            IndexError: When `step` lies outside the plan.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the plan of {self.num_steps} steps")
        pair_number = int(self._plan[step])
        pair = self.language_pairs[pair_number]
        pass_number, number = divmod(int(self._visits[step]), self._batches_a_pass(pair))
        items = self._pass(pair_number, pass_number)[number :: self._batches_a_pass(pair)]
        positive_items = np.arange(len(items))
        if pair.batch_type == "mixed":
            query_languages, positive_languages = self._members.draw_pairs(items, self._stream(_MIXED_STREAM, step))
        else:
            query_languages = np.full(len(items), self._column(pair.query_language))
        if pair.batch_type == "pool":
            rng = self._stream(_POOL_STREAM, step)
            positive_items, positive_languages = self._members.draw_positives(pair, items, self.max_positives, rng)
        elif pair.batch_type != "mixed":
            positive_languages = np.full(len(items), self._column(pair.passage_language))
        return HybridBatch(
            step=step,
            language_pair=pair,
            passage_languages=tuple(self.corpus.languages[i] for i in np.unique(positive_languages)),
            items=items,
            item_ids=self.corpus.ids_of(items),
            query_languages=query_languages,
            positive_items=positive_items,
            positive_languages=positive_languages,
        )

    def plan(self) -> list[dict[str, Any]]:
        """Return one row per language pair, most steps first.

        Keys: `batch_type`, `language_pair`, `items`, `steps` and `pairs`, the queries contrasted in all steps. `pairs`
        is an upper bound if a group is larger than the number of batches in a pass.
        """
        steps = np.bincount(self._plan, minlength=len(self.language_pairs))
        rows = []
        for pair, num_steps in zip(self.language_pairs, steps.tolist(), strict=True):
            if num_steps:
                row = {
                    "batch_type": pair.batch_type,
                    "language_pair": pair.name,
                    "items": pair.num_items,
                }
                rows.append({**row, "steps": num_steps, "pairs": self._pairs(pair, num_steps)})
        return sorted(rows, key=lambda row: (BATCH_TYPES.index(row["batch_type"]), -row["steps"]))

    @cached_property  # asked for at each checkpoint
    def fingerprint(self) -> str:
        """sha256 of the plan: the language pairs, and which of them each step takes."""
        return plan_fingerprint([(pair.batch_type, pair.name) for pair in self.language_pairs], self._plan)

    def pair_numbers(self) -> list[int]:
        """For each step the number of its language pair in `language_pairs`."""
        return self._plan.tolist()

    def summary(self, max_pairs: int = 5) -> str:
        """The plan as text of bounded length, `max_pairs` language pairs for each batch type."""
        rows = self.plan()
        lines = [
            f"plan: {self.num_steps} steps of at most {self.global_batch_size} items, mix {self.mix}, "
            f"seed {self.seed}, smoothing {self.smoothing:g}, {len(self.corpus.languages)} languages, "
            f"{len(self.corpus)} items"
        ]
        for batch_type in BATCH_TYPES:
            language_pairs = [row for row in rows if row["batch_type"] == batch_type]
            if not language_pairs:
                continue
            steps, pairs = (sum(row[key] for row in language_pairs) for key in ("steps", "pairs"))
            lines.append(
                f"  {batch_type:<5} {steps:>7} steps  {pairs:>9} pairs  in {len(language_pairs)} language pairs"
            )
            for row in language_pairs[:max_pairs]:
                counts = f"{row['steps']:>7} steps  {row['pairs']:>9} pairs"
                lines.append(f"        {counts}  {row['language_pair']} ({row['items']} items)")
            if len(language_pairs) > max_pairs:
                rest = sum(row["steps"] for row in language_pairs[max_pairs:])
                lines.append(f"        {rest:>7} steps  in {len(language_pairs) - max_pairs} more language pairs")
        return "\n".join(lines)

    def preview(self, num_batches: int = 3, num_items: int = 2, width: int = 60) -> str:
        """The first batches as text: `num_items` positives of each, texts cut at `width` characters."""
        lines = []
        for step in range(min(num_batches, self.num_steps)):
            batch = self.batch(step)
            lines.append(
                f"step {step}: {batch.batch_type} {batch.language_pair.name}, {len(batch.items)} items, "
                f"{len(batch.positive_items)} passages in {', '.join(batch.passage_languages)}"
            )
            for number, language in list(zip(batch.positive_items, batch.positive_languages, strict=True))[:num_items]:
                lines.append(f"  {batch.item_ids[number]}")
                for side, column in ((QUERY, batch.query_languages[number]), (PASSAGE, language)):
                    name, row = self.corpus.languages[column], self.corpus.rows[batch.items[number], column, side]
                    lines.append(f"    {name}: {self.corpus.text(side, name, int(row))[:width]}")
        return "\n".join(lines)

    def _column(self, language: str) -> int:
        return self.corpus.languages.index(language)

    def _find_language_pairs(self) -> list[LanguagePair]:
        language_pairs = self._members.language_pairs(self.mix.batch_types)
        if self._num_groups < len(self.corpus):  # items of one group alone have nothing to be contrasted with
            language_pairs = [
                pair for pair in language_pairs if np.ptp(self._group_numbers[self._members.items(pair)])
            ]
        filled = {pair.batch_type for pair in language_pairs}
        if missing := [batch_type for batch_type in self.mix.batch_types if batch_type not in filled]:
            raise ValueError(
                f"mix {self.mix} asks for {missing[0]!r} batches, but no {missing[0]!r} language pair has two items "
                f"or more in the languages {', '.join(self.corpus.languages)}. Add languages or items, widen "
                "`language_pairs`, or change the mix."
            )
        return language_pairs

    def _make_plan(self) -> np.ndarray:
        batch_types = self.mix.batch_types
        shares = np.array([getattr(self.mix, batch_type) for batch_type in batch_types])
        steps_of_batch_type = largest_remainder(shares, self.num_steps)
        steps_of_pair = np.zeros(len(self.language_pairs), dtype=np.int64)
        rng = self._stream(_PLAN_STREAM)
        for batch_type, steps in zip(batch_types, steps_of_batch_type, strict=True):
            numbers = [i for i, pair in enumerate(self.language_pairs) if pair.batch_type == batch_type]
            sizes = np.array([self.language_pairs[i].num_items for i in numbers], dtype=np.float64)
            steps_of_pair[numbers] = spread_quotas((sizes / sizes.max()) ** self.smoothing, int(steps), rng)
        dtype = np.min_scalar_type(len(self.language_pairs))
        plan = np.repeat(np.arange(len(self.language_pairs), dtype=dtype), steps_of_pair)
        return rng.permutation(plan)

    def _batches_a_pass(self, pair: LanguagePair) -> int:
        return -(-pair.num_items // self.global_batch_size)

    def _pairs(self, pair: LanguagePair, num_steps: int) -> int:
        """Queries of that many batches; the larger batches of a pass come first."""
        num_batches = self._batches_a_pass(pair)
        passes, rest = divmod(num_steps, num_batches)
        size, larger = divmod(pair.num_items, num_batches)
        return passes * pair.num_items + rest * size + min(rest, larger)

    def _deal_pass(self, pair_number: int, pass_number: int) -> np.ndarray:
        """The items of one pass, ordered so that taking every k-th of them (k batches a pass) parts all groups.

        Members of a group stand side by side, hence in different batches, k of them at the most: those whose turn it
        is. Counting instead of sorting keeps this linear in the items of the corpus; a pass is dealt once and kept.
        """
        pair, num_batches = (
            self.language_pairs[pair_number],
            self._batches_a_pass(self.language_pairs[pair_number]),
        )
        items = self._members.items(pair)
        group = self._group_numbers[items]
        sizes = np.bincount(group, minlength=self._num_groups)
        turn = (occurrence_numbers(group) - pass_number * num_batches) % sizes[group]
        kept, sizes = turn < num_batches, np.minimum(sizes, num_batches)
        place = self._stream(_PASS_STREAM, pair_number, pass_number).permutation(self._num_groups)
        sizes_by_place = np.empty_like(sizes)
        sizes_by_place[place] = sizes
        starts = (np.cumsum(sizes_by_place) - sizes_by_place)[place]
        dealt = np.empty(int(sizes.sum()), dtype=items.dtype)
        dealt[starts[group[kept]] + turn[kept]] = items[kept]
        return dealt

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])


def plan_fingerprint(language_pairs: Sequence[tuple[str, str]], pair_numbers: Sequence[int] | np.ndarray) -> str:
    """sha256 of a plan.

    Args:
        language_pairs (`Sequence[tuple[str, str]]`): Batch type and name of each language pair.
        pair_numbers (`Sequence[int]`): For each step the number of its language pair.

    Example:

        >>> plan_fingerprint([("mono", "de->de"), ("mono", "en->en")], [0, 1, 1])[:8]
        '2e5b3b2b'
    """
    names = "\n".join(f"{batch_type} {name}" for batch_type, name in language_pairs)
    return hashlib.sha256(names.encode() + np.asarray(pair_numbers, dtype="<i8").tobytes()).hexdigest()


def occurrence_numbers(values: np.ndarray) -> np.ndarray:
    """For each position, how often its value stood before it.

    >>> occurrence_numbers(np.array([3, 1, 3, 3, 1])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    numbers = np.empty(len(values), dtype=np.int64)
    numbers[order] = np.arange(len(values)) - starts
    return numbers
