"""Token ids of a corpus on disk: every text that it refers to is tokenized once, into memory-mapped Arrow files."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from hf_hybrid.data.sides import PASSAGE, QUERY, SIDE_PLURALS
from hf_hybrid.utils.files import delete_unfinished, is_whole, replacing

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from hf_hybrid.data.corpus import ParallelCorpus

_BLOCK_ROWS = 65_536  # rows of one Arrow record batch: row r lies in batch r // _BLOCK_ROWS


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> tuple[list[list[int]], int]:
    """Token ids with special tokens, cut at `max_length`, and the number of texts that were cut.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        texts (`list[str]`): With their prompts.
        max_length (`int`): In tokens, special tokens included.
    """
    encoded = tokenizer(
        texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=False
    )
    return encoded["input_ids"], sum(bool(encoding.overflowing) for encoding in encoded.encodings)


class TokenCache:
    """Token ids of a corpus, row for row as its texts, memory-mapped; texts that no item refers to stay empty.

    Args:
        corpus (`ParallelCorpus`): The texts.
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer.
        query_prompt (`str`, *optional*, defaults to `""`): Put before every query.
        passage_prompt (`str`, *optional*, defaults to `""`): Put before every passage.
        max_query_length (`int`, *optional*, defaults to 64): In tokens, prompt and special tokens included.
        max_passage_length (`int`, *optional*, defaults to 256): Likewise.
        cache_dir (`str` or `Path`): The files go to a folder in it that is named by a hash of all of the above.

    Raises:
        ValueError: When the tokenizer is not a fast one.
    """

    def __init__(
        self,
        corpus: ParallelCorpus,
        tokenizer: PreTrainedTokenizerBase,
        *,
        query_prompt: str = "",
        passage_prompt: str = "",
        max_query_length: int = 64,
        max_passage_length: int = 256,
        cache_dir: str | os.PathLike[str],
    ) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is a slow tokenizer; a fast one (a folder with tokenizer.json) is needed "
                "to count truncated texts. Convert it with `AutoTokenizer.from_pretrained(...)` and `save_pretrained`."
            )
        for side, prompt, length in [
            ("query", query_prompt, max_query_length),
            ("passage", passage_prompt, max_passage_length),
        ]:
            least = len(tokenizer(prompt)["input_ids"]) + 1
            if length < least:
                raise ValueError(
                    f"max_{side}_length={length} leaves no room for text: prompt {prompt!r} and special tokens take "
                    f"{least - 1}. Set it to {least} or more."
                )
        self.corpus, self.tokenizer = corpus, tokenizer
        self.prompts = (query_prompt, passage_prompt)
        self.max_lengths = (max_query_length, max_passage_length)
        key = [corpus.fingerprint, tokenizer_fingerprint(tokenizer), *self.prompts, *self.max_lengths]
        self.folder = Path(cache_dir) / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        self._blocks: dict[tuple[int, str], list[_Block]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": {}, "tokenizer": None}

    def build(self) -> dict[str, int]:
        """Tokenize what is not in the cache yet.

        Returns:
            `dict[str, int]`: `texts`, `tokens` and `truncated_texts` of the whole cache, and those by side.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        delete_unfinished(self.folder)
        missing = [key for key in self._keys() if not is_whole(self._path(*key))]
        for side, language in tqdm(missing, desc="Tokenizing", unit="file", disable=not missing, leave=False):
            self._build_file(side, language)
        total: Counter[str] = Counter()
        for side, language in self._keys():
            counts = json.loads(self._path(side, language).with_suffix(".json").read_text(encoding="utf-8"))
            total.update(counts)
            total.update({f"{SIDE_PLURALS[side]}_{name}": count for name, count in counts.items()})
        return dict(total)

    def tokens(self, side: int, language: str, row: int) -> np.ndarray:
        """int32 token ids of one text, a view of the mapped file."""
        number, offset = divmod(int(row), _BLOCK_ROWS)
        block = self._open(side, language)[number]
        return block.values[block.offsets[offset] : block.offsets[offset + 1]]

    def lengths(self, side: int, language: str) -> np.ndarray:
        """Tokens of each text, special tokens included; 0 for texts that no item refers to."""
        return np.concatenate([np.diff(block.offsets) for block in self._open(side, language)])

    def find_seen_tokens(self) -> np.ndarray:
        """The ids that occur in any text, ascending."""
        seen = np.zeros(len(self.tokenizer), dtype=bool)
        for side, language in self._keys():
            for block in self._open(side, language):
                seen[block.values] = True
        return np.flatnonzero(seen)

    def _keys(self) -> Iterator[tuple[int, str]]:
        return ((side, language) for language in self.corpus.languages for side in (QUERY, PASSAGE))

    def _path(self, side: int, language: str) -> Path:
        return self.folder / f"{language}.{SIDE_PLURALS[side]}.arrow"

    def _open(self, side: int, language: str) -> list[_Block]:
        if (side, language) not in self._blocks:
            import pyarrow as pa

            table = pa.ipc.open_file(pa.memory_map(str(self._path(side, language)))).read_all()
            self._blocks[side, language] = [_Block.of(chunk) for chunk in table["tokens"].chunks]
        return self._blocks[side, language]

    def _build_file(self, side: int, language: str) -> None:
        import pyarrow as pa

        texts = self.corpus.queries(language) if side == QUERY else self.corpus.passages(language)
        wanted = self._referenced(side, language, len(texts))
        counts = {"texts": int(wanted.sum()), "tokens": 0, "truncated_texts": 0}
        path = self._path(side, language)
        schema = pa.schema([("tokens", pa.large_list(pa.int32()))])
        with replacing(path, sealed=True) as unfinished:
            with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for start in range(0, len(texts), _BLOCK_ROWS):
                    lists = self._tokenize_block(side, texts[start : start + _BLOCK_ROWS], wanted[start:], counts)
                    writer.write_batch(pa.record_batch([lists], schema=schema))
            with replacing(path.with_suffix(".json")) as unfinished_counts:
                unfinished_counts.write_text(json.dumps(counts), encoding="utf-8")

    def _tokenize_block(
        self, side: int, texts: pa.ChunkedArray, wanted: np.ndarray, counts: dict[str, int]
    ) -> pa.LargeListArray:
        import pyarrow as pa

        rows = np.flatnonzero(wanted[: len(texts)])
        chosen = [self.prompts[side] + text for text in texts.take(pa.array(rows)).to_pylist()]
        ids, truncated = tokenize(self.tokenizer, chosen, self.max_lengths[side]) if chosen else ([], 0)
        lengths = np.zeros(len(texts) + 1, dtype=np.int64)
        lengths[rows + 1] = [len(sequence) for sequence in ids]
        counts["tokens"] += int(lengths.sum())
        counts["truncated_texts"] += truncated
        values = np.fromiter((i for sequence in ids for i in sequence), dtype=np.int32, count=int(lengths.sum()))
        return pa.LargeListArray.from_arrays(pa.array(np.cumsum(lengths)), pa.array(values))

    def _referenced(self, side: int, language: str, num_texts: int) -> np.ndarray:
        wanted = np.zeros(num_texts, dtype=bool)
        rows = self.corpus.rows[:, self.corpus.languages.index(language), side]
        wanted[rows[rows >= 0]] = True
        negatives = self.corpus.negatives(language) if side == PASSAGE else None
        if negatives is not None:
            wanted[negatives.rows] = True
        return wanted


class _Block(NamedTuple):
    """One record batch as two flat arrays."""

    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, chunk: pa.LargeListArray) -> _Block:
        return cls(chunk.offsets.to_numpy(), chunk.values.to_numpy())


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of what decides the ids: the fast tokenizer's definition less the settings of its last call."""
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    definition.update(truncation=None, padding=None)
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
