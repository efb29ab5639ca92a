"""The caches that a verb was asked to use, the one that was taken unasked, and what can be done with one next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from cafe.cli.options import listed
from cafe.cli.screen import Screen


def chosen_cache(name: str | None, folder: Path, screen: Screen) -> Path:
    """Return the cache of that name, or the newest; the newest is named on stderr.

    Raises
    ------
    CacheError
        If there is none.
    """
    from cafe.cache.locate import find_cache

    path = find_cache(name, folder)
    if name is None:
        screen.say(f"using the newest cache: {path}")
    return path


def chosen_caches(names: Sequence[str] | None, folder: Path, screen: Screen) -> list[Path]:
    """Return every cache that was named, or the newest.

    Raises
    ------
    InputError
        If a cache cannot be found, or one is named twice.
    """
    from cafe.cache.locate import find_caches

    # A file whose own name has a comma is no list.
    wanted = [part for name in names or () for part in ([name] if Path(name).exists() else listed([name]))]
    return find_caches(wanted, folder) if wanted else [chosen_cache(None, folder, screen)]


def suggest_next(
    screen: Screen, path: Path, splits: Collection[str], out: Path | None, cache_dir: Path | None, *, new: bool
) -> None:
    """Name the commands that go on from a cache, with what they need to find this one; none where they could not run.

    Parameters
    ----------
    screen : Screen
        Where to.
    path : Path
        The cache.
    splits : collection of str
        What it holds; methods need train and test.
    out, cache_dir : Path or None
        As the user gave them.
    new : bool
        Whether it was made just now, and so is the newest.
    """
    if not {"train", "test"} <= set(splits):
        return
    folder = [] if cache_dir is None else ["--cache-dir", str(cache_dir)]
    cache = str(path) if out is not None else None if new else path.stem
    where = [*([] if cache is None else ["--cache", cache]), *folder]
    screen.say("go on with:")
    screen.next_steps(*(shlex.join([*verb, *where]) for verb in (["cafe", "fit"], ["cafe", "compare", "baselines"])))
