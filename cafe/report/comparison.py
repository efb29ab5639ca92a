"""The results of a suite and their layout: the record that tables, figure and page are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ReportLayout:
    """The columns of a comparison's tables and the axis of its figures.

    Attributes
    ----------
    axis : {"shots", "x", "part"}, default "shots"
        Which field of the rows makes the columns: shots, the value of the parameter that is varied, or the part of
        the test (base and new classes, another data set).
    axis_label : str
        Of the horizontal axis.
    scale : {"log2", "linear"}, default "log2"
        Of the horizontal axis where it has numbers.
    figure : {"lines", "dots"}, default "lines"
        Lines along the axis, or one row of dots for each series.
    metrics : tuple of str, default ("acc1",)
        The metrics of the first tables; the figure has one row of panels for each.
    beside : tuple of str, default ("mean_per_class_recall",)
        Further metrics, with tables of their own where they differ from accuracy: balanced accuracy is equal to it
        where all classes have as many test images.
    table : {"columns", "datasets"}, default "columns"
        ``"datasets"`` puts data sets across, as papers do, with a column for their average.
    """

    axis: str = "shots"
    axis_label: str = "shots (training images per class)"
    scale: str = "log2"
    figure: str = "lines"
    metrics: tuple[str, ...] = ("acc1",)
    beside: tuple[str, ...] = ("mean_per_class_recall",)
    table: str = "columns"


BY_SHOTS = ReportLayout()


@dataclass(frozen=True)
class Comparison:
    """The results of a suite.

    Attributes
    ----------
    suite, title : str
        Its name, and the title of tables and figures.
    rows : list of dict
        One per fit and part of the test; see :func:`cafe.fitting.make_row`, plus ``series``, ``x``, ``part``, ``note``.
    summary : list of dict
        One per data set, series and column: mean, standard deviation, 95 % interval and n over seeds, and its standing
        against the best of its column.
    pairs : list of dict
        Paired tests of every two series of a column; see :mod:`cafe.protocol.paired`.
    published : list of dict
        Published figures beside those measured here, where there are any for the same data set, method and shots.
    notes : list of str
        What was left out, and why.
    layout : ReportLayout
        How tables and figure show it.
    seconds : list of dict
        The time of each grid of a series: ``dataset``, ``series``, ``seconds`` in all, and of these ``fit_seconds``.
    """

    suite: str
    title: str
    rows: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    pairs: list[dict[str, Any]] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    layout: ReportLayout = BY_SHOTS
    seconds: list[dict[str, Any]] = field(default_factory=list)

    def time_summary(self, most: int = 5) -> str:
        """Say which series took most of the time.

        Examples
        --------
        >>> spent = {"dataset": "digits", "fit_seconds": 0.5}
        >>> seconds = [{"series": name, "seconds": s, **spent} for name, s in (("gda", 1.0), ("coop", 9.0))]
        >>> Comparison("methods", "Methods", [], [], seconds=seconds).time_summary()
        'time: 10.0 s in all; coop 9.0 s (90 %), gda 1.0 s (10 %)'
        """
        by_series: dict[str, float] = {}
        for grid in self.seconds:
            by_series[grid["series"]] = by_series.get(grid["series"], 0.0) + grid["seconds"]
        total = sum(by_series.values())
        largest = sorted(by_series.items(), key=lambda pair: -pair[1])[:most]
        shares = ", ".join(f"{name} {seconds:.1f} s ({100 * seconds / total:.0f} %)" for name, seconds in largest)
        return f"time: {total:.1f} s in all; {shares}" if largest else ""
