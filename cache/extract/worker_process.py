"""What a decoding worker runs: crops into shared memory until its pipe ends."""

from __future__ import annotations

import mmap
import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.cache.extract.decoding import Decoding, Piece
from cafe.errors import CafeError, UnreadableImageError


class Layout:
    """Where the crops of an image lie in a slot: image after image, cropper after cropper, view after view."""

    def __init__(self, shapes: tuple[tuple[int, int], ...], views: int, images: int) -> None:
        self.views, self.shapes = views, shapes
        self.sizes = [(1 + views) * height * width * 3 for height, width in shapes]
        self.image_bytes = sum(self.sizes)
        self.slot_bytes = images * self.image_bytes

    def array(self, memory: NDArray[np.uint8], slot: int, image: int, cropper: int) -> NDArray[np.uint8]:
        """Return the crops of one image for one cropper, (1 + views, height, width, 3), in place."""
        start = slot * self.slot_bytes + image * self.image_bytes + sum(self.sizes[:cropper])
        height, width = self.shapes[cropper]
        return memory[start : start + self.sizes[cropper]].reshape(1 + self.views, height, width, 3)


def work(pipe_descriptor: int, memory_descriptor: int, size: int) -> None:
    """Be a worker until the pipe ends; the descriptors are inherited."""
    os.nice(int(os.environ.get("CAFE_WORKER_NICE", "0")))
    pipe = Connection(pipe_descriptor)
    memory = np.frombuffer(mmap.mmap(memory_descriptor, size), dtype=np.uint8)
    try:
        try:
            decoding, layout = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        except Exception as error:  # what cannot be imported here raises nearly anything
            pipe.send(CafeError(f"a decoding process cannot load the data set: {error}; use --workers 0"))
            return
        pipe.send(None)
        while True:
            piece, slot = pipe.recv()
            pipe.send(_answer(decoding, layout, memory, piece, slot))
    except (EOFError, OSError):
        return


def _answer(decoding: Decoding, layout: Layout, memory: NDArray[np.uint8], piece: Piece, slot: int) -> Any:
    reasons: list[str | None] = []
    for place, row in enumerate(piece.rows):
        try:
            found = decoding.crops(piece, row)
        except Exception as error:
            return CafeError(f"image {row} of split {piece.split!r}: {type(error).__name__}: {error}")
        if isinstance(found, UnreadableImageError):
            reasons.append(f"{found.sample_id}\0{found.reason}")
            continue
        for number, crops in zip(piece.croppers, found, strict=True):
            target = layout.array(memory, slot, place, number)
            if crops.shape[1:] != target.shape[1:]:
                return CafeError(f"image {row} of split {piece.split!r} gave a crop of {crops.shape[1:3]} pixels")
            target[: len(crops)] = crops
        reasons.append(None)
    return reasons
