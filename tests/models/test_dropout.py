"""Dropout: the share, the scale and the gradient are those of torch's, and the seed decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_hybrid.models.dropout import Dropout, dropout, replace_dropout

COUNT = 1_000_003  # no multiple of four


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_its_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(COUNT, dtype=dtype), p)
    dropped = (found == 0).double().mean().item()
    deviation = (p * (1 - p) / COUNT) ** 0.5
    assert abs(dropped - p) < 5 * deviation + 2**-17
    assert found.dtype == dtype
    kept = found[found != 0]
    torch.testing.assert_close(
        kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=0
    )


def test_elements_are_dropped_independently() -> None:
    """Neighbors come from one 64-bit number: neither they nor those four apart may go together."""
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(COUNT), 0.1) == 0).double()
    for distance in range(1, 9):
        together = (dropped[:-distance] * dropped[distance:]).mean().item()
        assert together == pytest.approx(0.01, abs=5 * (0.01 * 0.99 / COUNT) ** 0.5)


def test_the_gradient_goes_where_the_value_went() -> None:
    tensor = torch.ones(1000, requires_grad=True)
    found = dropout(tensor, 0.3)
    found.sum().backward()
    assert tensor.grad is not None
    assert torch.equal(tensor.grad, found.detach())


def test_the_seed_decides() -> None:
    torch.manual_seed(1)
    first, second = (dropout(torch.ones(100), 0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(dropout(torch.ones(100), 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0), (1e-9, 1.0)])
def test_shares_that_leave_nothing_to_draw(p: float, expected: float) -> None:
    assert dropout(torch.ones(8), p).tolist() == [expected] * 8


def test_modules_are_replaced_and_stay_what_they_were_otherwise() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.25), nn.ModuleList([nn.Dropout(0.5)]))
    names = list(model.state_dict())
    replace_dropout(model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [(type(module), module.p) for module in found] == [(Dropout, 0.25), (Dropout, 0.5)]
    assert list(model.state_dict()) == names
    assert (model[1].eval()(torch.ones(100)) == 1).all()
    assert (model[1].train()(torch.ones(1000)) == 0).any()
