"""The figure of a comparison: one panel for each data set, encoder and metric, of lines along an axis or rows of dots.

It is made without pyplot, display or global settings, so that drawing it changes nothing for the caller.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import TYPE_CHECKING, Any

from cafe.report.comparison import BY_SHOTS, ReportLayout
from cafe.report.panels import (
    ALL_SHOTS,
    ORACLE_NOTE,
    Column,
    Line,
    Panel,
    column_label,
    factor,
    in_order,
    is_percent,
    metric_name,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONTS = ["Inter", "Source Sans 3", "Helvetica Neue", "Arial", "DejaVu Sans"]
_LETTER_WIDTH = 0.085  # inches for each letter of a label beside a panel

# Colours of lines can be told apart with the common kinds of colour blindness, and carry different markers besides.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")


@dataclass(frozen=True)
class Theme:
    """Colours as hexadecimal RGB, for light or for dark paper.

    Attributes
    ----------
    paper, ink, muted, axis, grid : str
        Background, title, secondary text, base line, grid.
    lines : tuple of str
        In the order in which lines get them.
    """

    paper: str
    ink: str
    muted: str
    axis: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1f24",
    muted="#5c6670",
    axis="#9aa4ae",
    grid="#e8ebee",
    lines=("#0b62a4", "#d1570a", "#00876c", "#a8488f", "#8a6d00", "#3f9bd8", "#b3293a", "#55606b"),
)

DARK = Theme(
    paper="#15191e",
    ink="#eef1f4",
    muted="#a3adb8",
    axis="#5c6670",
    grid="#272d34",
    lines=("#5aaef0", "#ff9a4d", "#3fd0ac", "#e08cc8", "#dcc04a", "#9fd4ff", "#ff7f8a", "#c3ccd6"),
)


def draw(
    summary: Sequence[Mapping[str, Any]],
    metric: str | None = None,
    *,
    layout: ReportLayout = BY_SHOTS,
    theme: Theme = LIGHT,
    file_format: str = "png",
    dpi: int = 200,
) -> bytes:
    """Draw a summary: one panel for each data set, encoder and metric.

    Parameters
    ----------
    summary : sequence of mapping
        As ``Comparison.summary`` has it.
    metric : str, default=None
        Which metric to draw; None for those of the layout.
    layout : ReportLayout
        What the axis is, and whether lines or dots are drawn.
    theme : Theme, default LIGHT
        Colours.
    file_format : {"png", "svg", "pdf"}, default "png"
        What to return.
    dpi : int, default 200
        Dots per inch of a PNG.

    Returns
    -------
    bytes
        The file. Nothing global is touched: no pyplot, no display, no settings.
    """
    import matplotlib as mpl

    # The context holds for this call only; a user's own style sheet must not change the figure of a report.
    with mpl.rc_context({**mpl.rcParamsDefault, "font.family": _available_fonts(), "svg.hashsalt": "cafe"}):
        figure = make_figure(summary, metric, layout, theme)
        buffer = io.BytesIO()
        metadata = {"Date": None} if file_format == "svg" else None
        figure.savefig(buffer, format=file_format, dpi=dpi, facecolor=theme.paper, metadata=metadata)
    return buffer.getvalue()


def _available_fonts() -> list[str]:
    """Return those of the fonts of the figure that are installed, else the generic one."""
    from matplotlib import font_manager

    # A family that is not installed would put a warning on the user's screen for every text drawn.
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in installed] or ["sans-serif"]


def make_figure(summary: Sequence[Mapping[str, Any]], metric: str | None, layout: ReportLayout, theme: Theme) -> Figure:
    """Return the figure as matplotlib has it, before it is written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn = _panels_and_metrics(summary, layout.metrics if metric is None else (metric,), layout)
    plot = (_DotPlot if layout.figure == "dots" else _LinePlot)([panel for panel, _ in drawn], layout, theme)
    columns = min(len(drawn), 3) or 1
    rows = ceil(len(drawn) / columns) or 1
    width, height = plot.panel_size()
    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(columns * width, rows * height), layout=engine)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (panel, name) in zip(grid, drawn, strict=False):
        plot.draw(axes, panel, name)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    if any(panel.has_oracle for panel, _ in drawn):
        figure.supxlabel(ORACLE_NOTE, fontsize=8, color=theme.muted, x=0.01, ha="left")
    return figure


