"""Makes the runs beside it and expected.npz: what version 0.1.0 (commit 3576ed1) saved, for every method.

    python tests/data/runs/make_runs.py  # in a checkout of that commit

The folders are committed and read in every test run, so that old runs stay readable for ever. They are never made
anew: a new version of the run format gets new folders beside them.

``expected.npz`` holds ``X``, ten test rows of the features that the methods were fitted on, ``X_unprojected``, the same
rows before the encoder's projection, for the method that learns from these, and for each run the probabilities that
the fitted method gave for them before it was saved; all in float64, where processors agree nearly to the last digit.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
ROWS = np.arange(10) * 54  # of the 546 test rows, all over the classes
SMALL = {"method": "clip-adapter", "reduction": 16}
RUNS = {
    "clip-adapter-text": {**SMALL, "variant": "text", "beta": 0.4},
    "clip-adapter-both-auto": {**SMALL, "variant": "both", "alpha": "auto", "beta": "auto"},
    "clip-adapter-both-learned": {**SMALL, "variant": "both", "alpha": "learned", "beta": "scalar"},
    "clip-adapter-released": {**SMALL, "form": "released"},
    "tip-adapter-auto": {"method": "tip-adapter", "alpha": "auto", "beta": "auto"},
    "coop": {"method": "coop", "epochs": 2},
}


def main() -> None:
    import cafe
    from cafe.cli.app import call
    from cafe.fitting import fit_method
    from cafe.methods import method_names

    save = importlib.import_module("cafe.saved").save  # cafe.runs in later commits
    with tempfile.TemporaryDirectory() as folder:
        options = ["--projection-features", "--workers", "0", "--quiet", "--cache-dir", folder]
        assert call(["extract", "--dataset", "digits", *options]) == 0
        features = cafe.load_features(next(Path(folder).glob("*.h5")))
    test = features.split("test").take(ROWS)
    assert test.projection_features is not None
    expected = {"X": test.image_features.astype("f8"), "X_unprojected": test.projection_features.astype("f8")}
    for name, settings in {**{method: {"method": method} for method in method_names()}, **RUNS}.items():
        method, *_ = settings.values()
        parameters = {key: value for key, value in settings.items() if key != "method"}
        fitted = fit_method(features, str(method), parameters, shots=2)
        save(fitted.estimator, FOLDER / name, row=fitted.row, features=features)
        before = getattr(fitted.estimator, "projection", None) is not None
        expected[name] = fitted.estimator.predict_proba(expected["X_unprojected" if before else "X"])
    np.savez(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
