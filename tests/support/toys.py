"""Small corpora and encoders that tests are made with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_hybrid.data.batches.collator import HybridCollator
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.data.batches.token_cache import TokenCache
from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.data.storage import Negatives
from hf_hybrid.models.encoder import HybridEncoder

LANGUAGES = ("ar", "de", "en", "hi", "zh")
_WORDS = "river stone winter paper engine garden signal harbor mirror copper meadow lantern orchard canvas".split()  # noqa: SIM905


def toy_corpus(
    num_items: int = 60,
    languages: Sequence[str] = LANGUAGES,
    missing: float | Sequence[float] = 0.2,
    group_size: int = 1,
    negatives: int = 0,
    seed: int = 0,
) -> ParallelCorpus:
    """Items that each language lacks a share of, `group_size` neighbors a group, `negatives` other passages each."""
    rng = np.random.default_rng(seed)
    ids = [f"item-{number:04}" for number in range(num_items)]
    shares = np.broadcast_to(missing, len(languages))
    with CorpusBuilder(Path(tempfile.mkdtemp()) / "corpus") as builder:
        for language, share in zip(languages, shares, strict=True):
            kept = np.flatnonzero(rng.random(num_items) >= share)
            queries, passages = ([_text(language, int(i), rng, length) for i in kept] for length in (3, 12))
            options: dict[str, Any] = {"groups": [str(i // group_size) for i in kept]} if group_size > 1 else {}
            if negatives:
                rows = np.concatenate([_others(rng, len(kept), row, negatives) for row in range(len(kept))])
                offsets = np.arange(len(kept) + 1, dtype=np.int64) * negatives
                options["negatives"] = Negatives(offsets, rows.astype(np.int32))
            builder.add_language(language, [ids[i] for i in kept], queries, passages, **options)
        return builder.finish()


def _others(rng: np.random.Generator, count: int, row: int, number: int) -> np.ndarray:
    return rng.choice(np.delete(np.arange(count), row), size=number, replace=False)


def _text(language: str, number: int, rng: np.random.Generator, length: int) -> str:
    words = [_WORDS[i] for i in rng.integers(len(_WORDS), size=int(rng.integers(1, length + 1)))]
    return f"{language}{number} " + " ".join(words)


def toy_encoder(corpus: ParallelCorpus, hidden_size: int = 32, dropout: float = 0.0, **settings: Any) -> HybridEncoder:
    """A one-layer encoder with a tokenizer of the corpus, the same at every call."""
    torch.manual_seed(0)
    texts = [text for language in corpus.languages for text in corpus.passages(language).to_pylist()]
    encoder = HybridEncoder.from_scratch(
        texts, hidden_size=hidden_size, num_layers=1, num_heads=2, vocab_size=300, **settings
    )
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return encoder


def toy_cache(corpus: ParallelCorpus, encoder: HybridEncoder | None = None, **options: Any) -> TokenCache:
    """The token cache of a corpus, built in a folder of its own."""
    tokenizer = (encoder or toy_encoder(corpus)).tokenizer
    cache = TokenCache(corpus, tokenizer, cache_dir=tempfile.mkdtemp(), **options)
    cache.build()
    return cache


def toy_collators(
    schedule: HybridSchedule, cache: TokenCache, world_size: int, **options: int
) -> list[HybridCollator]:
    """The collator of each rank."""
    return [HybridCollator(schedule, cache, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that a tensor made inside it had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made
