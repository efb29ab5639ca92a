"""The kernels for a GPU in Triton's interpreter, on a CPU, against autograd in float64 and formulas.

The interpreter has to be chosen before the kernels are imported, so these tests run in a process of their own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("interpreted_adapter.py", ("image_gradients", "text_gradients", "trained_ratios")),
        ("interpreted_adapter.py", ("launches", "training", "many_steps")),
        ("interpreted_adapter.py", ("updates", "fit", "graphs")),
        ("interpreted_class_weights.py", ("gradients", "training", "fit")),
    ],
)
def test_in_the_interpreter(script, parts):
    script = Path(__file__).with_name(script)
    folders = [ROOT / "benchmarks", ROOT / "tests" / "kernels", ROOT / "tests" / "helpers"]
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, str(script), *parts], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == [word for part in parts for word in ("passed", part)]
