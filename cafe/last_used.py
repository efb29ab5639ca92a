"""When each cache and run was last used, so that the one last used or made is taken where none is named.

The note is one small JSON file in the cache folder. It may be lost or out of date without harm: what is newer than its
note counts from its own time, and what is gone is left out.
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
_MAX_NOTES = 1000  # notes of each kind; older ones go


def note_use(cache_dir: Path, kind: Kind, path: Path) -> None:
    """Note that a cache or run is used now, which makes it the current one of this cache folder.

    Parameters
    ----------
    cache_dir : Path
        The cache folder, as of :func:`cafe.files.cache_dir`.
    kind : {"caches", "runs"}
        What it is.
    path : Path
        The file of the cache, or the folder of the run, within the cache folder or anywhere else. A folder that may
        not be written to keeps no note: that costs nothing but the choice of a default.

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
    notes = _notes(cache_dir)
    moments = {key: moment for key, moment in notes.get(kind, {}).items() if Path(key).exists()}
    moments[_key(path)] = time.time_ns()
    newest = sorted(moments.items(), key=lambda item: item[1], reverse=True)[:_MAX_NOTES]
    with suppress(OSError, InputError), replacing(cache_dir / USE_FILE, prepare=False) as temporary:
        temporary.write_text(json.dumps({**notes, kind: dict(newest)}, indent=1) + "\n", encoding="utf-8")


def by_last_use(cache_dir: Path, kind: Kind, paths: Iterable[Path]) -> list[Path]:
    """Sort caches or runs: the one last used or made first.

    Parameters
    ----------
    cache_dir : Path
        The cache folder.
    kind : {"caches", "runs"}
        What they are.
    paths : iterable of Path
        Files or folders; of a folder, the time of its newest file counts.

    Returns
    -------
    list of Path
        Those that are there.
    """
    noted = _notes(cache_dir).get(kind, {})
    moments = {}
    for path in paths:
        with suppress(OSError):
            moments[path] = max(_time_made(path), noted.get(_key(path), 0))
    return sorted(moments, key=lambda path: moments[path], reverse=True)


def used_elsewhere(cache_dir: Path, kind: Kind) -> list[Path]:
    """Return the caches or runs that were used with this cache folder and lie outside of it."""
    inside = cache_dir.absolute()
    return [path for key in _notes(cache_dir).get(kind, {}) if inside not in (path := Path(key)).parents]


def _time_made(path: Path) -> int:
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    return max(file.stat().st_mtime_ns for file in files)


def _key(path: Path) -> str:
    return str(path.absolute())


def _notes(cache_dir: Path) -> dict[str, dict[str, int]]:
    try:
        document = json.loads((cache_dir / USE_FILE).read_text(encoding="utf-8"))
        return {
            kind: {str(key): int(moment) for key, moment in document[kind].items()}
            for kind in ("caches", "runs")
            if kind in document
        }
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}
