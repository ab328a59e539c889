"""Attention over packed sequences, registered with transformers under the name `PACKED_ATTENTION`.

Tokens of all sequences stand in one row, so every matrix product of the model runs without padding; only here is each
sequence kept to itself. On CUDA in half precision that is one variable-length flash-attention call. Elsewhere, and
where attention dropout is on (which that kernel lacks), the row is sorted by the length of the sequences, and those of
like length are attended to together, bucket by bucket: on a CPU those of equal length, without padding, with matrix
products written out, since the backward pass of its fused kernel is several times slower.

Shape letters: T tokens, H heads, E size of a head, N sequences of a bucket, L their greatest length, S tokens of all
buckets with their padding.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface

from .dropout import dropout as fast_dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED_ATTENTION = "hf_hybrid_packed"
ATTENTIONS = ("auto", "varlen", "sdpa", "flash_attention_2", "eager")
BUCKET_GROWTH = 1.25  # a bucket holds lengths up to this multiple of its shortest: at most 25% padding
_LONGEST_WRITTEN_OUT = 1024  # tokens; beyond, a matrix of all scores is too large
_VARLEN_TAKES_WINDOW = "window_size" in inspect.signature(varlen_attn).parameters  # not in torch 2.10
# What some models add to the scores, or to the sum under the softmax; without it, the model would be another one.
_UNKNOWN_TERMS = ("position_bias", "softcap", "s_aux")


def can_pack(backbone: PreTrainedModel) -> bool:
    """Return whether a model computes the same on packed sequences as on padded ones.

    It must take positions, leave attention to a registered function, and attend in both directions. MPNet and its like
    add a bias that depends on the distance of two tokens in the row; MobileBERT mixes neighbors of the row.
    """
    directions = [module.is_causal for module in backbone.modules() if hasattr(module, "is_causal")]
    return (
        "position_ids" in inspect.signature(backbone.forward).parameters
        and getattr(backbone, "_supports_attention_backend", False)
        and bool(directions)
        and not any(directions)
        and not any("relative_attention_bias" in name for name, _ in backbone.named_modules())
        and not getattr(backbone.config, "trigram_input", False)
    )


def choose_attention(backbone: PreTrainedModel, attention: str) -> str:
    """Return the attention implementation that `attention` selects for a model.

    Args:
        backbone (`PreTrainedModel`): The model.
        attention (`str`): One of `ATTENTIONS`; `"auto"` is `"varlen"` where the model can, else its best.

    Raises:
        ValueError: When it is another word, or `"varlen"` and the model cannot run packed.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}; got {attention!r}.")
    if attention == "varlen" and not can_pack(backbone):
        raise ValueError(f"attention='varlen': {type(backbone).__name__} cannot run packed. Use attention='auto'.")
    if attention == "auto":
        return "varlen" if can_pack(backbone) else "sdpa" if backbone._supports_sdpa else "eager"
    return attention


def position_offset(backbone: PreTrainedModel) -> int:
    """The position of a first token: RoBERTa and its kin count from `padding_idx + 1`."""
    embeddings: Any = getattr(backbone, "embeddings", None)
    counts_from_padding = hasattr(embeddings, "create_position_ids_from_inputs_embeds")
    return embeddings.padding_idx + 1 if counts_from_padding else 0


