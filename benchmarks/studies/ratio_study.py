"""Whether learned ratios should move further from their default: a gain inside the sigmoid, by cross-validation.

    CAFE_REAL_DATA=... python benchmarks/studies/ratio_study.py [--gains 1,10,30] [--shots 4] [--variants image,both]

        ratio = sigmoid( logit(0.2) + gain ( bias + tanh(x U + m V) . o ) )

Reads the training shots of Caltech69 and no test row. The library's design is gain 1 (docs/methods.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from harness import parse, real_features, unit
from sklearn.model_selection import StratifiedKFold

from cafe import CLIPAdapter, fit_many
from cafe.kernels import reference
from cafe.kernels.reference import START_LOGIT
from cafe.methods.inference import scores


@contextmanager
def with_gain(gain: float) -> Iterator[None]:
    """Multiply the logits of learned ratios by ``gain``, in the reference kernel and in inference, within the block."""

    def stretched(parameters: dict[str, Any], side: str) -> dict[str, Any]:
        names = (f"{side}_bias", f"{side}_out")
        return {**parameters, **{name: gain * parameters[name] for name in names if name in parameters}}

    def ratio_values(side: str, mode: str, fixed: Any, parameters: Any, own: Any, other: Any) -> Any:
        return PLAIN["ratio_values"](side, mode, fixed, stretched(parameters, side), own, other)

    def learned_ratio(parameters: Any, side: str, own: Any, other: Any) -> Any:
        return PLAIN["learned_ratio"](stretched(parameters, side), side, own, other)

    def trained_ratio(parameters: Any, side: str) -> Any:
        return scores.sigmoid(START_LOGIT + gain * parameters[f"{side}_bias"])

    inference = {"learned_ratio": learned_ratio, "trained_ratio": trained_ratio}
    with patch.object(reference, "ratio_values", ratio_values), patch.multiple(scores, **inference):
        yield


PLAIN: dict[str, Any] = {
    "ratio_values": reference.ratio_values,
    "learned_ratio": scores.learned_ratio,
}


def main() -> None:
    """Cross-validate every gain, with the fixed default beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gains", default="1,10,30")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--variants", default="image,both")
    arguments = parse(parser, {"gains": "1,10", "variants": "image"})
    data = real_features("caltech69_vitb32")
    X = data[f"train_{arguments.shots}shot_features"].astype(np.float32)
    y, text = data[f"train_{arguments.shots}shot_labels"], data["text_features"]
    folds = list(StratifiedKFold(min(4, arguments.shots), shuffle=True, random_state=0).split(X, y))
    for variant in arguments.variants.split(","):
        series: list[tuple[Any, float]] = [(0.2, 1.0)]
        series += [(mode, float(g)) for mode in ("scalar", "learned") for g in arguments.gains.split(",")]
        for ratio, gain in series:
            with with_gain(gain):
                model = CLIPAdapter(text, variant, alpha=ratio, beta=ratio, kernel="reference", random_state=0)
                fits = fit_many(X, y, [model] * len(folds), [train for train, _ in folds])
                pairs = list(zip(fits, folds, strict=True))
                accuracy = np.mean([100 * np.mean(fit.predict(X[held]) == y[held]) for fit, (_, held) in pairs])
                alphas = np.concatenate([np.ravel(fit.ratios(unit(X[held]))) for fit, (_, held) in pairs])
            print(
                f"{variant}, {ratio}, gain {gain:g}: accuracy {accuracy:.2f}, "
                f"alpha {alphas.mean():.3f} +- {alphas.std():.3f}, {alphas.min():.3f} to {alphas.max():.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
