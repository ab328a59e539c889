"""Embeddings of a corpus' texts, each encoded once, in memory-mapped shards.

1. `TextEncoder` asks any model for the embeddings of texts on one side, a share of them in each process.
2. `EmbeddingStore` cuts the texts of a side and a language into shards; all processes encode a shard together.
3. A shard is written aside and renamed: what a killed run had finished is there the next time, not encoded again.

Shape letters: N texts, D size of an embedding.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_hybrid import __version__
from hf_hybrid.data.batches.token_cache import tokenizer_fingerprint
from hf_hybrid.data.sides import SIDE_NAMES
from hf_hybrid.models.fingerprint import add_weights
from hf_hybrid.records.output_folder import OutputFolder
from hf_hybrid.utils import distributed
from hf_hybrid.utils.files import delete_unfinished, is_whole

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus

# Attributes of models that decide their embeddings and are in neither weights nor `repr`.
_DECISIVE = ("prompts", "max_length", "max_seq_length", "pooling", "normalize", "similarity_fn_name", "truncate_dim")
_SHARD_ROWS = 2**14  # of 384 numbers: 24 MiB, and minutes of work on a CPU that a kill can cost


class TextEncoder:
    """One way to ask any model for embeddings.

    | model | how it is asked | scores |
    |---|---|---|
    | `HybridEncoder` | `encode(texts, side, batch_tokens=, share=)` | inner products of its output |
    | `SentenceTransformer` | `encode_query`, `encode_document` | its own `similarity_fn_name`: cosine or dot |
    | any other | `encode(texts)`, prompts put before the texts | cosine |

    Args:
        model (`Any`): The model.
        query_prompt (`str`, *optional*): Put before every query; by default what the model itself puts there.
        passage_prompt (`str`, *optional*): Likewise for passages.
        batch_tokens (`int`, *optional*, defaults to 16384): Most tokens of one forward pass of a `HybridEncoder`.

    Raises:
        ValueError: When the model has no `encode`, compares embeddings by something else than cosine or dot product,
            or is given prompts although it brings its own.

    Example:

        >>> class Letters:
        ...     def encode(self, texts):
        ...         return np.array([[text.count("a"), text.count("b")] for text in texts])
        >>> print(TextEncoder(Letters(), query_prompt="b").encode(["aaa"], "query").round(2))
        [[0.95 0.32]]
    """

    def __init__(
        self,
        model: Any,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        batch_tokens: int = 16_384,
    ) -> None:
        if not callable(getattr(model, "encode", None)):
            raise ValueError(
                f"{type(model).__name__} has no method `encode`; give a HybridEncoder, a SentenceTransformer or an "
                "object whose `encode(texts)` returns one vector for each text."
            )
        self.model, self.batch_tokens = model, batch_tokens
        self.prompts = {"query": query_prompt, "passage": passage_prompt}
        self.device: torch.device = torch.device(getattr(model, "device", None) or "cpu")
        if {"side", "share"} <= inspect.signature(model.encode).parameters.keys():
            if query_prompt is not None or passage_prompt is not None:
                raise ValueError(
                    f"{type(model).__name__} puts its own prompts before texts: give query_prompt and passage_prompt "
                    "to the model, not to the evaluation."
                )
            self._encode_own: Callable[[list[str], str], Any] | None = None
        elif hasattr(model, "encode_query") and hasattr(model, "encode_document"):
            self._encode_own = self._ask_sentence_transformer
        else:
            self._encode_own = self._ask_any

    def encode(self, texts: list[str], side: str, share: tuple[int, int] = (0, 1)) -> np.ndarray:
        """Embeddings `(N, D)`, float32, of this process' share of the texts, zeros elsewhere.

        Args:
            texts (`list[str]`): Without prompts.
            side (`str`): `"query"` or `"passage"`.
            share (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): Rank and world size.
        """
        if self._encode_own is None:
            return self.model.encode(texts, side, batch_tokens=self.batch_tokens, share=share)
        rank, world_size = share
        own = sorted(range(len(texts)), key=lambda number: -len(texts[number]))[rank::world_size] or [0]
        found = np.asarray(self._encode_own([texts[number] for number in own], side), dtype=np.float32)
        if found.ndim != 2 or len(found) != len(own):
            raise ValueError(
                f"{type(self.model).__name__}.encode gave an array of shape {found.shape} for {len(own)} texts; "
                "allowed is one vector for each text."
            )
        embeddings_ND = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
        if rank < len(texts):  # else it has no text of its own, and encoded one to know D
            embeddings_ND[own] = found
        return embeddings_ND

    def key(self) -> str:
        """sha256 of all that decides the embeddings of a torch model: weights, layers, prompts, precision.

        Raises:
            ValueError: When the model has no weights to tell it by.
        """
        if not isinstance(self.model, torch.nn.Module):
            raise ValueError(
                f"embedding_dir with a {type(self.model).__name__}: it has no weights by which its embeddings can be "
                "told from another model's. Name it with model_key."
            )
        autocast = torch.is_autocast_enabled(self.device.type) and torch.get_autocast_dtype(self.device.type)
        settings = [__version__, _SHARD_ROWS, repr(self.model), str(autocast), self.prompts]
        settings += [getattr(self.model, name, None) for name in _DECISIVE]
        config: Any = getattr(self.model, "config", None)
        tokenizer: Any = getattr(self.model, "tokenizer", None)
        settings.append(config.to_json_string() if hasattr(config, "to_json_string") else None)
        settings.append(tokenizer_fingerprint(tokenizer) if hasattr(tokenizer, "backend_tokenizer") else None)
        sha = hashlib.sha256(json.dumps(settings, default=str).encode())
        add_weights(sha, self.model)
        return sha.hexdigest()

    def _ask_sentence_transformer(self, texts: list[str], side: str) -> Any:
        similarity = getattr(self.model, "similarity_fn_name", None) or "cosine"
        if similarity not in ("cosine", "dot"):
            raise ValueError(
                f"The model compares embeddings by {similarity!r}; rankings are made by cosine or dot product. Set "
                "its similarity_fn_name to one of them."
            )
        ask = self.model.encode_query if side == "query" else self.model.encode_document
        prompt = {} if self.prompts[side] is None else {"prompt": self.prompts[side]}
        found = ask(texts, show_progress_bar=False, **prompt)
        return _normalized(found) if similarity == "cosine" else found

    def _ask_any(self, texts: list[str], side: str) -> np.ndarray:
        found = self.model.encode([(self.prompts[side] or "") + text for text in texts])
        found = found.detach().float().cpu() if isinstance(found, torch.Tensor) else found
        vectors = np.asarray(found, dtype=np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class EmbeddingStore:
    """Embeddings of the texts of a corpus on disk; use it as a context manager.

    Args:
        encoder (`TextEncoder`): The model.
        corpus (`ParallelCorpus`): The texts.
        folder (`str`, `Path` or `OutputFolder`, *optional*): Where shards stay, for a run that resumes after a kill;
            the processes of a machine share it. By default a temporary folder.
        model_key (`str`, *optional*): What tells the model from others in `folder`; by default a hash of its weights.
        keep (`bool`, *optional*, defaults to `False`): Leave the shards in `folder` when all went well.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        corpus: ParallelCorpus,
        folder: str | os.PathLike[str] | None = None,
        model_key: str | None = None,
        keep: bool = False,
    ) -> None:
        self.encoder, self.corpus = encoder, corpus
        self._writes, self._temporary = distributed.local_rank() == 0, folder is None
        if folder is None:
            made = tempfile.mkdtemp(prefix="hf-hybrid-embeddings-") if self._writes else None
            self.outputs = OutputFolder(distributed.from_all(made)[distributed.rank() - distributed.local_rank()])
        else:
            named = encoder.key() if model_key is None else f"{model_key} {json.dumps(encoder.prompts)}"
            name = distributed.from_first(named)
            key = hashlib.sha256(f"{corpus.base_fingerprint} {name}".encode()).hexdigest()[:16]
            self._around = OutputFolder.of(folder)
            self.outputs = self._around.subfolder(key)
        self.folder = self.outputs.path
        self._kept = self.folder / "keep"  # marks what an evaluation that does not keep its own must leave
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            delete_unfinished(self.folder)
            if keep:
                self.outputs.claim(self._kept.name)
                self._kept.touch()

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:  # else the others may be elsewhere, and would be waited for in vain
            distributed.barrier()
        if self._temporary and self._writes:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif error is None and not self._kept.exists() and self._writes:
            self._around.delete(self.folder.name)

    def shards(
        self, side: int, language: str, rows: np.ndarray, advance: Callable[[int], Any] = lambda _: None
    ) -> list[Path]:
        """The shards of some texts, `.npy` files `(n, D)` of float32, encoded first where they are not there.

        Args:
            side (`int`): `corpus.QUERY` or `corpus.PASSAGE`.
            language (`str`): Its language.
            rows (`np.ndarray` of shape `(N,)`): Rows of the texts, increasing.
            advance (`Callable[[int], Any]`, *optional*): Is told how many texts are done.

        Raises:
            ValueError: When an embedding is not finite.
        """
        stem = f"{SIDE_NAMES[side]}.{language}.{hashlib.sha256(rows.astype(np.int64).data).hexdigest()[:16]}"
        starts = range(0, len(rows), _SHARD_ROWS)
        paths = [self.folder / f"{stem}.{number:05}.npy" for number in range(len(starts))]
        missing = torch.tensor([not is_whole(path) for path in paths], dtype=torch.int64, device=distributed.device())
        # asked of all, since a process that went its own way would leave the others waiting
        for start, path, absent in zip(starts, paths, distributed.sum_over_ranks(missing).tolist(), strict=True):
            chosen = rows[start : start + _SHARD_ROWS]
            if absent:
                embeddings_ND = self._encode(side, language, chosen)
                if self._writes:
                    with self.outputs.writing(path.name, sealed=True) as unfinished:
                        np.save(unfinished, embeddings_ND)
            advance(len(chosen))
        distributed.barrier()
        return paths

    def _encode(self, side: int, language: str, rows: np.ndarray) -> np.ndarray:
        """Embeddings `(len(rows), D)`, each process having encoded its share."""
        share = (distributed.rank(), distributed.world_size())
        own_ND = self.encoder.encode(self.corpus.texts(side, language, rows), SIDE_NAMES[side], share)
        own = torch.as_tensor(own_ND, dtype=torch.float32, device=distributed.device())
        embeddings_ND = distributed.sum_over_ranks(own).cpu().numpy()
        if not np.isfinite(embeddings_ND).all():
            raise ValueError(
                f"Embeddings of {SIDE_NAMES[side]} texts in {language!r} are not finite (NaN or infinite), so nothing"
                " can be ranked. Has training diverged (lower the learning rate), or do values overflow in float16 "
                "(use bf16)?"
            )
        return embeddings_ND


def _normalized(vectors: Any) -> np.ndarray:
    """Vectors of length 1, in float32 whatever they were."""
    vectors_ND = np.asarray(vectors, dtype=np.float32)
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=-1, keepdims=True), 1e-12)
