"""How a suite wants to be shown: what stands across, and what is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """What stands across a table and along a figure.

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
        What is shown first; the figure has one row of panels for each.
    table : {"columns", "datasets"}, default "columns"
        ``"datasets"`` puts data sets across, as papers do, with a column for their average.
    """

    axis: str = "shots"
    axis_label: str = "shots (training images per class)"
    scale: str = "log2"
    figure: str = "lines"
    metrics: tuple[str, ...] = ("acc1",)
    table: str = "columns"


SHOTS = Layout()
