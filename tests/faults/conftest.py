"""Lets the tests of this folder import ``breaking``, as ``python tests/faults/run.py`` does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
