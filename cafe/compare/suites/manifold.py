"""Image features before and after the adapter: question 5 of the CLIP-Adapter paper, measured."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Experiment, Outcome, Series, Suite, named_row
from cafe.compare.suites.baselines import coop_series, first_series
from cafe.evaluation.geometry import measures
from cafe.features import Features
from cafe.fitting import Fitted
from cafe.methods.base import unit_length
from cafe.report.comparison import ReportLayout

SUITE = "manifold"
MOVES_NOTHING = "leaves image features where they are: the same measures as zero-shot"


class Manifold(Suite):
    """How image features of the test set are arranged by class before (zero-shot) and after the adapter.

    Neighbours' accuracy (5 nearest, leave one out), silhouette (cosine), and scatter between classes over scatter
    within. Methods that adapt text alone, and CoOp, leave image features where they are; their rows say so.
    """

    title = "Image features before and after the adapter"
    layout = ReportLayout(metrics=("knn_acc1", "silhouette", "scatter_ratio"))

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return frozen features, the variants, and CoOp where it was included."""
        adapters = [
            Series(f"image, {a}", "clip-adapter", {"variant": "image", "alpha": a}) for a in (0.2, 0.6, 1.0, "learned")
        ]
        sides = [
            Series("text, 0.2", "clip-adapter", {"variant": "text", "beta": 0.2}),
            Series("both, 0.2", "clip-adapter", {"variant": "both", "alpha": 0.2, "beta": 0.2}),
        ]
        return first_series(features), *adapters, *sides, *coop_series(experiment)

    def outcome(self, series: Series, fit: Fitted) -> Outcome:
        """Add the measures of the adapted test features to the row."""
        X = unit_length(fit.task.test.image_features.astype("float32"))
        adapt = getattr(fit.estimator, "adapt", None)
        adapted = X if adapt is None else adapt(X)
        row = {**fit.row, **measures(adapted, fit.task.test.labels)}
        moved = adapt is not None and fit.row["variant"] != "text"
        note = "" if moved or series.method == "zero-shot" else f"{series.label} {MOVES_NOTHING}"
        return Outcome(named_row(series, row, note=note), fit.correct)
