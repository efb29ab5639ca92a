"""Run by test_interpreted.py with TRITON_INTERPRET=1 and benchmarks/ on the path; prints which parts passed."""

import sys
from functools import partial
from unittest import mock

import numpy as np
import torch
from adapter_problem import adapter_problem
from interpreter import Watch, as_a_gpu_rounds
from labelled_device import LabelledDevice
from step_bytes import bytes_asked
from torch.utils._python_dispatch import TorchDispatchMode

from cafe.kernels.cuda.adapter import TritonAdapterStep
from cafe.kernels.cuda.optimizers import TritonUpdate
from cafe.kernels.optimizers import SGD, AdamW
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients
from cafe.training.steps import RecordedSteps, Tables, learning_rates

IMAGE, RELEASED = AdapterShape("image", "paper", 5), AdapterShape("image", "released", 5)
# Tiles are 32 x 32 in the interpreter: one row, one class and three features more than a tile.
ODD = {"b": 33, "c": 65, "d": 35}
SMALL = {"b": 8, "c": 7, "d": 20}
SCALES = (9.0, 60.0)
SIX = ["hidden_kernel", "blend_kernel", "logits_kernel", "errors_kernel", "through_kernel", "weights_kernel"]


def problem(shape, dtype, g=2, b=33, c=65, d=35):
    values = {"alpha": (0.2, 0.7), "beta": (0.6, 0.1), "logit_scale": SCALES}
    hyper = {name: torch.tensor(numbers[:g], dtype=torch.float64) for name, numbers in values.items()}
    return adapter_problem(shape, hyper, b, c, d, n=40, dtype=dtype)


def relative(value, truth):
    return float((value.double() - truth).norm() / truth.norm())


def gradients_of(shape, products, precision="ieee", **sizes):
    """Yield (name, error, twin's error) of each gradient of the kernels, relative to its length, and of the losses.

    The twin is autograd, with every operation in the products' precision. The losses' error is absolute, and their
    twin's is given as infinite.
    """
    parameters, hyper, X, y, index, text, mean = problem(shape, torch.float64, **sizes)
    true_losses, truth = adapter_losses_and_gradients(shape, parameters, hyper, X[index], y[index], text, mean)
    parameters, hyper, X, y, index, text, mean = problem(shape, torch.float32, **sizes)
    step = TritonAdapterStep(shape, hyper, X.to(products), y, text, mean, precision=precision)
    losses, own = step(parameters, index)
    kept = {k: v.clone() for k, v in own.items()}
    assert all(torch.equal(v, kept[k]) for k, v in step(parameters, index)[1].items()), "not deterministic"
    narrow = torch.float16 if precision == "tf32" else products
    low = [{k: v.to(narrow) for k, v in tree.items()} for tree in (parameters, hyper)]
    _, twin = adapter_losses_and_gradients(shape, *low, X.to(narrow)[index], y[index], text.to(narrow), mean.to(narrow))
    for key, value in truth.items():
        yield key, relative(kept[key], value), relative(twin[key], value)
    yield "losses", float((losses.double() - true_losses).abs().max()), np.inf


def rounding(products, precision="ieee"):
    """What rounding alone may do to a gradient, as a share of it.

    Operands are rounded to u. A cosine of rows of length one is then off by 2 u at most, a logit by 2 s u, a
    probability by as much of itself, and so is the error D that everything after is proportional to; the four
    products on the way back add 2 u each.
    """
    u = torch.finfo(torch.float16 if precision == "tf32" else products).eps / 2
    return (2 * max(SCALES) + 8) * u


def check_gradients(shapes, products, precision="ieee", **sizes):
    for shape in shapes:
        for key, own, twin in gradients_of(shape, products, precision, **sizes):
            # A trained ratio's gradient is a difference of sums that nearly cancel: three times as much.
            bound = rounding(products, precision) * (3 if key.startswith(("alpha", "beta")) else 1)
            assert own <= min(bound, max(2 * twin, 1e-5)), (shape, products, precision, key, own, twin, bound)


def image_gradients():
    check_gradients((IMAGE, RELEASED), torch.float32, **ODD)
    check_gradients((IMAGE,), torch.float32, g=1, b=1, c=2, d=16)  # one row
    # More tiles of classes than their log-sum-exp is made of at a time.
    check_gradients((IMAGE, AdapterShape("both", "paper", 5)), torch.float32, g=1, b=3, c=540, d=16)
    as_a_gpu_rounds()
    check_gradients((IMAGE,), torch.float32, "tf32", **ODD)
    check_gradients((RELEASED,), torch.bfloat16, **ODD)


