"""Gradients of batches that do not fit in memory: one loss over all embeddings, the encoder one chunk at a time.

GradCache (Gao et al. 2021, arXiv 2101.06983):

1. Embed each chunk without gradient, and store the random state before it.
2. Compute the loss of all embeddings, and its gradient with respect to them: the cache.
3. Embed each chunk again, with the same random numbers and with gradient, and backpropagate its part of the cache.

Memory holds one chunk and all embeddings. The price is a second forward pass; a single chunk does not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

Chunk = TypeVar("Chunk")
RandomState = tuple[torch.Tensor, torch.Tensor | None]


def backward_in_chunks(
    chunks: Sequence[Chunk],
    encode: Callable[[Chunk], torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    *,
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
    without_exchange: Callable[[], AbstractContextManager] = nullcontext,
    attempt: Callable[[Callable[[], Any]], Any] = lambda work: work(),
    device: torch.device | None = None,
) -> torch.Tensor:
    """Add the gradients of a loss of all embeddings to the parameters behind `encode`.

    Args:
        chunks (`Sequence`): The inputs in one or more parts; all ranks have equally many.
        encode (`Callable`): Returns the embeddings of a chunk, of shape `(n, D)`.
        loss (`Callable`): Returns the loss, a scalar, of all embeddings, in the order of the chunks.
        backward (`Callable`, *optional*): Backpropagates a scalar; mixed precision and DeepSpeed have their own.
        without_exchange (`Callable`, *optional*): A context in which gradients stay on their rank. All chunks but the
            last run in it, so that a step exchanges gradients once.
        attempt (`Callable`, *optional*): Runs the work that needs no other rank: all before the loss, and all before
            the backward pass of the last chunk.
        device (`torch.device`, *optional*): Where `encode` draws random numbers, besides the CPU.

    Returns:
        `torch.Tensor`: The loss, without gradient.

    Example:

        >>> weight = torch.ones(2, requires_grad=True)
        >>> chunks = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).split(1)
        >>> float(backward_in_chunks(chunks, lambda chunk: chunk * weight, torch.prod))
        24.0
        >>> weight.grad.tolist()
        [48.0, 48.0]
    """
    if len(chunks) == 1:
        value = loss(attempt(lambda: encode(chunks[0])))
        backward(value)
        return value.detach()

    def embed_without_gradient() -> tuple[list[torch.Tensor], list[RandomState]]:
        embedded, states = [], []
        with torch.no_grad():
            for chunk in chunks:
                states.append(random_state(device))
                embedded.append(encode(chunk))
        return embedded, states

    embedded, states = attempt(embed_without_gradient)  # Step (1)
    value, cache = _loss_and_gradient(embedded, loss)  # Step (2)

    def surrogate(number: int) -> torch.Tensor:
        """Return a scalar with the gradient of the loss with respect to the parameters, through one chunk."""
        set_random_state(states[number], device)
        return (encode(chunks[number]) * cache[number]).sum()

    def all_but_the_last() -> torch.Tensor:
        for number in range(len(chunks) - 1):
            with without_exchange():
                backward(surrogate(number))
        return surrogate(len(chunks) - 1)

    backward(attempt(all_but_the_last))  # Step (3)
    return value


def random_state(device: torch.device | None) -> RandomState:
    """Return the state of the generators that dropout draws from: the CPU's, and that of a GPU."""
    host = torch.get_rng_state()
    return host, torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None


def set_random_state(state: RandomState, device: torch.device | None) -> None:
    """Restore a state that `random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None and device is not None:
        torch.cuda.set_rng_state(state[1], device)


def _loss_and_gradient(
    embedded: list[torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    embeddings_ND = torch.cat(embedded).requires_grad_()
    value = loss(embeddings_ND)
    (gradient_ND,) = torch.autograd.grad(value, embeddings_ND)
    return value.detach(), gradient_ND.split([len(part) for part in embedded])
