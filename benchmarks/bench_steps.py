"""The adapter's step against its floor, and whole fits against the straight PyTorch loop on a grid of shapes.

    python benchmarks/bench_steps.py [--full] [--only parts|steps|fits]

First where a step's processor time goes on one thread, by kind of operation, which other programs disturb least. Then
the step: 16,000 rows of 512 and 1,024 numbers, 1,000 and 102 classes, batch 256, in the precision, form and
number of threads that cafe takes here. Its floor is measured in the same rounds and in the same order: the matrix
products of a step, one softmax of the logits between those that go forward and those that go back, and the optimiser's
update on as many numbers; operands are as large and lie as the step's do, so that they come from the same caches. Then
fits: seconds of the straight loop over cafe's, both with the same rows and number of steps, in pairs; the mean of the
log ratios with its 95 % interval. Pairs are added, five at the most, until the interval leaves 1 out. Fits of the grid
take 100 steps, a third of the default recipe's, which shows cafe's set-up three times as large as it is. In every cell
the gradients of some steps are compared with autograd's in float64, at the values that the step works on.

Printed for every cell: peak, floor, measured, fraction, ratio; each row is kept as soon as it is measured. The command
fails where gradients differ, or where the upper bound of a ratio is below 1. Rows are unit vectors around unit class
vectors; what they hold changes no time.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from harness import is_smoke, matrix_peak, paired_ratio, parse, report, timed, train_plainly, unit
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from cafe import CLIPAdapter
from cafe.compute import torch_threads
from cafe.kernels.cpu_forms import adapter_step
from cafe.kernels.cpu_projected import direct_multiply_adds
from cafe.kernels.cpu_sides import in_order_of_step
from cafe.kernels.fastest import StepSizes, choose_cpu_step, choose_cpu_threads
from cafe.kernels.optimizers import copied_in_a_row, make_update
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

RATIO, SCALE, LR, DECAY = 0.2, 100.0, 1e-3, 0.1
# What is asked of the step: the share of its floor, by number of classes.
WANTED = {1000: 0.85, 102: 0.7}
# Batches whose gradients are compared together.
CHECKED = 4
# How far gradients may be from float64's at the same values, of their length: in bfloat16 some ten numbers, one after
# the other, are rounded by up to 2^-9 of themselves.
APART = {"float32": 1e-4, "bfloat16": 10 * 2**-9}
# Pairs of fits from which an interval is believed.
LEAST_PAIRS = 3
# Steps that are timed together, so that calling the clock costs nothing.
TOGETHER = 10


@lru_cache(maxsize=1)
def problem(n: int, d: int, c: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows around class vectors, their labels, and the class vectors; cosines with the own class are about 0.1.

    As with CLIP's, the scaled logits of a row are then near to each other, and no gradient vanishes.
    """
    rng = np.random.default_rng(seed)
    text = unit(rng.standard_normal((c, d), dtype=np.float32))
    y = rng.permutation(np.arange(n) % c)
    return unit(text[y] + 10 / math.sqrt(d) * rng.standard_normal((n, d), dtype=np.float32)), y, text


