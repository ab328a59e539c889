"""The contrastive loss over the passages of all ranks.

For query q with positive passage p, and N(q) the passages of other groups than q's, in any language and on any rank:

    loss(q, p) = -log( exp(s(q, p) / t) / (exp(s(q, p) / t) + sum over n in N(q) of exp(s(q, n) / t)) )

(InfoNCE: van den Oord et al. 2018, arXiv 1807.03748).  The other translations of p, and passages of items that share
it, are neither positives nor negatives of the pair, so a pool batch with several positives a query needs no other
formula.

This is the one place that scales: the mean is over the positives of all ranks, and the factor W undoes the mean over
W ranks that DDP, FSDP and DeepSpeed take of the gradients.  Queries stay local and passages are gathered *with*
gradient, so each pair is counted once.

Shape letters: as in `collator.py`; D is the size of an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .distributed import gather_rows

if TYPE_CHECKING:
    from .collator import Targets


def contrastive_loss(
    queries_BD: torch.Tensor,
    passages_CD: torch.Tensor,
    targets: Targets,
    temperature: float = 0.02,
    symmetric: bool = False,
) -> torch.Tensor:
    """InfoNCE over the global batch, scaled so that the mean of the gradients over ranks is that of one process.

    Args:
        queries_BD (`torch.Tensor` of shape `(B, D)`): Normalised embeddings of this rank's queries.
        passages_CD (`torch.Tensor` of shape `(C, D)`): Normalised embeddings of this rank's passages.
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
    scores_BG = queries_BD @ passages_GD.T / temperature
    loss_P = _info_nce(
        scores_BG, groups_B, targets["passage_groups_G"], targets["positive_query_P"], targets["positive_passage_P"]
    )
    if symmetric:
        queries_QD = gather_rows(queries_BD, targets["query_counts"])
        start = sum(targets["passage_counts"][:rank])
        groups_C = targets["passage_groups_G"][start : start + len(passages_CD)]
        scores_CQ = passages_CD @ queries_QD.T / temperature
        local, query = targets["positive_passage_P"] - start, targets["positive_query_P"] + first
        loss_P = (loss_P + _info_nce(scores_CQ, groups_C, targets["query_groups_Q"], local, query)) / 2
    return loss_P.sum() * (world_size / targets["num_positives"])


def _info_nce(
    scores_XY: torch.Tensor,
    groups_X: torch.Tensor,
    groups_Y: torch.Tensor,
    row_P: torch.Tensor,
    column_P: torch.Tensor,
) -> torch.Tensor:
    """Loss of each pair (row, column) against the columns of other groups than its row's."""
    same_XY = groups_X[:, None] == groups_Y[None, :]
    # The least finite number, not -inf: a row without negatives must have a zero gradient, not NaN.
    negatives_X = scores_XY.masked_fill(same_XY, torch.finfo(scores_XY.dtype).min).logsumexp(dim=1)
    positives_P = scores_XY[row_P, column_P]
    return torch.logaddexp(positives_P, negatives_X[row_P]) - positives_P
