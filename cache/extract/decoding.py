"""Decodes images ahead of the encoders, piece by piece, and hands the crops over in their order."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.views import Views, augmented
from cafe.data.base import Dataset
from cafe.data.images.decoding import PILLOW, decoding_with
from cafe.encoders.base import Cropper
from cafe.errors import UnreadableImageError


@dataclass(frozen=True)
class Piece:
    """A few neighbouring images of one shard; what is handed to a worker at a time.

    Attributes
    ----------
    split : str
        Name of the split.
    rows : tuple of int
        Rows of the data set's split.
    views : int
        Augmentations of each image, beside the image itself.
    croppers : tuple of int
        For which of the croppers, by number.
    """

    split: str
    rows: tuple[int, ...]
    views: int
    croppers: tuple[int, ...]


# For each image: for each cropper of the piece the crops (1 + views, height, width, 3), or why there are none.
Decoded = list[list[NDArray[np.uint8]] | UnreadableImageError]


@dataclass(frozen=True)
class Decoding:
    """Everything that is needed to turn a piece into crops; picklable if data set and croppers are.

    Attributes
    ----------
    dataset : Dataset
        Its ``image`` may be called from several threads at once.
    croppers : tuple of Cropper
        One for each encoder.
    views : Views or None
        Needed if a piece has views.
    decoder : str, default "pillow"
        Of JPEG files, one of :data:`cafe.data.images.decoding.DECODERS`.
    """

    dataset: Dataset
    croppers: tuple[Cropper, ...]
    views: Views | None = None
    decoder: str = PILLOW

    def crops(self, piece: Piece, row: int) -> list[NDArray[np.uint8]] | UnreadableImageError:
        """Decode one image once, and crop it for every cropper of the piece, views included."""
        try:
            with decoding_with(self.decoder):
                image = self.dataset.image(piece.split, row)
        except UnreadableImageError as error:
            return error
        sample_id = self.dataset.splits[piece.split].sample_ids[row]
        found = []
        for number in piece.croppers:
            whole = self.croppers[number](image)
            crops = [whole]
            if self.views is not None:
                height, width = whole.shape[:2]
                crops += [augmented(image, sample_id, v, self.views.seed, height, width) for v in range(piece.views)]
            found.append(np.stack(crops))
        return found


class Source(ABC):
    """Pieces in, crops out, in the same order; a few pieces are under way at a time."""

    @property
    @abstractmethod
    def under_way(self) -> int:
        """Pieces handed in and not taken yet."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether another piece can be handed in now; bounds memory where encoding is slower than decoding."""

    @abstractmethod
    def hand_in(self, piece: Piece) -> None:
        """Begin to decode a piece."""

    @abstractmethod
    def take(self) -> Decoded:
        """Wait for the oldest piece. Its arrays are good until the next call."""

    @abstractmethod
    def close(self) -> None:
        """Drop what is under way, and end the workers."""


class ThreadSource(Source):
    """Decodes in threads of this process: begun at once, and enough where decoding is little work.

    Parameters
    ----------
    decoding : Decoding
        What to do.
    ahead : int
        Pieces under way at most.
    threads : int or None
        None is one per processor that this process may use.
    """

    def __init__(self, decoding: Decoding, ahead: int, threads: int | None = None) -> None:
        self._decoding = decoding
        self._ahead = ahead
        self._waiting: deque[list[Future[list[NDArray[np.uint8]] | UnreadableImageError]]] = deque()
        self._pool = ThreadPoolExecutor(threads or processors(), thread_name_prefix="decode")

    @property
    def under_way(self) -> int:
        """Pieces handed in and not taken yet."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether another piece can be handed in now."""
        return len(self._waiting) < self._ahead

    def hand_in(self, piece: Piece) -> None:
        """Begin to decode a piece."""
        self._waiting.append([self._pool.submit(self._decoding.crops, piece, row) for row in piece.rows])

    def take(self) -> Decoded:
        """Wait for the oldest piece."""
        return [future.result() for future in self._waiting.popleft()]

    def close(self) -> None:
        """Drop what is under way, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


IMAGES_PER_PIECE = 4


def pieces_of(split: str, rows: Sequence[int], views: int, croppers: tuple[int, ...]) -> list[Piece]:
    """Cut the rows of a shard into pieces of a few images."""
    size = IMAGES_PER_PIECE
    return [Piece(split, tuple(rows[i : i + size]), views, croppers) for i in range(0, len(rows), size)]


def pieces_ahead(crops: int, views: int, workers: int) -> int:
    """Return how many pieces must be under way to have so many crops ready, and no worker idle."""
    return max(2 * workers, -(-crops // (IMAGES_PER_PIECE * (1 + views))))


def processors() -> int:
    """Return how many processors this process may use; a container may be given fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
