"""Runs the crops of a shard through the encoder, in batches cut at fixed positions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cache.arrays import as_stored
from cafe.cache.lanes import Lanes
from cafe.cache.plan import Plan
from cafe.cache.report import Clocks, ExtractionProgress
from cafe.cache.shards import Shard, ShardContent
from cafe.errors import InputError, UnreadableImageError

ProgressCallback = Callable[[ExtractionProgress], None]
OnError = Literal["skip", "fail"]


class ShardEncoding:
    """One shard on its way: images come in in their order, features come out.

    Image p of a shard and its view v (0 is the image itself) have place p * (1 + views) + v, and batch i holds places
    i * batch_size to (i + 1) * batch_size - 1, whether the images of all of them can be read or not.

    Parameters
    ----------
    plan : Plan
        What is extracted.
    shard : Shard
        Which part of it.
    batch_size : int
        Places of one batch.
    on_error : str
        ``"skip"`` records an unreadable image, ``"fail"`` raises.
    clocks : Clocks
        ``encode`` runs while the encoder is waited for.
    lanes : Lanes
        Where batches are encoded.
    """

    def __init__(
        self, plan: Plan, shard: Shard, batch_size: int, on_error: OnError, clocks: Clocks, lanes: Lanes
    ) -> None:
        self.shard = shard
        self._plan, self._batch_size, self._on_error, self._clocks = plan, batch_size, on_error, clocks
        self._lanes = lanes
        self._features = np.empty((1 + shard.views, len(shard), plan.row_width), dtype=plan.stored_dtype)
        self._readable = np.zeros(len(shard), dtype=bool)
        self._unreadable: list[dict[str, str]] = []
        self._position = 0
        self._crops: NDArray[np.uint8] | None = None  # (batch_size, height, width, 3), filled from the front
        self._places: list[tuple[int, int]] = []  # (view, position) of each
        self._running: deque[tuple[Callable[[], NDArray[np.float32]], list[tuple[int, int]]]] = deque()

    @property
    def unreadable(self) -> int:
        """Images so far that could not be decoded."""
        return len(self._unreadable)

    @property
    def is_complete(self) -> bool:
        """Whether all images have come in."""
        return self._position == len(self.shard)

    @property
    def is_encoded(self) -> bool:
        """Whether all features have come out."""
        return self.is_complete and not self._running

    def add(self, crops: NDArray[np.uint8] | UnreadableImageError) -> bool:
        """Take the next image; True if that ended a batch.

        Parameters
        ----------
        crops : ndarray of shape (1 + views, height, width, 3), uint8, or UnreadableImageError
            Copied.

        Raises
        ------
        InputError
            Under ``on_error="fail"``, if it could not be read; or if features cannot be stored.
        """
        position, self._position = self._position, self._position + 1
        readable = not isinstance(crops, UnreadableImageError)
        if isinstance(crops, UnreadableImageError):
            self._record(crops)
        self._readable[position] = readable
        ended = False
        for view in range(1 + self.shard.views):
            if not isinstance(crops, UnreadableImageError):
                self._keep(crops[view], (view, position))
            place = position * (1 + self.shard.views) + view + 1
            if place % self._batch_size == 0 or (self.is_complete and view == self.shard.views):
                self._flush()
                ended = True
        return ended

    def content(self) -> ShardContent:
        """Return what the shard holds, once it is encoded."""
        positions = np.flatnonzero(self._readable).astype(np.int64)
        return ShardContent(self._features[:, positions], positions + self.shard.start, tuple(self._unreadable))

    def _keep(self, crop: NDArray[np.uint8], place: tuple[int, int]) -> None:
        if self._crops is None:
            self._crops = np.empty((self._batch_size, *crop.shape), dtype=np.uint8)
        self._crops[len(self._places)] = crop
        self._places.append(place)

    def _flush(self) -> None:
        if self._crops is None or not self._places:
            return
        with self._clocks.running("encode"):
            wait = self._lanes.start(self, self._plan, self._crops[: len(self._places)])
        self._running.append((wait, self._places))
        self._places = []
        if self._lanes.number:
            self._crops = None
        self._lanes.collect()

    def collect(self) -> None:
        """Wait for the oldest batch under way, and keep its features."""
        wait, places = self._running.popleft()
        with self._clocks.running("encode"):
            encoded = wait()  # (b, d)
        views, positions = (np.array(column) for column in zip(*places, strict=True))
        rows = self._plan.rows[self.shard.split]
        first, last = (rows[self.shard.start + places[i][1]] for i in (0, -1))
        what = f"image_features of split {self.shard.split!r}, images {first} to {last},"
        self._features[views, positions] = as_stored(encoded, self._plan.stored_dtype, what)

    def _record(self, error: UnreadableImageError) -> None:
        split = self.shard.split
        if self._on_error == "fail":
            raise unreadable_under_fail(split, error.sample_id, error.reason) from error
        self._unreadable.append({"split": split, "sample_id": error.sample_id, "reason": error.reason})


def unreadable_under_fail(split: str, sample_id: str, reason: str) -> InputError:
    """Make the error for an unreadable image under ``on_error="fail"``."""
    return InputError(
        f"image {sample_id!r} cannot be read: {reason} (split {split!r}). Repair or remove it, or use --on-error skip"
    )


def lost_classes(plan: Plan, splits: dict[str, Any]) -> list[str]:
    """Refuse a class that has no readable image left at all; name those that a single split has lost.

    Parameters
    ----------
    plan : Plan
        What was extracted.
    splits : dict of str to ndarray of int64
        Positions of the readable images of each split.

    Raises
    ------
    InputError
        If no image of a split, or of a class in any split, could be read.
    """
    notes = []
    before, after = set[int](), set[int]()
    names = plan.dataset.class_names
    for name, positions in splits.items():
        if not len(positions):
            raise InputError(f"no image of split {name!r} of {plan.dataset.name} can be read")
        labels = plan.dataset.splits[name].labels[plan.rows[name]]
        had, has = set(labels.tolist()), set(labels[positions].tolist())
        before, after = before | had, after | has
        for label in sorted(had - has):
            notes.append(f"no image of class {names[label]!r} in split {name!r} could be read")
    lost = [names[label] for label in sorted(before - after)]
    if lost:
        raise InputError(
            f"no image of class {', '.join(map(repr, lost))} of {plan.dataset.name} can be read; "
            f"repair the images, or remove the class"
        )
    return notes
