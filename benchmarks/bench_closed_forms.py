"""Gaussian and ridge classifiers for 30 shrinkages from one eigendecomposition, against a solve for each.

    CAFE_REAL_DATA=... python benchmarks/bench_closed_forms.py [--rows 16000] [--values 30]

Both sides sum the Gram matrix once; the other side then factorises it anew for every value. Weights are compared.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
from harness import flowers_shape, imagenet_shape, parse, report, side_by_side

from cafe.solvers.closed_forms import gaussian_path, ridge_path


def gaussian_each(X: np.ndarray, y: np.ndarray, values: list[float]) -> list[np.ndarray]:
    """Return the Gaussian's weights for every shrinkage, by a solve for each."""
    X = X.astype(np.float64)
    mu = np.stack([X[y == c].mean(axis=0) for c in range(y.max() + 1)])
    centred = X - mu[y]
    scatter, d = centred.T @ centred, X.shape[1]
    trace = np.trace(scatter) / (len(X) - 1)
    return [d * np.linalg.solve(scatter + v * trace * np.eye(d), mu.T).T for v in values]


def ridge_each(X: np.ndarray, y: np.ndarray, values: list[float]) -> list[np.ndarray]:
    """Return the ridge's weights for every penalty, by a solve for each."""
    X = X.astype(np.float64)
    targets = np.where(np.arange(y.max() + 1) == y[:, None], 1.0, -1.0)
    centred = X - X.mean(axis=0)
    gram, right = centred.T @ centred, centred.T @ (targets - targets.mean(axis=0))
    return [np.linalg.solve(gram + v * np.eye(len(gram)), right).T for v in values]


def main() -> None:
    """Time both closed forms against a solve for each value, and record the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--values", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parse(parser, {"rows": 200, "values": 3, "repeats": 1})
    values = np.logspace(-2, 2, arguments.values).tolist()
    rows = []
    for X, y in (imagenet_shape(arguments.rows, 1000)[:2], flowers_shape()[:2]):
        c = int(y.max()) + 1
        kinds: dict[str, tuple[Any, Any]] = {
            "gaussian": (partial(gaussian_path, X, y, c, values), partial(gaussian_each, X, y, values)),
            "ridge": (partial(ridge_path, X, y, c, values), partial(ridge_each, X, y, values)),
        }
        for name, (ours, theirs) in kinds.items():
            seconds = side_by_side({"cafe": ours, "each": theirs}, arguments.repeats)
            solved = ours()[0] if name == "gaussian" else ours()
            pairs = zip((W for W, _ in solved), theirs(), strict=True)
            worst = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
            if worst > 1e-8:
                raise SystemExit(f"{name}: weights differ by {worst:.1e}")
            row = {"kind": name, "shape": f"{len(X)}x{X.shape[1]}x{c}", "values": len(values), "dtype": "float64"}
            row |= {"each_seconds": seconds["each"], "cafe_seconds": seconds["cafe"]}
            rows.append(row | {"ratio": seconds["each"] / seconds["cafe"], "largest_difference": worst})
    report("closed_forms", None, rows)


if __name__ == "__main__":
    main()
