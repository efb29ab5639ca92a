"""Records when each cache and run was last used, so that commands can take the last one if none is named.

The record is one small JSON file in the cache folder, and may be lost or out of date without harm: the time of a newer
file counts instead, and files that no longer exist are left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cafe.errors import InputError
from cafe.files import replacing

Kind = Literal["caches", "runs"]

USE_FILE = "last_used.json"
_MAX_RECORDS = 1000  # records of each kind; the oldest are dropped


def note_use(cache_dir: Path, kind: Kind, path: Path) -> None:
    """Record that a cache or run is used now, which makes it the default of this cache folder.

    Parameters
    ----------
    cache_dir : Path
        The cache folder, as of :func:`cafe.files.cache_dir`.
    kind : {"caches", "runs"}
        Whether it is a cache or a run.
    path : Path
        The file of the cache, or the folder of the run, within the cache folder or anywhere else. In a folder that may
        not be written to, nothing is recorded; only the choice of a default suffers.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> old, new = folder / "old.h5", folder / "new.h5"
    >>> for file in (old, new):
    ...     file.touch()
    >>> note_use(folder, "caches", old)
    >>> [path.name for path in by_last_use(folder, "caches", [new, old])]
    ['old.h5', 'new.h5']
    """
    records = _records(cache_dir)
    moments = {key: moment for key, moment in records.get(kind, {}).items() if Path(key).exists()}
    moments[_key(path)] = time.time_ns()
    newest = sorted(moments.items(), key=lambda item: item[1], reverse=True)[:_MAX_RECORDS]
    with suppress(OSError, InputError), replacing(cache_dir / USE_FILE, prepare=False) as temporary:
        temporary.write_text(json.dumps({**records, kind: dict(newest)}, indent=1) + "\n", encoding="utf-8")


def by_last_use(cache_dir: Path, kind: Kind, paths: Iterable[Path]) -> list[Path]:
    """Sort caches or runs, the most recently used or made first.

    Parameters
    ----------
    cache_dir : Path
        The cache folder.
    kind : {"caches", "runs"}
        Whether they are caches or runs.
    paths : iterable of Path
        Files or folders; of a folder, the time of its newest file counts.

    Returns
    -------
    list of Path
        Those that exist.
    """
    recorded = _records(cache_dir).get(kind, {})
    moments = {}
    for path in paths:
        with suppress(OSError):
            moments[path] = max(_time_made(path), recorded.get(_key(path), 0))
    return sorted(moments, key=lambda path: moments[path], reverse=True)


def used_elsewhere(cache_dir: Path, kind: Kind) -> list[Path]:
    """Return the caches or runs that were used with this cache folder and lie outside of it."""
    inside = cache_dir.absolute()
    return [path for key in _records(cache_dir).get(kind, {}) if inside not in (path := Path(key)).parents]


def _time_made(path: Path) -> int:
    """Return when a file, or the newest file of a folder, was made, in nanoseconds."""
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    return max(file.stat().st_mtime_ns for file in files)


def _key(path: Path) -> str:
    """Return the key of a path in the record."""
    return str(path.absolute())


def _records(cache_dir: Path) -> dict[str, dict[str, int]]:
    """Read the record: the times of use by kind and path; empty if the file is missing or damaged."""
    try:
        document = json.loads((cache_dir / USE_FILE).read_text(encoding="utf-8"))
        return {
            kind: {str(key): int(moment) for key, moment in document[kind].items()}
            for kind in ("caches", "runs")
            if kind in document
        }
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}
