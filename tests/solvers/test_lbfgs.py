"""L-BFGS whose pairs outlive a penalty."""

import numpy as np
import torch

from cafe.solvers.lbfgs import Point, minimise


def test_pairs_of_one_ridge_serve_another():
    """On a quadratic with a rank-three Hessian, three remembered steps are all there is to know, at any ridge."""
    A = torch.tensor(np.random.default_rng(0).normal(size=(3, 8)))
    b = torch.tensor([[1.0, -2.0, 0.5]]).double()

    def function(x):
        error = x @ A.T - b
        return Point(x, 0.5 * error.square().sum(1), error @ A)

    def run(ridge, memory):
        start = function(torch.zeros(1, 8).double())
        return minimise(function, start, torch.full((1, 1), ridge).double(), lambda q: q, 1e-12, 100, memory)

    memory = []
    first = run(0.1, memory)
    fresh, warm = run(0.02, []), run(0.02, memory)
    for minimum, ridge in ((first, 0.1), (warm, 0.02)):
        exact = torch.linalg.solve(A.T @ A + ridge * torch.eye(8), (b @ A)[0])
        torch.testing.assert_close(minimum.point.x[0], exact, rtol=1e-4, atol=1e-5)
    assert warm.iterations < fresh.iterations
