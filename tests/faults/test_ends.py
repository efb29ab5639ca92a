"""Commands that are killed, starved or misled by links harm nothing, and the same command carries on.

The short form; ``python tests/faults/run.py NAME`` is the one at full length, with the same tries at its beginning.
"""

from __future__ import annotations

from breaking.registry import check_short_forms


def test_short_forms() -> None:
    check_short_forms("kills", "full-disks", "circumstances", "links")
