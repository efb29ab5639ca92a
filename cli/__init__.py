"""The command line: one verb per file; nothing but arguments, calls and printing."""

from __future__ import annotations

if __name__ != "cafe.cli":
    raise ImportError("this folder is imported as cafe.cli")
