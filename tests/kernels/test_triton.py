"""The Triton kernels in Triton's interpreter, on a CPU, against autograd and torch.

The interpreter has to be chosen before Triton's kernels are imported, so these tests run in a process of their own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.mark.parametrize("part", ["gradients", "float16", "updates", "fit"])
def test_in_the_interpreter(part):
    script = Path(__file__).with_name("interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, str(script), part], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "passed"
