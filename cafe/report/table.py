"""The table of a comparison: methods down, shots across, mean and standard deviation in per cent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cafe.report.panels import ORACLE_NOTE, Panel, Point, panels, shots_label

GAP = "–"
METRIC_NAMES = {
    "acc1": "Top-1 accuracy",
    "acc5": "Top-5 accuracy",
    "mean_per_class_recall": "Mean per-class recall",
    "ece": "Expected calibration error",
}


def cell(point: Point | None) -> str:
    """Write one point in per cent; a run that is missing is shown as a gap.

    Examples
    --------
    >>> cell(Point(0.7541, 0.0123, 3)), cell(Point(0.5, None, 1)), cell(None)
    ('75.4 ± 1.2', '50.0', '–')
    """
    if point is None:
        return GAP
    if point.std is None:
        return f"{100 * point.mean:.1f}"
    return f"{100 * point.mean:.1f} ± {100 * point.std:.1f}"


def grid(panel: Panel) -> tuple[list[str], list[list[str]]]:
    """Lay one panel out as head and body of a table.

    Parameters
    ----------
    panel : Panel
        What was measured on one data set with one encoder.

    Returns
    -------
    head : list of str
        ``"method"`` and one column for each number of shots; column 0 is zero-shot.
    body : list of list of str
        One row for each series, as long as the head.
    """
    head = ["method", *map(shots_label, panel.shots)]
    body = [[line.label, *(cell(line.points.get(shots)) for shots in panel.shots)] for line in panel.series]
    return head, body


def caption(panel: Panel, metric: str = "acc1") -> str:
    """Say in one line what the numbers of a panel are.

    Examples
    --------
    >>> caption(Panel("digits", "cafe:mini", [], []))
    'digits, cafe:mini. Top-1 accuracy in per cent by shots (training images per class), 1 seed'
    """
    spread = f"mean ± standard deviation over {panel.seeds} seeds" if panel.seeds > 1 else "1 seed"
    what = METRIC_NAMES.get(metric, metric)
    return f"{panel.dataset}, {panel.encoder}. {what} in per cent by shots (training images per class), {spread}"


def markdown_table(summary: Sequence[Mapping[str, Any]], metric: str = "acc1") -> str:
    """Write a summary as Markdown, one table for each data set and encoder.

    Parameters
    ----------
    summary : sequence of mapping
        As ``Comparison.summary`` has it.
    metric : str, default "acc1"
        Which metric to show.

    Returns
    -------
    str
        Ends in a newline.
    """
    blocks = []
    for panel in panels(summary, metric):
        head, body = grid(panel)
        lines = [f"**{_escape(caption(panel, metric))}**", "", _markdown_row(head)]
        lines.append("|---|" + "---:|" * (len(head) - 1))
        lines += [_markdown_row(row) for row in body]
        if panel.has_oracle:
            lines += ["", ORACLE_NOTE]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def terminal_table(summary: Sequence[Mapping[str, Any]], metric: str = "acc1") -> str:
    """Write a summary for a terminal: plain text, aligned columns, one block for each data set and encoder.

    Parameters
    ----------
    summary : sequence of mapping
        As ``Comparison.summary`` has it.
    metric : str, default "acc1"
        Which metric to show.

    Returns
    -------
    str
        Ends in a newline.
    """
    blocks = []
    for panel in panels(summary, metric):
        head, body = grid(panel)
        lines = [caption(panel, metric), "", *align(head, body)]
        if panel.has_oracle:
            lines += ["", ORACLE_NOTE]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


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


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    for special in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(special, "\\" + special)
    return text.replace("\n", " ")
