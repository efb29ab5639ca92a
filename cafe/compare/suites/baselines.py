"""The baselines of the CLIP-Adapter paper that need nothing but cached features."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Experiment, Series, Suite
from cafe.features import Features

SUITE = "baselines"


def first_series(features: Features) -> Series:
    """Return the series without training: zero-shot, or without text features ``class-means``."""
    return Series("zero-shot" if features.text_features is not None else "class-means", "zero-shot")


def coop_series(experiment: Experiment) -> list[Series]:
    """Return CoOp where it was included: it trains through the text tower, which costs far more than the others."""
    return [Series("coop", "coop", optional=True)] if "coop" in experiment.include else []


class Baselines(Suite):
    """Zero-shot, linear probe, Tip-Adapter and CLIP-Adapter, each under the same protocol.

    The linear probe's C and Tip-Adapter's alpha and beta are chosen by the selection policy, as their papers
    choose them on validation data; CLIP-Adapter has the paper's ratio for generic images. CoOp, which trains through
    the text tower, runs with ``--include coop`` where that tower is at hand.
    """

    title = "Baselines"

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return the four baselines, and CoOp if it was included."""
        return (
            first_series(features),
            Series("linear-probe", "linear-probe", {"C": "auto"}),
            Series("tip-adapter", "tip-adapter", {"alpha": "auto", "beta": "auto"}),
            Series("clip-adapter", "clip-adapter", {"variant": "image", "alpha": 0.2}),
            *coop_series(experiment),
        )
