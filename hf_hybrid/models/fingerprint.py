"""Names of models by content: a hash of settings, tokenizer and weights."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_hybrid.data.batches.token_cache import tokenizer_fingerprint

if TYPE_CHECKING:
    from .encoder import HybridEncoder


_PLACE_AND_TIME = ("_name_or_path", "transformers_version", "dtype")  # in a model's configuration


def model_name(encoder: HybridEncoder) -> str:
    """The last part of a model's id or path, with a hash of its settings, tokenizer and weights."""
    config = {name: value for name, value in encoder.config.to_dict().items() if name not in _PLACE_AND_TIME}
    settings = [config, encoder.pooling, encoder.normalize, encoder.prompts, tokenizer_fingerprint(encoder.tokenizer)]
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    add_weights(sha, encoder)
    return f"{Path(encoder.config.name_or_path).name or 'from scratch'}, {sha.hexdigest()[:16]}"


def add_weights(sha: Any, model: nn.Module) -> None:
    """Add names, types, shapes and values of a model's weights to a hash.

    Weights that DeepSpeed ZeRO-3 has spread are brought together one by one: all ranks must come here.
    """
    for name, weight in model.state_dict(keep_vars=True).items():
        with _brought_together(weight):
            sha.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}".encode())
            sha.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def _brought_together(weight: torch.Tensor) -> AbstractContextManager[Any]:
    if not hasattr(weight, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([weight])
