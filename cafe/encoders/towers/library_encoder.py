"""What encoders have in common whose checkpoint another library loads: how they are opened and identified."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, Protocol, Self

from cafe.compute import choose_device, choose_encoding_dtype, heaviest_products
from cafe.encoders.base import Cropper
from cafe.encoders.towers.refusals import check_scale, trying
from cafe.encoders.towers.torch_encoder import TorchEncoder


class LibraryCropper(Cropper, Protocol):
    """A cropper that can say what it does."""

    def rescale_and_normalise(self) -> tuple[float, list[float], list[float]]:
        """Return (factor, mean, std): a feature sees ``(pixels * factor - mean) / std``, per channel."""

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a pixel, as JSON."""


class LibraryEncoder(TorchEncoder):
    """A frozen encoder as another library loads it.

    Parameters
    ----------
    model_id : str
        What the encoder calls itself.
    checkpoint : object
        What :meth:`_load` returned.
    device, dtype : str
        Where and in what its towers run.
    """

    cropper: LibraryCropper
    _revision: str | None  # commit of the hub's repository; None for a folder
    _image_sha256: str

    @abstractmethod
    def __init__(self, model_id: str, checkpoint: Any, device: str, dtype: str) -> None:
        """Take a loaded checkpoint and move it to the device, in that dtype."""

    @classmethod
    @abstractmethod
    def _load(cls, source: str) -> Any:
        """Load a checkpoint onto the CPU. Raises InputError and MissingDependencyError."""

    @classmethod
    @abstractmethod
    def _image_shapes(cls, checkpoint: Any) -> Iterable[tuple[int, ...]]:
        """Return the shapes of the image tower's weights, by which ``dtype="auto"`` is measured."""

    @classmethod
    def open(cls, source: str, device: str, dtype: str, model_id: str | None = None) -> Self:
        """Load a checkpoint; see the base class, and the class itself for what ``source`` may be."""
        chosen = choose_device(device)
        checkpoint = cls._load(source)
        with trying(source):
            dtype = choose_encoding_dtype(dtype, chosen, heaviest_products(cls._image_shapes(checkpoint)))
            encoder = cls(model_id or cls._id_of(source), checkpoint, chosen, dtype)
        check_scale(source, encoder.logit_scale, encoder.logit_bias)
        return encoder

    @classmethod
    def _id_of(cls, source: str) -> str:
        """Return what a user gives to open a source of this library."""
        return source

    def _image_part(self, architecture: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part ``image`` of :meth:`identity`."""
        return {
            "weights_sha256": self._image_sha256,
            "architecture": dict(architecture),
            "preprocessing": self.cropper.specification(),
            "dtype": self.dtype,
        }

    def _recorded_part(self, library: str, modules: Mapping[str, ModuleType]) -> dict[str, Any]:
        """Return the part ``recorded`` of :meth:`identity`; ``modules`` are those whose versions are recorded."""
        return {
            "id": self.id,
            "revision": self._revision,
            "library": library,
            "versions": {name: str(module.__version__) for name, module in modules.items()},
            "device": self.device,
        }
