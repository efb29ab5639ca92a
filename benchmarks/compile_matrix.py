"""Compile the Triton kernels for real cards on a machine without one, and say what each needs there.

    python benchmarks/compile_matrix.py                                  # every kernel and tile, six cards
    python benchmarks/compile_matrix.py --targets 90 --precisions tf32   # one card, one precision
    python benchmarks/compile_matrix.py --quick                          # the default recipe's kernels, smallest tile
    python benchmarks/compile_matrix.py --jsonl rows.jsonl               # also a row for each kernel

The host code of each family of kernel_launches.py runs on tensors without numbers (torch's meta device), so that
dtypes, strides and what Triton specialises for are those of a real fit; each launch is compiled for the wanted card in
place of being run. Registers, stack and instructions are read from the machine code, by the tools that come with
Triton. A whole run takes half an hour on an idle core, and appends a row for each card to results/compile_matrix.jsonl,
from which docs/performance.md has its table.

Triton comes with PyTorch for CUDA, and by `pip install triton` (the extra "triton") beside any other. Two releases
of it are not installed side by side; another goes in a folder of its own, which is looked at first:

    pip install --target OLD triton==3.6.0
    PYTHONPATH=OLD:. TRITON_CACHE_DIR=FOLDER python benchmarks/compile_matrix.py

Exit code 1 where a kernel does not compile, needs more shared memory than the card gives a block, spills more than
MOST_SPILLED bytes a thread, or multiplies tf32 or bfloat16 without matrix units.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from harness import parse, report
from kernel_launches import FAMILIES, PRECISIONS, WITHOUT_PRODUCTS

from cafe.kernels.cards import Card

# Shared memory of a block and multiprocessors (CUDA C++ programming guide, technical specifications per compute
# capability, less 1 KiB that the system keeps; AMD CDNA 3 instruction set, local data share).
CARDS = {
    "90": ("H100", Card(227 * 1024, 132)),
    "80": ("A100", Card(163 * 1024, 108)),
    "86": ("A10", Card(99 * 1024, 72)),
    "89": ("L4", Card(99 * 1024, 58)),
    "100": ("B200", Card(227 * 1024, 148)),
    "gfx942": ("MI300X", Card(64 * 1024, 304)),
}
# Bytes a thread; a handful of spilled registers costs nothing that can be measured.
MOST_SPILLED = 64


@dataclass(frozen=True)
class Compiled:
    """One kernel with one tile, compiled for one card; bytes, where it says nothing else.

    Attributes
    ----------
    kernel, case, precision, target : str
        What was compiled, and for what.
    tile : str
        As ``"64x128x32"``; empty for kernels without.
    warps, stages, shared, registers, spilled : int
        Of a block; registers and spilled bytes are those of a thread.
    blocks : int
        Of the launch.
    instructions, matrix, multiply_adds, local : int
        How many instructions there are in the code, and of these of matrix units, single multiply-adds and spilling.
    loop : int
        Of the instructions, those of the longest loop that multiplies; 0 without one, or where it is not known.
    seconds : float
        To compile, or to find in Triton's cache.
    error : str
        Why it did not compile, or "".
    """

    kernel: str
    case: str
    precision: str
    target: str
    tile: str = ""
    warps: int = 0
    stages: int = 0
    shared: int = 0
    registers: int = 0
    spilled: int = 0
    blocks: int = 0
    instructions: int = 0
    matrix: int = 0
    multiply_adds: int = 0
    loop: int = 0
    local: int = 0
    seconds: float = 0.0
    error: str = ""

    def faults(self) -> list[str]:
        """Return what would go wrong on the card, in words; nothing where all is well."""
        name, card = CARDS[self.target]
        if self.error:
            return [f"does not compile: {self.error}"]
        reasons = []
        if self.shared > card.shared_memory:
            reasons.append(f"needs {self.shared} bytes of shared memory, {name} gives {card.shared_memory}")
        if self.spilled > MOST_SPILLED:
            reasons.append(f"spills {self.spilled} bytes a thread")
        if self.precision != "fp32" and self.kernel not in WITHOUT_PRODUCTS and not self.matrix:
            reasons.append("uses no matrix units")
        return reasons


# ---------------------------------------------------------------------------- compiling in place of launching


class OtherCard:
    """Stands for a driver: says which target is active, and that each target is a device of its own."""

    def __init__(self, target: str) -> None:
        self.target = target

    def get_current_target(self) -> Any:
        """Return Triton's name of the target."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("hip", self.target, 64) if self.target[0] == "g" else GPUTarget("cuda", int(self.target), 32)

    def get_current_device(self) -> str:
        """Return what Triton keeps compiled kernels by."""
        return self.target

    def get_current_stream(self, device: Any) -> int:
        """Return a stream that nothing is ever run on."""
        return 0


