"""A grid of 45 adapter fits, 3 seeds x 5 shots x 3 ratios at the Flowers shape, against 45 straight loops.

    CAFE_REAL_DATA=... python benchmarks/bench_grid.py [--steps 200] [--repeats 5]

Both sides take the same recipe, the same number of steps, the same batches' size, the same real rows, and PyTorch's
threads as they are. The straight side is timed on one fit of each number of shots and multiplied by 9: its fits share
nothing, and a ratio changes no operation. Accuracies at 16 shots, mean over 3 seeds x 3 ratios, must agree within
0.2 points, or the command fails.

The floor of the grid is that of its steps (bench_steps.py: products, softmax, update) in the precision of each fit, as
many side by side as the grid's are; it is run in the same rounds, a quarter of the steps.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from bench_adapter import BATCH, DECAY, LR, SAME, SCALE, accuracy, straight_loop
from bench_steps import TOGETHER, Floor
from harness import flowers_shape, is_smoke, parse, report, side_by_side

from cafe import CLIPAdapter, draw_few_shot
from cafe.compute import run_each
from cafe.methods import fit_many

SHOTS, SEEDS, RATIOS = (1, 2, 4, 8, 16), (1, 2, 3), (0.2, 0.5, 0.8)
# Of the steps, how many the floor is timed on; and how many floors the grid may take.
FLOOR_SHARE, WANTED = 4, 1.25
RECIPE = {"lr": LR, "weight_decay": DECAY, "batch_size": BATCH, "logit_scale": SCALE}


def main() -> None:
    """Measure the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parse(parser, {"steps": 5, "repeats": 1})
    X, y, X_test, y_test, text = flowers_shape()
    draws = {(k, s): draw_few_shot(y, None, k, s)[0] for k in SHOTS for s in SEEDS}
    cells = [(draws[k, s], s, a) for k in SHOTS for s in SEEDS for a in RATIOS]

    def epochs(rows: np.ndarray) -> float:
        return arguments.steps * min(BATCH, len(rows)) / len(rows)

    def model(rows: np.ndarray, seed: int, alpha: float) -> CLIPAdapter:
        return CLIPAdapter(text, alpha=alpha, epochs=epochs(rows), random_state=seed, **RECIPE)

    def grid() -> list[CLIPAdapter]:
        return fit_many(X, y, [model(*cell) for cell in cells], [rows for rows, _, _ in cells])

    def singles() -> None:
        for k in SHOTS:
            rows = draws[k, 1]
            straight_loop(X[rows], y[rows], text, epochs(rows), 1)

    def cafe_singles() -> None:
        for k in SHOTS:
            rows = draws[k, 1]
            model(rows, 1, RATIOS[0]).fit(X[rows], y[rows])

    fits, theirs = grid(), []
    turns = max(1, arguments.steps // FLOOR_SHARE // TOGETHER)
    sizes = [(min(BATCH, len(rows)), X.shape[1], len(text), X.shape[1] // 4) for rows, _, _ in cells]
    floors = [Floor(each, fit.dtype_) for each, fit in zip(sizes, fits, strict=True)]

    def least(own: Floor) -> None:
        for _ in range(turns):
            own.run()

    def floor() -> None:
        run_each([partial(least, own) for own in floors])

    runs = {"grid": grid, "floor": floor, "singles": singles, "cafe_singles": cafe_singles}
    seconds = side_by_side(runs, arguments.repeats)
    floor_seconds = seconds["floor"] * arguments.steps / (turns * TOGETHER)
    for rows, seed, alpha in cells[-9:]:
        loop = straight_loop(X[rows], y[rows], text, epochs(rows), seed, alpha)
        theirs.append(accuracy(loop, X_test, y_test, text, alpha))
    ours = 100 * float(np.mean([fit.score(X_test, y_test) for fit in fits[-9:]]))
    row = {
        "shape": "1632x512x102",
        "fits": len(fits),
        "steps": arguments.steps,
        "straight_seconds": 9 * seconds["singles"],
        "cafe_singles_seconds": 9 * seconds["cafe_singles"],
        "cafe_seconds": seconds["grid"],
        "floor_seconds": floor_seconds,
        "fraction": floor_seconds / seconds["grid"],
        "wanted_fraction": 1 / WANTED,
        "ratio": 9 * seconds["singles"] / seconds["grid"],
        "ratio_over_cafe_singles": 9 * seconds["cafe_singles"] / seconds["grid"],
        "straight_acc1_16_shots": float(np.mean(theirs)),
        "cafe_acc1_16_shots": ours,
        "same_accuracy": bool(abs(ours - np.mean(theirs)) <= SAME),
        "kernel": fits[0].kernel_,
        "dtype": fits[-1].dtype_,
    }
    report("grid", 6.0, [row])
    if not is_smoke() and not row["same_accuracy"]:
        raise SystemExit(f"accuracies differ by more than {SAME} points; the ratio means nothing")


if __name__ == "__main__":
    main()
