"""Encodes the images of shards in batches cut at fixed positions.

On a CPU batches are encoded side by side, one on each core, each with one thread of torch: batches share nothing, so no
core waits for another at the end of a layer, as the threads of one layer do, and a core that is taken by a decoder
holds up its own batch alone. On a device of its own batches follow each other, and the device overlaps them
(:meth:`cafe.encoders.base.Encoder.start_images`).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.plan import Extraction
from cafe.cache.extract.shards import Place, ShardFeatures
from cafe.encoders.base import Encoder
from cafe.encoders.stopping import check_before_every_module, stop_this_thread_on

Target = tuple[ShardFeatures, Place]  # where a crop's rows go
Batch = tuple[NDArray[np.uint8], list[Target]]  # crops (b, height, width, 3), and where the rows of each go

_AHEAD = 2  # batches of one encoder that an asynchronous device, or each thread, may have at a time
_BATCHES_PER_THREAD = 4  # below that, threads within a batch serve better than batches side by side


class _Batches:
    """Collects the crops of images, which come in their order, into encoding batches.

    Parameters
    ----------
    batch_size : int
        Images and views of one batch.
    reuse : bool
        Whether the memory of a batch is filled anew once the next image is added.
    """

    def __init__(self, batch_size: int, *, reuse: bool) -> None:
        self._batch_size, self._reuse = batch_size, reuse
        self._crops: NDArray[np.uint8] | None = None  # (batch_size, height, width, 3), filled from the front
        self._targets: list[Target] = []

    def _put(self, crop: NDArray[np.uint8], target: Target) -> None:
        """Copy one crop (height, width, 3) behind those that are collected."""
        if self._crops is None:
            self._crops = np.empty((self._batch_size, *crop.shape), dtype=np.uint8)
        self._crops[len(self._targets)] = crop
        self._targets.append(target)

    def _cut(self) -> Batch:
        """End the batch that is collected, and return it."""
        crops = np.empty((0, 0, 0, 3), dtype=np.uint8) if self._crops is None else self._crops
        targets, self._targets = self._targets, []
        if targets and not self._reuse:
            self._crops = None
        return crops[: len(targets)], targets


class ShardBatches(_Batches):
    """Cuts the images of one shard into batches at fixed places, whether all of them can be read or not."""

    def add(self, image: NDArray[np.uint8] | None, features: ShardFeatures, position: int) -> Iterator[Batch]:
        """Take the next image, and yield every batch that ends with it; a batch may be empty.

        Parameters
        ----------
        image : ndarray of shape (1 + views, height, width, 3), uint8, or None
            The crops of the image, which are copied; None if it cannot be read, so that its places stay empty.
        features : ShardFeatures
            The features of the shard, to which the encoded rows go.
        position : int
            Position of the image within the shard.
        """
        shard = features.shard
        for view in range(1 + shard.views):
            if image is not None:
                self._put(image[view], (features, (view, position)))
            n_places = position * (1 + shard.views) + view + 1
            if n_places % self._batch_size == 0 or n_places == len(shard) * (1 + shard.views):
                yield self._cut()


class PackedBatches(_Batches):
    """Packs the images that are missing, of whatever shards, into full batches.

    Where most images are known, batches cut at fixed places would hold one or two images each. It is then taken for
    granted, as :attr:`cafe.encoders.base.Encoder.least_rows` says, that an image's feature has the same bits whatever
    the other images of its batch.
    """

    def add(self, image: NDArray[np.uint8] | None, features: ShardFeatures, position: int) -> Iterator[Batch]:
        """Take an image, which may be None as for :class:`ShardBatches`, and yield every batch that is full."""
        for view, crop in enumerate(() if image is None else image):
            self._put(crop, (features, (view, position)))
            if len(self._targets) == self._batch_size:
                yield self._cut()

    def last_batch(self) -> Iterator[Batch]:
        """Yield the batch that is not full, if it has any image."""
        if self._targets:
            yield self._cut()


def store_rows(rows: NDArray[np.float32], targets: Sequence[Target]) -> None:
    """Store the encoded rows (b, width) of a batch in the shards; ``targets`` has the shard and place of each row."""
    start = 0
    for features, targets_of_shard in groupby(targets, key=lambda target: target[0]):
        places = [place for _, place in targets_of_shard]
        features.store(rows[start : start + len(places)], places)
        start += len(places)


def _filled_up(encoder: Encoder, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fill a batch up with copies of its first crop to a multiple of ``Encoder.least_rows``, which says why.

    Copies, since black bytes are no crop of an encoder that takes images cut into patches (NaFlex).
    """
    missing = -len(crops) % encoder.least_rows
    return np.concatenate([crops, np.repeat(crops[:1], missing, axis=0)]) if missing else crops


def encode_rows(encoder: Encoder, crops: NDArray[np.uint8], *, unprojected: bool) -> NDArray[np.float32]:
    """Encode a batch to rows of a shard: the features (n, d), and behind them what goes into the projection (n, w)."""
    n, crops = len(crops), _filled_up(encoder, crops)
    if unprojected:
        return np.concatenate(encoder.encode_images_unprojected(crops), axis=1)[:n]  # (n, d + w)
    return encoder.encode_images(crops)[:n]  # (n, d)


