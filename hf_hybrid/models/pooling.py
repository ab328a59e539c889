"""Pooling: from the states of the tokens of a text to one vector.

Shape letters: T tokens of all texts, N texts, D size of a state.
"""

from __future__ import annotations

import torch

POOLINGS = ("mean", "cls", "pooler")


def pool(states_TD: torch.Tensor, sequence_ids: torch.Tensor, cu_seqlens: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return one vector for each packed text.

    Args:
        states_TD (`torch.Tensor` of shape `(T, D)`): States of the last layer.
        sequence_ids (`torch.Tensor` of shape `(T,)`): int64, the text of each token.
        cu_seqlens (`torch.Tensor` of shape `(N + 1,)`): int64, where each text begins.
        pooling (`str`): `"mean"` of the states; `"cls"` and `"pooler"` take the first one (a pooler's dense layer is
            the projection that follows).

    Returns:
        `torch.Tensor` of shape `(N, D)`.

    Example:

        >>> states_TD = torch.tensor([[1.0], [3.0], [5.0]])
        >>> pool(states_TD, torch.tensor([0, 0, 1]), torch.tensor([0, 2, 3]), "mean").tolist()
        [[2.0], [5.0]]
    """
    if pooling != "mean":
        return states_TD[cu_seqlens[:-1]]
    sums_ND = states_TD.new_zeros(len(cu_seqlens) - 1, states_TD.shape[1])
    return sums_ND.index_add(0, sequence_ids, states_TD) / cu_seqlens.diff()[:, None]
