"""Tip-Adapter's search, 4,000 cells (200 beta x 20 alpha), 16,000 keys and 50,000 queries, against one cell at a time.

    CAFE_REAL_DATA=... python benchmarks/bench_tip_search.py [--part 1000] [--cells 8]

Both sides are measured on a part of the queries and multiplied up: queries are independent, and so are cells on the
recomputing side, of which a few spread over the grid are computed. cafe computes all cells. The recomputing side is the
published search: affinity, exponential and the product with one-hot values for every cell. In every cell that both
compute, accuracies must be the same up to one query (the two sum votes in another order, and a tie may turn).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from harness import imagenet_shape, parse, report, timed

from cafe.solvers.tip_search import tip_search

QUERIES, SCALE = 50_000, 100.0


def main() -> None:
    """Time the search against the released loop, and check that accuracies are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", type=int, default=1000, help="queries measured")
    parser.add_argument("--betas", type=int, default=200, help="of 200, measured on our side")
    parser.add_argument("--cells", type=int, default=8, help="cells recomputed on the other side")
    arguments = parse(parser, {"part": 50, "betas": 10, "cells": 2})
    X, y, queries, labels, text = imagenet_shape(16_000, arguments.part)
    order = np.argsort(y, kind="stable")
    keys, key_labels, classes = torch.from_numpy(X[order]), y[order], torch.from_numpy(text)
    alphas, betas = np.linspace(0.1, 5, 20), np.linspace(0.1, 20, 200)[: arguments.betas]
    warm = slice(0, 64)
    tip_search(queries[warm], labels[warm], keys, key_labels, classes, SCALE, alphas[:1], betas[:1])
    seconds, grid = timed(lambda: tip_search(queries, labels, keys, key_labels, classes, SCALE, alphas, betas))
    ours = seconds * 200 / len(betas)
    onehot = torch.nn.functional.one_hot(torch.from_numpy(key_labels), len(text)).float()
    tested = torch.from_numpy(queries)
    theirs, difference = 0.0, 0.0
    for cell in range(arguments.cells):
        i, j = (cell * 67) % len(betas), (cell * 7 + 3) % 20
        start = time.perf_counter()
        affinity = tested @ keys.T
        logits = SCALE * tested @ classes.T + alphas[j] * (torch.exp(-betas[i] * (1 - affinity)) @ onehot)
        accuracy = float((logits.argmax(1).numpy() == labels).mean())
        theirs += (time.perf_counter() - start) / arguments.cells
        difference = max(difference, abs(accuracy - grid[i, j]))
        print(f"alpha {alphas[j]:.2f}, beta {betas[i]:.2f}: accuracy {accuracy:.4f} and {grid[i, j]:.4f}", flush=True)
    if difference > 1.5 / arguments.part:
        raise SystemExit(f"accuracies differ by {difference}")
    print(
        f"measured: {arguments.part} of {QUERIES} queries; {len(betas) * 20} of 4,000 cells by cafe, {arguments.cells} "
        "recomputed; multiplied up to the whole",
        flush=True,
    )
    row = {
        "shape": f"{len(keys)} keys, {QUERIES} queries, {len(text)} classes",
        "cells": 4000,
        "queries_measured": arguments.part,
        "recomputing_seconds": theirs * 4000 * QUERIES / arguments.part,
        "cafe_seconds": ours * QUERIES / arguments.part,
        "ratio": theirs * 4000 / ours,
        "largest_accuracy_difference": difference,
        "dtype": "float32",
    }
    report("tip_search", 100.0, [row])


if __name__ == "__main__":
    main()
