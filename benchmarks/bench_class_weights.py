"""Steps of the methods that train class weights against their floor, and their fits against the plain autograd loop.

    CAFE_REAL_DATA=... python benchmarks/bench_class_weights.py [--steps 100] [--pairs 7] [--methods clap,lp++]

ImageNet's shape at 4 and 16 shots (1,000 classes, 512 wide, rows drawn around its real class means) and Caltech69 at
16. First one step of each method, in the precision and on the threads that cafe takes here: steps of less than 50
million multiply-adds run on one. Its floor is measured in the same rounds: its matrix products one after the other in
that precision (of APE-T with the keys too, where their affinities do not fit in memory), and its traffic: one softmax
of the logits, the optimiser's update on as many numbers, in bfloat16 the copies of weights and gradient between the two
precisions, and for APE-T the affinities of the batch, read where they are kept, else one exponential of them. Then
whole fits, of the default's number of steps where that is one and takes a second or so, else of so many, which shows
set-up larger than it is: seconds of the plain loop over cafe's in pairs, each first in turn, and the mean of the log
ratios with its 95 % interval. The plain loop is what one would write: autograd, torch.optim, shuffled batches, and rows
of text beside images where a method has them.

In every row the gradients of one step are compared with autograd's in float64, or the command fails.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import (
    APART,
    imagenet_shape,
    is_smoke,
    matrix_peak,
    paired_ratio,
    parse,
    real_features,
    report,
    side_by_side,
    some_of,
    timed,
    train_plainly,
    unit,
)
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from cafe.compute import threads_for
from cafe.kernels.class_weights import ClassWeightStep
from cafe.kernels.class_weights_reference import WeightsShape, class_weight_losses_and_gradients
from cafe.kernels.optimizers import make_update
from cafe.methods import make_method
from cafe.methods.objectives.ape_t import KEPT_BYTES, KeyedRows, ResidualKeysObjective
from cafe.training.trainer import Batch

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]

# The share of its floor that a step is to reach.
WANTED = 1 / 1.5
TEXT_NORM, SCALE, BATCH = 9.0, 100.0, 256


@dataclass(frozen=True)
class Trained:
    """The class weights that one method trains.

    Attributes
    ----------
    shape : WeightsShape or None
        Of its class weights; None for APE-T, which has votes of keys besides.
    optimizer : str
        ``"sgd"`` or ``"adamw"``.
    batch : int or None
        Rows of a step; None for all.
    lr : float
        Of the plain loop.
    iterations : int or None
        Steps of its default fit; None where these are epochs, which take minutes on ImageNet's shape.
    """

    shape: WeightsShape | None
    optimizer: str
    batch: int | None
    lr: float
    iterations: int | None = None


METHODS = {
    "zs-lp": Trained(WeightsShape(), "sgd", BATCH, 0.1),
    "clap": Trained(WeightsShape(), "sgd", BATCH, 0.1),
    "task-res": Trained(WeightsShape(residual=True), "adamw", BATCH, 2e-3),
    "lp++": Trained(WeightsShape(cosines=False, offset=True), "sgd", None, 1.0, 300),
    "cross-modal-linear-probe": Trained(WeightsShape(cosines=False), "adamw", 32, 1e-4, 500),
    "ape-t": Trained(None, "adamw", BATCH, 1e-3),
}


# ---------------------------------------------------------------------------- one step


class OneStep:
    """A step of a method with its update, and the parts of its floor."""

    def __init__(self, name: str, rows: Rows, products: str) -> None:
        X, y, text = (torch.from_numpy(np.ascontiguousarray(v)) for v in rows)
        self.method, self.dtype = METHODS[name], getattr(torch, products)
        (n, d), c = X.shape, len(text)
        self.b = min(n, self.method.batch or n)
        generator = torch.Generator().manual_seed(0)
        self.batch = torch.randint(0, n, (1, self.b), generator=generator)
        self.index = None if self.method.batch is None else self.batch
        self.X, self.y = X, y
        self.width = d
        shape = self.method.shape
        if shape is None:
            kept = torch.arange(d // 2)
            self.width = len(kept)
            self.objective = ResidualKeysObjective(text, [KeyedRows.of(X, y, kept)])
            self.hyper = {
                k: torch.tensor([v]) for k, v in (("alpha", 2.0), ("beta", 1.0), ("logit_scale", SCALE), ("index", 0.0))
            }
            self.parameters = {"residual": torch.randn(1, c, self.width, generator=generator) / 100}
            self.parameters["values"] = torch.ones(1, n)
            self.step: Any = self.objective.stepper((n, self.width), self.hyper, X, y, X[:1])
        else:
            anchor = TEXT_NORM * text if shape.cosines else text
            moved = torch.randn(1, c, d, generator=generator) / d**0.5
            self.parameters = {"weights": moved / 10 if shape.residual else anchor + moved / 10}
            if shape.offset:
                # LP++ has no logit scale: its weights are some fifty times the text.
                self.parameters = {"weights": 50 * (text + moved / 10), "offset": torch.zeros(1, c)}
            self.hyper = {"residual_scale": torch.tensor([0.5]), "decay": torch.tensor([5e-4 * shape.residual])}
            self.hyper["logit_scale"] = torch.tensor([1.0 if shape.offset else SCALE])
            pull = torch.rand(1, c, generator=generator) if name == "clap" else None
            self.arguments = (anchor, pull)
            self.step = ClassWeightStep(shape, self.hyper, X.to(self.dtype), y, *self.arguments)
        self.update = make_update(self.method.optimizer, self.parameters, torch.zeros(1))
        self.rate = torch.tensor([1e-6])

    @property
    def key_products(self) -> int:
        """Multiply-adds of the cosines of a batch with all keys, where a step of APE-T makes them itself."""
        n, d = self.X.shape
        made = self.method.shape is None and n**2 * self.X.element_size() > KEPT_BYTES
        return self.b * n * d if made else 0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds by which a fit chooses its threads: of a step's two products, of LP++ of one."""
        products = 1 if self.method.batch is None else 2
        return products * self.b * self.width * len(next(iter(self.parameters.values()))[0])

    def check(self) -> float:
        """Return how far one step's gradients are from autograd's in float64, of their length."""
        _, own = self.step(self.parameters, self.index, True)
        rows = torch.arange(len(self.y))[None] if self.index is None else self.index
        parameters, hyper = ({k: v.double() for k, v in tree.items()} for tree in (self.parameters, self.hyper))
        X, y = self.X.double(), self.y
        shape = self.method.shape
        if shape is None:
            shots = self.objective.shots[0]
            wide = KeyedRows(shots.keys.double(), shots.labels, shots.order, shots.kept)
            batch = Batch(None, parameters, hyper, X[rows], y[rows], X[None, :1])
            _, truth = ResidualKeysObjective(self.objective.text.double(), [wide]).losses_and_gradients(batch)
        else:
            anchor, pull = (None if v is None else v.double() for v in self.arguments)
            assert anchor is not None
            _, truth = class_weight_losses_and_gradients(shape, parameters, hyper, X[rows], y[rows], anchor, pull)
        return max(float((own[k].double() - v).norm() / v.norm().clamp_min(1e-12)) for k, v in truth.items())

    def run(self) -> None:
        """Take a step."""
        self.update(self.parameters, self.step(self.parameters, self.index, False)[1], self.rate)

    def parts(self) -> dict[str, Callable[[], None]]:
        """Return the parts of the floor."""
        b, d, c = self.b, self.width, len(next(iter(self.parameters.values()))[0])

        def drawn(*size: int) -> Tensor:
            return torch.rand(*size).sub_(0.5).to(self.dtype)

        f, w, error = drawn(b, d), drawn(c, d), drawn(b, c)
        logits, slope = torch.empty_like(error), torch.empty_like(w)
        wide_logits, wide_weights = torch.rand(b, c), torch.rand(c, d)
        moved = {k: v.clone() for k, v in self.parameters.items()}
        slopes = {k: torch.rand_like(v) for k, v in moved.items()}
        update = make_update(self.method.optimizer, moved, torch.zeros(1))
        cosines = torch.rand(b, len(self.y) if self.method.shape is None else 0)
        votes = torch.empty_like(cosines)
        keys = self.X if self.key_products else self.X[:0]
        rows, of_keys = self.X[self.batch[0]], torch.empty(b, len(keys))
        kept = torch.rand(len(self.y), cosines.shape[1]) if cosines.numel() and not self.key_products else None

        def products() -> None:
            torch.mm(f, w.T, out=logits)
            torch.mm(error.T, f, out=slope)
            torch.mm(rows, keys.T, out=of_keys)

        def traffic() -> None:
            torch.softmax(wide_logits, -1, out=wide_logits)
            update(moved, slopes, self.rate)
            if kept is None:
                torch.exp(cosines, out=votes)
            else:
                torch.index_select(kept, 0, self.batch[0], out=votes)
            if self.dtype != torch.float32:
                w.copy_(wide_weights)
                wide_weights.copy_(slope)

        return {"products": products, "traffic": traffic}