class StraightAdapter(nn.Module):
    """The adapters as one would write them: two maps without bias on either side, blended, and cosines."""

    def __init__(self, text: torch.Tensor, variant: str) -> None:
        super().__init__()
        d = text.shape[1]
        self.variant, self.text = variant, text
        self.image_adapter, self.text_adapter = (
            nn.Sequential(nn.Linear(d, d // 4, bias=False), nn.ReLU(), nn.Linear(d // 4, d, bias=False))
            if variant in (side, "both")
            else None
            for side in ("image", "text")
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (b, c)."""
        text = self.text
        if self.image_adapter is not None:
            x = RATIO * self.image_adapter(x) + (1 - RATIO) * x
        if self.text_adapter is not None:
            text = normalize(RATIO * self.text_adapter(text) + (1 - RATIO) * text, dim=-1)
        return SCALE * normalize(x, dim=-1) @ text.t()


def straight_loop(X: np.ndarray, y: np.ndarray, text: np.ndarray, variant: str, batch: int, steps: int) -> None:
    """Fit with autograd, torch.optim.AdamW, a cosine schedule and shuffled batches."""
    torch.manual_seed(0)
    features, labels = torch.from_numpy(X), torch.from_numpy(y)
    model = StraightAdapter(torch.from_numpy(text), variant)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY)
    train_plainly(optimizer, lambda rows: cross_entropy(model(features[rows]), labels[rows]), len(X), batch, steps)


def fitted(X: np.ndarray, y: np.ndarray, text: np.ndarray, variant: str, batch: int, steps: int) -> CLIPAdapter:
    """Fit cafe's with the same rows and number of steps."""
    return CLIPAdapter(
        text, variant=variant, alpha=RATIO, beta=RATIO, epochs=steps * min(batch, len(X)) / len(X), lr=LR,
        weight_decay=DECAY, batch_size=batch, random_state=0, device="cpu",
    ).fit(X, y)  # fmt: skip


# ---------------------------------------------------------------------------- one step


class OneStep:
    """A step of one configuration in the form, precision and number of threads that cafe takes, and its parts alone."""

    def __init__(self, X: np.ndarray, y: np.ndarray, text: np.ndarray, variant: str, batch: int) -> None:
        n, d = X.shape
        b, c, h = min(batch, n), len(text), d // 4
        self.shape = AdapterShape(variant, "paper", h)
        sizes = StepSizes(self.shape, b, d, c)
        self.kernel, self.dtype = choose_cpu_step("auto", "auto", sizes, n)
        self.threads = choose_cpu_threads(self.kernel, self.dtype, sizes)
        self.products = getattr(torch, self.dtype)
        generator = torch.Generator().manual_seed(0)
        sides = [side for side in ("image", "text") if variant in (side, "both")]
        drawn = {
            f"{side}_{part}": torch.rand(1, *size, generator=generator).sub_(0.5).mul_(2 / size[0] ** 0.5)
            for side in sides
            for part, size in (("down", (d, h)), ("up", (h, d)))
        }
        self.parameters = copied_in_a_row(in_order_of_step(drawn))
        self.hyper = {"alpha": torch.tensor([RATIO]), "beta": torch.tensor([RATIO])}
        self.hyper["logit_scale"] = torch.tensor([SCALE])
        self.X, self.y, self.text = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(text)[None]
        mean = self.X.mean(0)[None, None]
        arguments = (self.shape, self.hyper, self.X.to(self.products), self.y, self.text, mean)
        self.step = adapter_step(self.kernel, *arguments)
        self.batches = [torch.randint(0, n, (1, b), generator=generator) for _ in range(TOGETHER)]
        self.update = self.step.make_update("adamw", self.parameters, torch.tensor([DECAY]))
        self.rate = [1e-6]
        self.sizes = (b, d, c, h)

    def check(self) -> dict[str, Any]:
        """Return how far the gradients of some batches are from autograd's in float64, of their common length.

        Of a single small batch the gradient may be as short as its rounding, where most of its rows are right. The
        step has to be right at the values that it works on: rows, classes and maps in the products' dtype. How far it
        is from the gradients at the values before they were rounded is reported alone. There a hidden unit that is
        as good as zero may be on the other side of ReLU, and with two classes a single unit of the text adapter can be
        a tenth of its gradient.
        """
        exact = self.parameters, self.X, self.text
        rounded = (
            {name: value.to(self.products) for name, value in self.parameters.items()},
            self.X.to(self.products),
            self.text.to(self.products),
        )
        apart = self._apart(*rounded)
        return {
            "gradients_apart": apart,
            "apart_before_rounding": self._apart(*exact),
            "gradients_right": apart <= APART[self.dtype],
        }

    def _apart(self, parameters: dict[str, torch.Tensor], rows: torch.Tensor, text: torch.Tensor) -> float:
        """Return the largest distance of a parameter's gradients from autograd's at these values, of their length."""
        apart: dict[str, float] = {}
        lengths: dict[str, float] = {}
        wide = [{k: v.double() for k, v in tree.items()} for tree in (parameters, self.hyper)]
        for index in self.batches[:CHECKED]:
            _, own = self.step(self.parameters, index, False)
            X = rows.double()[index]
            _, truth = adapter_losses_and_gradients(
                self.shape, *wide, X, self.y[index], text.double(), X.mean(1, keepdim=True)
            )
            for name, value in truth.items():
                apart[name] = apart.get(name, 0.0) + float((own[name].double() - value).square().sum())
                lengths[name] = lengths.get(name, 0.0) + float(value.square().sum())
        return max((apart[name] / max(lengths[name], 1e-24)) ** 0.5 for name in apart)

    def run(self) -> None:
        """Take some steps."""
        for index in self.batches:
            self.update(self.parameters, self.step(self.parameters, index, False)[1], self.rate)


class Floor:
    """What no step can do without: the products of the direct form, one softmax, one update."""

    def __init__(
        self, sizes: tuple[int, int, int, int], dtype: str, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        b, d, c, h = sizes
        self.clock = clock

        def drawn(*size: int) -> torch.Tensor:
            return torch.rand(*size).sub_(0.5).to(getattr(torch, dtype))

        x, q, da, hidden, dh, error = (drawn(b, size) for size in (d, d, d, h, h, c))
        w, down, up, grad_down, grad_up = (drawn(*size) for size in ((c, d), (d, h), (h, d), (d, h), (h, d)))
        self.forward = [(x, down, hidden), (hidden, up, q), (q, w.mT, error)]
        self.back = [(error, w, da), (da, up.mT, dh), (x.mT, dh, grad_down), (hidden.mT, da, grad_up)]
        self.logits = torch.rand(b, c)
        self.weights, self.slopes = ({"all": torch.rand(1, 2 * d * h)} for _ in range(2))
        self.update = make_update("adamw", self.weights, torch.tensor([DECAY]))
        self.rate = [1e-6]
        self.seconds = {"products": 0.0, "softmax": 0.0, "update": 0.0}

    def run(self) -> None:
        """Do as many times what :meth:`OneStep.run` needs, in its order, and set ``seconds`` of each part."""
        clock = self.clock
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        for _ in range(TOGETHER):
            start = clock()
            for a, right, out in self.forward:
                torch.mm(a, right, out=out)
            logits = clock()
            torch.softmax(self.logits, -1, out=self.logits)
            errors = clock()
            for a, right, out in self.back:
                torch.mm(a, right, out=out)
            gradients = clock()
            self.update(self.weights, self.slopes, self.rate)
            end = clock()
            self.seconds["products"] += logits - start + gradients - errors
            self.seconds["softmax"] += errors - logits
            self.seconds["update"] += end - gradients


def beside_floor(step: OneStep, rounds: int) -> dict[str, float]:
    """Return median seconds of a step and of each part of its floor, measured in turns on the step's threads."""
    floor = Floor(step.sizes, step.dtype)
    seconds: dict[str, list[float]] = {"step": [], **{name: [] for name in floor.seconds}}
    with torch_threads(step.threads):
        for turn in range(rounds + 1):  # the first warms up
            own = timed(step.run)[0]
            floor.run()
            for name, value in {"step": own, **floor.seconds}.items():
                seconds[name] += [value / TOGETHER] if turn else []
    return {name: float(np.median(values)) for name, values in seconds.items()}


def measure_floor(n: int, d: int, c: int, batch: int, rounds: int, steps: int, pairs: int) -> dict[str, Any]:
    """Time the step beside its floor, the set-up of a fit, and fits beside the straight loop."""
    X, y, text = problem(n, d, c)
    own = OneStep(X, y, text, "image", batch)
    check = own.check()
    seconds = beside_floor(own, rounds)
    floor = seconds["products"] + seconds["update"] + seconds["softmax"]
    flops = 2.0 * direct_multiply_adds(*own.sizes)
    row = fit_row(X, y, text, "image", batch, steps, pairs)
    a_step = partial(fitted, X, y, text, "image", batch, 1)
    short = [timed(a_step)[0] for _ in range(1 if is_smoke() else 7)]
    return {
        **row,
        "shape": f"step {n}x{d}x{c}",
        "dtype": own.dtype,
        "kernel": own.kernel,
        "peak_gflops": matrix_peak()[own.dtype],
        "products_gflops": flops / seconds["products"] / 1e9,
        **{f"{name}_ms": 1e3 * value for name, value in seconds.items()},
        "floor_ms": 1e3 * floor,
        "fraction": floor / seconds["step"],
        "wanted_fraction": WANTED.get(c),
        "set_up_ms": 1e3 * max(0.0, float(np.median(short)) - seconds["step"]),
        **check,
        "threads": own.threads,
    }


# PyTorch's operations of a step, by what they do. The rest, under "calls", is Python, views, arithmetic on a number a
# row, and in the compiled form its passes.
KINDS = {
    "products": ("mm", "addmm", "addmm_", "bmm"),
    "softmax": ("softmax", "_softmax", "amax", "sub", "exp_", "sum", "scatter_add_", "gather", "mul_", "div_"),
    "norms": ("_weight_norm_interface", "_weight_norm_interface_backward", "linalg_vector_norm"),
    "casts": ("copy_", "_to_copy"),
    "gather": ("index_select",),
    "ReLU": ("relu_", "threshold_backward"),
    "update": ("_fused_adamw_",),
}


class Clocked(TorchDispatchMode):
    """Adds up the processor time of every operation, by its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, list[float]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operation).split(".")[1]
        kind = next((kind for kind, names in KINDS.items() if name in names), "rest")
        start = time.thread_time()
        result = operation(*args, **(kwargs or {}))
        self.seconds.setdefault(kind, []).append(time.thread_time() - start)
        return result


def measure_parts(n: int, d: int, c: int, batch: int, rounds: int) -> dict[str, Any]:
    """Return where a step's processor time goes on one thread, in milliseconds, medians over rounds."""
    with torch_threads(1):
        own = OneStep(*problem(n, d, c), "image", batch)
        floor = Floor(own.sizes, own.dtype, time.thread_time)
        totals: dict[str, list[float]] = {name: [] for name in (*KINDS, "step", "floor")}
        for turn in range(rounds + 1):
            whole = timed(own.run, time.thread_time)[0]
            floor.run()
            with Clocked() as clocked:
                own.run()
            spent = {name: sum(clocked.seconds.get(name, ())) for name in KINDS}
            for name, value in {**spent, "step": whole, "floor": sum(floor.seconds.values())}.items():
                totals[name] += [1e3 * value / TOGETHER] if turn else []
    parts = {name: float(np.median(values)) for name, values in totals.items()}
    parts["calls"] = parts["step"] - sum(parts[name] for name in KINDS)
    return {"shape": f"parts {n}x{d}x{c}", "dtype": own.dtype, "kernel": own.kernel, "milliseconds": parts}


def fit_row(
    X: np.ndarray, y: np.ndarray, text: np.ndarray, variant: str, batch: int, steps: int, pairs: int
) -> dict[str, Any]:
    """Time fits in pairs, cafe's and the straight loop's first in turn; ratio above 1 is cafe faster."""
    model = fitted(X, y, text, variant, batch, steps)  # warms up, and asks what is fastest here
    straight_loop(X, y, text, variant, batch, max(1, steps // 10))
    sides = [partial(run, X, y, text, variant, batch, steps) for run in (straight_loop, fitted)]
    return {
        "shape": f"fit {len(X)}x{X.shape[1]}x{len(text)} {variant} batch {batch}",
        "kernel": model.kernel_,
        "dtype": model.dtype_,
        "steps": steps,
        **paired_ratio(*sides, pairs, LEAST_PAIRS),
    }


def grid(full: bool) -> list[tuple[int, int, int, str, int]]:
    """Return rows, width, classes, variant and batch size of every cell."""
    widths, classes, variants, batches = (
        (128, 512, 768, 1024, 1152),
        (2, 102, 1000),
        ("image", "text", "both"),
        (32, 256),
    )
    cells = list(itertools.product((100, 1600, 16_000), widths, classes, variants, batches))
    # Fewer rows or more change the batches' size and the set-up, which one width shows.
    return [cell for cell in cells if full or cell[0] == 1600 or cell[1] == 512]


def main() -> None:
    """Measure steps, then fits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=313, help="of a fit beside its floor; the default recipe's are 313"
    )
    parser.add_argument("--grid-steps", type=int, default=100, help="of a fit of the grid")
    parser.add_argument("--pairs", type=int, default=5, help="of fits, at the most")
    parser.add_argument("--rounds", type=int, default=15, help="of the step and its floor")
    parser.add_argument("--full", action="store_true", help="every number of rows with every width: twice as long")
    parser.add_argument("--only", choices=("steps", "fits", "parts"), help="one of the three")
    arguments = parse(parser, {"steps": 2, "grid_steps": 2, "pairs": 2, "rounds": 1})
    shapes = [(400, 64, 20)] if is_smoke() else [(16_000, d, c) for d in (512, 1024) for c in (1000, 102)]
    cells = [(100, 64, 3, v, 32) for v in ("image", "text", "both")] if is_smoke() else grid(arguments.full)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if arguments.only in (None, "parts"):
        for shape in shapes:
            report("step_parts", None, [measure_parts(*shape, 256, arguments.rounds)], started=started)
    if arguments.only == "parts":
        return
    rows = []
    for shape in [] if arguments.only == "fits" else shapes:
        rows.append(measure_floor(*shape, 256, arguments.rounds, arguments.steps, arguments.pairs))
        report("steps", None, rows[-1:], started=started)
    for n, d, c, variant, batch in [] if arguments.only == "steps" else cells:
        X, y, text = problem(n, d, c)
        own = OneStep(X, y, text, variant, batch)
        check = own.check()
        row = fit_row(X, y, text, variant, batch, arguments.grid_steps, arguments.pairs)
        rows.append({**row, **check})
        report("step_grid", None, rows[-1:], quiet=True, started=started)
        print(
            f"{row['shape']}: {row['ratio']:.2f}x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}), {row['dtype']}",
            flush=True,
        )
    conclude(rows)


def conclude(rows: list[dict[str, Any]]) -> None:
    """Say which cell was slowest, and end with a failure where one is slower than the straight loop, or wrong."""
    lowest = min(rows, key=lambda row: row["ratio_high"])
    print(f"{len(rows)} cells; the lowest upper bound is {lowest['ratio_high']:.2f}, of {lowest['shape']}")
    faults = [
        f"{row['shape']} is slower than the straight loop, {row['ratio']:.2f}x (at most {row['ratio_high']:.2f})"
        for row in rows
        if row["ratio_high"] < 1 and not is_smoke()
    ]
    faults += [
        f"gradients of {row['shape']} are {row['gradients_apart']:.2g} of their length from autograd's"
        for row in rows
        if not row["gradients_right"]
    ]
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
