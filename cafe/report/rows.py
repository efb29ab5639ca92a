"""Rows as text for programs: JSON lines and CSV, from values that may be NumPy's, paths, or not finite."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.names import csv_cell, visible_json, visible_name


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


def jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Write rows as JSON, one a line.

    Examples
    --------
    >>> jsonl([{"acc1": 0.5}, {"acc1": None}])
    '{"acc1": 0.5}\n{"acc1": null}\n'
    """
    lines = (json.dumps(plain(row), allow_nan=False, ensure_ascii=False) for row in rows)
    return "".join(visible_json(line) + "\n" for line in lines)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Write rows as CSV with a head; nested values as JSON, None as an empty field.

    No cell is computed by a spreadsheet, and none is a command to a terminal; see :func:`cafe.names.csv_cell`.

    Examples
    --------
    >>> csv_text([{"method": "clip-adapter", "params": {"alpha": 0.2}, "variant": None}])
    'method,params,variant\nclip-adapter,"{""alpha"": 0.2}",\n'
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, field_names(rows), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        fields = {key: plain(value) for key, value in row.items()}
        writer.writerow({key: _cell(value) for key, value in fields.items()})
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Return the text of a cell of the CSV file."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    return csv_cell(value) if isinstance(value, str) else value


def field_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all fields, in the order in which they first occur."""
    return list(dict.fromkeys(key for row in rows for key in row))


def display_text(value: Any) -> str:
    """Write one value for people: empty for None, six digits of a float, JSON for lists and mappings.

    Examples
    --------
    >>> display_text(None), display_text(0.12345678), display_text({"alpha": 0.2})
    ('', '0.123457', '{"alpha": 0.2}')
    """
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return visible_name(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Write a number with its noun; the plural ends in s where none is given.

    Examples
    --------
    >>> counted(1, "image"), counted(1200, "image"), counted(0, "class", "classes")
    ('1 image', '1,200 images', '0 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"
