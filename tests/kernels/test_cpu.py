"""The CPU kernel against autograd: every variant, form and kind of ratio; odd shapes; blocks; precisions."""

import pytest
import torch
from torch.nn.functional import normalize

import cafe.kernels.cpu as cpu
from cafe.errors import InputError
from cafe.kernels.choose import choose_kernel, has_bfloat16_products, precisions
from cafe.kernels.cpu import CpuAdapterStep
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

SHAPES = [
    AdapterShape(variant, form, 5, mode, mode)
    for variant in ("image", "text", "both")
    for form in ("paper", "released")
    for mode in ("fixed", "scalar", "learned")
]


def name(shape):
    return f"{shape.variant}-{shape.form}-{shape.alpha_mode}"


def problem(shape, g=3, b=13, c=7, d=19, n=31, q=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    parameters, h = {}, shape.bottleneck
    for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)):
        if used:
            parameters |= {f"{side}_down": draw(g, d, h) / d**0.5, f"{side}_up": draw(g, h, d) / h**0.5}
    for ratio, mode, used in (
        ("alpha", shape.alpha_mode, shape.adapts_image),
        ("beta", shape.beta_mode, shape.adapts_text),
    ):
        if used and mode != "fixed":
            parameters[f"{ratio}_bias"] = draw(g)
        if used and mode == "learned":
            parameters |= {f"{ratio}_own": draw(g, d, q), f"{ratio}_other": draw(g, d, q), f"{ratio}_out": draw(g, q)}
    each = torch.arange(g, dtype=torch.float64)
    hyper = {"alpha": 0.2 + 0.3 * each, "beta": 0.7 - 0.2 * each, "logit_scale": 10.0 + 20 * each}
    text = normalize(draw(1, c, d), dim=-1)
    y = torch.randint(0, c, (n,), generator=generator)
    X = normalize(text[0, y] + 0.2 * draw(n, d), dim=-1)
    index = torch.randint(0, n, (g, b), generator=generator)

    def cast(tree):
        return {k: v.to(dtype) for k, v in tree.items()} if isinstance(tree, dict) else tree.to(dtype)

    return cast(parameters), cast(hyper), cast(X), y, index, cast(text), cast(X[index].mean(1, keepdim=True))


def run_both(shape, products, **sizes):
    parameters, hyper, X, y, index, text, mean = problem(shape, **sizes)
    step = CpuAdapterStep(shape, hyper, X.to(products), y, text, mean)
    own = step(parameters, index)
    truth = adapter_losses_and_gradients(shape, parameters, hyper, X[index], y[index], text, mean)
    return own, truth


@pytest.mark.parametrize("shape", SHAPES, ids=name)
@pytest.mark.parametrize("block", [2**22, 1], ids=["whole", "blocks"])
def test_float64_is_autograd(shape, block, monkeypatch):
    monkeypatch.setattr(cpu, "BLOCK_BYTES", block)
    monkeypatch.setattr(cpu, "LEAST_ROWS", 5)  # 13 rows in blocks of 5, 5 and 3
    (losses, gradients), (true_losses, true_gradients) = run_both(shape, torch.float64)
    torch.testing.assert_close(losses, true_losses, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == true_gradients.keys()
    for key, value in true_gradients.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-10, atol=1e-10 * value.abs().max().item())


@pytest.mark.parametrize("sizes", [{"b": 1, "c": 2, "d": 3, "n": 1}, {"g": 1, "b": 33, "c": 101, "d": 65, "n": 9}])
def test_odd_shapes(sizes):
    for shape in (AdapterShape("both", "paper", 1), AdapterShape("image", "released", 7, "learned", "fixed")):
        if shape.alpha_mode == "learned" and sizes["b"] == 1:
            continue
        (losses, gradients), (true_losses, true_gradients) = run_both(shape, torch.float64, **sizes)
        torch.testing.assert_close(losses, true_losses, rtol=1e-10, atol=1e-10)
        for key, value in true_gradients.items():
            torch.testing.assert_close(gradients[key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.alpha_mode == "fixed"], ids=name)
