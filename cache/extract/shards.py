"""Shards: the parts in which features reach the disk, each whole or not there.

The images of a data set are cut into shards at fixed positions, and a shard into encoding batches at fixed positions,
so neither speed, nor the number of workers, nor an interruption changes which images are encoded together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.array_file import ArrayFile, write_array_file
from cafe.cache.format.arrays import StoredDtype, as_stored
from cafe.errors import CacheError, InputError, UnreadableImageError

OnError = Literal["skip", "fail"]
Place = tuple[int, int]  # (view, position within the shard)


@dataclass(frozen=True)
class Shard:
    """A run of images of one split.

    Image p of a shard and its view v (0 is the image itself) have place p * (1 + views) + v, and batch i holds places
    i * batch_size to (i + 1) * batch_size - 1, whether the images of all of them can be read or not.

    Attributes
    ----------
    number : int
        Within the extraction, from 0.
    split : str
        Name of the split.
    start, stop : int
        Positions within the rows of the split that are extracted.
    views : int
        Augmentations of each image.
    """

    number: int
    split: str
    start: int
    stop: int
    views: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """File name without suffix."""
        return f"shard-{self.number:06d}"

    def n_batches(self, batch_size: int) -> int:
        """Return the number of its encoding batches."""
        return -(-len(self) * (1 + self.views) // batch_size)

    def places(self, batch: int, batch_size: int) -> list[Place]:
        """Return the places (view, position) of a batch.

        Examples
        --------
        >>> Shard(0, "train", 8, 11, 1).places(1, 4)
        [(0, 2), (1, 2)]
        """
        last = min((batch + 1) * batch_size, len(self) * (1 + self.views))
        return [divmod(place, 1 + self.views)[::-1] for place in range(batch * batch_size, last)]


def cut_shards(splits: Sequence[tuple[str, int, int]], images: int) -> tuple[Shard, ...]:
    """Cut splits, each given as (name, images, views), into shards of so many images.

    Examples
    --------
    >>> [(shard.split, shard.start, shard.stop) for shard in cut_shards([("train", 5, 0), ("test", 1, 0)], 3)]
    [('train', 0, 3), ('train', 3, 5), ('test', 0, 1)]
    """
    shards: list[Shard] = []
    for split, n, views in splits:
        for start in range(0, n, images):
            shards.append(Shard(len(shards), split, start, min(start + images, n), views))
    return tuple(shards)


class ShardFeatures:
    """The features of one shard while they are computed; they may come in any order.

    Parameters
    ----------
    shard : Shard
        Which one.
    rows : ndarray of shape (len(shard),), int64
        Rows of the data set's split, for messages.
    width : int
        Numbers of one row.
    stored_dtype : str
        ``"float16"`` or ``"float32"``.
    on_error : str
        ``"skip"`` records an unreadable image, ``"fail"`` raises.
    """

    def __init__(
        self, shard: Shard, rows: NDArray[np.int64], width: int, stored_dtype: StoredDtype, on_error: OnError
    ) -> None:
        self.shard = shard
        self._rows, self._stored_dtype, self._on_error = rows, stored_dtype, on_error
        self._features = np.empty((1 + shard.views, len(shard), width), dtype=stored_dtype)
        self._done = np.zeros((1 + shard.views, len(shard)), dtype=bool)
        self._unreadable: dict[int, dict[str, str]] = {}
        self._sha256: dict[int, bytes] = {}
        self._n_taken = 0

    @property
    def n_encoded(self) -> int:
        """Images so far that were encoded with all their views: not taken from a cache, and not unreadable."""
        return self.n_done - self._n_taken - self.n_unreadable

    @property
    def n_unreadable(self) -> int:
        """Images so far that could not be decoded."""
        return len(self._unreadable)

    @property
    def n_done(self) -> int:
        """Images so far that were encoded with all their views, or could not be decoded."""
        return int(self._done[-1].sum())

    @property
    def is_complete(self) -> bool:
        """Whether every image with its views was encoded, or could not be decoded."""
        return bool(self._done.all())

    def is_done(self, position: int) -> bool:
        """Whether an image has all its rows, or none because it could not be decoded."""
        return bool(self._done[:, position].all())

    def store(self, encoded: NDArray[np.float32], places: Sequence[Place]) -> None:
        """Keep rows (b, width) at their places. Raises InputError if the stored dtype cannot hold them."""
        views, positions = (np.array(column) for column in zip(*places, strict=True))
        first, last = (self._rows[places[i][1]] for i in (0, -1))
        what = f"image_features of split {self.shard.split!r}, images {first} to {last},"
        self._features[views, positions] = as_stored(encoded, self._stored_dtype, what)
        self._done[views, positions] = True

    def recognise(self, position: int, sha256: bytes | None) -> None:
        """Keep the SHA-256 of an image's bytes; None where it has none."""
        if sha256 is not None:
            self._sha256[position] = sha256

    def take(self, position: int, rows: NDArray[Any]) -> None:
        """Keep the rows (1 + views, width) of an image that are known, in the stored dtype."""
        self._features[:, position] = rows
        self._done[:, position] = True
        self._n_taken += 1

    def skip(self, position: int, error: UnreadableImageError) -> None:
        """Record that an image cannot be read. Raises InputError under ``on_error="fail"``."""
        unreadable = {"split": self.shard.split, "sample_id": error.sample_id, "reason": error.reason}
        if self._on_error == "fail":
            raise unreadable_under_fail(**unreadable) from error
        self._unreadable[position] = unreadable
        self._done[:, position] = True

    def image_sha256(self) -> NDArray[np.uint8] | None:
        """Return the SHA-256 (k, 32) of the k images that could be read; None if one of them has none."""
        readable = [p for p in range(len(self.shard)) if p not in self._unreadable]
        if not all(position in self._sha256 for position in readable):
            return None
        together = b"".join(self._sha256[position] for position in readable)
        return np.frombuffer(together, dtype=np.uint8).reshape(len(readable), 32)

    def arrays(self) -> tuple[NDArray[Any], NDArray[np.int64], list[dict[str, str]]]:
        """Return what is stored of a complete shard.

        Returns
        -------
        features : ndarray of shape (1 + views, k, width)
            In the stored dtype: the image itself, then its views, of the k images that could be read.
        positions : ndarray of shape (k,), int64
            Positions of those images within the rows of the split that are extracted, ascending.
        unreadable : list of dict
            The other images: ``split``, ``sample_id``, ``reason``.
        """
        readable = np.array([p for p in range(len(self.shard)) if p not in self._unreadable], dtype=np.int64)
        unreadable = [self._unreadable[position] for position in sorted(self._unreadable)]
        return np.ascontiguousarray(self._features[:, readable]), readable + self.shard.start, unreadable


