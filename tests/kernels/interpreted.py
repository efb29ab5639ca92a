"""Run by test_triton.py with TRITON_INTERPRET=1; prints "passed"."""

import sys

import numpy as np
import torch
from torch.nn.functional import normalize

from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

SHAPES = [
    AdapterShape("image", "paper", 5),
    AdapterShape("image", "released", 5),
    AdapterShape("text", "paper", 5),
    AdapterShape("text", "released", 5),
    AdapterShape("both", "paper", 18),
    AdapterShape("both", "released", 5, "learned", "scalar"),
]


def problem(shape, dtype, g=2, b=33, c=66, d=35, n=40, q=2, seed=0):
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
    hyper = {
        "alpha": torch.tensor([0.2, 0.7]),
        "beta": torch.tensor([0.6, 0.1]),
        "logit_scale": torch.tensor([9.0, 60]),
    }
    text = normalize(draw(1, c, d), dim=-1)
    y = torch.randint(0, c, (n,), generator=generator)
    X = normalize(text[0, y] + 0.2 * draw(n, d), dim=-1)
    index = torch.randint(0, n, (g, b), generator=generator)
    cast = {k: v.to(dtype) for k, v in parameters.items()}
    mean = X[index].mean(1, keepdim=True)
    return cast, {k: v.to(dtype) for k, v in hyper.items()}, X.to(dtype), y, index, text.to(dtype), mean.to(dtype)


def errors(shape, products):
    """Relative errors of the kernel and of its twin, autograd in the same precision, against float64."""
    from cafe.kernels.triton import TritonAdapterStep

    parameters, hyper, X, y, index, text, mean = problem(shape, torch.float64)
    true_losses, truth = adapter_losses_and_gradients(shape, parameters, hyper, X[index], y[index], text, mean)
    parameters, hyper, X, y, index, text, mean = problem(shape, torch.float32)
    step = TritonAdapterStep(shape, hyper, X.to(products), y, text, mean)
    losses, own = step(parameters, index)
    again = {k: v.clone() for k, v in own.items()}
    assert all(torch.equal(v, again[k]) for k, v in step(parameters, index)[1].items()), "not deterministic"
    low = [{k: v.to(products) for k, v in tree.items()} for tree in (parameters, hyper)]
    rest = (X.to(products)[index], y[index], text.to(products), mean.to(products))
    _, twin = adapter_losses_and_gradients(shape, *low, *rest)
    # Logits of up to 60 are rounded to the products' precision.
    rounding = 60 * torch.finfo(products).eps
    assert torch.allclose(losses.double(), true_losses, rtol=0, atol=rounding), (losses, true_losses)
    for key, value in truth.items():
        yield key, [float((found[key].double() - value).norm() / value.norm()) for found in (own, twin)]


def gradients():
    for shape in SHAPES:
        for key, (own, twin) in errors(shape, torch.float32):
            # Sums go in another order than the twin's, and a trained ratio's cancel: some tens of roundings.
            assert own <= max(4 * twin, 1e-5), (shape, key, own, twin)


def float16():
    """Sixteen-bit products; not bfloat16, which the interpreter's dot reads as integers."""
    for shape in (SHAPES[0], SHAPES[3]):
        for key, (own, twin) in errors(shape, torch.float16):
            assert own <= 2 * twin, (shape, key, own, twin)


def updates():
    """Both optimisers, stacked, odd sizes, against those of torch; the learning rates change from step to step."""
    from cafe.kernels.optimizers import SGD, AdamW
    from cafe.kernels.triton_optimizers import TritonUpdate

    generator = torch.Generator().manual_seed(0)
    decay = torch.tensor([0.0, 0.1, 0.5])
    for name, plain in (("adamw", AdamW), ("sgd", SGD)):
        start = {"p": torch.randn(3, 37, 41, generator=generator), "q": torch.randn(3, 5, generator=generator)}
        truth, own = ({k: v.clone().to(dtype) for k, v in start.items()} for dtype in (torch.float64, torch.float32))
        slow, fast = plain(truth, decay.double()), TritonUpdate(name, own, decay, 6)
        for t in range(1, 7):
            gradients = {k: torch.randn(v.shape, generator=generator) for k, v in start.items()}
            lr = torch.tensor([1e-2, 3e-3, 0.1]) / t
            slow(truth, {k: v.double() for k, v in gradients.items()}, lr.double())
            fast(own, gradients, lr)
        for key, value in truth.items():
            np.testing.assert_allclose(own[key].numpy(), value.numpy(), rtol=1e-5, atol=1e-6)


def fit():
    """Whole fits, whose steps are recorded and replayed; more than one block of batches."""
    import cafe.training.trainer
    from cafe import CLIPAdapter

    cafe.training.trainer.DRAWN_STEPS = 4
    rng = np.random.default_rng(0)
    text = rng.normal(size=(5, 20)).astype(np.float32)
    y = np.arange(20) % 5
    X = (text[y] + rng.normal(size=(20, 20))).astype(np.float32)
    for changes in ({}, {"optimizer": "sgd", "lr": 0.01, "variant": "both", "alpha": "learned"}, {"dtype": "tf32"}):
        plain = CLIPAdapter(text, epochs=6, kernel="triton", device="cpu", random_state=0).set_params(**changes)
        own = plain.fit(X, y)
        changes = {"dtype": "float32"} | {k: v for k, v in changes.items() if k != "dtype"}
        other = CLIPAdapter(text, epochs=6, kernel="cpu", random_state=0).set_params(**changes).fit(X, y)
        assert (own.kernel_, other.kernel_, own.dtype_) == (
            "triton",
            "cpu-direct",
            plain.dtype.replace("auto", "float32"),
        )
        np.testing.assert_allclose(own.logits(X), other.logits(X), atol=2e-2)
        np.testing.assert_allclose(own.loss_, other.loss_, rtol=1e-3)


if __name__ == "__main__":
    {"gradients": gradients, "float16": float16, "updates": updates, "fit": fit}[sys.argv[1]]()
    print("passed")
