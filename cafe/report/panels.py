"""Sorts the summary of a comparison into panels: one for each data set and encoder, one line for each series.

The table, the figure and the page all read these, so that they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ORACLE_MARK = "†"
ORACLE_NOTE = f"{ORACLE_MARK} settings chosen on the test set (oracle-test): an upper bound, not a result."

# A fit on all training images has no number of shots; it stands after every number.
ALL_SHOTS = math.inf


@dataclass(frozen=True)
class Point:
    """Mean and spread of one metric over seeds.

    Attributes
    ----------
    mean : float
        0 to 1.
    std : float or None
        Over seeds; None where there is only one.
    n : int
        Number of seeds.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Series:
    """One method with one setting, at every number of shots that was run.

    Attributes
    ----------
    label : str
        As it stands in tables and figures; oracle series end in a mark.
    oracle : bool
        Whether anything was chosen on the test set.
    points : dict of float to Point
        By shots: 0 for zero-shot, ``ALL_SHOTS`` for all training images. A run that is missing has no point.
    """

    label: str
    oracle: bool
    points: dict[float, Point] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """Everything that was measured on one data set with one encoder.

    Attributes
    ----------
    dataset, encoder : str
        Their names, as in the rows.
    series : list of Series
        Those without training first, then in the order of the summary.
    shots : list of float
        Every number of shots that occurs, ascending.
    """

    dataset: str
    encoder: str
    series: list[Series]
    shots: list[float]

    @property
    def seeds(self) -> int:
        """Largest number of seeds behind a point that was trained; 1 if there is none."""
        return max((p.n for s in self.series for shots, p in s.points.items() if shots > 0), default=1)

    @property
    def has_oracle(self) -> bool:
        """Whether any series here was chosen on the test set."""
        return any(series.oracle for series in self.series)


def panels(summary: Sequence[Mapping[str, Any]], metric: str = "acc1") -> list[Panel]:
    """Group the summary of a comparison.

    Parameters
    ----------
    summary : sequence of mapping
        Each with dataset, encoder, series, shots (None for all), n, oracle, and ``<metric>_mean`` and
        ``<metric>_std`` (0 to 1; None where it could not be computed).
    metric : str, default "acc1"
        Which metric to take.

    Returns
    -------
    list of Panel
        In the order of first appearance.

    Examples
    --------
    >>> entry = {"dataset": "digits", "encoder": "cafe:mini", "series": "clip-adapter", "shots": 4, "n": 3}
    >>> panel, = panels([{**entry, "oracle": False, "acc1_mean": 0.75, "acc1_std": 0.01}])
    >>> panel.shots, panel.series[0].points[4.0]
    ([4.0], Point(mean=0.75, std=0.01, n=3))
    """
    grouped: dict[tuple[str, str], dict[tuple[str, bool], Series]] = {}
    for entry in summary:
        lines = grouped.setdefault((str(entry["dataset"]), str(entry["encoder"])), {})
        oracle = bool(entry.get("oracle"))
        label = f"{entry['series']} {ORACLE_MARK}" if oracle else str(entry["series"])
        series = lines.setdefault((label, oracle), Series(label, oracle))
        mean = entry.get(f"{metric}_mean")
        if mean is None or not math.isfinite(mean):
            continue
        std = entry.get(f"{metric}_std")
        known = entry["n"] > 1 and std is not None and math.isfinite(std)
        shots = ALL_SHOTS if entry["shots"] is None else float(entry["shots"])
        series.points[shots] = Point(float(mean), float(std) if known and std is not None else None, int(entry["n"]))
    return [_panel(dataset, encoder, list(lines.values())) for (dataset, encoder), lines in grouped.items()]


def shots_label(shots: float) -> str:
    """Write a number of shots as a column head or tick.

    Examples
    --------
    >>> shots_label(16.0), shots_label(ALL_SHOTS)
    ('16', 'all')
    """
    return "all" if shots == ALL_SHOTS else str(int(shots))


def _panel(dataset: str, encoder: str, series: list[Series]) -> Panel:
    # A stable sort: lines that need no training come first, the rest stay as the suite has them.
    series = sorted(series, key=lambda one: not (one.points and set(one.points) == {0.0}))
    return Panel(dataset, encoder, series, sorted({shots for one in series for shots in one.points}))
