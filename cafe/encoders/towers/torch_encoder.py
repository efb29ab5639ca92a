"""What every encoder that runs on torch does the same way: chunks, pixels to floats, features to NumPy."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.compute import capture_stream
from cafe.encoders.base import Encoder
from cafe.errors import CafeError, InputError

if TYPE_CHECKING:
    import torch

# By kind of device. On CPUs a full-size tower was fastest at 32 (docs/extraction.md).
BATCH_SIZE = {"cpu": 32, "mps": 128, "cuda": 256}
# Of a small tower on a CPU, whose operations on 32 images are too short: threads that encode, decode and collect wait
# for each other between them, and extraction with cafe:mini took 1.3 to 1.5 times as long.
SMALL_TOWER_BATCH_SIZE = 128
# Positions times width of a small tower at most: cafe:mini has 2,176, a ViT-B/32 38,400.
SMALL_TOWER_NUMBERS = 2**13
# Two tokenizers with equal vocabularies can still cut text differently: case, accents, digits, spaces.
PROBES = ("a photo of a cat.", "A PHOTO of Crème  brûlée\t42-3", "it's 1,000 €; don't_panic", "日本語 ß ﬁ", "")
_BUFFERS = 2  # one is filled while the other is copied
_MOST_REGISTERED = 4  # arrays, one for each size of crops and a few to spare


_LEAST_ROWS_ON_CPU = 16
# Of crops that are normalised together on a CPU: they and their floats, four times as many bytes, stay in a core's
# cache from one pass to the next.
_BYTES_IN_CACHE = 1 << 18


class TorchEncoder(Encoder):
    """A pair of towers in torch; a library says how pixels and prompts become features."""

    parallel = True
    _model: Any
    _overlap: Overlap | None = None

    def _place(self, model: torch.nn.Module, rescale: tuple[float, list[float], list[float]]) -> None:
        """Move the model to ``device`` in ``dtype``, and keep (factor, mean, std) of its preprocessing there."""
        import torch

        self.batch_size = BATCH_SIZE[self.device.partition(":")[0]]
        self._model = model.to(device=self.device, dtype=getattr(torch, self.dtype))
        factor, mean, std = rescale
        self._factor = factor
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(1, 3, 1, 1)

    @property
    def least_rows(self) -> int:
        """Rows to a multiple of which a batch is filled up in extraction; see the base class.

        Libraries of matrix products choose their kernels by the number of rows. On CPUs, ViT-B/32 and ``cafe:mini``
        gave the same bits of an image in any batch of 16 to 32, ``cafe:mini`` in any multiple of 16 up to 128, and
        other last bits in smaller ones and in some between (docs/extraction.md). On other devices only batches of one
        size are taken for equal.
        """
        return min(self.batch_size, _LEAST_ROWS_ON_CPU) if self.device == "cpu" else self.batch_size

    @abstractmethod
    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode rescaled, normalised pixels (n, 3, height, width) in the model's dtype: (n, d)."""

    @abstractmethod
    def _text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """Tokenise and encode n prompts: (n, d)."""

    def encode_images(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels (n, height, width, 3), uint8, to features (n, d), float32.

        Raises
        ------
        InputError
            If the pixels have another shape or dtype.
        """
        import torch

        check_crops(crops)
        features = [np.empty((0, self.dim), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(crops), self.batch_size):
                features.append(to_numpy(self._encode_crops(crops[start : start + self.batch_size])))
        return np.concatenate(features)

    def encode_images_unprojected(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode pixels to features (n, d) and to what goes into the projection (n, w); see the base class."""
        import torch

        check_crops(crops)
        projection = self.projection()
        if projection is None:
            return super().encode_images_unprojected(crops)
        features = [np.empty((0, width), dtype=np.float32) for width in projection.shape[::-1]]
        with torch.inference_mode():
            for start in range(0, len(crops), self.batch_size):
                both = self._encode_unprojected(crops[start : start + self.batch_size])
                features = [np.concatenate([so_far, to_numpy(new)]) for so_far, new in zip(features, both, strict=True)]
        return features[0], features[1]

    def _encode_unprojected(self, crops: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode one batch of crops to (n, d) and (n, w); needed where :meth:`projection` is not None."""
        raise CafeError(f"{type(self).__name__} has a projection, so it must define _encode_unprojected")

    def start_images(self, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode one batch; on CUDA its copy overlaps with the work on the batch before."""
        is_plain = type(self)._encode_crops is TorchEncoder._encode_crops and type(self)._pixels is TorchEncoder._pixels
        if not self.device.startswith("cuda") or not is_plain or not 0 < len(crops) <= self.batch_size:
            return super().start_images(crops)
        if self._overlap is None:
            encode = RecordedForward(lambda on_device: self._image_features(self._normalised(on_device)))
            self._overlap = Overlap(self.device, encode)
        return self._overlap.start(crops)

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Encode n prompts to features (n, d), float32; a prompt is cut at the tower's context.

        Raises
        ------
        InputError
            If there are no prompts.
        """
        import torch

        if len(prompts) == 0:
            raise InputError("no prompts to encode")
        with torch.inference_mode():
            chunks = (prompts[start : start + self.batch_size] for start in range(0, len(prompts), self.batch_size))
            return np.concatenate([to_numpy(self._text_features(chunk)) for chunk in chunks])

    def image_tower(self, *, unprojected: bool = False) -> torch.nn.Module:
        """Return the image tower as a module that an exporter can follow; it shares this encoder's weights.

        Parameters
        ----------
        unprojected : bool, default=False
            Whether it returns what goes into the projection, (n, w), in place of the features, (n, d).

        Returns
        -------
        torch.nn.Module
            From crops on the device, (n, height, width, 3) of uint8, rescaled and normalised within.
        """
        import torch

        inside = copy.copy(self)
        inside._pixels = inside._normalised  # type: ignore[method-assign, assignment]  # crops are tensors already

        class ImageTower(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = inside._model

            def forward(self, crops: Any) -> torch.Tensor:
                return inside._encode_unprojected(crops)[1] if unprojected else inside._encode_crops(crops)

        return ImageTower().eval()

    def _encode_crops(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Encode one batch of crops: (n, d)."""
        return self._image_features(self._pixels(crops))

    def _pixels(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """Rescale and normalise crops on the device, in float32, and cast: (n, 3, height, width)."""
        import torch

        if self.device != "cpu":
            return self._normalised(torch.from_numpy(np.array(crops)).to(self.device))
        at_once = max(1, _BYTES_IN_CACHE // max(1, crops[:1].nbytes))
        blocks = [np.array(crops[start : start + at_once]) for start in range(0, len(crops), at_once)]
        normalised = [self._normalised(torch.from_numpy(block)) for block in blocks]
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)

    def _normalised(self, chunk: torch.Tensor) -> torch.Tensor:
        """Do so with crops that are on the device."""
        import torch

        dtype = getattr(torch, self.dtype)
        if chunk.device.type == "cuda":
            # The same in one pass: (factor x - mean) / std is x (factor / std) - mean / std, cast as it is stored.
            planes = chunk.permute(0, 3, 1, 2)
            scale, shift = self._factor / self._std, -self._mean / self._std
            return torch.addcmul(shift, planes, scale, out=torch.empty(planes.shape, dtype=dtype, device=chunk.device))
        pixels = chunk.permute(0, 3, 1, 2).float() * self._factor
        pixels -= self._mean
        pixels /= self._std
        return pixels.to(dtype)


def check_crops(crops: NDArray[np.uint8]) -> None:
    """Refuse crops that are not (n, height, width, 3) of uint8. Raises InputError."""
    if crops.ndim != 4 or crops.shape[-1] != 3 or crops.dtype != np.uint8:
        raise InputError(f"crops must be (n, height, width, 3) of uint8, got {crops.shape} of {crops.dtype}")


def to_numpy(features: torch.Tensor) -> NDArray[np.float32]:
    """Return features as float32 on the host."""
    array: NDArray[np.float32] = features.float().cpu().numpy()
    return array


class RecordedForward:
    """A tower's forward pass that is recorded in a CUDA graph for each shape that comes again, and replayed.

    Launching a tower's hundreds of kernels costs the host milliseconds a batch, which it has not, since it also feeds
    decoders. Where a forward pass cannot be recorded (it asks the host for something) it runs as it is.

    Parameters
    ----------
    encode : callable
        Crops on the device to features there.
    """

    # Batches of one shape before it is recorded: the first loads kernels, and a last small batch never comes again.
    AFTER = 3
    # Shapes that are recorded: each graph holds the memory of a whole forward pass.
    MOST = 4

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._encode = encode
        self._seen: dict[tuple[int, ...], int] = {}
        self._recorded: dict[tuple[int, ...], tuple[torch.Tensor, Any, torch.Tensor]] = {}
        self._refused = False

    def __call__(self, on_device: torch.Tensor) -> torch.Tensor:
        """Return features (n, d) of crops on the device."""
        shape = tuple(on_device.shape)
        self._seen[shape] = self._seen.get(shape, 0) + 1
        full = len(self._recorded) >= self.MOST
        if shape not in self._recorded and (self._refused or full or self._seen[shape] <= self.AFTER):
            return self._encode(on_device)
        if shape not in self._recorded:
            try:
                self._recorded[shape] = self._record(on_device)
            except RuntimeError:
                self._refused = True
                return self._encode(on_device)
        given, graph, features = self._recorded[shape]
        given.copy_(on_device)
        graph.replay()
        return features.clone()  # the next replay writes to the same place

    def _record(self, on_device: torch.Tensor) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Return where crops go, the graph, and where features come."""
        import torch

        cuda: Any = torch.cuda  # the library does not annotate it
        given, graph = on_device.clone(), cuda.CUDAGraph()
        side, computing = capture_stream(on_device.device.index), cuda.current_stream(on_device.device)
        side.wait_stream(computing)
        with cuda.stream(side):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                features = self._encode(given)
            finally:
                graph.capture_end()
        computing.wait_stream(side)
        return given, graph, features


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
        self._memory: dict[int, NDArray[Any]] = {}  # registered with CUDA, by address

    def start(self, crops: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode; ``crops`` may be filled anew at once. Call the result to wait for (n, d), float32."""
        import torch

        host = torch.from_numpy(np.ascontiguousarray(crops))
        registered = self._registered(crops)
        pinned, copied = host if registered else self._pinned(crops.shape), self._copied[self._turn]
        self._turn = (self._turn + 1) % _BUFFERS
        if not registered:
            pinned.copy_(host)
        with torch.cuda.stream(self._stream):
            on_device = pinned.to(self._device, non_blocking=True)
            copied.record(self._stream)
        if registered:
            # The array may be filled anew when this returns: 38 MB take 2 ms, where a copy by the host takes 5.
            copied.synchronize()
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        on_device.record_stream(computing)  # its memory is not given to the next copy before it has been read
        with torch.inference_mode():
            features = self._encode(on_device).float()
            back = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            back.copy_(features, non_blocking=True)
        done = self._event()
        done.record(computing)

        def wait() -> NDArray[np.float32]:
            done.synchronize()
            array: NDArray[np.float32] = back.numpy()
            return array

        return wait

    def _registered(self, crops: NDArray[np.uint8]) -> bool:
        """Return whether the device reads this array's memory itself, registering it where that is possible.

        Batches are collected in the same few arrays again and again; one that is made for each batch is not registered,
        which costs more than a copy.
        """
        import torch

        whole: Any = crops
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        place = whole.ctypes.data
        if place in self._memory:
            return True
        if not crops.flags.c_contiguous or len(self._memory) >= _MOST_REGISTERED:
            return False
        cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(cudart.cudaHostRegister(place, whole.nbytes, 0)) != 0:
            return False
        self._memory[place] = whole  # alive as long as it is registered
        return True

    def __del__(self) -> None:
        """Let go of registered memory."""
        if getattr(self, "_memory", None):
            import torch

            cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            for place in self._memory:
                cudart.cudaHostUnregister(place)

    def _pinned(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the buffer whose turn it is, free again and as large as needed."""
        import torch

        self._copied[self._turn].synchronize()
        buffer = self._buffers[self._turn]
        if buffer is None or buffer.shape[1:] != shape[1:] or len(buffer) < shape[0]:
            buffer = self._buffers[self._turn] = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        return buffer[: shape[0]]
