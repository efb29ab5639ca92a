"""How often tests of two equal methods find a difference: one t for both parts of the variance, or a t for each.

    python benchmarks/studies/paired_test_study.py [--experiments 20000] [--seeds 3] [--images 500] [--into PAGE]

Right or wrong is a threshold of difficulty + method x image + method x draw + rest, all normal; two methods that are
equal on average over images and draws. Prints per cent at 0.05 and 0.01 of three tests on the same experiments:

- before: t = d / sqrt(V / (S n)), V = MS_seed + max(MS_image - MS_rest, 0),
  df = V^2 / (MS_seed^2 / (S - 1)) (Hillis 2007);
- bounded: the same with MS_seed not below MS_rest;
- now: :func:`cafe.protocol.paired.paired_test`, a t for each part, with the share of its 95 % intervals that miss zero.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "helpers"))

import numpy as np
from harness import parse, report, shown
from paired_experiments import KINDS, correct
from scipy import stats

from cafe.protocol.paired import paired_test


def one_t(a: np.ndarray, b: np.ndarray, bounded: bool) -> float:
    """Return the p-value of one t with degrees of freedom for the sum of both parts."""
    d = a.astype(np.float64) - b
    seeds, n = d.shape
    of_images, of_seeds, mean = d.mean(axis=0), d.mean(axis=1), d.mean()
    ms_image = seeds * ((of_images - mean) ** 2).sum() / (n - 1)
    ms_seed = n * ((of_seeds - mean) ** 2).sum() / (seeds - 1)
    ms_rest = ((d - of_seeds[:, None] - of_images + mean) ** 2).sum() / ((seeds - 1) * (n - 1))
    if bounded:
        ms_seed = max(ms_seed, ms_rest)
    v = ms_seed + max(ms_image - ms_rest, 0.0)
    if v == 0:
        return 1.0 if mean == 0 else 0.0
    df = min(v**2 / (ms_seed**2 / (seeds - 1)), n - 1) if ms_seed else n - 1
    return float(2 * stats.t.sf(abs(mean) / np.sqrt(v / (seeds * n)), df))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--into", type=Path, help="the page whose marked table is made again (docs/comparing.md)")
    arguments = parse(parser, {"experiments": 5, "images": 50, "into": None})
    shown("paired", arguments.into, lambda: simulate(arguments.experiments, arguments.seeds, arguments.images))


def simulate(experiments: int, seeds: int, images: int) -> None:
    """Run the experiments of every kind, print the table and keep the rows."""
    print("| method x image | method x draw | before | bounded | now | interval misses zero |")
    print("|---:|---:|---:|---:|---:|---:|")
    rows = []
    for kind in KINDS:
        rng = np.random.default_rng(0)
        p_values, missed = np.empty((3, experiments)), 0
        for i in range(experiments):
            a, b = correct(rng, *kind, seeds, images)
            now = paired_test(a, b)
            p_values[:, i] = one_t(a, b, False), one_t(a, b, True), now.p_value
            missed += not now.ci95[0] <= 0 <= now.ci95[1]
        shares = [[100 * float(np.mean(p < level)) for level in (0.05, 0.01)] for p in p_values]
        cells = " | ".join(f"{at_5:.1f}, {at_1:.1f}" for at_5, at_1 in shares)
        print(f"| {kind[0]:g} | {kind[1]:g} | {cells} | {100 * missed / experiments:.1f} |", flush=True)
        about = {"experiments": experiments, "method_x_image": kind[0], "method_x_draw": kind[1]}
        rows.append({**about, **dict(zip(("before", "bounded", "now"), shares, strict=True)), "missed": missed})
    report("paired_test", None, rows, quiet=True)


if __name__ == "__main__":
    main()
