"""The projected form of the CPU kernel against autograd, and when it is taken."""

import pytest
import torch
from torch.nn.functional import normalize

from cafe.kernels import cpu_projected
from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_projected import (
    CpuCheapestStep,
    CpuProjectedStep,
    FrozenLogits,
    direct_multiply_adds,
    projected_multiply_adds,
    projected_pays,
)
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

SHAPE = AdapterShape("image", "paper", 5)


def problem(shape, g=3, b=13, c=7, d=19, n=31, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    h, each = shape.bottleneck, torch.arange(g, dtype=torch.float64)
    parameters = {"image_down": draw(g, d, h) / d**0.5, "image_up": draw(g, h, d) / h**0.5}
    hyper = {"alpha": 0.2 + 0.3 * each, "beta": 0.2 + 0 * each, "logit_scale": 10.0 + 20 * each}
    text = normalize(draw(1, c, d), dim=-1)
    y = torch.randint(0, c, (n,), generator=generator)
    X = normalize(text[0, y] + 0.2 * draw(n, d), dim=-1)
    index = torch.randint(0, n, (g, b), generator=generator)
    parameters, hyper = ({k: v.to(dtype) for k, v in tree.items()} for tree in (parameters, hyper))
    return parameters, hyper, X.to(dtype), y, index, text.to(dtype), X[index].mean(1, keepdim=True).to(dtype)


@pytest.mark.parametrize("sizes", [{}, {"b": 1, "c": 2, "d": 3, "n": 1}, {"g": 1, "b": 33, "c": 101, "d": 65, "n": 9}])
def test_float64_is_autograd(sizes):
    parameters, hyper, X, y, index, text, mean = problem(SHAPE, **sizes)
    X = X * torch.linspace(0.5, 2, len(X), dtype=X.dtype)[:, None]  # rows need not have length one
    step = CpuProjectedStep(SHAPE, hyper, X, y, text, mean, FrozenLogits())
    for _ in range(2):  # the second call finds used buffers
        losses, gradients = step(parameters, index)
    true_losses, truth = adapter_losses_and_gradients(SHAPE, parameters, hyper, X[index], y[index], text, mean)
    torch.testing.assert_close(losses, true_losses, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == truth.keys()
    for key, value in truth.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-9, atol=1e-10 * value.abs().max().item())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_either_end_of_the_ratio(alpha):
    parameters, hyper, X, y, index, text, mean = problem(SHAPE)
    hyper["alpha"].fill_(alpha)
    _, gradients = CpuProjectedStep(SHAPE, hyper, X, y, text, mean, FrozenLogits())(parameters, index)
    _, truth = adapter_losses_and_gradients(SHAPE, parameters, hyper, X[index], y[index], text, mean)
    for key, value in truth.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision_is_as_good_as_the_references_own(products):
    """Autograd in the same low precision says how large rounding is; three times that, for a sum of three terms."""
    sizes = {"g": 2, "b": 64, "c": 40, "d": 96, "n": 64}
    parameters, hyper, X, y, index, text, mean = problem(SHAPE, **sizes)
    _, truth = adapter_losses_and_gradients(SHAPE, parameters, hyper, X[index], y[index], text, mean)
    parameters, hyper, X, y, index, text, mean = problem(SHAPE, dtype=torch.float32, **sizes)
    step = CpuProjectedStep(SHAPE, hyper, X.to(products), y, text, mean, FrozenLogits())
    _, own = step(parameters, index)
    low = [{k: v.to(products) for k, v in tree.items()} for tree in (parameters, hyper)]
    rest = (X.to(products)[index], y[index], text.to(products), mean.to(products))
    _, twin = adapter_losses_and_gradients(SHAPE, *low, *rest)
    for key, value in truth.items():
        errors = [float((g[key].double() - value).norm() / value.norm()) for g in (own, twin)]
        assert errors[0] <= 3 * errors[1], (key, errors)


def test_a_row_of_zeros_gives_no_nan():
    parameters, hyper, X, y, index, text, mean = problem(SHAPE)
    X[index[0, 0]] = 0
    losses, gradients = CpuProjectedStep(SHAPE, hyper, X, y, text, mean, FrozenLogits())(parameters, index)
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(value).all() for value in gradients.values())


def test_it_is_taken_where_it_pays(monkeypatch):
    sizes = {"b": 256, "d": 512, "c": 1000}
    assert direct_multiply_adds(**sizes, h=128) == 2 * 256 * 512 * 1000 + 5 * 256 * 512 * 128
    shares = [projected_multiply_adds(**sizes, h=h) / direct_multiply_adds(**sizes, h=h) for h in (128, 64, 32)]
    assert [round(share, 2) for share in shares] == [0.93, 0.51, 0.27]
    rest = {**sizes, "n": 16_000, "width": 2}
    assert projected_pays(AdapterShape("image", "paper", 32), **rest)
    assert not projected_pays(AdapterShape("image", "paper", 128), **rest)
    assert not projected_pays(AdapterShape("image", "released", 32), **rest)
    assert not projected_pays(AdapterShape("image", "paper", 32, "scalar"), **rest)
    assert not projected_pays(AdapterShape("both", "paper", 32), **rest)
    assert not projected_pays(AdapterShape("image", "paper", 32), **{**rest, "n": 1_280_000})  # 2.6 GB of logits
    assert not projected_pays(AdapterShape("image", "paper", 5), b=13, n=31, d=19, c=7, width=4)  # stacked instead

    parameters, hyper, X, y, index, text, mean = problem(SHAPE, b=130, c=50, d=200)
    taken = []
    for least in (cpu_projected.LEAST, 1):
        monkeypatch.setattr(cpu_projected, "LEAST", least)
        step = CpuCheapestStep(SHAPE, hyper, X, y, text, mean, FrozenLogits())
        taken.append({k: v.clone() for k, v in step(parameters, index)[1].items()})
        assert type(step.step) is (CpuProjectedStep if least == 1 else CpuAdapterStep)
    for key, value in taken[0].items():
        torch.testing.assert_close(taken[1][key], value, rtol=1e-9, atol=1e-12)


def test_frozen_logits_are_made_once():
    _, _, X, _, _, text, _ = problem(SHAPE)
    frozen = FrozenLogits()
    first = frozen(X, text[0], X.dtype)
    assert all(a is b for a, b in zip(first, frozen(X, text[0], X.dtype), strict=True))
    torch.testing.assert_close(first[0], X @ text[0].T)
