"""Traditional multilingual pre-training as a plan: which blocks of text each step reads.

mBERT was trained by masked language modeling on text of many languages, the small ones sampled more often than by
their size. Here the same is a pure function of (corpus, tokenizer, number of steps, seed), made in four steps:

1. *Documents.* All queries and passages that the corpus' items refer to, each once, without prompts and not cut.
2. *Blocks.* A pass over a language joins its documents in a new order, a separator after each, and cuts that into
   blocks of one length; the last one is filled up from the pass's beginning. Blocks are full, so nothing is padded;
   as in BERT, a token attends to its whole block, whatever the documents in it.
3. *Plan.* Each language gets its share of the blocks by ``tokens ** smoothing``, rounded up or down (shares are
   exact, not drawn); the list of blocks is then shuffled and cut into batches, which so are of many languages.
4. *Masks* (`mlm_collator.py`). Those of a block follow from its language, its pass and its place in it: *dynamic*
   ones are new in each pass (RoBERTa), *static* ones repeat after `num_duplicates` passes, as those of mBERT, whose
   text was written to disk ten times over, masked; here it is rebuilt when it is needed.

Nothing depends on the rank, the world size, the number of workers or what ran before.

Shape letters: B blocks of a batch, L tokens of a block, D documents of a language.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_hybrid.data.corpus import document_rows
from hf_hybrid.data.sides import PASSAGE, QUERY, SIDE_PLURALS

from .mix import spread_quotas
from .schedule import occurrence_numbers, plan_fingerprint
from .token_cache import TokenCache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MLM = "mlm"
Masks = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]  # as `mlm_collator.Masking`
WHOLE = 2**30  # as the most tokens of a text: none is cut
_PLAN_STREAM, _ORDER_STREAM, _MASK_STREAM = 5, 6, 7  # beside those of the contrastive schedule and its collator


class Ends(NamedTuple):
    """The special tokens that a tokenizer puts before and after a text."""

    before: np.ndarray
    after: np.ndarray

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Ends:
        """Ask a tokenizer.

        Raises:
            ValueError: When it puts none after a text: then nothing parts two documents.
        """
        encoded = tokenizer("a", return_special_tokens_mask=True)
        ids, text = np.array(encoded["input_ids"]), np.flatnonzero(np.array(encoded["special_tokens_mask"]) == 0)
        first, end = (int(text[0]), int(text[-1]) + 1) if len(text) else (0, len(ids))
        if end == len(ids):
            raise ValueError(
                f"{type(tokenizer).__name__} puts no special token after a text, so nothing would part two documents. "
                "Take a model whose tokenizer has a separator, such as [SEP] or </s>."
            )
        return cls(ids[:first], ids[end:])


class LanguageBlocks:
    """The documents of one language as an endless row of blocks, any of which can be had at any time.

    Args:
        cache (`TokenCache`): Whole texts, without prompts.
        language (`str`): The language.
        block_length (`int`): Tokens of a block, special tokens included.
        ends (`Ends`): The special tokens.
        seed (`int`): Decides the order of the documents in each pass.
        num_duplicates (`int`, *optional*): Passes that differ; by default all do.

    Raises:
        ValueError: When the language has less text than a block holds.
    """

    def __init__(
        self,
        cache: TokenCache,
        language: str,
        block_length: int,
        ends: Ends,
        seed: int,
        num_duplicates: int | None = None,
    ) -> None:
        self.cache, self.language, self.ends, self.seed = cache, language, ends, seed
        self.num_duplicates = num_duplicates
        self._column = cache.corpus.languages.index(language)
        rows = [document_rows(cache.corpus, side, language) for side in (QUERY, PASSAGE)]
        self._side_D = np.repeat([QUERY, PASSAGE], [len(found) for found in rows])
        self._row_D = np.concatenate(rows)
        lengths = [cache.lengths(side, language)[found] for side, found in zip((QUERY, PASSAGE), rows, strict=True)]
        self._length_D = np.concatenate(lengths) - len(ends.before)  # what stands after a text parts it from the next
        self.num_tokens = int(self._length_D.sum())
        self._room = block_length - len(ends.before) - len(ends.after)
        if self.num_tokens < self._room:
            raise ValueError(
                f"block_length={block_length}: all texts in {language} together have {self.num_tokens} tokens, fewer "
                "than one block. Set a lower block_length, or leave the language out of --languages."
            )
        self.blocks_a_pass = -(-self.num_tokens // self._room)
        self._dealt: tuple[int, np.ndarray, np.ndarray] | None = None  # the newest pass: number, order, ends

    @property
    def num_documents(self) -> int:
        """Queries and passages."""
        return len(self._row_D)

    def key(self, number: int) -> tuple[int, int, int]:
        """Return the key of a block beside the seed: language, pass and position in it."""
        pass_number, place = divmod(int(number), self.blocks_a_pass)
        return self._column, pass_number % self.num_duplicates if self.num_duplicates else pass_number, place

    def block(self, number: int) -> np.ndarray:
        """Token ids of a block, int64 of shape `(L,)`."""
        pieces = [self.cache.tokens(*text)[len(self.ends.before) :] for text in self._texts(number)]
        _, skipped = self._beginning(number)
        content = np.concatenate(pieces)[skipped : skipped + self._room]
        return np.concatenate([self.ends.before, content, self.ends.after]).astype(np.int64)

    def rows(self, number: int) -> dict[str, list[int]]:
        """Return the rows of the corpus whose text is in a block, by side."""
        texts = self._texts(number)
        return {SIDE_PLURALS[side]: [int(row) for own, _, row in texts if own == side] for side in (QUERY, PASSAGE)}

    def _beginning(self, number: int) -> tuple[int, int]:
        """Place of the first document of a block in its pass, and the tokens of it that earlier blocks have."""
        _, pass_number, place = self.key(number)
        order, end_D = self._deal(pass_number)
        first = place * self._room
        document = int(np.searchsorted(end_D, first, side="right"))
        return document, first - int(end_D[document] - self._length_D[order[document]])

    def _texts(self, number: int) -> list[tuple[int, str, int]]:
        """Side, language and row of the documents of a block, in their order."""
        order, _ = self._deal(self.key(number)[1])
        place, skipped = self._beginning(number)
        found, missing = [], skipped + self._room
        while missing > 0:
            document = order[place % len(order)]
            found.append((int(self._side_D[document]), self.language, int(self._row_D[document])))
            missing, place = missing - int(self._length_D[document]), place + 1
        return found

    def _deal(self, pass_number: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the documents in a pass, and where each ends; one pass is kept, as blocks come in order."""
        if self._dealt is None or self._dealt[0] != pass_number:
            rng = np.random.default_rng([self.seed, _ORDER_STREAM, self._column, pass_number])
            order = rng.permutation(self.num_documents)
            self._dealt = pass_number, order, np.cumsum(self._length_D[order])
        return self._dealt[1:]


