"""Lists the data sets known by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cafe.data.opening import data_root
from cafe.registry import entries


def known_sources() -> list[dict[str, str]]:
    """List the readers for what users bring, without importing what they read with.

    Returns
    -------
    list of dict
        Each with ``name`` and ``summary``.

    Examples
    --------
    >>> "image-folder" in [row["name"] for row in known_sources()]
    True
    """
    return [{"name": entry.name, "summary": entry.summary} for entry in entries("data", "SOURCE").values()]


def known_datasets(root: Path | None = None) -> list[dict[str, Any]]:
    """List the data sets known by name, without importing torch.

    Parameters
    ----------
    root : Path or None
        Folder that holds them; None takes ``$CAFE_DATA``.

    Returns
    -------
    list of dict
        Each with ``name``, ``summary``, ``available`` (bool), ``why`` (one sentence if it is not available,
        else empty), ``expected`` (list of paths below the root) and ``homepage``.

    Examples
    --------
    >>> [row["available"] for row in known_datasets() if row["name"] == "digits"]
    [True]
    """
    rows = []
    for entry in entries("data", "DATASET").values():
        cls = entry.load()
        why = cls.missing(data_root(root))
        rows.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "available": why is None,
                "why": why or "",
                "expected": list(cls.expected()),
                "homepage": cls.homepage,
            }
        )
    return rows
