"""The step with compiled passes against autograd in float64: every variant, form and kind of ratio, stacks, blocks.

How exact it is in bfloat16 is in tests/kernels/test_cpu.py, and whole fits are in test_fastest.py.
"""

import pytest
import torch
from adapter_problem import adapter_problem

from cafe.compute import torch_threads
from cafe.errors import InputError
from cafe.kernels.compiled.adapter import CpuCompiledStep
from cafe.kernels.compiled.library import why_not_compiled
from cafe.kernels.cpu_sides import in_order_of_step
from cafe.kernels.optimizers import copied_in_a_row, make_update
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

pytestmark = pytest.mark.skipif(bool(why_not_compiled()), reason=why_not_compiled())
SHAPES = [
    AdapterShape(variant, form, 5, mode, mode)
    for variant in ("image", "text", "both")
    for form in ("paper", "released")
    for mode in ("fixed", "scalar", "learned")
]
BOTH = AdapterShape("both", "paper", 5)


def name(shape):
    return f"{shape.variant}-{shape.form}-{shape.alpha_mode}"


def problem(shape, b=13, c=7, d=19, n=31):
    """Return a random step of three configurations, with parameters in a row in memory as the trainer has them."""
    each = torch.arange(3, dtype=torch.float64)
    hyper = {"alpha": 0.2 + 0.3 * each, "beta": 0.7 - 0.2 * each, "logit_scale": 10.0 + 20 * each}
    parameters, *others = adapter_problem(shape, hyper, b, c, d, n, dtype=torch.float32)
    return copied_in_a_row(in_order_of_step(parameters)), *others


def assert_right(step, shape, parameters, hyper, X, y, index, text, mean):
    """Compare with float64 at the same numbers.

    A ratio's gradient is a sum over rows that nearly cancel, of numbers rounded some ten times to 2^-24: a thousandth
    of what is left has room for a cancellation to a thousandth.
    """
    losses, gradients = step(parameters, index)
    wide = [{key: value.double() for key, value in tree.items()} for tree in (parameters, hyper)]
    true_losses, truth = adapter_losses_and_gradients(
        shape, *wide, X.double()[index], y[index], text.double(), mean.double()
    )
    torch.testing.assert_close(losses.double(), true_losses, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == truth.keys()
    for key, value in truth.items():
        allowed = 2e-5 if key.endswith(("_down", "_up")) else 1e-3
        assert (gradients[key].double() - value).norm() <= allowed * value.norm(), key


@pytest.mark.parametrize("shape", SHAPES, ids=name)
@pytest.mark.parametrize("shared", [False, True], ids=["own rows", "shared rows"])
@pytest.mark.parametrize("block", [2**22, 1], ids=["whole", "blocks"])
def test_gradients_are_autograds(shape, shared, block):
    parameters, hyper, X, y, index, text, mean = problem(shape)
    index = index[:1].expand(3, -1) if shared else index
    step = CpuCompiledStep(shape, hyper, X, y, text, mean, block_bytes=block, least_rows=5)  # blocks of 5, 5 and 3
    assert_right(step, shape, parameters, hyper, X, y, index, text, mean)


def test_a_step_reads_parameters_batches_and_features_of_the_moment():
    parameters, hyper, X, y, index, text, mean = problem(BOTH)
    step = CpuCompiledStep(BOTH, hyper, X, y, text, mean)
    assert_right(step, BOTH, parameters, hyper, X, y, index, text, mean)
    for value in parameters.values():
        value.mul_(1.5)
    assert_right(step, BOTH, parameters, hyper, X, y, index.flip(0), text, mean)
    X, y = 2 * X.flip(0), y.flip(0)
    step.use(X, y)
    assert_right(step, BOTH, parameters, hyper, X, y, index, text, mean)
    others = copied_in_a_row({key: 0.5 * value for key, value in parameters.items()})
    assert_right(step, BOTH, others, hyper, X, y, index[:, :4], text, mean)


def test_features_and_labels_need_not_lie_in_a_row():
    parameters, hyper, X, y, index, text, mean = problem(BOTH)
    wide, twice = torch.randn(31, 38), y.repeat_interleave(2)
    wide[:, ::2] = X
    step = CpuCompiledStep(BOTH, hyper, wide[:, ::2], twice[::2], text, mean)
    assert_right(step, BOTH, parameters, hyper, X, y, index, text, mean)


@pytest.mark.parametrize("variant", ["image", "text", "both"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("mode", ["fixed", "learned"])
@pytest.mark.parametrize("block", [2**22, 1], ids=["whole", "blocks"])
def test_its_optimiser_takes_the_steps_of_the_plain_one(variant, optimizer, mode, block):
    """In bfloat16, where gradients are read and parameters are rounded on the way."""
    shape = AdapterShape(variant, "paper", 5, mode, mode)
    parameters, hyper, X, y, index, text, mean = problem(shape)
    results = []
    for own in (True, False):
        trained = copied_in_a_row(parameters)
        step = CpuCompiledStep(shape, hyper, X.bfloat16(), y, text, mean, block_bytes=block, least_rows=5)
        make = step.make_update if own else make_update
        update = make(optimizer, trained, torch.tensor([0.0, 0.1, 0.1]), 1e-8)
        for _ in range(3):
            update(trained, step(trained, index, False)[1], [1e-4] * 3)
        results.append(trained)
    for key, value in results[0].items():
        # What the same gradients leave: rounding of a step of 1e-4, and of a number of size 1. A gradient that rounds
        # to another bfloat16 in the second step moves AdamW's by 2^-8 of its size.
        torch.testing.assert_close(value, results[1][key], rtol=2**-22, atol=1e-6)


def test_results_do_not_depend_on_the_number_of_threads():
    shape = AdapterShape("image", "paper", 32)
    hyper = {"alpha": torch.tensor([0.2]), "beta": torch.tensor([0.2]), "logit_scale": torch.tensor([100.0])}
    parameters, hyper, X, y, index, text, mean = adapter_problem(shape, hyper, 256, 300, 128, 256, dtype=torch.float32)
    results = []
    for threads in (1, 2):
        with torch_threads(threads):
            results.append(CpuCompiledStep(shape, hyper, X.bfloat16(), y, text, mean)(parameters, index)[1])
    for key, value in results[0].items():
        # Sums inside PyTorch's products may have another order.
        assert (value - results[1][key]).norm() <= 2**-8 * value.norm()


def test_losses_are_computed_only_when_asked_for_and_a_row_of_zeros_gives_no_nan():
    parameters, hyper, X, y, index, text, mean = problem(BOTH)
    X[index[0, 0]] = 0
    step = CpuCompiledStep(BOTH, hyper, X, y, text, mean)
    losses, gradients = step(parameters, index)
    assert losses.isfinite().all()
    kept = {key: value.clone() for key, value in gradients.items()}
    without, again = step(parameters, index, False)
    assert without is None
    for key, value in again.items():
        assert value.isfinite().all()
        assert torch.equal(value, kept[key])


def test_a_batch_with_a_row_that_does_not_exist_is_refused():
    parameters, hyper, X, y, index, text, mean = problem(BOTH)
    step = CpuCompiledStep(BOTH, hyper, X, y, text, mean)
    with pytest.raises(IndexError, match="does not exist"):
        step(parameters, index + len(X))


def test_float64_is_refused():
    _, hyper, X, y, _, text, mean = problem(BOTH)
    with pytest.raises(InputError, match="float64"):
        CpuCompiledStep(BOTH, hyper, X.double(), y, text, mean)