@dataclass(frozen=True)
class MlmLanguage:
    """A language: what stands in the place of the contrastive schedule's language pairs."""

    name: str
    num_documents: int
    num_tokens: int
    batch_type: str = MLM


class MlmBatch(NamedTuple):
    """The global batch of one step, over all ranks.

    Args:
        step (`int`): The step it belongs to.
        columns (`np.ndarray` of shape `(B,)`): For each block the number of its language.
        numbers (`np.ndarray` of shape `(B,)`): Which of the language's endless row of blocks it is.
    """

    step: int
    columns: np.ndarray
    numbers: np.ndarray


class MlmSchedule:
    """The plan of a run, with random access to the blocks of any step.

    Args:
        cache (`TokenCache`): Of the corpus, built; whole texts, without prompts.
        block_length (`int`): Tokens of a block.
        global_batch_size (`int`): Blocks of a batch, over all ranks.
        num_steps (`int`): Length of the plan.
        smoothing (`float`, *optional*, defaults to 0.7): Languages have blocks in proportion to tokens ** smoothing.
        seed (`int`, *optional*, defaults to 42): Seed of the plan, the blocks and the masks.
        num_duplicates (`int`, *optional*): Passes over a language after which its blocks and masks repeat.

    Raises:
        ValueError: When a language has less text than a block, or the block no room for text.
    """

    mix = MLM

    def __init__(
        self,
        cache: TokenCache,
        *,
        block_length: int,
        global_batch_size: int,
        num_steps: int,
        smoothing: float = 0.7,
        seed: int = 42,
        num_duplicates: int | None = None,
    ) -> None:
        self.corpus, self.tokenizer = cache.corpus, cache.tokenizer
        self.block_length, self.global_batch_size, self.num_steps = block_length, global_batch_size, num_steps
        self.smoothing, self.seed = smoothing, seed
        ends = Ends.of(cache.tokenizer)
        if block_length <= len(ends.before) + len(ends.after):
            raise ValueError(f"block_length={block_length} has no room for text; give more, such as 128.")
        options: Any = (block_length, ends, seed, num_duplicates)
        self.blocks = [LanguageBlocks(cache, language, *options) for language in self.corpus.languages]
        self.language_pairs = [MlmLanguage(own.language, own.num_documents, own.num_tokens) for own in self.blocks]
        self._plan = self._make_plan()
        self._visits = occurrence_numbers(self._plan)

    def __len__(self) -> int:
        return self.num_steps

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tokenizer": None}

    def batch(self, step: int) -> MlmBatch:
        """The global batch of `step`, from 0 to `num_steps - 1`, in any order.

        Raises:
            IndexError: When `step` lies outside the plan.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the plan of {self.num_steps} steps")
        own = slice(step * self.global_batch_size, (step + 1) * self.global_batch_size)
        return MlmBatch(step, self._plan[own], self._visits[own])

    def block(self, column: int, number: int) -> tuple[np.ndarray, np.random.Generator]:
        """The token ids of a block, and the random numbers that decide its masks."""
        blocks = self.blocks[column]
        return blocks.block(number), np.random.default_rng([self.seed, _MASK_STREAM, *blocks.key(number)])

    def plan(self) -> list[dict[str, Any]]:
        """Return one row per language, most blocks first.

        Keys: `batch_type`, `language_pair` (the language), `items` (documents) with `tokens`, `blocks`, `steps`
        (batches with some of its blocks), and `pairs`, which are 0.
        """
        in_batch = self._plan.reshape(self.num_steps, -1)
        rows = [
            {
                "batch_type": MLM,
                "language_pair": pair.name,
                "items": pair.num_documents,
                "tokens": pair.num_tokens,
                "blocks": int((in_batch == number).sum()),
                "steps": int((in_batch == number).any(axis=1).sum()),
                "pairs": 0,
            }
            for number, pair in enumerate(self.language_pairs)
        ]
        return sorted(rows, key=lambda row: -row["blocks"])

    @cached_property  # asked for at each checkpoint
    def fingerprint(self) -> str:
        """sha256 of the plan: the languages, and which of them each block is in."""
        return plan_fingerprint([(pair.batch_type, pair.name) for pair in self.language_pairs], self._plan)

    def pair_numbers(self) -> list[int]:
        """For each block, batch after batch, the number of its language in `language_pairs`."""
        return self._plan.tolist()

    def summary(self, max_pairs: int = 5) -> str:
        """The plan as text of bounded length, with `max_pairs` languages."""
        rows, total = self.plan(), len(self._plan)
        lines = [
            f"plan: {self.num_steps} steps of {self.global_batch_size} blocks of {self.block_length} tokens, "
            f"{total * self.block_length:,} tokens in all, masked language modeling, seed {self.seed}, "
            f"smoothing {self.smoothing:g}, {len(self.language_pairs)} languages"
        ]
        for row in rows[:max_pairs]:
            passes = row["blocks"] * self.block_length / row["tokens"]
            lines.append(
                f"  {row['blocks']:>7} blocks  {passes:>7.1f} passes  {row['language_pair']} "
                f"({row['items']} documents, {row['tokens']} tokens)"
            )
        if len(rows) > max_pairs:
            rest = sum(row["blocks"] for row in rows[max_pairs:])
            lines.append(f"  {rest:>7} blocks  in {len(rows) - max_pairs} more languages")
        return "\n".join(lines)

    def preview(self, masking: Masks, num_blocks: int = 3, num_tokens: int = 24) -> str:
        """The beginnings of the first blocks, as they are and as the model reads them."""
        lines, batch = [], self.batch(0)
        for column, number in list(zip(batch.columns, batch.numbers, strict=True))[:num_blocks]:
            block_L, rng = self.block(column, number)
            lines.append(f"step 0: {MLM} {self.language_pairs[column].name}")
            lines += [
                f"  {self.tokenizer.decode(ids_L[:num_tokens])}" for ids_L in (block_L, masking(block_L, rng)[0])
            ]
        return "\n".join(lines)

    def _make_plan(self) -> np.ndarray:
        sizes = np.array([pair.num_tokens for pair in self.language_pairs], dtype=np.float64)
        rng, total = np.random.default_rng([self.seed, _PLAN_STREAM]), self.num_steps * self.global_batch_size
        blocks_of_language = spread_quotas((sizes / sizes.max()) ** self.smoothing, total, rng)
        dtype = np.min_scalar_type(len(self.language_pairs))
        return rng.permutation(np.repeat(np.arange(len(self.language_pairs), dtype=dtype), blocks_of_language))
