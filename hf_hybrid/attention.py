"""Attention over packed sequences, registered with transformers under the name `PACKED_ATTENTION`.

Tokens of all sequences stand in one row, so every matrix product of the model runs without padding; only here is each
sequence kept to itself.  On CUDA in half precision that is one variable-length flash-attention call.  Elsewhere, and
where attention dropout is on (which that kernel lacks), sequences of like length are gathered and padded for
`scaled_dot_product_attention`, bucket by bucket: the same result with little waste.

Shape letters: T tokens, H heads, E size of a head, N sequences of a bucket, L their greatest length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

PACKED_ATTENTION = "hf_hybrid_packed"
_BUCKET_GROWTH = 1.25  # a bucket holds lengths up to this multiple of its shortest: at most 25% padding


class LengthBucket(NamedTuple):
    """Sequences of like length.

    Args:
        sequences (`torch.Tensor` of shape `(N,)`): Their numbers.
        token_NL (`torch.Tensor` of shape `(N, L)`): The row of each of their tokens; padding repeats the last one.
        valid_NL (`torch.Tensor` of shape `(N, L)`): False on padding.
    """

    sequences: torch.Tensor
    token_NL: torch.Tensor
    valid_NL: torch.Tensor


class LengthBuckets(NamedTuple):
    """All buckets of a packed batch, and where each token stands in their concatenation."""

    buckets: list[LengthBucket]
    position_T: torch.Tensor


def length_buckets(cu_seqlens: torch.Tensor, growth: float = _BUCKET_GROWTH) -> LengthBuckets:
    """Sort sequences by length and cut them where the length has grown by `growth`.

    Args:
        cu_seqlens (`torch.Tensor` of shape `(N + 1,)`): Where each sequence begins, and the number of tokens.
        growth (`float`, *optional*, defaults to 1.25): Greatest ratio of lengths in a bucket; `inf` makes one bucket.

    Returns:
        `LengthBuckets`: on the device of `cu_seqlens`.

    Example:

        >>> found = length_buckets(torch.tensor([0, 2, 12, 14]))
        >>> [bucket.sequences.tolist() for bucket in found.buckets]
        [[0, 2], [1]]
    """
    bounds, device = cu_seqlens.cpu().numpy().astype(np.int64), cu_seqlens.device
    lengths = np.diff(bounds)
    order = np.argsort(lengths, kind="stable")
    position = np.empty(bounds[-1], dtype=np.int64)
    buckets, first, filled = [], 0, 0
    while first < len(order):
        end = int(np.searchsorted(lengths[order], lengths[order[first]] * growth, side="right"))
        sequences = order[first:end]
        columns = np.arange(lengths[sequences[-1]])
        valid = columns < lengths[sequences, None]
        tokens = bounds[sequences, None] + np.minimum(columns, lengths[sequences, None] - 1)
        position[tokens[valid]] = filled + np.flatnonzero(valid)
        filled, first = filled + valid.size, end
        arrays = (torch.from_numpy(array).to(device) for array in (sequences, tokens, valid))
        buckets.append(LengthBucket(*arrays))
    return LengthBuckets(buckets, torch.from_numpy(position).to(device))


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    buckets: LengthBuckets | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls in every layer.

    Args:
        module (`nn.Module`): The layer, not used.
        query, key, value (`torch.Tensor` of shape `(1, H, T, E)`): Of all sequences.
        attention_mask (`torch.Tensor`, *optional*): Not used: the sequence bounds say it all.
        cu_seq_lens_q (`torch.Tensor` of shape `(N + 1,)`): int32, where each sequence begins.
        max_length_q (`int`): Length of the longest sequence.
        buckets (`LengthBuckets`, *optional*): Given where the flash kernel cannot be used.
        scaling (`float`, *optional*): Factor on the scores.
        dropout (`float`, *optional*, defaults to 0.0): On attention probabilities.
        sliding_window (`int`, *optional*): Tokens at this distance or farther are not attended to.

    Returns:
        `tuple[torch.Tensor, None]`: The output of shape `(1, T, H, E)`, and no attention weights.
    """
    if buckets is not None:
        return _bucketed(query, key, value, buckets, scaling, dropout, sliding_window), None
    from torch.nn.attention.varlen import varlen_attn

    window = {} if sliding_window is None else {"window_size": (sliding_window - 1, sliding_window - 1)}
    q_THE, k_THE, v_THE = (heads[0].transpose(0, 1) for heads in (query, key, value))
    output_THE = varlen_attn(
        q_THE, k_THE, v_THE, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling, **window
    )
    return output_THE[None], None


def _bucketed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    buckets: LengthBuckets,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
) -> torch.Tensor:
    q_THE, k_THE, v_THE = (heads[0].transpose(0, 1) for heads in (query, key, value))
    outputs = []
    for bucket in buckets.buckets:
        q, k, v = (heads[bucket.token_NL].transpose(1, 2) for heads in (q_THE, k_THE, v_THE))  # (N, H, L, E)
        output_NHLE = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=_mask(bucket.valid_NL, sliding_window), dropout_p=dropout, scale=scaling
        )
        outputs.append(output_NHLE.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[buckets.position_T][None]


def _mask(valid_NL: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """Boolean mask of shape `(N, 1, 1 or L, L)`; `None` where everything is attended to, for the fastest kernel."""
    length = valid_NL.shape[1]
    mask = None if valid_NL[:, -1].all() else valid_NL[:, None, None, :]
    if sliding_window is None or length <= sliding_window:
        return mask
    positions = torch.arange(length, device=valid_NL.device)
    near_LL = (positions[:, None] - positions[None, :]).abs() < sliding_window
    return near_LL if mask is None else near_LL & mask


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
