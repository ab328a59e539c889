"""Parts of a small encoder from scratch: a tokenizer trained on texts, and random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import BertConfig, BertModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_MAX_LENGTH = 512  # tokens


def train_tokenizer(texts: Iterator[str] | Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-pair tokenizer trained on texts; it writes no difference between capital and small letters.

    Args:
        texts (`Iterable[str]`): In all languages that it shall read.
        vocab_size (`int`): Most entries.

    Example:

        >>> train_tokenizer(["wer ist das", "who is that"], vocab_size=100).tokenize("Das ist")
        ['▁das', '▁ist']
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=_MAX_LENGTH, **dict(names))


def random_bert(tokenizer: PreTrainedTokenizerBase, hidden_size: int, num_layers: int, num_heads: int) -> BertModel:
    """A BERT for a tokenizer, with random weights that follow torch's global seed.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Whose tokens it embeds.
        hidden_size (`int`): Width; the feed-forward layers are four times as wide.
        num_layers (`int`): Depth.
        num_heads (`int`): Attention heads.
    """
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=_MAX_LENGTH,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    return BertModel(config, add_pooling_layer=False)
