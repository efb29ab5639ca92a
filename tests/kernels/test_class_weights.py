"""Class weights' step against autograd in float64: every kind of weight and penalty, blocks, odd shapes, precisions."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from cafe.kernels.class_weights import ClassWeightStep
from cafe.kernels.class_weights_reference import WeightsShape, class_weight_losses_and_gradients

SHAPES = [WeightsShape(*kinds) for kinds in itertools.product((True, False), repeat=3)]


def problem(shape, g=3, b=13, c=7, d=19, n=31, pulled=True, weighted=False, whole=False, seed=0):
    """Arguments of a step on n rows, parameters, and the rows of its batch (None for all)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    anchor = draw(c, d)
    y = torch.randint(0, c, (n,), generator=generator)
    X = normalize(normalize(anchor, dim=-1)[y] + 0.2 * draw(n, d), dim=-1)
    parameters = {"weights": draw(g, c, d)} | ({"offset": draw(g, c)} if shape.offset else {})
    each = torch.arange(g, dtype=torch.float64)
    hyper = {"logit_scale": 5 + 3 * each, "decay": 0.1 * each * pulled, "residual_scale": 0.5 + 0.2 * each}
    pull = draw(g, c).square() if pulled else None
    row_weights = torch.randint(0, 3, (n,), generator=generator).double() if weighted else None
    index = None if whole else torch.randint(0, n, (g, b), generator=generator)
    return (shape, hyper, X, y, anchor, pull, row_weights), parameters, index


def autograd(arguments, parameters, index):
    shape, hyper, X, y, anchor, pull, row_weights = arguments
    rows = torch.arange(len(y)).expand(len(parameters["weights"]), -1) if index is None else index
    v = None if row_weights is None else row_weights[rows]
    return class_weight_losses_and_gradients(shape, parameters, hyper, X[rows], y[rows], anchor, pull, v)


def assert_same(own, truth, tolerance=1e-10):
    (losses, gradients), (true_losses, true_gradients) = own, truth
    torch.testing.assert_close(losses, true_losses, rtol=tolerance, atol=tolerance)
    assert gradients.keys() == true_gradients.keys()
    for key, value in true_gradients.items():
        torch.testing.assert_close(
            gradients[key], value, rtol=tolerance, atol=tolerance * max(1, value.abs().max().item())
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [2**22, 1], ids=["whole", "blocks"])
def test_float64_is_autograd(shape, block):
    """A block of one byte has the least number of rows, 5."""
    for pulled, weighted, whole, g in itertools.product((True, False), (True, False), (True, False), (1, 3)):
        arguments, parameters, index = problem(shape, g=g, pulled=pulled, weighted=weighted, whole=whole)
        step = ClassWeightStep(*arguments, block_bytes=block, least_rows=5)
        assert_same(step(parameters, index), autograd(arguments, parameters, index))


@pytest.mark.parametrize("sizes", [{"b": 1, "c": 2, "d": 3, "n": 1}, {"g": 1, "b": 33, "c": 101, "d": 65, "n": 9}])
def test_odd_sizes(sizes):
    arguments, parameters, index = problem(WeightsShape(), **sizes)
    assert_same(ClassWeightStep(*arguments)(parameters, index), autograd(arguments, parameters, index))


def test_a_second_step_forgets_the_first():
    arguments, parameters, index = problem(WeightsShape(offset=True))
    step = ClassWeightStep(*arguments, block_bytes=1, least_rows=4)
    step({name: 3 * value for name, value in parameters.items()}, index + 1 - index.clamp(0, 1))
    assert_same(step(parameters, index), autograd(arguments, parameters, index))
    assert step(parameters, index, with_losses=False)[0] is None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [2**22, 1], ids=["whole", "blocks"])
@pytest.mark.parametrize("whole", [True, False], ids=["all rows", "batches"])
def test_a_step_reads_parameters_and_batches_of_the_moment(shape, block, whole):
    """It is laid out once, for parameters that lie in the same memory at every step."""
    arguments, parameters, index = problem(shape, whole=whole)
    step = ClassWeightStep(*arguments, block_bytes=block, least_rows=5)
    step(parameters, index)
    for value in parameters.values():
        value.mul_(1.5).add_(0.1)
    if index is not None:
        index = index.flip(1) + 1 - index.clamp(0, 1)
    assert_same(step(parameters, index), autograd(arguments, parameters, index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES[::2], ids=str)
@pytest.mark.parametrize("block", [2**22, 1], ids=["whole", "blocks"])
def test_lower_precisions_round_no_more_than_autograd_would(dtype, shape, block):
    """As far from float64 as autograd whose products have that precision, twice at most; parameters stay float32."""
    (shape, hyper, X, y, anchor, *rest), parameters, index = problem(shape, b=64, c=40, d=96, n=200)
    anchor, parameters["weights"] = normalize(anchor, dim=-1), normalize(parameters["weights"], dim=-1)

    def cast(values, to):
        return {name: value.to(to) for name, value in values.items()}

    rounded = {"weights": parameters["weights"].to(dtype).double()}
    truth = autograd((shape, hyper, X, y, anchor, *rest), parameters, index)
    coarse = autograd((shape, hyper, X.to(dtype).double(), y, anchor, *rest), parameters | rounded, index)
    narrow = [None if value is None else value.float() for value in rest]
    step = ClassWeightStep(
        shape, cast(hyper, torch.float32), X.to(dtype), y, anchor.float(), *narrow, block_bytes=block, least_rows=32
    )
    _, gradients = step(cast(parameters, torch.float32), index)
    for key, value in truth[1].items():
        assert gradients[key].dtype == torch.float32
        # Rounded beside rows and weights, which `coarse` has rounded: logits of at most s, whose rounding by a part
        # changes a probability by that part of s; their gradient; the sums of products.
        part = (float(hyper["logit_scale"].max()) / 2 + 2) * torch.finfo(dtype).eps
        assert (gradients[key].double() - value).norm() <= 2 * ((coarse[1][key] - value).norm() + part * value.norm())


def test_class_weights_of_zeros_have_a_gradient_of_zero():
    """Their direction is none, so no move of theirs changes a cosine for the better."""
    arguments, parameters, index = problem(WeightsShape(), g=1, pulled=False)
    parameters["weights"][0, 2] = 0
    losses, gradients = ClassWeightStep(*arguments)(parameters, index)
    assert torch.isfinite(losses).all() and torch.isfinite(gradients["weights"]).all()
    assert (gradients["weights"][0, 2] == 0).all()
