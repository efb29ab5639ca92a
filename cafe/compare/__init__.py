"""Comparisons: a suite is one file in ``suites/`` that says its own name in ``SUITE``."""

from cafe.compare.running import Comparison, compare

__all__ = ["Comparison", "compare"]
