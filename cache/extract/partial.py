"""The folder of an unfinished extraction: a manifest, the shards that are done, and claims on those being made.

It stands beside the cache that it will become, under its name with ``.partial`` behind it; FORMAT.md describes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.cache.extract.plan import Plan
from cafe.cache.extract.shards import BATCHES_PER_SHARD, Shard, ShardContent, read_shard, shards_of, write_shard
from cafe.cache.format.fingerprint import differing_fields, fingerprint
from cafe.cache.locks import Claim, try_claim, wait_for_claim
from cafe.errors import CacheError
from cafe.files import remove_folder, remove_leftovers, replacing
from cafe.version import __version__

SUFFIX = ".partial"
_MANIFEST = "manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class Partial:
    """An unfinished extraction.

    Attributes
    ----------
    folder : Path
        Where it is.
    run : str
        Id of the run: the fingerprint of everything that decides the bytes of its shards.
    batch_size : int
        Images per encoding batch, as the run was begun.
    shards : tuple of Shard
        All of them, done or not.
    recorded : mapping
        Device, dtype and versions that the run was begun with.
    """

    folder: Path
    run: str
    batch_size: int
    shards: tuple[Shard, ...]
    recorded: Mapping[str, Any]

    def path(self, shard: Shard) -> Path:
        """Return the file of a shard, done or not."""
        return self.folder / f"{shard.name}.npz"

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard is there."""
        return self.path(shard).exists()

    def read(self, shard: Shard) -> ShardContent | None:
        """Read a shard; None if it is not there or cannot be used, and then it is removed."""
        content = read_shard(self.path(shard), self.run, shard)
        if content is None:
            self.path(shard).unlink(missing_ok=True)
        return content

    def write(self, shard: Shard, content: ShardContent) -> None:
        """Write a shard. Raises FileNotFoundError if the folder is gone."""
        write_shard(self.path(shard), self.run, shard, content)

    def claim(self, shard: Shard) -> Claim | None:
        """Claim a shard, if nobody living is at it. Raises FileNotFoundError if the folder is gone."""
        return try_claim(self.folder / f"{shard.name}.claim")

    def whole(self) -> Claim:
        """Claim the right to finish or remove it all, waiting for whoever has that now."""
        return wait_for_claim(_lock_path(self.folder))

    def remove(self) -> None:
        """Remove the folder; to be called with :meth:`whole` held."""
        remove_folder(self.folder)

    def remove_if_empty(self) -> None:
        """Remove the folder if nothing is kept in it and nobody is at work in it."""
        with self.whole():
            if not any(self.folder.glob("*.npz")) and not _in_use(self.folder):
                self.remove()


def open_partial(plan: Plan, path: Path, batch_size: int | None, *, force: bool) -> Partial:
    """Open the unfinished extraction of a cache, or begin one.

    Parameters
    ----------
    plan : Plan
        What is extracted.
    path : Path
        The cache that it will become.
    batch_size : int or None
        None takes that of the run that is there, else the encoder's own.
    force : bool
        Begin anew, unless what is there was itself begun so and is the same.

    Returns
    -------
    Partial

    Raises
    ------
    CacheError
        If what is there was begun with something else (the message names what differs), or, under ``force``, if
        another process is at work on it.
    """
    folder = partial_folder(path)
    with wait_for_claim(_lock_path(folder)):
        there = _read_manifest(folder)
        begun = there["identity"]["batch_size"] if there is not None and batch_size is None else batch_size
        manifest = _manifest(plan, begun or plan.encoder.batch_size, force)
        if there is not None:
            clauses = differing_fields(there["identity"], manifest["identity"])
            if force and (clauses or not there["forced"]):
                if _in_use(folder):
                    raise CacheError(f"{folder} is being extracted by another process right now; wait for it")
                remove_folder(folder)
                there = None
            elif clauses:
                raise CacheError(
                    f"{folder} holds an unfinished extraction that was begun with {'; '.join(clauses)}. "
                    f"Finish it with the options that it was begun with, or discard it with --force"
                )
        if there is None:
            _begin(folder, manifest)
            there = manifest
        else:
            remove_leftovers(folder)
    identity = there["identity"]
    shards = shards_of(plan, identity["shard_images"])
    return Partial(folder, fingerprint(identity), identity["batch_size"], shards, there["recorded"])


def _begin(folder: Path, manifest: Mapping[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    try:
        with replacing(folder / _MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    except BaseException:
        with suppress(OSError):  # shards without a manifest stay: they are kept, or refused, one by one
            folder.rmdir()
        raise


def partial_folder(path: Path) -> Path:
    """Return the folder in which a cache is extracted.

    Examples
    --------
    >>> partial_folder(Path("digits--mini.h5")).name
    'digits--mini.h5.partial'
    """
    return path.with_name(path.name + SUFFIX)


def tidy(path: Path, is_meant: Callable[[Mapping[str, Any]], bool]) -> None:
    """Remove what a kill left between the finishing of a cache and the removal of its shards.

    Parameters
    ----------
    path : Path
        The finished cache.
    is_meant : callable
        Whether the image part of a manifest is that of this cache.
    """
    folder = partial_folder(path)
    if not folder.is_dir():
        return
    with wait_for_claim(_lock_path(folder)):
        there = _read_manifest(folder)
        if there is not None and is_meant(there["identity"]["image"]) and not there["forced"] and not _in_use(folder):
            remove_folder(folder)


def _manifest(plan: Plan, batch_size: int, forced: bool) -> dict[str, Any]:
    identity = {
        "image": dict(plan.image),
        "batch_size": batch_size,
        "shard_images": BATCHES_PER_SHARD * batch_size,
    }
    return {
        "format": "cafe-partial",
        "format_version": _VERSION,
        "cafe_version": __version__,
        "identity": identity,
        "recorded": {**plan.recorded, "batch_size": batch_size},
        "forced": forced,
    }


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / _MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"] == "cafe-partial" and content["format_version"] == _VERSION
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path} cannot be read ({error}); remove {folder} to begin anew") from error
    if not known:
        raise CacheError(f"{path} was not written by this version of cafe; remove {folder} to begin anew")
    result: dict[str, Any] = content
    return result


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _in_use(folder: Path) -> bool:
    """Whether somebody living holds a claim in the folder."""
    for path in folder.glob("*.claim"):
        with suppress(FileNotFoundError):
            claim = try_claim(path)
            if claim is None:
                return True
            claim.release()
    return False
