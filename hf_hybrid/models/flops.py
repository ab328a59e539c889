"""Floating-point operations of a training step, and what of a model they follow from."""

from __future__ import annotations

from typing import Any

FLOPS_FORMULA = "6 * num_matmul_parameters * tokens + 12 * num_layers * hidden_size * sum(length^2)"
HEAD_FORMULA = " + 6 * num_head_parameters * predicted_tokens"  # of masked language modeling


def encoder_flops(
    num_matmul_parameters: int, num_layers: int, hidden_size: int, tokens: int, sum_squared_lengths: int
) -> float:
    """Floating-point operations of one training step of a transformer encoder.

    A matrix product of m x k and k x n takes 2mkn operations, so a token takes 2 for each weight it is multiplied
    with, and a sequence of n tokens takes 4 * n^2 * hidden_size for the scores and the weighted sum of each layer; the
    backward pass takes twice the forward pass. These are the operations that the model needs: recomputation (cached
    loss, gradient checkpointing) and padding are not counted, and local attention is counted as if it were global.

    Args:
        num_matmul_parameters (`int`): Weights that every token is multiplied with; see `encoder_shape`.
        num_layers (`int`): Number of layers.
        hidden_size (`int`): Width of the attention, all heads together.
        tokens (`int`): Tokens of the step, padding excluded.
        sum_squared_lengths (`int`): Sum over the sequences of the square of their length, in tokens.

    Returns:
        `float`: Operations, forward and backward.

    Example:

        >>> encoder_flops(num_matmul_parameters=10, num_layers=1, hidden_size=2, tokens=3, sum_squared_lengths=5)
        300.0
    """
    return 6.0 * num_matmul_parameters * tokens + 12.0 * num_layers * hidden_size * sum_squared_lengths


def encoder_shape(model: Any) -> tuple[int, int, int] | None:
    """Return the numbers of a model that `encoder_flops` needs.

    A token is multiplied with the weights of the linear layers of the blocks and with a language model's output.
    Embeddings are looked up, not multiplied, and a pooler sees one token of a sequence. Sharded models count whole.

    Args:
        model (`nn.Module`): A transformers encoder, or a module that holds one.

    Returns:
        `num_matmul_parameters`, `num_layers` and `hidden_size`, or None where the blocks are not recognized.
    """
    from torch import nn  # here, so that the planner uses the formula without torch

    modules = [] if model is None else list(model.modules())
    configs: list[Any] = [module.config for module in modules if hasattr(module, "config")]
    for blocks in modules:
        if configs and isinstance(blocks, nn.ModuleList) and len(blocks) == configs[0].num_hidden_layers:
            output = getattr(model, "get_output_embeddings", lambda: None)()
            linears = [module for module in (*blocks.modules(), output) if isinstance(module, nn.Linear)]
            num_parameters = sum(linear.in_features * linear.out_features for linear in linears)
            return num_parameters, configs[0].num_hidden_layers, configs[0].hidden_size
    return None


def head_parameters(model: Any) -> int:
    """Weights that only predicted tokens are multiplied with: those of the linear layers of a model's `head`."""
    from torch import nn

    modules = getattr(model, "head", nn.Identity()).modules()
    return sum(linear.weight.numel() for linear in modules if isinstance(linear, nn.Linear))
