"""A grid of 45 adapter fits, 3 seeds x 5 shots x 3 ratios at the Flowers shape, against 45 straight loops.

    CAFE_REAL_DATA=... python benchmarks/bench_grid.py [--steps 100] [--repeats 3]

Both sides take the same number of steps of the same batches' size on the same real rows. The straight side is timed
on one fit of each number of shots and multiplied by 9: its fits do not share anything.
"""

from __future__ import annotations

import argparse

import numpy as np
from bench_adapter import BATCH, SCALE, straight_loop
from harness import flowers_shape, report, side_by_side

from cafe import CLIPAdapter, draw_few_shot
from cafe.methods import fit_many

SHOTS, SEEDS, RATIOS = (1, 2, 4, 8, 16), (1, 2, 3), (0.2, 0.5, 0.8)


def main() -> None:
    """Measure the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    X, y, X_test, y_test, text = flowers_shape()
    draws = {(k, s): draw_few_shot(y, None, k, s)[0] for k in SHOTS for s in SEEDS}

    def epochs(rows: np.ndarray) -> float:
        return arguments.steps * min(BATCH, len(rows)) / len(rows)

    def grid() -> list[CLIPAdapter]:
        cells = [(draws[k, s], s, a) for k in SHOTS for s in SEEDS for a in RATIOS]
        models = [
            CLIPAdapter(text, alpha=a, epochs=epochs(rows), logit_scale=SCALE, random_state=s) for rows, s, a in cells
        ]
        return fit_many(X, y, models, [rows for rows, _, _ in cells])

    def singles() -> None:
        for k in SHOTS:
            rows = draws[k, 1]
            straight_loop(X[rows], y[rows], text, epochs(rows), 1)

    def cafe_singles() -> None:
        for k in SHOTS:
            rows = draws[k, 1]
            CLIPAdapter(text, epochs=epochs(rows), logit_scale=SCALE, random_state=1).fit(X[rows], y[rows])

    seconds = side_by_side({"grid": grid, "singles": singles, "cafe_singles": cafe_singles}, arguments.repeats)
    fits = grid()
    row = {
        "shape": "1632x512x102",
        "fits": len(fits),
        "steps": arguments.steps,
        "straight_seconds": 9 * seconds["singles"],
        "cafe_singles_seconds": 9 * seconds["cafe_singles"],
        "cafe_seconds": seconds["grid"],
        "ratio": 9 * seconds["singles"] / seconds["grid"],
        "ratio_over_cafe_singles": 9 * seconds["cafe_singles"] / seconds["grid"],
        "cafe_acc1_16_shots": 100 * float(np.mean([fit.score(X_test, y_test) for fit in fits[-9:]])),
        "kernel": fits[0].kernel_,
        "dtype": fits[-1].dtype_,
    }
    report("grid", 6.0, [row])


if __name__ == "__main__":
    main()
