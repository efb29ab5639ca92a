"""The adapter's step against its floor, and whole fits against the straight PyTorch loop on a grid of shapes.

    python benchmarks/bench_steps.py [--steps 313] [--pairs 5] [--full]

First the step: 16,000 rows of 512 and 1,024 numbers, 1,000 and 102 classes, batch 256, in the precision and form that
cafe takes here. Its floor is measured in the same rounds: its matrix products one after the other, the optimiser's
update on as many numbers, and one softmax of the logits. Then fits: seconds of the straight loop over cafe's, both
with the same rows and number of steps, in pairs; the mean of the log ratios with its 95 % interval. In every cell the
gradients of one step are compared with autograd's in float64, or the command fails.

Printed for every cell: peak, floor, measured, fraction, ratio. Rows are unit vectors around unit class vectors; what
they hold changes no time.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import is_smoke, matrix_peak, parse, report, side_by_side, unit
from scipy.stats import t as student
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from cafe import CLIPAdapter
from cafe.kernels.cpu import CpuAdapterStep, CpuProjectedStep, FrozenLogits, direct_multiply_adds
from cafe.kernels.fastest import StepSizes, choose_cpu_step
from cafe.kernels.optimizers import make_update
from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

RATIO, SCALE, LR, DECAY = 0.2, 100.0, 1e-3, 0.1
# What is asked of the step: the share of its floor, by number of classes.
WANTED = {1000: 0.85, 102: 0.7}
# How far gradients may be from float64's, of their length. In bfloat16 a logit of 14 is rounded by up to 14 / 512 = 3 %
# of 1, which changes its probability by as much, and every product rounds once more; in float32 2^15 times less.
APART = {"float32": 1e-4, "bfloat16": 0.1}
# Steps that are timed together, so that calling the clock costs nothing.
TOGETHER = 10


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
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    done = 0
    while done < steps:
        for index in torch.randperm(len(X)).split(min(batch, len(X))):
            loss = cross_entropy(model(features[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                break


def fitted(X: np.ndarray, y: np.ndarray, text: np.ndarray, variant: str, batch: int, steps: int) -> CLIPAdapter:
    """Fit cafe's with the same rows and number of steps."""
    return CLIPAdapter(
        text, variant=variant, alpha=RATIO, beta=RATIO, epochs=steps * min(batch, len(X)) / len(X), lr=LR,
        weight_decay=DECAY, batch_size=batch, random_state=0, device="cpu",
    ).fit(X, y)  # fmt: skip


# ---------------------------------------------------------------------------- one step


