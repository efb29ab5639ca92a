"""NVIDIA's checkers over the kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from gpu_parts.shared import Rows, Sizes

SESSION = Path(__file__).parents[1] / "gpu_session.py"


def sanitizer(sizes: Sizes, row: Rows) -> None:
    """The kernels under NVIDIA's checkers, whose finds are rows; each allocation is real then."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        row(note="compute-sanitizer is not here")
        return
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, sys.executable, str(SESSION), "--out", os.environ["GPU_SESSION_OUT"]]
        command += ["--part", "kernels", "--small-kernels", "--rows", os.devnull]
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=25)
        except subprocess.TimeoutExpired:
            row(check=check, note="not done within 25 seconds")
            continue
        last = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
        row(check=check, returned=done.returncode, summary=last, ok=done.returncode == 0)
