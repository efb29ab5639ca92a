"""TaskRes, the zero-shot-initialised probe and CLAP against a float64 training loop written from their equations.

A batch that holds all rows makes the fit independent of the batch order, so that every step can be replayed.
"""

import numpy as np
import pytest
import torch
from made_up_rows import unit

from cafe import CLAP, TaskRes, ZeroShotLinearProbe
from cafe.errors import InputError

STEPS = 12


@pytest.fixture
def problem():
    rng = np.random.default_rng(5)
    text = rng.normal(size=(4, 9))
    y = np.array([0, 1, 1, 3, 3, 3, 0])
    return text[y[::-1]] + rng.normal(size=(7, 9)), y, text


def gradient_of_loss(x, X, y, t, a, strength, decay, scale=100.0):
    """By torch's autograd, from torch's own cosine and cross-entropy."""
    x, X, y, t, strength = (torch.as_tensor(v) for v in (x, X, y, t, strength))
    x.requires_grad_()
    w = t + a * x
    cosines = torch.cosine_similarity(X[:, None, :], w[None, :, :], dim=-1)
    loss = torch.nn.functional.cross_entropy(scale * cosines, y)
    loss = loss + (strength * (w - t).square().sum(1)).mean() + decay / 2 * x.square().sum()
    return torch.autograd.grad(loss, x)[0].numpy()


def replay(X, y, t, a, strength, decay, lr, adam):
    """One warm-up step at 1e-5, then cosine."""
    x, m, v = np.zeros_like(t), np.zeros_like(t), np.zeros_like(t)
    for step in range(STEPS):
        rate = 1e-5 if step < 1 else lr * 0.5 * (1 + np.cos(np.pi * (step - 1) / (STEPS - 1)))
        g = gradient_of_loss(x.copy(), X, y, t, a, strength, decay)
        if adam:
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            x = x - rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        else:
            m = 0.9 * m + g
            x = x - rate * m
    return t + a * x


def zero_shot_confidence(X, y, text):
    z = 100 * unit(X) @ unit(text).T
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    own = p[np.arange(len(y)), y]
    return np.array([own[y == c].mean() if (y == c).any() else 1.0 for c in range(len(text))])


@pytest.mark.parametrize("name", ["zs-lp", "clap", "task-res"])
def test_every_step_is_the_equations(problem, name):
    X, y, text = problem
    shared = {"epochs": STEPS, "dtype": "float64", "random_state": 0}
    t = 9.0 * unit(text)
    if name == "zs-lp":
        model, expected = ZeroShotLinearProbe(text, **shared), replay(X, y, t, 1.0, np.zeros(4), 0.0, 0.1, False)
    elif name == "clap":
        strength = zero_shot_confidence(X, y, text)
        model, expected = CLAP(text, **shared), replay(X, y, t, 1.0, strength, 0.0, 0.1, False)
    else:
        model = TaskRes(text, alpha=0.5, weight_decay=0.1, lr=0.05, **shared)
        expected = replay(X, y, t, 0.5, np.zeros(4), 0.1, 0.05, True)
    model.fit(X, y)
    assert np.abs(expected - t).max() > 0.05
    # Adam divides a gradient by its own size, so rounding of a nearly vanishing one is magnified.
    np.testing.assert_allclose(model.weights_, expected, atol=1e-7 if name == "task-res" else 1e-10)
    np.testing.assert_allclose(model.logits(X), 100 * unit(X) @ unit(expected).T, atol=1e-5)


def test_clap_holds_classes_as_zero_shot_is_right_about_them(problem):
    X, y, text = problem
    model = CLAP(text, random_state=0, epochs=1).fit(X, y)
    np.testing.assert_allclose(model.strength_, zero_shot_confidence(X, y, text), rtol=1e-6)
    assert model.strength_[2] == 1.0


def test_text_norm_is_the_clock_of_training(problem):
    X, y, text = problem

    def turned(norm):
        weights = ZeroShotLinearProbe(text, text_norm=norm, epochs=5, random_state=0).fit(X, y).weights_
        return np.arccos(np.clip((unit(weights) * unit(text)).sum(axis=1), -1, 1)).max()

    assert turned(100.0) < turned(9.0)
    raw = ZeroShotLinearProbe(7 * unit(text), text_norm=None, normalize=False, epochs=5, random_state=0).fit(X, y)
    given = ZeroShotLinearProbe(text, text_norm=7.0, epochs=5, random_state=0).fit(X, y)
    np.testing.assert_allclose(raw.weights_, given.weights_, rtol=1e-9)


def test_task_res_counts_epochs_by_shots(problem):
    X, y, text = problem
    short = TaskRes(text, random_state=0).fit(X, y)
    long = TaskRes(text, random_state=0).fit(np.tile(X, (3, 1)), np.tile(y, 3))
    assert (short.n_steps_, long.n_steps_) == (100, 200)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"text_norm": 0.0}, "text_norm"),
        ({"lr": "fast"}, "or 'auto'"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"dtype": "half"}, "unknown dtype"),
        ({"random_state": "one"}, "must be an integer"),
    ],
)
def test_bad_parameters(problem, parameters, words):
    X, y, text = problem
    with pytest.raises(InputError, match=words):
        TaskRes(text, **parameters).fit(X, y)
