"""Compile the Triton kernels for real cards on a machine without one, and say what each needs there.

    python benchmarks/compile_matrix.py                                  # every kernel and tile, six cards
    python benchmarks/compile_matrix.py --targets 90 --precisions tf32   # one card, one precision
    python benchmarks/compile_matrix.py --quick                          # the default recipe's kernels, smallest tile
    python benchmarks/compile_matrix.py --jsonl rows.jsonl               # also rows to read by a program

The host code of a step and of the optimisers runs on tensors without numbers (torch's meta device), so that dtypes,
strides and what Triton specialises for are those of a real fit; each launch is compiled for the wanted card in place of
being run. Tiles are those that kernels/cards.py can choose there. Registers, stack and instructions are read from the
machine code, by the tools that come with Triton.

Triton comes with PyTorch for CUDA, and by `pip install triton` (the extra "triton") beside any other. Two releases
of it are not installed side by side; another goes in a folder of its own, which is looked at first:

    pip install --target OLD triton==3.6.0
    PYTHONPATH=OLD:. python benchmarks/compile_matrix.py

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
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from cafe.kernels.cards import Card, possible_tiles
from cafe.kernels.reference import AdapterShape

# Shared memory of a block and multiprocessors (CUDA C++ programming guide, technical specifications per compute
# capability, less 1 KiB that the system keeps; AMD CDNA 3 instruction set, local data share).
CARDS = {
    "80": ("A100", Card(163 * 1024, 108)),
    "86": ("A10", Card(99 * 1024, 72)),
    "89": ("L4", Card(99 * 1024, 58)),
    "90": ("H100", Card(227 * 1024, 132)),
    "100": ("B200", Card(227 * 1024, 148)),
    "gfx942": ("MI300X", Card(64 * 1024, 304)),
}
PRECISIONS = {
    "fp32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bf16": (torch.bfloat16, "ieee"),
}
# Bytes a thread; a handful of spilled registers costs nothing that can be measured.
MOST_SPILLED = 64
# Kernels that multiply no matrices.
ELEMENTWISE = ("_reciprocal", "_errors", "_adamw", "_sgd")


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
    local: int = 0
    seconds: float = 0.0
    error: str = ""

    def faults(self) -> list[str]:
        """Return what would go wrong on the card, in words; nothing where all is well."""
        name, card = CARDS[self.target]
        if self.error:
            return [f"does not compile: {self.error}"]
        found = []
        if self.shared > card.shared_memory:
            found.append(f"needs {self.shared} bytes of shared memory, {name} gives {card.shared_memory}")
        if self.spilled > MOST_SPILLED:
            found.append(f"spills {self.spilled} bytes a thread")
        if self.precision != "fp32" and self.kernel not in ELEMENTWISE and not self.matrix:
            found.append("uses no matrix units")
        return found


# ---------------------------------------------------------------------------- what a fit launches


def adapter_step(
    shape: AdapterShape, precision: str, card: Card, g: int, b: int, d: int, c: int, n: int = 4096
) -> None:
    """Take one step of a stack on tensors without numbers."""
    from cafe.kernels.triton import TritonAdapterStep

    dtype, how = PRECISIONS[precision]

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    hyper = {name: empty(g) for name in ("alpha", "beta", "logit_scale")}
    step = TritonAdapterStep(
        shape, hyper, empty(n, d, dtype=dtype), empty(n, dtype=torch.int64), empty(1, c, d), empty(g, 1, d),
        precision=how, card=card,
    )  # fmt: skip
    h, parameters = shape.bottleneck, {}
    for side, used in (("image", shape.adapts_image), ("text", shape.adapts_text)):
        if used:
            parameters |= {f"{side}_down": empty(g, d, h), f"{side}_up": empty(g, h, d)}
    if shape.alpha_mode == "scalar":
        parameters["alpha_bias"] = empty(g)
    step(parameters, empty(g, b, dtype=torch.int64))


def updates(g: int) -> None:
    """Take one step of each optimiser."""
    from cafe.kernels.optimizers import OPTIMIZERS
    from cafe.kernels.triton_optimizers import TritonUpdate

    parameters = {"down": torch.empty(g, 512, 128, device="meta"), "bias": torch.empty(g, device="meta")}
    for name in OPTIMIZERS:
        update = TritonUpdate(name, parameters, torch.empty(g, device="meta"), 10)
        update(parameters, parameters, torch.empty(g, device="meta"))


def cases(quick: bool) -> Iterator[tuple[str, AdapterShape, dict[str, int]]]:
    """Yield name, shape and sizes of the steps that launch every kernel in every form."""
    sizes = {"g": 1, "b": 256, "d": 512, "c": 1000}
    yield "image", AdapterShape("image", "paper", 128), sizes
    if quick:
        return
    yield "image, odd sizes", AdapterShape("image", "paper", 18), {"g": 2, "b": 33, "d": 35, "c": 66}
    yield "image, released", AdapterShape("image", "released", 256), {"g": 45, "b": 256, "d": 1024, "c": 102}
    yield "image, ratio trained", AdapterShape("image", "paper", 128, "scalar"), sizes
    yield "text", AdapterShape("text", "paper", 128), sizes
    yield "both, released", AdapterShape("both", "released", 1024), {"g": 3, "b": 256, "d": 1024, "c": 20_000}


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
    found: dict[Any, Compiled], target: str, case: str, precision: str, launched: list[Compiled] | None = None
) -> Iterator[None]:
    """Compile what the body launches for a card; ``found`` is by Triton's own key of what was compiled.

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
            found[target, function.__name__, size, precision, case] = replace(
                row, error=f"{type(error).__name__}: {error}"
            )
            return
        key = (target, kernel.hash)
        if key not in found:
            about = read_code(kernel.asm)
            stages, shared = kernel.metadata.num_stages, kernel.metadata.shared
            seconds = time.perf_counter() - start
            found[key] = replace(row, stages=stages, shared=shared, seconds=seconds, **about)

        if launched is not None:
            launched.append(replace(found[key], blocks=row.blocks))

    driver.set_active(OtherCard(target))
    with mock.patch.object(JITFunction, "run", compile_instead):
        yield


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
        "local": count("LDL", "STL"),
    }


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
        Told of each row when it is there.

    Returns
    -------
    list of Compiled
        Each different piece of machine code once, by the first step that launches it.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("TRITON_INTERPRET=1 is set: kernels would be interpreted, and nothing compiled")
    from triton.runtime import driver

    found: dict[Any, Compiled] = {}
    told = 0

    def compile_step(target: str, precision: str, case: str, step: Callable[[], None]) -> None:
        nonlocal told
        with compiling(found, target, case, precision):
            step()
        for row in list(found.values())[told:]:
            tell(row)
        told = len(found)

    before = driver._active
    try:
        for target in targets:
            card = CARDS[target][1]
            compile_step(target, "fp32", "optimisers", partial(updates, 45))
            for precision in precisions:
                tiles = possible_tiles(card, PRECISIONS[precision][0].itemsize, precision == "fp32")
                for number, (case, shape, sizes) in enumerate(cases(quick)):
                    # Every tile with the default's kernels, and the smallest and largest with their other forms.
                    chosen = tiles[-1:] if quick else tiles if number == 0 else [tiles[0], tiles[-1]]
                    for tile in chosen:
                        with mock.patch("cafe.kernels.triton.choose_tile", lambda *_, tile=tile: tile):
                            compile_step(
                                target, precision, case, partial(adapter_step, shape, precision, card, **sizes)
                            )
    finally:
        driver._active = before
    return list(found.values())


