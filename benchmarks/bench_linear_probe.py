"""Linear probe, a path of C, against scikit-learn's LogisticRegression fitted at each C; objectives in the same run.

    CAFE_REAL_DATA=... python benchmarks/bench_linear_probe.py [--rows 16000] [--path 15] [--measure 5] [--full]
    CAFE_REAL_DATA=... python benchmarks/bench_linear_probe.py --search

cafe fits the whole path. scikit-learn is timed at `--measure` values of C spread over it (their mean, times the
length of the path, is its time for the path), or with `--full` at all of them. Both objectives are printed at every C
compared; every one of cafe's must be at most scikit-learn's times 1.0001, or the benchmark fails. scikit-learn's
own stopping rule ends well above the minimum at large C, so cafe does more there than what it is compared with.

``--search`` times the published search, 23 values of C, on 4,543 x 128 features of 102 classes (Flowers, turned and cut
to 128 columns), by validation rows and by four folds, against one fit at the C that it chose; processor time, in turns.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial

import numpy as np
import torch
from harness import imagenet_shape, is_smoke, parse, real_features, report, timed
from sklearn.linear_model import LogisticRegression

from cafe import LinearProbe
from cafe.methods import fit_many
from cafe.protocol.selection import Scoring, choose, cross_validation, few_shot_val
from cafe.solvers.logistic import logistic_path


def objective(coef: np.ndarray, intercept: np.ndarray, X: np.ndarray, y: np.ndarray, C: float) -> float:
    """Return scikit-learn's objective, in float64, in blocks of rows."""
    total = 0.0
    for start in range(0, len(X), 2048):
        logits = X[start : start + 2048].astype(np.float64) @ coef.T.astype(np.float64) + intercept
        logits -= logits.max(axis=1, keepdims=True)
        true = logits[np.arange(len(logits)), y[start : start + 2048]]
        total += float((np.log(np.exp(logits).sum(axis=1)) - true).sum())
    return C * total + 0.5 * float((coef.astype(np.float64) ** 2).sum())


def middles(n: int, k: int) -> list[int]:
    """Return the middles of k equal parts of n places, so that k measurements stand for all of them."""
    return sorted({min(n - 1, int((i + 0.5) * n / k)) for i in range(min(n, k))})


def flowers_turned(n: int = 4543, d: int = 128) -> tuple[np.ndarray, ...]:
    """Return n training rows of d columns and their labels, and the rows that are left with theirs."""
    data = real_features("oxford_flowers_vitb32")
    parts = ("train_16shot", "val", "test")
    X = np.concatenate([data[f"{part}_features"] for part in parts]).astype(np.float32)
    y = np.concatenate([data[f"{part}_labels"] for part in parts]).astype(np.int64)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    turn = np.linalg.qr(rng.normal(size=(X.shape[1], X.shape[1])))[0][:, : min(d, X.shape[1])]
    X, y = (X @ turn.astype(np.float32))[order], y[order]
    n = min(n, len(X) // 2) if is_smoke() else n
    return X[:n], y[:n], X[n:], y[n:]


def search() -> None:
    """Time the published search against one fit."""
    X, y, X_val, y_val = flowers_turned()
    rows = np.arange(len(y))
    scorings: dict[str, Scoring] = {
        "validation": few_shot_val(fit_many, X, y, rows, (X_val, y_val)),
        "four folds": cross_validation(fit_many, X, y, rows, 1),
    }
    unfitted = LinearProbe(C="auto", random_state=1)
    fit_many(X[:300], y[:300], [unfitted.varied(C=1.0)])  # what is imported and compiled once
    costs = []
    for name, scoring in scorings.items():
        search = partial(choose, unfitted, "few-shot-val", scoring)
        of_search, (chosen, selection) = timed(search, time.process_time)
        of_fit = timed(partial(fit_many, X, y, [chosen]), time.process_time)[0]
        costs.append(
            {
                "shape": f"{len(X)}x{X.shape[1]}x{int(y.max()) + 1}",
                "search_by": name,
                "values_of_C": selection.candidates,
                "C": chosen.C,
                "search_core_seconds": of_search,
                "fit_core_seconds": of_fit,
                "fits_that_it_costs": of_search / of_fit,
            }
        )
    report("linear_probe_search", None, costs)


def main() -> None:
    """Measure the path, or the search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="time the published search instead")
    parser.add_argument("--rows", type=int, default=16_000)
    parser.add_argument("--path", type=int, default=15)
    parser.add_argument("--measure", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="time scikit-learn at every C")
    parser.add_argument("--low", type=float, default=-2.0)
    parser.add_argument("--high", type=float, default=3.0)
    arguments = parse(parser, {"rows": 200, "path": 2, "measure": 2, "low": -1.0, "high": 0.0})
    if arguments.search or is_smoke():
        search()
    if arguments.search:
        return
    X, y, X_test, y_test, text = imagenet_shape(arguments.rows)
    path = np.logspace(arguments.low, arguments.high, arguments.path)
    ours, fits_of_path = timed(lambda: logistic_path(torch.from_numpy(X), y, len(text), path.tolist()))
    fits = [fit for (fit,) in fits_of_path]
    measured = middles(len(path), len(path) if arguments.full else arguments.measure)
    print(f"cafe: {ours:.1f} s for {len(path)} values, {[fit.iterations for fit in fits]} iterations", flush=True)
    theirs, gaps, models = 0.0, [], []
    warnings.simplefilter("ignore")
    for i in measured:
        seconds, model = timed(partial(LogisticRegression(C=path[i], max_iter=1000).fit, X, y))
        models.append(model)
        theirs += seconds
        best = objective(models[-1].coef_, models[-1].intercept_, X, y, path[i])
        gaps.append(objective(fits[i].coef, fits[i].intercept, X, y, path[i]) / best - 1)
        print(
            f"C {path[i]:.3g}: scikit-learn {seconds:.1f} s, {models[-1].n_iter_[0]} iterations, objective {best:.6g}; "
            f"cafe's is {gaps[-1]:+.1e} of it",
            flush=True,
        )
    if max(gaps) > 1e-4:
        raise SystemExit(f"cafe's objective is above scikit-learn's by {max(gaps):.1e}")
    if len(measured) < len(path):
        print(f"scikit-learn's time is extrapolated from {len(measured)} values of C to {len(path)}")
    theirs *= len(path) / len(measured)
    accuracies = [
        100 * float(((X_test @ f.coef.T + f.intercept).argmax(1) == y_test).mean()) for f in (fits[i] for i in measured)
    ]
    row = {
        "shape": f"{len(X)}x{X.shape[1]}x{len(text)}",
        "path": len(path),
        "C": [float(path[0]), float(path[-1])],
        "sklearn_measured": len(measured),
        "sklearn_seconds": theirs,
        "cafe_seconds": ours,
        "ratio": theirs / ours,
        "worst_objective_gap": max(gaps),
        "cafe_iterations": [fit.iterations for fit in fits],
        "sklearn_best_acc1": max(100 * float(model.score(X_test, y_test)) for model in models),
        "cafe_best_acc1": max(accuracies),
        "kernel": "torch",
        "dtype": "float32",
    }
    report("linear_probe", 3.0, [row])


if __name__ == "__main__":
    main()
