"""Seconds until within 0.2 points of the long result: CLIP-Adapter's default recipe against the released code's.

    CAFE_REAL_DATA=... python benchmarks/bench_time_to_accuracy.py [--seeds 3]

The released recipe is SGD 2e-3 with momentum 0.9 and weight decay 5e-4, batch 32, a cosine over 200 epochs (50 on
ImageNet), and the second ReLU; its first epoch at a constant 1e-5 is left out, which favours it. The default recipe
is whatever `CLIPAdapter()` has. Both run in cafe on the same cached features, so that this compares recipes;
bench_adapter.py compares programs.

The mark is the released recipe's accuracy at its full length, mean over seeds, less 0.2 points. Both are then run at
growing lengths, doubling from 1/32 of their own full length, each with its whole schedule, until the mean over seeds
passes the mark. Seconds are the median single fit of that length. Test rows say here when a mark is passed; nothing
is chosen by them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import real_features
from harness import embedded, flowers_shape, parse, report, timed

from cafe import CLIPAdapter
from cafe.protocol.tasks import make_task

MARGIN, SHORTEST = 0.2, 32
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]


def released(text: np.ndarray, scale: float, epochs: float, seed: int) -> CLIPAdapter:
    """Return the released recipe at some length."""
    return CLIPAdapter(
        text, form="released", epochs=epochs, batch_size=32, lr=2e-3, optimizer="sgd", weight_decay=5e-4,
        logit_scale=scale, random_state=seed,
    )  # fmt: skip


def rows_of(features: Any, shots: int) -> Data:
    """Return training rows, test rows, text and its scale of one draw."""
    task = make_task(features, shots, 1, check=False)
    return (
        task.train.image_features.astype(np.float32), task.train.labels, task.test.image_features.astype(np.float32),
        task.test.labels, features.class_embeddings, features.logit_scale,
    )  # fmt: skip


def flowers() -> Data:
    """Return 16 shots of Flowers; class means of val rows stand in for text, which was not published."""
    X, y, X_test, y_test, text = flowers_shape(n_test=2463)
    return X, y, X_test, y_test, text, 100.0


SOURCES: dict[str, tuple[Callable[[], Data], float]] = {
    "digits, 16 shots": (lambda: rows_of(embedded(), 16), 200),
    "Caltech69, 16 shots": (lambda: rows_of(real_features.caltech69(16), 16), 200),
    "Flowers, 16 shots": (flowers, 200),
    "ImageNet, 4 shots": (lambda: rows_of(real_features.imagenet(4), 4), 50),
}


def run(make: Callable[[int], CLIPAdapter], data: Data, seeds: int) -> dict[str, Any]:
    """Fit every seed alone; return median seconds, steps and mean accuracy."""
    X, y, X_test, y_test = data[:4]
    seconds, scores = [], []
    for seed in range(1, seeds + 1):
        taken, model = timed(partial(make(seed).fit, X, y))
        seconds.append(taken)
        scores.append(100 * float(model.score(X_test, y_test)))
    return {
        "seconds": statistics.median(seconds), "steps": model.n_steps_, "acc1": float(np.mean(scores)),
        "kernel": model.kernel_, "dtype": model.dtype_,
    }  # fmt: skip


def first_to_pass(make: Callable[[float, int], CLIPAdapter], data: Data, seeds: int, mark: float) -> dict[str, Any]:
    """Run at growing fractions of the full length until the mark is passed, or the full length is reached."""
    fraction = 1 / SHORTEST
    while True:
        result = run(lambda seed, fraction=fraction: make(fraction, seed), data, seeds)
        result["passed"] = result["acc1"] >= mark
        if result["passed"] or fraction >= 1:
            return result
        fraction *= 2


def measure(name: str, seeds: int, part: float) -> None:
    """Time one data set."""
    source, epochs = SOURCES[name]
    epochs *= part
    data = source()
    X, text, scale = data[0], data[4], data[5]
    default = CLIPAdapter(text, logit_scale=scale, random_state=1).fit(X, data[1])  # warms up, and says its length
    batch = min(default.batch_size, len(X))

    def ours(fraction: float, seed: int) -> CLIPAdapter:
        """Make the library's default adapter with this fraction of its steps."""
        if fraction >= 1:
            return CLIPAdapter(text, logit_scale=scale, random_state=seed)
        steps = max(1, round(fraction * default.n_steps_))
        # The trainer rounds up, so half a step is taken off.
        return CLIPAdapter(text, logit_scale=scale, random_state=seed, epochs=(steps - 0.5) * batch / len(X))

    def theirs(fraction: float, seed: int) -> CLIPAdapter:
        """Make an adapter in the released form with this fraction of its epochs."""
        return released(text, scale, fraction * epochs, seed)

    full, mine = run(lambda s: theirs(1, s), data, seeds), run(lambda s: ours(1, s), data, seeds)
    mark = full["acc1"] - MARGIN
    them, us = first_to_pass(theirs, data, seeds, mark), first_to_pass(ours, data, seeds, mark)
    row = {
        "shape": name,
        "n": len(X),
        "released_full_acc1": full["acc1"],
        "released_full_seconds": full["seconds"],
        "default_full_acc1": mine["acc1"],
        "default_full_seconds": mine["seconds"],
        "mark": mark,
        "released_seconds": them["seconds"],
        "released_steps": them["steps"],
        "default_passed": us["passed"],
        "default_seconds": us["seconds"],
        "default_steps": us["steps"],
        "ratio": them["seconds"] / us["seconds"] if us["passed"] else 0.0,
        "ratio_of_full_lengths": full["seconds"] / mine["seconds"],
        "seeds": seeds,
        "kernel": mine["kernel"],
        "dtype": mine["dtype"],
    }
    report("time_to_accuracy", None, [row])


def main() -> None:
    """Measure every data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--datasets", default=";".join(SOURCES), help="separated by semicolons")
    parser.add_argument("--part", type=float, default=1.0, help="of the released number of epochs")
    arguments = parse(parser, {"seeds": 1, "datasets": "digits, 16 shots", "part": 0.05})
    for name in arguments.datasets.split(";"):
        measure(name, arguments.seeds, arguments.part)


if __name__ == "__main__":
    main()
