"""The residual ratio of CLIP-Adapter, the share of the adapted feature, from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Experiment, Series, Suite
from cafe.errors import InputError
from cafe.features import Features
from cafe.report.comparison import ReportLayout

SUITE = "alpha"
VALUES = tuple(round(0.1 * i, 1) for i in range(11))


class Alpha(Suite):
    """CLIP-Adapter's image ratio alpha from 0 (zero-shot exactly) to 1 (adapter alone); all in one run."""

    title = "Residual ratio alpha of CLIP-Adapter"
    layout = ReportLayout(axis="x", axis_label="alpha (weight of the adapted image feature)", scale="linear")

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return one series for each value; together they are one line of the figure."""
        values = experiment.values or VALUES
        for value in values:
            if not 0 <= value <= 1:
                raise InputError(f"suite 'alpha' takes values from 0 to 1, but got {value:g}")
        return [Series("clip-adapter", "clip-adapter", {"variant": "image", "alpha": a}, x=a) for a in values]
