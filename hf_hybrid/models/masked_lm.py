"""A dual encoder with the head that predicts hidden tokens: trained by that, and evaluated as the encoder it is.

transformers' model for masked language modeling is taken apart: the backbone takes the place of its encoder, and runs
packed as in retrieval; what is left, the head, is given the states of the tokens to be predicted alone. With 250,000
entries in a vocabulary the head would else cost more than the encoder.

Shape letters: T tokens, N sequences, M tokens to be predicted, D size of a state, V entries of the vocabulary.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput

from hf_hybrid.data.batches.mlm_collator import NOT_PREDICTED
from hf_hybrid.records.events import event

from . import folder as model_folder
from .encoder import HybridEncoder


class MaskedLanguageModel(HybridEncoder):
    """A [`HybridEncoder`] with a head for masked language modeling, whose output is tied to the token embeddings.

    Args:
        backbone (`PreTrainedModel`): An encoder without a task head.
        tokenizer (`PreTrainedTokenizerBase`): Its fast tokenizer.
        head_of (`tuple[str, str]`, *optional*): Folder or Hub id, and revision, of the checkpoint that has the head;
            where there is none, or it has none, the head begins with random weights.
        **settings: Those of [`HybridEncoder`].

    A projection after pooling, such as LaBSE's pooler, is kept as it is: nothing of this loss passes through it.

    Raises:
        ValueError: When transformers has no masked language model of this architecture.

    Example:

        >>> model = MaskedLanguageModel.from_scratch(["wer ist das", "who is that"], hidden_size=32, num_layers=1)
        >>> model.encode(["wer ist das"], "query").shape
        (1, 32)
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        head_of: tuple[str, str | None] | None = None,
        **settings: Any,
    ) -> None:
        whole = _language_model(backbone, head_of)
        super().__init__(backbone, tokenizer, **settings)
        if self.projection is not None:
            self.projection.requires_grad_(False)
        self._prefix: str = whole.base_model_prefix
        setattr(whole, self._prefix, backbone)
        whole.tie_weights()
        self.head: Any = whole
        setattr(self.head, self._prefix, _Given())

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None, **settings: Any
    ) -> MaskedLanguageModel:
        """See [`HybridEncoder.from_pretrained`]; the checkpoint's head comes with it, where it has one."""
        name = os.fspath(name_or_path)
        loaded: Any = super().from_pretrained(name, revision=revision, head_of=(name, revision), **settings)
        return loaded

    @classmethod
    def from_scratch(cls, texts: Iterator[str] | Sequence[str], **settings: Any) -> MaskedLanguageModel:
        """See [`HybridEncoder.from_scratch`]; the encoder's weights, which are made first, are the same."""
        made: Any = super().from_scratch(texts, **settings)
        return made

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        sequence_ids: torch.Tensor,
        cu_seqlens: torch.Tensor,
        lengths: np.ndarray,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings of packed sequences; with labels, how badly the tokens of each are predicted.

        Args:
            input_ids, position_ids, sequence_ids, cu_seqlens, lengths: As for [`HybridEncoder`].
            labels (`torch.Tensor` of shape `(T,)`, *optional*): Ids of the tokens to be predicted, `NOT_PREDICTED`
                elsewhere.

        Returns:
            `torch.Tensor` of shape `(N, D)`, or, with labels, of shape `(N, 1)`: sums of cross-entropies; float32.
        """
        if labels is None:
            return super().forward(input_ids, position_ids, sequence_ids, cu_seqlens, lengths)
        if self.attention == "varlen":
            states_TD = self._run_packed(input_ids, position_ids, cu_seqlens, lengths)
        else:
            states_TD = self._run_padded(input_ids, lengths)
        predicted_M = torch.nonzero(labels != NOT_PREDICTED)[:, 0]
        logits_MV = self.head(inputs_embeds=states_TD[predicted_M][None]).logits[0]
        losses_M = nn.functional.cross_entropy(logits_MV.float(), labels[predicted_M], reduction="none")
        sums_N = losses_M.new_zeros(len(lengths)).index_add(0, sequence_ids[predicted_M], losses_M)
        return sums_N[:, None]

    def save_pretrained(
        self, folder: str | os.PathLike[str], state_dict: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Write a folder that `HybridEncoder`, `AutoModel`, `SentenceTransformer` and `AutoModelForMaskedLM` load.

        Args:
            folder (`str` or `Path`): Made if it is not there.
            state_dict (`dict[str, torch.Tensor]`, *optional*): By default its own.
        """
        super().save_pretrained(folder, state_dict)  # the weights, without the head, are replaced by those with it
        weights = {}
        for name, weight in (self.state_dict() if state_dict is None else state_dict).items():
            part, _, rest = name.partition(".")
            if part == "projection" and self.pooling == "pooler":
                weights[f"{self._prefix}.pooler.dense.{rest.removeprefix('0.')}"] = weight
            elif part in ("backbone", "head"):
                weights[f"{self._prefix}.{rest}" if part == "backbone" else rest] = weight
        with self._put_together() as whole:
            whole.save_pretrained(folder, state_dict=weights, save_original_format=False)

    def load_weights(self, folder: str | os.PathLike[str]) -> None:
        """Replace the weights by those of a folder written by `save_pretrained`.

        Raises:
            ValueError: When the folder's weights are of another model.
        """
        state = {}
        for name, weight in model_folder.read_weights(folder).items():
            part, _, rest = name.partition(".")
            if not (part == self._prefix and rest.startswith("pooler.")):
                state[f"backbone.{rest}" if part == self._prefix else f"head.{name}"] = weight
        if self.projection is not None:
            dense = model_folder.read_dense_weights(folder)
            state |= {f"projection.0.{name}": weight for name, weight in dense.items()}
        result = self.load_state_dict(state, strict=False)
        parameters = dict(self.named_parameters(remove_duplicate=False))
        loaded = {id(parameters[name]) for name in state if name in parameters}  # others are tied to them
        missing = [name for name in result.missing_keys if id(parameters.get(name)) not in loaded]
        if wrong := missing + result.unexpected_keys:
            raise ValueError(f"{folder} holds the weights of another model: {wrong[:3]} are missing or unknown.")

    @contextmanager
    def _put_together(self) -> Iterator[PreTrainedModel]:
        """transformers' own model, with its encoder."""
        given = getattr(self.head, self._prefix)
        setattr(self.head, self._prefix, self.backbone)
        try:
            yield self.head
        finally:
            setattr(self.head, self._prefix, given)


