"""Fewer rows than columns: the probe is solved in the span of the rows, and is the same probe."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cafe import LinearProbe
from cafe.methods import fit_many


@pytest.fixture(scope="module")
def few():
    """24 unit rows of 4 classes in 40 columns, in float64."""
    rng = np.random.default_rng(0)
    y = np.arange(24) % 4
    X = rng.normal(size=(4, 40))[y] + 2 * rng.normal(size=(24, 40))
    return X / np.linalg.norm(X, axis=1, keepdims=True), y


@pytest.mark.parametrize("C", [0.1, 10.0, 1000.0])
def test_weights_are_scikit_learns(few, C):
    """The minimum is unique up to a constant in the intercepts; both stop within 1e-8 or so of it."""
    X, y = few
    expected = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(X, y)
    fit = LinearProbe(C=C, normalize=False).fit(X, y)
    scale = np.abs(expected.coef_).max()
    np.testing.assert_allclose(fit.coef_, expected.coef_, rtol=0, atol=1e-3 * scale)
    intercept = fit.intercept_ - fit.intercept_.mean()
    np.testing.assert_allclose(intercept, expected.intercept_ - expected.intercept_.mean(), rtol=0, atol=1e-3 * scale)


def test_rows_that_overlap_and_repeat_share_one_span(few):
    X, y = few
    rows = [np.arange(16), np.arange(8, 24), np.array([0, 1, 2, 3, 0, 1, 2, 3])]
    fits = fit_many(X, y, [LinearProbe(C=5.0)] * 3, rows)
    for fit, own in zip(fits, rows, strict=True):
        single = LinearProbe(C=5.0).fit(X[own], y[own])
        np.testing.assert_allclose(fit.logits(X), single.logits(X), rtol=0, atol=1e-3 * np.abs(single.logits(X)).max())


def test_equal_rows_leave_the_span_smaller_than_the_rows(few):
    X, y = few
    double, labels = np.concatenate([X[:8], X[:8]]), np.concatenate([y[:8], y[:8]])
    once, twice = LinearProbe(C=5.0).fit(X[:8], y[:8]), LinearProbe(C=2.5).fit(double, labels)
    np.testing.assert_allclose(twice.logits(X), once.logits(X), rtol=0, atol=1e-3 * np.abs(once.logits(X)).max())


def test_the_search_fits_its_problem_once_and_finds_what_single_fits_find(monkeypatch):
    """Its nine calls share one path of solutions; accuracies are those of fits from the start."""
    import cafe.solvers.logistic as logistic
    from cafe.methods import fit_many
    from cafe.protocol.selection import choose, few_shot_val

    rng = np.random.default_rng(3)
    means, y = rng.normal(size=(6, 20)), np.arange(300) % 6
    X = (means[y] + 1.5 * rng.normal(size=(300, 20))).astype(np.float32)
    made, build, scored = [], logistic.PenaltyPath.__init__, {}
    monkeypatch.setattr(logistic.PenaltyPath, "__init__", lambda *a, **k: made.append(1) or build(*a, **k))
    scorer = few_shot_val(fit_many, X, y, np.arange(200), (X[200:], y[200:]))

    def score(candidates):
        scores = scorer(candidates)
        scored.update({candidate.C: float(score) for candidate, score in zip(candidates, scores, strict=True)})
        return scores

    chosen, _ = choose(LinearProbe(C="auto"), "few-shot-val", score)
    assert len(made) == 1 and len(scored) == 7 + 16
    assert chosen._paths is None
    for C, accuracy in scored.items():
        assert LinearProbe(C=C).fit(X[:200], y[:200]).score(X[200:], y[200:]) == pytest.approx(accuracy, abs=0.011)


@pytest.mark.parametrize(
    ("classes", "width", "problems"), [(6, 20, [(3, 300)]), (80, 128, [(1, 320)] * 3)], ids=["small", "large"]
)
def test_small_folds_are_solved_side_by_side_and_large_ones_on_their_own_rows(classes, width, problems, monkeypatch):
    import cafe.solvers.logistic as logistic

    rng = np.random.default_rng(4)
    n = 300 if classes == 6 else 480
    means, y = rng.normal(size=(classes, width)), np.arange(n) % classes
    X = (means[y] + 1.5 * rng.normal(size=(n, width))).astype(np.float32)
    rows = [np.flatnonzero(np.arange(n) // classes % 3 != k) for k in range(3)]
    candidates = [LinearProbe(means, C=C) for C in (0.1, 10.0)]
    sizes, build = [], logistic.SoftmaxLoss.__init__
    monkeypatch.setattr(
        logistic.SoftmaxLoss, "__init__", lambda self, *a: build(self, *a) or sizes.append((self.g, self.n))
    )
    together = fit_many(X, y, candidates * 3, [own for own in rows for _ in candidates])
    assert sizes == problems
    for k, fit in enumerate(together):
        own = rows[k // 2]
        alone = LinearProbe(means, C=fit.C).fit(X[own], y[own])
        np.testing.assert_allclose(fit.logits(X), alone.logits(X), rtol=0, atol=0.02 * np.abs(alone.logits(X)).max())
