"""The folder of an unfinished extraction: a manifest, the shards that are done, and claims on those being made.

It is beside the cache that it becomes, under its name with ``.partial`` behind it; FORMAT.md describes it. Several
processes may carry it on at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cafe.cache.extract.array_file import SUFFIX as ARRAYS
from cafe.cache.extract.shards import Shard, ShardFeatures, StoredShard, cut_shards, write_shard
from cafe.cache.format.fingerprint import differing_fields, fingerprint
from cafe.cache.format.reader import open_cache
from cafe.cache.locks import Claim, try_claim, wait_for_claim
from cafe.errors import CacheError, InputError
from cafe.files import remove_folder, remove_leftovers, write_all, writing
from cafe.foreign import MAX_TEXT_BYTES, check_regular, reason_of
from cafe.version import __version__

BATCHES_PER_SHARD = 8
SUFFIX = ".partial"
_MANIFEST = "manifest.json"
_SHARDS = "shard-"
_SET_ASIDE = "known-"  # shards of an earlier run, and its manifest
_VERSION = 2  # version 1 had checksums over nothing but single arrays

# What tells one file at a path from the next: inode, time and size; None if there is none.
_Signature = tuple[int, int, int] | None


class UnfinishedCache:
    """The unfinished extraction of a cache, which several processes may carry on at once.

    :func:`open_unfinished` gives one.

    Attributes
    ----------
    path : Path
        The cache that it becomes.
    folder : Path
        Where the shards are.
    batch_size : int
        Images per encoding batch, as the run was begun.
    shards : tuple of Shard
        All of them, done or not.
    recorded : mapping
        Device, dtype and versions that the run was begun with.
    finished_elsewhere : bool
        Whether another process was seen to have finished the cache; :meth:`look_for_cache` looks again.
    """

    def __init__(
        self, path: Path, shards: tuple[Shard, ...], wanted: Mapping[str, Any], recorded: Mapping[str, Any],
        before: _Signature,
    ) -> None:  # fmt: skip
        self.path, self.folder, self.shards = path, partial_folder(path), shards
        self.batch_size: int = wanted["identity"]["batch_size"]
        self.recorded = recorded
        self.finished_elsewhere = False
        self._wanted, self._before = wanted, before
        self._run = fingerprint(wanted["identity"])

    def is_done(self, shard: Shard) -> bool:
        """Return whether the file of a shard is written."""
        return self._file(shard).exists()

    def read(self, shard: Shard) -> StoredShard:
        """Open a shard that is done. Raises CacheError if it is damaged or of another run; it is removed then."""
        return StoredShard(self._file(shard), self._run, shard, self._wanted["identity"]["image"]["stored_dtype"])

    def write(self, features: ShardFeatures) -> None:
        """Write a complete shard in one step. Raises FileNotFoundError if the folder is gone."""
        write_shard(self._file(features.shard), self._run, features)

    def claim(self, shard: Shard) -> Claim | None:
        """Claim a shard that is not done; None if another process is at work on it, or has finished it.

        Raises
        ------
        CacheError
            If another process has removed the folder meanwhile and begun one for something else.
        """
        while not self.finished_elsewhere:
            try:
                claim = try_claim(self.folder / f"{shard.name}.claim")
            except FileNotFoundError:
                if not self.look_for_cache():
                    self._begin_again()
                continue
            if claim is not None and self.is_done(shard):  # another process has finished it just now
                claim.release()
                return None
            return claim
        return None

    def look_for_cache(self) -> bool:
        """Return whether another process has put the cache in place since this one opened the folder."""
        if _signature(self.path) not in (None, self._before):
            with suppress(CacheError), open_cache(self.path) as file:
                held = file.attrs["image_fingerprint"]
                self.finished_elsewhere = held == fingerprint(self._wanted["identity"]["image"])
        return self.finished_elsewhere

    def claim_all(self) -> Claim:
        """Claim the right to finish the cache or remove the folder, waiting while another process has the right."""
        return wait_for_claim(_lock_path(self.folder))

    def remove(self) -> None:
        """Remove the folder; to be called with :meth:`claim_all` held."""
        remove_folder(self.folder)

    def remove_if_empty(self) -> None:
        """Remove the folder if nothing is kept in it and nobody is at work in it."""
        with self.claim_all():
            if not any(self.folder.glob(f"*{ARRAYS}")) and not _in_use(self.folder):
                self.remove()

    def _begin_again(self) -> None:
        """Begin or join the folder again after another process has removed it."""
        with self.claim_all():
            self.recorded = _join(self.folder, _read_manifest(self.folder), self._wanted)["recorded"]

    def _file(self, shard: Shard) -> Path:
        """Return the path of a shard's file."""
        return self.folder / f"{shard.name}{ARRAYS}"


