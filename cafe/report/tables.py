"""The tables of a comparison, as Markdown and for a terminal: methods down, mean and standard deviation across.

In the layout of papers, data sets are the columns. Published figures have a table of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cafe.names import visible_name
from cafe.report.comparison import BY_SHOTS, Comparison, ReportLayout
from cafe.report.panels import (
    ALL_SHOTS,
    BEST_MARK,
    CONSTANT_NOTE,
    ORACLE_NOTE,
    Column,
    Line,
    MeanStd,
    Panel,
    best_note,
    column_label,
    factor,
    is_percent,
    metric_name,
    panels,
)

GAP = "–"
CHOSEN_ON = "chosen on"
# The CLIP papers' data sets, in the order in which they print them; others follow as they come.
PAPER_DATASETS = (
    "imagenet", "caltech101", "oxford-pets", "stanford-cars", "flowers102", "food101", "fgvc-aircraft", "sun397",
    "dtd", "eurosat", "ucf101",
)  # fmt: skip


class TextTable(NamedTuple):
    """A table of text.

    Attributes
    ----------
    caption : str
        One line above it.
    head : list of str
        One for each column.
    body : list of list of str
        Rows, each as long as the head.
    notes : list of str
        Below it, one paragraph each.
    """

    caption: str
    head: list[str]
    body: list[list[str]]
    notes: list[str]


def markdown_report(comparison: Comparison) -> str:
    """Return the tables, published figures beside measured ones, and notes, as one Markdown document."""
    parts = [f"# {comparison.title}", markdown_table(comparison.summary, layout=comparison.layout)]
    if comparison.published:
        parts.append(f"## Published and here\n\n{_published_markdown(comparison.published)}")
    if comparison.notes:
        parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in comparison.notes))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def markdown_table(
    summary: Sequence[Mapping[str, Any]], metric: str | None = None, layout: ReportLayout = BY_SHOTS
) -> str:
    """Write a summary as Markdown, one table for each data set, encoder and metric.

    Parameters
    ----------
    summary : sequence of mapping
        As ``Comparison.summary`` has it.
    metric : str, default=None
        Which metric to show; None for those of the layout.
    layout : ReportLayout
        What the columns are.

    Returns
    -------
    str
        Ends in a newline.
    """
    blocks = []
    for caption, head, body, notes in tables(summary, metric, layout):
        lines = [f"**{_escaped(caption)}**", "", markdown_row(head)]
        lines.append("|---|" + "---:|" * (len(head) - 2) + "---|")
        lines += [markdown_row(row) for row in body]
        lines += [line for note in notes for line in ("", note)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def terminal_table(
    summary: Sequence[Mapping[str, Any]], metric: str | None = None, layout: ReportLayout = BY_SHOTS
) -> str:
    """Write a summary for a terminal, as plain text with aligned columns; see :func:`markdown_table`."""
    blocks = []
    for caption, head, body, notes in tables(summary, metric, layout):
        lines = [caption, "", *align(head, body, left_last=True)]
        lines += [line for note in notes for line in ("", note)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def tables(summary: Sequence[Mapping[str, Any]], metric: str | None, layout: ReportLayout) -> list[TextTable]:
    """Return every table of a summary, metric by metric; a metric that was not measured has none.

    None means the layout's metrics, followed by those of ``layout.beside`` that differ from accuracy.
    """
    made: list[TextTable] = []
    for name in (*layout.metrics, *_beside(summary, layout)) if metric is None else (metric,):
        measured = [panel for panel in panels(summary, name, layout) if panel.columns]
        if layout.table == "datasets":
            made += _tables_across_datasets(measured, name, layout)
        else:
            made += [_table(panel, name, layout) for panel in measured]
    return made


def _beside(summary: Sequence[Mapping[str, Any]], layout: ReportLayout) -> list[str]:
    """Return the metrics to show beside accuracy: those that differ from it somewhere by 0.05 points or more."""
    if "acc1" not in layout.metrics:
        return []
    shown = []
    for name in layout.beside:
        pairs = [(entry.get("acc1_mean"), entry.get(f"{name}_mean")) for entry in summary]
        if any(abs(a - b) >= 0.0005 for a, b in pairs if a is not None and b is not None):
            shown.append(name)
    return shown


def _table(panel: Panel, metric: str, layout: ReportLayout) -> TextTable:
    """Return the table of a panel: a row for each line, a column for each number of shots (0 is zero-shot) or value."""
    numbers = metric_name(metric) + (" in per cent" if is_percent(metric) else "")
    caption = f"{panel.dataset}, {panel.encoder}. {numbers} by {layout.axis_label}, {panel.over_seeds}"
    head = ["method", *map(column_label, panel.columns), CHOSEN_ON]
    body = [
        [line.label, *(_cell(line, c, metric, layout) for c in panel.columns), line.chosen_on_text]
        for line in panel.lines
    ]
    return TextTable(caption, head, body, _notes([panel], layout))


def _cell(line: Line, column: Column, metric: str, layout: ReportLayout) -> str:
    """Return the text of a cell; the value of a method without shots is in brackets in every column of shots."""
    if column in line.points or layout.axis != "shots" or not line.is_constant:
        return mean_text(line.points.get(column), metric)
    point = replace(line.points[0.0], is_best=False)
    return f"({mean_text(point, metric)}){BEST_MARK if line.standings.get(column) else ''}"


def mean_text(point: MeanStd | None, metric: str = "acc1") -> str:
    """Write mean and standard deviation, accuracies in per cent; a run that is missing is shown as a gap.

    Examples
    --------
    >>> mean_text(MeanStd(0.7541, 0.0123, 3)), mean_text(MeanStd(0.5, None, 1, is_best=True)), mean_text(None)
    ('75.4 ± 1.2', '50.0°', '–')
    >>> mean_text(MeanStd(0.125, 0.01, 3), "silhouette")
    '0.125 ± 0.010'
    """
    if point is None:
        return GAP
    digits = 1 if is_percent(metric) else 3
    spread = "" if point.std is None else f" ± {factor(metric) * point.std:.{digits}f}"
    return f"{factor(metric) * point.mean:.{digits}f}{spread}{BEST_MARK if point.is_best else ''}"


def _notes(shown: Sequence[Panel], layout: ReportLayout) -> list[str]:
    """Explain the marks that occur."""
    notes = [best_note(shown, layout)] if any(panel.is_tested for panel in shown) else []
    if (
        layout.axis == "shots"
        and layout.table == "columns"
        and any(line.is_constant and len(panel.columns) > 1 for panel in shown for line in panel.lines)
    ):
        notes.append(CONSTANT_NOTE)
    return notes + ([ORACLE_NOTE] if any(panel.has_oracle for panel in shown) else [])


# Data sets across, method and shots down, and their average: the table that papers print.


def _tables_across_datasets(measured: Sequence[Panel], metric: str, layout: ReportLayout) -> list[TextTable]:
    """Return one table for each encoder; all of ``PAPER_DATASETS`` have a column, and what was not run is a gap.

    Only rows that have every data set of ``PAPER_DATASETS`` have an average, so that all averages are over the same
    data sets.
    """
    encoders = dict.fromkeys(panel.encoder for panel in measured)
    return [
        _table_across_datasets([panel for panel in measured if panel.encoder == encoder], metric, layout)
        for encoder in encoders
    ]


def _table_across_datasets(measured: Sequence[Panel], metric: str, layout: ReportLayout) -> TextTable:
    """Return the table of one encoder: a row for each label and column, a column for each data set."""
    by_dataset = {panel.dataset: panel for panel in measured}
    names = [*PAPER_DATASETS, *(name for name in by_dataset if name not in PAPER_DATASETS)]
    body = []
    for label, column in _labels_and_columns(measured):
        points = [_point(by_dataset.get(name), label, column) for name in names]
        known = [point for point in points[: len(PAPER_DATASETS)] if point is not None]
        complete = len(known) == len(PAPER_DATASETS)
        average = MeanStd(sum(point.mean for point in known) / len(known), None, 1) if complete else None
        name = f"{label}, all" if column == ALL_SHOTS else f"{label}, {column:g}"
        lines = [line for panel in measured for line in panel.lines if line.label == label]
        chosen_on = ", ".join(dict.fromkeys(line.chosen_on[column] for line in lines if column in line.chosen_on))
        body.append([name, *(mean_text(point, metric) for point in [*points, average]), chosen_on])
    seeds = f"{measured[0].seeds} seed{'s' if measured[0].seeds > 1 else ''}"
    datasets = f"{len(by_dataset)} of {len(names)} data sets"
    caption = f"{measured[0].encoder}. {datasets}, {metric_name(metric)} in per cent, {seeds}"
    return TextTable(caption, ["method, shots", *names, "average", CHOSEN_ON], body, _notes(measured, layout))


def _labels_and_columns(measured: Sequence[Panel]) -> list[tuple[str, Column]]:
    """Return the rows of the table: labels in the order of the suite, each with its shots ascending."""
    lines = [line for panel in measured for line in panel.lines]
    occurring = dict.fromkeys((line.label, column) for line in lines for column in line.points)
    order = list(dict.fromkeys(label for label, _ in occurring))
    return sorted(occurring, key=lambda row: (order.index(row[0]), row[1]))


def _point(panel: Panel | None, label: str, column: Column) -> MeanStd | None:
    """Return the point of a label and column on a panel, None where it was not run."""
    lines = [] if panel is None else panel.lines
    return next((line.points.get(column) for line in lines if line.label == label), None)


# Published figures beside those measured here.


def published_table(published: Sequence[Mapping[str, Any]]) -> TextTable:
    """Return published, here, the difference, and where protocol or backbone differ.

    Where a table of the same backbone is at hand for a data set and method, those of other backbones are left out.
    """
    comparable = {(row["dataset"], row["method"]) for row in published if row["difference"] is not None}
    rows = [
        row for row in published if row["difference"] is not None or (row["dataset"], row["method"]) not in comparable
    ]
    head = ["data set", "method", "shots", "published", "here", "difference", "backbone", "table", "here " + CHOSEN_ON]
    body = []
    for row in rows:
        other = "" if row["difference"] is not None else f"; here {row['backbone_here'] or 'another'}"
        body.append(
            [
                row["part"] or row["dataset"], row["label"], str(row["shots"]), f"{row['published']:.2f}",
                f"{row['here']:.2f}", GAP if row["difference"] is None else f"{row['difference']:+.2f}",
                f"{row['backbone']}{other}", row["table"] + ("*" if row["chosen_on_test"] else ""),
                str(row.get("chosen_on") or ""),
            ]
        )  # fmt: skip
    sources = {row["table"]: f"{row['table']}: {row['source']}. {row['protocol']}." for row in rows}
    notes = list(sources.values())
    if any(row["chosen_on_test"] for row in rows):
        notes.append("* something was chosen on the test set there; nothing is here.")
    return TextTable("", head, body, notes)


def _published_markdown(published: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of published figures as Markdown."""
    _, head, body, notes = published_table(published)
    lines = [markdown_row(head), "|---|---|" + "---:|" * 4 + "---|---|---|", *map(markdown_row, body)]
    return "\n".join([*lines, "", *(f"- {note.replace('*', chr(92) + '*')}" for note in notes)]) + "\n"


