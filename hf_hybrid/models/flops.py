"""The sizes of a model that its FLOPs follow from; the formula is `records.resources.encoder_flops`."""

from __future__ import annotations

from typing import Any


def flops_terms(model: Any) -> dict[str, int] | None:
    """Return the sizes of a model that the FLOPs of a training step follow from.

    A token is multiplied with the weights of the linear layers of the blocks and with a language model's output.
    Embeddings are looked up, not multiplied, and a pooler sees one token of a sequence. Sharded models count whole.

    Args:
        model (`nn.Module`): A transformers encoder, or a module that holds one.

    Returns:
        `dict[str, int]`, *optional*: `num_matmul_parameters`, `num_layers`, `hidden_size` and `num_head_parameters`,
        the weights that only predicted tokens are multiplied with (linear layers of a module's `head`). `None` when
        the blocks are not recognized.
    """
    from torch import nn  # here, so that the planner uses the formula without torch

    modules = [] if model is None else list(model.modules())
    configs: list[Any] = [module.config for module in modules if hasattr(module, "config")]
    for blocks in modules:
        if configs and isinstance(blocks, nn.ModuleList) and len(blocks) == configs[0].num_hidden_layers:
            output = getattr(model, "get_output_embeddings", lambda: None)()
            return {
                "num_matmul_parameters": _count_weights([*blocks.modules(), output]),
                "num_layers": configs[0].num_hidden_layers,
                "hidden_size": configs[0].hidden_size,
                "num_head_parameters": _count_weights(getattr(model, "head", nn.Identity()).modules()),
            }
    return None


def _count_weights(modules: Any) -> int:
    from torch import nn

    return sum(module.in_features * module.out_features for module in modules if isinstance(module, nn.Linear))
