"""Plain values: what JSON can hold, with nothing in it that is not a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold: numbers that are not finite become None.

    Examples
    --------
    >>> plain({"ece": float("nan"), "shots": (1, 2), "out": Path("a")})
    {'ece': None, 'shots': [1, 2], 'out': 'a'}
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    # NumPy scalars and arrays, without importing numpy for those who have none of them.
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
