"""Everything that only a GPU can answer, in one line; nobody has run it on one so far.

    python benchmarks/gpu_checks.py                          # correctness, determinism, recorded steps; a minute or two
    CAFE_REAL_DATA=... python benchmarks/gpu_checks.py --bench              # and the rows of the table's GPU column
    compute-sanitizer --tool memcheck python benchmarks/gpu_checks.py --quick   # also racecheck, initcheck, synccheck

Gradients of one step are compared with float64 autograd, and may be off by a small multiple of what autograd in the
same precision is off by. Exits with 1 and a sentence where something is wrong, or where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import parse

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))
# How many times autograd's own error, in the same precision, a kernel's may be; sums go in another order.
ALLOWED = {"float32": 4.0, "tf32": 2.0, "bfloat16": 2.0}
DEVICE, SEEDS = "cuda" if torch.cuda.is_available() else "cpu", 3


def on_device(tree: Any, dtype: torch.dtype | None = None) -> Any:
    """Move tensors, or a dict of them, to the GPU; floating ones to that dtype."""
    if isinstance(tree, dict):
        return {k: on_device(v, dtype) for k, v in tree.items()}
    return tree.to(DEVICE, dtype if tree.is_floating_point() else None)


def check_gradients(quick: bool) -> list[str]:
    """Compare one step's gradients with float64, for every shape and precision; twice, for determinism."""
    from interpreted import SHAPES, problem

    from cafe.kernels.reference import adapter_losses_and_gradients

    wrong = []
    sizes = [{"b": 33, "c": 66, "d": 35}] if quick else [{"b": 33, "c": 66, "d": 35}, {"b": 256, "c": 1001, "d": 515}]
    for shape in SHAPES[:2] if quick else SHAPES:
        for size in sizes:
            parts = problem(shape, torch.float64, **size)
            weights, hyper, X, y, index, text, mean = (on_device(part) for part in parts)
            _, truth = adapter_losses_and_gradients(shape, weights, hyper, X[index], y[index], text, mean)
            narrow = [on_device(part, torch.float32) for part in parts]
            for name in ALLOWED:
                found = compare(shape, narrow, truth, name)
                wrong += [f"{shape.variant}-{shape.form} {size} {name} {each}" for each in found]
    return wrong


def compare(shape: Any, parts: list[Any], truth: dict[str, torch.Tensor], name: str) -> list[str]:
    """Return what is wrong with one step in one precision; its twin is autograd in the same precision."""
    from cafe.kernels.reference import adapter_losses_and_gradients
    from cafe.kernels.triton import TritonAdapterStep

    weights, hyper, X, y, index, text, mean = parts
    products, how = (torch.bfloat16 if name == "bfloat16" else torch.float32), ("tf32" if name == "tf32" else "ieee")
    step = TritonAdapterStep(shape, hyper, X.to(products), y, text, mean, precision=how)
    own = {k: v.clone() for k, v in step(weights, index)[1].items()}
    again = step(weights, index)[1]
    low = [{k: v.to(products) for k, v in tree.items()} for tree in (weights, hyper)]
    rest = (X.to(products)[index], y[index], text.to(products), mean.to(products))
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    _, twin = adapter_losses_and_gradients(shape, *low, *rest)
    torch.backends.cuda.matmul.allow_tf32 = False
    wrong = [f"{key}: two runs differ" for key in own if not torch.equal(own[key], again[key])]
    for key, value in truth.items():
        ours, theirs = (float((g[key].double() - value).norm() / value.norm()) for g in (own, twin))
        if not ours <= max(ALLOWED[name] * theirs, 1e-5):
            wrong.append(f"{key}: error {ours:.2e}, autograd's own {theirs:.2e}")
    return wrong


def check_fits() -> list[str]:
    """Compare whole fits, whose steps are a CUDA graph, with the reference's on the same GPU."""
    from cafe import CLIPAdapter

    rng = np.random.default_rng(0)
    text = rng.normal(size=(21, 96)).astype(np.float32)
    y = np.arange(420) % 21
    X = (text[y] + 3 * rng.normal(size=(420, 96))).astype(np.float32)
    wrong = []
    for changes in ({}, {"optimizer": "sgd", "lr": 0.01}, {"variant": "both", "form": "released", "alpha": "learned"}):
        base = {"epochs": 150, "batch_size": 100, "device": DEVICE, "random_state": 0, "dtype": "float32", **changes}
        own, plain = (CLIPAdapter(text, kernel=k, **base).fit(X, y) for k in ("triton", "reference"))
        twice = CLIPAdapter(text, kernel="triton", **base).fit(X, y)
        if own.kernel_ != "triton" or any(
            not np.array_equal(own.parameters_[k], v) for k, v in twice.parameters_.items()
        ):
            wrong.append(f"{changes}: the fit is not the same twice")
        same = float((own.predict(X) == plain.predict(X)).mean())
        if same < 0.98 or abs(own.loss_ - plain.loss_) > 0.02 * abs(plain.loss_) + 1e-3:
            wrong.append(f"{changes}: {100 * same:.1f} per cent alike, losses {own.loss_:.4f} and {plain.loss_:.4f}")
    return wrong


