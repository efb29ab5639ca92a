"""Names of caches: the file of a new cache, the caches in a folder, and the cache that a name means."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cafe.cache.format import reader
from cafe.cache.format.layout import HDF5_SIGNATURE, SUFFIX
from cafe.cache.format.reader import CacheSummary, OtherFileError, summarise
from cafe.cache.versions import old_versions
from cafe.errors import CacheError, CafeWarning, InputError
from cafe.features import Features
from cafe.files import cache_dir as cache_folder
from cafe.last_used import by_last_use, used_elsewhere

_FINGERPRINT_DIGITS = 8  # hexadecimal digits of a fingerprint within a file name


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
    return folder / f"{_slug(dataset)}--{_slug(encoder)}{SUFFIX}"


def distinct_path(path: Path, image_fingerprint: str) -> Path:
    """Return the name beside ``path`` for image features of another fingerprint.

    Examples
    --------
    >>> distinct_path(Path("digits--mini.h5"), "44136fa355b3678a").name
    'digits--mini--44136fa3.h5'
    """
    return path.with_name(f"{path.stem}--{image_fingerprint[:_FINGERPRINT_DIGITS]}{path.suffix or SUFFIX}")


def list_caches(folder: Path | str) -> list[CacheSummary]:
    """List the caches of a folder, newest first; damaged files come last, each with its fault.

    Parameters
    ----------
    folder : path
        The folder of all caches; it need not exist.

    Returns
    -------
    list of CacheSummary
        One for every ``.h5`` file that does not begin with a dot.
    """
    summaries = []
    for path in sorted(Path(folder).glob(f"[!.]*{SUFFIX}")):
        try:
            summaries.append(summarise(path))
        except CacheError as error:
            # A file that another process has just removed is not damaged.
            if path.is_file():
                summaries.append(CacheSummary(path, path.stat().st_size, damaged=str(error)))
    return sorted(summaries, key=lambda summary: summary.created, reverse=True)


def load_features(
    cache: Path | str | None = None,
    *,
    memmap: bool | Literal["auto"] = False,
    cache_dir: Path | str | None = None,
) -> Features:
    """Load a cache by any name that the command line takes.

    Parameters
    ----------
    cache : path or str, default=None
        A file; or the name of a file or of a data set in the cache folder, as of :func:`find_cache`; None for the
        cache last used or made there.
    memmap : bool or "auto", default=False
        Whether image features stay on disk as read-only memory maps, from which rows are gathered as they are used;
        ``"auto"`` maps files above 2 GiB.
    cache_dir : path, default=None
        Folder of caches and runs; None for ``$CAFE_CACHE``, else ``$XDG_CACHE_HOME/cafe``.

    Returns
    -------
    Features
        With image and text features in their stored dtype, and with all provenance.

    Raises
    ------
    CacheError
        If there is no such cache, or it is truncated, damaged, no cache, or of a newer format version.
    """
    return reader.read_features(find_cache(cache, cache_folder(cache_dir)), memmap=memmap)


def current_cache(folder: Path) -> Path | None:
    """Return the cache last used or made with this cache folder; None if there is none that can be read.

    Parameters
    ----------
    folder : Path
        The folder of all caches. A cache elsewhere counts too, once a verb has used it with this folder.
    """
    return next(iter(caches_by_last_use(folder)), None)


def caches_by_last_use(folder: Path, summaries: Sequence[CacheSummary] | None = None) -> list[Path]:
    """Return the readable caches, the one last used or made first, with those of other folders that were used.

    Parameters
    ----------
    folder : Path
        The folder of all caches.
    summaries : sequence of CacheSummary, default=None
        Of the caches in the folder, where they are known already.
    """
    known = list_caches(folder) if summaries is None else summaries
    paths = [summary.path for summary in known if summary.damaged is None]
    return by_last_use(folder, "caches", [*paths, *filter(_is_sound, used_elsewhere(folder, "caches"))])


def find_cache(name_or_path: Path | str | None, folder: Path) -> Path:
    """Find the cache that a name or path means.

    Parameters
    ----------
    name_or_path : path, str or None
        A file; or a data set's name or a file's name (with or without suffix) in ``folder``; None is the one last used
        or made there.
    folder : Path
        The folder of all caches.

    Returns
    -------
    Path
        If several fit a name, the one last used or made, with a warning that names all; old versions of a data set's
        cache (:mod:`cafe.cache.versions`) are meant by their file alone.

    Raises
    ------
    CacheError
        If there is none, or the one of this file name is damaged; the message says what there is, or how to make one.
    """
    if name_or_path is not None and _is_path(name_or_path, folder):
        return _require_existing(Path(name_or_path).expanduser())
    if name_or_path is None:
        current = current_cache(folder)
        if current is not None:
            return current
        raise CacheError(f"there is no cache in {folder} yet; make one with: cafe extract FOLDER")
    listed = list_caches(folder)
    sound = [summary for summary in listed if summary.damaged is None]
    name = str(name_or_path)
    fitting = by_last_use(folder, "caches", [summary.path for summary in sound if _fits(summary, name)])
    if len(fitting) > 1:
        old = old_versions(fitting)
        fitting = [path for path in fitting if path not in old]
    if fitting:
        if len(fitting) > 1:
            names = ", ".join(path.name for path in fitting)
            message = (
                f"{len(fitting)} caches fit {name!r} ({names}); taking the one last used or made, {fitting[0].name}"
            )
            warnings.warn(message, CafeWarning, stacklevel=2)
        return fitting[0]
    for summary in listed:
        if summary.damaged is not None and name in (summary.path.stem, summary.path.name):
            raise CacheError(summary.damaged)
    return _require_existing(folder / name, [summary.path.stem for summary in sound], len(listed) - len(sound))


def find_caches(names: Sequence[Path | str], folder: Path) -> list[Path]:
    """Find several caches, all of them different.

    Parameters
    ----------
    names : sequence of path or str
        Each as of :func:`find_cache`.
    folder : Path
        The folder of all caches.

    Returns
    -------
    list of Path
        In the order of the names.

    Raises
    ------
    CacheError
        If one is not there.
    InputError
        If two names mean the same file.
    """
    paths = [find_cache(name, folder) for name in names]
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise InputError(f"cache {path} is named more than once")
    return paths


def find_single_cache(name: str, folder: Path) -> Path:
    """Find the only cache of a name, for commands that cannot be undone; it may be damaged.

    Parameters
    ----------
    name : str
        A file; or the name of a file in ``folder``, with or without suffix; or the name of a data set.
    folder : Path
        The folder of all caches.

    Raises
    ------
    CacheError
        If there is none.
    InputError
        If several fit the name.
    """
    known = list_caches(folder)
    fitting = [summary.path for summary in known if name in (summary.path.name, summary.path.stem)]
    fitting = fitting or [summary.path for summary in known if name == summary.dataset]
    if len(fitting) > 1:
        raise InputError(f"{name!r} fits {', '.join(path.name for path in fitting)}; name one of these files")
    return fitting[0] if fitting else find_cache(name, folder)


def check_removable(path: Path, folder: Path, *, damaged: bool = False) -> None:
    """Raise an error for a file that is not a cache, before it is removed.

    A file that cannot be read may be a damaged cache. It counts as one if it ends in ``.h5``, begins as an HDF5 file
    and lies in the folder of caches.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        The folder of all caches.
    damaged : bool, default False
        Whether any file that ends in ``.h5`` may be removed, unless it is a sound HDF5 file of another kind.

    Raises
    ------
    CacheError
        If there is no such file.
    InputError
        If the file is no cache.
    """
    try:
        summarise(path)
        return
    except OtherFileError as error:
        raise InputError(f"{error}; it is not removed") from error
    except CacheError:
        if not path.exists() and not path.is_symlink():
            raise
    if path.suffix == SUFFIX and path.is_file() and not path.is_symlink():
        with path.open("rb") as stream:
            begins_as_cache = stream.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
        if damaged or (begins_as_cache and path.absolute().parent.resolve() == folder.absolute().resolve()):
            return
        raise InputError(
            f"{path} cannot be told from a file of something else, so it is not removed; --damaged removes it "
            f"all the same"
        )
    raise InputError(f"{path} is no cache of cafe, so it is not removed")


def _is_path(name_or_path: Path | str, folder: Path) -> bool:
    """Return whether the user means a file rather than a name in the folder of caches."""
    if isinstance(name_or_path, Path):
        return True
    if any(separator in name_or_path for separator in (os.sep, os.altsep) if separator):
        return True
    # A file name without a folder means a file in the current folder first, and then one among the caches.
    path = Path(name_or_path)
    return path.suffix == SUFFIX and (path.is_file() or not (folder / path).is_file())


def _fits(summary: CacheSummary, name: str) -> bool:
    """Return whether a name means this cache."""
    return name in (summary.dataset, summary.path.stem, summary.path.name)


def _is_sound(path: Path) -> bool:
    """Return whether a cache can be read."""
    try:
        summarise(path)
    except CacheError:
        return False
    return True


def _require_existing(path: Path, known: list[str] | None = None, damaged: int = 0) -> Path:
    """Return a path that exists; else raise an error that lists the known caches."""
    if path.exists():
        return path
    if known is None:
        raise CacheError(f"there is no cache {path}; `cafe cache ls` lists those there are, `cafe extract` makes one")
    present = f"those there are: {', '.join(known)}" if known else "there is none yet"
    if damaged:
        present += f" (and {damaged} damaged, which `cafe cache ls` shows)"
    raise CacheError(f"there is no cache {path.name!r} in {path.parent}; {present}. `cafe extract` makes one")


def _slug(name: str) -> str:
    """Return a name for use in a file name: all but letters, digits, dot, underscore and dash becomes a dash."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"
