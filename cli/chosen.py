"""The caches and runs that a verb uses: those that were named, or the one last used; and the commands that go on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cafe.cli.options import listed
from cafe.cli.screen import Screen
from cafe.errors import InputError

if TYPE_CHECKING:
    from cafe.classifier.onnx_classifier import OnnxClassifier


def chosen_cache(name: str | None, cache_dir: Path | None, screen: Screen, *, used: bool = True) -> Path:
    """Return the cache of that name, or the one last used, which is named on stderr.

    Either is the current one then, unless it is only looked at (``used=False``).

    Raises
    ------
    CacheError
        If there is none.
    """
    from cafe.cache.locate import find_cache
    from cafe.files import cache_dir as cache_folder
    from cafe.last_used import note_use

    folder = cache_folder(cache_dir)
    path = find_cache(name, folder)
    if name is None:
        screen.say(f"using the cache last used: {path}")
    if used:
        note_use(folder, "caches", path)
    return path


def chosen_caches(names: Sequence[str] | None, folder: Path, screen: Screen) -> list[Path]:
    """Return every cache that was named, or the one last used; the first of them is the current one then.

    Raises
    ------
    InputError
        If a cache cannot be found, or one is named twice.
    """
    from cafe.cache.locate import find_caches
    from cafe.last_used import note_use

    # A file whose own name has a comma is no list.
    single = [part for name in names or () for part in ([name] if Path(name).exists() else listed([name]))]
    if not single:
        return [chosen_cache(None, folder, screen)]
    paths = find_caches(single, folder)
    note_use(folder, "caches", paths[0])
    return paths


def chosen_run(run: str | None, cache_dir: Path | None, screen: Screen, *, verb: str | None = None) -> Path:
    """Return the folder of the run of that name, or of the one last used, and say which it is.

    ``verb`` says what is done with it, such as "pushing"; None for "using" the last and "opening" one that was named.

    Raises
    ------
    InputError
        If there is none.
    """
    from cafe.files import cache_dir as cache_folder
    from cafe.runs import find_run

    folder = find_run(run, cache_folder(cache_dir))
    last = f"{verb or 'using'} the run last used: {folder}"
    screen.say(last if run is None else f"{verb or 'opening'} the run {folder}")
    return folder


def is_exported_file(run: str | None) -> bool:
    """Return whether --run names a file of `cafe export`."""
    return run is not None and run.endswith(".onnx") and not os.path.isdir(run)  # noqa: PTH112


def open_exported_file(file: str, screen: Screen) -> OnnxClassifier:
    """Open a file of `cafe export`, and say so."""
    from cafe.classifier.onnx_classifier import OnnxClassifier

    screen.say(f"opening {file}")
    return OnnxClassifier(file)


def remove_confirmed(paths: Sequence[Path], remove: Callable[[Path], None], screen: Screen, *, yes: bool) -> None:
    """Remove paths and say so, once the user has confirmed it or given --yes. Raises InputError where they refuse."""
    names = ", ".join(map(str, paths))
    if not yes:
        _confirm_removal(names)
    for path in paths:
        remove(path)
    screen.answer({"removed": [str(path) for path in paths]}, f"removed {names}")


def _confirm_removal(names: str) -> None:
    """Ask whether what is named may be removed. Raises InputError where it may not."""
    # There is no standard input where it was closed.
    if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
        raise InputError(f"this would remove {names}; say --yes to do so without being asked")
    if not typer.confirm(f"Remove {names}?", err=True):
        raise InputError("nothing was removed")


def suggest_next(screen: Screen, splits: Collection[str], cache_dir: Path | None) -> None:
    """Name the commands to go on with after a cache was made or used; none where they could not run.

    Parameters
    ----------
    screen : Screen
        Where to.
    splits : collection of str
        What the cache holds; methods need train and test.
    cache_dir : Path or None
        As the user gave it.
    """
    if not {"train", "test"} <= set(splits):
        return
    screen.say("go on with:")
    verbs = ["cafe", "fit"], ["cafe", "compare", "baselines"]
    screen.next_steps(*(shlex.join([*verb, *same_cache_dir(cache_dir)]) for verb in verbs))


def same_cache_dir(cache_dir: Path | None) -> list[str]:
    """Return the words that make another command use the same cache folder; none where the user named none."""
    return [] if cache_dir is None else ["--cache-dir", str(cache_dir)]
