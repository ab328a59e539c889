"""The folder for what is built once and read again: corpora, token ids, and what was pushed from no run folder."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub.constants import HF_HOME


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Where things are kept from one process to the next.

    Args:
        chosen (`str` or `Path`, *optional*): By default `$HF_HYBRID_CACHE`, where it is set and not empty, else
            `hf_hybrid` in the cache of Hugging Face.

    Example:

        >>> cache_folder("/data/cache").as_posix()
        '/data/cache'
    """
    return Path(chosen or os.environ.get("HF_HYBRID_CACHE") or Path(HF_HOME, "hf_hybrid")).expanduser()