def flash_runs(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the varlen flash kernel runs: half precision on a GPU of compute capability 8.0 or later.

    Example:

        >>> flash_runs(torch.device("cpu"), torch.bfloat16)
        False
    """
    half = dtype in (torch.float16, torch.bfloat16)
    return half and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class LengthBucket(NamedTuple):
    """Sequences of like length.

    Args:
        sequences (`torch.Tensor` of shape `(N,)`): Their numbers.
        token_NL (`torch.Tensor` of shape `(N, L)`): The row of each of their tokens; padding repeats the last one.
        valid_NL (`torch.Tensor` of shape `(N, L)`): False on padding.
        has_padding (`bool`): Whether any is.
    """

    sequences: torch.Tensor
    token_NL: torch.Tensor
    valid_NL: torch.Tensor
    has_padding: bool


@dataclass(frozen=True, eq=False)
class LengthBuckets:
    """All buckets of a packed batch, `token_S` of them one after the other, and where each token stands in that.

    No tuple: a compiler would look into it, and compile the model again for each number of buckets.
    """

    buckets: list[LengthBucket]
    token_S: torch.Tensor
    position_T: torch.Tensor


def count_padding(lengths: np.ndarray, growth: float = BUCKET_GROWTH) -> int:
    """Return the number of padding tokens in the buckets of `length_buckets`.

    Args:
        lengths (`np.ndarray` of shape `(N,)`): Tokens of each sequence.
        growth (`float`, *optional*, defaults to 1.25): Greatest ratio of lengths in a bucket.

    Example:

        >>> count_padding(np.array([5, 4, 10])), count_padding(np.array([5, 4, 10]), growth=float("inf"))
        (1, 11)
    """
    ascending = np.sort(lengths)
    bounds = _cut_by_length(ascending, growth)
    return sum(int((ascending[end - 1] - ascending[first:end]).sum()) for first, end in bounds)


def _cut_by_length(ascending: np.ndarray, growth: float) -> list[tuple[int, int]]:
    """Return first and end of each bucket."""
    bounds, first = [], 0
    while first < len(ascending):
        end = int(np.searchsorted(ascending, ascending[first] * growth, side="right"))
        bounds.append((first, end))
        first = end
    return bounds


def length_buckets(
    lengths: np.ndarray, device: torch.device | str = "cpu", growth: float = BUCKET_GROWTH
) -> LengthBuckets:
    """Sort sequences by length and cut them where the length has grown by `growth`.

    Args:
        lengths (`np.ndarray` of shape `(N,)`): Tokens of each sequence.
        device (`torch.device`, *optional*): Where the tensors go, without waiting.
        growth (`float`, *optional*, defaults to 1.25): Greatest ratio of lengths in a bucket; `inf` makes one bucket.

    Example:

        >>> found = length_buckets(np.array([2, 10, 2]))
        >>> [bucket.sequences.tolist() for bucket in found.buckets]
        [[0, 2], [1]]
    """
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order]
    position = np.empty(bounds[-1], dtype=np.int64)
    buckets, filled = [], 0
    for first, end in _cut_by_length(ascending, growth):
        sequences = order[first:end]
        columns = np.arange(lengths[sequences[-1]])
        valid = columns < lengths[sequences, None]
        tokens = bounds[sequences, None] + np.minimum(columns, lengths[sequences, None] - 1)
        position[tokens[valid]] = filled + np.flatnonzero(valid)
        filled += valid.size
        sequences_N, token_NL, valid_NL = (_on_device(array, device) for array in (sequences, tokens, valid))
        buckets.append(LengthBucket(sequences_N, token_NL, valid_NL, has_padding=not valid.all()))
    token_S = torch.cat([bucket.token_NL.flatten() for bucket in buckets])
    return LengthBuckets(buckets, token_S, _on_device(position, device))


def _on_device(array: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """From pinned memory a GPU copies without the host waiting for it."""
    tensor, on_gpu = torch.from_numpy(array), torch.device(device).type == "cuda"
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu else tensor


def attend_packed(
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
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls in every layer.

    Args:
        module (`nn.Module`): The layer.
        query (`torch.Tensor` of shape `(1, H, T, E)`): Of all sequences.
        key, value (`torch.Tensor` of shape `(1, H or a divisor of H, T, E)`): Likewise.
        attention_mask (`torch.Tensor`, *optional*): Not used: the sequence bounds say it all.
        cu_seq_lens_q (`torch.Tensor` of shape `(N + 1,)`): int32, where each sequence begins.
        max_length_q (`int`): Length of the longest sequence.
        buckets (`LengthBuckets`, *optional*): Given where the flash kernel cannot be used; T is then S, the tokens of
            the buckets one after the other.
        scaling (`float`, *optional*): Factor on the scores; by default `E ** -0.5`.
        dropout (`float`, *optional*, defaults to 0.0): On attention probabilities.
        sliding_window (`int`, *optional*): Tokens at this distance or farther are not attended to.
        **others: What transformers passes to every such function.

    Returns:
        `tuple[torch.Tensor, None]`: The output of shape `(1, T, H, E)`, and no attention weights.

    Raises:
        ValueError: When the model's attention has a term that packed attention does not compute.
    """
    unknown = [name for name in _UNKNOWN_TERMS if others.get(name) is not None]
    if unknown:
        raise ValueError(
            f"{type(module).__name__} gives {unknown[0]}, which 'varlen' does not know. Use attention='eager'."
        )
    # Rotary positions leave queries and keys in float32 under autocast, which casts for sdpa but not for flash.
    q_THE, k_THE, v_THE = (heads[0].transpose(0, 1).to(value.dtype) for heads in (query, key, value))
    groups = q_THE.shape[1] // k_THE.shape[1]
    if groups > 1:  # several query heads share a key
        k_THE, v_THE = (heads.repeat_interleave(groups, dim=1) for heads in (k_THE, v_THE))
    if buckets is not None:
        output_THE = _bucketed(q_THE, k_THE, v_THE, buckets, scaling, dropout, sliding_window)
    else:
        assert dropout == 0.0, "the flash kernel has no dropout"
        output_THE = _flash(q_THE, k_THE, v_THE, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    return output_THE[None], None


def _flash(
    q_THE: torch.Tensor,
    k_THE: torch.Tensor,
    v_THE: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_length: int,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    usual = q_THE.shape[-1] ** -0.5
    if scaling is not None and not math.isclose(scaling, usual):
        q_THE = q_THE * (scaling / usual)  # torch 2.10 has no argument for it
    options: dict[str, Any] = {}
    if sliding_window is not None and max_length > sliding_window:
        if not _VARLEN_TAKES_WINDOW:
            raise ValueError(
                f"torch {torch.__version__}: varlen_attn has no sliding window, which this model needs. "
                "Use a later torch, or attention='sdpa'."
            )
        options["window_size"] = (sliding_window - 1, sliding_window - 1)
    output_THE: Any = varlen_attn(q_THE, k_THE, v_THE, cu_seqlens, cu_seqlens, max_length, max_length, **options)
    return output_THE


@torch.compiler.disable  # as many calls as buckets: each batch would be compiled again
def _bucketed(
    q_SHE: torch.Tensor,
    k_SHE: torch.Tensor,
    v_SHE: torch.Tensor,
    found: LengthBuckets,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
) -> torch.Tensor:
    sizes = [bucket.valid_NL.numel() for bucket in found.buckets]
    outputs = []
    for bucket, *parts in zip(found.buckets, q_SHE.split(sizes), k_SHE.split(sizes), v_SHE.split(sizes), strict=True):
        q, k, v = (part.unflatten(0, bucket.valid_NL.shape).transpose(1, 2) for part in parts)  # (N, H, L, E)
        output_NHLE = _attend(q, k, v, _mask(bucket, sliding_window), scaling, dropout)
        outputs.append(output_NHLE.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def _attend(
    q_NHLE: torch.Tensor,
    k_NHLE: torch.Tensor,
    v_NHLE: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    if q_NHLE.device.type != "cpu" or mask is not None or q_NHLE.shape[2] > _LONGEST_WRITTEN_OUT:
        return nn.functional.scaled_dot_product_attention(
            q_NHLE, k_NHLE, v_NHLE, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
    scores_NHLL = q_NHLE @ (k_NHLE * (q_NHLE.shape[-1] ** -0.5 if scaling is None else scaling)).transpose(-1, -2)
    weights_NHLL = scores_NHLL.softmax(dim=-1, dtype=v_NHLE.dtype)
    return (fast_dropout(weights_NHLL, dropout) if dropout else weights_NHLL) @ v_NHLE


def _mask(bucket: LengthBucket, sliding_window: int | None) -> torch.Tensor | None:
    """Boolean mask of shape `(N or 1, 1, L or 1, L)`; `None` where all is attended to, for speed."""
    valid_NL = bucket.valid_NL
    length = valid_NL.shape[1]
    if sliding_window is None or length <= sliding_window:
        return valid_NL[:, None, None, :] if bucket.has_padding else None
    positions = torch.arange(length, device=valid_NL.device)
    near_LL = (positions[:, None] - positions[None, :]).abs() < sliding_window
    if not bucket.has_padding:
        return near_LL[None, None]
    # Queries of padding see padding: a row that sees nothing would be NaN, and poison the gradient.
    return near_LL & (valid_NL[:, None, None, :] | ~valid_NL[:, None, :, None])


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(PACKED_ATTENTION, attend_packed)
AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
