"""The caches that a verb was asked to use, the one that was taken unasked, and what can be done with one next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from cafe.cli.options import listed
from cafe.cli.screen import Screen


def chosen_cache(name: str | None, folder: Path, screen: Screen, *, used: bool = True) -> Path:
    """Return the cache of that name, or the one last used, which is named on stderr.

    Either is the current one then, unless it is only looked at (``used=False``).

    Raises
    ------
    CacheError
        If there is none.
    """
    from cafe.cache.locate import find_cache
    from cafe.last_used import note_use

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
    wanted = [part for name in names or () for part in ([name] if Path(name).exists() else listed([name]))]
    if not wanted:
        return [chosen_cache(None, folder, screen)]
    paths = find_caches(wanted, folder)
    note_use(folder, "caches", paths[0])
    return paths


def suggest_next(screen: Screen, splits: Collection[str], cache_dir: Path | None) -> None:
    """Name the commands that go on from the cache that was made or used now; none where they could not run.

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
    where = [] if cache_dir is None else ["--cache-dir", str(cache_dir)]
    screen.say("go on with:")
    screen.next_steps(*(shlex.join([*verb, *where]) for verb in (["cafe", "fit"], ["cafe", "compare", "baselines"])))
