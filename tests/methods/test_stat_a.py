"""StatA against loops written from its equations in float64, and on batches of few classes."""

import warnings

import numpy as np
import pytest
from made_up_rows import rows_around_text, unit

from cafe import StatA, TransCLIP, ZeroShot
from cafe.errors import InputError


@pytest.fixture
def problem():
    return rows_around_text(np.arange(24) % 4, noise=0.8)[:3]


def derived(Q, text, alpha, scale, iterations=10, k=3):
    """One row and one class at a time."""
    n, c = len(Q), len(text)
    p = np.exp(scale * Q @ text.T)
    p /= p.sum(axis=1, keepdims=True)
    W = np.zeros((n, n))
    for i in range(n):
        affinity = Q @ Q[i]
        affinity[i] = -np.inf
        nearest = np.argsort(-affinity)[:k]
        W[i, nearest] = np.maximum(affinity[nearest], 0)
    V = sum(p[i, j] * (Q[i] - text[j]) ** 2 for i in range(n) for j in range(c)) / n
    mu, v, z = [t.copy() for t in text], [V.copy() for _ in text], p.copy()
    for iteration in range(iterations + 1):
        density = np.zeros((n, c))
        for i in range(n):
            for j in range(c):
                density[i, j] = -0.5 * (((Q[i] - mu[j]) ** 2 / v[j]).sum() + np.log(v[j]).sum())
        for _ in range(5):
            z_new = p * np.exp(density / 50 + W @ z - (density / 50).max(axis=1, keepdims=True))
            z = z_new / z_new.sum(axis=1, keepdims=True)
        if iteration == iterations:
            break
        best = z.argmax(axis=1)
        for j in range(c):
            beta = (best == j).sum() / ((best == j).sum() + alpha)
            mean = sum(z[i, j] * Q[i] for i in range(n)) / z[:, j].sum()
            mu[j] = beta * mean + (1 - beta) * text[j]
            spread = sum(z[i, j] * (Q[i] - mu[j]) ** 2 for i in range(n)) / z[:, j].sum()
            v[j] = beta * spread + (1 - beta) * (V + (mu[j] - text[j]) ** 2)
    return z


@pytest.mark.parametrize("alpha", [1.0, 7.0])
def test_is_its_equations(problem, alpha):
    X, y, text = problem
    expected = derived(unit(X), unit(text), alpha, 20.0)
    probabilities = StatA(text, alpha=alpha, logit_scale=20.0).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-7, atol=1e-12)


def features(n_classes, rows_of, seed):
    """Rows about images of classes, all of them at one distance from their text, as CLIP's are; text is 84 % right."""
    rng = np.random.default_rng(seed)
    base, gap = unit(rng.normal(size=(n_classes, 256))), 3 * unit(rng.normal(size=256))
    text = unit(base + unit(rng.normal(size=base.shape)))
    y = np.concatenate([np.full(n, k) for k, n in rows_of.items()])
    return unit(base[y] + gap + 2 * unit(rng.normal(size=(len(y), 256)))), y, text


def test_batches_of_few_classes_are_not_wrecked_where_trans_clip_says_that_it_is():
    zero_shot, anchored, mixture = [], [], []
    for seed in range(6):
        X, y, text = features(30, {seed: 20, seed + 7: 20, seed + 11: 20}, seed)
        zero_shot.append(ZeroShot(text).fit(X, y).score(X, y))
        anchored.append(StatA(text, logit_scale=30.0).fit(X, y).score(X, y))
        with pytest.warns(UserWarning, match="of 30 classes.*stat-a"):
            mixture.append(TransCLIP(text, setting="zero-shot", logit_scale=30.0).fit(X, y).score(X, y))
    assert np.mean(anchored) > np.mean(zero_shot) + 0.05
    assert np.mean(mixture) < np.mean(zero_shot) - 0.1


def test_trans_clip_does_not_warn_on_a_batch_of_all_classes_or_of_one_row():
    X, y, text = features(30, dict.fromkeys(range(30), 2), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TransCLIP(text).fit(X, y)
        for batch in (X, X[:1], X[:2]):
            model.predict(batch)


def test_other_classes_and_small_batches(problem):
    X, y, text = problem
    model = StatA(text).fit(X, y)
    assert model.chosen_on() == "the batch"
    moved = model.for_classes(text[:2])
    np.testing.assert_array_equal(moved.predict_proba(X), StatA(text[:2]).fit(X[:2], [0, 1]).predict_proba(X))
    for n in (1, 2, 3):
        assert np.isfinite(model.predict_proba(X[:n])).all()


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_rows_stay_finite(problem, dtype):
    X, y, text = problem
    odd = np.concatenate([X, np.zeros((3, 9)), np.full((2, 9), 1e20), text, -text, X[:1].repeat(9, 0)]).astype(dtype)
    for scale in (1e-3, 100.0, 1e4):
        model = StatA(text, logit_scale=scale).fit(X, y)
        for batch in (odd, odd[24:27], odd[29:33], odd[-9:]):
            assert np.isfinite(model.predict_proba(batch)).all()


def test_bad_settings(problem):
    X, y, text = problem
    with pytest.raises(InputError, match="alpha of stat-a must be a number, above 0, but is 0"):
        StatA(text, alpha=0).fit(X, y)
    with pytest.raises(InputError, match="neighbors of stat-a"):
        StatA(text, neighbors=1.5).fit(X, y)
