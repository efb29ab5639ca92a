"""The path against scikit-learn's objective and against SciPy run to the end; folds, missing classes, streaming.

Then what it is made of: the loss against autograd, the model of the Hessian against the Hessian, its inverse against
dense solves, and how the path moves.
"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from cafe.solvers.logistic import Curvature, PenaltyPath, Preconditioner, SoftmaxLoss, logistic_path


def data(n=120, d=10, c=5, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(c, d))
    y = np.arange(n) % c
    return means[y] + 2.0 * rng.normal(size=(n, d)) + 3.0, y  # far from zero: the intercept has work to do


def objective(coef, intercept, X, y, C):
    """scikit-learn's: C times the summed losses plus half the squared norm."""
    logits = X @ coef.T + intercept
    logits -= logits.max(1, keepdims=True)
    return C * (np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]).sum() + 0.5 * (coef**2).sum()


# 8 rows of 20 features span 7 directions; 400 rows of 10 with 20 classes get a new model of S at each C.
@pytest.mark.parametrize("shape", [(120, 10, 5), (8, 20, 4), (400, 10, 20)])
@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0, 100.0])
def test_minimum_is_scikit_learns(C, shape):
    X, y = data(*shape)
    model = LogisticRegression(C=C, tol=1e-9, max_iter=5000).fit(X, y)
    best = objective(model.coef_, model.intercept_, X, y, C)
    ((fit,),) = logistic_path(torch.tensor(X), y, shape[2], [C], tolerance=1e-12, dtype=torch.float64)
    assert fit.converged
    assert objective(fit.coef, fit.intercept, X, y, C) == pytest.approx(best, rel=1e-8)
    assert fit.objective == pytest.approx(best, rel=1e-8)
    np.testing.assert_allclose(X @ fit.coef.T + fit.intercept, model.decision_function(X), atol=1e-3)


def test_default_tolerance_is_within_a_ten_thousandth_in_float32():
    X, y = data(400, 40, 8)
    path = [1e-3, 1e-1, 10.0, 1e3]
    fits = logistic_path(torch.tensor(X, dtype=torch.float32), y, 8, path)
    for C, (fit,) in zip(path, fits, strict=True):
        model = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(X, y)
        best = objective(model.coef_, model.intercept_, X, y, C)
        assert objective(fit.coef.astype(float), fit.intercept.astype(float), X, y, C) <= best * (1 + 1e-4)


def test_folds_side_by_side_are_single_fits_and_order_of_C_does_not_matter():
    X, y = data()
    weights = np.stack([np.arange(120) % 3 != k for k in range(3)]).astype(np.int64)
    many = logistic_path(torch.tensor(X), y, 5, [10.0, 0.1], weights, tolerance=1e-13, dtype=torch.float64)
    for k in range(3):
        used = weights[k] > 0
        alone = logistic_path(torch.tensor(X[used]), y[used], 5, [0.1, 10.0], tolerance=1e-13, dtype=torch.float64)
        for a, b in ((many[0][k], alone[1][0]), (many[1][k], alone[0][0])):
            assert a.objective == pytest.approx(b.objective, rel=1e-9)
            np.testing.assert_allclose(a.coef, b.coef, atol=1e-4)


def test_a_row_that_counts_twice_is_two_rows():
    X, y = data(30)
    twice = np.ones((1, 30), dtype=np.int64)
    twice[0, 4] = 2
    (((a,),), ((b,),)) = (
        logistic_path(torch.tensor(X), y, 5, [1.0], twice, tolerance=1e-13, dtype=torch.float64),
        logistic_path(torch.tensor(np.vstack([X, X[4:5]])), np.append(y, y[4]), 5, [1.0], None,
                      tolerance=1e-13, dtype=torch.float64),
    )  # fmt: skip
    assert a.objective == pytest.approx(b.objective, rel=1e-9)


def test_classes_without_a_row_have_no_probability_and_two_classes_are_binary():
    X, y = data()
    two = y < 2
    ((fit,),) = logistic_path(torch.tensor(X[two]), y[two], 5, [0.5], tolerance=1e-13, dtype=torch.float64)
    assert np.isneginf(fit.intercept[2:]).all()
    assert (fit.coef[2:] == 0).all()
    model = LogisticRegression(C=0.5, tol=1e-10).fit(X[two], y[two])
    margin = X @ (fit.coef[1] - fit.coef[0]) + fit.intercept[1] - fit.intercept[0]
    np.testing.assert_allclose(margin, model.decision_function(X), atol=1e-4)