def main(words: Sequence[str] | None = None) -> int:
    """Print the matrix; return 1 where something would fail on a card."""
    from harness import parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default=",".join(CARDS), help=f"of {', '.join(CARDS)}")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help=f"of {', '.join(PRECISIONS)}")
    parser.add_argument("--quick", action="store_true", help="the default recipe's kernels with the smallest tile")
    parser.add_argument("--jsonl", type=Path, help="file that rows are appended to")
    given = parse(parser, {"targets": "90", "precisions": "bf16", "quick": True, "jsonl": None}, words)
    import triton

    print(f"triton {triton.__version__}, torch {torch.__version__}; what the compilers say, nothing was run")
    print(
        f"{'card':<7} {'kernel':<12} {'precision':<9} {'tile':<10} {'warps':>5} {'stages':>6} {'shared KB':>10} "
        f"{'registers':>9} {'spilled':>7} {'matrix':>6} {'FMA':>5}  step"
    )

    def tell(row: Compiled) -> None:
        name, card = CARDS[row.target]
        shared = f"{row.shared / 1024:.0f}/{card.shared_memory // 1024}"
        print(
            f"{name:<7} {row.kernel:<12} {row.precision:<9} {row.tile:<10} {row.warps:>5} {row.stages:>6} {shared:>10} "
            f"{row.registers:>9} {row.spilled:>7} {row.matrix:>6} {row.multiply_adds:>5}  {row.case}",
            flush=True,
        )
        for fault in row.faults():
            print(f"        {fault[:300]}", flush=True)

    rows = compile_all(given.targets.split(","), given.precisions.split(","), given.quick, tell)
    if given.jsonl is not None:
        with given.jsonl.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"triton": triton.__version__, **asdict(row)}) + "\n" for row in rows)
    bad = [row for row in rows if row.faults()]
    print(f"{len(rows)} kernels compiled, {len(bad)} would fail")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
