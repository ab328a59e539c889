"""Training without the rows of the embedding table that no text of the corpus uses.

A multilingual vocabulary has some 250,000 entries, of which a corpus uses a part. The others never get a gradient,
but the whole table is differentiated, clipped, stepped and, on several devices, exchanged in each step. Here only the
rows of seen tokens are parameters. The mathematics stay the same: AdamW and SGD move a row that never has a gradient
by weight decay alone, which is the same factor for all such rows; one more row, of ones, goes along to measure it.

Shape letters: V entries of the vocabulary, R of them seen, D size of an embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

EXACT_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")  # each element by itself, weight decay a factor


class SeenEmbedding(nn.Module):
    """An embedding table of which only the rows of seen tokens are trained; in a state dict it is the whole table.

    Args:
        whole (`nn.Embedding`): The table.
        seen (`np.ndarray`): Ids of the tokens that training uses, without repetition.

    Other tokens are embedded in evaluation mode only.

    Example:

        >>> table = SeenEmbedding(nn.Embedding(5, 2), np.array([1, 4]))
        >>> table.seen_RD.shape, list(table.state_dict()), table.state_dict()["weight"].shape
        (torch.Size([3, 2]), ['weight'], torch.Size([5, 2]))
    """

    def __init__(self, whole: nn.Embedding, seen: np.ndarray) -> None:
        super().__init__()
        weight_VD = whole.weight.detach()
        self.num_embeddings, self.embedding_dim = whole.num_embeddings, whole.embedding_dim
        seen_R = torch.from_numpy(seen).to(weight_VD.device)
        slot_V = torch.full((len(weight_VD),), -1, device=weight_VD.device)
        slot_V[seen_R] = torch.arange(len(seen_R), device=weight_VD.device)
        padding_slot = -1 if whole.padding_idx is None else int(slot_V[whole.padding_idx])
        self.padding_slot = padding_slot if padding_slot >= 0 else None
        self.seen_RD = nn.Parameter(torch.cat([weight_VD[seen_R], torch.ones_like(weight_VD[:1])]))
        self.register_buffer("seen_R", seen_R, persistent=False)
        self.register_buffer("slot_V", slot_V, persistent=False)
        self.register_buffer("others_VD", weight_VD, persistent=False)
        self.seen_R: torch.Tensor
        self.slot_V: torch.Tensor
        self.others_VD: torch.Tensor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids, of any shape."""
        slots = self.slot_V[ids]
        if self.training:
            return nn.functional.embedding(slots, self.seen_RD, padding_idx=self.padding_slot)
        others = self.others_VD[ids] * self.seen_RD[-1]
        seen = nn.functional.embedding(slots.clamp(min=0), self.seen_RD)
        return torch.where((slots >= 0)[..., None], seen, others)

    def whole_weight(self) -> torch.Tensor:
        """The whole table, `(V, D)`: the rows that were trained, and the others as weight decay has left them."""
        with torch.no_grad():
            weight_VD = self.others_VD * self.seen_RD[-1]
            weight_VD[self.seen_R] = self.seen_RD[:-1]
        return weight_VD

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.whole_weight()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        missing_keys = args[2]
        weight_VD = state_dict.get(f"{prefix}weight")
        if weight_VD is None:
            missing_keys.append(f"{prefix}weight")
            return
        with torch.no_grad():
            self.others_VD.copy_(weight_VD)
            self.seen_RD[:-1] = self.others_VD[self.seen_R]
            self.seen_RD[-1] = 1.0


def train_seen_rows(backbone: PreTrainedModel, seen: np.ndarray) -> None:
    """Put a `SeenEmbedding` in the place of a model's token embeddings."""
    whole: Any = backbone.get_input_embeddings()
    backbone.set_input_embeddings(SeenEmbedding(whole, seen).train(whole.training))


def train_all_rows(backbone: PreTrainedModel) -> None:
    """Undo `train_seen_rows`: the whole table, with what was trained."""
    table: Any = backbone.get_input_embeddings()
    if isinstance(table, SeenEmbedding):
        padding = None if table.padding_slot is None else int(table.seen_R[table.padding_slot])
        whole = nn.Embedding.from_pretrained(table.whole_weight(), freeze=False, padding_idx=padding)
        backbone.set_input_embeddings(whole.train(table.training))
