"""What all panels of a figure wear: title, subtitle, axes without clutter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cafe.report.cells import METRIC_NAMES, PLAIN_METRICS
from cafe.report.panels import Panel
from cafe.report.themes import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def factor(metric: str) -> int:
    """Return what a metric is multiplied by: 100 for those shown in per cent."""
    return 1 if metric in PLAIN_METRICS else 100


def metric_label(metric: str) -> str:
    """Name a metric and its unit.

    Examples
    --------
    >>> metric_label("acc1"), metric_label("silhouette")
    ('Top-1 accuracy (%)', 'Silhouette')
    """
    return METRIC_NAMES.get(metric, metric) + ("" if metric in PLAIN_METRICS else " (%)")


def dress(axes: Axes, panel: Panel, theme: Theme, grid_axis: str) -> None:
    """Set title, subtitle, grid, ticks and spines.

    Parameters
    ----------
    axes : Axes
        Of one panel.
    panel : Panel
        What it shows.
    theme : Theme
        Colours.
    grid_axis : {"x", "y"}
        Whose ticks have grid lines: the axis of the metric.
    """
    seeds = f"mean ± standard deviation over {panel.seeds} seeds" if panel.seeds > 1 else "1 seed"
    axes.set_title(panel.dataset, fontsize=14, fontweight="bold", color=theme.ink, loc="left", pad=24)
    axes.text(
        0, 1.025, f"{_short(panel.encoder)}  ·  {seeds}", transform=axes.transAxes, fontsize=9.5, color=theme.muted,
        va="bottom", gid="subtitle",
    )  # fmt: skip
    axes.set_facecolor(theme.paper)
    axes.grid(axis="x" if grid_axis == "x" else "y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, labelsize=10, length=0, pad=6)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.axis)


def _short(encoder: str, limit: int = 44) -> str:
    """Keep the end of a long encoder name, which is usually a folder."""
    return encoder if len(encoder) <= limit else "…" + encoder[-(limit - 1) :]
