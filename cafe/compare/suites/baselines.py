"""The baselines of the CLIP-Adapter paper that need nothing but cached features."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Series, Suite
from cafe.features import Features

SUITE = "baselines"


class Baselines(Suite):
    """Zero-shot, linear probe, Tip-Adapter and CLIP-Adapter, each under the same protocol.

    The linear probe's C and Tip-Adapter's alpha and beta are chosen by the selection policy, as their papers
    choose them on validation data; CLIP-Adapter has the paper's ratio for generic images.
    """

    title = "Baselines"

    def series(self, features: Features) -> Sequence[Series]:
        """Return the four."""
        first = "zero-shot" if features.text_features is not None else "class-means"
        return (
            Series(first, "zero-shot"),
            Series("linear-probe", "linear-probe", {"C": "auto"}),
            Series("tip-adapter", "tip-adapter", {"alpha": "auto", "beta": "auto"}),
            Series("clip-adapter", "clip-adapter", {"variant": "image", "alpha": 0.2}),
        )
