"""The CPU kernel against autograd: every variant, form and kind of ratio; odd shapes; blocks; precisions.

First the direct form with scales on logits and on features (folded), then the projected one.
"""

import pytest
import torch
from adapter_problem import adapter_problem

from cafe.kernels.compiled.library import why_not_compiled
from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.cpu_forms import adapter_step
from cafe.kernels.cpu_projected import CpuProjectedStep, FrozenLogits
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

SHAPES = [
    AdapterShape(variant, form, 5, mode, mode)
    for variant in ("image", "text", "both")
    for form in ("paper", "released")
    for mode in ("fixed", "scalar", "learned")
]


COMPILED = pytest.param("cpu-compiled", marks=pytest.mark.skipif(bool(why_not_compiled()), reason=why_not_compiled()))


def name(shape):
    return f"{shape.variant}-{shape.form}-{shape.alpha_mode}"


def problem(shape, g=3, b=13, c=7, d=19, n=31, dtype=torch.float64):
    """Return a random step of g configurations with different ratios and scales; see ``adapter_problem``."""
    each = torch.arange(g, dtype=torch.float64)
    hyper = {"alpha": 0.2 + 0.3 * each, "beta": 0.7 - 0.2 * each, "logit_scale": 10.0 + 20 * each}
    return adapter_problem(shape, hyper, b, c, d, n, dtype=dtype)


def run_both(shape, products, folded=False, blocks=None, **sizes):
    """Return losses and gradients of the CPU step, with products in that dtype, and those of the reference."""
    parameters, hyper, X, y, index, text, mean = problem(shape, **sizes)
    step = CpuAdapterStep(shape, hyper, X.to(products), y, text, mean, folded, **(blocks or {}))
    own = step(parameters, index)
    truth = adapter_losses_and_gradients(shape, parameters, hyper, X[index], y[index], text, mean)
    return own, truth


@pytest.mark.parametrize("shape", SHAPES, ids=name)
@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
@pytest.mark.parametrize("block", [2**22, 1], ids=["whole", "blocks"])
def test_float64_is_autograd(shape, block, folded):
    blocks = {"block_bytes": block, "least_rows": 5}  # 13 rows in blocks of 5, 5 and 3
    (losses, gradients), (true_losses, true_gradients) = run_both(shape, torch.float64, folded, blocks)
    torch.testing.assert_close(losses, true_losses, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == true_gradients.keys()
    for key, value in true_gradients.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-10, atol=1e-10 * value.abs().max().item())


@pytest.mark.parametrize("form", ["cpu-direct", "cpu-folded", "cpu-projected", COMPILED])
def test_what_classes_have_in_common_does_not_enter_bfloat16_gradients(form):
    """Rows of P - Y sum to zero until they are rounded, and CLIP's classes are mostly one direction."""
    shape = AdapterShape("image", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape, g=1, b=64, c=40, d=64, n=64)
    common = torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=text.dtype)
    text = torch.nn.functional.normalize(text, dim=-1) + 30 * common / common.norm()
    _, truth = adapter_losses_and_gradients(shape, parameters, hyper, X[index], y[index], text, mean)
    narrow = shape, {k: v.float() for k, v in hyper.items()}, X.bfloat16(), y, text.float(), mean.float()
    step = adapter_step(form, *narrow)
    _, gradients = step({k: v.float() for k, v in parameters.items()}, index)
    for name, value in truth.items():
        # A chain of a dozen roundings, each of half of 2^-8; with the common direction the error is several times this.
        assert (gradients[name] - value).norm() <= 12 * 2**-9 * value.norm(), name


@pytest.mark.parametrize("sizes", [{"b": 1, "c": 2, "d": 3, "n": 1}, {"g": 1, "b": 33, "c": 101, "d": 65, "n": 9}])
@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
def test_odd_shapes(sizes, folded):
    for shape in (AdapterShape("both", "paper", 1), AdapterShape("image", "released", 7, "learned", "fixed")):
        if shape.alpha_mode == "learned" and sizes["b"] == 1:
            continue
        (losses, gradients), (true_losses, true_gradients) = run_both(shape, torch.float64, folded, **sizes)
        torch.testing.assert_close(losses, true_losses, rtol=1e-10, atol=1e-10)
        for key, value in true_gradients.items():
            torch.testing.assert_close(gradients[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.alpha_mode == "fixed"], ids=name)
@pytest.mark.parametrize("form", ["cpu-direct", "cpu-folded", COMPILED])
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision_is_as_good_as_the_references_own(shape, products, form):
    """The twin, autograd in the same low precision, says how large rounding is; twice that is allowed.

    Three times in the folded form: a scaled row is rounded once more, and all its logits with it.
    """
    sizes = {"g": 2, "b": 64, "c": 40, "d": 96, "n": 64}
    _, (_, truth) = run_both(shape, torch.float64, **sizes)
    parameters, hyper, X, y, index, text, mean = problem(shape, dtype=torch.float32, **sizes)
    _, own = adapter_step(form, shape, hyper, X.to(products), y, text, mean)(parameters, index)
    low = {k: v.to(products) for k, v in parameters.items()}
    scales = {k: v.to(products) for k, v in hyper.items()}
    _, twin = adapter_losses_and_gradients(
        shape, low, scales, X.to(products)[index], y[index], text.to(products), mean.to(products)
    )
    for key, value in truth.items():
        size = value.norm()
        allowed = (3 if form == "cpu-folded" else 2) * (twin[key].double() - value).norm() / size
        assert (own[key].double() - value).norm() / size <= allowed, key


