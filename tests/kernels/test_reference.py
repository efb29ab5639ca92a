"""The reference kernel against the paper's equation in float64 NumPy, and its gradients against finite differences."""

import numpy as np
import pytest
import torch
from adapter_problem import adapter_parameters, normal_numbers

from cafe.kernels.reference import AdapterShape, adapter_losses, adapter_losses_and_gradients

SHAPES = [
    AdapterShape(variant, form, 3, alpha, beta)
    for variant in ("image", "text", "both")
    for form in ("paper", "released")
    for alpha, beta in (("fixed", "fixed"), ("scalar", "scalar"), ("learned", "learned"))
]


def problem(shape, g=2, b=5, c=4, d=7):
    generator = torch.Generator().manual_seed(0)
    draw = normal_numbers(generator)
    parameters = adapter_parameters(shape, draw, g, d)
    values = {"alpha": [0.2, 0.7], "beta": [0.4, 0.1], "logit_scale": [10.0, 3.0]}
    hyper = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in values.items()}
    labels = torch.randint(0, c, (g, b), generator=generator)
    return parameters, hyper, draw(g, b, d), labels, draw(1, c, d), draw(g, 1, d)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(shape, parameters, hyper, features, labels, text, mean):
    """One configuration after the other, one row after the other, straight from the equations."""
    losses = []
    for k in range(len(features)):
        p = {name: value[k].numpy() for name, value in parameters.items()}
        f, w, m = features[k].numpy(), text[0].numpy(), mean[k, 0].numpy()

        def adapter(x, side, p=p):
            out = np.maximum(x @ p[f"{side}_down"], 0) @ p[f"{side}_up"]
            return np.maximum(out, 0) if shape.form == "released" else out

        def ratio(name, mode, row, other, p=p, k=k):
            if mode == "fixed":
                return hyper[name][k].item()
            if mode == "scalar":
                return sigmoid(np.log(0.2 / 0.8) + p[f"{name}_bias"])
            hidden = np.tanh(row @ p[f"{name}_own"] + other @ p[f"{name}_other"])
            return sigmoid(np.log(0.2 / 0.8) + p[f"{name}_bias"] + hidden @ p[f"{name}_out"])

        classes = []
        for row in w:
            if shape.adapts_text:
                beta = ratio("beta", shape.beta_mode, row, m)
                row = beta * adapter(row, "text") + (1 - beta) * row
            classes.append(row / np.linalg.norm(row))
        total = 0.0
        for row, label in zip(f, labels[k].numpy(), strict=True):
            if shape.adapts_image:
                alpha = ratio("alpha", shape.alpha_mode, row, w.mean(axis=0))
                row = alpha * adapter(row, "image") + (1 - alpha) * row
            logits = hyper["logit_scale"][k].item() * np.array([row @ c for c in classes]) / np.linalg.norm(row)
            total += np.log(np.exp(logits).sum()) - logits[label]
        losses.append(total / len(f))
    return losses


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.variant}-{s.form}-{s.alpha_mode}")
def test_losses_are_the_papers_equation(shape):
    inputs = problem(shape)
    np.testing.assert_allclose(adapter_losses(shape, *inputs).numpy(), by_hand(shape, *inputs), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.variant}-{s.form}-{s.alpha_mode}")
def test_gradients_are_those_of_each_configurations_own_loss(shape):
    parameters, *rest = problem(shape)
    losses, gradients = adapter_losses_and_gradients(shape, parameters, *rest)
    assert losses.shape == (2,)
    step = 1e-6
    for name, value in parameters.items():
        flat = value.reshape(2, -1)
        for k in range(2):
            i = flat.shape[1] // 2
            moved = []
            for sign in (1, -1):
                changed = {n: v.clone() for n, v in parameters.items()}
                changed[name].view(2, -1)[k, i] += sign * step
                moved.append(by_hand(shape, changed, *rest)[k])
            numeric = (moved[0] - moved[1]) / (2 * step)
            # Central differences are off by O(step^2) and by rounding of about 1e-16 / step.
            assert gradients[name].reshape(2, -1)[k, i].item() == pytest.approx(numeric, rel=1e-5, abs=1e-8)
