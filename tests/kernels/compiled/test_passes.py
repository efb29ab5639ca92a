"""Every compiled pass against PyTorch's operations in float64; odd sizes, numbers that are not finite, bad rows."""

import math

import numpy as np
import pytest
import torch

from cafe.compute import torch_threads
from cafe.kernels.compiled.library import TYPES, Activation, Blend, Errors, Gather, bound, why_not_compiled

pytestmark = pytest.mark.skipif(bool(why_not_compiled()), reason=why_not_compiled())
# Half a unit in the last place of 1: 24 and 8 bits.
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-8}
# Sizes on both sides of a vector's length, and one that is divided among threads.
SIZES = [(1, 1), (3, 15), (2, 16), (5, 17), (7, 129), (300, 515)]
dtypes = pytest.mark.parametrize("dtype", list(TYPES), ids=str)
sizes = pytest.mark.parametrize(("rows", "width"), SIZES)


def drawn(*size, dtype, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run_on_each_number_of_threads(make, name):
    """Run a pass with one thread and with two, and return what ``make`` returns beside the arguments, the same bits."""
    results = []
    for threads in (1, 2):
        with torch_threads(threads):
            arguments, outputs = make()
            bound(name, arguments)()
            results.append(outputs)
    for own, other in zip(*results, strict=True):
        assert torch.equal(own.nan_to_num(), other.nan_to_num())
        assert torch.equal(own.isnan(), other.isnan())
    return results[0]


@dtypes
@sizes
def test_gather(dtype, rows, width):
    source = drawn(50, width, dtype=dtype)
    index = torch.randint(50, (rows,), generator=torch.Generator().manual_seed(1))

    def make():
        out = torch.empty(rows, width, dtype=dtype)
        of_row = width * source.element_size()
        return Gather(rows=source, index=index, out=out, available=50, n=rows, bytes=of_row), (out,)

    (out,) = run_on_each_number_of_threads(make, "gather")
    assert torch.equal(out, source[index])


@pytest.mark.parametrize("row", [-1, 50, 2**40])
def test_a_row_that_does_not_exist_is_refused_before_it_is_read(row):
    source, index, out = torch.ones(50, 4), torch.tensor([3, row]), torch.zeros(2, 4)
    with pytest.raises(IndexError, match="does not exist"):
        bound("gather", Gather(rows=source, index=index, out=out, available=50, n=2, bytes=16))()
    assert (out == 0).all()


def strides(**tensors):
    """Return the distances that ``Activation`` asks for of tensors (k, rows, width)."""
    return {f"{name}_{axis}": value.stride(i) for name, value in tensors.items() for i, axis in enumerate(AXES)}


AXES = ("matrix", "row")


@dtypes
@sizes
@pytest.mark.parametrize("beside", [False, True], ids=["one after the other", "side by side"])
def test_relu_and_its_derivative(dtype, rows, width, beside):
    k = 3
    value = drawn(rows, k, width, dtype=dtype).transpose(0, 1) if beside else drawn(k, rows, width, dtype=dtype)
    value[0, 0, 0], value[-1, -1, -1] = math.nan, -0.0
    gradient = drawn(k, rows, width, dtype=dtype, seed=1)

    def relu():
        out = torch.empty(k, rows, width, dtype=dtype)
        of_rows = {"matrices": k, "rows": rows, "width": width, **strides(out=out, **{"in": value})}
        return Activation(out=out, **{"in": value}, **of_rows), (out,)

    (hidden,) = run_on_each_number_of_threads(relu, f"relu_{TYPES[dtype]}")
    torch.testing.assert_close(hidden, value.relu(), rtol=0, atol=0, equal_nan=True)

    def derivative():
        out = torch.empty(rows, k, width, dtype=dtype).transpose(0, 1)  # side by side
        steps = strides(out=out, activation=hidden, **{"in": gradient})
        given = {"in": gradient, "activation": hidden, "out": out}
        return Activation(matrices=k, rows=rows, width=width, **given, **steps), (out,)

    (out,) = run_on_each_number_of_threads(derivative, f"zero_where_zero_{TYPES[dtype]}")
    assert torch.equal(out, torch.where(hidden == 0, torch.zeros_like(gradient), gradient))


@dtypes
@sizes
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_blend(dtype, rows, width, released, per_row, shared):
    k = 2
    x = drawn(1 if shared else k, rows, width, dtype=dtype).expand(k, -1, -1)
    adapted = drawn(k, rows, width, dtype=dtype, seed=1)
    adapted[0, 0], x[0, 0] = 0, 0  # a row of zeros has no direction
    ratio = torch.rand(k, rows if per_row else 1, 1, generator=torch.Generator().manual_seed(2))

    def make():
        a, q, r = adapted.clone(), torch.empty(k, rows, width, dtype=dtype), torch.empty(k, rows, 1)
        return Blend(
            x=x, adapted=a, q=q, ratio=ratio, r=r, configurations=k, rows=rows, width=width,
            ratio_per_row=int(per_row), x_shared=int(shared), released=int(released),
        ), (a, q, r)  # fmt: skip

    a, q, r = run_on_each_number_of_threads(make, f"blend_{TYPES[dtype]}")
    expected = adapted.relu() if released else adapted
    assert torch.equal(a, expected)
    exact = ratio.double() * expected.double() + (1 - ratio.double()) * x.double()
    # Two products and a sum in float32, and one rounding of the result.
    scale = (expected.double().abs() + x.double().abs()) * 4 * ROUNDING[torch.float32]
    assert ((q.double() - exact).abs() <= exact.abs() * ROUNDING[dtype] * 1.01 + scale).all()
    length = torch.linalg.vector_norm(q.double(), dim=-1, keepdim=True)
    np.testing.assert_allclose(r, torch.where(length == 0, 0, 1 / length), rtol=(width + 4) * ROUNDING[torch.float32])


def exact_errors(cosines, q, r, scale, weight, labels):
    """Return weight G, u and losses in float64 by the definitions, of a stack (k, rows, .)."""
    logits = (scale * r).double() * cosines.double()
    P = logits.softmax(-1)
    D = P - torch.nn.functional.one_hot(labels, cosines.shape[-1])
    along = (D * logits).sum(-1, keepdim=True)
    G = (weight * scale * r).double() * D
    losses = logits.logsumexp(-1) - logits.gather(-1, labels[..., None])[..., 0]
    return G, weight.double() * r.double() ** 2 * along * q.double(), losses


@dtypes
@pytest.mark.parametrize(
    ("rows", "classes", "width"), [(1, 2, 3), (5, 1, 8), (6, 33, 19), (300, 102, 64), (40, 5000, 8)]
)
@pytest.mark.parametrize("shared", [False, True])
def test_errors(dtype, rows, classes, width, shared):
    k, n = 2, 400
    generator = torch.Generator().manual_seed(3)
    cosines, q = drawn(k, rows, classes, dtype=dtype) * 0.2, drawn(k, rows, width, dtype=dtype, seed=1)
    r = torch.rand(k, rows, 1, generator=generator) + 0.5
    scale, weight = torch.tensor([10.0, 60.0])[:, None, None], torch.tensor([0.2, 0.01])[:, None, None]
    labels = torch.randint(classes, (n, 1), generator=generator)
    index = torch.randint(n, (k, rows), generator=generator)
    index = index[:1].expand(k, -1) if shared else index

    def make():
        errors, u, losses = cosines.clone(), torch.empty_like(q), torch.empty(k, rows)
        return Errors(
            cosines=errors, q=q, u=u, r=r, scale=scale, weight=weight, labels=labels, index=index, losses=losses,
            configurations=k, rows=rows, classes=classes, width=width, index_of_matrix=index.stride(0),
        ), (errors, u, losses)  # fmt: skip

    errors, u, losses = run_on_each_number_of_threads(make, f"errors_{TYPES[dtype]}")
    G, exact_u, exact_losses = exact_errors(cosines, q, r, scale, weight, labels[index][..., 0])
    # A logit of up to 100 is rounded to 2^-18 in float32, and e to that power by as much of itself.
    relative = 100 * ROUNDING[torch.float32] * 4
    largest = (weight * scale * r).double()
    assert ((errors.double() - G).abs() <= G.abs() * (ROUNDING[dtype] + relative) + largest * 1e-7).all()
    np.testing.assert_allclose(losses, exact_losses, rtol=1e-5, atol=2e-5)
    bound_of_u = exact_u.abs() * (ROUNDING[dtype] + 4 * relative) + 1e-6
    assert ((u.double() - exact_u).abs() <= bound_of_u).all()


def errors_of(cosines, labels, scale=100.0):
    """Return G of float32 rows of cosines."""
    rows, classes = cosines.shape
    errors = cosines.clone()
    given = {"r": torch.ones(rows), "scale": torch.tensor([scale]), "weight": torch.ones(1)}
    bound(
        "errors_float32",
        Errors(
            cosines=errors, q=None, u=None, labels=labels, index=torch.arange(rows), losses=None, configurations=1,
            rows=rows, classes=classes, width=0, index_of_matrix=0, **given,
        ),
    )()  # fmt: skip
    return errors


def test_a_row_that_is_right_beyond_doubt_has_a_gradient_as_small_as_it_is():
    """P - 1 of the label would be a rounding error there, and Adam divides by a gradient's size."""
    cosines = torch.tensor([[0.9, 0.6, 0.7], [0.3, 0.55, 0.1]])
    exact = exact_errors(cosines, cosines, torch.ones(2, 1), torch.tensor(100.0), torch.ones(1), torch.tensor([0, 1]))
    G = errors_of(cosines, torch.tensor([0, 1]))
    assert exact[0].abs().max() < 1e-6
    np.testing.assert_allclose(G, exact[0], rtol=1e-4)
    assert (G.sum(-1).abs() <= 2**-22 * G.abs().sum(-1)).all()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_does_not_exist_is_refused(label):
    with pytest.raises(IndexError, match="does not exist"):
        errors_of(torch.ones(2, 3), torch.tensor([0, label]))


def test_a_row_that_is_not_finite_stays_so_and_others_do_not_notice():
    cosines = torch.tensor([[0.1, math.nan, 0.2], [0.3, 0.2, 0.1]])
    G = errors_of(cosines, torch.tensor([0, 0]))
    assert G[0].isnan().all()
    assert G[1].isfinite().all()
