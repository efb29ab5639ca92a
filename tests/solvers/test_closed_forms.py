"""Every shrinkage and penalty against a dense float64 solve of its own equations."""

import numpy as np
import pytest

from cafe import GDA, fit_many
from cafe.errors import InputError
from cafe.solvers import closed_forms
from cafe.solvers.closed_forms import gaussian_path, ridge_path


def problem(n=40, d=9, c=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    return rng.normal(size=(c, d))[y] + rng.normal(size=(n, d)) + 0.5, y, rng


@pytest.mark.parametrize("n", [6, 40])
def test_gaussians_are_their_equations(n):
    X, y, _ = problem(n)
    shrinkages = [0.03, 0.5, 1.0, 20.0]
    classifiers, source = gaussian_path(X, y, 5, shrinkages)
    mu = np.stack([X[y == c].mean(axis=0) for c in range(4)])
    S = np.cov((X - mu[y]).T)
    assert source == "within"
    for shrinkage, (W, b) in zip(shrinkages, classifiers, strict=True):
        P = 9 * np.linalg.inv((n - 1) * S + shrinkage * np.trace(S) * np.eye(9))
        np.testing.assert_allclose(W[:4], mu @ P, rtol=1e-8)
        np.testing.assert_allclose(b[:4], np.log(1 / 4) - 0.5 * np.diag(mu @ P @ mu.T), rtol=1e-8)
        np.testing.assert_allclose(W[4], (mu @ P).mean(axis=0), rtol=1e-8)  # the class without a row


@pytest.mark.parametrize("n", [6, 40])
@pytest.mark.parametrize("with_prior", [False, True])
def test_ridges_are_least_squares_with_penalty_rows(n, with_prior):
    """The penalty as d more rows and the bias as a column, solved by QR instead of a Gram matrix."""
    X, y, rng = problem(n)
    prior = rng.normal(size=(4, 9)) if with_prior else None
    targets = 2.0 * np.eye(4)[y] - 1
    penalties = [1e-3, 1.0, 50.0]
    for penalty, (W, b) in zip(penalties, ridge_path(X, y, 4, penalties, prior), strict=True):
        rows = np.block([[X, np.ones((n, 1))], [np.sqrt(penalty) * np.eye(9), np.zeros((9, 1))]])
        pull = np.sqrt(penalty) * (np.zeros((9, 4)) if prior is None else prior.T)
        expected = np.linalg.lstsq(rows, np.vstack([targets, pull]), rcond=None)[0]
        np.testing.assert_allclose(W, expected[:-1].T, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(b, expected[-1], rtol=1e-6, atol=1e-9)


def test_one_decomposition_for_all_and_none_for_one(monkeypatch):
    calls = []
    monkeypatch.setattr(closed_forms.np.linalg, "eigh", lambda A, own=np.linalg.eigh: calls.append(1) or own(A))
    X, y, _ = problem()
    for path in (lambda values: gaussian_path(X, y, 4, values)[0], lambda values: ridge_path(X, y, 4, values)):
        calls.clear()
        single = [path([value])[0] for value in (0.1, 1.0, 7.0)]
        assert not calls
        together = path([0.1, 1.0, 7.0])
        assert len(calls) == 1
        for (W, b), (V, a) in zip(together, single, strict=True):
            np.testing.assert_allclose(W, V, rtol=1e-9)
            np.testing.assert_allclose(b, a, rtol=1e-9)


def test_gda_fits_of_several_shrinkages_are_its_single_fits_and_auto_chooses_one():
    X, y, rng = problem()
    text = rng.normal(size=(4, 9))
    many = fit_many(X, y, [GDA(text, alpha=a, shrinkage=s) for a in (0.1, 1.0) for s in (0.2, 5.0)])
    for fit in many:
        single = GDA(text, alpha=fit.alpha, shrinkage=fit.shrinkage).fit(X, y)
        np.testing.assert_allclose(fit.weights_, single.weights_, rtol=1e-9)
    assert not np.allclose(many[0].weights_, many[1].weights_)
    assert GDA(text, shrinkage="auto", random_state=0).fit(X, y).shrinkage_ in GDA.grid["shrinkage"]
    with pytest.raises(InputError, match="shrinkage of gda must be a number, above 0.*without an inverse"):
        GDA(text, shrinkage=0).fit(X, y)


def test_penalties_and_priors_that_cannot_be_are_refused():
    X, y, _ = problem()
    with pytest.raises(InputError, match="penalties must be numbers above 0"):
        ridge_path(X, y, 4, [1.0, 0.0])
    with pytest.raises(InputError, match="shrinkages must be numbers above 0"):
        gaussian_path(X, y, 4, [])
    with pytest.raises(InputError, match=r"prior must be \(4, 9\)"):
        ridge_path(X, y, 4, [1.0], np.zeros((4, 3)))