def _panels_and_metrics(
    summary: Sequence[Mapping[str, Any]], metrics: Sequence[str], layout: ReportLayout
) -> list[tuple[Panel, str]]:
    """Return every panel of the figure with its metric, data set by data set."""
    by_metric = [panels(summary, name, layout) for name in metrics]
    return [(panel, name) for row in zip(*by_metric, strict=True) for panel, name in zip(row, metrics, strict=True)]


def metric_label(metric: str) -> str:
    """Name a metric and its unit.

    Examples
    --------
    >>> metric_label("acc1"), metric_label("silhouette")
    ('Top-1 accuracy (%)', 'Silhouette')
    """
    return metric_name(metric) + (" (%)" if is_percent(metric) else "")


class _Plot(ABC):
    """Draws one kind of panel.

    Parameters
    ----------
    drawn : sequence of Panel
        All panels of the figure: a colour means the same in every one.
    layout : ReportLayout
        What the axis is.
    theme : Theme
        Colours.
    """

    def __init__(self, drawn: Sequence[Panel], layout: ReportLayout, theme: Theme) -> None:
        self.drawn, self.layout, self.theme = drawn, layout, theme
        self.styles = {label: number for number, label in enumerate(self.styled())}

    @abstractmethod
    def styled(self) -> list[str]:
        """Return the labels that have a colour and a marker of their own."""

    @abstractmethod
    def panel_size(self) -> tuple[float, float]:
        """Return width and height of a panel in inches, with the labels beside it."""

    @abstractmethod
    def draw(self, axes: Axes, panel: Panel, metric: str) -> None:
        """Draw one panel."""

    @property
    def longest_label(self) -> int:
        """Letters of the longest label of a line."""
        return max((len(self.shown_label(line)) for panel in self.drawn for line in panel.lines), default=0)

    def shown_label(self, line: Line) -> str:
        """Return a line's label as it is written: one that does not depend on the shots along the axis says so."""
        return f"{line.label} (no shots)" if line.is_constant and self.layout.axis == "shots" else line.label

    def colour_and_marker(self, number: int) -> tuple[str, str]:
        """Return the style of a number; more than there are colours start again with the first."""
        return self.theme.lines[number % len(self.theme.lines)], MARKERS[number % len(MARKERS)]

    def set_titles_and_grid(self, axes: Axes, panel: Panel, grid_axis: str) -> None:
        """Set title, subtitle, grid, ticks and spines.

        Parameters
        ----------
        axes : Axes
            Axes of one panel.
        panel : Panel
            What it shows.
        grid_axis : {"x", "y"}
            The axis with grid lines: that of the metric.
        """
        theme = self.theme
        axes.set_title(panel.dataset, fontsize=14, fontweight="bold", color=theme.ink, loc="left", pad=24)
        axes.text(
            0, 1.025, f"{_shortened(panel.encoder)}  ·  {panel.over_seeds}", transform=axes.transAxes, fontsize=9.5,
            color=theme.muted, va="bottom", gid="subtitle",
        )  # fmt: skip
        axes.set_facecolor(theme.paper)
        axes.grid(axis="x" if grid_axis == "x" else "y", color=theme.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.muted, labelsize=10, length=0, pad=6)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(theme.axis)


def _shortened(encoder: str, limit: int = 44) -> str:
    """Keep the end of a long encoder name, which is usually a folder."""
    return encoder if len(encoder) <= limit else "…" + encoder[-(limit - 1) :]


