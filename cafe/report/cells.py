"""Cells, columns and captions of the tables: methods down, mean and standard deviation across."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.report.layout import SHOTS, Layout
from cafe.report.panels import LEVEL_MARK, ORACLE_NOTE, Panel, Point, column_label, level_note

Block = tuple[str, list[str], list[list[str]], list[str]]  # caption, head, body, notes
GAP = "–"
METRIC_NAMES = {
    "acc1": "Top-1 accuracy",
    "acc5": "Top-5 accuracy",
    "mean_per_class_recall": "Mean per-class recall",
    "ece": "Expected calibration error",
    "nll": "Negative log-likelihood",
    "knn_acc1": "Nearest neighbours' accuracy",
    "silhouette": "Silhouette",
    "scatter_ratio": "Scatter between classes over scatter within",
}
# Shown as they are, not in per cent.
PLAIN_METRICS = ("nll", "silhouette", "scatter_ratio")


def cell(point: Point | None, metric: str = "acc1") -> str:
    """Write one point in per cent; a run that is missing is shown as a gap.

    Examples
    --------
    >>> cell(Point(0.7541, 0.0123, 3)), cell(Point(0.5, None, 1, level=True)), cell(None)
    ('75.4 ± 1.2', '50.0°', '–')
    >>> cell(Point(0.125, 0.01, 3), "silhouette")
    '0.125 ± 0.010'
    """
    if point is None:
        return GAP
    factor, digits = (1, 3) if metric in PLAIN_METRICS else (100, 1)
    mark = LEVEL_MARK if point.level else ""
    if point.std is None:
        return f"{factor * point.mean:.{digits}f}{mark}"
    return f"{factor * point.mean:.{digits}f} ± {factor * point.std:.{digits}f}{mark}"


def grid(panel: Panel, metric: str = "acc1") -> tuple[list[str], list[list[str]]]:
    """Lay one panel out as head and body of a table.

    Parameters
    ----------
    panel : Panel
        What was measured on one data set with one encoder.
    metric : str, default "acc1"
        Which metric it holds.

    Returns
    -------
    head : list of str
        ``"method"`` and one column for each number of shots (0 is zero-shot), value or part.
    body : list of list of str
        One row for each series, as long as the head.
    """
    head = ["method", *map(column_label, panel.columns)]
    body = [[line.label, *(cell(line.points.get(c), metric) for c in panel.columns)] for line in panel.series]
    return head, body


def caption(panel: Panel, metric: str = "acc1", layout: Layout = SHOTS) -> str:
    """Say in one line what the numbers of a panel are.

    Examples
    --------
    >>> caption(Panel("digits", "cafe:mini", [], []))
    'digits, cafe:mini. Top-1 accuracy in per cent by shots (training images per class), 1 seed'
    """
    spread = f"mean ± standard deviation over {panel.seeds} seeds" if panel.seeds > 1 else "1 seed"
    what = METRIC_NAMES.get(metric, metric) + ("" if metric in PLAIN_METRICS else " in per cent")
    return f"{panel.dataset}, {panel.encoder}. {what} by {layout.axis_label}, {spread}"


def notes_of(shown: Sequence[Panel], layout: Layout = SHOTS) -> list[str]:
    """Explain the marks that occur."""
    level = [level_note(shown, layout)] if any(panel.is_tested for panel in shown) else []
    return level + ([ORACLE_NOTE] if any(panel.has_oracle for panel in shown) else [])