@contextmanager
def compiling(
    compiled_so_far: dict[Any, Compiled], target: str, case: str, precision: str, launched: list[Compiled] | None = None
) -> Iterator[None]:
    """Compile what the body launches for a card; ``compiled_so_far`` is by Triton's own key of what was compiled.

    ``launched`` gets a row for every launch, also of kernels that are known.
    """
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    run = JITFunction.run

    def compile_instead(function: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        start = time.perf_counter()
        size = "x".join(str(options[name]) for name in ("BM", "BN", "BK") if name in options)
        warps, blocks = options.get("num_warps", 4), math.prod(grid)
        row = Compiled(function.__name__, case, precision, target, size, warps, blocks=blocks)
        try:
            kernel = run(function, *arguments, grid=grid, warmup=True, **options)
        except Exception as error:  # a compiler has errors of many kinds, and each is an answer
            compiled_so_far[target, function.__name__, size, precision, case] = replace(
                row, error=f"{type(error).__name__}: {error}"
            )
            return
        key = (target, kernel.hash)
        if key not in compiled_so_far:
            about = read_code(kernel.asm)
            stages, shared = kernel.metadata.num_stages, kernel.metadata.shared
            seconds = time.perf_counter() - start
            compiled_so_far[key] = replace(row, stages=stages, shared=shared, seconds=seconds, **about)

        if launched is not None:
            launched.append(replace(compiled_so_far[key], blocks=row.blocks))

    before = driver._active
    driver.set_active(OtherCard(target))
    try:
        with mock.patch.object(JITFunction, "run", compile_instead):
            yield
    finally:
        driver._active = before


def read_code(asm: Any) -> dict[str, int]:
    """Read registers, spilled bytes and counts of instructions from a compiled kernel."""
    if "cubin" not in asm:
        return read_amd(asm["amdgcn"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage, code = (_tool("cuobjdump", option, file.name) for option in ("-res-usage", "-sass"))

    def count(*names: str) -> int:
        return sum(len(re.findall(rf"\b{name}\b", code)) for name in names)

    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK"))
    return {
        "registers": registers,
        "spilled": stack,
        "instructions": len(re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+\S", code, re.MULTILINE)),
        "matrix": count("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA"),
        "multiply_adds": count("FFMA", "FFMA2"),
        "loop": longest_product_loop(code),
        "local": count("LDL", "STL"),
    }


def longest_product_loop(code: str) -> int:
    """Return the instructions of the longest loop with a product in it: from where a branch goes back to, to itself.

    Examples
    --------
    >>> longest_product_loop("/*0010*/ HMMA R0 ; /*0020*/ IADD3 R1 ; /*0030*/ @P0 BRA 0x10 ; /*0040*/ EXIT ;")
    3
    """
    lines = [(int(place, 16), text) for place, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", code)]
    longest = 0
    for place, text in lines:
        back = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        if back and int(back[1], 16) <= place:
            body = [line for at, line in lines if int(back[1], 16) <= at <= place]
            multiplies = any(re.search(r"\b(?:HMMA|HGMMA|UTCHMMA|UTCQMMA|FFMA2?)\b", line) for line in body)
            longest = max(longest, len(body) * multiplies)
    return longest


def read_amd(text: str) -> dict[str, int]:
    """Read the same from AMD's assembly, whose metadata counts spilled registers of four bytes."""
    registers, spilled = (
        int(re.findall(rf"\.{name}:\s+(\d+)", text)[0]) for name in ("vgpr_count", "vgpr_spill_count")
    )
    return {
        "registers": registers,
        "spilled": 4 * spilled,
        "matrix": len(re.findall(r"v_mfma", text)),
        "multiply_adds": len(re.findall(r"v_(?:pk_)?fmac?_f32", text)),
        "local": len(re.findall(r"scratch_(?:load|store)", text)),
    }


def _tool(name: str, *arguments: str) -> str:
    """Run one of the tools that come with Triton and return what it printed."""
    import triton

    place = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    program = str(place) if place.exists() else name
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout


def compile_all(
    targets: Sequence[str],
    precisions: Sequence[str],
    quick: bool,
    tell: Callable[[Compiled], None] = lambda row: None,
) -> list[Compiled]:
    """Compile every kernel for every card in every precision, with every tile that can be chosen there.

    Parameters
    ----------
    targets : sequence of str
        Of ``CARDS``.
    precisions : sequence of str
        Of ``PRECISIONS``.
    quick : bool
        Whether only what the default recipe launches is compiled, with the smallest tile.
    tell : callable
        Called with each row as soon as its kernel is compiled.

    Returns
    -------
    list of Compiled
        Each different piece of machine code once, by the first step that launches it.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("TRITON_INTERPRET=1 is set: kernels would be interpreted, and nothing compiled")
    compiled_so_far: dict[Any, Compiled] = {}
    told = 0
    for target in targets:
        card = CARDS[target][1]
        for family in FAMILIES:
            # A family whose code is the same in all precisions is compiled once.
            own = [name for name in precisions if name in family.precisions] or family.precisions[:1]
            for precision in own:
                for case, launch in family.launches(precision, card, quick):
                    with compiling(compiled_so_far, target, case, precision):
                        launch()
                    for row in list(compiled_so_far.values())[told:]:
                        tell(row)
                    told = len(compiled_so_far)
    return list(compiled_so_far.values())


def summary(rows: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Return what docs/performance.md says of each card: how many kernels, the worst of each need, and faults."""
    rows_told = []
    for target in dict.fromkeys(row.target for row in rows):
        own = [row for row in rows if row.target == target]
        name, card = CARDS[target]
        spilling = max(own, key=lambda row: row.spilled)
        largest = max(own, key=lambda row: row.shared)
        rows_told.append(
            {
                "target": target,
                "card": name,
                "kernels": len({row.kernel for row in own}),
                "compiled": len(own),
                "tiles": sorted({row.tile for row in own if row.tile}),
                "most_registers": max(row.registers for row in own),
                "most_spilled": spilling.spilled,
                "spilled_by": f"{spilling.kernel} {spilling.precision} {spilling.tile}" if spilling.spilled else "",
                "most_shared": largest.shared,
                "shared_limit": card.shared_memory,
                "faults": [
                    f"{row.kernel} {row.precision} {row.tile}: {'; '.join(row.faults())}"[:300]
                    for row in own
                    if row.faults()
                ],
            }
        )
    return rows_told


def main(argv: Sequence[str] | None = None) -> int:
    """Print the matrix; return 1 where something would fail on a card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(CARDS), help=f"of {', '.join(CARDS)}")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help=f"of {', '.join(PRECISIONS)}")
    parser.add_argument("--quick", action="store_true", help="the default recipe's kernels with the smallest tile")
    parser.add_argument("--jsonl", type=Path, help="file that rows are appended to")
    given = parse(parser, {"targets": "90", "precisions": "bf16", "quick": True, "jsonl": None}, argv)
    import triton

    print(f"triton {triton.__version__}, torch {torch.__version__}; what the compilers say, nothing was run")
    print(
        f"{'card':<7} {'kernel':<12} {'precision':<9} {'tile':<10} {'warps':>5} {'stages':>6} {'shared KB':>10} "
        f"{'registers':>9} {'spilled':>7} {'matrix':>6} {'FMA':>5}  step"
    )

    def tell(row: Compiled) -> None:
        if given.jsonl is not None:
            with given.jsonl.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"triton": triton.__version__, **asdict(row)}) + "\n")
        name, card = CARDS[row.target]
        shared = f"{row.shared / 1024:.0f}/{card.shared_memory // 1024}"
        print(
            f"{name:<7} {row.kernel:<12} {row.precision:<9} {row.tile:<10} {row.warps:>5} {row.stages:>6} {shared:>10} "
            f"{row.registers:>9} {row.spilled:>7} {row.matrix:>6} {row.multiply_adds:>5}  {row.case}",
            flush=True,
        )
        for fault in row.faults():
            print(f"        {fault[:300]}", flush=True)

    targets, precisions = given.targets.split(","), given.precisions.split(",")
    rows = compile_all(targets, precisions, given.quick, tell)
    if not given.quick and set(precisions) == set(PRECISIONS):
        about = {"triton": triton.__version__, "precisions": precisions}
        report("compile_matrix", None, [about | row for row in summary(rows)], quiet=True)
    bad = [row for row in rows if row.faults()]
    print(f"{len(rows)} kernels compiled, {len(bad)} would fail")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
