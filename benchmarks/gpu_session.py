"""The first ten minutes on a GPU, in one command; nobody has run it on one so far.

    PYTHONPATH=. python benchmarks/gpu_session.py --out FOLDER                  # everything, in under ten minutes
    PYTHONPATH=. python benchmarks/gpu_session.py --out FOLDER --parts steps,grid
    PYTHONPATH=. python benchmarks/gpu_session.py --out FOLDER --smoke          # tried without a GPU, in small

Needs the repository, PyTorch, Triton, transformers, h5py, scikit-learn and typer; no data, and nothing installed.
Parts run in order of what they are worth, each in a process of its own with a limit: one that hangs, crashes or finds
a fault ends alone. The parts are in gpu_parts/. Every result is a line of FOLDER/rows.jsonl, on disk before the next;
FOLDER/parts.jsonl says how each part ended, and FOLDER/NAME.log what it printed. What a machine lacks is a row that
says so.

Exit code 1 where a part failed or a row is out of its bound. Without a GPU, ``--smoke`` takes tensors on the CPU that
are labelled cuda:0 (tests/helpers/labelled_device.py), and Triton's interpreter; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_parts.shared import Sizes

ROOT = Path(__file__).resolve().parents[1]
# The longest that the whole may take, and what ending a part may cost.
SECONDS, REST = 570.0, 5.0
# Each is "module.function" of gpu_parts/, with its limit in seconds; in the order of what they are worth.
PARTS: dict[str, tuple[str, float]] = {
    "environment": ("environment.environment", 40),
    "kernels": ("adapter.kernels", 90),
    "class-weights": ("class_weights.class_weights", 60),
    "steps": ("adapter.steps", 80),
    "grid": ("adapter.grid", 70),
    "methods": ("methods.methods", 110),
    "again": ("adapter.again", 30),
    "probe": ("methods.probe", 40),
    "tiles": ("adapter.tiles", 60),
    "trace": ("adapter.trace", 30),
    "wide": ("adapter.wide", 60),
    "towers": ("encoding.towers", 50),
    "sanitizer": ("checkers.sanitizer", 60),
    "decoders": ("encoding.decoders", 30),
    "extraction": ("encoding.extraction", 60),
}

# What --smoke runs unless it is told; the rest by --parts.
SMOKE_PARTS = "environment,kernels"

# ---------------------------------------------------------------------------- one part, in its process


def run_part(name: str, rows: Path, smoke: bool, small: bool) -> int:
    """Run one part; return 1 where a row is out of its bound."""
    bad = 0

    def row(**values: Any) -> None:
        nonlocal bad
        bad += values.get("ok") is False
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"part": name, **values}, default=str) + "\n")
            file.flush()
            with contextlib.suppress(OSError):  # what is no file cannot be synchronised
                os.fsync(file.fileno())
        print(values, flush=True)

    sizes = Sizes(smoke)
    if small:
        sizes.b, sizes.d, sizes.h, sizes.c, sizes.n = 33, 35, 18, 66, 64
    module, _, function = PARTS[name][0].partition(".")
    part = getattr(importlib.import_module(f"gpu_parts.{module}"), function)
    device: Any = contextlib.nullcontext()
    if smoke:
        sys.path.insert(0, str(ROOT / "tests" / "helpers"))
        device = importlib.import_module("labelled_device").LabelledDevice()
    with device:
        part(sizes, row)
    return int(bad > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results; made where it is not there")
    parser.add_argument("--parts", help=f"of {', '.join(PARTS)} [default: all; with --smoke {SMOKE_PARTS}]")
    parser.add_argument("--seconds", type=float, help=f"the longest that the whole may take [default: {SECONDS:.0f}]")
    parser.add_argument("--smoke", action="store_true", help="in small, on labelled tensors of a CPU")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--small-kernels", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.part:
        return run_part(given.part, given.rows, given.smoke, given.small_kernels)
    if given.out is None:
        if not given.smoke:
            parser.error("--out FOLDER is needed: where the results go")
        given.out = Path(tempfile.mkdtemp(prefix="gpu-session-"))
    names = (given.parts or (SMOKE_PARTS if given.smoke else ",".join(PARTS))).split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; possible: {', '.join(PARTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    seconds = given.seconds or SECONDS * (3 if given.smoke else 1)  # an interpreter on a busy machine is slow
    started, failed = time.monotonic(), 0
    for name in names:
        left = seconds - (time.monotonic() - started) - REST
        how, code, start = "no time was left", 1, time.monotonic()
        if left > 0:
            how, code = _one_process(
                name, given.out, given.smoke, min(left, PARTS[name][1] * (3 if given.smoke else 1))
            )
        failed += code != 0
        about = {"part": name, "ended": how, "code": code, "seconds": round(time.monotonic() - start, 1)}
        with (given.out / "parts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(about) + "\n")
        print(f"{name}: {how}, {about['seconds']} s", flush=True)
    return int(failed > 0)


def _one_process(name: str, out: Path, smoke: bool, limit: float) -> tuple[str, int]:
    """Run a part; return how it ended, and its exit code."""
    command = [sys.executable, __file__, "--part", name, "--rows", str(out / "rows.jsonl"), *["--smoke"] * smoke]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "GPU_SESSION_OUT": str(out), "HF_HUB_OFFLINE": "1"}
    if smoke:
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        part = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            code = part.wait(limit)
        except BaseException as error:
            # With whatever it has started itself: decoders, a checker.
            os.killpg(part.pid, signal.SIGKILL)
            part.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"stopped after {limit:.0f} s", 1
    return ("done" if code == 0 else "failed, or a row is out of its bound"), code


if __name__ == "__main__":
    sys.exit(main())
