"""The shared dual encoder: a transformers backbone, pooling, an optional projection, L2 normalization.

One `forward` encodes queries and passages alike, packed into one row of tokens; on disk it is a folder that
`AutoModel`, `AutoTokenizer` and `SentenceTransformer` load, with the same embeddings.

Shape letters: T tokens, N sequences, L length of a padded sequence, D size of an embedding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_hybrid.data.batches.packing import pack, token_batches
from hf_hybrid.data.batches.token_cache import tokenize

from . import folder as model_folder
from .attention import (
    BUCKET_GROWTH,
    PACKED_ATTENTION,
    choose_attention,
    count_padding,
    flash_runs,
    length_buckets,
    position_offset,
)
from .dropout import replace_dropout
from .from_scratch import random_bert, train_tokenizer
from .pooling import POOLINGS, pool


class HybridEncoder(nn.Module):
    """Encodes queries and passages into one vector space.

    Args:
        backbone (`PreTrainedModel`): An encoder without a task head.
        tokenizer (`PreTrainedTokenizerBase`): Its fast tokenizer.
        pooling (`str`, *optional*, defaults to `"mean"`): `"mean"` of the token states, `"cls"` the first one, or
            `"pooler"`: the first one through the checkpoint's own dense layer and tanh, as LaBSE does.
        projection (`nn.Sequential`, *optional*): A linear layer and tanh or identity, put on the pooled state.
        normalize (`bool`, *optional*, defaults to `True`): Scale embeddings to length 1: dot product is cosine.
        query_prompt (`str`, *optional*, defaults to `""`): Put before every query, such as `"query: "`.
        passage_prompt (`str`, *optional*, defaults to `""`): Likewise for passages.
        max_length (`int`, *optional*, defaults to 256): Most tokens of a text that `encode` reads, at most those
            that the backbone has positions for.
        attention (`str`, *optional*, defaults to `"auto"`): `"varlen"` runs packed, without padding; `"sdpa"`,
            `"flash_attention_2"` and `"eager"` run transformers' own kernels on padded batches of like length.
            `"auto"` is `"varlen"` for the models that take packed input, else the best that the model has.

    Raises:
        ValueError: When a word is not one of those above, or the backbone cannot do what is asked.

    Example:

        >>> encoder = HybridEncoder.from_scratch(["wer ist das", "who is that"], hidden_size=32, num_layers=1)
        >>> encoder.encode(["wer ist das"], "query").shape
        (1, 32)
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        projection: nn.Sequential | None = None,
        normalize: bool = True,
        query_prompt: str = "",
        passage_prompt: str = "",
        max_length: int = 256,
        attention: str = "auto",
    ) -> None:
        super().__init__()
        _check_word("pooling", pooling, POOLINGS)
        model_folder.check_encoder(backbone.config)
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is a slow tokenizer; give a fast one (tokenizer.json).")
        self.backbone, self.tokenizer = backbone, tokenizer
        self.projection: Any = projection
        self.pooling, self.normalize = pooling, normalize
        self.prompts = {"query": query_prompt, "passage": passage_prompt}
        positions = getattr(backbone.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self.position_offset = position_offset(backbone)
        self.max_length = min(max_length, positions - self.position_offset)
        if self.max_length <= (ends := tokenizer.num_special_tokens_to_add()):
            raise ValueError(f"max_length={max_length}: no token of a text is left; give more than {ends}, better 16.")
        self.num_length_buckets: int | None = None
        self._take_pooler()
        replace_dropout(backbone)
        self.attention = choose_attention(backbone, attention)
        backbone.set_attn_implementation(PACKED_ATTENTION if self.attention == "varlen" else self.attention)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        attention: str = "auto",
        attention_dropout: float | None = 0.0,
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> HybridEncoder:
        """Load a Hub id or a folder; a sentence-transformers layout brings pooling, projection and prompts with it.

        Args:
            name_or_path (`str`): Hub id or folder. Only safetensors weights are read, and no code of the repository.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            attention (`str`, *optional*, defaults to `"auto"`): See the class.
            attention_dropout (`float`, *optional*, defaults to 0.0): Dropout of attention probabilities in training,
                which turns the fast kernels off; `None` keeps the checkpoint's.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): Of the weights.
            **settings: `pooling`, `normalize`, `query_prompt`, `passage_prompt`, `max_length`, over what is found.

        Raises:
            ValueError: When the model is no encoder, or its layout or settings are unknown.
            OSError: When there is no such model, or it has no safetensors.
        """
        name, wanted = os.fspath(name_or_path), {key: value for key, value in settings.items() if value is not None}
        try:
            model = model_folder.load_model(name, revision, dtype, attention_dropout, wanted.get("pooling"))
        except OSError as error:
            known = "a folder without a model" if os.path.isdir(name) else "no folder here, and none that the Hub gave"
            raise OSError(f"{name!r} is {known}: {error}") from error
        wanted = {"projection": model.projection, "attention": attention, **model.settings, **wanted}
        return cls(model.backbone, model.tokenizer, **wanted)

    @classmethod
    def from_scratch(
        cls,
        texts: Iterator[str] | Sequence[str],
        *,
        hidden_size: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        vocab_size: int = 8192,
        **settings: Any,
    ) -> HybridEncoder:
        """A small BERT with random weights and a byte-pair tokenizer trained on `texts`.

        Args:
            texts (`Iterable[str]`): In all languages that it shall read.
            hidden_size (`int`, *optional*, defaults to 128): Width; the feed-forward layers are four times as wide.
            num_layers (`int`, *optional*, defaults to 2): Depth.
            num_heads (`int`, *optional*, defaults to 4): Attention heads.
            vocab_size (`int`, *optional*, defaults to 8192): Most entries of the tokenizer.
            **settings: Those of the class. The weights follow torch's global seed.
        """
        tokenizer = train_tokenizer(texts, vocab_size)
        return cls(random_bert(tokenizer, hidden_size, num_layers, num_heads), tokenizer, **settings)

    @property
    def config(self) -> Any:
        """The backbone's configuration, where `Trainer`, FSDP and DeepSpeed look for sizes."""
        return self.backbone.config

    @property
    def _no_split_modules(self) -> list[str]:
        """Modules that FSDP shards as a whole: the layers. Accelerate shards word embeddings on their own, so a module
        that holds them must not be sharded before."""
        words = self.get_input_embeddings()
        holders = {type(module).__name__ for module in self.backbone.modules() if words in module.modules()}
        return sorted(set(self.backbone._no_split_modules or ()) - holders)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.backbone.device

    @property
    def embedding_size(self) -> int:
        """D."""
        return self.projection[0].out_features if self.projection is not None else self.config.hidden_size

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings, where `Trainer` puts the noise of `neftune_noise_alpha`."""
        return self.backbone.get_input_embeddings()

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass; see transformers."""
        self.backbone.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """The name of the same in transformers before 5.20."""
        self.backbone.gradient_checkpointing_enable(**kwargs)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        sequence_ids: torch.Tensor,
        cu_seqlens: torch.Tensor,
        lengths: np.ndarray,
    ) -> torch.Tensor:
        """Embeddings of packed sequences.

        Args:
            input_ids, position_ids, sequence_ids (`torch.Tensor` of shape `(T,)`): int64, from `packing.pack`.
            cu_seqlens (`torch.Tensor` of shape `(N + 1,)`): int32, where each sequence begins.
            lengths (`np.ndarray` of shape `(N,)`): Tokens of each sequence.

        Returns:
            `torch.Tensor` of shape `(N, D)`, float32.
        """
        if self.attention == "varlen":
            states_TD = self._run_packed(input_ids, position_ids, cu_seqlens, lengths)
        else:
            states_TD = self._run_padded(input_ids, lengths)
        return self._pool(states_TD.float(), sequence_ids, cu_seqlens.long())

    def count_padding(self, lengths: np.ndarray) -> int:
        """Return the padding tokens of a forward pass over sequences of `lengths`, in this autocast context."""
        growth = self._bucket_growth(self.device)
        return 0 if growth is None else count_padding(lengths, growth)

    def encode(
        self,
        texts: Sequence[str],
        side: str,
        *,
        batch_tokens: int = 16_384,
        share: tuple[int, int] = (0, 1),
        show_progress: bool = False,
    ) -> np.ndarray:
        """Embeddings of texts, in their order, without gradient.

        Args:
            texts (`Sequence[str]`): Without prompts.
            side (`str`): `"query"` or `"passage"`, for the prompt.
            batch_tokens (`int`, *optional*, defaults to 16384): Most tokens of one forward pass; of several processes
                together, as many times more.
            share (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank and world size, where several processes
                encode together: each gives the rows of its part of every batch, zeros elsewhere, after the same number
                of forward passes.
            show_progress (`bool`, *optional*, defaults to `False`): Show a bar.

        Returns:
            `np.ndarray` of shape `(N, D)`, float32.
        """
        _check_word("side", side, tuple(self.prompts))
        embeddings = np.zeros((len(texts), self.embedding_size), dtype=np.float32)
        rank, world_size = share
        prompted = [self.prompts[side] + text for text in texts]
        ids = tokenize(self.tokenizer, prompted, self.max_length)[0] if prompted else []
        with tqdm(total=len(ids), desc=f"Encoding {side}s", disable=not show_progress, leave=False) as bar:
            for numbers in token_batches([len(sequence) for sequence in ids], batch_tokens * world_size):
                own = numbers[rank::world_size]  # they are sorted by length: every rank gets as many long ones
                embedded = self.embed([np.asarray(ids[i]) for i in (own if len(own) else numbers[:1])])
                embeddings[own] = embedded[: len(own)].float().cpu().numpy()  # FSDP gives bf16
                bar.update(len(numbers))
        return embeddings

    def embed(self, sequences: Sequence[np.ndarray]) -> torch.Tensor:
        """Embeddings of token ids, without gradient or dropout, `(N, D)` on the model's device."""
        packed = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in pack(sequences).items()}
        training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                return self(**packed)
        finally:
            self.train(training)

    def save_pretrained(
        self, folder: str | os.PathLike[str], state_dict: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Write a folder that `HybridEncoder`, `AutoModel` and `SentenceTransformer` load.

        Args:
            folder (`str` or `Path`): Made if it is not there.
            state_dict (`dict[str, torch.Tensor]`, *optional*): Weights gathered from shards; by default its own.
        """
        state = self.state_dict() if state_dict is None else state_dict
        weights = _under("backbone.", state)
        projection = _under("projection.0.", state)
        if self.pooling == "pooler":  # AutoModel's pooler_output then is the embedding before it is normalized
            weights |= {f"pooler.dense.{name}": weight.clone() for name, weight in projection.items()}
        # Under the names of this module: under DeepSpeed ZeRO-3 the names of old checkpoints would come back.
        self.backbone.save_pretrained(folder, state_dict=weights, save_original_format=False)
        model_folder.save_tokenizer(self.tokenizer, folder, self.max_length)
        model_folder.write_layout(
            folder,
            pooling="mean" if self.pooling == "mean" else "cls",
            hidden_size=self.config.hidden_size,
            normalize=self.normalize,
            max_length=self.max_length,
            query_prompt=self.prompts["query"],
            passage_prompt=self.prompts["passage"],
            projection=self.projection,
            projection_weights=projection,
        )

    def load_weights(self, folder: str | os.PathLike[str]) -> None:
        """Replace the weights by those of a folder written by `save_pretrained`.

        Raises:
            ValueError: When the folder's weights are of another model.
        """
        weights = model_folder.read_weights(folder)
        state = {f"backbone.{name}": weight for name, weight in weights.items() if not name.startswith("pooler.")}
        if self.projection is not None:
            state |= {
                f"projection.0.{name}": weight for name, weight in model_folder.read_dense_weights(folder).items()
            }
        result = self.load_state_dict(state, strict=False)
        wrong = result.missing_keys + result.unexpected_keys
        if wrong:
            raise ValueError(f"{folder} holds the weights of another model: {wrong[:3]} are missing or unknown.")

    def _run_packed(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, cu_seqlens: torch.Tensor, lengths: np.ndarray
    ) -> torch.Tensor:
        buckets, growth = None, self._bucket_growth(input_ids.device)
        if growth is not None:
            buckets = length_buckets(lengths, input_ids.device, growth)
            input_ids, position_ids = input_ids[buckets.token_S], position_ids[buckets.token_S]
        output = self.backbone(
            input_ids=input_ids[None],
            position_ids=position_ids[None] + self.position_offset,
            cu_seq_lens_q=cu_seqlens,
            # Few different values, so that a compiled model is compiled few times.
            max_length_q=-(-int(lengths.max()) // 32) * 32,
            buckets=buckets,
        )
        states_SD = output.last_hidden_state[0]
        return states_SD if buckets is None else states_SD.index_select(0, buckets.position_T)

    def _run_padded(self, input_ids: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
        growth = self._bucket_growth(input_ids.device)
        assert growth is not None, "only packed attention needs no buckets"
        found = length_buckets(lengths, input_ids.device, growth)
        padding_id = self.tokenizer.pad_token_id or 0  # any will do: it is masked
        states = []
        for bucket in found.buckets:
            padded_NL = input_ids[bucket.token_NL].masked_fill(~bucket.valid_NL, padding_id)
            output = self.backbone(input_ids=padded_NL, attention_mask=bucket.valid_NL.long())
            states.append(output.last_hidden_state.flatten(0, 1))
        return torch.cat(states).index_select(0, found.position_T)

    def _bucket_growth(self, device: torch.device) -> float | None:
        """Return the greatest ratio of lengths in a bucket, or `None` where the flash kernel runs without buckets."""
        if self.attention != "varlen":
            return float("inf") if self.num_length_buckets == 1 else BUCKET_GROWTH
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else self.backbone.dtype
        names = model_folder.ATTENTION_DROPOUT_NAMES
        has_dropout = self.training and any(getattr(self.config, name, 0.0) for name in names)
        if flash_runs(device, dtype) and not has_dropout:
            return None
        return 1.0 if device.type == "cpu" else BUCKET_GROWTH

    def _pool(self, states_TD: torch.Tensor, sequence_ids: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        pooled_ND = pool(states_TD, sequence_ids, cu_seqlens, self.pooling)
        if self.projection is not None:
            pooled_ND = self.projection(pooled_ND.to(self.projection[0].weight.dtype)).float()
        return nn.functional.normalize(pooled_ND, dim=-1) if self.normalize else pooled_ND

    def _take_pooler(self) -> None:
        """Make the checkpoint's pooler the projection where it is asked for, and drop it: it would get no gradient."""
        backbone: Any = self.backbone
        pooler: Any = getattr(backbone, "pooler", None)
        if self.pooling == "pooler" and self.projection is None:
            if not isinstance(getattr(pooler, "dense", None), nn.Linear):
                raise ValueError(f"pooling='pooler': {type(backbone).__name__} has no pooler. Use 'cls' or 'mean'.")
            self.projection = nn.Sequential(pooler.dense, nn.Tanh())
        if pooler is not None:
            backbone.pooler = None


def _check_word(name: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {given!r}.")


def _under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
