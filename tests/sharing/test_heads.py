"""Heads compute what their methods do: on runs of every method, old and new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cafe
from cafe.errors import InputError
from cafe.methods.inputs.cosines import unit_length
from cafe.registry import entries
from cafe.runs import load
from cafe.sharing.heads import HEADS, head_of, method_name

RUNS = Path(__file__).parents[1] / "data" / "runs"
OF_A_BATCH = {"trans-clip", "stat-a"}
# Both sides sum 128 products in float32; scales reach 1,000, so a logit moves by some 128 * 1000 * 2^-24 = 8e-3 at the
# very worst and by 1e-5 as a rule; the files were made with scales of 16, and a probability moves by less than a logit.
TOLERANCE = 1e-5


def probabilities(fitted, X):
    with torch.inference_mode():
        return torch.softmax(head_of(fitted)(torch.from_numpy(np.float32(X))), dim=1).numpy()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RUNS.glob("*/run.json")))
def test_a_head_computes_what_its_method_does(name):
    fitted = load(RUNS / name)
    if fitted.run_["method"] in OF_A_BATCH:
        with pytest.raises(InputError, match="no fixed head: what it says of an image depends on the other images"):
            head_of(fitted)
        return
    with np.load(RUNS / "expected.npz") as expected:
        X = expected["X" if getattr(fitted, "projection", None) is None else "X_unprojected"]
        np.testing.assert_allclose(probabilities(fitted, X), expected[name], rtol=0, atol=TOLERANCE)


def blobs(n_each=6, classes=3, width=12):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, width))
    labels = np.repeat(np.arange(classes), n_each)
    X = (centres[labels] + 0.5 * rng.standard_normal((len(labels), width))).astype(np.float32)
    return X, labels, centres.astype(np.float32)


@pytest.mark.parametrize("method", sorted(set(HEADS) - {"coop"}))
@pytest.mark.parametrize("normalize", [True, False])
def test_a_head_has_the_methods_own_scaling_on_entry(method, normalize):
    """Rows and text of lengths other than one, and a row of zeros."""
    X, y, text = blobs()
    X, text = 1.3 * unit_length(X), 1.2 * unit_length(text)
    parameters = {"normalize": normalize, "logit_scale": 5.0}
    kind = entries("methods", "METHOD")[method].load()
    given = {key: value for key, value in parameters.items() if key in kind().get_params()}
    fitted = kind(text, **given).fit(X, y)
    rows = np.concatenate([X, np.zeros((1, X.shape[1]), np.float32)])
    np.testing.assert_allclose(probabilities(fitted, rows), fitted.predict_proba(rows), rtol=0, atol=2e-5)


def test_a_class_that_the_linear_probe_has_never_seen_has_probability_zero():
    X, y, text = blobs()
    fitted = cafe.LinearProbe(text).fit(X[y < 2], y[y < 2])
    assert (probabilities(fitted, X)[:, 2] == 0).all() and (fitted.predict_proba(X)[:, 2] == 0).all()
    np.testing.assert_allclose(probabilities(fitted, X), fitted.predict_proba(X), atol=TOLERANCE)


@pytest.mark.parametrize("method", ["auto", "gda", "linear-map", "linear-probe"])
def test_what_all_classes_share_costs_no_precision(method):
    """Gaussians of features that lie close together have rows that are nearly the same, and large."""
    X, y, text = blobs()
    fitted = entries("methods", "METHOD")[method].load()(text).fit(X, y)
    name = "coef_" if method == "linear-probe" else "weights_"
    shared = np.random.default_rng(1).standard_normal(X.shape[1]).astype(np.float32)
    setattr(fitted, name, getattr(fitted, name) + 30_000 * shared)
    fitted.intercept_ = fitted.intercept_ + np.float32(3000)
    path = np.linspace(0, 1, 200, dtype=np.float32)[:, None]
    between = unit_length((1 - path) * X[0] + path * X[-1])  # from one class to another, through every probability
    exact = fitted.predict_proba(between.astype(np.float64))
    assert np.abs(fitted.predict_proba(between) - exact).max() > 3 * TOLERANCE  # what float32 makes of them as they are
    np.testing.assert_allclose(probabilities(fitted, between), exact, rtol=0, atol=TOLERANCE)


def test_methods_are_exported_or_say_why_not():
    X, y, text = blobs()
    for name, entry in entries("methods", "METHOD").items():
        if name in HEADS or name == "coop":
            continue
        fitted = entry.load()(text).fit(X, y)
        assert method_name(fitted) == name
        with pytest.raises(InputError, match="no fixed head|nothing says how"):
            head_of(fitted)
