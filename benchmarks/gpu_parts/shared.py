"""What the parts of gpu_session.py share: sizes, where rows go, timing, and data that is made up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

DEVICE = "cuda:0"
# Bounds of a step's gradients against float64, as a share of their length. tf32 and bfloat16 round operands to 11 and 8
# bits, and products of a few hundred numbers average that out; whether autograd's own products use matrix units is the
# library's choice, so its error is no measure.
ALLOWED = {"float32": 2e-5, "tf32": 3e-3, "bfloat16": 3e-2}

# Keeps a row; ``ok`` says whether it is within its bound.
Rows = Callable[..., None]


class Sizes:
    """Sizes of the measured problems: for a GPU, or small enough for Triton's interpreter."""

    def __init__(self, smoke: bool) -> None:
        self.smoke = smoke
        self.b, self.d, self.h, self.c, self.n = (16, 24, 8, 18, 64) if smoke else (256, 512, 128, 1000, 16_000)
        self.steps, self.repeats = (2, 1) if smoke else (400, 3)
        self.precisions = ("float32",) if smoke else ("float32", "tf32", "bfloat16")


def wait() -> None:
    """Wait for the device."""
    import torch

    torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """Return the fewest seconds of a call, after one that warms up."""
    run()
    wait()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def made_up(n: int, c: int, d: int, seed: int = 0, spread: float = 0.12) -> tuple[Any, Any, Any]:
    """Return unit rows (n, d), labels and text (c, d), float32: classes overlap, and text is off its class's mean."""
    import numpy as np

    rng = np.random.default_rng(0)
    means = rng.normal(size=(c, d)).astype(np.float32) / d**0.5
    text = means + 0.6 * rng.normal(size=(c, d)).astype(np.float32) / d**0.5
    drawn = np.random.default_rng(seed + 1)
    y = drawn.permutation(np.arange(n) % c)
    X = means[y] + spread * drawn.normal(size=(n, d)).astype(np.float32) * 20 / d**0.5
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, text)]
    return unit[0].astype(np.float32), y, unit[1].astype(np.float32)


@contextlib.contextmanager
def library_precision(precision: str) -> Iterator[None]:
    """Let torch's own products be in tf32 where that is compared, and put the setting back."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def failure_is_a_row(row: Rows, **about: Any) -> Iterator[None]:
    """Keep a row of what the body raises: a kernel that fails on this card is a result, and the rest goes on."""
    try:
        yield
    except Exception as error:
        row(**about, error=repr(error)[:500], ok=False)


def is_here(name: str) -> bool:
    """Return whether a package can be imported."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def against_truth(
    step: Any, parameters: dict[str, Any], index: Any, true_losses: Any, truth: dict[str, Any], precision: str
) -> dict[str, Any]:
    """Return how far losses and gradients of one step are off, and whether a second gives the same bits."""
    losses, own = step(parameters, index)
    own, losses = {k: v.clone() for k, v in own.items()}, losses.clone()
    again = step(parameters, index)[1]
    off = {k: float((own[k].double() - v).norm() / v.norm()) for k, v in truth.items()}
    same = all(bool((own[k] == again[k]).all()) for k in own)
    return {
        "same_twice": same,
        "off": off,
        "loss_off": float((losses.double() - true_losses).abs().max()),
        "ok": same and max(off.values()) <= ALLOWED[precision],
    }


def timed_steps(sizes: Sizes, step: Any, parameters: dict[str, Any], n: int, b: int, recorded: bool) -> float:
    """Return seconds a step of training on batches of b of n rows, updates included, as the trainer takes them."""
    import torch

    from cafe.training import steps as training

    parameters = {k: v.clone() for k, v in parameters.items()}
    g = len(next(iter(parameters.values())))
    decay, rates = torch.zeros(g).to(DEVICE), torch.full((sizes.steps, g), 1e-3).to(DEVICE)
    record = None if recorded else training.record_by_calling
    whole = training.whole_step(step, "adamw", parameters, decay, sizes.steps, 1e-8)
    all_steps = training.RecordedSteps(whole, parameters, rates, 1, record)
    block = torch.randint(0, n, (g, sizes.steps, b), generator=torch.Generator().manual_seed(0))
    all_steps([block[:, : training.GRAPH_STEPS]])  # compiles and records

    def train() -> None:
        all_steps.restart(rates)
        all_steps([block[:, i : i + training.GRAPH_STEPS] for i in range(0, sizes.steps, training.GRAPH_STEPS)])

    return seconds_of(train, sizes.repeats) / sizes.steps
