"""Writes a comparison to a folder: rows for programs, a table, a figure and a page for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cafe.files import replacing_together
from cafe.report.comparison import ComparisonLike
from cafe.report.figure import draw
from cafe.report.page import page
from cafe.report.plain import plain
from cafe.report.published import published_table
from cafe.report.table import markdown_table


def write_report(out: Path, comparison: ComparisonLike) -> list[Path]:
    """Write ``results.jsonl``, ``results.csv``, ``table.md``, ``figure.png`` and ``report.html``.

    Parameters
    ----------
    out : Path
        Folder; made if it is not there. Files of these names in it are replaced; where ``results.jsonl`` is, the report
        is whole.
    comparison : Comparison
        What ``cafe.compare.compare`` returned.

    Returns
    -------
    list of Path
        The five files.

    Raises
    ------
    InputError
        If ``out`` cannot be a folder.
    """
    # Everything is made before anything is written: a failure leaves an older report whole.
    contents = {
        "results.jsonl": jsonl(comparison.rows).encode("utf-8"),
        "results.csv": csv_text(comparison.rows).encode("utf-8"),
        "table.md": table_text(comparison).encode("utf-8"),
        "figure.png": draw(comparison.summary, layout=comparison.layout),
        "report.html": page(comparison).encode("utf-8"),
    }
    with replacing_together(out, contents, mark="results.jsonl") as paths:
        for name, content in contents.items():
            paths[name].write_bytes(content)
    return [out / name for name in contents]


def table_text(comparison: ComparisonLike) -> str:
    """Return the tables, published figures beside measured ones, and notes, as Markdown."""
    parts = [f"# {comparison.title}", markdown_table(comparison.summary, layout=comparison.layout)]
    published = published_table(comparison.published)
    if published:
        parts.append(f"## Published and here\n\n{published}")
    if comparison.notes:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in comparison.notes))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Write rows as JSON, one a line.

    Examples
    --------
    >>> jsonl([{"acc1": 0.5}, {"acc1": None}])
    '{"acc1": 0.5}\n{"acc1": null}\n'
    """
    return "".join(json.dumps(plain(row), allow_nan=False, ensure_ascii=False) + "\n" for row in rows)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Write rows as CSV with a head; nested values as JSON, None as an empty cell.

    Examples
    --------
    >>> csv_text([{"method": "clip-adapter", "params": {"alpha": 0.2}, "variant": None}])
    'method,params,variant\nclip-adapter,"{""alpha"": 0.2}",\n'
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {key: plain(value) for key, value in row.items()}
        writer.writerow({k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in cells.items()})
    return buffer.getvalue()