def _start_rows(extraction: Extraction, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
    """Begin to encode a batch (b, height, width, 3); return a function that waits for its rows (b, width)."""
    if extraction.projection is None:
        wait = extraction.encoder.start_images(_filled_up(extraction.encoder, crops))
        return lambda: wait()[: len(crops)]
    rows = encode_rows(extraction.encoder, crops, unprojected=True)
    return lambda: rows


class BatchEncoder:
    """Encodes batches, side by side where that is faster.

    Parameters
    ----------
    extractions : sequence of Extraction
        Whose batches come.
    n_batches : int
        Batches of the whole extraction, done or not, so that carrying on gives the same number of threads.

    Attributes
    ----------
    n_threads : int
        Batches encoded side by side; 0 if they are encoded one after the other in the caller's thread.
    n_ahead : int
        Batches to begin before the oldest is waited for.
    """

    def __init__(self, extractions: Sequence[Extraction], n_batches: int) -> None:
        self.n_threads = 0
        self._restore: Callable[[], None] = lambda: None
        self._queue: SimpleQueue[_EncodingBatch | None] = SimpleQueue()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        if all(_may_run_side_by_side(extraction) for extraction in extractions):
            self.n_threads, self._restore = _share_threads(n_batches)
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self.n_threads)]
            for thread in self._threads:
                thread.start()
        n_on_devices = sum(extraction.encoder.device != "cpu" for extraction in extractions)
        self.n_ahead = _AHEAD * (self.n_threads or n_on_devices) or 1

    @property
    def keeps_crops(self) -> bool:
        """Whether the crops of a batch must stay as they are until it is encoded."""
        return self.n_threads > 0

    def start(self, extraction: Extraction, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode a batch (b, height, width, 3); return a function that waits for its rows (b, width)."""
        if not self.n_threads:
            return _start_rows(extraction, crops)
        batch = _EncodingBatch(lambda: _start_rows(extraction, crops)())
        self._queue.put(batch)
        return batch.wait

    def close(self) -> None:
        """End the encoding threads, and restore torch's number of threads.

        A batch that is being encoded is given up at the next layer of the tower; batches that wait are not begun.
        """
        self._closing.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._restore()

    def _work(self) -> None:
        """Encode batches of the queue in this thread until the encoder is closed."""
        stop_this_thread_on(self._closing)
        while (batch := self._queue.get()) is not None and not self._closing.is_set():
            batch.encode()


class _EncodingBatch:
    """A batch for a thread to encode."""

    def __init__(self, encode: Callable[[], NDArray[np.float32]]) -> None:
        self._encode, self._done = encode, threading.Event()
        self._result: NDArray[np.float32] | BaseException | None = None

    def encode(self) -> None:
        try:
            self._result = self._encode()
        except BaseException as error:
            self._result = error
        self._done.set()

    def wait(self) -> NDArray[np.float32]:
        """Wait until a thread has encoded the batch, and return its rows, or raise what the thread raised."""
        self._done.wait()
        if isinstance(self._result, np.ndarray):
            return self._result
        raise self._result if self._result is not None else RuntimeError("a thread ended before its batch did")


def _may_run_side_by_side(extraction: Extraction) -> bool:
    # Features before the projection are taken from within the model, which only one call at a time may do.
    encoder = extraction.encoder
    return encoder.device == "cpu" and encoder.parallel and extraction.projection is None


def _share_threads(n_batches: int) -> tuple[int, Callable[[], None]]:
    """Divide the threads of torch among batches, and let these be stopped at every layer.

    Return how many batches are encoded side by side, and a function that restores torch.
    """
    import torch

    threads = torch.get_num_threads()
    number = max(1, min(threads, n_batches // _BATCHES_PER_THREAD))
    torch.set_num_threads(threads // number)
    give_back, end_checks = keep_freed_memory(), check_before_every_module()

    def restore() -> None:
        end_checks()
        torch.set_num_threads(threads)
        give_back()

    return number, restore


# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # which glibc itself reaches by adapting
_KEPT = 1 << 30
_ADAPTED_TRIM = 2 * _LARGEST_MMAP_THRESHOLD


def keep_freed_memory() -> Callable[[], None]:
    """Keep up to 1 GB of freed memory for the next allocation; return a function that gives it back and ends that.

    A layer's activations are tens of megabytes. glibc hands such blocks back to the kernel when they are freed, and
    every batch then pays for fresh, zeroed pages: 4,300 page faults for each image of a ViT-B/32 in float32 at 32
    images a batch, 8 % of its time (docs/extraction.md). Nothing is computed otherwise. Where the C library is another
    than glibc nothing happens.

    Examples
    --------
    >>> give_back = keep_freed_memory()
    >>> give_back()
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return lambda: None
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    library.mallopt(_TRIM_THRESHOLD, _KEPT)

    def give_back() -> None:
        library.mallopt(_TRIM_THRESHOLD, _ADAPTED_TRIM)
        library.malloc_trim(0)

    return give_back
