"""The tables of a comparison, as Markdown and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cafe.report.across import across_datasets
from cafe.report.cells import Block, caption, grid, notes_of
from cafe.report.layout import SHOTS, Layout
from cafe.report.markdown import escaped, markdown_row
from cafe.report.panels import panels


def markdown_table(summary: Sequence[Mapping[str, Any]], metric: str | None = None, layout: Layout = SHOTS) -> str:
    """Write a summary as Markdown, one table for each data set, encoder and metric.

    Parameters
    ----------
    summary : sequence of mapping
        As ``Comparison.summary`` has it.
    metric : str, default=None
        Which metric to show; None for those of the layout.
    layout : Layout
        What stands across.

    Returns
    -------
    str
        Ends in a newline.
    """
    blocks = []
    for title, head, body, notes in blocks_of(summary, metric, layout):
        lines = [f"**{escaped(title)}**", "", markdown_row(head)]
        lines.append("|---|" + "---:|" * (len(head) - 1))
        lines += [markdown_row(row) for row in body]
        lines += [line for note in notes for line in ("", note)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def terminal_table(summary: Sequence[Mapping[str, Any]], metric: str | None = None, layout: Layout = SHOTS) -> str:
    """Write a summary for a terminal: plain text, aligned columns, one block for each data set, encoder and metric.

    Parameters
    ----------
    summary : sequence of mapping
        As ``Comparison.summary`` has it.
    metric : str, default=None
        Which metric to show; None for those of the layout.
    layout : Layout
        What stands across.

    Returns
    -------
    str
        Ends in a newline.
    """
    blocks = []
    for title, head, body, notes in blocks_of(summary, metric, layout):
        lines = [title, "", *align(head, body)]
        lines += [line for note in notes for line in ("", note)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def blocks_of(summary: Sequence[Mapping[str, Any]], metric: str | None, layout: Layout) -> list[Block]:
    """Return caption, head, body and notes of every table of a summary."""
    blocks: list[Block] = []
    for one in layout.metrics if metric is None else (metric,):
        drawn = [panel for panel in panels(summary, one, layout) if panel.columns]
        if layout.table == "datasets":
            blocks += across_datasets(drawn, one, layout)
            continue
        blocks += [(caption(panel, one, layout), *grid(panel, one), notes_of([panel], layout)) for panel in drawn]
    return blocks


def align(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    r"""Align columns by spaces: the first to the left, the others to the right, a rule under the head.

    Examples
    --------
    >>> print(*align(["method", "1"], [["zero-shot", "50.0"]]), sep="\n")
    method        1
    ---------  ----
    zero-shot  50.0
    """
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *rest = row
        return "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))])

    return [line(head), "  ".join("-" * width for width in widths), *map(line, body)]


def align_left(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    r"""Align columns of words by spaces, all to the left; the last column may be as long as it likes.

    Examples
    --------
    >>> print(*align_left(["model", ""], [["cafe:mini", "comes with cafe"]]), sep="\n")
    model
    cafe:mini  comes with cafe
    """
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *body]
    ]