class _Given(nn.Module):
    """Takes the place of the encoder in transformers' model, and returns the states that it is given."""

    def forward(self, *_: Any, inputs_embeds: torch.Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def _language_model(backbone: PreTrainedModel, head_of: tuple[str, str | None] | None) -> Any:
    """Return the masked language model of an encoder's architecture, with the head of a checkpoint."""
    config = copy.deepcopy(backbone.config)  # that of the backbone is set for packed attention later on
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(
            f"transformers has no model for masked language modeling with {type(backbone).__name__}. Take an encoder "
            "that has one, such as mBERT or XLM-R."
        )
    if head_of is None:
        whole = AutoModelForMaskedLM.from_config(config)
    else:
        options: dict[str, Any] = {"config": config, "dtype": backbone.dtype, "output_loading_info": True}
        options |= {"revision": head_of[1], "use_safetensors": True, "trust_remote_code": False}
        whole, found = AutoModelForMaskedLM.from_pretrained(head_of[0], **options)
        missing = [key for key in found["missing_keys"] if not key.startswith(f"{whole.base_model_prefix}.")]
        if missing:
            problem = f"no head for masked language modeling in {head_of[0]}: it begins with random weights"
            event("warning", logging.WARNING, problem=problem, missing=", ".join(sorted(missing)))
    if not isinstance(backbone, type(whole.base_model)):
        inside = type(whole.base_model).__name__
        raise ValueError(f"{type(whole).__name__} has {inside} inside, and not {type(backbone).__name__}.")
    return whole