class _LinePlot(_Plot):
    """A metric against shots or a parameter, one line for each method, error bars over seeds, labels at the ends."""

    width, height = 6.0, 4.2  # inches
    shift = 0.035  # steps of the axis between neighbouring lines
    least_range = 1.0  # per cent; smaller differences are not blown up to fill the panel

    def styled(self) -> list[str]:
        """Return all labels: one colour for a label in every panel, so that the eye can go from one to the next."""
        labels = dict.fromkeys(line.label for panel in self.drawn for line in panel.lines if not line.is_constant)
        return list(labels)

    def panel_size(self) -> tuple[float, float]:
        """Return width and height in inches; labels are to the right of the lines."""
        return self.width + _LETTER_WIDTH * self.longest_label, self.height

    def draw(self, axes: Axes, panel: Panel, metric: str) -> None:
        """Draw one panel; a method that needs no training is a dashed line across."""
        positions = self._positions(panel.columns)
        ends: list[tuple[str, float, str]] = []  # label, height and colour
        for line in panel.lines:
            if line.is_constant:
                height = factor(metric) * next(iter(line.points.values())).mean
                axes.axhline(height, color=self.theme.muted, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1.5)
                ends.append((self.shown_label(line), height, self.theme.muted))
            elif line.points:
                number, lines = self.styles[line.label], len(self.styles)
                # Lines are a little beside each other, so that the error bars of close methods can all be read.
                beside = min(self.shift, 0.3 / lines) * (number - (lines - 1) / 2) * _smallest_distance(positions)
                moved = {column: x + beside for column, x in positions.items()}
                ends.append((line.label, *self._draw_line(axes, line, moved, metric)))
        self._set_axes(axes, panel, metric, positions)
        _label_ends(axes, ends)

    def _draw_line(self, axes: Axes, line: Line, positions: Mapping[Column, float], metric: str) -> tuple[float, str]:
        """Draw one line, and return the height at which it ends and its colour."""
        colour, marker = self.colour_and_marker(self.styles[line.label])
        columns = sorted((column for column in line.points if column in positions), key=lambda c: positions[c])
        x = [positions[column] for column in columns]
        y = [factor(metric) * line.points[column].mean for column in columns]
        spreads = [factor(metric) * (line.points[column].std or 0.0) for column in columns]
        axes.errorbar(
            x, y, yerr=spreads if any(spreads) else None, color=colour, ecolor=colour, elinewidth=1.3, capsize=2.5,
            capthick=1.3, linewidth=2.0, linestyle=(0, (1.5, 1.5)) if line.oracle else "-", marker=marker,
            markersize=6.5, markeredgecolor=self.theme.paper, markeredgewidth=1.0, zorder=3, clip_on=False,
        )  # fmt: skip
        return y[-1], colour

    def _positions(self, columns: Sequence[Column]) -> dict[Column, float]:
        """Return the place of each column on the axis; all training images come one step after the most shots.

        Zero-shot has no place on an axis of shots, since it is a line across the panel.
        """
        numbers = [column for column in columns if not isinstance(column, str) and column < ALL_SHOTS]
        if self.layout.axis != "x":
            numbers = [shots for shots in numbers if shots > 0]
        placed: dict[Column, float] = {n: log2(n) if self.layout.scale == "log2" else n for n in numbers}
        if ALL_SHOTS in columns:
            placed[ALL_SHOTS] = max(placed.values(), default=-1.0) + 1
        return placed

    def _set_axes(self, axes: Axes, panel: Panel, metric: str, positions: Mapping[Column, float]) -> None:
        """Set ticks, limits and labels of the axes of one panel."""
        self.set_titles_and_grid(axes, panel, grid_axis="y")
        axes.set_xticks(list(positions.values()), [column_label(column) for column in positions])
        left, right = (min(positions.values()), max(positions.values())) if positions else (0.0, 1.0)
        margin = 0.06 * (right - left) or 0.5
        axes.set_xlim(left - margin, right + margin / 2)
        axes.set_xlabel(self.layout.axis_label, fontsize=10, color=self.theme.muted, labelpad=7)
        axes.set_ylabel(metric_label(metric), fontsize=10, color=self.theme.muted, labelpad=7)
        axes.margins(y=0.08)
        low, high = axes.get_ylim()
        if is_percent(metric) and high - low < self.least_range:
            axes.set_ylim((low + high - self.least_range) / 2, (low + high + self.least_range) / 2)


def _smallest_distance(positions: Mapping[Column, float]) -> float:
    """Return the smallest distance of two columns, 1 where there is only one."""
    places = sorted(positions.values())
    return min((b - a for a, b in zip(places, places[1:], strict=False)), default=1.0)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each label at the right end of its line, pushed apart where lines end close together."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = (high - low) * 0.062
    heights = keep_apart([height for _, height, _ in ends], gap, low, high)
    beside = axes.get_yaxis_transform()  # x as a fraction of the axes, y in the metric's unit
    for (label, height, colour), placed in zip(ends, heights, strict=True):
        # A thin leader ties a label that had to move to its own line.
        axes.plot([1.008, 1.032], [height, placed], transform=beside, clip_on=False, color=colour, linewidth=0.9)
        axes.text(1.042, placed, label, transform=beside, fontsize=10, color=colour, va="center_baseline")


