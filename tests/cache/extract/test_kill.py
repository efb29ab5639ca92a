"""A handful of the rounds of benchmarks/kill_test.py, which kills each verb a hundred times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_killed_and_several_at_once():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_test.py"), "--kills", "2"]
    command += ["--verbs", "extract,import,merge,export", "--images", "250"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--concurrent", "3"], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    *verbs, together = (json.loads(line) for line in done.stdout.splitlines())
    assert [rounds["verb"] for rounds in verbs] == ["extract", "import", "merge", "export"]
    assert all(rounds["kills"] == 2 and rounds["left"] == [] for rounds in verbs)
    assert together["processes"] == 3 and together["left"] == []
