"""Accuracy by the number of training images."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Experiment, Series, Suite
from cafe.compare.suites.baselines import first_series
from cafe.features import Features

SUITE = "shots"


class Shots(Suite):
    """CLIP-Adapter with ratios 0.2, 0.6 and chosen automatically, against zero-shot and a linear probe, by shots."""

    title = "CLIP-Adapter by shots"

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return zero-shot, the linear probe and three adapters."""
        return (
            first_series(features),
            Series("linear-probe", "linear-probe", {"C": "auto"}),
            *(
                Series(f"clip-adapter, alpha {a}", "clip-adapter", {"variant": "image", "alpha": a})
                for a in (0.2, 0.6, "auto")
            ),
        )
