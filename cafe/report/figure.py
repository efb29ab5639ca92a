"""The figure of a comparison: lines along an axis, or rows of dots; one panel for each data set, encoder and metric."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from cafe.report import dots, lines
from cafe.report.layout import SHOTS, Layout
from cafe.report.panels import ORACLE_NOTE, Panel, panels
from cafe.report.themes import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FONTS = ["Inter", "Source Sans 3", "Helvetica Neue", "Arial", "DejaVu Sans"]
Drawn = Sequence[tuple[Panel, str]]  # panels, each with its metric


def draw(
    summary: Sequence[Mapping[str, Any]],
    metric: str | None = None,
    *,
    layout: Layout = SHOTS,
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
    layout : Layout
        What stands along the axis, and whether lines or dots are drawn.
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
        figure = _figure(drawn_panels(summary, metric, layout), layout, theme)
        buffer = io.BytesIO()
        metadata = {"Date": None} if file_format == "svg" else None
        figure.savefig(buffer, format=file_format, dpi=dpi, facecolor=theme.paper, metadata=metadata)
    return buffer.getvalue()


def drawn_panels(summary: Sequence[Mapping[str, Any]], metric: str | None, layout: Layout) -> Drawn:
    """Return every panel of the figure with its metric, data set by data set."""
    metrics = layout.metrics if metric is None else (metric,)
    by_metric = [panels(summary, one, layout) for one in metrics]
    return [(panel, one) for row in zip(*by_metric, strict=True) for panel, one in zip(row, metrics, strict=True)]


def _available_fonts() -> list[str]:
    from matplotlib import font_manager

    # A family that is not installed would put a warning on the user's screen for every text drawn.
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in installed] or ["sans-serif"]


def _figure(drawn: Drawn, layout: Layout, theme: Theme) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    kind = dots if layout.figure == "dots" else lines
    columns = min(len(drawn), 3) or 1
    rows = ceil(len(drawn) / columns) or 1
    width, height = kind.panel_size([panel for panel, _ in drawn])
    engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(columns * width, rows * height), layout=engine)
    FigureCanvasAgg(figure)
    styles = kind.styles([panel for panel, _ in drawn])
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (panel, metric) in zip(grid, drawn, strict=False):
        kind.draw_panel(axes, panel, metric, layout, theme, styles)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    if any(panel.has_oracle for panel, _ in drawn):
        figure.supxlabel(ORACLE_NOTE, fontsize=8, color=theme.muted, x=0.01, ha="left")
    return figure