class OneStep:
    """A step of one configuration in the form and precision that cafe takes, its update, and its parts alone."""

    def __init__(self, X: np.ndarray, y: np.ndarray, text: np.ndarray, variant: str, batch: int) -> None:
        n, d = X.shape
        b, c, h = min(batch, n), len(text), d // 4
        self.shape = AdapterShape(variant, "paper", h)
        self.kernel, self.dtype = choose_cpu_step("auto", "auto", StepSizes(self.shape, b, d, c), n)
        products = getattr(torch, self.dtype)
        generator = torch.Generator().manual_seed(0)
        sides = [side for side in ("image", "text") if variant in (side, "both")]
        self.parameters = {
            f"{side}_{part}": torch.rand(1, *size, generator=generator).sub_(0.5).mul_(2 / size[0] ** 0.5)
            for side in sides
            for part, size in (("down", (d, h)), ("up", (h, d)))
        }
        self.hyper = {"alpha": torch.tensor([RATIO]), "beta": torch.tensor([RATIO])}
        self.hyper["logit_scale"] = torch.tensor([SCALE])
        self.X, self.y, self.text = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(text)[None]
        mean = self.X.mean(0)[None, None]
        arguments = (self.shape, self.hyper, self.X.to(products), self.y, self.text, mean)
        self.step: CpuAdapterStep = (
            CpuProjectedStep(*arguments, FrozenLogits())
            if self.kernel == "cpu-projected"
            else CpuAdapterStep(*arguments, self.kernel == "cpu-folded")
        )
        self.batches = [torch.randint(0, n, (1, b), generator=generator) for _ in range(TOGETHER)]
        self.update = make_update("adamw", self.parameters, torch.tensor([DECAY]))
        self.rate = torch.tensor([1e-6])
        self.products = products
        self.sizes = (b, d, c, h)

    def check(self) -> float:
        """Return how far one step's gradients are from autograd's in float64, of their length."""
        index = self.batches[0]
        _, own = self.step(self.parameters, index, False)
        wide = [{k: v.double() for k, v in tree.items()} for tree in (self.parameters, self.hyper)]
        X = self.X.double()[index]
        _, truth = adapter_losses_and_gradients(
            self.shape, *wide, X, self.y[index], self.text.double(), X.mean(1, keepdim=True)
        )
        return max(float((own[k].double() - v).norm() / v.norm().clamp_min(1e-12)) for k, v in truth.items())

    def run(self) -> None:
        """Take some steps."""
        for index in self.batches:
            self.update(self.parameters, self.step(self.parameters, index, False)[1], self.rate)

    def parts(self) -> dict[str, Callable[[], None]]:
        """Return the floor's parts, of as many steps: products of the direct form, update, softmax."""
        b, d, c, h = self.sizes

        def drawn(*size: int) -> torch.Tensor:
            return torch.rand(*size).sub_(0.5).to(self.products)

        x, down, up, w, hidden, error = (
            drawn(*size) for size in ((b, d), (d, h), (h, d), (c, d), (b, h), (b, c))
        )  # fmt: skip
        pairs = [
            (x, down), (hidden, up), (x, w.mT), (error, w), (x, up.mT), (hidden.mT, x), (x.mT, hidden),
        ]  # fmt: skip
        outs = [torch.empty(a.shape[0], right.shape[1], dtype=self.products) for a, right in pairs]
        flat = {"all": torch.rand(1, 2 * d * h)}
        slopes, update = {"all": torch.rand(1, 2 * d * h)}, make_update("adamw", flat, torch.tensor([DECAY]))
        logits = torch.rand(b, c)

        def products() -> None:
            for _ in range(TOGETHER):
                for (a, right), out in zip(pairs, outs, strict=True):
                    torch.mm(a, right, out=out)

        def updates() -> None:
            for _ in range(TOGETHER):
                update(flat, slopes, self.rate)

        def softmax() -> None:
            for _ in range(TOGETHER):
                torch.softmax(logits, -1, out=logits)

        return {"products": products, "update": updates, "softmax": softmax}


def measure_floor(n: int, d: int, c: int, batch: int, rounds: int, steps: int, pairs: int) -> dict[str, Any]:
    """Time the step beside its floor, and the fit beside the straight loop."""
    X, y, text = problem(n, d, c)
    one = OneStep(X, y, text, "image", batch)
    apart = one.check()
    seconds = {k: v / TOGETHER for k, v in side_by_side({"step": one.run, **one.parts()}, rounds).items()}
    floor = seconds["products"] + seconds["update"] + seconds["softmax"]
    flops = 2.0 * direct_multiply_adds(*one.sizes)
    row = fit_row(X, y, text, "image", batch, steps, pairs)
    return {
        **row,
        "shape": f"step {n}x{d}x{c}",
        "dtype": one.dtype,
        "kernel": one.kernel,
        "peak_gflops": matrix_peak()[one.dtype],
        "products_gflops": flops / seconds["products"] / 1e9,
        "floor_ms": 1e3 * floor,
        "step_ms": 1e3 * seconds["step"],
        "fraction": floor / seconds["step"],
        "wanted_fraction": WANTED.get(c),
        "set_up_ms": 1e3 * (row["cafe_seconds"] - steps * seconds["step"]),
        "gradients_apart": apart,
        "gradients_right": apart <= APART[one.dtype],
        "threads": torch.get_num_threads(),
    }


