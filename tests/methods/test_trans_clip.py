"""TransCLIP against a dense float64 loop written from its equations."""

import numpy as np
import pytest
from made_up_rows import unit

from cafe import TransCLIP
from cafe.errors import InputError


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    text = rng.normal(size=(4, 9))
    y = np.array([0, 0, 1, 1, 2, 3, 3])
    X = text[y] + 0.4 * rng.normal(size=(7, 9))
    return X, y, text, text[np.arange(40) % 4] + 0.8 * rng.normal(size=(40, 9))


def dense(X, y, text, Q, gamma, weight, iterations=10, k=3):
    """Every sum written out; one pass over all pairs."""
    n, d = Q.shape
    s = len(X) if gamma > 0 else 0
    logits = 100 * Q @ text.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    onehot = np.eye(len(text))[y[:s]]
    W = np.zeros((n + s, n))
    for row, f in enumerate([*Q, *X[:s]]):
        affinity = Q @ f
        if row < n:
            affinity[row] = -np.inf
        nearest = np.argsort(-affinity)[:k]
        W[row, nearest] = affinity[nearest]
    if s:
        mu = np.stack([X[y == c].sum(axis=0) for c in range(len(text))])
    else:
        mu = np.stack([p[np.argsort(-p[:, c])[:8], c] @ Q[np.argsort(-p[:, c])[:8]] for c in range(len(text))])
    mu, v, z = unit(mu), np.full(d, 1 / d), p.copy()
    for iteration in range(iterations + 1):
        for _ in range(5):
            full = np.concatenate([z, onehot])
            new = np.zeros_like(z)
            for i in range(n):
                likelihood = -0.5 * (((Q[i] - mu) ** 2) / v).sum(axis=1)
                pull = W[:, i] @ full + W[i] @ z
                score = (likelihood + 50 / (2 * k) * pull) / 50
                new[i] = p[i] ** weight * np.exp(score - score.max())
            z = new / new.sum(axis=1, keepdims=True)
        if iteration == iterations:
            break
        w = 50 * gamma / max(s, 1)
        sums = z.T @ Q / n + w * onehot.T @ X[:s]
        mu = unit(sums / (z.sum(axis=0) / n + w * onehot.sum(axis=0))[:, None])
        total = sum(z[i, c] * (Q[i] - mu[c]) ** 2 for i in range(n) for c in range(len(text))) / n
        total = total + w * sum((X[i] - mu[y[i]]) ** 2 for i in range(s))
        v = total / (1 + w * s)
    return z


@pytest.mark.parametrize(("setting", "gamma", "weight"), [("few-shot", 0.02, 0.5), ("zero-shot", 0.0, 1.0)])
def test_is_its_equations(problem, setting, gamma, weight):
    X, y, text, Q = problem
    expected = dense(unit(X), y, unit(text), unit(Q), gamma, weight)
    probabilities = TransCLIP(text, setting=setting, gamma=0.02).fit(X, y).predict_proba(Q)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-9)


def test_more_rows_to_predict_change_a_prediction(problem):
    X, y, text, Q = problem
    model = TransCLIP(text).fit(X, y)
    assert model.transductive
    assert np.abs(model.predict_proba(Q)[:10] - model.predict_proba(Q[:10])).max() > 1e-5


def test_one_row_and_fewer_rows_than_neighbours(problem):
    X, y, text, Q = problem
    model = TransCLIP(text).fit(X, y)
    for n in (1, 2, 3):
        assert np.isfinite(model.predict_proba(Q[:n])).all()


def test_classes_without_a_query_and_without_a_shot(problem):
    """The released code crashes where a class has no test row."""
    X, y, text, Q = problem
    model = TransCLIP(text).fit(X[y < 3], y[y < 3])
    assert np.isfinite(model.predict_proba(Q[np.arange(40) % 4 > 1])).all()


def test_bad_parameters(problem):
    X, y, text, _ = problem
    with pytest.raises(InputError, match="did you mean 'zero-shot'"):
        TransCLIP(text, setting="zeroshot").fit(X, y)
    with pytest.raises(InputError, match="neighbors"):
        TransCLIP(text, neighbors=0).fit(X, y)
