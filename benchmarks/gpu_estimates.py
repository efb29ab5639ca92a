"""Estimate a step's time on a GPU from compiled code, on a machine without one; a page's table, labelled as estimates.

    python benchmarks/gpu_estimates.py          # rows of the table in docs/performance.md, for an H100
    python benchmarks/run_all.py --no-run       # writes it

For each launch of a step of the default recipe, with AdamW:

    time = LAUNCH + max(issue, waiting)
    issue = blocks of the busiest multiprocessor x warps x (instructions + (turns - 1) x loop) / 4 a cycle / clock
    waiting = waves of blocks x turns x (TURN + matrix instructions along the depth x DEPENDENT) / clock

with the instructions that are in the machine code, and turns as deep as the product. It is neither a bound nor a
measurement: how well copies into shared memory run ahead, and how warps share the units, is not in it. Bytes are those
of step_bytes.py, asked for by the kernels; the floor is what no launches could be faster than: multiply-adds at the
card's rate for the precision, or each number that has to be kept once from where it is, whichever takes longer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from compile_matrix import CARDS, Compiled, compiling
from harness import parse, report
from kernel_launches import DEPTHS, PRECISIONS, adapter_step
from step_bytes import bytes_asked, least_bytes, multiply_adds

# Boost clock of an H100 SXM (NVIDIA's data sheet), instructions that a multiprocessor issues a cycle, and the time from
# one kernel's start to the next within a graph, in microseconds (1.5 to 2.5 in published measurements of CUDA graphs).
CLOCK, ISSUED, LAUNCH = 1.755e9, 4, 2.0
# Cycles that a turn of the loop waits where nothing else runs: for a barrier and a read of shared memory, and for each
# of its matrix instructions along the depth, which need each other (Luo et al., arXiv 2402.13499, latencies).
TURN, DEPENDENT = 70, 35
# How deep a matrix instruction is; plain float32 has none.
DEPTH = {"fp32": 0, "tf32": 8, "bf16": 16}
# Of a multiprocessor, for how many blocks fit in it.
REGISTERS, WARPS = 65_536, 64
# Multiply-adds a second without sparsity, bytes a second of memory and of the second-level cache, and its size (data
# sheet; the cache's rate as measured by Chips and Cheese, 2023).
RATES = {"fp32": 33.5e12, "tf32": 247e12, "bf16": 494e12}
MEMORY, CACHE, CACHE_BYTES = 3.35e12, 5.5e12, 50 * 2**20


def turns(kernel: str, sizes: dict[str, int], tile: str) -> int:
    """Return how often the kernel's loop is passed."""
    depth = DEPTHS.get(kernel)
    if depth is None:
        return 1
    return -(-sizes[depth] // int(tile.rpartition("x")[2]))


def microseconds(row: Compiled, sizes: dict[str, int]) -> float:
    """Return the estimate of one launch, in microseconds; see the module's docstring."""
    card, passed = CARDS[row.target][1], turns(row.kernel, sizes, row.tile)
    busiest = -(-row.blocks // card.multiprocessors)
    issue = busiest * row.warps * (row.instructions + (passed - 1) * row.loop) / ISSUED
    limits = card.shared_memory // max(1, row.shared), REGISTERS // (32 * row.warps * row.registers), WARPS // row.warps
    depth = DEPTH[row.precision]
    chain = int(row.tile.rpartition("x")[2]) // depth * DEPENDENT if depth and row.tile else 0
    waiting = -(-busiest // max(1, min(limits))) * passed * (TURN + chain)
    return LAUNCH + 1e6 * max(issue, waiting) / CLOCK


def floor(precision: str, sizes: dict[str, int]) -> float:
    """Return what a step cannot be faster than on an H100, in microseconds."""
    kept = least_bytes(sizes, PRECISIONS[precision][0].itemsize)
    moving = kept / (CACHE if kept <= CACHE_BYTES else MEMORY)
    return 1e6 * max(multiply_adds(sizes) / RATES[precision], moving)


def estimate(target: str, precision: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Compile a step and return launches and microseconds, and which launch takes longest."""
    from cafe.kernels.reference import AdapterShape

    launched: list[Compiled] = []
    shape = AdapterShape("image", "paper", sizes["h"])
    with compiling({}, target, "estimate", precision, launched):
        step = {name: sizes[name] for name in ("g", "b", "d", "c")}
        adapter_step(shape, precision, CARDS[target][1], **step)
    each = [(microseconds(row, sizes), row) for row in launched]
    longest = max(each, key=lambda pair: pair[0])
    tiles = {row.kernel: tuple(map(int, row.tile.split("x")[:2])) for row in launched}
    asked = bytes_asked(sizes, tiles, PRECISIONS[precision][0].itemsize)
    return {
        "launches": len(each),
        "microseconds": sum(time for time, _ in each),
        "floor_us": floor(precision, sizes),
        "megabytes": sum(asked.values()) / 1e6,
        "least_megabytes": least_bytes(sizes, PRECISIONS[precision][0].itemsize) / 1e6,
        "longest": f"{longest[1].kernel.removesuffix('_kernel')} {longest[0]:.0f}",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the estimates and keep their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="90", help=f"of {', '.join(CARDS)}")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    given = parse(parser, {"target": "90", "precisions": "bf16"}, argv)
    import triton

    cases = [{"g": 1, "b": 256, "d": 512, "h": 128, "c": 1000}]
    if not given.smoke:
        cases.append({"g": 45, "b": 256, "d": 512, "h": 128, "c": 102})
        cases.append({"g": 1, "b": 256, "d": 1024, "h": 256, "c": 20_000})
    about = {"estimated": True, "target": given.target, "card": CARDS[given.target][0], "triton": triton.__version__}
    print(f"Estimates for {about['card']} from code compiled by Triton {about['triton']}; nothing was run.", flush=True)
    for sizes in cases:
        for precision in given.precisions.split(","):
            estimated = estimate(given.target, precision, sizes)
            shape = "x".join(str(sizes[name]) for name in "gbdhc")
            report("gpu_estimates", None, [about | {"shape": shape, "precision": precision} | sizes | estimated])
    return 0


if __name__ == "__main__":
    sys.exit(main())
