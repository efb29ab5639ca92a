"""Where runs and reports go when no folder was named, and how a run is found again."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import count
from pathlib import Path

from cafe.errors import InputError

RUNS = "runs"  # below the folder of all caches
RUN_FILE = "run.json"  # as cafe.runs has it, which this light module does not import
REPORT_FILE = "results.jsonl"  # as cafe.report.files writes it
_SHOWN = 8  # names of runs that a message lists


def new_run_folder(cache_dir: Path, *words: object) -> Path:
    """Name a folder below ``<cache-dir>/runs`` that is not there yet.

    Parameters
    ----------
    cache_dir : Path
        The folder of all caches.
    *words
        What the run is, most general first; empty ones and None are left out.

    Returns
    -------
    Path
        Readable, and with a number behind it where a run of this name is there already: nothing is overwritten.

    Examples
    --------
    >>> new_run_folder(Path("caches"), "digits", "cafe:mini", "clip-adapter", None, "16-shot").as_posix()
    'caches/runs/digits-cafe-mini-clip-adapter-16-shot'
    """
    name = "-".join(slug for slug in (_slug(str(word)) for word in words if word is not None) if slug)
    first = cache_dir / RUNS / name
    return next(
        folder
        for number in count(1)
        if not (folder := first if number == 1 else first.with_name(f"{name}-{number}")).exists()
    )


def check_folder(out: Path, mark: str, what: str) -> None:
    """Refuse a folder, named by the user, that is no place for a run or report: before the work, not after it.

    Parameters
    ----------
    out : Path
        The folder; it need not exist.
    mark : str
        The file by which an older run or report is known, which may be replaced: ``"run.json"``, ``"results.jsonl"``.
    what : str
        What will be written, for the message.

    Raises
    ------
    InputError
        If it is a file, lies below one, or holds files that are none of ours.
    """
    place = next((one for one in (out, *out.parents) if one.exists()), Path())
    if not place.is_dir():
        raise InputError(f"{str(out)!r} cannot be used as a folder for {what}: {str(place)!r} is a file")
    if not out.exists() or (out / mark).exists():
        return
    # What was being written when a run was killed begins with a dot and names the mark.
    names = sorted(path.name for path in out.iterdir())
    foreign = [name for name in names if not name.startswith(".")]
    if foreign and not any(name.startswith(f".{mark}.") for name in names):
        raise InputError(
            f"{str(out)!r} holds {foreign[0]!r}, but no {mark} of an older run of cafe, so nothing is written there; "
            f"name a new or empty folder for {what}"
        )


def find_run(given: str, cache_dir: Path) -> Path:
    """Find the run that is meant.

    Parameters
    ----------
    given : str
        A folder; or the name of a run below ``<cache-dir>/runs``, such as ``demo/fit``.
    cache_dir : Path
        The folder of all caches.

    Returns
    -------
    Path
        The folder given where it is a run, else the run of that name, else the folder given.

    Raises
    ------
    InputError
        If there is none of these; the message names the runs that there are, nearest first.
    """
    folder, below = Path(given).expanduser(), cache_dir / RUNS
    for candidate in (folder, below / given):
        if (candidate / RUN_FILE).is_file():
            return candidate
    if folder.is_dir():
        return folder  # whoever reads it says what it lacks
    names = run_names(cache_dir)
    there = f"runs there are: {_some(given, names)}" if names else "there is none yet; `cafe fit` makes one"
    raise InputError(f"there is no run {given!r}, neither as a folder nor in {below}; {there}")


def run_names(cache_dir: Path) -> list[str]:
    """Name the runs below ``<cache-dir>/runs``, newest first.

    Parameters
    ----------
    cache_dir : Path
        The folder of all caches; it need not exist.

    Returns
    -------
    list of str
        Two levels deep, for the run of `cafe demo` lies within its report: ``demo/fit``.
    """
    below = cache_dir / RUNS
    found = [path for pattern in (f"*/{RUN_FILE}", f"*/*/{RUN_FILE}") for path in below.glob(pattern)]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.relative_to(below).as_posix() for path in found]


def _some(given: str, names: list[str]) -> str:
    near = get_close_matches(given, names, n=_SHOWN, cutoff=0.6)
    ordered = list(dict.fromkeys([*near, *names]))
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f", and {more} more" if more > 0 else "")


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text).strip("-.")