# ---------------------------------------------------------------------------- whole fits


def fitted(name: str, rows: Rows, steps: int) -> Any:
    """Fit cafe's with that many steps."""
    X, y, text = rows
    batch = METHODS[name].batch
    if batch is None or name == "cross-modal-linear-probe":
        length: dict[str, Any] = {"iterations": steps}
    else:
        length = {"epochs": steps * min(batch, len(X)) / len(X)}
    method = make_method(name, class_embeddings=text, device="cpu", random_state=0, **length)
    return method.fit(X, y)


def plain_loop(name: str, rows: Rows, steps: int) -> None:
    """Fit with autograd and torch.optim, as one would write it."""
    torch.manual_seed(0)
    X, y, text = (torch.from_numpy(np.ascontiguousarray(v)) for v in rows)
    method = METHODS[name]
    trained, loss = plain_loss(name, X, y, text)
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(trained, lr=method.lr, momentum=0.9)
        if method.optimizer == "sgd"
        else torch.optim.AdamW(trained, lr=method.lr, weight_decay=0.01)
    )
    train_plainly(optimizer, lambda rows: loss(X[rows], y[rows]), len(X), method.batch, steps)


def plain_loss(
    name: str, X: Tensor, y: Tensor, text: Tensor
) -> tuple[list[Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Return what the plain loop trains, and its loss on a batch."""
    c = len(text)
    t = TEXT_NORM * normalize(text, dim=-1)
    if name in ("zs-lp", "clap"):
        w, pull = t.clone().requires_grad_(), torch.rand(c) * (name == "clap")

        def cosines(f: Tensor, labels: Tensor) -> Tensor:
            loss = cross_entropy(SCALE * f @ normalize(w, dim=-1).T, labels)
            return loss + (pull * (w - t).square().sum(1)).mean() if name == "clap" else loss

        return [w], cosines
    if name == "task-res":
        x = torch.zeros_like(t, requires_grad=True)
        return [x], lambda f, labels: cross_entropy(SCALE * f @ normalize(t + 0.5 * x, dim=-1).T, labels)
    if name == "lp++":
        means = torch.zeros_like(text).index_add_(0, y, X)
        w, alpha, b = (
            means.requires_grad_(),
            torch.full((c, 1), 60.0, requires_grad=True),
            torch.zeros(c).requires_grad_(),
        )
        of_text = X @ text.T
        return [w, alpha, b], lambda f, labels: cross_entropy(f @ w.T + alpha.T * of_text + b, labels)
    if name == "cross-modal-linear-probe":
        w = text.clone().requires_grad_()

        def both(f: Tensor, labels: Tensor) -> Tensor:
            half = (len(f) + 1) // 2
            x, own = torch.cat([f[:half], text[labels[-half:]]]), torch.cat([labels[:half], labels[-half:]])
            return cross_entropy(SCALE * x @ w.T, own)

        return [w], both
    kept = text.var(0).argsort()[len(text[0]) // 2 :]
    x, v = torch.zeros(c, len(kept), requires_grad=True), torch.ones(len(X), requires_grad=True)

    def votes(f: Tensor, labels: Tensor) -> Tensor:
        residual = torch.zeros_like(text).index_copy(1, kept, x)
        affinity = (f @ (X + residual[y]).T - 1).exp() * v
        logits = SCALE * f @ (text + residual).T
        return cross_entropy(logits.index_add(1, y, 2.0 * affinity), labels)

    return [x, v], votes


def steps_of(name: str, rows: Rows, steps: int) -> int:
    """Return how many steps a fit takes here: those of the method's default fit where these take a second or so."""
    method = METHODS[name]
    if is_smoke() or method.iterations is None:
        return steps
    a_step = 4 * min(len(rows[0]), method.batch or len(rows[0])) * rows[2].size
    return method.iterations if method.iterations * a_step < 1e11 else max(2, steps // 10)


def measure(name: str, shape: str, rows: Rows, rounds: int, steps: int, pairs: int) -> dict[str, Any]:
    """Time a method's step beside its floor, and its fit beside the plain loop."""
    steps = steps_of(name, rows, steps)
    model = fitted(name, rows, steps)  # warms up, and asks what is fastest here
    step = OneStep(name, rows, model.dtype_)
    apart = step.check()
    with threads_for(step.multiply_adds):  # as many as a fit takes
        seconds = side_by_side({"step": step.run, **step.parts()}, rounds)
        threads = torch.get_num_threads()
    floor = seconds["products"] + seconds["traffic"]
    flops = 4.0 * step.b * step.width * len(rows[2]) + 2.0 * step.key_products
    own, straight = partial(fitted, name, rows, steps), partial(plain_loop, name, rows, steps)
    alone = timed(own)[0]
    plain_loop(name, rows, 2)
    return {
        "shape": shape,
        "method": name,
        "dtype": model.dtype_,
        "threads": threads,
        "peak_gflops": matrix_peak()[model.dtype_],
        "products_gflops": flops / seconds["products"] / 1e9,
        "products_ms": 1e3 * seconds["products"],
        "floor_ms": 1e3 * floor,
        "step_ms": 1e3 * seconds["step"],
        "fraction": floor / seconds["step"],
        "wanted_fraction": WANTED,
        "steps": steps,
        "set_up_ms": 1e3 * (alone - steps * seconds["step"]),
        **paired_ratio(straight, own, pairs),
        "gradients_apart": apart,
        "gradients_right": apart <= APART[model.dtype_],
    }


def problems() -> dict[str, Rows]:
    """Return rows, labels and text by shape."""
    shapes = {}
    for shots in (4, 16):
        X, y, _, _, text = imagenet_shape(1000 * shots, 10)
        shapes[f"ImageNet, {shots} shots"] = (X, y, text)
        if is_smoke():
            return shapes
    data = real_features("caltech69_vitb32")
    X, text = (unit(data[name].astype(np.float32)) for name in ("train_16shot_features", "text_features"))
    return {**shapes, "Caltech69, 16 shots": (X, data["train_16shot_labels"].astype(np.int64), text)}


def main() -> None:
    """Measure every method on every shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of a long fit; a tenth where a step has all rows")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=25, help="of a step and its floor")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"some of {', '.join(METHODS)}")
    arguments = parse(parser, {"steps": 20, "pairs": 2, "rounds": 1})
    names = some_of(arguments.methods, METHODS, "method", parser)
    rows = []
    for shape, arrays in problems().items():
        for name in names:
            row = measure(name, shape, arrays, arguments.rounds, arguments.steps, arguments.pairs)
            print(
                f"{shape}, {name} ({row['dtype']}): floor {row['floor_ms']:.2f} ms, step {row['step_ms']:.2f} ms, "
                f"fit {row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
                flush=True,
            )
            rows.append(row)
    report("class_weights", None, rows, quiet=True)
    for row in (row for row in rows if row["ratio_high"] < 1):
        print(f"slower than the plain loop: {row['method']}, {row['shape']}, {row['ratio']:.2f}x")
    if wrong := [f"{row['method']}, {row['shape']}" for row in rows if not row["gradients_right"]]:
        raise SystemExit(f"gradients differ from autograd's by more than {APART}: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
