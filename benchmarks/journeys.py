"""Counts what a value passes through on its way: the files that an image meets, the calls that shots and alpha take.

``python benchmarks/journeys.py`` runs `cafe extract` and `cafe fit` on the embedded digits and watches every call of
the program. docs/design.md has the counts; ``PYTHONPATH=CHECKOUT python benchmarks/journeys.py`` counts another one's.

- *image*: files of ``cache/`` in which code ran while `cafe extract` took the train split to its file.
- *shots*: calls of the program that stand one within the other when the row of `fit` is written, and when its shots are
  drawn.
- *alpha*: names that the ratio has, as a variable, an attribute or a key, in functions from the verb `fit` to the
  kernel.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from harness import parse

import cafe
from cafe.cli.app import call

FOLDER = Path(cafe.__file__).resolve().parent
TOP = FOLDER.parent
RATIO = 0.123
# As a number, and rounded to float32 and to bfloat16's eight bits.
SEEN_AS = (0.123, 0.12300000339746475, 0.123046875)
# The library's own plumbing, which hands on what it is given without a name of its own.
NOT_NAMES = {"value", "values", "v"}


@functools.cache
def place_of(file: str) -> str:
    """Return the path of a file of the program within its checkout; empty for all other code."""
    path = Path(file).resolve()
    inside = path.is_relative_to(TOP) and path.relative_to(TOP).parts[0] in ("cafe", "cache", "cli")
    return str(path.relative_to(TOP)) if inside else ""


def watch(arguments: list[str], on_call: Callable[[str, FrameType, str], None]) -> None:
    """Run a command, and call ``on_call`` at every call and return in a file of the program, in all threads."""

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "return"):
            return
        path = place_of(frame.f_code.co_filename)
        if path:
            on_call(path, frame, event)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        code = call(arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    if code:
        raise SystemExit(f"cafe {' '.join(arguments)} ended with {code}")


def main() -> None:
    """Print the counts and what was counted."""
    smoke = parse(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), {}
    ).smoke
    with tempfile.TemporaryDirectory() as name:
        os.environ["CAFE_CACHE"] = name
        files: list[str] = []
        watch(
            ["extract", "--dataset", "digits", "--splits", "train,test", "--shots", "2", "--seeds", "1", "--quiet"],
            lambda path, frame, event: files.append(path) if path.startswith("cache/") and path not in files else None,
        )
        code = [path for path in files if not path.endswith("__init__.py")]
        print(f"an image meets {len(code)} files of cache/:", *code, sep="\n  ")
        if smoke:
            return
        depths: dict[str, int] = {}
        names: list[str] = []

        def follow(path: str, frame: FrameType, event: str) -> None:
            if event == "call" and frame.f_code.co_name in ("make_row", "draw_few_shot"):
                depths[frame.f_code.co_name] = depth(frame)
            for variable, value in list(frame.f_locals.items()):
                names.extend(name for name in names_of_ratio(variable, value) if name not in names)

        watch(["fit", "--variant", "image", "--alpha", str(RATIO), "--shots", "2", "--seed", "1", "--quiet"], follow)
        print(f"shots pass {depths['make_row']} calls to the row, {depths['draw_few_shot']} to their draw")
        print(f"alpha has {len(names)} names: {', '.join(names)}")


def depth(frame: FrameType | None) -> int:
    """Return how many calls of the program stand one within the other, from the verb on."""
    count = 0
    while frame is not None:
        path = place_of(frame.f_code.co_filename)
        count += bool(path)
        if path == "cli/fit.py":
            return count
        frame = frame.f_back
    return count


def names_of_ratio(variable: str, value: Any) -> list[str]:
    """Return the names under which a variable holds the ratio: its own, of attributes, of keys."""
    if is_ratio(value):
        return [variable] if variable not in NOT_NAMES else []
    if isinstance(value, dict):
        return [str(key) for key, held in value.items() if is_ratio(held)]
    held = getattr(value, "__dict__", {}) if type(value).__module__.startswith("cafe") else {}
    return [name for name, item in list(held.items()) if is_ratio(item)]


def is_ratio(value: Any) -> bool:
    """Return whether a value is the ratio: the number, or an array or tensor of nothing else."""
    if isinstance(value, float):
        return value in SEEN_AS
    if type(value).__module__ not in ("torch", "numpy") or not hasattr(value, "dtype"):
        return False
    count = value.numel() if hasattr(value, "numel") else value.size
    if count != 1 or "float" not in str(value.dtype):
        return False
    return float(value.reshape(-1)[0]) in SEEN_AS


if __name__ == "__main__":
    main()
