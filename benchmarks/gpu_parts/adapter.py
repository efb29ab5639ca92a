"""The adapter's step: against float64, timed beside the library's and the straight loop, recorded and not."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gpu_parts.shared import (
    DEVICE,
    Rows,
    Sizes,
    against_truth,
    failure_is_a_row,
    library_precision,
    made_up,
    seconds_of,
    timed_steps,
    wait,
)


def problem(sizes: Sizes, g: int, b: int, c: int, d: int, h: int, shape: Any = None) -> dict[str, Any]:
    """Return a step's tensors on the device, float32."""
    import torch

    from cafe.kernels.reference import AdapterShape

    shape = shape or AdapterShape("image", "paper", h)
    X, y, text = made_up(sizes.n, c, d)
    generator = torch.Generator().manual_seed(0)
    parameters = {}
    for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)):
        if used:
            parameters |= {
                f"{side}_down": torch.randn(g, d, h, generator=generator) / d**0.5,
                f"{side}_up": torch.randn(g, h, d, generator=generator) / h**0.5,
            }
    hyper = {"alpha": torch.linspace(0.2, 0.7, g), "beta": torch.linspace(0.6, 0.1, g)}
    hyper["logit_scale"] = torch.linspace(30, 60, g)
    index = torch.randint(0, len(y), (g, b), generator=generator)
    features, rows = torch.from_numpy(X).to(DEVICE), index.to(DEVICE)
    return {
        "shape": shape,
        "parameters": {k: v.to(DEVICE) for k, v in parameters.items()},
        "hyper": {k: v.to(DEVICE) for k, v in hyper.items()},
        "X": features,
        "y": torch.from_numpy(y).to(DEVICE),
        "text": torch.from_numpy(text).to(DEVICE)[None],
        "index": rows,
        "mean": features[rows].mean(1, keepdim=True),
    }


def step_of(kind: str, precision: str, of: dict[str, Any]) -> Any:
    """Return a step: ``"triton"``, or ``"library"`` (torch's products, analytic gradients, no autograd)."""
    import torch

    from cafe.kernels.cpu import CpuAdapterStep
    from cafe.kernels.cuda.adapter import TritonAdapterStep

    products = torch.bfloat16 if precision == "bfloat16" else torch.float32
    parts = (of["shape"], of["hyper"], of["X"].to(products), of["y"], of["text"], of["mean"])
    if kind == "triton":
        return TritonAdapterStep(*parts, precision="tf32" if precision == "tf32" else "ieee")
    # Blocks of rows are for a CPU's caches.
    return CpuAdapterStep(*parts, block_bytes=2**40)


def kernels(sizes: Sizes, row: Rows) -> None:
    """One step of every shape in every precision against float64, twice, for the same bits."""
    from cafe.kernels.reference import AdapterShape, adapter_losses_and_gradients

    shapes = [AdapterShape("image", "paper", sizes.h), AdapterShape("image", "released", sizes.h)]
    shapes += [] if sizes.smoke else [AdapterShape("text", "paper", sizes.h), AdapterShape("both", "released", sizes.h)]
    odd = {"g": 2, "b": 33, "c": 66, "d": 35, "h": 18}
    usual = {"g": 1, "b": sizes.b, "c": sizes.c, "d": sizes.d, "h": sizes.h}
    for size in (usual,) if sizes.smoke else (usual, odd):
        for shape in shapes:
            of = problem(sizes, **size, shape=AdapterShape(shape.variant, shape.form, size["h"]))
            exact = [{k: v.double() for k, v in of[each].items()} for each in ("parameters", "hyper")]
            X, labels = of["X"].double()[of["index"]], of["y"][of["index"]]
            text, mean = of["text"].double(), of["mean"].double()
            true_losses, truth = adapter_losses_and_gradients(of["shape"], *exact, X, labels, text, mean)
            for precision in sizes.precisions:
                about = {"variant": shape.variant, "form": shape.form, "precision": precision, **size}
                with failure_is_a_row(row, **about):
                    step = step_of("triton", precision, of)
                    row(**about, **against_truth(step, of["parameters"], of["index"], true_losses, truth, precision))


def straight_loop(sizes: Sizes, of: dict[str, Any], precision: str) -> float:
    """Return seconds a step of what one would write: a module, autocast, autograd and torch's fused AdamW."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    down, up = (torch.nn.Parameter(of["parameters"][f"image_{k}"][0].clone()) for k in ("down", "up"))
    fused = {} if sizes.smoke else {"fused": True}
    optimizer = torch.optim.AdamW([down, up], lr=1e-3, weight_decay=0.0, **fused)
    text, X, y = of["text"][0], of["X"], of["y"]
    rows = torch.randint(0, len(y), (sizes.steps, of["index"].shape[1])).to(DEVICE)
    narrow = torch.autocast("cpu" if sizes.smoke else "cuda", torch.bfloat16, enabled=precision == "bfloat16")

    def train() -> None:
        for batch in rows:
            x = X[batch]
            with narrow:
                q = normalize(0.2 * (torch.relu(x @ down) @ up) + 0.8 * x, dim=-1)
                loss = cross_entropy(50.0 * (q @ text.T).float(), y[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    with library_precision(precision):
        return seconds_of(train, sizes.repeats) / sizes.steps


def _timings(sizes: Sizes, row: Rows, g: int, c: int, d: int, straight: bool) -> None:
    of = problem(sizes, g, sizes.b, c, d, max(1, d // 4))
    about = {"g": g, "b": sizes.b, "c": c, "d": d}
    for precision in sizes.precisions:
        for kind in ("triton", "library"):
            for recorded in (True, False):
                what = {"step": kind, "graph": recorded, "precision": precision, **about}
                with failure_is_a_row(row, **what), library_precision(precision):
                    step = step_of(kind, precision, of)
                    seconds = timed_steps(sizes, step, of["parameters"], len(of["y"]), of["index"].shape[1], recorded)
                    row(**what, microseconds=1e6 * seconds, ok=True)
        if straight:
            seconds = straight_loop(sizes, of, precision)
            row(step="straight loop", graph=False, precision=precision, **about, microseconds=1e6 * seconds, ok=True)


def steps(sizes: Sizes, row: Rows) -> None:
    """A step of one fit at 1,000 classes: kernels, the library's products, the straight loop; recorded and not."""
    _timings(sizes, row, 1, sizes.c, sizes.d, True)