def straight_on_device(data: list[torch.Tensor], epochs: float, batch: int) -> torch.nn.Module:
    """Fit as one would write it, on tensors that are on the GPU already."""
    from bench_adapter import ALPHA, DECAY, LR, SCALE

    X, y, text = data
    n, d = X.shape
    adapter = torch.nn.Sequential(
        torch.nn.Linear(d, d // 4, bias=False), torch.nn.ReLU(), torch.nn.Linear(d // 4, d, bias=False)
    ).to(DEVICE)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LR, weight_decay=DECAY)
    for _ in range(int(epochs)):
        for index in torch.randperm(n, device=DEVICE).split(batch):
            f = X[index]
            f = torch.nn.functional.normalize(ALPHA * adapter(f) + (1 - ALPHA) * f, dim=-1)
            loss = torch.nn.functional.cross_entropy(SCALE * f @ text.t(), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return adapter


def timed(run: Callable[[], Any]) -> float:
    """Return the seconds of one run, to the end of the device's work."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def bench_fit(name: str, data: tuple[np.ndarray, ...], epochs: int, dtype: str, repeats: int = 2) -> dict[str, Any]:
    """Return a row: medians of runs in turns, after a warm-up, and accuracies of three seeds."""
    from bench_adapter import BATCH, accuracy

    from cafe import CLIPAdapter

    X, y, *test, text = data
    tensors = [torch.from_numpy(a).to(DEVICE) for a in (X, y, text)]
    model = CLIPAdapter(text, epochs=epochs, random_state=1, dtype=dtype, **recipe())
    turns = [
        (timed(lambda: straight_on_device(tensors, epochs, BATCH)), timed(lambda: model.fit(X, y)))
        for _ in range(repeats + 1)
    ]
    theirs, ours = (float(np.median([turn[i] for turn in turns[1:]])) for i in range(2))
    row = {"shape": name, "epochs": epochs, "kernel": model.kernel_, "dtype": model.dtype_, "ratio": theirs / ours}
    row |= {"straight_seconds": theirs, "cafe_seconds": ours}
    straight = [accuracy(straight_on_device(tensors, epochs, BATCH).cpu(), *test, text) for _ in range(SEEDS)]
    fits = [model.set_params(random_state=seed).fit(X, y).score(*test) for seed in range(SEEDS)]
    return row | {"straight_acc1": float(np.mean(straight)), "cafe_acc1": 100 * float(np.mean(fits))}


def bench_grid(data: tuple[np.ndarray, ...], epochs: int, single: float) -> dict[str, Any]:
    """Return a row of 45 fits of all rows, 15 seeds x 3 ratios, against 45 times the straight loop's seconds."""
    from cafe import CLIPAdapter, fit_many

    X, y, _, _, text = data
    cells = [(seed, alpha) for seed in range(15) for alpha in (0.2, 0.5, 0.8)]
    models = [CLIPAdapter(text, alpha=a, epochs=epochs, random_state=s, **recipe()) for s, a in cells]
    seconds = min(timed(lambda: fit_many(X, y, models)) for _ in range(2))
    row = {"shape": "1632x512x102, all at 16 shots", "fits": len(models), "epochs": epochs, "cafe_seconds": seconds}
    return row | {"ratio": len(models) * single / seconds, "kernel": models[0].fit(X, y).kernel_}


def recipe() -> dict[str, Any]:
    """Return the parameters that both sides have."""
    from bench_adapter import BATCH, DECAY, LR, SCALE

    return {"lr": LR, "weight_decay": DECAY, "batch_size": BATCH, "logit_scale": SCALE, "device": DEVICE}


def bench() -> None:
    """Append the rows of the table's GPU column; the first of a shape is what runs by default."""
    from harness import flowers_shape, imagenet_shape, report

    large, small = imagenet_shape(), flowers_shape()
    dtypes = ("auto", "tf32", "bfloat16")
    report("adapter", 10.0, [bench_fit("16000x512x1000", large, 200, dtype) for dtype in dtypes])
    rows = [bench_fit("1632x512x102", small, 200, dtype) for dtype in dtypes]
    report("adapter", 10.0, rows)
    report("grid", 40.0, [bench_grid(small, 200, rows[0]["straight_seconds"])])


def smoke_on_cpu() -> None:
    """Check one step in Triton's interpreter, which shows that this script still fits the kernels; no GPU is seen."""
    if os.environ.get("TRITON_INTERPRET") != "1":  # read when Triton is imported
        command = [sys.executable, __file__, "--smoke"]
        raise SystemExit(subprocess.call(command, env={**os.environ, "TRITON_INTERPRET": "1"}))
    from interpreted import SHAPES, problem

    from cafe.kernels.reference import adapter_losses_and_gradients

    shape = SHAPES[0]
    weights, hyper, X, y, index, text, mean = parts = problem(shape, torch.float64, b=33, c=66, d=35)
    _, truth = adapter_losses_and_gradients(shape, weights, hyper, X[index], y[index], text, mean)
    wrong = compare(shape, [on_device(part, torch.float32) for part in parts], truth, "float32")
    if wrong:
        raise SystemExit("\n".join(["wrong in Triton's interpreter:", *wrong]))
    print("no GPU here: one step was checked in Triton's interpreter, nothing on a card")


def main() -> None:
    """Run the checks, print what is wrong, and exit with 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small shapes, for compute-sanitizer")
    parser.add_argument("--bench", action="store_true", help="append rows too; needs CAFE_REAL_DATA")
    arguments = parse(parser, {"quick": True, "bench": False})
    if arguments.smoke and not torch.cuda.is_available():
        smoke_on_cpu()
        return
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; the kernels' tests run in Triton's interpreter instead")
    wrong = check_gradients(arguments.quick) + ([] if arguments.quick else check_fits())
    if wrong:
        raise SystemExit("\n".join(["wrong on this GPU:", *wrong]))
    print(f"{torch.cuda.get_device_name(0)}: gradients, determinism and recorded fits are as they should be")
    if arguments.bench:
        bench()


if __name__ == "__main__":
    main()