# Text: Markdown that no name can break, and columns aligned by spaces.


def markdown_row(cells: Sequence[str]) -> str:
    r"""Write one row of a table.

    Examples
    --------
    >>> markdown_row(["a|b", "50.0"])
    '| a\\|b | 50.0 |'
    """
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """Escape the characters that Markdown gives a meaning."""
    for special in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(special, "\\" + special)
    return text.replace("\n", " ")


def align(head: Sequence[str], body: Sequence[Sequence[str]], *, left_last: bool = False) -> list[str]:
    r"""Align columns by spaces: the first to the left, the others to the right, a rule under the head.

    With ``left_last`` the last column is to the left too, and may have any length.

    Examples
    --------
    >>> print(*align(["method", "1"], [["zero-shot", "50.0"]]), sep="\n")
    method        1
    ---------  ----
    zero-shot  50.0
    """
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        last = len(row) - 1
        left = {0, last} if left_last else {0}
        cells = [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        return "  ".join(cells).rstrip()

    return [line(head), "  ".join("-" * width for width in widths), *map(line, body)]


def align_left(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    r"""Align columns by spaces, all to the left; the last column may have any length.

    Examples
    --------
    >>> print(*align_left(["model", ""], [["cafe:mini", "comes with cafe"]]), sep="\n")
    model
    cafe:mini  comes with cafe
    """
    rows = [[visible_name(cell) for cell in row] for row in [head, *body]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
