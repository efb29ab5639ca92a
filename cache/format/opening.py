"""Opens a cache for reading; whatever is wrong with the file becomes one clear sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from cafe.cache.format import spec
from cafe.errors import CacheError, CafeError

REMEDY = "Extract it again, or name another file."


@contextmanager
def open_cache(path: Path | str) -> Iterator[h5py.File]:
    """Open a cache for reading.

    Parameters
    ----------
    path : path
        The file.

    Yields
    ------
    h5py.File
        Open for reading, of a format version that this cafe reads.

    Raises
    ------
    CacheError
        If the file is missing, truncated, damaged, not HDF5, not a cache, or of a newer version; also if what the
        block reads from it turns out to be damaged.
    """
    path = Path(path)
    file = _open(path)
    try:
        with file:
            _check_header(path, file)
            yield file
    except CacheError:
        raise
    # h5py and JSON report damage with whatever type the place of the damage suggests.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, CafeError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise CacheError(f"cache {path} is damaged: {reason}. {REMEDY}") from error


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise CacheError(f"there is no cache {path}; `cafe cache ls` lists those there are, `cafe extract` makes one")
    if not path.is_file():
        raise CacheError(f"{path} is not a file; a cache is one HDF5 file ({spec.SUFFIX})")
    try:
        with path.open("rb") as stream:
            start = stream.read(len(spec.HDF5_SIGNATURE))
    except OSError as error:
        raise CacheError(f"cache {path} cannot be read: {error.strerror}") from error
    size = path.stat().st_size
    if len(start) < len(spec.HDF5_SIGNATURE) and spec.HDF5_SIGNATURE.startswith(start):
        raise CacheError(f"cache {path} is truncated: only {size} bytes are there. {REMEDY}")
    if start != spec.HDF5_SIGNATURE:
        raise CacheError(f"{path} is not an HDF5 file, so it is no cache of cafe. {REMEDY}")
    try:
        # Caches are never changed in place, so no lock is needed; locks are what hangs on network file systems.
        return h5py.File(path, "r", locking=False)
    except Exception as error:  # h5py has no exception type of its own
        raise CacheError(f"cache {path} is truncated or damaged ({size} bytes): {error}. {REMEDY}") from error


def _check_header(path: Path, file: h5py.File) -> None:
    if text_attribute(file.attrs.get("format")) != spec.FORMAT:
        raise CacheError(
            f"{path} is an HDF5 file, but not a cache of cafe: it has no attribute format = {spec.FORMAT!r}"
        )
    version = int(file.attrs["format_version"])
    if version > spec.FORMAT_VERSION:
        raise CacheError(
            f"cache {path} has format version {version}, but this cafe reads up to version {spec.FORMAT_VERSION}; "
            f"upgrade with: pip install -U cafe-clip"
        )


def text_attribute(value: Any) -> str:
    """Return an attribute as text, whether another writer stored it with fixed or variable length."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
