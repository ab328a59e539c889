"""Chunks change nothing but memory: the gradients are those of the whole batch, dropout included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from hf_hybrid.training import gradcache
from hf_hybrid.training.gradcache import backward_in_chunks


def model(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 3), nn.Dropout(dropout))


def inputs(chunks: int = 4) -> list[torch.Tensor]:
    return list(torch.randn(10, 5, generator=torch.Generator().manual_seed(1)).chunk(chunks))


def loss(rows: torch.Tensor) -> torch.Tensor:
    """Every row meets every other, so no chunk can do without the rest."""
    return (rows @ rows.T).exp().sum().log()


def gradients(encoder: nn.Module) -> list[torch.Tensor]:
    found = [weight.grad for weight in encoder.parameters()]
    assert all(gradient is not None and gradient.norm() > 1e-3 for gradient in found)
    return [gradient for gradient in found if gradient is not None]


def plain(encoder: nn.Module, chunks: list[torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    """All chunks with gradient at once, the random numbers drawn in the same order."""
    torch.manual_seed(2)
    value = loss(torch.cat([encoder(chunk) for chunk in chunks]))
    value.backward()
    return value.item(), gradients(encoder)


def cached(encoder: nn.Module, chunks: list[torch.Tensor], **options: Any) -> tuple[float, list[torch.Tensor]]:
    torch.manual_seed(2)
    value = backward_in_chunks(chunks, encoder, loss, **options)
    assert not value.requires_grad
    return value.item(), gradients(encoder)


@pytest.mark.parametrize("num_chunks", [1, 2, 4, 10])
def test_cached_equals_plain_with_dropout(num_chunks: int) -> None:
    expected, found = plain(model(), inputs(num_chunks)), cached(model(), inputs(num_chunks))
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)


def test_without_the_same_random_numbers_it_is_another_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plain(model(), inputs())[1]
    monkeypatch.setattr(gradcache, "set_random_state", lambda *_: None)
    found = cached(model(), inputs())[1]
    assert all((one - other).norm() > 0.05 * other.norm() for one, other in zip(found, expected, strict=True))


def test_the_generator_goes_on_as_after_one_pass() -> None:
    encoder = model()
    cached(encoder, inputs())
    after = torch.rand(3)
    plain(model(), inputs())
    assert torch.equal(after, torch.rand(3))


def test_gradients_are_added_to_what_is_there() -> None:
    once, twice = model(dropout=0), model(dropout=0)
    cached(once, inputs())
    for _ in range(2):
        cached(twice, inputs())
    doubled = [2 * gradient for gradient in gradients(once)]
    torch.testing.assert_close(gradients(twice), doubled)


@pytest.mark.parametrize(("num_chunks", "calls"), [(1, 1), (4, 8)])
def test_one_chunk_is_embedded_once(num_chunks: int, calls: int) -> None:
    encoder, seen = model(), []
    encoder.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    cached(encoder, inputs(num_chunks))
    assert len(seen) == calls
    assert seen.count(True) == num_chunks


def test_only_the_last_chunk_exchanges_gradients() -> None:
    events: list[str] = []

    @contextmanager
    def apart() -> Iterator[None]:
        events.append("apart")
        yield
        events.append("together")

    def backward(value: torch.Tensor) -> None:
        events.append("back")
        value.backward()

    cached(model(), inputs(3), backward=backward, without_exchange=apart)
    assert events == ["apart", "back", "together"] * 2 + ["back"]


def test_what_ranks_do_for_themselves_is_told_from_what_they_do_together() -> None:
    """The loss and the last backward pass, in which ranks exchange, lie outside of `attempt`."""
    inside, seen = [False], []

    def attempt(work: Any) -> Any:
        inside[0] = True
        result = work()
        inside[0] = False
        return result

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            seen.append((name, inside[0]))
            return function(*args)

        return call

    encoder = model()
    torch.manual_seed(2)
    backward_in_chunks(
        inputs(2),
        watched("encode", encoder),
        watched("loss", loss),
        backward=watched("backward", torch.Tensor.backward),
        attempt=attempt,
    )
    together = [("loss", False), ("backward", False)]
    assert [event for event in seen if not event[1]] == together
    assert seen == [("encode", True)] * 2 + together[:1] + [("encode", True), ("backward", True), ("encode", True)] + [
        ("backward", False)
    ]
