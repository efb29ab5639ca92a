"""Sorts the summary of a comparison into panels: one for each data set and encoder, one line for each series.

Tables, figure and page are all made from these panels, so that they agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cafe.report.comparison import BY_SHOTS, ReportLayout

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
_NOT_PERCENT = ("nll", "silhouette", "scatter_ratio")

ORACLE_MARK = "†"
ORACLE_NOTE = f"{ORACLE_MARK} settings chosen on the test set (oracle-test): an upper bound, not a result."
BEST_MARK = "°"
# Explains a value in brackets: it is shown in a column of shots that its method does not use.
CONSTANT_NOTE = "( ) uses no shots: the same in every column, and compared with the others there."
_TEST = "(paired test over test images and seeds, Holm-corrected p ≥ 0.05)."

# A fit on all training images has no number of shots; its column comes after every number.
ALL_SHOTS = math.inf
# Where a parameter is varied, a method without it has a column of its own.
WITHOUT = "none"
Column = float | str


def metric_name(metric: str) -> str:
    """Return the name of a metric for people, which is its field's name where it has no other."""
    return METRIC_NAMES.get(metric, metric)


def is_percent(metric: str) -> bool:
    """Whether a metric is shown in per cent."""
    return metric not in _NOT_PERCENT


def factor(metric: str) -> int:
    """Return the factor that a metric is shown with: 100 for per cent, else 1."""
    return 100 if is_percent(metric) else 1


@dataclass(frozen=True)
class MeanStd:
    """Mean and standard deviation of one metric over seeds.

    Attributes
    ----------
    mean : float
        0 to 1 (accuracies).
    std : float or None
        Over seeds; None where there is only one.
    n : int
        Number of seeds.
    is_best : bool, default=False
        Whether it is the best of those measured with the same number of shots on the same part of the test, or not
        distinguishable from it; see :func:`best_note` for their place in the table.
    """

    mean: float
    std: float | None
    n: int
    is_best: bool = False


@dataclass(frozen=True)
class Line:
    """One series of a suite with one setting, at every column that was run: a line of the figure, a row of the table.

    Attributes
    ----------
    label : str
        Name of the line in tables and figures; where anything was chosen on the test set, it ends in a mark.
    oracle : bool
        Whether anything was chosen on the test set.
    chosen_on : dict of column to str
        What was used to choose, column by column.
    standings : dict of column to bool
        For a line that does not depend on shots: whether it is the best, or level with it, in each column.
    points : dict of column to MeanStd
        By shots (0 for zero-shot, ``ALL_SHOTS`` for all training images), value of the parameter, or part of the test.
        A run that is missing has no point.
    """

    label: str
    oracle: bool
    points: dict[Column, MeanStd] = field(default_factory=dict)
    chosen_on: dict[Column, str] = field(default_factory=dict)
    standings: dict[Column, bool] = field(default_factory=dict)

    @property
    def is_constant(self) -> bool:
        """Whether the line's value does not depend on the axis, so that it is drawn straight across the panel."""
        return bool(self.points) and set(self.points) <= {0.0, WITHOUT}

    @property
    def chosen_on_text(self) -> str:
        """What was used to choose: a single phrase where all columns agree, else column by column.

        Examples
        --------
        >>> Line("gda", False, {}, {1.0: "nothing", 4.0: "validation", 16.0: "validation"}).chosen_on_text
        'nothing (1), validation (4, 16)'
        """
        columns: dict[str, list[Column]] = {}
        for column, chosen_on in self.chosen_on.items():
            columns.setdefault(chosen_on, []).append(column)
        if len(columns) < 2:
            return next(iter(columns), "")
        return ", ".join(f"{name} ({', '.join(map(column_label, own))})" for name, own in columns.items())


@dataclass(frozen=True)
class Panel:
    """Everything that was measured on one data set with one encoder.

    Attributes
    ----------
    dataset, encoder : str
        Their names, as in the rows.
    lines : list of Line
        Those that need no training first, then in the order of the summary.
    columns : list of float or str
        Every column that occurs: text in the order of the summary, then numbers ascending.
    several_shots : bool, default=False
        Whether methods were trained with more than one number of shots.
    """

    dataset: str
    encoder: str
    lines: list[Line]
    columns: list[Column]
    several_shots: bool = False

    @property
    def seeds(self) -> int:
        """Largest number of seeds behind a point; 1 if there is none."""
        return max((point.n for line in self.lines for point in line.points.values()), default=1)

    @property
    def over_seeds(self) -> str:
        """What the numbers are, for captions."""
        return f"mean ± standard deviation over {self.seeds} seeds" if self.seeds > 1 else "1 seed"

    @property
    def has_oracle(self) -> bool:
        """Whether the parameters of any line were chosen on the test set."""
        return any(line.oracle for line in self.lines)

    @property
    def is_tested(self) -> bool:
        """Whether a paired test has marked any point as the best, or as level with the best."""
        lines = self.lines
        return any(point.is_best for line in lines for point in line.points.values()) or any(
            is_best for line in lines for is_best in line.standings.values()
        )


