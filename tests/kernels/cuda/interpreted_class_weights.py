"""Run by test_interpreted.py with TRITON_INTERPRET=1 and tests/kernels on the path; prints which parts passed."""

import sys

import numpy as np
import torch
from interpreter import Watch, as_a_gpu_rounds
from test_class_weights import autograd, problem
from torch.nn.functional import normalize

from cafe.kernels.class_weights_reference import WeightsShape
from cafe.kernels.cuda.class_weights import TritonClassWeightStep
from cafe.kernels.optimizers import SGD, AdamW
from cafe.methods.objectives.zs_lp import ClassWeightObjective
from cafe.training.steps import Configuration, Tables
from cafe.training.trainer import train_many

THREE = ["class_logits_kernel", "class_rows_kernel", "class_update_kernel"]
SHAPES = [WeightsShape(), WeightsShape(True, True, False), WeightsShape(False, False, True)]


def narrowed(arguments, products):
    shape, hyper, X, y, anchor, pull, row_weights = arguments
    numbers = {name: value.float() for name, value in hyper.items()}
    rest = [None if value is None else value.float() for value in (pull, row_weights)]
    return shape, numbers, X.to(products), y, anchor.float(), *rest


def gradients():
    """Every kind of weight, penalty and row, against autograd in float64; one row, one class more than a tile."""
    as_a_gpu_rounds()
    sizes = {"g": 2, "b": 33, "c": 65, "d": 35}
    for number, (shape, products, options) in enumerate(
        [
            (SHAPES[0], torch.float32, {"pulled": True, **sizes}),
            (SHAPES[1], torch.bfloat16, {"pulled": True, "weighted": True}),
            (SHAPES[2], torch.float32, {"pulled": False, "whole": True}),
            (WeightsShape(True, True, True), torch.float32, {"weighted": True, "whole": True}),
            (WeightsShape(False, True, False), torch.float32, {"g": 1, "b": 1, "c": 2, "d": 16}),
        ]
    ):
        arguments, parameters, index = problem(shape, **options, seed=number)
        true_losses, truth = autograd(arguments, parameters, index)
        own = {name: value.float() for name, value in parameters.items()}
        step = TritonClassWeightStep(*narrowed(arguments, products), held=options.get("pulled", True))
        losses, own_gradients = step(own, index)
        kept = {name: value.clone() for name, value in own_gradients.items()}
        assert all(torch.equal(value, kept[name]) for name, value in step(own, index)[1].items()), "not deterministic"
        # Rounded to u: a logit of s cosines, or of s f . w, by two u of it, and the error D with it; the product on
        # the way back and the terms in w and t by some more.
        reach = float(arguments[1]["logit_scale"].max())
        if not shape.cosines:
            reach *= float(arguments[4].norm(dim=-1).max() + parameters["weights"].norm(dim=-1).max())
        bound = (2 * reach + 8) * torch.finfo(products).eps / 2
        for name, value in truth.items():
            off = float((kept[name].double() - value).norm() / value.norm())
            assert off <= bound, (shape, options, name, off, bound)
        assert torch.allclose(losses.double(), true_losses, rtol=bound, atol=bound), (losses, true_losses)


def training():
    """Whole steps in three launches: each is the optimiser's formula in float64 applied to the kernels' gradients."""
    steps, decay = 4, torch.tensor([0.0, 0.3])
    for optimizer, plain, shape in (("sgd", SGD, SHAPES[0]), ("adamw", AdamW, WeightsShape(True, True, True))):
        arguments, parameters, _ = problem(shape, g=2)
        own = {name: value.float() for name, value in parameters.items()}
        arguments = narrowed(arguments, torch.float32)
        # Strengths of all configurations of a run, of which these are the last two, in another order.
        arguments[1]["index"] = torch.tensor([2.0, 1.0])
        table = torch.rand(3, arguments[5].shape[1], generator=torch.Generator().manual_seed(2))
        step = TritonClassWeightStep(*arguments[:5], table)
        index = torch.randint(0, len(arguments[3]), (2, steps, 13), generator=torch.Generator().manual_seed(1))
        rates = torch.linspace(1e-2, 2e-3, steps)[:, None] * torch.tensor([1.0, 0.1])
        counters = [torch.zeros(1, dtype=torch.int64) for _ in range(2)]
        tables = Tables(index, rates, torch.full((steps,), 1 / steps), *counters, torch.zeros(2))
        whole = step.whole_step(optimizer, own, decay, steps)
        hyper = {name: value for name, value in arguments[1].items() if name != "index"}
        other = TritonClassWeightStep(shape, hyper, *arguments[2:5], table[[2, 1]])
        exact = {name: value.double() for name, value in own.items()}
        update, tail = plain(exact, decay.double()), torch.zeros(2)
        for k in range(steps):
            losses, gradients = other(own, index[:, k])
            update(exact, {name: value.double() for name, value in gradients.items()}, rates[k].double())
            tail += losses / steps
            with Watch() as watch:
                whole(tables)
            assert watch.launches == THREE
            for name, value in exact.items():
                # Some roundings of the value, and of a step that is as long as the rate times what SGD sums up.
                off = (own[name].double() - value).abs()
                moves = 10 * rates[k].max() * max(1.0, float(gradients[name].abs().max()))
                assert bool((off <= 4e-7 * (1 + k) * (value.abs() + moves)).all()), (optimizer, name, k)
                value.copy_(own[name])
        torch.testing.assert_close(tables.tail, tail, rtol=1e-6, atol=1e-6)
        assert [int(value) for value in counters] == [steps, steps]


def fit():
    """The trainer's whole fit, recorded, against the same on the kernel of the CPU; pulls by configuration."""
    rng = np.random.default_rng(0)
    X = normalize(torch.from_numpy(rng.normal(size=(20, 16)).astype(np.float32)), dim=-1)
    y, text = torch.arange(20) % 5, torch.from_numpy(rng.normal(size=(5, 16)).astype(np.float32))
    pull = torch.from_numpy(rng.random((3, 5)).astype(np.float32))
    hyper = [{"logit_scale": 20.0, "decay": 0.0, "residual_scale": 1.0, "index": float(i)} for i in range(3)]
    rows = np.arange(20)
    configurations = [Configuration(rows, 7, SHAPES[0], member, 6, 8, 0.1, 0.0, "sgd", 1) for member in hyper]
    own, plain = (
        train_many(ClassWeightObjective(text, None, pull, kernel), X, y, configurations)
        for kernel in ("triton", "torch")
    )
    for member, other in zip(own, plain, strict=True):
        np.testing.assert_allclose(member.parameters["weights"], other.parameters["weights"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(member.loss, other.loss, rtol=1e-4)
    assert not np.allclose(own[0].parameters["weights"], own[1].parameters["weights"])


if __name__ == "__main__":
    for part in sys.argv[1:]:
        globals()[part]()
        print("passed", part)
