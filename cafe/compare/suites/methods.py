"""All methods, compared under one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cafe.compare.base import Experiment, Series, Suite
from cafe.compare.suites.baselines import first_series
from cafe.features import Features
from cafe.methods import method_names

SUITE = "methods"

# Parameters that a paper chooses on validation images are chosen by the selection policy; others have their defaults.
CHOSEN: Final[Mapping[str, Mapping[str, Any]]] = {
    "linear-probe": {"C": "auto"},
    "clip-adapter": {"alpha": "auto"},
    "tip-adapter": {"alpha": "auto", "beta": "auto"},
    "tip-adapter-f": {"alpha": "auto", "beta": "auto"},
    "gda": {"alpha": "auto"},
    "lp++": {"iterations": "auto"},
    "cross-modal-linear-probe": {"lr": "auto"},
    "cross-modal-adapter": {"lr": "auto"},
    "ape": {"alpha": "auto", "beta": "auto", "gamma": "auto"},
    "trans-clip": {"gamma": "auto"},
}
# Labels with remarks for readers of the table.
LABELS: Final[Mapping[str, str]] = {
    "trans-clip": "trans-clip (transductive)",
    "stat-a": "stat-a (transductive)",
    "prolip": "prolip (linear adapter: image features, not those before the projection)",
}
# Methods that can weigh templates by the shots, which are listed twice if a class has several templates.
WEIGH_TEMPLATES: Final = ("zero-shot", "gda")
# Costly methods, which run only if --include names them.
COSTLY: Final = ("coop",)


class Methods(Suite):
    """All methods found in cafe/methods that can run on the cache, under one protocol.

    Hyper-parameters that a paper chooses on validation images are chosen by the selection policy, the others are the
    defaults. A method that cannot run here is left out with its reason. Rows of transductive methods say so: they
    see the whole test set at once.
    """

    title = "Methods"

    def series(self, features: Features, experiment: Experiment) -> Sequence[Series]:
        """Return zero-shot, every other method by its name, and the methods that can weigh templates doing so.

        Costly methods are left out, with a note, unless the user included them; templates are weighed where classes
        have several prompts.
        """
        series = [first_series(features)]
        for name in method_names():
            if name == "zero-shot":
                continue
            if name in COSTLY and name not in experiment.include:
                experiment.notes.append(f"{name} was left out for its cost; --include {name} runs it")
                continue
            # A method without an entry above runs with its own defaults.
            series.append(Series(LABELS.get(name, name), name, CHOSEN.get(name, {}), optional=True))
        text, owners = features.text_features, features.prompt_classes
        if text is not None and (len(text) > 1 if owners is None else len(owners) > len(features.class_names)):
            weights = {"template_weights": "timo"}
            series += [
                Series(f"{name} (templates weighted by the shots)", name, {**CHOSEN.get(name, {}), **weights})
                for name in WEIGH_TEMPLATES
            ]
        return series
