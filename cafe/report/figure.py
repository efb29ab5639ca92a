"""The figure of a comparison: accuracy against shots, one line for each method, error bars over seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from math import ceil, log2
from typing import TYPE_CHECKING, Any

from cafe.report.labels import spread
from cafe.report.panels import ALL_SHOTS, ORACLE_NOTE, Panel, Series, panels, shots_label
from cafe.report.table import METRIC_NAMES
from cafe.report.themes import LIGHT, MARKERS, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH, _PANEL_HEIGHT = 6.0, 4.2  # inches
_LABEL_WIDTH = 0.085  # inches for each letter of a label beside its line
_DODGE = 0.035  # steps of the log2 axis between neighbouring lines
_FONTS = ["Inter", "Source Sans 3", "Helvetica Neue", "Arial", "DejaVu Sans"]


def draw(
    summary: Sequence[Mapping[str, Any]],
    metric: str = "acc1",
    *,
    theme: Theme = LIGHT,
    file_format: str = "png",
    dpi: int = 200,
) -> bytes:
    """Draw a summary: one panel for each data set and encoder.

    Parameters
    ----------
    summary : sequence of mapping
        As ``Comparison.summary`` has it.
    metric : str, default "acc1"
        Which metric to draw.
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
        figure = _figure(panels(summary, metric), metric, theme)
        buffer = io.BytesIO()
        metadata = {"Date": None} if file_format == "svg" else None
        figure.savefig(buffer, format=file_format, dpi=dpi, facecolor=theme.paper, metadata=metadata)
    return buffer.getvalue()


def _available_fonts() -> list[str]:
    from matplotlib import font_manager

    # A family that is not installed would put a warning on the user's screen for every text drawn.
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in installed] or ["sans-serif"]


def _figure(drawn: Sequence[Panel], metric: str, theme: Theme) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(len(drawn), 3) or 1
    rows = ceil(len(drawn) / columns) or 1
    longest = max((len(line.label) for panel in drawn for line in panel.series), default=0)
    width = columns * (_PANEL_WIDTH + _LABEL_WIDTH * longest)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(width, rows * _PANEL_HEIGHT), layout=layout)
    FigureCanvasAgg(figure)
    # One colour for a label in every panel, so that the eye can go from one to the next.
    labels = list(dict.fromkeys(line.label for panel in drawn for line in panel.series if set(line.points) != {0.0}))
    styles = {label: i for i, label in enumerate(labels)}
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, drawn, strict=False):
        _draw_panel(axes, panel, metric, theme, styles)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    if any(panel.has_oracle for panel in drawn):
        figure.supxlabel(ORACLE_NOTE, fontsize=8, color=theme.muted, x=0.01, ha="left")
    return figure


def _draw_panel(axes: Axes, panel: Panel, metric: str, theme: Theme, styles: Mapping[str, int]) -> None:
    positions = _positions(panel.shots)
    ends: list[tuple[str, float, str]] = []
    for line in panel.series:
        if set(line.points) == {0.0}:
            level = 100 * line.points[0.0].mean
            axes.axhline(level, color=theme.muted, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1.5)
            ends.append((line.label, level, theme.muted))
        elif line.points:
            colour = theme.lines[styles[line.label] % len(theme.lines)]
            # Lines stand a little beside each other, so that the error bars of close methods can all be read.
            beside = min(_DODGE, 0.3 / len(styles)) * (styles[line.label] - (len(styles) - 1) / 2)
            moved = {shots: x + beside for shots, x in positions.items()}
            last = _draw_line(axes, line, moved, colour, MARKERS[styles[line.label] % len(MARKERS)], theme)
            ends.append((line.label, last, colour))
    _dress(axes, panel, metric, theme, positions)
    _label_ends(axes, ends)


def _draw_line(
    axes: Axes, line: Series, positions: Mapping[float, float], colour: str, marker: str, theme: Theme
) -> float:
    shots = sorted(key for key in line.points if key > 0)
    x = [positions[key] for key in shots]
    y = [100 * line.points[key].mean for key in shots]
    spreads = [100 * (line.points[key].std or 0.0) for key in shots]
    axes.errorbar(
        x, y, yerr=spreads if any(spreads) else None, color=colour, ecolor=colour, elinewidth=1.3, capsize=2.5,
        capthick=1.3, linewidth=2.0, linestyle=(0, (1.5, 1.5)) if line.oracle else "-", marker=marker, markersize=6.5,
        markeredgecolor=theme.paper, markeredgewidth=1.0, zorder=3, clip_on=False,
    )  # fmt: skip
    return y[-1]


def _positions(shots: Sequence[float]) -> dict[float, float]:
    """Place shots on a log2 axis; all training images stand one step after the largest number."""
    numbered = [key for key in shots if 0 < key < ALL_SHOTS]
    positions = {key: log2(key) for key in numbered}
    positions[ALL_SHOTS] = (max(positions.values()) + 1) if numbered else 0.0
    return positions


def _dress(axes: Axes, panel: Panel, metric: str, theme: Theme, positions: Mapping[float, float]) -> None:
    ticks = [key for key in panel.shots if key > 0]
    axes.set_xticks([positions[key] for key in ticks], [shots_label(key) for key in ticks])
    left, right = (positions[ticks[0]], positions[ticks[-1]]) if ticks else (0.0, 1.0)
    margin = 0.06 * (right - left) or 0.5
    axes.set_xlim(left - margin, right + margin / 2)
    axes.set_xlabel("shots (training images per class)", fontsize=10, color=theme.muted, labelpad=7)
    axes.set_ylabel(f"{METRIC_NAMES.get(metric, metric)} (%)", fontsize=10, color=theme.muted, labelpad=7)
    seeds = f"mean ± standard deviation over {panel.seeds} seeds" if panel.seeds > 1 else "1 seed"
    axes.set_title(panel.dataset, fontsize=14, fontweight="bold", color=theme.ink, loc="left", pad=24)
    axes.text(
        0, 1.025, f"{_short(panel.encoder)}  ·  {seeds}", transform=axes.transAxes, fontsize=9.5, color=theme.muted
    )
    axes.set_facecolor(theme.paper)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, labelsize=10, length=0, pad=6)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.axis)
    axes.margins(y=0.08)


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each label at the right end of its line, pushed apart where lines end close together."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap = (high - low) * 0.062
    heights = spread([height for _, height, _ in ends], gap, low, high)
    beside = axes.get_yaxis_transform()  # x as a fraction of the axes, y in per cent
    for (label, height, colour), placed in zip(ends, heights, strict=True):
        # A thin leader ties a label that had to move to its own line.
        axes.plot([1.008, 1.032], [height, placed], transform=beside, clip_on=False, color=colour, linewidth=0.9)
        axes.text(1.042, placed, label, transform=beside, fontsize=10, color=colour, va="center_baseline")


def _short(encoder: str, limit: int = 44) -> str:
    """Keep the end of a long encoder name, which is usually a folder."""
    return encoder if len(encoder) <= limit else "…" + encoder[-(limit - 1) :]
