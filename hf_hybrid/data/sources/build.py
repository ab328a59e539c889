"""Build a corpus once in the cache, under a key of its source; later calls map what is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load

from hf_hybrid.data.corpus import CorpusBuilder, ParallelCorpus
from hf_hybrid.data.storage import FORMAT, MANIFEST
from hf_hybrid.utils.files import cache_folder

from .items import StrPath
from .rows import BadRows, refuse_lookalikes

Build = Callable[[CorpusBuilder, BadRows], None]


def build_once(
    build: Build, source: dict[str, Any], key: list[Any], on_bad_row: str, cache_dir: StrPath | None
) -> ParallelCorpus:
    """The corpus of the cache under this key, built first where it is not there."""
    bad = BadRows(on_bad_row)
    digest = hashlib.sha256(json.dumps([FORMAT, source, key, on_bad_row], sort_keys=True).encode()).hexdigest()
    name = source.get("preset") or Path(source.get("path", "dataset")).name
    folder = cache_folder(cache_dir) / f"{name}-{digest[:16]}"
    if not (folder / MANIFEST).exists():
        with CorpusBuilder(folder, source) as builder:
            build(builder, bad)
            refuse_lookalikes(builder.items)
            builder.report.update(bad.counts)
            builder.write()
    return ParallelCorpus.load(folder)


def source_of(corpus_format: str, folder: StrPath) -> dict[str, Any]:
    """Describe a folder: its name, not its path, and the license of a data set card in it."""
    found = {"format": corpus_format, "path": Path(folder).absolute().name}
    card = Path(folder) / "README.md"
    if card.is_file():
        try:
            license = (metadata_load(card) or {}).get("license")
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{card}: not the head of a data set card ({error}); mend it, or remove it.") from None
        if license is not None:
            found["license"] = str(license)
    return found


def stamp_files(paths: Iterable[Path]) -> list[list[Any]]:
    """Names, sizes and times of files: when they change, so does the key."""
    return sorted([str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths)
