"""One shard being put together from the features of its batches, in whatever order they come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.plan import Plan
from cafe.cache.extract.shards import Shard, ShardContent
from cafe.cache.format.arrays import as_stored
from cafe.errors import InputError, UnreadableImageError

OnError = Literal["skip", "fail"]
Place = tuple[int, int]  # (view, position within the shard)


class ShardAssembly(ABC):
    """What of one shard is there.

    Image p of a shard and its view v (0 is the image itself) have place p * (1 + views) + v, and batch i holds places
    i * batch_size to (i + 1) * batch_size - 1, whether the images of all of them can be read or not.

    Parameters
    ----------
    plan : Plan
        What is extracted.
    shard : Shard
        Which part of it.
    on_error : str
        ``"skip"`` records an unreadable image, ``"fail"`` raises.
    """

    def __init__(self, plan: Plan, shard: Shard, on_error: OnError) -> None:
        self.shard = shard
        self._plan, self._on_error = plan, on_error
        self._features = np.empty((1 + shard.views, len(shard), plan.row_width), dtype=plan.stored_dtype)
        self._readable = np.zeros(len(shard), dtype=bool)
        self._unreadable: dict[int, dict[str, str]] = {}
        self._stored = 0

    @property
    def unreadable(self) -> int:
        """Images so far that could not be decoded."""
        return len(self._unreadable)

    @property
    def done(self) -> int:
        """Images that are through: encoded with all their views, or unreadable."""
        return self._stored + self.unreadable

    @property
    @abstractmethod
    def is_encoded(self) -> bool:
        """Whether all features have come."""

    def content(self) -> ShardContent:
        """Return what the shard holds, once it is encoded."""
        positions = np.flatnonzero(self._readable).astype(np.int64)
        unreadable = tuple(self._unreadable[position] for position in sorted(self._unreadable))
        return ShardContent(self._features[:, positions], positions + self.shard.start, unreadable)

    def store(self, encoded: NDArray[np.float32], places: Sequence[Place]) -> None:
        """Keep rows (b, d) at their places. Raises InputError if they cannot be stored."""
        views, positions = (np.array(column) for column in zip(*places, strict=True))
        rows = self._plan.rows[self.shard.split]
        first, last = (rows[self.shard.start + places[i][1]] for i in (0, -1))
        what = f"image_features of split {self.shard.split!r}, images {first} to {last},"
        self._stored += int((views == self.shard.views).sum())
        self._features[views, positions] = as_stored(encoded, self._plan.stored_dtype, what)

    def found(self, position: int, error: UnreadableImageError | None) -> None:
        """Record whether an image could be read. Raises InputError under ``on_error="fail"`` if not."""
        self._readable[position] = error is None
        if error is None:
            return
        split = self.shard.split
        if self._on_error == "fail":
            raise unreadable_under_fail(split, error.sample_id, error.reason) from error
        self._unreadable[position] = {"split": split, "sample_id": error.sample_id, "reason": error.reason}


def unreadable_under_fail(split: str, sample_id: str, reason: str) -> InputError:
    """Make the error for an unreadable image under ``on_error="fail"``."""
    return InputError(
        f"image {sample_id!r} cannot be read: {reason} (split {split!r}). Repair or remove it, or use --on-error skip"
    )