def open_unfinished(
    path: Path,
    image: Mapping[str, Any],
    splits: Sequence[tuple[str, int, int]],
    *,
    batch_size: int | None,
    default_batch_size: int,
    recorded: Mapping[str, Any],
    force: bool,
) -> UnfinishedCache:
    """Open the unfinished extraction of a cache, or begin one.

    Parameters
    ----------
    path : Path
        The cache that the extraction becomes.
    image : mapping
        The image part of the cache's provenance.
    splits : sequence of (str, int, int)
        Name, images and views of every split.
    batch_size : int or None
        Images of an encoding batch; None takes the batch size of an extraction that is carried on, else the default.
    default_batch_size : int
        The encoder's own.
    recorded : mapping
        Device, dtype and versions, which are recorded if the extraction begins now.
    force : bool
        Begin anew, unless the unfinished extraction was itself begun with ``force`` and is of the same features.

    Raises
    ------
    CacheError
        If the unfinished extraction was begun with something else (the message names what differs), or, under
        ``force``, if another process is at work on it.
    """
    folder, before = partial_folder(path), _signature(path)
    with wait_for_claim(_lock_path(folder)):
        if folder.is_symlink():
            raise CacheError(f"{folder} is a link, so nothing is written there; remove it")
        existing = _read_manifest(folder, force)
        if batch_size is None:
            batch_size = default_batch_size if existing is None else existing["identity"]["batch_size"]
        wanted = _manifest(image, batch_size, recorded, force)
        if existing is None:
            shards = cut_shards(splits, wanted["identity"]["shard_images"])
            unfinished = UnfinishedCache(path, shards, wanted, wanted["recorded"], before)
            if unfinished.look_for_cache():
                # Another process finished the cache while this one waited for the lock. A folder begun now would
                # gather shards that others had still been encoding, and nobody would remove it.
                return unfinished
        existing = _join(folder, existing, wanted)
    shards = cut_shards(splits, existing["identity"]["shard_images"])
    return UnfinishedCache(path, shards, wanted, existing["recorded"], before)


def begun_with(path: Path) -> Mapping[str, Any] | None:
    """Return the image part that the unfinished extraction of a cache was begun with; None where there is none."""
    try:
        manifest = _read_manifest(partial_folder(path))
    except CacheError:  # whoever opens it says what is wrong
        return None
    image: Mapping[str, Any] | None = None if manifest is None else manifest["identity"]["image"]
    return image


