"""The cross-modal methods: gradients against autograd on the equations, text among the samples, inference."""

import numpy as np
import pytest
import torch
from made_up_rows import rows_around_text, unit

from cafe import CrossModalAdapter, CrossModalLinearProbe
from cafe.errors import InputError
from cafe.methods.objectives.cross_modal_linear_probe import CrossModalObjective
from cafe.training.trainer import Batch, Configuration


@pytest.fixture
def problem():
    return rows_around_text(np.arange(16) % 4, noise=1.0, width=12, seed=4)


@pytest.mark.parametrize("bottleneck", [0, 3])
@pytest.mark.parametrize("batch", [1, 5, 6])
def test_gradients_are_those_of_the_equation(bottleneck, batch):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    text, features, labels = draw(4, 12), draw(2, batch, 12), torch.randint(4, (2, batch), generator=generator)
    parameters = {"head": draw(2, 4, 12)}
    if bottleneck:
        parameters |= {"down": draw(2, 12, bottleneck), "up": draw(2, bottleneck, 12)}
    hyper = {"logit_scale": torch.tensor([3.0, 2.0]).double(), "ratio": torch.tensor([0.2, 0.7]).double()}
    objective = CrossModalObjective(text)
    losses, gradients = objective.losses_and_gradients(Batch(bottleneck, parameters, hyper, features, labels, None))
    rows = torch.arange(2 * batch).view(2, batch)
    step = objective.stepper(bottleneck, hyper, features.flatten(0, 1), labels.flatten(), None)
    step({k: 2 * v for k, v in parameters.items()}, rows.flip(0), False)  # leaves nothing behind
    torch.testing.assert_close(step(parameters, rows, True), (losses, gradients), rtol=1e-12, atol=1e-12)
    assert step(parameters, rows, False)[0] is None
    half = (batch + 1) // 2
    for g in range(2):
        own = {k: v[g].clone().requires_grad_() for k, v in parameters.items()}
        total = 0.0
        for x, c in [(features[g, i], labels[g, i]) for i in range(half)] + [
            (text[labels[g, i]], labels[g, i]) for i in range(batch - half, batch)
        ]:
            if bottleneck:
                adapted = torch.relu(torch.relu(x @ own["down"]) @ own["up"])
                x = hyper["ratio"][g] * adapted + (1 - hyper["ratio"][g]) * x
            logits = hyper["logit_scale"][g] * own["head"] @ x
            total = total + torch.logsumexp(logits, 0) - logits[c]
        loss = total / (2 * half)
        expected = torch.autograd.grad(loss, list(own.values()))
        assert losses[g].item() == pytest.approx(loss.item(), rel=1e-12)
        for name, value in zip(own, expected, strict=True):
            torch.testing.assert_close(gradients[name][g], value, rtol=1e-10, atol=1e-12)


def test_the_head_starts_at_the_text_and_the_adapter_as_a_linear_layer():
    text = torch.randn(4, 12)
    configuration = Configuration(np.arange(4), 0, 3, {}, 1, 8, 1e-3, 0.0, "adamw")
    start = CrossModalObjective(text).initial(configuration, torch.Generator().manual_seed(0))
    torch.testing.assert_close(start["head"], text)
    assert start["down"].abs().max() <= 1 / np.sqrt(12)
    assert 0.5 < start["up"].abs().max() * np.sqrt(3) <= 1


def test_inference_is_the_equation(problem):
    X, y, text, queries = problem
    probe = CrossModalLinearProbe(text, iterations=30, lr=0.01, random_state=0).fit(X, y)
    np.testing.assert_allclose(probe.logits(queries), 100 * unit(queries) @ probe.parameters_["head"].T, rtol=1e-5)
    model = CrossModalAdapter(text, alpha=0.3, iterations=30, lr=0.01, random_state=0).fit(X, y)
    p = model.parameters_
    adapted = np.maximum(np.maximum(unit(queries) @ p["down"], 0) @ p["up"], 0)
    expected = 100 * (0.3 * adapted + 0.7 * unit(queries)) @ p["head"].T
    np.testing.assert_allclose(model.logits(queries), expected, rtol=1e-4, atol=1e-3)


def test_training_lowers_the_loss(problem):
    X, y, text, _ = problem
    for method in (CrossModalLinearProbe, CrossModalAdapter):
        long, short = (method(text, iterations=i, lr=1e-3, random_state=0).fit(X, y[::-1]) for i in (300, 3))
        assert long.loss_ < short.loss_


def test_bad_parameters(problem):
    X, y, text, _ = problem
    with pytest.raises(InputError, match="iterations"):
        CrossModalLinearProbe(text, iterations=0).fit(X, y)
    with pytest.raises(InputError, match="from 0 to 1"):
        CrossModalAdapter(text, alpha=1.5).fit(X, y)
