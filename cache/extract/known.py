"""Images that were encoded before, recognised by their bytes, and their rows in the caches that hold them.

An image whose bytes were encoded by the same weights with the same preprocessing, decoder and dtype has the features
that it had then, whatever it is called now, and whatever class, split or data set it belongs to. So these are copied.
Views are drawn by the sample id, so they are copied for the same bytes under the same id alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.features import Split

NO_KEYS = np.empty(0, dtype="S32")


@dataclass(frozen=True)
class KnownKeys:
    """The images whose features are at hand: what decoders need to know of them, and picklable.

    Attributes
    ----------
    images : ndarray of shape (k,), 32 bytes each
        SHA-256 of their bytes, sorted.
    with_views : ndarray of shape (l,), 32 bytes each
        :func:`key_with_id` of those of which the wanted views are at hand too, sorted.
    """

    images: NDArray[np.bytes_] = field(default_factory=lambda: NO_KEYS)
    with_views: NDArray[np.bytes_] = field(default_factory=lambda: NO_KEYS)

    def has(self, sha256: bytes, sample_id: str, views: int) -> bool:
        """Whether all features of an image, with so many views, are at hand."""
        return self.place(sha256, sample_id, views) is not None

    def place(self, sha256: bytes, sample_id: str, views: int) -> int | None:
        """Return the place of an image among the sorted keys; None if it is not there."""
        if not self.images.size:
            return None
        keys, key = (self.with_views, key_with_id(sha256, sample_id)) if views else (self.images, sha256)
        place = int(np.searchsorted(keys, np.bytes_(key)))
        # NumPy drops zeros at the end of such bytes.
        return place if place < len(keys) and keys[place].ljust(32, b"\0") == key else None


def key_with_id(sha256: bytes, sample_id: str) -> bytes:
    """Return the key of an image under its id, by which views are drawn.

    Examples
    --------
    >>> len(key_with_id(bytes(32), "cat/1.jpg"))
    32
    """
    return hashlib.sha256(sha256 + sample_id.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True)
class KnownSplit:
    """One split of a cache from which rows may be copied.

    Attributes
    ----------
    path : Path
        The cache.
    split : Split
        Mapped from the disk, with hashes; with views where they are the wanted ones.
    differences : tuple of str
        What it was made with otherwise, without changing its identity: device, versions.
    """

    path: Path
    split: Split
    differences: tuple[str, ...] = ()

    def row(self, row: int, views: int, with_projection: bool) -> NDArray[Any]:
        """Return the rows of an image as a shard has them, (1 + views, width)."""
        parts = [self.split.image_features[row]]
        if with_projection:
            assert self.split.projection_features is not None
            parts.append(self.split.projection_features[row])
        first: NDArray[Any] = np.concatenate(parts)  # (width,)
        if not views:
            alone: NDArray[Any] = first[None]  # (1, width)
            return alone
        assert self.split.view_features is not None
        rows: NDArray[Any] = np.zeros((1 + views, first.shape[0]), dtype=first.dtype)
        rows[0] = first
        # What goes into the projection is kept of the images themselves alone.
        rows[1:, : self.split.image_features.shape[1]] = self.split.view_features[:views, row]
        return rows  # (1 + views, width)


class KnownRows:
    """Finds and reads the features of images that were encoded before.

    :func:`cafe.cache.extract.sources.find_known_rows` makes it.

    Parameters
    ----------
    sources : sequence of (KnownSplit, ndarray of int64)
        Splits, and the rows of each that may be asked for.
    damaged : sequence of str
        One sentence for each cache from which nothing is taken because it is damaged.

    Attributes
    ----------
    keys : KnownKeys
        What decoders need of it.
    damaged : tuple of str
        One sentence for each cache from which nothing is taken because it is damaged.
    """

    def __init__(
        self, sources: Sequence[tuple[KnownSplit, NDArray[np.int64]]] = (), damaged: Sequence[str] = ()
    ) -> None:
        self._sources = [source for source, _ in sources]
        self._used: Counter[int] = Counter()
        self._encoded_again = 0
        self.damaged = tuple(damaged)
        images, self._of_images = _sorted_keys([(source.split, rows, False) for source, rows in sources])
        with_views, self._of_views = _sorted_keys([(source.split, rows, True) for source, rows in sources])
        self.keys = KnownKeys(images, with_views)

    def __len__(self) -> int:
        return int(self.keys.images.size)

    def take(self, sha256: bytes, sample_id: str, views: int, *, with_projection: bool) -> NDArray[Any]:
        """Return the rows of an image that :attr:`keys` has, (1 + views, width), in the stored dtype."""
        place = self.keys.place(sha256, sample_id, views)
        assert place is not None, "an image that is not known"
        source, row = (self._of_views if views else self._of_images)[place]
        self._used[int(source)] += 1
        return self._sources[int(source)].row(int(row), views, with_projection)

    def note_encoded_again(self, sha256: bytes | None, sample_id: str, views: int) -> None:
        """Note that an image is encoded again for its views, if it is one whose own features are at hand."""
        if views and sha256 is not None and self.keys.has(sha256, sample_id, 0):
            self._encoded_again += 1

    def notes(self) -> list[str]:
        """Say what the caches that rows were taken from were made with otherwise, and which were damaged."""
        notes = list(self.damaged)
        used: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for number, n in self._used.items():
            source = self._sources[number]
            if source.differences:
                used[source.path.name, source.differences] += n
        for (name, differences), n in used.items():
            which = "1 image was" if n == 1 else f"{n:,} images were"
            notes.append(f"the features of {which} taken from {name}, made with {'; '.join(differences)}")
        if self._encoded_again:
            which = "1 image was" if self._encoded_again == 1 else f"{self._encoded_again:,} images were"
            notes.append(
                f"{which} encoded again with their views, which are drawn by the sample id and the seed: the caches at "
                f"hand have no such views of these images under their ids"
            )
        return notes


def _sorted_keys(sources: Sequence[tuple[Split, NDArray[np.int64], bool]]) -> tuple[NDArray[np.bytes_], NDArray[Any]]:
    """Return the distinct keys of all sources, sorted, and for each the number of its source and its row there."""
    keys, places = [NO_KEYS], [np.empty((0, 2), dtype=np.int64)]
    for number, (split, rows, with_views) in enumerate(sources):
        if split.image_sha256 is None or (with_views and split.view_features is None):
            continue
        of_source = np.ascontiguousarray(split.image_sha256[rows]).view("S32").reshape(-1)  # (len(rows),)
        if with_views:
            ids = split.sample_ids[rows].tolist()
            hashes = split.image_sha256[rows]  # (len(rows), 32)
            pairs = zip(hashes, ids, strict=True)
            of_source = np.array([key_with_id(sha256.tobytes(), sample_id) for sha256, sample_id in pairs], dtype="S32")
        keys.append(of_source)
        places.append(np.stack([np.full(len(rows), number), rows], axis=1))
    distinct, first = np.unique(np.concatenate(keys), return_index=True)
    return distinct, np.concatenate(places)[first]


NOTHING_KNOWN = KnownRows()
