"""A panel of lines: a metric against shots or a parameter, one line for each method, error bars over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from typing import TYPE_CHECKING

from cafe.report.dressing import dress, factor, metric_label
from cafe.report.labels import spread
from cafe.report.layout import Layout
from cafe.report.panels import ALL_SHOTS, Column, Panel, Series, column_label
from cafe.report.themes import MARKERS, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_WIDTH, _PANEL_HEIGHT = 6.0, 4.2  # inches
_LABEL_WIDTH = 0.085  # inches for each letter of a label beside its line
_DODGE = 0.035  # steps of the axis between neighbouring lines
_LEAST_RANGE = 1.0  # per cent; smaller differences are not blown up to fill the panel


def panel_size(drawn: Sequence[Panel]) -> tuple[float, float]:
    """Return width and height of a panel in inches; labels stand beside the lines."""
    longest = max((len(line.label) for panel in drawn for line in panel.series), default=0)
    return _PANEL_WIDTH + _LABEL_WIDTH * longest, _PANEL_HEIGHT


def styles(drawn: Sequence[Panel]) -> dict[str, int]:
    """Number the lines: one colour for a label in every panel, so that the eye can go from one to the next."""
    labels = dict.fromkeys(line.label for panel in drawn for line in panel.series if not line.is_level)
    return {label: i for i, label in enumerate(labels)}


def draw_panel(axes: Axes, panel: Panel, metric: str, layout: Layout, theme: Theme, styles: Mapping[str, int]) -> None:
    """Draw one panel."""
    positions = _positions(panel.columns, layout)
    ends: list[tuple[str, float, str]] = []
    for line in panel.series:
        if line.is_level:
            level = factor(metric) * next(iter(line.points.values())).mean
            axes.axhline(level, color=theme.muted, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1.5)
            ends.append((line.label, level, theme.muted))
        elif line.points:
            colour = theme.lines[styles[line.label] % len(theme.lines)]
            # Lines stand a little beside each other, so that the error bars of close methods can all be read.
            beside = min(_DODGE, 0.3 / len(styles)) * (styles[line.label] - (len(styles) - 1) / 2) * _step(positions)
            moved = {column: x + beside for column, x in positions.items()}
            last = _draw_line(axes, line, moved, metric, colour, MARKERS[styles[line.label] % len(MARKERS)], theme)
            ends.append((line.label, last, colour))
    _dress(axes, panel, metric, layout, theme, positions)
    _label_ends(axes, ends)


def _draw_line(
    axes: Axes, line: Series, positions: Mapping[Column, float], metric: str, colour: str, marker: str, theme: Theme
) -> float:
    columns = sorted((column for column in line.points if column in positions), key=lambda c: positions[c])
    x = [positions[column] for column in columns]
    y = [factor(metric) * line.points[column].mean for column in columns]
    spreads = [factor(metric) * (line.points[column].std or 0.0) for column in columns]
    axes.errorbar(
        x, y, yerr=spreads if any(spreads) else None, color=colour, ecolor=colour, elinewidth=1.3, capsize=2.5,
        capthick=1.3, linewidth=2.0, linestyle=(0, (1.5, 1.5)) if line.oracle else "-", marker=marker, markersize=6.5,
        markeredgecolor=theme.paper, markeredgewidth=1.0, zorder=3, clip_on=False,
    )  # fmt: skip
    return y[-1]


def _positions(columns: Sequence[Column], layout: Layout) -> dict[Column, float]:
    """Place columns on the axis; all training images stand one step after the largest number of shots."""
    numbers = [c for c in columns if not isinstance(c, str) and c < ALL_SHOTS and (c > 0 or layout.axis == "x")]
    placed: dict[Column, float] = {c: log2(c) if layout.scale == "log2" else c for c in numbers}
    if ALL_SHOTS in columns:
        placed[ALL_SHOTS] = max(placed.values(), default=-1.0) + 1
    return placed


def _step(positions: Mapping[Column, float]) -> float:
    """Return the smallest distance of two columns, 1 where there is only one."""
    places = sorted(positions.values())
    return min((b - a for a, b in zip(places, places[1:], strict=False)), default=1.0)


def _dress(
    axes: Axes, panel: Panel, metric: str, layout: Layout, theme: Theme, positions: Mapping[Column, float]
) -> None:
    dress(axes, panel, theme, grid_axis="y")
    axes.set_xticks(list(positions.values()), [column_label(column) for column in positions])
    left, right = (min(positions.values()), max(positions.values())) if positions else (0.0, 1.0)
    margin = 0.06 * (right - left) or 0.5
    axes.set_xlim(left - margin, right + margin / 2)
    axes.set_xlabel(layout.axis_label, fontsize=10, color=theme.muted, labelpad=7)
    axes.set_ylabel(metric_label(metric), fontsize=10, color=theme.muted, labelpad=7)
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    if factor(metric) == 100 and high - low < _LEAST_RANGE:
        axes.set_ylim((low + high - _LEAST_RANGE) / 2, (low + high + _LEAST_RANGE) / 2)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each label at the right end of its line, pushed apart where lines end close together."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = (high - low) * 0.062
    heights = spread([height for _, height, _ in ends], gap, low, high)
    beside = axes.get_yaxis_transform()  # x as a fraction of the axes, y in the metric's unit
    for (label, height, colour), placed in zip(ends, heights, strict=True):
        # A thin leader ties a label that had to move to its own line.
        axes.plot([1.008, 1.032], [height, placed], transform=beside, clip_on=False, color=colour, linewidth=0.9)
        axes.text(1.042, placed, label, transform=beside, fontsize=10, color=colour, va="center_baseline")
