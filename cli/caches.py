"""Finds the caches that a verb was asked to use, and names the one that was taken unasked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cafe.cli.options import listed
from cafe.cli.screen import Screen

if TYPE_CHECKING:
    from cafe.features import Features


def chosen_cache(name: str | None, folder: Path, screen: Screen) -> Path:
    """Return the cache of that name, or the newest; the newest is named on stderr.

    Raises
    ------
    CacheError
        If there is none.
    """
    from cafe.cache.locate import find_cache

    path = find_cache(name, folder)
    if name is None:
        screen.say(f"using the newest cache: {path}")
    return path


def opened_caches(names: Sequence[str] | None, folder: Path, screen: Screen) -> list[Features]:
    """Load the features of every cache that was named, or of the newest.

    Raises
    ------
    InputError
        If a cache cannot be found or read, or one is named twice.
    """
    from cafe.cache.loading import load_features
    from cafe.errors import InputError

    wanted: list[str | None] = list(cache_names(names))
    paths = [chosen_cache(name, folder, screen) for name in wanted or [None]]
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise InputError(f"cache {path} is named more than once")
    return [load_features(path) for path in paths]


def cache_names(names: Sequence[str] | None) -> list[str]:
    """Split a list of caches at commas, but keep a file whose own name has a comma."""
    return [part for name in names or () for part in ([name] if Path(name).exists() else listed([name]))]
