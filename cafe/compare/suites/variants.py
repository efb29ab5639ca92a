"""Variants of CLIP-Adapter: the side that is adapted, and the ratio (questions 1 and 2 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Experiment, Series, Suite
from cafe.compare.suites.baselines import first_series
from cafe.features import Features
from cafe.report.comparison import ReportLayout

SUITE = "variants"
RATIOS = (("0.2", 0.2), ("scalar", "scalar"), ("learned", "learned"), ("auto", "auto"))


class Variants(Suite):
    """CLIP-Adapter on image, text or both, each with a fixed, scalar, learned or automatically chosen ratio."""

    title = "Variants of CLIP-Adapter"
    layout = ReportLayout(figure="dots")

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return zero-shot and the twelve combinations of variant and ratio."""
        adapters = [
            Series(f"{variant}, {name}", "clip-adapter", {"variant": variant, **_ratios(variant, ratio)})
            for variant in ("image", "text", "both")
            for name, ratio in RATIOS
        ]
        return first_series(features), *adapters


def _ratios(variant: str, ratio: float | str) -> dict[str, float | str]:
    """Return the ratio parameters that a variant uses."""
    used = {"image": ("alpha",), "text": ("beta",)}.get(variant, ("alpha", "beta"))
    return dict.fromkeys(used, ratio)