def grid(sizes: Sizes, row: Rows) -> None:
    """A step of 45 fits at 102 classes, and the whole of such a grid by the product's own call."""
    import numpy as np

    from cafe import CLIPAdapter
    from cafe.methods import fit_many

    g, c = (2, 6) if sizes.smoke else (45, 102)
    _timings(sizes, row, g, c, sizes.d, False)
    X, y, text = made_up(16 * c, c, sizes.d)
    epochs = 1 if sizes.smoke else 200
    fits = [
        CLIPAdapter(text, alpha=alpha, epochs=epochs, batch_size=32, device="cuda", random_state=seed)
        for alpha in np.linspace(0.1, 0.9, 1 if sizes.smoke else 9).tolist()
        for seed in range(1 if sizes.smoke else 5)
    ]
    start = time.perf_counter()
    fitted = fit_many(X, y, fits)
    wait()
    row(grid=len(fits), epochs=epochs, seconds=time.perf_counter() - start, kernel=fitted[0].kernel_, ok=True)


def tiles(sizes: Sizes, row: Rows) -> None:
    """A step with each size of tile for all kernels, for the order in kernels/cards.py."""
    from unittest import mock

    from cafe.kernels.cards import card_of, possible_tiles

    shapes = ((1, sizes.c),) if sizes.smoke else ((1, sizes.c), (45, 102))
    for g, c in shapes:
        of = problem(sizes, g, sizes.b, c, sizes.d, sizes.h)
        for precision in sizes.precisions:
            for number, tile in enumerate(possible_tiles(card_of(DEVICE), 4, precision == "float32")):

                def choose(
                    card: Any, rows: int, columns: int, stack: int, width: int, *form: Any, number: int = number
                ) -> Any:
                    possible = possible_tiles(card, width, *form)
                    return possible[min(number, len(possible) - 1)]

                with mock.patch("cafe.kernels.cuda.adapter.choose_tile", choose):
                    about = {"tile": repr(tile), "g": g, "c": c, "precision": precision}
                    with failure_is_a_row(row, **about):
                        step = step_of("triton", precision, of)
                        seconds = timed_steps(sizes, step, of["parameters"], len(of["y"]), of["index"].shape[1], True)
                        row(**about, microseconds=1e6 * seconds, ok=True)


def wide(sizes: Sizes, row: Rows) -> None:
    """20,000 classes, and features 1,024 wide."""
    _timings(sizes, row, 1, 40 if sizes.smoke else 20_000, sizes.d, False)
    _timings(sizes, row, 1, sizes.c, 2 * sizes.d, False)


def trace(sizes: Sizes, row: Rows) -> None:
    """A profile of recorded steps: the time of each kernel, and a trace beside the rows."""
    from torch.profiler import ProfilerActivity, profile

    of = problem(sizes, 1, sizes.b, sizes.c, sizes.d, sizes.h)
    activities = [ProfilerActivity.CPU] + ([] if sizes.smoke else [ProfilerActivity.CUDA])
    with profile(activities=activities) as taken:
        step = step_of("triton", sizes.precisions[-1], of)
        timed_steps(sizes, step, of["parameters"], len(of["y"]), of["index"].shape[1], True)
    name = "cpu_time_total" if sizes.smoke else "device_time_total"
    for event in sorted(taken.key_averages(), key=lambda event: -getattr(event, name))[:25]:
        row(kernel=event.key, calls=event.count, microseconds=getattr(event, name) / max(1, event.count))
    if not sizes.smoke:
        taken.export_chrome_trace(str(Path(os.environ["GPU_SESSION_OUT"]) / "trace.json"))


def again(sizes: Sizes, row: Rows) -> None:
    """The default fit three times, on other data each time: the later ones replay what the first recorded."""
    from cafe import CLIPAdapter
    from cafe.training.recordings import kept_recordings

    c = 4 if sizes.smoke else 102
    for turn in range(3):
        X, y, text = made_up(16 * c, c, sizes.d, seed=turn)
        model = CLIPAdapter(text, device="cuda", random_state=0, epochs=1 if sizes.smoke else None)
        start = time.perf_counter()
        model.fit(X, y)
        wait()
        seconds = time.perf_counter() - start
        row(turn=turn, seconds=seconds, steps=model.n_steps_, kernel=model.kernel_, kept=len(kept_recordings), ok=True)