def keep_apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move heights apart as little as possible, in the order that they have.

    This is isotonic regression on ``heights[k] - k * gap``, by its formula of maxima and minima of means (Barlow et al.
    1972, Statistical Inference under Order Restrictions), which is enough for a few dozen labels.

    Parameters
    ----------
    heights : sequence of float
        Height that each label would have alone.
    gap : float
        Least distance between two labels.
    low, high : float
        Labels stay between these, as far as there is room for all.

    Returns
    -------
    list of float
        Height of each label, in the order of ``heights``.

    Examples
    --------
    >>> keep_apart([10.0, 50.0, 50.0], 4.0, 0.0, 100.0)
    [10.0, 48.0, 52.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    n, targets = len(order), [heights[i] - gap * k for k, i in enumerate(order)]
    means = {(i, j): sum(targets[i : j + 1]) / (j + 1 - i) for i in range(n) for j in range(i, n)}
    placed = [0.0] * n
    for k, i in enumerate(order):
        placed[i] = gap * k + max(min(means[first, last] for last in range(k, n)) for first in range(k + 1))
    return _between(placed, order, gap, low, high)


def _between(placed: list[float], order: Sequence[int], gap: float, low: float, high: float) -> list[float]:
    """Push labels above the upper end down, then those below the lower end up."""
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    floor = low
    for i in order:
        placed[i] = max(placed[i], floor)
        floor = placed[i] + gap
    return placed


class _DotPlot(_Plot):
    """One row for each line, one colour for each column, error bars over seeds, names to the left."""

    width, row_height, frame = 6.4, 0.34, 1.7  # inches
    shift = 0.13  # of a row, between the dots of neighbouring columns

    def styled(self) -> list[str]:
        """Return the columns: one colour for a column in every panel."""
        columns = in_order(column for panel in self.drawn for column in panel.columns)
        return [column_label(column) for column in columns if isinstance(column, str) or column > 0]

    def panel_size(self) -> tuple[float, float]:
        """Return width and height in inches; names are to the left of the rows."""
        rows = max((len(panel.lines) for panel in self.drawn), default=0)
        return self.width + _LETTER_WIDTH * self.longest_label, max(3.0, self.frame + self.row_height * rows)

    def draw(self, axes: Axes, panel: Panel, metric: str) -> None:
        """Draw one panel; a method that needs no training is a line down through all rows where columns are shots."""
        for row, line in enumerate(panel.lines):
            if line.is_constant:
                place = factor(metric) * next(iter(line.points.values())).mean
                axes.axvline(place, color=self.theme.muted, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1.5)
                axes.plot([place], [row], marker="|", markersize=11, color=self.theme.muted, zorder=3)
            else:
                self._draw_dots(axes, line, row, metric)
        self._set_axes(axes, panel, metric)
        self._add_legend(axes)

    def _draw_dots(self, axes: Axes, line: Line, row: int, metric: str) -> None:
        """Draw the dots of one line in its row, those of different columns a little apart."""
        columns = len(self.styles)
        for column, point in line.points.items():
            number = self.styles[column_label(column)]
            colour, marker = self.colour_and_marker(number)
            beside = min(self.shift, 0.6 / columns) * (number - (columns - 1) / 2)
            axes.errorbar(
                [factor(metric) * point.mean], [row + beside], xerr=[factor(metric) * point.std] if point.std else None,
                color=colour, marker=marker, linestyle="none", markersize=6.5, elinewidth=1.3, capsize=2,
                markeredgecolor=self.theme.paper, markeredgewidth=0.8, zorder=3,
            )  # fmt: skip

    def _set_axes(self, axes: Axes, panel: Panel, metric: str) -> None:
        """Set ticks, limits and labels of the axes of one panel."""
        self.set_titles_and_grid(axes, panel, grid_axis="x")
        axes.set_yticks(range(len(panel.lines)), [self.shown_label(line) for line in panel.lines])
        for tick in axes.get_yticklabels():
            tick.set_color(self.theme.ink)
        axes.set_ylim(len(panel.lines) - 0.5, -0.5)  # the first line is on top
        axes.margins(x=0.06)
        for row in range(1, len(panel.lines)):
            axes.axhline(row - 0.5, color=self.theme.grid, linewidth=0.6, zorder=0.5)
        axes.set_xlabel(metric_label(metric), fontsize=10, color=self.theme.muted, labelpad=7)

    def _add_legend(self, axes: Axes) -> None:
        """Write the columns and their markers beside the panel."""
        from matplotlib.lines import Line2D

        styles = [self.colour_and_marker(number) for number in self.styles.values()]
        handles = [Line2D([], [], color=colour, marker=marker, linestyle="none") for colour, marker in styles]
        legend = axes.legend(
            handles, list(self.styles), title=self.layout.axis_label.partition(" (")[0], loc="center left",
            bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10, labelcolor=self.theme.ink, handletextpad=0.3,
            borderaxespad=0.2,
        )  # fmt: skip
        legend.get_title().set_color(self.theme.muted)
        legend.get_title().set_fontsize(10)
