"""The CLIP-Adapter paper's main experiment: 11 data sets, 5 numbers of shots, 3 seeds."""

from __future__ import annotations

from collections.abc import Sequence

from cafe.compare.base import Experiment, Outcome, Series, Suite
from cafe.compare.suites.baselines import coop_series, first_series
from cafe.features import Features
from cafe.protocol.tasks import dataset_name
from cafe.report.comparison import ReportLayout
from cafe.report.tables import PAPER_DATASETS

SUITE = "paper"


class Paper(Suite):
    """Zero-shot, linear probe and CLIP-Adapter on the paper's 11 data sets, beside published figures; gaps stay gaps.

    C and alpha are chosen by the selection policy for each data set, shots and seed, where the paper reports the best
    of a search. CoOp, which trains through the text tower, runs with ``--include coop`` where that tower is at hand.
    """

    title = "The CLIP-Adapter paper"
    layout = ReportLayout(table="datasets")

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return the three methods of the paper, and CoOp if it was included."""
        return (
            first_series(features),
            Series("linear-probe", "linear-probe", {"C": "auto"}),
            Series("clip-adapter", "clip-adapter", {"variant": "image", "alpha": "auto"}),
            *coop_series(experiment),
        )

    def run(self, experiment: Experiment) -> list[Outcome]:
        """Run on the given caches, with a note that names those of the paper's data sets that have none."""
        present = {dataset_name(features) for features in experiment.features}
        missing = [name for name in PAPER_DATASETS if name not in present]
        if missing:
            of = len(PAPER_DATASETS)
            experiment.notes.append(
                f"{len(missing)} of the paper's {of} data sets have no cache here: {', '.join(missing)}"
            )
        return super().run(experiment)
