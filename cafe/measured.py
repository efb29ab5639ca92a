"""Which of several ways is fastest here: timed once, and kept.

Instruction flags do not say which way is faster: bfloat16 products take a sixth of float32's time on one processor
with AVX512_BF16, and twice it on another. So the ways themselves are timed, in turns, for at most a tenth of a second,
and the seconds are kept in the cache folder under what was asked, the processor, the library's version and the number
of threads. The processor time of one thread counts: a machine that is busy elsewhere would otherwise decide by chance,
and two threads that wait for each other on such a machine take ten times their time. A note that is damaged, or of
another machine, is measured again; where the folder cannot be written to, the process keeps it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from cafe.errors import CafeError
from cafe.files import cache_dir, replacing

Clock = Callable[[], float]
Ways = Mapping[str, Callable[[], object]]

MEASURED_FILE = "measured.json"
# Seconds that one question may take. Of slow ways a first round is all that is run, and that may end early.
BUDGET = 0.1
# Notes kept; older ones go.
_KEPT = 1000

_of_this_process: dict[str, dict[str, float]] = {}
_folder: Path | None = None


def keep_in(folder: Path | str | None) -> None:
    """Let notes be kept in this cache folder from now on; None for that of :func:`cafe.files.cache_dir`."""
    global _folder
    _folder = None if folder is None else Path(folder).expanduser()


def kept_in() -> Path:
    """Return the cache folder in which what was measured, or made for this machine, is kept."""
    return _folder or cache_dir()


def seconds_of(
    question: str,
    names: tuple[str, ...],
    make: Callable[[], Ways],
    *,
    library: str,
    threads: int,
    clock: Clock = time.thread_time,
    budget: float = BUDGET,
    at_least: int = 1,
    keep: bool = True,
) -> dict[str, float]:
    """Return how long each of several ways takes on this machine: from the note, else measured now and noted.

    Parameters
    ----------
    question : str
        What is asked, with the class of shapes: ``"adapter step 256 x 512 x 1024"``.
    names : tuple of str
        Of the ways, the likeliest first. A note that has others is not the answer.
    make : callable
        Returns the ways, ready to be run on this thread alone, by name; only called where there is no note. It may
        leave out what is not worth timing.
    library : str
        What runs them, with its version: ``"torch 2.14.1"``.
    threads : int
        How many threads it has when it is used.
    clock, budget, at_least
        As of :func:`time_ways`; making the ways is part of the budget.
    keep : bool, default=True
        Whether what is measured now is noted for later processes; False where it may not hold for them.

    Returns
    -------
    dict of str to float
        Seconds of one run of each way that the budget reached.

    Examples
    --------
    >>> import tempfile
    >>> keep_in(tempfile.mkdtemp())
    >>> ways = {"short": lambda: sum(range(10)), "long": lambda: sum(range(100_000))}
    >>> seconds = seconds_of("sum", ("short", "long"), lambda: ways, library="python", threads=1)
    >>> min(seconds, key=seconds.get)
    'short'
    >>> seconds == seconds_of("sum", ("short", "long"), lambda: {}, library="python", threads=1)
    True
    >>> keep_in(None)
    """
    folder = kept_in()
    key = f"{question} | {processor()} | {library} | {threads} threads"
    known = _of_this_process.get(key) or _notes(folder).get(key)
    if not known or not set(known) <= set(names):
        start = clock()
        ways = make()
        ready = {name: ways[name] for name in names if name in ways}
        known = time_ways(ready, clock=clock, budget=budget - (clock() - start), at_least=at_least)
        if keep:
            _note(folder, key, known)
    _of_this_process[key] = known
    return dict(known)


def time_ways(
    ways: Ways, *, clock: Clock = time.thread_time, budget: float = BUDGET, at_least: int = 1, turns: int = 1
) -> dict[str, float]:
    """Time several ways in turns, and return the shortest seconds of each.

    Other work of the machine can only lengthen a run, so the shortest counts. Each way first runs once to warm up.
    Ways that are not reached within the budget are left out.

    Parameters
    ----------
    ways : mapping of str to callable
        What to run, the likeliest first.
    clock : callable, default=time.thread_time
        Returns seconds.
    budget : float, default=0.1
        Seconds for all of it.
    at_least : int, default=1
        How many of the ways are run whatever the budget, where a comparison with fewer would answer nothing.
    turns : int, default=1
        How often each of them is timed whatever the budget, where a single disturbed run would mislead.
    """
    start = clock()
    best: dict[str, float] = {}
    for name, run in ways.items():
        if len(best) >= at_least and clock() - start >= budget:
            break
        run()
        best[name] = min(_seconds(run, clock) for _ in range(turns))
    lasted = sum(best.values())
    while len(best) == len(ways) and clock() - start + lasted <= budget:
        again = {name: _seconds(run, clock) for name, run in ways.items()}
        best, lasted = {name: min(best[name], again[name]) for name in best}, sum(again.values())
    return best


def _seconds(run: Callable[[], object], clock: Clock) -> float:
    start = clock()
    run()
    return max(clock() - start, 1e-9)  # a clock may be coarser than what it times


def processor_details() -> dict[str, str]:
    """Return what Linux says of the first processor, by its names; nothing elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


@cache
def processor() -> str:
    """Return the processor's name, with a hash of details that tell processors of the same name apart."""
    name, details = platform.processor() or platform.machine(), platform.machine()
    if described := processor_details():
        name = described.get("model name", name)
        keys = ("cpu family", "model", "stepping", "flags", "Features", "CPU part", "cache size")
        details = " ".join(described.get(key, "") for key in keys)
    return f"{name} {hashlib.sha256(f'{details} {os.cpu_count()}'.encode()).hexdigest()[:8]}"


def _notes(folder: Path) -> dict[str, dict[str, float]]:
    """Read the noted seconds of a folder, by key and name; damaged notes are left out."""
    try:
        written = json.loads((folder / MEASURED_FILE).read_text(encoding="utf-8"))
        return {key: value for key, value in written["seconds"].items() if _are_seconds(value)}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}


def _are_seconds(value: object) -> bool:
    """Return whether a value is a dict of positive finite floats."""
    return isinstance(value, dict) and all(
        isinstance(each, float) and math.isfinite(each) and each > 0 for each in value.values()
    )


def _note(folder: Path, key: str, seconds: dict[str, float]) -> None:
    """Add measured seconds to the notes of a folder, of which the newest are kept; a full disk is no error."""
    notes = {**{name: value for name, value in _notes(folder).items() if name != key}, key: seconds}
    newest = dict(list(notes.items())[-_KEPT:])
    with suppress(OSError, CafeError), replacing(folder / MEASURED_FILE) as temporary:
        temporary.write_text(json.dumps({"format": 1, "seconds": newest}, indent=1) + "\n", encoding="utf-8")