def panels(summary: Sequence[Mapping[str, Any]], metric: str = "acc1", layout: ReportLayout = BY_SHOTS) -> list[Panel]:
    """Group the summary of a comparison.

    Parameters
    ----------
    summary : sequence of mapping
        Each with dataset, encoder, series, shots (None for all), n, oracle, chosen_on, and ``<metric>_mean`` and
        ``<metric>_std`` (None where it could not be computed); x and part where the layout needs them.
    metric : str, default "acc1"
        Which metric to take.
    layout : ReportLayout
        What makes the columns.

    Returns
    -------
    list of Panel
        In the order of first appearance.

    Examples
    --------
    >>> entry = {"dataset": "digits", "encoder": "cafe:mini", "series": "clip-adapter", "shots": 4, "n": 3}
    >>> panel, = panels([{**entry, "oracle": False, "acc1_mean": 0.75, "acc1_std": 0.01}])
    >>> panel.columns, panel.lines[0].points[4.0]
    ([4.0], MeanStd(mean=0.75, std=0.01, n=3, is_best=False))
    """
    grouped: dict[tuple[str, str], dict[tuple[str, bool], Line]] = {}
    several = {key: len(shots) > 1 for key, shots in _trained_shots(summary).items()}
    for entry in summary:
        key = (str(entry["dataset"]), str(entry["encoder"]))
        lines = grouped.setdefault(key, {})
        oracle = bool(entry.get("oracle"))
        label = _label(entry, layout, several.get(key, False)) + (f" {ORACLE_MARK}" if oracle else "")
        line = lines.setdefault((label, oracle), Line(label, oracle))
        point, column = _point(entry, metric), _column(entry, layout)
        if point is not None:
            line.points[column] = point
            line.chosen_on[column] = str(entry.get("chosen_on") or "")
            if column == 0 and layout.axis == "shots":
                line.standings.update(_standings(entry, metric))
    return [_panel(*key, list(lines.values()), several.get(key, False)) for key, lines in grouped.items()]


def _trained_shots(summary: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], set[Any]]:
    """Return the numbers of shots that methods were trained with, by data set and encoder."""
    shots: dict[tuple[str, str], set[Any]] = {}
    for entry in summary:
        if entry["shots"] != 0:
            shots.setdefault((str(entry["dataset"]), str(entry["encoder"])), set()).add(entry["shots"])
    return shots


def _label(entry: Mapping[str, Any], layout: ReportLayout, several: bool) -> str:
    """Return the label of a line; it names the shots where there are ``several`` and columns are something else."""
    if layout.axis == "shots" or not several or entry["shots"] == 0:
        return str(entry["series"])
    return f"{entry['series']}, " + ("all images" if entry["shots"] is None else f"{entry['shots']}-shot")


def _column(entry: Mapping[str, Any], layout: ReportLayout) -> Column:
    """Return the column of a summary row, as the layout has it."""
    if layout.axis == "shots":
        return ALL_SHOTS if entry["shots"] is None else float(entry["shots"])
    if layout.axis == "x":
        return WITHOUT if entry["x"] is None else float(entry["x"])
    return str(entry[layout.axis])


def _point(entry: Mapping[str, Any], metric: str) -> MeanStd | None:
    """Return a metric of a summary row, None where it was not measured."""
    mean, std = entry.get(f"{metric}_mean"), entry.get(f"{metric}_std")
    if mean is None or not math.isfinite(mean):
        return None
    known = entry["n"] > 1 and std is not None and math.isfinite(std)
    is_best = metric == "acc1" and entry.get("standing") in ("best", "level")
    return MeanStd(float(mean), float(std) if known and std is not None else None, int(entry["n"]), is_best)


def _standings(entry: Mapping[str, Any], metric: str) -> dict[Column, bool]:
    """Return in which columns of shots a method without shots is the best, or level with it."""
    by_shots = (entry.get("standing_by_shots") or ()) if metric == "acc1" else ()
    return {ALL_SHOTS if k is None else float(k): standing in ("best", "level") for k, standing in by_shots}


def _panel(dataset: str, encoder: str, lines: list[Line], several_shots: bool) -> Panel:
    """Make a panel of its lines, with the columns that occur."""
    # A stable sort: lines that need no training come first, the rest stay as the suite has them.
    lines = sorted(lines, key=lambda line: not line.is_constant)
    columns = in_order(column for line in lines for column in line.points)
    return Panel(dataset, encoder, lines, columns, several_shots)


def in_order(columns: Iterable[Column]) -> list[Column]:
    """Return the different columns: text in the order of first appearance, then numbers ascending.

    Examples
    --------
    >>> in_order(["new", 4.0, 1.0, "base", "new"])
    ['new', 'base', 1.0, 4.0]
    """
    different = dict.fromkeys(columns)
    texts = [column for column in different if isinstance(column, str)]
    return [*texts, *sorted(column for column in different if not isinstance(column, str))]


def column_label(column: Column) -> str:
    """Write a column as the head of a table's column, or below a tick of an axis.

    Examples
    --------
    >>> column_label(16.0), column_label(0.2), column_label(ALL_SHOTS), column_label("new")
    ('16', '0.2', 'all', 'new')
    """
    if isinstance(column, str):
        return column
    return "all" if column == ALL_SHOTS else f"{column:g}"


def best_note(shown: Sequence[Panel], layout: ReportLayout) -> str:
    """Return the note on the mark of the best value: what it was compared with depends on the columns.

    Fits are compared with those of the same number of shots on the same part of the test. Those are a column only where
    columns are shots, or parts of the test after one number of shots. Where columns are values of a parameter, they are
    all values of all lines with that number of shots, and zero-shot, which takes part without being marked.

    Examples
    --------
    >>> best_note([], ReportLayout(axis="x"))[:67]
    '° best of all values with the same number of shots, or not distingu'
    """
    several = any(panel.several_shots for panel in shown)
    if layout.axis == "x":
        constant = any(line.is_constant for panel in shown for line in panel.lines)
        among = "all values with the same number of shots" + (" and zero-shot, which is not marked" if constant else "")
    elif several and (layout.axis == "part" or layout.table == "datasets"):
        among = "its column with the same number of shots"
    else:
        among = "its column"
    return f"{BEST_MARK} best of {among}, or not distinguishable from it {_TEST}"