@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
def test_same_bits_every_time_and_losses_only_when_asked_for(folded):
    shape = AdapterShape("both", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape, dtype=torch.float32)
    results = []
    for with_losses in (True, False):
        step = CpuAdapterStep(shape, hyper, X, y, text, mean, folded)
        step(parameters, index.flip(0))  # leaves nothing behind in the buffers
        losses, gradients = step(parameters, index, with_losses)
        results.append(gradients)
        assert (losses is None) != with_losses
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key])


@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
def test_a_stack_is_its_members(folded):
    shape = AdapterShape("both", "released", 5, "scalar", "fixed")
    parameters, hyper, X, y, index, text, mean = problem(shape)
    _, together = CpuAdapterStep(shape, hyper, X, y, text, mean, folded)(parameters, index)
    for k in range(3):
        member = slice(k, k + 1)
        step = CpuAdapterStep(shape, {n: v[member] for n, v in hyper.items()}, X, y, text, mean[member], folded)
        _, alone = step({n: v[member] for n, v in parameters.items()}, index[member])
        for key, value in alone.items():
            torch.testing.assert_close(together[key][member], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
def test_a_stack_in_bfloat16_is_its_members_whether_their_rows_are_one_copy_or_several(folded):
    shape = AdapterShape("image", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape, dtype=torch.float32)
    X, shared = X.bfloat16(), index[:1].expand(3, -1)
    results = [
        CpuAdapterStep(shape, hyper, X, y, text, mean, folded)(parameters, rows)
        for rows in (shared, shared.contiguous())
    ]
    for k in range(3):
        member = slice(k, k + 1)
        step = CpuAdapterStep(shape, {n: v[member] for n, v in hyper.items()}, X, y, text, mean[member], folded)
        losses, alone = step({n: v[member] for n, v in parameters.items()}, shared[member])
        for stack_losses, together in results:
            torch.testing.assert_close(stack_losses[member], losses, rtol=1e-2, atol=1e-2)
            for key, value in alone.items():
                assert (together[key][member] - value).norm() <= 0.01 * value.norm()


@pytest.mark.parametrize("folded", [False, True], ids=["direct", "folded"])
def test_a_row_of_zeros_gives_no_nan(folded):
    shape = AdapterShape("both", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape)
    X[index[0, 0]] = 0
    losses, gradients = CpuAdapterStep(shape, hyper, X, y, text, mean, folded)(parameters, index)
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(value).all() for value in gradients.values())


PROJECTED = AdapterShape("image", "paper", 5)


@pytest.mark.parametrize("sizes", [{}, {"b": 1, "c": 2, "d": 3, "n": 1}, {"g": 1, "b": 33, "c": 101, "d": 65, "n": 9}])
def test_the_projected_form_is_autograd(sizes):
    parameters, hyper, X, y, index, text, mean = problem(PROJECTED, **sizes)
    X = X * torch.linspace(0.5, 2, len(X), dtype=X.dtype)[:, None]  # rows need not have length one
    step = CpuProjectedStep(PROJECTED, hyper, X, y, text, mean, FrozenLogits())
    for _ in range(2):  # the second call finds used buffers
        losses, gradients = step(parameters, index)
    true_losses, truth = adapter_losses_and_gradients(PROJECTED, parameters, hyper, X[index], y[index], text, mean)
    torch.testing.assert_close(losses, true_losses, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == truth.keys()
    for key, value in truth.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-9, atol=1e-10 * value.abs().max().item())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_projected_form_at_either_end_of_the_ratio(alpha):
    parameters, hyper, X, y, index, text, mean = problem(PROJECTED)
    hyper["alpha"].fill_(alpha)
    _, gradients = CpuProjectedStep(PROJECTED, hyper, X, y, text, mean, FrozenLogits())(parameters, index)
    _, truth = adapter_losses_and_gradients(PROJECTED, parameters, hyper, X[index], y[index], text, mean)
    for key, value in truth.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=str)
def test_the_projected_form_is_as_good_as_the_references_own(products):
    """Autograd in the same low precision says how large rounding is; three times that, for a sum of three terms."""
    sizes = {"g": 2, "b": 64, "c": 40, "d": 96, "n": 64}
    parameters, hyper, X, y, index, text, mean = problem(PROJECTED, **sizes)
    _, truth = adapter_losses_and_gradients(PROJECTED, parameters, hyper, X[index], y[index], text, mean)
    parameters, hyper, X, y, index, text, mean = problem(PROJECTED, dtype=torch.float32, **sizes)
    step = CpuProjectedStep(PROJECTED, hyper, X.to(products), y, text, mean, FrozenLogits())
    _, own = step(parameters, index)
    low = [{k: v.to(products) for k, v in tree.items()} for tree in (parameters, hyper)]
    rest = (X.to(products)[index], y[index], text.to(products), mean.to(products))
    _, twin = adapter_losses_and_gradients(PROJECTED, *low, *rest)
    for key, value in truth.items():
        errors = [float((g[key].double() - value).norm() / value.norm()) for g in (own, twin)]
        assert errors[0] <= 3 * errors[1], (key, errors)


def test_the_projected_form_of_a_row_of_zeros_gives_no_nan():
    parameters, hyper, X, y, index, text, mean = problem(PROJECTED)
    X[index[0, 0]] = 0
    losses, gradients = CpuProjectedStep(PROJECTED, hyper, X, y, text, mean, FrozenLogits())(parameters, index)
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(value).all() for value in gradients.values())


def test_frozen_logits_are_made_once():
    _, _, X, _, _, text, _ = problem(PROJECTED)
    frozen = FrozenLogits()
    first = frozen(X, text[0], X.dtype)
    assert all(a is b for a, b in zip(first, frozen(X, text[0], X.dtype), strict=True))
    torch.testing.assert_close(first[0], X @ text[0].T)
