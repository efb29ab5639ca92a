"""Decodes images ahead of the encoder, in threads, and hands them over in their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.data.base import Dataset
from cafe.encoders.base import Cropper
from cafe.errors import UnreadableImageError

Decoded = NDArray[np.uint8] | UnreadableImageError


def decode(
    dataset: Dataset, split: str, cropper: Cropper, *, ahead: int, threads: int | None = None
) -> Generator[Decoded, None, None]:
    """Yield the crop of every image of a split, in order; in place of an unreadable one, its error.

    Close the generator to stop early: what was not begun is dropped, and the threads end.

    Parameters
    ----------
    dataset : Dataset
        Its ``image`` is called from several threads at once.
    split : str
        Name of the split.
    cropper : Cropper
        From the encoder.
    ahead : int
        Crops held in memory at most; bounds memory where encoding is slower than decoding.
    threads : int or None
        None is one per processor that this process may use.

    Yields
    ------
    ndarray of shape (height, width, 3), uint8, or UnreadableImageError
    """

    def crop(index: int) -> Decoded:
        try:
            return cropper(dataset.image(split, index))
        except UnreadableImageError as error:
            return error

    waiting: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(threads or _processors(), thread_name_prefix="decode")
    try:
        for index in range(len(dataset.splits[split])):
            waiting.append(pool.submit(crop, index))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # a container may be given fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
