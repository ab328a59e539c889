"""Tiny random models of the encoder families, with a tokenizer, that tests of the encoder are made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from hf_hybrid.models.encoder import HybridEncoder

MAX_LENGTH = 40  # positions of every family
_WORDS = [f"word{number}" for number in range(90)]
_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "hidden_size": 32}
_PADDING_FIRST = {"pad_token_id": 0, "max_position_embeddings": MAX_LENGTH}
_PADDING_SECOND = {"pad_token_id": 1, "max_position_embeddings": MAX_LENGTH + 2}  # the first position is 2

# Settings of a configuration by family; those that count positions from their padding id have it at 1, as released.
_CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "bert": (BertConfig, _SIZES | _PADDING_FIRST),
    "labse": (BertConfig, _SIZES | _PADDING_FIRST),
    "xlm-roberta": (XLMRobertaConfig, _SIZES | _PADDING_SECOND),
    "roberta": (RobertaConfig, _SIZES | _PADDING_SECOND),
    "distilbert": (DistilBertConfig, {"n_layers": 2, "n_heads": 2, "dim": 32, "hidden_dim": 48} | _PADDING_FIRST),
    # A layer of full attention, then one that sees 4 tokens to each side.
    "modernbert": (
        ModernBertConfig,
        _SIZES
        | _PADDING_FIRST
        | {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3},
    ),
    "electra": (ElectraConfig, _SIZES | _PADDING_FIRST | {"embedding_size": 16}),
    "mpnet": (MPNetConfig, _SIZES | _PADDING_SECOND),
}
FAMILIES = tuple(_CONFIGS)
PACKABLE = tuple(family for family in FAMILIES if family != "mpnet")


def tokenizer(pad_token_id: int = 0) -> PreTrainedTokenizerFast:
    """One token a word, between `<s>` and `</s>`."""
    special = ["<pad>", "<unk>", "<s>", "</s>"] if pad_token_id == 0 else ["<unk>", "<pad>", "<s>", "</s>"]
    vocabulary = {token: number for number, token in enumerate([*special, "query:", "passage:", *_WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=MAX_LENGTH, **names)


def backbone(family: str, **config: Any) -> PreTrainedModel:
    """The same weights at each call, large enough that attention and positions matter, in evaluation mode."""
    config_class, settings = _CONFIGS[family]
    model_class: Any = MODEL_MAPPING[config_class]
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=96, **(settings | config)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.25 * torch.randn_like(parameter)
    return model.eval()


def encoder(family: str, config: dict[str, Any] | None = None, **settings: Any) -> HybridEncoder:
    """An encoder of the family, LaBSE's with its pooler."""
    model = backbone(family, **(config or {}))
    defaults = {"pooling": "pooler"} if family == "labse" else {}
    return HybridEncoder(model, tokenizer(model.config.pad_token_id), **(defaults | settings)).eval()


def sequences(*lengths: int) -> list[np.ndarray]:
    """Random token ids of these lengths, all tokens being words but for the ends."""
    rng = np.random.default_rng(0)
    return [np.concatenate([[2], rng.integers(6, 96, size=length - 2), [3]]) for length in lengths]


def texts(*lengths: int) -> list[str]:
    """Random texts of these many words."""
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(_WORDS, size=length)) for length in lengths]


def assert_near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """The greatest difference is at most `tolerance` of the greatest value, or of 1."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    assert torch.isfinite(expected).all()
    difference = (found.double() - expected.double()).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item()), f"off by {difference:.2e}"


def differ(found: Any, other: Any, at_least: float = 1e-2) -> bool:
    """Whether some value is farther off than any rounding."""
    return (torch.as_tensor(found) - torch.as_tensor(other)).abs().max().item() > at_least
