"""How `train_throughput.py` trains with sentence-transformers: its trainer, its collator, its loss, our pairs.

The pairs of our plan lie in a `datasets` folder in the order of the plan, with the number of pairs of each batch, so
that its trainer takes the same batches in the same order.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import BatchSampler
from transformers import TrainerCallback

SIDES = ("anchor", "positive")  # columns of the data set
_SIZES = "pairs_per_step.json"


def write_pairs(folder: Path, batches: Sequence[tuple[list[str], list[str]]]) -> None:
    """Write the (queries, passages) of each batch as a data set."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    columns = [list(itertools.chain.from_iterable(batch[side] for batch in batches)) for side in (0, 1)]
    Dataset.from_dict(dict(zip(SIDES, columns, strict=True))).save_to_disk(folder)
    (folder / _SIZES).write_text(json.dumps([len(queries) for queries, _ in batches]))


class PlannedBatches(BatchSampler):
    """Row numbers of the data set, batch by batch, in order.

    Args:
        sizes (`Sequence[int]`): Pairs of each batch.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        first = 0
        for size in self.sizes:
            yield list(range(first, first + size))
            first += size


def peer_trainer(
    model_folder: str,
    pairs: Path,
    arguments: dict[str, Any],
    callbacks: list[TrainerCallback],
    *,
    prompts: tuple[str, str],
    max_length: int,
    temperature: float,
    mini_batch: int | None,
    device: str,
) -> Any:
    """A `SentenceTransformerTrainer`, ready to train.

    Args:
        model_folder (`str`): The model, in its own layout or that of transformers (then mean pooling).
        pairs (`Path`): From `write_pairs`.
        arguments (`dict[str, Any]`): Of `TrainingArguments`.
        callbacks (`list[TrainerCallback]`): Added to the trainer's own.
        prompts (`tuple[str, str]`): Before queries and before passages.
        max_length (`int`): Most tokens of a text: it has one bound for both sides.
        temperature (`float`): Its `scale` is 1 / temperature.
        mini_batch (`int`, *optional*): With the cached loss, in chunks of so many pairs; else the plain loss.
        device (`str`): `"cpu"` or `"cuda"`.
    """
    from datasets import load_from_disk
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss

    sizes = json.loads((pairs / _SIZES).read_text())
    model = SentenceTransformer(model_folder, device=device)
    model.max_seq_length = max_length
    chunks = {"mini_batch_size": mini_batch} if mini_batch else {}
    loss = (CachedMultipleNegativesRankingLoss if mini_batch else MultipleNegativesRankingLoss)(
        model, scale=1 / temperature, **chunks
    )
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            **arguments,
            per_device_train_batch_size=max(sizes),
            batch_sampler=lambda *_, **__: PlannedBatches(sizes),
            prompts=dict(zip(SIDES, prompts, strict=True)),
        ),
        train_dataset=load_from_disk(pairs),
        loss=loss,
        callbacks=callbacks,
    )


def peer_batches(trainer: Any) -> Iterator[tuple[list[torch.Tensor], int]]:
    """For each batch of its data loader: the token ids of the queries, then the passages, and all padded positions."""
    for batch in trainer.get_train_dataloader():
        masks = [batch[f"{side}_attention_mask"].bool() for side in SIDES]
        ids = [batch[f"{side}_input_ids"] for side in SIDES]
        rows = [row[kept] for side in zip(ids, masks, strict=True) for row, kept in zip(*side, strict=True)]
        yield rows, sum(mask.numel() for mask in masks)
