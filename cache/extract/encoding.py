"""Runs the crops of a shard through the encoder, in batches cut at fixed positions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.assembly import OnError, Place, ShardAssembly
from cafe.cache.extract.lanes import Lanes
from cafe.cache.extract.plan import Plan
from cafe.cache.extract.report import Clocks, ExtractionProgress
from cafe.cache.extract.shards import Shard
from cafe.errors import UnreadableImageError

ProgressCallback = Callable[[ExtractionProgress], None]


class ShardEncoding(ShardAssembly):
    """One shard on its way: images come in in their order, features come out.

    Parameters
    ----------
    plan, shard, on_error
        As for :class:`~cafe.cache.extract.assembly.ShardAssembly`.
    batch_size : int
        Places of one batch.
    clocks : Clocks
        ``encode`` runs while the encoder is waited for.
    lanes : Lanes
        Where batches are encoded.
    """

    def __init__(
        self, plan: Plan, shard: Shard, on_error: OnError, *, batch_size: int, clocks: Clocks, lanes: Lanes
    ) -> None:
        super().__init__(plan, shard, on_error)
        self._batch_size, self._clocks, self._lanes = batch_size, clocks, lanes
        self._position = 0
        self._crops: NDArray[np.uint8] | None = None  # (batch_size, height, width, 3), filled from the front
        self._places: list[Place] = []
        self._running: deque[tuple[Callable[[], NDArray[np.float32]], list[Place]]] = deque()

    @property
    def _is_complete(self) -> bool:
        """Whether all images have come in."""
        return self._position == len(self.shard)

    @property
    def is_encoded(self) -> bool:
        """Whether all features have come out."""
        return self._is_complete and not self._running

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
        self.found(position, crops if isinstance(crops, UnreadableImageError) else None)
        ended = False
        for view in range(1 + self.shard.views):
            if not isinstance(crops, UnreadableImageError):
                self._keep(crops[view], (view, position))
            place = position * (1 + self.shard.views) + view + 1
            if place % self._batch_size == 0 or (self._is_complete and view == self.shard.views):
                self._flush()
                ended = True
        return ended

    def collect(self) -> None:
        """Wait for the oldest batch under way, and keep its features."""
        wait, places = self._running.popleft()
        with self._clocks.running("encode"):
            encoded = wait()  # (b, d)
        self.store(encoded, places)

    def _keep(self, crop: NDArray[np.uint8], place: Place) -> None:
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
