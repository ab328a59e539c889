"""Language codes (BCP-47), and files and pairs named by them."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def check_language(tag: str, where: str) -> str:
    """A BCP-47 tag as given, if its primary subtag is a language.

    Raises:
        ValueError: if it is not, or if it reads like a pair (`en-de`) or a region in small letters (`pt-br`).

    Example:

        >>> check_language("pt-BR", "corpus/pt-BR.jsonl"), check_language("sr-latin", "corpus/sr-latin.jsonl")
        ('pt-BR', 'sr-latin')
        >>> check_language("german", "corpus/german.jsonl")
        Traceback (most recent call last):
        ...
        ValueError: corpus/german.jsonl: unknown language code 'german'; allowed are BCP-47 codes such as 'de', ...
    """
    if not _is_language(tag):
        raise ValueError(
            f"{where}: unknown language code {tag!r}; allowed are BCP-47 codes such as 'de', 'pt-BR', 'zh-Hant' or "
            "'sr-latin'. Rename it."
        )
    if pair := split_pair(tag):
        raise ValueError(
            f"{where}: {tag!r} may be a pair of {pair[0]!r} and {pair[1]!r} or a language with a region. Write a "
            f"region in capitals ({pair[0]}-{pair[1].upper()}); keep files of pairs in a folder of their own."
        )
    return tag


def split_codes(text: str | None) -> list[str] | None:
    """The words of a comma-separated option; `None` where it is not given."""
    return [code.strip() for code in text.split(",")] if text else None


def split_pair(stem: str) -> tuple[str, str] | None:
    """Both languages of a pair such as `en-de` or `pt-BR-sr-latin`; `None` unless there is one way to read it."""
    hyphens = [i for i, character in enumerate(stem) if character == "-"]
    ways = [(stem[:i], stem[i + 1 :]) for i in hyphens]
    ways = [(a, b) for a, b in ways if b[:1].islower() and _is_language(a) and _is_language(b)]
    return ways[0] if len(ways) == 1 else None


def language_files(folder: Path, suffix: str) -> dict[str, Path]:
    """`<language><suffix>` files of a folder by language.

    Raises:
        ValueError: if there is none, a name is no language, or a file is given twice.
    """
    refuse_packed(folder)
    files = sorted(path for path in folder.iterdir() if path.suffix == suffix)
    if not files:
        raise ValueError(f"{folder} holds no *{suffix} file; one is needed for each language, such as de{suffix}.")
    languages = unique_languages({path: check_language(path.stem, str(path)) for path in files})
    refuse_twins(files)
    return languages


def unique_languages(languages: Mapping[Any, str]) -> dict[str, Any]:
    """The mapping turned round, refused where two names are one language (`de` and `DE`, `en` and `eng`)."""
    import langcodes

    seen: dict[str, Any] = {}
    for name, language in languages.items():
        first = seen.setdefault(langcodes.standardize_tag(language).lower(), name)
        if first is not name:
            raise ValueError(f"{first} and {name} are the same language given twice; keep one, or join them.")
    return {language: name for name, language in languages.items()}


def refuse_packed(folder: Path) -> None:
    """Refuse a compressed file, which nothing here reads, unless what it holds lies beside it."""
    for path in sorted(folder.iterdir()):
        table = path.stem.endswith((".jsonl", ".tsv", ".json"))
        if table and path.suffix in _PACKED and not path.with_suffix("").exists():
            raise ValueError(f"{path} is compressed, and compressed files are not read: unpack it, or move it away.")


def refuse_twins(files: Sequence[Path]) -> None:
    """Refuse two files with the same content, and what is no file at all."""
    same_size = defaultdict(list)
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path} is not a file but a folder, a pipe or a broken link; put the file there.")
        same_size[path.stat().st_size].append(path)
    for twins in same_size.values():
        for first, second in combinations(twins, 2):
            if filecmp.cmp(first, second, shallow=False):
                raise ValueError(f"{first} and {second} have the same content: a file given twice. Remove one.")


def choose_languages(available: Mapping[str, Any], languages: Sequence[str] | None, where: object) -> dict[str, Any]:
    """The wanted languages in the wanted order; all of them, sorted, if none are named."""
    if languages is None:
        languages = sorted(available)
    for language in languages:
        if language not in available or list(languages).count(language) > 1:
            raise ValueError(
                f"languages={list(languages)}: {where} has {', '.join(sorted(available))}; name each once."
            )
    return {language: available[language] for language in languages}


def _is_language(tag: str) -> bool:
    import langcodes

    try:
        primary = langcodes.Language.get(tag, normalize=False).language or ""
    except langcodes.LanguageTagError:
        return False
    known = "_" not in tag and langcodes.tag_is_valid(primary)
    return known and primary not in ("und", "mul", "mis", "zxx") and not "qaa" <= primary <= "qtz"
