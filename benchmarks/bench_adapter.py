"""CLIP-Adapter's fit against the straight PyTorch loop: same cached tensors, recipe, epochs; accuracy in the same run.

    CAFE_REAL_DATA=... python benchmarks/bench_adapter.py [--epochs 4] [--repeats 5] [--seeds 5]

Both sides use PyTorch's threads as they are, take turns, and are scored on the same test rows; accuracies must agree
within 0.2 points in the mean over seeds, or the command fails. Roofline: floating-point operations of the products of
a step, over the fit's time, against the rate of plain matrix products measured in the same run.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from harness import flowers_shape, imagenet_shape, is_smoke, matrix_peak, parse, report, side_by_side, train_plainly
from torch import nn
from torch.nn.functional import cross_entropy

from cafe import CLIPAdapter
from cafe.kernels.cpu_projected import direct_multiply_adds, projected_multiply_adds

ALPHA, LR, DECAY, BATCH, SCALE = 0.2, 1e-3, 3.0, 256, 100.0
# Points of accuracy that the two sides may differ by.
SAME = 0.2


def straight_loop(
    X: np.ndarray, y: np.ndarray, text: np.ndarray, epochs: float, seed: int, alpha: float = ALPHA
) -> nn.Sequential:
    """Fit as one would write it: nn.Linear, autograd, torch.optim.AdamW, a cosine schedule, shuffled batches."""
    torch.manual_seed(seed)
    features, labels, classes = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(text)
    n, d = X.shape
    adapter = nn.Sequential(nn.Linear(d, d // 4, bias=False), nn.ReLU(), nn.Linear(d // 4, d, bias=False))
    steps = max(1, int(np.ceil(epochs * n / min(BATCH, n))))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=LR, weight_decay=DECAY)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        f = features[rows]
        f = alpha * adapter(f) + (1 - alpha) * f
        f = f / f.norm(dim=-1, keepdim=True)
        return cross_entropy(SCALE * f @ classes.t(), labels[rows])

    train_plainly(optimizer, loss, n, BATCH, steps)
    return adapter


def accuracy(adapter: nn.Sequential, X: np.ndarray, y: np.ndarray, text: np.ndarray, alpha: float = ALPHA) -> float:
    """Return the straight loop's accuracy, in per cent."""
    with torch.no_grad():
        f = torch.from_numpy(X)
        logits = (alpha * adapter(f) + (1 - alpha) * f) @ torch.from_numpy(text).t()
    return 100 * float((logits.argmax(1).numpy() == y).mean())


def fitted(X: np.ndarray, y: np.ndarray, text: np.ndarray, epochs: float, seed: int, dtype: str) -> CLIPAdapter:
    """Fit cafe's with the same recipe."""
    return CLIPAdapter(
        text, alpha=ALPHA, epochs=epochs, lr=LR, weight_decay=DECAY, batch_size=BATCH, random_state=seed, dtype=dtype
    ).fit(X, y)


def step_flops(b: int, d: int, c: int, kernel: str) -> float:
    """Return the operations of the products of a step; the forms are in cafe/kernels/cpu_projected.py."""
    count = projected_multiply_adds if kernel == "cpu-projected" else direct_multiply_adds
    return 2.0 * count(b, d, c, d // 4)


def measure(name: str, data: tuple[np.ndarray, ...], epochs: float, repeats: int, seeds: int, target: float) -> None:
    """Time and score one shape in every precision."""
    X, y, X_test, y_test, text = data
    peak = matrix_peak()
    precisions = ("auto", "float32")
    runs = {"straight": lambda: straight_loop(X, y, text, epochs, 1)}
    runs |= {p: (lambda p=p: fitted(X, y, text, epochs, 1, p)) for p in precisions}
    seconds = side_by_side(runs, repeats)
    theirs = [accuracy(straight_loop(X, y, text, epochs, s), X_test, y_test, text) for s in range(1, seeds + 1)]
    b, c = min(BATCH, len(X)), len(text)
    steps = max(1, int(np.ceil(epochs * len(X) / b)))
    rows = []
    for precision in precisions:
        fits = [fitted(X, y, text, epochs, s, precision) for s in range(1, seeds + 1)]
        ours = [100 * float(fit.score(X_test, y_test)) for fit in fits]
        flops = step_flops(b, X.shape[1], c, fits[0].kernel_)
        rate = flops * steps / seconds[precision] / 1e9
        top = peak[fits[0].dtype_]
        rows.append(
            {
                "shape": name,
                "n": len(X),
                "d": X.shape[1],
                "classes": c,
                "epochs": epochs,
                "steps": steps,
                "kernel": fits[0].kernel_,
                "dtype": fits[0].dtype_,
                "straight_seconds": seconds["straight"],
                "cafe_seconds": seconds[precision],
                "ratio": seconds["straight"] / seconds[precision],
                "straight_acc1": float(np.mean(theirs)),
                "cafe_acc1": float(np.mean(ours)),
                "same_accuracy": bool(abs(np.mean(ours) - np.mean(theirs)) <= SAME),
                "seeds": seeds,
                "gflops": rate,
                "peak_gflops": top,
                "fraction_of_peak": rate / top,
                "gigaflop_a_step": flops / 1e9,
                "peak_ratio_bfloat16": peak["bfloat16"] / peak["float32"],
            }
        )
    report("adapter", target, rows)
    if not is_smoke() and not all(row["same_accuracy"] for row in rows):
        raise SystemExit(f"{name}: accuracies differ by more than {SAME} points; the ratio means nothing")


def main() -> None:
    """Measure both shapes of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=4, help="of 16,000 rows; 1,632 rows take ten times as many")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parse(parser, {"epochs": 0.2, "repeats": 1, "seeds": 1})
    target = 4.0 if torch.cpu._is_amx_tile_supported() else 1.3
    measure("16000x512x1000", imagenet_shape(), arguments.epochs, arguments.repeats, arguments.seeds, target)
    epochs = 10 * arguments.epochs
    measure("1632x512x102", flowers_shape(), epochs, arguments.repeats, arguments.seeds, 3.0)


if __name__ == "__main__":
    main()
