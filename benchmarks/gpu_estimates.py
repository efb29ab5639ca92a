"""Estimate a step's time on a GPU from compiled code, on a machine without one; a page's table, labelled as estimates.

    python benchmarks/gpu_estimates.py          # rows of the table in docs/performance.md, for an H100
    python benchmarks/run_all.py --no-run       # writes it

For each launch of a step of the default recipe:

    issue = blocks of the busiest multiprocessor x warps x instructions x turns of the loop / 4 a cycle / clock

with the instructions that are in the machine code, all of them counted in every turn, and turns as deep as the product.
That is neither a bound nor a measurement: waiting for memory and for other warps adds to it, and instructions outside
of the loop are counted too often. A launch takes LAUNCH at least. The optimiser and what moves the counters on are
counted as launches.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from compile_matrix import CARDS, Compiled, compiling
from harness import parse, report
from kernel_launches import DEPTHS, PRECISIONS, adapter_step

# Boost clock of an H100 SXM (NVIDIA's data sheet), instructions that a multiprocessor issues a cycle, and a kernel's
# shortest time within a graph, in microseconds (1.5 to 2.5 in published measurements of CUDA graphs).
CLOCK, ISSUED, LAUNCH = 1.755e9, 4, 2.0
# Launches of a recorded step beside those of the adapter: none, since the step is whole.
BESIDE = 0


def turns(kernel: str, sizes: dict[str, int], tile: str) -> int:
    """Return how often the kernel's loop is passed."""
    depth = DEPTHS.get(kernel)
    if depth is None:
        return 1
    return -(-sizes[depth] // int(tile.rpartition("x")[2]))


def microseconds(row: Compiled, sizes: dict[str, int]) -> float:
    """Return the estimate of one launch, in microseconds; see the module's docstring."""
    busiest = -(-row.blocks // CARDS[row.target][1].multiprocessors)
    issued = busiest * row.warps * row.instructions * turns(row.kernel, sizes, row.tile)
    return max(LAUNCH, 1e6 * issued / ISSUED / CLOCK)


def estimate(target: str, precision: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Compile a step and return launches and microseconds, and which launch takes longest."""
    from triton.runtime import driver

    from cafe.kernels.reference import AdapterShape

    launched: list[Compiled] = []
    shape = AdapterShape("image", "paper", sizes["h"])
    before = driver._active
    try:
        with compiling({}, target, "estimate", precision, launched):
            step = {name: sizes[name] for name in ("g", "b", "d", "c")}
            partial(adapter_step, shape, precision, CARDS[target][1], **step)()
    finally:
        driver._active = before
    each = [(microseconds(row, sizes), row) for row in launched]
    longest = max(each, key=lambda pair: pair[0])
    return {
        "launches": len(each) + BESIDE,
        "microseconds": sum(time for time, _ in each) + BESIDE * LAUNCH,
        "longest": f"{longest[1].kernel.removesuffix('_kernel')} {longest[0]:.0f}",
    }


def main(words: Sequence[str] | None = None) -> int:
    """Print the estimates and keep their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="90", help=f"of {', '.join(CARDS)}")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    given = parse(parser, {"target": "90", "precisions": "bf16"}, words)
    import triton

    cases = [{"g": 1, "b": 256, "d": 512, "h": 128, "c": 1000}]
    if not given.smoke:
        cases.append({"g": 45, "b": 256, "d": 512, "h": 128, "c": 102})
        cases.append({"g": 1, "b": 256, "d": 1024, "h": 256, "c": 20_000})
    about = {"estimated": True, "target": given.target, "card": CARDS[given.target][0], "triton": triton.__version__}
    print(f"Estimates for {about['card']} from code compiled by Triton {about['triton']}; nothing was run.", flush=True)
    for sizes in cases:
        for precision in given.precisions.split(","):
            found = estimate(given.target, precision, sizes)
            shape = "x".join(str(sizes[name]) for name in "gbdhc")
            report("gpu_estimates", None, [about | {"shape": shape, "precision": precision} | sizes | found])
    return 0


if __name__ == "__main__":
    sys.exit(main())