def fit_row(
    X: np.ndarray, y: np.ndarray, text: np.ndarray, variant: str, batch: int, steps: int, pairs: int
) -> dict[str, Any]:
    """Time fits in pairs, cafe's and the straight loop's first in turn; ratio above 1 is cafe faster."""
    model = fitted(X, y, text, variant, batch, steps)  # warms up, and asks what is fastest here
    straight_loop(X, y, text, variant, batch, max(1, steps // 10))
    times: list[tuple[float, float]] = []
    for pair in range(pairs):
        seconds = {}
        sides = {"straight": straight_loop, "cafe": fitted}
        for name in sorted(sides, reverse=bool(pair % 2)):
            start = time.perf_counter()
            sides[name](X, y, text, variant, batch, steps)
            seconds[name] = time.perf_counter() - start
        times.append((seconds["straight"], seconds["cafe"]))
    logs = np.log([straight / own for straight, own in times])
    spread = student.ppf(0.975, pairs - 1) * logs.std(ddof=1) / math.sqrt(pairs) if pairs > 1 else 0.0
    return {
        "shape": f"fit {len(X)}x{X.shape[1]}x{len(text)} {variant} batch {batch}",
        "kernel": model.kernel_,
        "dtype": model.dtype_,
        "steps": steps,
        "straight_seconds": float(np.median([a for a, _ in times])),
        "cafe_seconds": float(np.median([b for _, b in times])),
        "ratio": float(np.exp(logs.mean())),
        "ratio_low": float(np.exp(logs.mean() - spread)),
        "ratio_high": float(np.exp(logs.mean() + spread)),
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
    parser.add_argument("--steps", type=int, default=313, help="of a fit; the default recipe's are 313")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15, help="of the step and its floor")
    parser.add_argument("--full", action="store_true", help="every number of rows with every width: twice as long")
    parser.add_argument("--only", choices=("steps", "fits"), help="a part")
    arguments = parse(parser, {"steps": 2, "pairs": 2, "rounds": 1})
    wrong = []
    shapes = [(400, 64, 20)] if is_smoke() else [(16_000, d, c) for d in (512, 1024) for c in (1000, 102)]
    cells = [(100, 64, 3, v, 32) for v in ("image", "text", "both")] if is_smoke() else grid(arguments.full)
    rows = [] if arguments.only == "fits" else [
        measure_floor(*shape, 256, arguments.rounds, arguments.steps, arguments.pairs) for shape in shapes
    ]  # fmt: skip
    report("steps", None, rows)
    wrong += [row["shape"] for row in rows if not row["gradients_right"]]
    fits = []
    for n, d, c, variant, batch in [] if arguments.only == "steps" else cells:
        X, y, text = problem(n, d, c)
        one = OneStep(X, y, text, variant, batch)
        apart = one.check()
        right = {"gradients_apart": apart, "gradients_right": apart <= APART[one.dtype]}
        fits.append({**fit_row(X, y, text, variant, batch, arguments.steps, arguments.pairs), **right})
        print(f"{fits[-1]['shape']}: {fits[-1]['ratio']:.2f}x ({fits[-1]['dtype']})", flush=True)
    report("step_grid", None, fits, quiet=True)
    wrong += [row["shape"] for row in fits if not row["gradients_right"]]
    slower = [row for row in fits if row["ratio_high"] < 1]
    if fits:
        lowest = min(fits, key=lambda row: row["ratio_high"])
        print(
            f"{len(fits)} cells; slower than the straight loop: {len(slower)}; lowest upper bound "
            f"{lowest['ratio_high']:.2f} at {lowest['shape']}"
        )
    for row in slower:
        print(f"slower: {row['shape']}, {row['ratio']:.2f}x (at most {row['ratio_high']:.2f})")
    if wrong:
        raise SystemExit(f"gradients differ from autograd's by more than {APART}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
