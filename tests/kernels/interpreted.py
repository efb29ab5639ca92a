"""Run by test_triton.py with TRITON_INTERPRET=1; prints "passed"."""

import sys

import numpy as np
import torch
from torch.nn.functional import normalize

from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

SHAPES = [
    AdapterShape("image", "paper", 5),
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
    for ratio, mode, used in (("alpha", shape.alpha, shape.adapts_image), ("beta", shape.beta, shape.adapts_text)):
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
    from cafe.kernels.triton_step import TritonAdapterStep

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
    for shape in SHAPES[:2]:
        for key, (own, twin) in errors(shape, torch.float16):
            assert own <= 2 * twin, (shape, key, own, twin)


def adamw():
    from cafe.kernels.triton_bottleneck import adamw as update
    from cafe.optimizers import AdamW

    generator = torch.Generator().manual_seed(0)
    p = torch.randn(3, 37, 41, generator=generator)
    lr, decay = torch.tensor([1e-2, 3e-3, 0.1]), torch.tensor([0.0, 0.1, 0.5])
    truth, own = {"p": p.clone()}, p.clone()
    plain = AdamW(truth, decay)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, 6):
        g = torch.randn(p.shape, generator=generator)
        plain(truth, {"p": g}, lr)
        update(own, g, m, v, lr, decay, torch.tensor(float(t)))
    # 1 - 0.999^t loses three digits in float32.
    np.testing.assert_allclose(own.numpy(), truth["p"].numpy(), rtol=1e-3, atol=1e-5)


def fit():
    from cafe import CLIPAdapter

    rng = np.random.default_rng(0)
    text = rng.normal(size=(5, 20)).astype(np.float32)
    y = np.arange(20) % 5
    X = (text[y] + rng.normal(size=(20, 20))).astype(np.float32)
    models = [CLIPAdapter(text, epochs=6, kernel=k, device="cpu", random_state=0).fit(X, y) for k in ("triton", "cpu")]
    assert [model.kernel_ for model in models] == ["triton", "cpu"]
    np.testing.assert_allclose(models[0].logits(X), models[1].logits(X), atol=2e-2)


if __name__ == "__main__":
    {"gradients": gradients, "float16": float16, "adamw": adamw, "fit": fit}[sys.argv[1]]()
    print("passed")
