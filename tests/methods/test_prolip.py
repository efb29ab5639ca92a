"""ProLIP against torch's own Adam on the equation, before and after the projection."""

import numpy as np
import pytest
import torch
from made_up_rows import unit

from cafe import ProLIP, fit_many
from cafe.errors import InputError


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    W0, text = rng.normal(size=(14, 9)), rng.normal(size=(4, 9))
    y = np.array([0, 0, 1, 1, 3, 3, 3, 2])
    return rng.normal(size=(8, 14)), y, text, W0, rng.normal(size=9), rng.normal(size=(5, 14))


def replay(X, y, text, W0, bias, lr, strength, steps):
    X, t, W0, bias = (torch.as_tensor(v) for v in (X, unit(text), W0, bias))
    W = torch.nn.Parameter(W0.clone())
    optimizer = torch.optim.Adam([W], lr=lr, eps=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        cosines = torch.nn.functional.normalize(X @ W + bias, dim=-1) @ t.T
        loss = torch.nn.functional.cross_entropy(100 * cosines, torch.as_tensor(y)) + strength * ((W - W0) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return W.detach().numpy()


def test_every_step_is_the_equations_before_the_projection(problem):
    X, y, text, W0, bias, queries = problem
    expected = replay(X, y, text, W0, bias, 0.01, 1 / 3, 40)
    model = ProLIP(text, projection=W0, bias=bias, lr=0.01, steps=40, dtype="float64").fit(X, y)
    assert model.strength_ == pytest.approx(1 / 3)
    assert np.abs(expected - W0).max() > 0.05
    np.testing.assert_allclose(model.projection_, expected, atol=1e-9)
    np.testing.assert_allclose(model.logits(queries), 100 * unit(queries @ expected + bias) @ unit(text).T, atol=1e-6)


def test_every_step_is_the_equations_after_it(problem):
    _, y, text, _, _, _ = problem
    X = np.random.default_rng(0).normal(size=(8, 9))
    expected = replay(unit(X), y, text, np.eye(9), np.zeros(9), 0.01, 1 / 9, 40)
    model = ProLIP(text, strength="1/n2", lr=0.01, steps=40, dtype="float64").fit(X, y)
    np.testing.assert_allclose(model.projection_, expected, atol=1e-9)


def test_many_projections_and_rows_at_once(problem):
    X, y, text, W0, _, queries = problem
    grid = [ProLIP(t, projection=W, lr=0.01) for W in (W0, 2 * W0) for t in (text, None)]
    rows = [np.arange(8), np.arange(7), np.arange(1, 8), np.arange(8)]
    for fit, chosen in zip(fit_many(X, y, grid, rows), rows, strict=True):
        single = ProLIP(**fit.get_params()).fit(X[chosen], y[chosen])
        np.testing.assert_allclose(fit.logits(queries), single.logits(queries), rtol=1e-4, atol=1e-3)


def test_auto_is_chosen_on_features_before_the_projection(problem):
    X, y, text, W0, _, _ = problem
    model = ProLIP(text, projection=W0, lr="auto", steps=20, random_state=0).fit(np.tile(X, (2, 1)), np.tile(y, 2))
    assert model.selection_["candidates"] == 7
    assert model.n_features_in_ == 14


def test_bad_parameters(problem):
    X, y, text, W0, _, _ = problem
    for parameters, words in (
        ({"projection": W0[:5]}, "width 5, but X has shape"),
        ({"projection": W0[0]}, "must be"),
        ({"projection": W0, "bias": np.zeros(3)}, "bias of ProLIP"),
        ({"projection": W0, "strength": "1/k"}, "strength"),
        ({"projection": W0, "steps": 0}, "steps"),
    ):
        with pytest.raises(InputError, match=words):
            ProLIP(text, **parameters).fit(X, y)


def test_scoring_changes_no_parameter(monkeypatch):
    """Threads score with one fitted method; a parameter that changes meanwhile would change their logits."""
    X, y, text = (np.eye(3, dtype=np.float32), np.arange(3), np.eye(3, dtype=np.float32))
    model = ProLIP(text, projection=np.eye(3, dtype=np.float32), steps=2, random_state=0).fit(X, y)
    monkeypatch.setattr(ProLIP, "__setattr__", lambda self, name, value: pytest.fail(f"{name} was set"))
    assert model.logits(X).shape == (3, 3)
