"""The adapter's kernels in Triton's interpreter, on a CPU, against autograd in float64 and formulas.

The interpreter has to be chosen before the kernels are imported, so these tests run in a process of their own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.mark.parametrize(
    "parts",
    [
        ("image_gradients", "text_gradients", "trained_ratios"),
        ("launches", "training", "many_steps"),
        ("updates", "fit", "graphs"),
    ],
    ids=" ".join,
)
def test_in_the_interpreter(parts):
    script = Path(__file__).with_name("interpreted.py")
    path = os.pathsep.join([str(Path(__file__).parents[3] / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, str(script), *parts], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == [word for part in parts for word in ("passed", part)]
