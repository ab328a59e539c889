"""Blocks of text with some of their tokens hidden, as the model reads them.

15% of the tokens are to be predicted; 80% of them are hidden, 10% replaced by any other, 10% left as they are (Devlin
et al. 2019, arXiv 1810.04805).  transformers draws them, from the random numbers that the plan has for the block.

Shape letters: B blocks of a batch, L tokens of a block, V entries of the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from transformers import DataCollatorForLanguageModeling

from .collator import BatchFacts
from .mlm_schedule import MLM, MlmSchedule
from .packing import pack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOT_PREDICTED = -100  # labels that the loss ignores
ALL_LANGUAGES = "*"  # the language pair of a batch in the resource log
_CONTINUES, _BEGINS = "##", ("▁", "Ġ")  # how WordPiece marks a part of a word, and how the others mark a beginning


class Masking:
    """Masking: chooses the tokens to predict, and what the model reads in their place.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): With a mask token.
        probability (`float`, *optional*, defaults to 0.15): Of a token, or a word, to be predicted. Special tokens
            never are.
        whole_words (`bool`, *optional*, defaults to `False`): Predict all tokens of a word or none. A word is what the
            tokenizer's vocabulary marks as one (`##`, `▁` or `Ġ`): in scripts without spaces it may be a sentence.

    Raises:
        ValueError: When the tokenizer has no mask token, or its vocabulary does not tell words.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, probability: float = 0.15, whole_words: bool = False
    ) -> None:
        if tokenizer.mask_token is None:
            raise ValueError(f"{type(tokenizer).__name__} has no mask token; take a model that was trained with one.")
        self.probability = probability
        self._special = np.array(tokenizer.all_special_ids)
        self._continues_V = _continues_word(tokenizer) if whole_words else None
        # Its own whole-word masking hides all that is predicted: words are chosen here, and what is chosen is certain.
        self._collator = DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=1.0 if whole_words else probability, return_tensors="np"
        )

    def __call__(self, block_L: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Mask a block.

        Args:
            block_L (`np.ndarray` of shape `(L,)`): Token ids.
            rng (`np.random.Generator`): Decides all.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: What the model reads, and what it is to predict, `NOT_PREDICTED`
            elsewhere; both of shape `(L,)`.
        """
        spared_L = np.isin(block_L, self._special)
        if self._continues_V is not None:
            spared_L = ~self._chosen_words(block_L, spared_L, rng)
        self._collator.generator = rng
        inputs, labels = self._collator.numpy_mask_tokens(block_L[None].copy(), special_tokens_mask=spared_L[None])
        return inputs[0], labels[0]

    def _chosen_words(self, block_L: np.ndarray, special_L: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Boolean `(L,)`: the tokens of words that are drawn."""
        assert self._continues_V is not None
        word_L = np.cumsum(special_L | ~self._continues_V[block_L])
        return (rng.random(int(word_L[-1]) + 1) < self.probability)[word_L] & ~special_L


def _continues_word(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Boolean `(V,)`: the tokens that continue a word."""
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    marked_V = np.array([str(name).startswith(_CONTINUES) for name in names])
    if marked_V.any():
        return marked_V
    begins_V = np.array([str(name).startswith(_BEGINS) for name in names])
    if not begins_V.any():
        raise ValueError(
            f"whole_word_mask: the vocabulary of {type(tokenizer).__name__} marks neither beginnings of words "
            f"({', '.join(_BEGINS)}) nor other parts ({_CONTINUES}). Leave the option out."
        )
    return ~begins_V


class MlmInputs(TypedDict):
    """A rank's share of a step.

    Keys:
        tokens (`dict`): What the model takes: this rank's blocks, as `packing.pack` makes them, with `labels`.
        num_predicted (`int`): Tokens to be predicted, on all ranks.
        facts (`BatchFacts`): What the resource log says.
        lengths (`list[np.ndarray]`): The tokens of each block, of every rank.
    """

    tokens: dict[str, Any]
    num_predicted: int
    facts: BatchFacts
    lengths: list[np.ndarray]


class MlmCollator:
    """Makes and masks the blocks of a step; all of them on each rank, so that all know what the others predict.

    Args:
        schedule (`MlmSchedule`): The plan.
        masking (`Masking`): The masks.
        rank (`int`, *optional*, defaults to 0): This process.
        world_size (`int`, *optional*, defaults to 1): Number of processes; blocks are split evenly, in order.
    """

    def __init__(self, schedule: MlmSchedule, masking: Masking, rank: int = 0, world_size: int = 1) -> None:
        self.schedule, self.masking, self.rank, self.world_size = schedule, masking, rank, world_size

    def __call__(self, step: int) -> MlmInputs:
        """The inputs of `step` for this rank."""
        schedule, batch = self.schedule, self.schedule.batch(step)
        chosen = zip(batch.columns, batch.numbers, strict=True)
        masked = [self.masking(*schedule.block(column, number)) for column, number in chosen]
        input_BL, label_BL = (np.stack(parts) for parts in zip(*masked, strict=True))
        shares = np.array_split(np.arange(len(input_BL)), self.world_size)
        own, num_predicted = shares[self.rank], int((label_BL != NOT_PREDICTED).sum())
        columns, counts = np.unique(batch.columns, return_counts=True)
        facts = BatchFacts(
            batch_type=MLM,
            language_pair=ALL_LANGUAGES,
            pairs=0,
            tokens_per_language={
                schedule.language_pairs[column].name: int(count) * schedule.block_length
                for column, count in zip(columns, counts, strict=True)
            },
            sum_squared_lengths=input_BL.size * schedule.block_length,
            predicted_tokens=num_predicted,
        )
        return MlmInputs(
            tokens=pack(list(input_BL[own])) | {"labels": torch.from_numpy(label_BL[own].flatten())},
            num_predicted=num_predicted,
            facts=facts,
            lengths=[np.full(len(share), schedule.block_length) for share in shares],
        )
