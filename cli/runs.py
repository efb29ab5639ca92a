"""Where runs and reports go when no folder was named."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path


def new_run_folder(cache_dir: Path, *words: object) -> Path:
    """Name a folder below ``<cache-dir>/runs`` that is not there yet.

    Parameters
    ----------
    cache_dir : Path
        The folder of all caches.
    *words
        What the run is, most general first; empty ones and None are left out.

    Returns
    -------
    Path
        Readable, and with a number behind it where a run of this name is there already: nothing is overwritten.

    Examples
    --------
    >>> new_run_folder(Path("caches"), "digits", "cafe:mini", "clip-adapter", None, "16-shot").as_posix()
    'caches/runs/digits-cafe-mini-clip-adapter-16-shot'
    """
    name = "-".join(slug for slug in (_slug(str(word)) for word in words if word is not None) if slug)
    first = cache_dir / "runs" / name
    return next(
        folder
        for number in count(1)
        if not (folder := first if number == 1 else first.with_name(f"{name}-{number}")).exists()
    )


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-.")
