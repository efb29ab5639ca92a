"""Steps that are laid out once: what they read afresh at every run, and what makes them be laid out again."""

import pytest
import torch
from adapter_problem import adapter_problem

from cafe.kernels.calls import Buffers, Calls
from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_projected import CpuProjectedStep, FrozenLogits
from cafe.kernels.cpu_sides import in_order_of_step
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

FORMS = ["direct", "folded", "projected"]


def make(form, shape, hyper, X, y, text, mean):
    if form == "projected":
        return CpuProjectedStep(shape, hyper, X, y, text, mean, FrozenLogits())
    return CpuAdapterStep(shape, hyper, X, y, text, mean, form == "folded")


def problem(shape, g=2):
    each = torch.arange(g, dtype=torch.float64)
    hyper = {"alpha": 0.2 + 0.3 * each, "beta": 0.7 - 0.2 * each, "logit_scale": 10.0 + 20 * each}
    return adapter_problem(shape, hyper, 13, 7, 19, 31, dtype=torch.float64)


def assert_right(step, shape, parameters, hyper, X, y, index, text, mean):
    losses, gradients = step(parameters, index)
    true_losses, truth = adapter_losses_and_gradients(shape, parameters, hyper, X[index], y[index], text, mean)
    torch.testing.assert_close(losses, true_losses, rtol=1e-9, atol=1e-10)
    for name, value in truth.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-9, atol=1e-10 * value.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
def test_a_step_reads_parameters_and_batches_of_the_moment(form):
    shape = AdapterShape("image", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape)
    step = make(form, shape, hyper, X, y, text, mean)
    assert_right(step, shape, parameters, hyper, X, y, index, text, mean)
    for value in parameters.values():
        value.mul_(1.5)  # as an optimiser does, in the same memory
    assert_right(step, shape, parameters, hyper, X, y, index.flip(0), text, mean)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_is_laid_out_again_for_other_tensors_and_other_sizes(form):
    shape = AdapterShape("image", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape)
    step = make(form, shape, hyper, X, y, text, mean)
    assert_right(step, shape, parameters, hyper, X, y, index, text, mean)
    others = {name: 0.5 * value for name, value in parameters.items()}
    assert_right(step, shape, others, hyper, X, y, index, text, mean)
    assert_right(step, shape, others, hyper, X, y, index[:, :4], text, mean)
    assert_right(step, shape, others, hyper, X, y, index[:1].expand(2, -1), text, mean)


@pytest.mark.parametrize("variant", ["image", "text", "both"])
@pytest.mark.parametrize("mode", ["fixed", "learned"])
@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
def test_features_that_come_batch_by_batch_take_the_place_of_the_last(variant, mode, folded):
    shape = AdapterShape(variant, "paper", 5, mode, mode)
    parameters, hyper, X, y, index, text, mean = problem(shape)
    step = CpuAdapterStep(shape, hyper, X, y, text, mean, folded)
    step(parameters, index)
    X, y = X.flip(0) * torch.linspace(0.5, 2, len(X), dtype=X.dtype)[:, None], y.flip(0)
    step.use(X, y)
    assert_right(step, shape, parameters, hyper, X, y, index, text, mean)


@pytest.mark.parametrize("variant", ["image", "both"])
@pytest.mark.parametrize("form", ["paper", "released"])
def test_maps_that_lie_side_by_side_give_the_gradients_of_single_fits(variant, form):
    """In bfloat16, configurations that share their rows multiply them with all their first maps at once."""
    shape = AdapterShape(variant, form, 16)
    hyper = {"alpha": torch.tensor([0.2, 0.5, 0.8]), "beta": torch.tensor([0.5] * 3), "logit_scale": torch.ones(3) * 30}
    parameters, hyper, X, y, index, text, mean = adapter_problem(shape, hyper, 64, 40, 96, 80, dtype=torch.float32)
    rows = index[:1].expand(3, -1)
    beside = in_order_of_step(parameters)
    assert beside["image_down"].mT.is_contiguous()
    together = CpuAdapterStep(shape, hyper, X.bfloat16(), y, text, mean)(beside, rows)[1]
    for k in range(3):
        own = slice(k, k + 1)
        step = CpuAdapterStep(shape, {n: v[own] for n, v in hyper.items()}, X.bfloat16(), y, text, mean[own])
        for name, value in step({n: v[own] for n, v in parameters.items()}, rows[own])[1].items():
            # Both round the same numbers; sums inside a product may have another order.
            assert (together[name][own] - value).norm() <= 2**-8 * value.norm(), name


def test_products_of_stacks_are_those_of_their_matrices():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, *size, generator=generator) for size in ((5, 4), (4, 6)))
    for dtype in (torch.float64, torch.bfloat16):
        calls, out = Calls(Buffers()), torch.empty(3, 5, 6, dtype=dtype)
        calls.product(a.to(dtype), b.to(dtype), out)
        calls.run()
        # One rounding of each factor and one of the result.
        torch.testing.assert_close(out.double(), a.double() @ b.double(), rtol=3 * 2**-8, atol=3 * 2**-6)
