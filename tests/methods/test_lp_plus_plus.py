"""LP++ against a float64 loop written from its equations, with torch's own SGD."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from made_up_rows import unit

from cafe import LPPlusPlus, fit_many
from cafe.errors import InputError
from cafe.methods import lp_plus_plus


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    text = rng.normal(size=(4, 9))
    y = np.array([0, 0, 0, 1, 1, 3, 3, 3, 0, 1, 1, 3])  # no row of class 2
    return text[y[::-1]] + rng.normal(size=(12, 9)), y, text, rng.normal(size=(5, 9))


def replay(X, y, text, iterations, form):
    F, t, labels = torch.as_tensor(unit(X)), torch.as_tensor(unit(text)), torch.as_tensor(y)
    head = torch.nn.Linear(9, 4, bias=True, dtype=torch.float64)
    with torch.no_grad():
        head.bias.zero_()
        for c in range(4):
            head.weight[c] = F[labels == c].sum(0)
    start = np.mean([np.mean([float(f @ t[c]) for f in F[labels == c]]) for c in (0, 1, 3)])
    alpha = torch.full((4,), 250 * start, dtype=torch.float64, requires_grad=True)
    largest = np.linalg.svd(unit(X), compute_uv=False)[0] ** 2
    optimizer = torch.optim.SGD(head.parameters(), 4 * len(X) / largest, momentum=0.9)
    alpha_rate = len(X) / (4 * ((F @ t.T) ** 2).sum(0).max().item())
    for iteration in range(1, iterations + 1):
        loss = torch.nn.functional.cross_entropy(head(F) + alpha * (F @ t.T), labels)
        optimizer.zero_grad()
        if form == "paper":
            alpha.grad = None
        loss.backward()
        optimizer.step()
        if iteration % 10 == 0:
            alpha.data -= alpha_rate * alpha.grad
    return (head.weight + alpha[:, None] * t).detach().numpy(), head.bias.detach().numpy()


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("iterations", [1, 9, 35])
def test_every_step_is_the_equations(problem, form, iterations):
    X, y, text, queries = problem
    weights, bias = replay(X, y, text, iterations, form)
    model = LPPlusPlus(text, iterations=iterations, form=form, dtype="float64").fit(X, y)
    np.testing.assert_allclose(model.weights_, weights, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.logits(queries), unit(queries) @ weights.T + bias, rtol=1e-8, atol=1e-8)


def test_numbers_of_iterations_are_snapshots_of_one_run(problem):
    X, y, text, queries = problem
    many = fit_many(X, y, [LPPlusPlus(text, iterations=i) for i in (50, 3, 20)])
    for fit in many:
        single = LPPlusPlus(text, iterations=fit.iterations).fit(X, y)
        np.testing.assert_array_equal(fit.logits(queries), single.logits(queries))


def test_runs_on_a_thread_each_are_those_one_after_the_other(monkeypatch, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    text, y = rng.normal(size=(130, 512)), np.arange(910) % 130  # large enough for a thread each
    X = text[y] + rng.normal(size=(910, 512))
    rows = [np.arange(910), np.arange(800), np.arange(100, 910)]
    grid = [LPPlusPlus(text, iterations=n, dtype="float64") for n in (3, 20, 20)]
    alone = [fit_many(X, y, [model], [own])[0] for model, own in zip(grid, rows, strict=True)]
    threads = set()
    train = lp_plus_plus.train

    def noted(*arguments):
        threads.add(threading.current_thread().name)
        return train(*arguments)

    monkeypatch.setattr(lp_plus_plus, "train", noted)
    for own, other in zip(fit_many(X, y, grid, rows), alone, strict=True):
        np.testing.assert_allclose(own.weights_, other.weights_, rtol=1e-12)
        np.testing.assert_allclose(own.intercept_, other.intercept_, rtol=1e-12)
    assert threads and threading.main_thread().name not in threads


def test_bad_parameters(problem):
    X, y, text, _ = problem
    for parameters, words in (
        ({"iterations": 0}, "iterations"),
        ({"form": "code"}, "unknown form"),
        ({"dtype": "half"}, "unknown dtype"),
    ):
        with pytest.raises(InputError, match=words):
            LPPlusPlus(text, **parameters).fit(X, y)
