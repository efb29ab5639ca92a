"""The loss against autograd, the model of the Hessian against the Hessian, its inverse against dense solves."""

import numpy as np
import pytest
import torch

from cafe.solvers.lbfgs import minimise
from cafe.solvers.logistic import _Path, logistic_path
from cafe.solvers.softmax_loss import Curvature, Preconditioner, SoftmaxLoss


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
    found = loss(flat.detach())
    torch.testing.assert_close(found.f, value.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.df, gradient, rtol=1e-10, atol=1e-12)


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
    found = Preconditioner(model, *torch.linalg.eigh(model.S), ridge, seen)(q.view(2, -1)).view(2, 5, 3)
    for g in range(2):
        solved = torch.zeros(5, 3).double()
        for c in range(3):
            k, m = model.k[g, c], model.m[g, :, c]
            H = torch.zeros(5, 5).double()
            H[:4, :4] = k * (model.S + torch.outer(m, m)) + ridge[g] * torch.eye(4)
            H[:4, 4], H[4, :4], H[4, 4] = k * m, k * m, k
            solved[:, c] = torch.linalg.solve(H, q[g, :, c])
        solved -= solved[:, seen[g]].mean(1, keepdim=True)
        torch.testing.assert_close(found[g, :, seen[g]], solved[:, seen[g]])
        assert (found[g, :, ~seen[g]] == 0).all()


def test_pairs_of_one_ridge_serve_another():
    """On a quadratic with a rank-three Hessian, three remembered steps are all there is to know, at any ridge."""
    A = torch.tensor(np.random.default_rng(0).normal(size=(3, 8)))
    b = torch.tensor([[1.0, -2.0, 0.5]]).double()

    def function(x):
        from cafe.solvers.lbfgs import Point

        error = x @ A.T - b
        return Point(x, 0.5 * error.square().sum(1), error @ A)

    def run(ridge, memory):
        start = function(torch.zeros(1, 8).double())
        return minimise(function, start, torch.full((1, 1), ridge).double(), lambda q: q, 1e-12, 100, memory)

    memory = []
    first = run(0.1, memory)
    fresh, warm = run(0.02, []), run(0.02, memory)
    for found, ridge in ((first, 0.1), (warm, 0.02)):
        exact = torch.linalg.solve(A.T @ A + ridge * torch.eye(8), (b @ A)[0])
        torch.testing.assert_close(found.point.x[0], exact, rtol=1e-4, atol=1e-5)
    assert warm.iterations < fresh.iterations


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


def test_far_values_of_C_are_approached_in_steps():
    X, y, _, _ = problem()
    path = _Path(SoftmaxLoss(X, y, 5, np.ones((1, 60), np.int64), torch.float64), 100)
    steps = path.steps_to(1e4 * path.easy)
    ratios = np.diff(np.log([path.easy, *steps]))
    np.testing.assert_allclose(ratios, ratios[0])
    assert ratios[0] <= np.log(8) * 1.000001
    assert len(steps) == 5
    assert steps[-1] == pytest.approx(1e4 * path.easy)
    assert path.steps_to(path.easy / 2) == [path.easy / 2]
