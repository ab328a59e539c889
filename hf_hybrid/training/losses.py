"""The contrastive loss over the passages of all ranks.

For query q with positive passage p, and N(q) the passages of other groups than q's, in any language and on any rank:

    loss(q, p) = -log( exp(s(q, p) / t) / (exp(s(q, p) / t) + sum over n in N(q) of exp(s(q, n) / t)) )

(InfoNCE: van den Oord et al. 2018, arXiv 1807.03748). The other translations of p, and passages of items that share
it, are neither positives nor negatives of the pair, so a pool batch with several positives a query needs no other
formula.

This is the one place that scales: the mean is over the positives of all ranks, and the factor W undoes the mean over
W ranks that DDP, FSDP and DeepSpeed take of the gradients. Queries stay local and passages are gathered *with*
gradient, so each pair is counted once.

Shape letters: as in `collator.py`; D is the size of an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from .gather import gather_rows

if TYPE_CHECKING:
    from hf_hybrid.data.batches.collator import Targets

_BLOCK_SCORES = 2**24  # of one block, 64 MiB in float32


def contrastive_loss(
    queries_BD: torch.Tensor,
    passages_CD: torch.Tensor,
    targets: Targets,
    temperature: float = 0.02,
    symmetric: bool = False,
) -> torch.Tensor:
    """InfoNCE over the global batch, scaled so that the mean of the gradients over ranks is that of one process.

    Args:
        queries_BD (`torch.Tensor` of shape `(B, D)`): Normalized embeddings of this rank's queries.
        passages_CD (`torch.Tensor` of shape `(C, D)`): Normalized embeddings of this rank's passages.
        targets (`Targets`): Groups and positives.
        temperature (`float`, *optional*, defaults to 0.02): Divides the scores.
        symmetric (`bool`, *optional*, defaults to `False`): Mean of this loss and the one that contrasts each positive
            passage with the queries of other groups.

    Returns:
        `torch.Tensor`: A scalar; its mean over ranks is the loss of the global batch.
    """
    rank, world_size = targets["rank"], len(targets["query_counts"])
    passages_GD = gather_rows(passages_CD, targets["passage_counts"])
    first = sum(targets["query_counts"][:rank])
    groups_B = targets["query_groups_Q"][first : first + len(queries_BD)]
    loss_P = _info_nce(
        queries_BD, passages_GD / temperature, groups_B, targets["passage_groups_G"],
        targets["positive_query_P"], targets["positive_passage_P"],
    )  # fmt: skip
    if symmetric:
        queries_QD = gather_rows(queries_BD, targets["query_counts"])
        start = sum(targets["passage_counts"][:rank])
        groups_C = targets["passage_groups_G"][start : start + len(passages_CD)]
        local, query = targets["positive_passage_P"] - start, targets["positive_query_P"] + first
        backward_P = _info_nce(
            passages_CD, queries_QD / temperature, groups_C, targets["query_groups_Q"], local, query
        )
        loss_P = (loss_P + backward_P) / 2
    return loss_P.sum() * (world_size / targets["num_positives"])


def _info_nce(
    rows_XD: torch.Tensor,
    columns_YD: torch.Tensor,
    groups_X: torch.Tensor,
    groups_Y: torch.Tensor,
    row_P: torch.Tensor,
    column_P: torch.Tensor,
) -> torch.Tensor:
    """Return the loss of each pair (row, column) against the columns of groups other than the row's."""
    height = max(1, _BLOCK_SCORES // len(columns_YD))
    if len(rows_XD) <= height:
        negatives_X = _negatives(rows_XD, columns_YD, groups_X, groups_Y)
    else:
        # Save memory: free the scores of a block, and compute them again in the backward pass.
        options: Any = {"use_reentrant": False, "preserve_rng_state": False}
        negatives_X = torch.cat([
            checkpoint(_negatives, rows, columns_YD, groups, groups_Y, **options)
            for rows, groups in zip(rows_XD.split(height), groups_X.split(height), strict=True)
        ])  # fmt: skip
    positives_P = (rows_XD[row_P] * columns_YD[column_P]).sum(dim=1)
    return torch.logaddexp(positives_P, negatives_X[row_P]) - positives_P


def _negatives(
    rows_XD: torch.Tensor, columns_YD: torch.Tensor, groups_X: torch.Tensor, groups_Y: torch.Tensor
) -> torch.Tensor:
    """Return, for each row, the log-sum-exp of its scores with columns of other groups."""
    same_XY = groups_X[:, None] == groups_Y[None, :]
    # The least finite number, not -inf: a row without negatives must have a zero gradient, not NaN.
    least = torch.finfo(rows_XD.dtype).min
    return (rows_XD @ columns_YD.T).masked_fill(same_XY, least).logsumexp(dim=1)


def mean_cosine(vectors_ND: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine of all pairs of N normalized vectors; near 1 if the embeddings have collapsed.

    Example:

        >>> mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        tensor(0.3333)
    """
    number = len(vectors_ND)
    total = vectors_ND.sum(dim=0).square().sum() - number
    return total / max(1, number * (number - 1))
