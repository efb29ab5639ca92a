"""A panel of dots: one row for each series, one colour for each column, error bars over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cafe.report.dressing import dress, factor, metric_label
from cafe.report.layout import Layout
from cafe.report.panels import Column, Panel, column_label
from cafe.report.themes import MARKERS, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _ROW_HEIGHT, _FRAME = 6.4, 0.34, 1.7  # inches
_LABEL_WIDTH = 0.085  # inches for each letter of a series' name
_DODGE = 0.13  # of a row, between the dots of neighbouring columns


def panel_size(drawn: Sequence[Panel]) -> tuple[float, float]:
    """Return width and height of a panel in inches; names stand to the left of the rows."""
    longest = max((len(line.label) for panel in drawn for line in panel.series), default=0)
    rows = max((len(panel.series) for panel in drawn), default=0)
    return _WIDTH + _LABEL_WIDTH * longest, max(3.0, _FRAME + _ROW_HEIGHT * rows)


def styles(drawn: Sequence[Panel]) -> dict[str, int]:
    """Number the columns: one colour for a column in every panel."""
    columns: list[Column] = [*sorted({c for panel in drawn for c in panel.columns if not isinstance(c, str) and c > 0})]
    words = dict.fromkeys(c for panel in drawn for c in panel.columns if isinstance(c, str))
    return {column_label(column): i for i, column in enumerate([*words, *columns])}


def draw_panel(axes: Axes, panel: Panel, metric: str, layout: Layout, theme: Theme, styles: Mapping[str, int]) -> None:
    """Draw one panel; a method that needs no training is a line down through all rows where columns are shots."""
    for row, line in enumerate(panel.series):
        if line.is_level:
            level = factor(metric) * next(iter(line.points.values())).mean
            axes.axvline(level, color=theme.muted, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1.5)
            axes.plot([level], [row], marker="|", markersize=11, color=theme.muted, zorder=3)
            continue
        for column, point in line.points.items():
            number = styles[column_label(column)]
            beside = min(_DODGE, 0.6 / len(styles)) * (number - (len(styles) - 1) / 2)
            axes.errorbar(
                [factor(metric) * point.mean], [row + beside],
                xerr=[factor(metric) * point.std] if point.std else None,
                color=theme.lines[number % len(theme.lines)], marker=MARKERS[number % len(MARKERS)], linestyle="none",
                markersize=6.5, elinewidth=1.3, capsize=2, markeredgecolor=theme.paper, markeredgewidth=0.8, zorder=3,
            )  # fmt: skip
    _dress(axes, panel, metric, theme)
    _legend(axes, layout, theme, styles)


def _dress(axes: Axes, panel: Panel, metric: str, theme: Theme) -> None:
    dress(axes, panel, theme, grid_axis="x")
    axes.set_yticks(range(len(panel.series)), [line.label for line in panel.series])
    for tick in axes.get_yticklabels():
        tick.set_color(theme.ink)
    axes.set_ylim(len(panel.series) - 0.5, -0.5)  # the first series stands on top
    axes.margins(x=0.06)
    for row in range(1, len(panel.series)):
        axes.axhline(row - 0.5, color=theme.grid, linewidth=0.6, zorder=0.5)
    axes.set_xlabel(metric_label(metric), fontsize=10, color=theme.muted, labelpad=7)


def _legend(axes: Axes, layout: Layout, theme: Theme, styles: Mapping[str, int]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=theme.lines[i % len(theme.lines)], marker=MARKERS[i % len(MARKERS)], linestyle="none")
        for i in styles.values()
    ]
    title = layout.axis_label.partition(" (")[0]
    legend = axes.legend(
        handles, list(styles), title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=10,
        labelcolor=theme.ink, handletextpad=0.3, borderaxespad=0.2,
    )  # fmt: skip
    legend.get_title().set_color(theme.muted)
    legend.get_title().set_fontsize(10)
