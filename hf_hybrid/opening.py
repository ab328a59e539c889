"""The encoder that the arguments of a run ask for: a checkpoint, or a small one made from scratch."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from .encoder import HybridEncoder
from .mlm import documents

if TYPE_CHECKING:
    from .corpus import ParallelCorpus

Kind = TypeVar("Kind", bound=HybridEncoder)


def open_encoder(kind: type[Kind], arguments: Any, corpus: ParallelCorpus) -> Kind:
    """The checkpoint that is named, or a small encoder whose tokenizer is trained on the corpus.

    Args:
        kind (`type`): `HybridEncoder`, or a subclass of it.
        arguments (`Any`): `ModelArguments`, or others that have the same names.
        corpus (`ParallelCorpus`): What the run is trained on.

    Raises:
        ValueError: When the checkpoint or a setting is not one that the encoder takes.
        OSError: When there is no such checkpoint.
    """
    if arguments.model_name_or_path is None:
        return encoder_from_scratch(kind, arguments, corpus, attention=arguments.attention)
    found: Any = kind.from_pretrained(
        arguments.model_name_or_path,
        revision=arguments.model_revision,
        attention=arguments.attention,
        attention_dropout=arguments.attention_dropout,
        **_settings(arguments),
    )
    return found


def encoder_from_scratch(kind: type[Kind], arguments: Any, corpus: ParallelCorpus, **more: Any) -> Kind:
    """A small encoder with random weights, which follow torch's global seed; its tokenizer reads what the items say.

    Args:
        kind, arguments, corpus: As of [`open_encoder`].
        **more: Further settings of `kind.from_scratch`.
    """
    made: Any = kind.from_scratch(
        chain.from_iterable(documents(corpus, language) for language in corpus.languages),
        hidden_size=arguments.scratch_hidden_size,
        num_layers=arguments.scratch_num_layers,
        vocab_size=arguments.scratch_vocab_size,
        **{name: value for name, value in _settings(arguments).items() if value is not None},
        **more,
    )
    return made


def _settings(arguments: Any) -> dict[str, Any]:
    return {
        "query_prompt": arguments.query_prompt,
        "passage_prompt": arguments.passage_prompt,
        "max_length": arguments.max_passage_length,
        "pooling": arguments.pooling,
    }
