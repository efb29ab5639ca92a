"""The table that papers print: data sets across, method and shots down, and their average."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.report.cells import Block, cell, notes_of
from cafe.report.layout import Layout
from cafe.report.panels import ALL_SHOTS, Column, Panel, Point

# The CLIP papers' data sets, in the order in which they print them; others follow as they come.
ORDER = (
    "imagenet", "caltech101", "oxford-pets", "stanford-cars", "flowers102", "food101", "fgvc-aircraft", "sun397",
    "dtd", "eurosat", "ucf101",
)  # fmt: skip


def across_datasets(panels: Sequence[Panel], metric: str, layout: Layout) -> list[Block]:
    """Return one table for each encoder; all of ``ORDER`` have a column, and what was not run is a gap.

    The average stands only where every data set of ``ORDER`` was run, so that no two averages are over different sets.
    """
    blocks: list[Block] = []
    for encoder in dict.fromkeys(panel.encoder for panel in panels):
        own = [panel for panel in panels if panel.encoder == encoder]
        here = {panel.dataset: panel for panel in own}
        names = [*ORDER, *(name for name in here if name not in ORDER)]
        lines = _lines(own)
        body = []
        for label, column in lines:
            points = [_point(here[name], label, column) if name in here else None for name in names]
            known = [p for p in points[: len(ORDER)] if p is not None]
            mean = sum(p.mean for p in known) / len(known) if len(known) == len(ORDER) else None
            average = cell(None if mean is None else Point(mean, None, 1), metric)
            body.append([_named(label, column), *(cell(point, metric) for point in points), average])
        seeds = f"{own[0].seeds} seed{'s' if own[0].seeds > 1 else ''}"
        title = f"{encoder}. {len(here)} of {len(names)} data sets, accuracy in per cent, {seeds}"
        blocks.append((title, ["method, shots", *names, "average"], body, notes_of(own, layout)))
    return blocks


def _lines(panels: Sequence[Panel]) -> list[tuple[str, Column]]:
    found = dict.fromkeys((line.label, column) for panel in panels for line in panel.series for column in line.points)
    order = list(dict.fromkeys(label for label, _ in found))
    return sorted(found, key=lambda one: (order.index(one[0]), one[1]))


def _point(panel: Panel, label: str, column: Column) -> Point | None:
    return next((line.points.get(column) for line in panel.series if line.label == label), None)


def _named(label: str, column: Column) -> str:
    return f"{label}, all" if column == ALL_SHOTS else f"{label}, {column:g}"