@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision_is_as_good_as_the_references_own(shape, products):
    """The twin, autograd in the same low precision, says how large rounding is; twice that is allowed."""
    sizes = {"g": 2, "b": 64, "c": 40, "d": 96, "n": 64}
    _, (_, truth) = run_both(shape, torch.float64, **sizes)
    (_, own), _ = run_both(shape, products, dtype=torch.float32, **sizes)
    parameters, hyper, X, y, index, text, mean = problem(shape, dtype=torch.float32, **sizes)
    low = {k: v.to(products) for k, v in parameters.items()}
    scales = {k: v.to(products) for k, v in hyper.items()}
    _, twin = adapter_losses_and_gradients(
        shape, low, scales, X.to(products)[index], y[index], text.to(products), mean.to(products)
    )
    for key, value in truth.items():
        size = value.norm()
        allowed = 2 * (twin[key].double() - value).norm() / size
        assert (own[key].double() - value).norm() / size <= allowed, key


def test_same_bits_every_time_and_losses_only_when_asked_for():
    shape = AdapterShape("both", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape, dtype=torch.float32)
    results = []
    for with_losses in (True, False):
        step = CpuAdapterStep(shape, hyper, X, y, text, mean)
        step(parameters, index.flip(0))  # leaves nothing behind in the buffers
        losses, gradients = step(parameters, index, with_losses)
        results.append(gradients)
        assert (losses is None) != with_losses
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key])


def test_a_stack_is_its_members():
    shape = AdapterShape("both", "released", 5, "scalar", "fixed")
    parameters, hyper, X, y, index, text, mean = problem(shape)
    _, together = CpuAdapterStep(shape, hyper, X, y, text, mean)(parameters, index)
    for k in range(3):
        one = slice(k, k + 1)
        step = CpuAdapterStep(shape, {n: v[one] for n, v in hyper.items()}, X, y, text, mean[one])
        _, alone = step({n: v[one] for n, v in parameters.items()}, index[one])
        for key, value in alone.items():
            torch.testing.assert_close(together[key][one], value, rtol=1e-10, atol=1e-12)


def test_a_row_of_zeros_gives_no_nan():
    shape = AdapterShape("both", "paper", 5)
    parameters, hyper, X, y, index, text, mean = problem(shape)
    X[index[0, 0]] = 0
    losses, gradients = CpuAdapterStep(shape, hyper, X, y, text, mean)(parameters, index)
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(value).all() for value in gradients.values())


def test_wishes_are_met_or_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_kernel("auto", "cpu") == "cpu"
    assert choose_kernel("auto", "mps") == "reference"
    assert choose_kernel("reference", "cuda:0") == "reference"
    with pytest.raises(InputError, match="cannot run on device 'cuda:0'"):
        choose_kernel("cpu", "cuda:0")
    with pytest.raises(InputError, match="kernel 'triton'"):
        choose_kernel("triton", "cpu")
    with pytest.raises(InputError, match="no bfloat16 products"):
        precisions("bfloat16", "reference", 1)
    with pytest.raises(InputError, match="kernel 'cpu' has no tf32 products"):
        precisions("tf32", "cpu", 1)
    with pytest.raises(InputError, match="sums in float32"):
        precisions("float64", "triton", 1)
    assert precisions("tf32", "triton", 1) == (torch.float32, torch.float32)
    assert precisions("bfloat16", "cpu", 1) == (torch.float32, torch.bfloat16)
    assert precisions("auto", "cpu", 1) == (torch.float32, torch.float32)
    large = torch.bfloat16 if has_bfloat16_products() else torch.float32
    assert precisions("auto", "cpu", 10**9) == (torch.float32, large)
    assert precisions("auto", "reference", 10**9) == (torch.float32, torch.float32)
