"""Which distributions are installed here, in which version: of two of one name the one that is imported."""

from __future__ import annotations

import importlib.metadata
import re


def installed_version(name: str) -> str | None:
    """The version of a distribution; None where it is not installed.

    Example:

        >>> installed_version("no such distribution") is None
        True
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """The version of every distribution, by its name as indexes write it."""
    names = {name for found in importlib.metadata.distributions() if (name := found.metadata["Name"])}
    return {normal_name(name): importlib.metadata.version(name) for name in sorted(names)}


def normal_name(name: str) -> str:
    """A distribution's name as indexes write it.

    Example:

        >>> normal_name("Typing_Extensions")
        'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()
