"""The trainer against a plain torch loop, and the laws of batching."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from cafe.kernels.reference import AdapterShape
from cafe.methods.objectives.clip_adapter import AdapterObjective
from cafe.training.trainer import Configuration, steps_for, train_many


def data(n=40, d=8, c=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = normalize(torch.randn(c, d, generator=generator, dtype=torch.float64), dim=-1)
    y = torch.arange(n) % c
    X = normalize(text[y] + 0.7 * torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)
    return X, y, text


def configuration(rows, seed=0, optimizer="adamw", **changes):
    values = {
        "rows": np.asarray(rows),
        "random_state": seed,
        "shape": AdapterShape("image", "paper", 2),
        "hyper": {"alpha": 0.3, "beta": 0.2, "logit_scale": 20.0},
        "steps": 30,
        "batch_size": 16,
        "lr": 1e-2,
        "weight_decay": 0.1,
        "optimizer": optimizer,
    }
    return Configuration(**{**values, **changes})


def plain_loop(X, y, text, settings):
    """What a user would write: nn.Linear, torch.optim, one configuration, the trainer's draws replayed."""
    generator = torch.Generator().manual_seed(settings.random_state)
    initial = AdapterObjective(text[None]).initial(settings, generator)
    down = torch.nn.Linear(X.shape[1], 2, bias=False, dtype=X.dtype)
    up = torch.nn.Linear(2, X.shape[1], bias=False, dtype=X.dtype)
    with torch.no_grad():
        down.weight.copy_(initial["image_down"].T)
        up.weight.copy_(initial["image_up"].T)
    weights = [down.weight, up.weight]
    if settings.optimizer == "adamw":
        optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=settings.weight_decay)
    else:
        optimizer = torch.optim.SGD(weights, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    rows, b = torch.as_tensor(settings.rows), min(settings.batch_size, len(settings.rows))
    stream = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(settings.steps)])
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        index = rows[stream[step * b : (step + 1) * b]]
        f = X[index]
        f = 0.3 * up(torch.relu(down(f))) + 0.7 * f
        loss = cross_entropy(20.0 * normalize(f, dim=-1) @ text.T, y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return down.weight.detach().T.numpy(), up.weight.detach().T.numpy()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_single_fit_is_the_plain_torch_loop(optimizer):
    X, y, text = data()
    settings = configuration(np.arange(40), optimizer=optimizer)
    (trained,) = train_many(AdapterObjective(text[None]), X, y, [settings])
    down, up = plain_loop(X, y, text, settings)
    np.testing.assert_allclose(trained.parameters["image_down"], down, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(trained.parameters["image_up"], up, rtol=1e-8, atol=1e-10)


def test_a_grid_gives_what_single_fits_give():
    X, y, text = data()
    grid = [
        configuration(np.arange(40), seed=0),
        configuration(np.arange(0, 40, 2), seed=1, hyper={"alpha": 0.8, "beta": 0.2, "logit_scale": 50.0}),
        configuration(np.arange(7), seed=2),
        configuration(np.arange(40), seed=3, shape=AdapterShape("both", "released", 3)),
        configuration(np.arange(40), seed=4, lr=1e-3, weight_decay=0.0),
        configuration(np.arange(40), seed=5, optimizer="sgd", steps=12),
    ]
    objective = AdapterObjective(text[None])
    for trained, settings in zip(train_many(objective, X, y, grid), grid, strict=True):
        (single,) = train_many(objective, X, y, [settings])
        assert trained.parameters.keys() == single.parameters.keys()
        for name, value in trained.parameters.items():
            # float64 fits agree to 1e-6 whatever they are batched with (DESIGN section 7).
            np.testing.assert_allclose(value, single.parameters[name], rtol=1e-6, atol=1e-8)
        assert trained.loss == pytest.approx(single.loss, rel=1e-6)


def test_a_grid_cut_by_memory_gives_the_same():
    X, y, text = data()
    grid = [configuration(np.arange(40), seed=seed) for seed in range(5)]
    objective = AdapterObjective(text[None])
    whole = train_many(objective, X, y, grid)
    memory = 2 * objective.activation_bytes(grid[0])
    for a, b in zip(whole, train_many(objective, X, y, grid, memory), strict=True):
        np.testing.assert_allclose(a.parameters["image_up"], b.parameters["image_up"], rtol=1e-6)


@pytest.mark.parametrize("in_a_stack", [1, 2, 3])
def test_the_batches_of_one_seed_are_drawn_once_for_all_its_ratios(in_a_stack, monkeypatch):
    X, y, text = data()
    grid = [
        configuration(np.arange(40), seed=seed, hyper={"alpha": alpha, "beta": 0.2, "logit_scale": 20.0})
        for alpha in (0.2, 0.5, 0.8)
        for seed in (0, 1)
    ]
    drawn, permute = [], torch.randperm

    def counted(n, **arguments):
        drawn.append(n)
        return permute(n, **arguments)

    monkeypatch.setattr(torch, "randperm", counted)
    objective = AdapterObjective(text[None])
    train_many(objective, X, y, grid, memory=in_a_stack * objective.activation_bytes(grid[0]))
    assert len(drawn) == 2 * math.ceil(30 * 16 / 40)


def test_every_row_is_seen_equally_often():
    X, y, text = data(n=10)
    counts = np.zeros(10)

    class Counting(AdapterObjective):
        def losses_and_gradients(self, batch):
            positions = (batch.features[0][:, None] == X[None]).all(-1).nonzero()[:, 1]
            np.add.at(counts, positions.numpy(), 1)
            return super().losses_and_gradients(batch)

    train_many(Counting(text[None]), X, y, [configuration(np.arange(10), batch_size=4, steps=25)])
    assert counts.tolist() == [10.0] * 10  # 25 steps of 4 rows are exactly 10 passes


def test_steps_for_counts_the_last_partial_batch():
    assert steps_for(1, 10, 4) == 3
    assert steps_for(2, 8, 4) == 4
    assert steps_for(5, 3, 256) == 5
