"""The width of CLIP-Adapter's bottleneck, from d to d / 32."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Experiment, Series, Suite
from cafe.compare.suites.baselines import first_series
from cafe.errors import InputError
from cafe.features import Features
from cafe.report.comparison import ReportLayout

SUITE = "bottleneck"
VALUES = (1, 2, 4, 8, 16, 32)


class Bottleneck(Suite):
    """CLIP-Adapter's bottleneck width, d / reduction with reduction 1 to 32; all widths and seeds in one run."""

    title = "Bottleneck of CLIP-Adapter"
    layout = ReportLayout(axis="x", axis_label="reduction (bottleneck width is d / reduction)")

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return zero-shot and one series for each width; together the widths are one line of the figure."""
        values = [int(value) for value in experiment.values or VALUES]
        if min(values) < 1 or list(values) != list(experiment.values or VALUES):
            raise InputError(f"suite 'bottleneck' takes whole numbers of at least 1, but got {experiment.values}")
        parameters = {"variant": "image", "alpha": 0.2}
        return (
            first_series(features),
            *(Series("clip-adapter", "clip-adapter", {**parameters, "reduction": r}, x=float(r)) for r in values),
        )
