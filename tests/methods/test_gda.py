"""GDA against its equations in float64, and what it does where there is no covariance."""

import numpy as np
import pytest
from made_up_rows import rows_around_text, unit

from cafe import GDA, ZeroShot, fit_many
from cafe.errors import InputError


@pytest.fixture
def problem():
    return rows_around_text([0, 0, 1, 1, 2, 3, 3, 3])


def gaussian_logits(X, y, queries, n_classes):
    """The released formula, with the pseudo-inverse it uses."""
    mu = np.stack([X[y == c].mean(axis=0) for c in range(n_classes)])
    centred = np.concatenate([X[y == c] - mu[c] for c in range(n_classes)])
    S = np.cov(centred.T)
    P = X.shape[1] * np.linalg.pinv((len(X) - 1) * S + np.trace(S) * np.eye(X.shape[1]))
    return queries @ (mu @ P).T + np.log(1 / n_classes) - 0.5 * np.diag(mu @ P @ mu.T)


def test_is_its_equations(problem):
    X, y, text, queries = problem
    expected = 100 * unit(queries) @ unit(text).T + 0.3 * gaussian_logits(unit(X), y, unit(queries), 4)
    np.testing.assert_allclose(GDA(text, alpha=0.3).fit(X, y).logits(queries), expected, rtol=1e-9)


def test_class_without_a_row_keeps_zero_shot_plus_the_mean_of_the_others(problem):
    X, y, text, queries = problem
    few = y < 3
    part = gaussian_logits(unit(X[few]), y[few], unit(queries), 3)
    own = GDA(text, alpha=0.3).fit(X[few], y[few]).logits(queries)
    zero_shot = 100 * unit(queries) @ unit(text).T
    np.testing.assert_allclose(own[:, :3], zero_shot[:, :3] + 0.3 * part, rtol=1e-9)
    np.testing.assert_allclose(own[:, 3], zero_shot[:, 3] + 0.3 * part.mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize("copies", [1, 10])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_shot_and_its_copies_have_no_covariance(problem, copies, dtype):
    """The published code inverts rounding noise here, with weights of 1e16."""
    _, _, text, queries = problem
    X = np.tile(text + 0.1, (copies, 1)).astype(dtype)
    y = np.tile(np.arange(4), copies)
    plain = GDA(text, alpha=1.0).fit(X, y)
    assert plain.covariance_ == "none"
    np.testing.assert_array_equal(plain.logits(queries), ZeroShot(text).fit(X, y).logits(queries))
    total = GDA(text, alpha=1.0, zero_covariance="total").fit(X, y)
    assert total.covariance_ == "total"
    assert 0.1 < np.abs(total.weights_).max() < 1e4
    alike = GDA(text, zero_covariance="total").fit(np.ones_like(X), y)
    assert alike.covariance_ == "none"


def test_a_grid_of_alphas_is_one_factorisation(problem, monkeypatch):
    X, y, text, queries = problem
    calls = []
    solve = np.linalg.solve
    monkeypatch.setattr(np.linalg, "solve", lambda *a: calls.append(1) or solve(*a))
    fits = fit_many(X, y, [GDA(text, alpha=a) for a in (0.1, 1.0, 10.0)])
    assert len(calls) == 1
    parts = [(fit.logits(queries) - ZeroShot(text).fit(X, y).logits(queries)) / fit.alpha for fit in fits]
    np.testing.assert_allclose(parts[0], parts[2], rtol=1e-6)


def test_a_grid_is_scored_together_as_one_by_one(problem):
    from cafe.protocol.selection import score_fitted

    X, y, text, queries = problem
    labels = np.arange(len(queries)) % len(text)
    fits = fit_many(X, y, [GDA(text, alpha=a, shrinkage=s) for a in (0.1, 10.0) for s in (0.3, 1.0)])
    for together, fit in zip(GDA.score_grid(fits, queries, labels), fits, strict=True):
        assert together == pytest.approx(score_fitted(fit, queries, labels), rel=1e-9)
    assert GDA.score_grid([*fits, GDA(text[::-1]).fit(X, y)], queries, labels) is None


def test_auto_alpha_is_chosen_on_training_rows(problem):
    X, y, text, _ = problem
    model = GDA(text, alpha="auto", random_state=0).fit(np.vstack([X, X + 0.1]), np.tile(y, 2))
    assert model.selection_["candidates"] == 7
    assert model.alpha_ == model.selection_["chosen"]["alpha"]


def test_bad_parameters(problem):
    X, y, text, _ = problem
    with pytest.raises(InputError, match="alpha of gda must be a number, at least 0, or 'auto'"):
        GDA(text, alpha=-1.0).fit(X, y)
    with pytest.raises(InputError, match="did you mean 'total'"):
        GDA(text, zero_covariance="totl").fit(X, y)