def unreadable_under_fail(split: str, sample_id: str, reason: str) -> InputError:
    """Make the error for an unreadable image under ``on_error="fail"``."""
    return InputError(
        f"image {sample_id!r} cannot be read: {reason} (split {split!r}). Repair or remove it, or use --on-error skip"
    )


def write_shard(path: Path, run: str, features: ShardFeatures) -> None:
    """Write a complete shard in one step, to a folder that must be there.

    Parameters
    ----------
    path : Path
        The file, of :mod:`cafe.cache.extract.array_file`.
    run : str
        Id of the run that it belongs to.
    features : ShardFeatures
        What it holds.

    Raises
    ------
    FileNotFoundError
        If the folder is gone.
    """
    views, positions, unreadable = features.arrays()
    about = {"run": run, "shard": features.shard.number, "unreadable": unreadable}
    hashes = features.image_sha256()
    arrays: dict[str, NDArray[Any]] = {"positions": positions}
    if hashes is not None:
        arrays["image_sha256"] = hashes
    write_array_file(path, about, {**arrays, **{f"view-{i}": view for i, view in enumerate(views)}})


class StoredShard:
    """A shard on disk, of which every byte is read once: positions first, features view by view as they are needed.

    Parameters
    ----------
    path : Path
        The file.
    run : str
        Id of the run that it must belong to.
    shard : Shard
        Which one it must be.
    stored_dtype : str
        Of its features.

    Attributes
    ----------
    positions : ndarray of shape (k,), int64
        As of :meth:`ShardFeatures.arrays`.
    unreadable : tuple of dict
        As of :meth:`ShardFeatures.arrays`.
    image_sha256 : ndarray of shape (k, 32), uint8, or None
        As of :meth:`ShardFeatures.image_sha256`.

    Raises
    ------
    CacheError
        If it is damaged or another shard; the file is removed then.
    """

    def __init__(self, path: Path, run: str, shard: Shard, stored_dtype: StoredDtype) -> None:
        self._path, self._shard = path, shard
        self._views_read = 0
        try:
            self._file = ArrayFile(path)
            about = self._file.about
            if about["run"] != run or about["shard"] != shard.number:
                raise ValueError("another run or shard")
            self.positions: NDArray[np.int64] = self._file.read("positions")
            self.unreadable: tuple[dict[str, str], ...] = tuple(about["unreadable"])
            # Images in memory have none.
            has_hashes = "image_sha256" in self._file
            self.image_sha256: NDArray[np.uint8] | None = self._file.read("image_sha256") if has_hashes else None
            self._check_against(shard, stored_dtype)
        except Exception as error:  # whatever it is that damage has led to: the shard is made again
            raise self._removed() from error

    def _check_against(self, shard: Shard, stored_dtype: StoredDtype) -> None:
        k, known = len(self.positions), {"split", "sample_id", "reason"}
        if self.positions.dtype != np.int64 or self.positions.shape != (k,):
            raise ValueError("positions of a wrong type")
        if k and not (np.diff(self.positions, prepend=shard.start - 1, append=shard.stop) > 0).all():
            raise ValueError("positions outside the shard")
        if k + len(self.unreadable) != len(shard) or any(set(image) != known for image in self.unreadable):
            raise ValueError("other images than those of the shard")
        hashes = self.image_sha256
        if hashes is not None and (hashes.dtype != np.uint8 or hashes.shape != (k, 32)):
            raise ValueError("hashes of other images")
        shapes = {self._file.shape(f"view-{view}") for view in range(1 + shard.views)}
        dtypes = {self._file.dtype(f"view-{view}") for view in range(1 + shard.views)}
        ((n, _),) = shapes
        if n != k or dtypes != {np.dtype(stored_dtype).newbyteorder("<")}:
            raise ValueError("features of other images, or of another type")

    def next_view(self) -> NDArray[Any]:
        """Read the next view, (k, width); the first one is of the images themselves.

        Raises
        ------
        CacheError
            If the file is damaged; it is removed then.
        """
        try:
            view = self._file.read(f"view-{self._views_read}")  # (k, width)
        except Exception as error:
            raise self._removed() from error
        self._views_read += 1
        return view

    def check(self) -> None:
        """Read all of it. Raises CacheError if it is damaged; the file is removed then."""
        for _ in range(1 + self._shard.views):
            self.next_view()

    def _removed(self) -> CacheError:
        self._path.unlink(missing_ok=True)
        return CacheError(
            f"{self._path.stem} in {self._path.parent} was damaged and is removed; "
            f"the same command makes it again and carries on"
        )
