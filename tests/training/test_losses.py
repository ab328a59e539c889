"""The loss against its formula written out, and what must never be a negative."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from hf_hybrid.data.batches.collator import HybridCollator, Targets
from hf_hybrid.data.batches.schedule import HybridSchedule
from hf_hybrid.training.losses import contrastive_loss
from tests.support.toys import toy_cache, toy_corpus


def targets(
    query_groups: Sequence[int], passage_groups: Sequence[int], positives: Sequence[tuple[int, int]]
) -> Targets:
    return Targets(
        query_groups_Q=torch.tensor(query_groups),
        passage_groups_G=torch.tensor(passage_groups),
        positive_query_P=torch.tensor([query for query, _ in positives]),
        positive_passage_P=torch.tensor([passage for _, passage in positives]),
        query_counts=(len(query_groups),),
        passage_counts=(len(passage_groups),),
        num_positives=len(positives),
        rank=0,
    )


def embeddings(count: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(count, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1).requires_grad_()


def written_out(
    queries: torch.Tensor, passages: torch.Tensor, known: Targets, temperature: float, symmetric: bool
) -> float:
    def one(anchor: torch.Tensor, group: int, positive: int, others: torch.Tensor, groups: list[int]) -> float:
        scores = [float(anchor @ other) / temperature for other in others]
        negatives = [score for score, other in zip(scores, groups, strict=True) if other != group]
        return -math.log(math.exp(scores[positive]) / sum(map(math.exp, [scores[positive], *negatives])))

    query_groups, passage_groups = known["query_groups_Q"].tolist(), known["passage_groups_G"].tolist()
    total = 0.0
    pairs = list(zip(known["positive_query_P"].tolist(), known["positive_passage_P"].tolist(), strict=True))
    for query, passage in pairs:
        forward = one(queries.detach()[query], query_groups[query], passage, passages, passage_groups)
        backward = one(passages.detach()[passage], passage_groups[passage], query, queries, query_groups)
        total += (forward + backward) / 2 if symmetric else forward
    return total / len(pairs)


CASES = {
    "mono": targets([5, 6, 7], [5, 6, 7], [(0, 0), (1, 1), (2, 2)]),
    "pool": targets([5, 6, 7], [5, 5, 6, 7, 7, 7], [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4), (2, 5)]),
    "hard negatives": targets([5, 6, 7], [5, 6, 7, -1, 9, -1], [(0, 0), (1, 1), (2, 2)]),
    "a hard negative that is another query's own": targets([5, 6, 7], [5, 6, 7, 6, 5], [(0, 0), (1, 1), (2, 2)]),
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_loss_is_its_formula(name: str, symmetric: bool) -> None:
    known = CASES[name]
    queries, passages = embeddings(3), embeddings(len(known["passage_groups_G"]), seed=1)
    loss = contrastive_loss(queries, passages, known, temperature=0.2, symmetric=symmetric)
    assert float(loss) == pytest.approx(written_out(queries, passages, known, 0.2, symmetric), rel=1e-12)


def test_other_members_of_a_group_get_no_gradient() -> None:
    known = targets([5, 6], [5, 6, 5], [(0, 0), (1, 1)])
    queries, passages = embeddings(2), embeddings(3, seed=1)
    score = lambda: contrastive_loss(queries, passages, known, temperature=0.1)  # noqa: E731
    gradient = torch.autograd.grad(score(), queries)[0][0]
    masked = targets([5, 6], [5, 6, 99], [(0, 0), (1, 1)])
    seen = torch.autograd.grad(contrastive_loss(queries, passages, masked, temperature=0.1), queries)[0][0]
    without = targets([5, 6], [5, 6], [(0, 0), (1, 1)])
    alone = torch.autograd.grad(contrastive_loss(queries, passages[:2], without, temperature=0.1), queries)[0][0]
    torch.testing.assert_close(gradient, alone)
    assert not torch.allclose(gradient, seen), "were the mask not there, this passage would push the query"


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_batch_without_negatives_has_no_gradient(symmetric: bool) -> None:
    queries, passages = embeddings(1), embeddings(2, seed=1)
    loss = contrastive_loss(queries, passages, targets([5], [5, 5], [(0, 0), (0, 1)]), symmetric=symmetric)
    loss.backward()
    assert float(loss) == 0.0
    assert queries.grad is not None
    assert passages.grad is not None
    assert torch.count_nonzero(queries.grad) == torch.count_nonzero(passages.grad) == 0


def test_no_passage_of_a_querys_group_is_its_negative_in_any_batch() -> None:
    """From the corpus to the mask: for every batch, whatever shares the group is skipped of the denominator."""
    corpus = toy_corpus(group_size=3, negatives=4)
    schedule = HybridSchedule(corpus, "mono=1,cross=1,pool=1", global_batch_size=9, num_steps=60)
    collator, own_group_negatives = HybridCollator(schedule, toy_cache(corpus), num_negatives=4), 0
    for step in range(60):
        known = collator(step)["targets"]
        queries = torch.eye(len(known["query_groups_Q"]), dtype=torch.float64)
        passages = embeddings(len(known["passage_groups_G"]), seed=step).detach()[:, : queries.shape[1]]
        passages = torch.nn.functional.pad(passages, (0, queries.shape[1] - passages.shape[1])).requires_grad_()
        contrastive_loss(queries, passages, known, temperature=1.0).backward()
        assert passages.grad is not None
        same = known["query_groups_Q"][None, :] == known["passage_groups_G"][:, None]
        own_group_negatives += int(same.sum()) - known["num_positives"]
        # With one-hot queries, coordinate q of a passage's gradient says how q is pushed from it (>0) or to it (<0).
        assert (passages.grad[same] <= 0).all()
        assert (passages.grad[~same] > 0).all()
    assert own_group_negatives > 0, "some hard negatives must be of the query's own group for this to mean anything"
