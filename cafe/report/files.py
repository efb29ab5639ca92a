"""Writes a comparison to a folder: rows for programs, a table, a figure and a page for people."""

from __future__ import annotations

from pathlib import Path

from cafe.files import replacing_together
from cafe.names import visible
from cafe.report.comparison import Comparison
from cafe.report.figure import draw
from cafe.report.page import page
from cafe.report.rows import csv_text, jsonl
from cafe.report.tables import markdown_report


def write_report(out: Path, comparison: Comparison) -> list[Path]:
    """Write ``results.jsonl``, ``results.csv``, ``table.md``, ``figure.png`` and ``report.html``.

    Parameters
    ----------
    out : Path
        Folder; made if it is not there. Files of these names in it are replaced. ``results.jsonl`` is put there last:
        a folder that has it holds a whole report.
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
        "table.md": visible(markdown_report(comparison)).encode("utf-8"),
        "figure.png": draw(comparison.summary, layout=comparison.layout),
        "report.html": visible(page(comparison)).encode("utf-8"),
    }
    with replacing_together(out, contents, mark="results.jsonl") as paths:
        for name, content in contents.items():
            paths[name].write_bytes(content)
    return [out / name for name in contents]
