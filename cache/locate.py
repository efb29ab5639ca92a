"""Where caches live, what they are called, and how one is found."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cafe.cache.format import spec
from cafe.errors import CacheError

if TYPE_CHECKING:
    from cafe.cache.format.summary import CacheSummary

_SHORT = 8  # hexadecimal digits of a fingerprint within a file name


def cache_dir(given: Path | str | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder of all caches.

    Parameters
    ----------
    given : path or None
        What the user named (``--cache-dir``); it wins.
    environment : mapping or None
        None is the process's own.

    Returns
    -------
    Path
        ``given``, else ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``, else ``~/.cache/cafe``. It need not exist.

    Examples
    --------
    >>> cache_dir(None, {"XDG_CACHE_HOME": "/scratch"}).as_posix()
    '/scratch/cafe'
    """
    environment = os.environ if environment is None else environment
    if given:
        return Path(given).expanduser()
    if environment.get("CAFE_CACHE"):
        return Path(environment["CAFE_CACHE"]).expanduser()
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"]) / "cafe"
    return Path.home() / ".cache" / "cafe"


def cache_path(folder: Path, dataset: str, encoder: str) -> Path:
    """Return the file of a data set and an encoder.

    Parameters
    ----------
    folder : Path
        The folder of all caches.
    dataset, encoder : str
        Name and id.

    Returns
    -------
    Path
        Whether it exists or not.

    Examples
    --------
    >>> cache_path(Path("caches"), "digits", "openai/clip-vit-base-patch32").name
    'digits--openai-clip-vit-base-patch32.h5'
    """
    return folder / f"{_slug(dataset)}--{_slug(encoder)}{spec.SUFFIX}"


def distinct_path(path: Path, image_fingerprint: str) -> Path:
    """Return the name beside ``path`` for image features of another fingerprint.

    Examples
    --------
    >>> distinct_path(Path("digits--mini.h5"), "44136fa355b3678a").name
    'digits--mini--44136fa3.h5'
    """
    return path.with_name(f"{path.stem}--{image_fingerprint[:_SHORT]}{path.suffix or spec.SUFFIX}")


def find_cache(name_or_path: Path | str | None, folder: Path) -> Path:
    """Find the cache that is meant.

    Parameters
    ----------
    name_or_path : path, str or None
        A file; or a data set's name or a file's name (with or without suffix) in ``folder``; None is the newest there.
    folder : Path
        The folder of all caches.

    Returns
    -------
    Path
        If several fit a name, the newest of them, with a warning that names all.

    Raises
    ------
    CacheError
        If there is none; the message says what there is, or how to make one.
    """
    if name_or_path is not None and _is_path(name_or_path, folder):
        return _existing(Path(name_or_path).expanduser())
    from cafe.cache.format.summary import list_caches

    found = [summary for summary in list_caches(folder) if summary.damaged is None]
    if name_or_path is None:
        if found:
            return found[0].path
        raise CacheError(f"there is no cache in {folder} yet; make one with: cafe extract --dataset NAME")
    name = str(name_or_path)
    fitting = [summary for summary in found if _fits(summary, name)]
    if fitting:
        if len(fitting) > 1:
            names = ", ".join(summary.path.name for summary in fitting)
            warnings.warn(f"{len(fitting)} caches fit {name!r} ({names}); taking the newest", UserWarning, stacklevel=2)
        return fitting[0].path
    return _existing(folder / name, [summary.path.stem for summary in found])


def _is_path(name_or_path: Path | str, folder: Path) -> bool:
    if isinstance(name_or_path, Path):
        return True
    if any(separator in name_or_path for separator in (os.sep, os.altsep) if separator):
        return True
    # A bare file name is looked for here first, and then among the caches.
    path = Path(name_or_path)
    return path.suffix == spec.SUFFIX and (path.is_file() or not (folder / path).is_file())


def _fits(summary: CacheSummary, name: str) -> bool:
    return name in (summary.dataset, summary.path.stem, summary.path.name)


def _existing(path: Path, known: list[str] | None = None) -> Path:
    if path.exists():
        return path
    if known is None:
        raise CacheError(f"there is no cache {path}; `cafe cache ls` lists those there are, `cafe extract` makes one")
    there = f"those there are: {', '.join(known)}" if known else "there is none at all yet"
    raise CacheError(f"there is no cache {path.name!r} in {path.parent}; {there}. `cafe extract` makes one")


def _slug(name: str) -> str:
    """Keep letters, digits, dot, underscore and dash; everything else, slashes included, becomes one dash."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"