def test_features_on_disk_pass_in_blocks(tmp_path):
    X, y = data()
    stored = np.memmap(tmp_path / "x", dtype=np.float16, mode="w+", shape=X.shape)
    stored[:] = X
    whole = logistic_path(torch.tensor(np.array(stored)), y, 5, [1.0], tolerance=1e-12, dtype=torch.float64)
    small = 8 * 15 * 17  # 17 rows at a time
    parts = logistic_path(stored, y, 5, [1.0], tolerance=1e-12, dtype=torch.float64, block_bytes=small)
    assert parts[0][0].objective == pytest.approx(whole[0][0].objective, rel=1e-10)
    np.testing.assert_allclose(parts[0][0].coef, whole[0][0].coef, atol=1e-5)


def problem(n=60, d=4, c=5, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    X = torch.tensor(rng.normal(size=(c, d))[y] + rng.normal(size=(n, d)) + 1.0)
    weights = np.stack([np.ones(n, np.int64), rng.integers(0, 3, n)])
    return X, y, weights, rng


def direct(loss, X, y, weights, flat):
    """The mean cross-entropy of both problems, as its definition has it."""
    W = flat.view(2, X.shape[1] + 1, -1)
    logits = (X - X.mean(0)) @ W[:, :-1] + W[:, -1:]  # (g, n, c)
    each = torch.logsumexp(logits, -1) - logits[:, torch.arange(len(y)), torch.as_tensor(y)]
    u = torch.as_tensor(weights).double()
    return (each * u).sum(1) / u.sum(1)


def test_value_and_gradient_are_autograds():
    X, y, weights, rng = problem()
    loss = SoftmaxLoss(X, y, 5, weights, torch.float64)
    flat = torch.tensor(rng.normal(size=(2, 25)), requires_grad=True)
    value = direct(loss, X, y, weights, flat)
    (gradient,) = torch.autograd.grad(value.sum(), flat)
    point = loss(flat.detach())
    torch.testing.assert_close(point.f, value.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(point.df, gradient, rtol=1e-10, atol=1e-12)


def test_model_is_the_hessians_block_at_zero_and_keeps_weights_and_means_elsewhere():
    X, y, _, rng = problem()
    loss = SoftmaxLoss(X, y, 5, np.ones((1, 60), np.int64), torch.float64)
    for scale in (0.0, 1.0):
        flat = scale * torch.tensor(rng.normal(size=(1, 25)))
        _, model = loss.evaluate(flat, model=True, pooled=True)
        rows = torch.cat([loss.X, torch.ones(60, 1)], 1)
        p = torch.softmax(rows @ flat.view(5, 5), 1)
        for c in range(5):
            block = (rows.T * (p[:, c] * (1 - p[:, c]) / 60)) @ rows  # exact
            k, m = model.k[0, c], model.m[0, :, c]
            torch.testing.assert_close(block[-1], torch.cat([k * m, k[None]]))
            if scale == 0:
                torch.testing.assert_close(block[:-1, :-1], k * (model.S + torch.outer(m, m)))


def test_preconditioner_solves_with_the_model():
    _, _, _, rng = problem()
    A = torch.tensor(rng.normal(size=(4, 4)))
    model = Curvature(torch.tensor(rng.uniform(0.1, 1, (2, 3))), torch.tensor(rng.normal(size=(2, 4, 3))), A @ A.T)
    ridge, seen = torch.tensor([0.01, 0.3]).double(), torch.tensor([[True] * 3, [True, False, True]])
    q = torch.tensor(rng.normal(size=(2, 5, 3)))
    solution = Preconditioner(model, *torch.linalg.eigh(model.S), ridge, seen)(q.view(2, -1)).view(2, 5, 3)
    for g in range(2):
        solved = torch.zeros(5, 3).double()
        for c in range(3):
            k, m = model.k[g, c], model.m[g, :, c]
            H = torch.zeros(5, 5).double()
            H[:4, :4] = k * (model.S + torch.outer(m, m)) + ridge[g] * torch.eye(4)
            H[:4, 4], H[4, :4], H[4, 4] = k * m, k * m, k
            solved[:, c] = torch.linalg.solve(H, q[g, :, c])
        solved -= solved[:, seen[g]].mean(1, keepdim=True)
        torch.testing.assert_close(solution[g, :, seen[g]], solved[:, seen[g]])
        assert (solution[g, :, ~seen[g]] == 0).all()


@pytest.mark.parametrize("path", [[1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6], list(np.logspace(-2, 3, 15))])
def test_a_path_takes_fewer_passes_than_its_members_alone(path, monkeypatch):
    X, y, _, _ = problem(400, 30, 8)
    passes = []
    evaluate = SoftmaxLoss.evaluate
    monkeypatch.setattr(SoftmaxLoss, "evaluate", lambda *a, **k: passes.append(1) or evaluate(*a, **k))
    together = logistic_path(X, y, 8, path, dtype=torch.float64)
    path_passes = len(passes)
    alone = [logistic_path(X, y, 8, [C], dtype=torch.float64)[0] for C in path]
    assert path_passes < 0.7 * (len(passes) - path_passes)
    for (a,), (b,) in zip(together, alone, strict=True):
        assert a.objective == pytest.approx(b.objective, rel=1e-4)


def test_a_search_that_comes_back_finds_what_single_fits_find_in_few_passes(monkeypatch):
    """Decades, then halved steps, one call after the other: at each C the minimum, from solutions on both sides."""
    X, y, _, _ = problem(400, 30, 8)
    passes = []
    evaluate = SoftmaxLoss.evaluate
    monkeypatch.setattr(SoftmaxLoss, "evaluate", lambda *a, **k: passes.append(1) or evaluate(*a, **k))
    path = PenaltyPath(SoftmaxLoss(X, y, 8, np.ones((1, 400), np.int64), torch.float64), 1000)
    asked = [[1e4, 1e2, 1.0, 1e-2], [10.0, 1e3], [3.0, 31.0], [5.6, 18.0], [1e-4, 1e-3], [7.5, 13.0], [1e4]]
    fits = {C: fit for call in asked for C, (fit,) in zip(call, path.fits(call, 1e-11), strict=True)}
    warm = len(passes)
    for C, fit in fits.items():
        ((alone,),) = logistic_path(X, y, 8, [C], tolerance=1e-11, dtype=torch.float64)
        assert fit.objective == pytest.approx(alone.objective, rel=1e-5)
        model = LogisticRegression(C=C, tol=1e-9, max_iter=5000).fit(X.numpy(), y)
        best = objective(model.coef_, model.intercept_, X.numpy(), y, C)
        assert objective(fit.coef, fit.intercept, X.numpy(), y, C) == pytest.approx(best, rel=1e-5)
    assert warm < 0.6 * (len(passes) - warm)  # 0.5 when written


def test_the_hessian_is_modelled_anew_only_where_C_has_moved(monkeypatch):
    X, y, _, _ = problem(400, 30, 8)
    models, evaluate = [], SoftmaxLoss.evaluate

    def counted(self, flat, model=False, pooled=False):
        models.append(model)
        return evaluate(self, flat, model, pooled)

    path = PenaltyPath(SoftmaxLoss(X, y, 8, np.ones((1, 400), np.int64), torch.float64), 1000)
    path.fits([1.0, 4.0], 1e-9)
    monkeypatch.setattr(SoftmaxLoss, "evaluate", counted)
    path.fits([5.0, 3.0], 1e-9)
    assert models and not any(models)
    path.fits([9.0], 1e-9)
    assert sum(models) == 1


def test_a_path_lets_go_of_the_furthest_solutions(monkeypatch):
    X, y, _, _ = problem()
    path = PenaltyPath(SoftmaxLoss(X, y, 5, np.ones((1, 60), np.int64), torch.float64), 1000)
    path.most_kept = 2
    for C in (0.1, 1.0, 10.0, 2.0):
        path.fits([C], 1e-9)
    assert len(path.solved) == 2 and 2.0 in [C for C, _ in path.solved]


def test_far_values_of_C_are_approached_in_steps():
    X, y, _, _ = problem()
    path = PenaltyPath(SoftmaxLoss(X, y, 5, np.ones((1, 60), np.int64), torch.float64), 100)
    steps = path.steps_to(1e4 * path.easy_C)
    ratios = np.diff(np.log([path.easy_C, *steps]))
    np.testing.assert_allclose(ratios, ratios[0])
    assert ratios[0] <= np.log(8) * 1.000001
    assert len(steps) == 5
    assert steps[-1] == pytest.approx(1e4 * path.easy_C)
    assert path.steps_to(path.easy_C / 2) == [path.easy_C / 2]
