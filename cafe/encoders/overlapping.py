"""Batches on their way to a CUDA device while the one before is encoded: pinned memory, a stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_BUFFERS = 2  # one is filled while the other is copied


class Overlap:
    """Copies uint8 crops to a CUDA device and starts their encoding, without waiting for either.

    Parameters
    ----------
    device : str
        Such as ``"cuda:0"``.
    encode : callable
        Crops on the device (n, height, width, 3), uint8, to features (n, d) there.
    """

    def __init__(self, device: str, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        import torch

        self._device, self._encode = device, encode
        cuda: Any = torch.cuda  # the library does not annotate it
        self._stream, self._event = cuda.Stream(device), cuda.Event
        self._buffers: list[torch.Tensor | None] = [None] * _BUFFERS
        self._copied = [self._event() for _ in range(_BUFFERS)]
        self._turn = 0

    def start(self, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode; ``crops`` may be filled anew at once. Call the result to wait for (n, d), float32."""
        import torch

        pinned, copied = self._pinned(crops.shape), self._copied[self._turn]
        self._turn = (self._turn + 1) % _BUFFERS
        pinned.copy_(torch.from_numpy(np.ascontiguousarray(crops)))
        with torch.cuda.stream(self._stream):
            there = pinned.to(self._device, non_blocking=True)
            copied.record(self._stream)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        there.record_stream(computing)  # its memory is not given to the next copy before it has been read
        with torch.inference_mode():
            features = self._encode(there).float()
            back = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            back.copy_(features, non_blocking=True)
        done = self._event()
        done.record(computing)

        def wait() -> NDArray[np.float32]:
            done.synchronize()
            array: NDArray[np.float32] = back.numpy()
            return array

        return wait

    def _pinned(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the buffer whose turn it is, free again and as large as needed."""
        import torch

        self._copied[self._turn].synchronize()
        buffer = self._buffers[self._turn]
        if buffer is None or buffer.shape[1:] != shape[1:] or len(buffer) < shape[0]:
            buffer = self._buffers[self._turn] = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return buffer[: shape[0]]