def text_gradients():
    text, both = AdapterShape("text", "paper", 5), AdapterShape("both", "released", 5)
    check_gradients((text, both), torch.float32, **ODD)
    as_a_gpu_rounds()
    check_gradients((text,), torch.bfloat16, **SMALL)


def trained_ratios():
    for shape in (
        AdapterShape("image", "paper", 5, "scalar"),
        AdapterShape("both", "released", 5, "learned", "scalar"),
        AdapterShape("text", "paper", 5, beta_mode="learned"),
    ):
        check_gradients((shape,), torch.float32, **SMALL)


def tables_of(index, rates):
    """Tables of one batch for every step."""
    steps, g = rates.shape
    zero = torch.zeros(1, dtype=torch.int64)
    return Tables(index, rates, torch.full((steps,), 1 / steps), zero.clone(), zero.clone(), torch.zeros(g))


def launches():
    """A whole step launches six kernels, which load and store the bytes of the formula, and runs no torch operation."""
    as_a_gpu_rounds()
    for products, sizes in ((torch.float32, ODD), (torch.bfloat16, SMALL)):
        parameters, hyper, X, y, _, text, mean = problem(IMAGE, torch.float32, **sizes)
        index = torch.stack([torch.randperm(len(X))[: sizes["b"]] for _ in range(2)])
        step = TritonAdapterStep(IMAGE, hyper, X.to(products), y, text, mean)
        tables = tables_of(index[:, None], torch.full((1, 2), 1e-3))
        whole = step.whole_step("adamw", parameters, torch.zeros(2), 1)
        with Watch() as watch:
            whole(tables)
        assert watch.launches == SIX, watch.launches
        said = bytes_asked({"g": 2, "h": 5} | sizes, watch.tiles, X.to(products).element_size())
        assert dict(watch.bytes) == said, (watch.bytes, said)
        assert (int(tables.at), int(tables.done)) == (1, 1)
        # A step whose kernels are not run: whatever operations of torch are left would be the step's own.
        with mock.patch("triton.runtime.interpreter.GridExecutor.__call__"), Operations() as operations:
            whole(tables)
        assert not operations.names, operations.names


class Operations(TorchDispatchMode):
    """Records the names of torch's operations inside the context, but for those that only make or view memory."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not (func.is_view or "empty" in str(func)):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def training():
    """Whole steps of both optimisers: each is the formula in float64 applied to the kernels' own gradients."""
    as_a_gpu_rounds()
    steps, decay = 5, torch.tensor([0.0, 0.3])
    for optimizer, plain, shape, products in (
        ("adamw", AdamW, IMAGE, torch.float32),
        ("sgd", SGD, RELEASED, torch.bfloat16),
        ("adamw", AdamW, AdapterShape("both", "paper", 5, "scalar", "learned"), torch.float32),
    ):
        parameters, hyper, X, y, _, text, mean = problem(shape, torch.float32, **SMALL)
        index = torch.randint(0, len(X), (2, steps, 8), generator=torch.Generator().manual_seed(1))
        rates = torch.linspace(1e-2, 2e-3, steps)[:, None] * torch.tensor([1.0, 0.1])
        tables = tables_of(index, rates)
        step = TritonAdapterStep(shape, hyper, X.to(products), y, text, mean)
        whole = step.whole_step(optimizer, parameters, decay, steps)
        other = TritonAdapterStep(shape, hyper, X.to(products), y, text, mean)
        exact = {k: v.double() for k, v in parameters.items()}
        update, tail = plain(exact, decay.double()), torch.zeros(2)
        for k in range(steps):
            losses, gradients = other(parameters, index[:, k])
            update(exact, {name: value.double() for name, value in gradients.items()}, rates[k].double())
            tail += losses / steps
            whole(tables)
            for name, value in exact.items():
                # Some roundings of the value, and of a step that is as long as the rate.
                off = (parameters[name].double() - value).abs()
                assert bool((off <= 4e-7 * (1 + k) * (value.abs() + 10 * rates[k].max())).all()), (optimizer, name, k)
                value.copy_(parameters[name])
        torch.testing.assert_close(tables.tail, tail, rtol=1e-6, atol=1e-6)


