"""Comparisons: a suite is one file in ``suites/`` that says its own name in ``SUITE``."""

from cafe.compare.running import compare
from cafe.report.comparison import Comparison

__all__ = ["Comparison", "compare"]
