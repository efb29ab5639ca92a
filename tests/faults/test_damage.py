"""Caches, runs and unfinished extractions that are damaged are refused by name, mended, or read as they were.

The short form; ``python tests/faults/run.py NAME`` is the one at full length, with the same tries at its beginning.
"""

from __future__ import annotations

from breaking.registry import check_short_forms


def test_short_forms() -> None:
    check_short_forms("cache-flips", "cache-pages", "run-flips", "run-pages", "shard-flips", "shard-pages")