def many_steps():
    """Twenty recorded steps, cut into blocks, against the reference in float64; then again from the start."""
    steps = 20
    parameters, hyper, X, y, _, text, mean = problem(IMAGE, torch.float64, **SMALL)
    index = torch.randint(0, len(X), (2, steps, 8), generator=torch.Generator().manual_seed(1))
    rates, decay = learning_rates(steps, 0, torch.tensor([1e-2, 3e-3])), torch.tensor([0.0, 0.3])
    start = {k: v.float() for k, v in parameters.items()}
    update, tail = SGD(parameters, decay.double()), torch.zeros(2, dtype=torch.float64)
    for k in range(steps):
        rows = index[:, k]
        losses, gradients = adapter_losses_and_gradients(IMAGE, parameters, hyper, X[rows], y[rows], text, mean)
        update(parameters, gradients, rates[k].double())
        tail += losses * (k >= steps - 3) / 3
    _, hyper, X, y, _, text, mean = problem(IMAGE, torch.float32, **SMALL)
    own = {k: v.clone() for k, v in start.items()}
    step = TritonAdapterStep(IMAGE, hyper, X, y, text, mean)
    whole = RecordedSteps(step.whole_step("sgd", own, decay, steps), own, rates, 3)
    blocks = [index[:, i : i + 17] for i in range(0, steps, 17)]
    losses = whole(blocks).clone()
    assert torch.allclose(losses.double(), tail, rtol=1e-4, atol=rounding(torch.float32)), (losses, tail)
    for name, value in parameters.items():
        moved = value - start[name].double()
        # A step's error is some roundings of its gradient, and moves the next gradient by less than it moved weights.
        assert (own[name].double() - value).norm() <= 1e-4 * moved.norm(), name
    first = {k: v.clone() for k, v in own.items()}
    for name, value in own.items():
        value.copy_(start[name])
    whole.restart(rates.clone())
    assert torch.equal(whole(blocks), losses)
    assert all(torch.equal(value, first[name]) for name, value in own.items())


def updates():
    """Both optimisers, stacked, odd sizes, against those of torch; the learning rates change from step to step."""
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
        other = CLIPAdapter(text, epochs=6, kernel="cpu-direct", random_state=0).set_params(**changes).fit(X, y)
        assert (own.kernel_, own.dtype_) == ("triton", plain.dtype.replace("auto", "float32"))
        np.testing.assert_allclose(own.logits(X), other.logits(X), atol=2e-2)
        np.testing.assert_allclose(own.loss_, other.loss_, rtol=1e-3)


def graphs():
    """Fits on labelled tensors, whose graphs are captured once and replayed for a later fit on other data."""
    import cafe.training.recordings as recordings
    from cafe import CLIPAdapter

    recordings.LEAST_FOR_GRAPH = 1
    recordings.RecordedSteps = partial(recordings.RecordedSteps, graph_steps=2)
    rng = np.random.default_rng(0)
    y = np.arange(20) % 5
    given = {"epochs": 5, "batch_size": 20, "kernel": "triton", "random_state": 0}
    # Products in another precision have copies of the weights; the other variant has trained ratios.
    for changes in ({"dtype": "tf32"}, {"variant": "both", "alpha": "scalar"}):
        with LabelledDevice() as device:
            counts = []
            for scale in (50.0, 20.0):
                text = rng.normal(size=(5, 20)).astype(np.float32)
                X = (text[y] + rng.normal(size=(20, 20))).astype(np.float32)
                fit = CLIPAdapter(text, **given, device="cuda", logit_scale=scale).set_params(**changes).fit(X, y)
                plain = CLIPAdapter(text, **given, device="cpu", logit_scale=scale).set_params(**changes).fit(X, y)
                counts.append([graph.replays for graph in device.graphs])
                assert fit.device_ == "cuda:0" and plain.device_ == "cpu"
                np.testing.assert_allclose(fit.text_, plain.text_, rtol=1e-4, atol=1e-5)
                for name, value in plain.parameters_.items():
                    np.testing.assert_allclose(fit.parameters_[name], value, rtol=1e-3, atol=2e-5)
        assert counts == [[2, 1], [4, 2]], counts  # five steps are two of two, and one


if __name__ == "__main__":
    for part in sys.argv[1:]:
        globals()[part]()
        print("passed", part)