def _join(folder: Path, existing: dict[str, Any] | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest of the folder: ``existing`` where it fits what is wanted, else a new one, which is written.

    The lock must be held. Raises CacheError where ``existing`` does not fit and must not be replaced.
    """
    if existing is not None:
        clauses = differing_fields(existing["identity"], wanted["identity"])
        if wanted["forced"] and (clauses or not existing["forced"]):
            if _in_use(folder):
                raise CacheError(f"{folder} is being extracted by another process right now; wait for it")
            remove_folder(folder)
            existing = None
        elif clauses and _same_but_for_images(existing["identity"], wanted["identity"]):
            if _in_use(folder):
                raise CacheError(
                    f"{folder} is being extracted by another process right now, of images that have changed since; "
                    f"wait for it, and run the same command again"
                )
            _set_aside(folder, existing)
            existing = None
        elif clauses:
            raise CacheError(
                f"{folder} holds an unfinished extraction that was begun with {'; '.join(clauses)}. "
                f"Finish it with the options that it was begun with, or discard it with --force"
            )
    if existing is None:
        _write_manifest(folder, wanted)
        return dict(wanted)
    remove_leftovers(folder)
    return existing


def _same_but_for_images(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether the identities of two runs differ in nothing but their data set."""

    def encoding(identity: Mapping[str, Any]) -> str:
        return fingerprint({**identity, "image": {**identity["image"], "dataset": None}})

    return encoding(existing) == encoding(wanted)


def _set_aside(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Keep the shards of an earlier run for the images that are still there, beside those of the next.

    A kill between two steps leaves what the next call completes.
    """
    run = f"{_SET_ASIDE}{fingerprint(manifest['identity'])[:16]}"
    _write_manifest(folder, manifest, f"{run}.json")
    for path in sorted(folder.glob(f"{_SHARDS}*{ARRAYS}")):
        path.replace(path.with_name(f"{run}-{path.name.removeprefix(_SHARDS)}"))


@dataclass(frozen=True)
class EncodedShards:
    """What one run has encoded of an extraction that is not finished.

    Attributes
    ----------
    folder : Path
        The folder of the extraction.
    run : str
        Id of the run, which its shards name.
    image : mapping
        The image part of its provenance.
    recorded : mapping
        Device, dtype and versions of the run.
    shards : tuple of Path
        Those that are done.
    """

    folder: Path
    run: str
    image: Mapping[str, Any]
    recorded: Mapping[str, Any]
    shards: tuple[Path, ...]


def encoded_shards(folder: Path) -> list[EncodedShards]:
    """Return what each run has encoded in the folder of an unfinished extraction.

    Runs whose manifest cannot be read are left out: the command that carries the extraction on will say so.
    """
    runs = []
    for name, shards in ((_MANIFEST, _SHARDS), *((p.name, f"{p.stem}-") for p in folder.glob(f"{_SET_ASIDE}*.json"))):
        with suppress(CacheError, InputError, OSError):
            manifest = _read_manifest(folder, name=name)
            if manifest is not None:
                identity = manifest["identity"]
                paths = tuple(sorted(folder.glob(f"{shards}*{ARRAYS}")))
                run = fingerprint(identity)
                runs.append(EncodedShards(folder, run, identity["image"], manifest["recorded"], paths))
    return runs


def partial_folder(path: Path) -> Path:
    """Return the folder in which a cache is extracted.

    Examples
    --------
    >>> partial_folder(Path("digits--mini.h5")).name
    'digits--mini.h5.partial'
    """
    return path.with_name(path.name + SUFFIX)


def remove_finished_shards(path: Path, belongs: Callable[[Mapping[str, Any]], bool]) -> None:
    """Remove what a kill left between the finishing of a cache and the removal of its shards and their lock.

    Parameters
    ----------
    path : Path
        The finished cache.
    belongs : callable
        Whether the image part of a manifest is that of this cache.
    """
    folder = partial_folder(path)
    if not folder.is_dir() and not _lock_path(folder).exists():
        return
    with wait_for_claim(_lock_path(folder)):  # which ends with its file, whoever left it
        manifest = _read_manifest(folder)
        if manifest is None or manifest["forced"] or not belongs(manifest["identity"]["image"]):
            return
        if not _in_use(folder):
            remove_folder(folder)


def _manifest(image: Mapping[str, Any], batch_size: int, recorded: Mapping[str, Any], forced: bool) -> dict[str, Any]:
    """Return the manifest of a new run, whose identity is what the bytes of its shards depend on."""
    return {
        "format": "cafe-partial",
        "format_version": _VERSION,
        "cafe_version": __version__,
        "identity": {
            "image": dict(image),
            "batch_size": batch_size,
            "shard_images": BATCHES_PER_SHARD * batch_size,
        },
        "recorded": {**recorded, "batch_size": batch_size},
        "forced": forced,
    }


def _write_manifest(folder: Path, manifest: Mapping[str, Any], name: str = _MANIFEST) -> None:
    """Write a manifest with its checksum into the folder, which is made if it is missing."""
    folder.mkdir(exist_ok=True)
    text = json.dumps({**manifest, "sha256": fingerprint(manifest)}, indent=1, sort_keys=True)
    try:
        with writing(folder / name, len(text)) as stream:
            write_all(stream, text.encode())
    except BaseException:
        with suppress(OSError):  # shards without a manifest stay: they are kept, or refused, one by one
            folder.rmdir()
        raise


def _read_manifest(folder: Path, force: bool = False, name: str = _MANIFEST) -> dict[str, Any] | None:
    """Read what an extraction was begun with; None if there is none, or under ``force`` if it is of no use.

    Raises
    ------
    CacheError
        If it is damaged, or of another version.
    """
    path = folder / name
    discard = f"discard it with --force, or by removing {folder}"
    try:
        path.lstat()  # FileNotFoundError where there is none
        check_regular(path, "manifest", at_most=MAX_TEXT_BYTES)
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if manifest["format"] != "cafe-partial":
            raise ValueError("it is none of cafe's")
        if manifest["format_version"] == _VERSION:
            if manifest.pop("sha256") != fingerprint(manifest):
                raise ValueError("it differs from its checksum")
            return manifest
        reason = (
            f"has format version {manifest['format_version']}, this cafe carries on version {_VERSION}: finish it with "
            f"the cafe that began it ({manifest['cafe_version']})"
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever damage leads to
        reason = f"cannot be read ({reason_of(error)})"
    if force:
        if _in_use(folder):
            raise CacheError(f"{folder} is being extracted by another process right now; wait for it")
        remove_folder(folder)
        return None
    raise CacheError(f"{path} {reason}; or {discard}")


def _lock_path(folder: Path) -> Path:
    """Return the path of a folder's lock, a hidden file beside the folder."""
    return folder.with_name(f".{folder.name}.lock")


def _in_use(folder: Path) -> bool:
    """Return whether a running process holds a claim in the folder."""
    for path in folder.glob("*.claim"):
        with suppress(FileNotFoundError):
            claim = try_claim(path)
            if claim is None:
                return True
            claim.release()
    return False


def _signature(path: Path) -> _Signature:
    """Return the signature of the file at a path, None if it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
