"""The encoder of CLIP kinds that needs their files alone.

A few images on a CPU are encoded in NumPy, batches in torch; nothing is imported before it is needed. What else there
is to a checkpoint, such as a live text tower or SigLIP's tokenizer, is left to the library, which is opened then.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.compute import choose_device, choose_encoding_dtype
from cafe.encoders.base import Encoder
from cafe.encoders.standalone.checkpoint import Checkpoint, architecture, read_checkpoint, text_shape, text_tensors
from cafe.encoders.standalone.cropper import CheckpointCropper, read_cropper
from cafe.encoders.standalone.numpy_tower import NumpyImageTower
from cafe.encoders.standalone.tokens import ClipTokenizer
from cafe.encoders.text_towers.base import TextTower
from cafe.encoders.towers.torch_encoder import (
    BATCH_SIZE,
    SMALL_TOWER_BATCH_SIZE,
    SMALL_TOWER_NUMBERS,
    TorchEncoder,
    check_crops,
)
from cafe.errors import CafeError

if TYPE_CHECKING:
    import torch

    from cafe.encoders.standalone.torch_tower import TorchImageTower, TorchTextTower

# Images up to which NumPy is sooner done than torch is imported: 1.5 s are 18 images of a ViT-B/32 at 12 a second.
FEW = 8


class _Towers:
    """What is loaded once it is needed, and shared by copies of an encoder; batches come from several threads."""

    def __init__(
        self, checkpoint: Checkpoint, cropper: CheckpointCropper, device: str, dtype: str, model_id: str
    ) -> None:
        self._checkpoint, self._cropper, self._device, self._dtype = checkpoint, cropper, device, dtype
        self._model_id, self._lock = model_id, threading.RLock()

    def __reduce__(self) -> Any:
        """Travel to another process with the weights, and load there what is needed there."""
        return _Towers, (self._checkpoint, self._cropper, self._device, self._dtype, self._model_id)

    @cached_property
    def few(self) -> NumpyImageTower:
        return NumpyImageTower(self._checkpoint)

    @property
    def image(self) -> TorchImageTower:
        with self._lock:
            return self._image

    @cached_property
    def _image(self) -> TorchImageTower:
        from cafe.encoders.standalone.torch_tower import TorchImageTower

        return TorchImageTower(self._checkpoint, self._device, self._dtype)

    @property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        with self._lock:
            return self._normalisation

    @cached_property
    def _normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        _, mean, std = self._cropper.rescale_and_normalise()
        first, second = (
            torch.tensor(v, dtype=torch.float32, device=self._device).view(1, 3, 1, 1) for v in (mean, std)
        )
        return first, second

    @cached_property
    def tokenizer(self) -> ClipTokenizer | None:
        """CLIP's tokenizer; None where the library serves the text side."""
        settings = self._checkpoint.text_settings
        if settings is None:
            return None
        try:
            shape = text_shape(settings)
            shapes = self._checkpoint.weights.shapes
            expected = dict(text_tensors(shape, settings["vocab_size"], self._checkpoint.dim))
            names = {name for name in shapes if name.startswith("text_") and not name.endswith("position_ids")}
            if names != set(expected) or any(shapes[name] != expected[name] for name in names):
                return None
            tokenizer = ClipTokenizer(self._checkpoint.folder, shape.tokens)
        except (CafeError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        fits = tokenizer.size <= settings["vocab_size"] and settings["eos_token_id"] in (2, tokenizer.end)
        return tokenizer if fits else None

    @cached_property
    def text(self) -> TorchTextTower:
        from cafe.encoders.standalone.torch_tower import TorchTextTower

        settings = self._checkpoint.text_settings
        assert settings is not None, "only where there is a tokenizer"
        return TorchTextTower(
            self._checkpoint, text_shape(settings), settings["eos_token_id"], self._device, self._dtype
        )

    @property
    def library(self) -> Any:
        """The same checkpoint as transformers loads it."""
        with self._lock:
            return self._library

    @cached_property
    def _library(self) -> Any:
        from cafe.encoders.transformers import TransformersCLIP

        return TransformersCLIP.open(str(self._checkpoint.folder), self._device, self._dtype, self._model_id)


class StandaloneCLIP(TorchEncoder):
    """A CLIP or SigLIP from its files alone; its features and its identity are those of the library's.

    Parameters
    ----------
    model_id : str
        What the encoder calls itself.
    checkpoint : Checkpoint
        Its files.
    cropper : CheckpointCropper
        Its preprocessing.
    device, dtype : str
        Where and in what its towers run.
    exact : bool, default=False
        Whether that dtype was asked for by name: a few images are encoded in float32 otherwise.
    """

    cropper: CheckpointCropper

    def __init__(
        self,
        model_id: str,
        checkpoint: Checkpoint,
        cropper: CheckpointCropper,
        device: str,
        dtype: str,
        *,
        exact: bool = False,
    ) -> None:
        self.id, self.device, self.dtype, self.cropper = model_id, device, dtype, cropper
        self.dim = checkpoint.dim
        is_small = checkpoint.vision.tokens * checkpoint.vision.width <= SMALL_TOWER_NUMBERS
        self.batch_size = (
            SMALL_TOWER_BATCH_SIZE if is_small and device == "cpu" else BATCH_SIZE[device.partition(":")[0]]
        )
        self.logit_scale, self.logit_bias = checkpoint.scale_and_bias()
        self._revision = checkpoint.revision
        self._checkpoint, self._exact = checkpoint, exact
        self._factor = cropper.factor
        self._towers = _Towers(checkpoint, cropper, device, dtype, model_id)

    # ------------------------------------------------------------------ images

    def encode_for_prediction(self, crops: NDArray[np.uint8], *, unprojected: bool = False) -> NDArray[np.float32]:
        """Encode pixels (n, height, width, 3) to features; a few of them on a CPU in NumPy. See the base class."""
        check_crops(crops)
        as_asked = self.dtype == "float32" or not self._exact
        side = self._checkpoint.vision.image_size
        if as_asked and self.device == "cpu" and 0 < len(crops) <= FEW and crops.shape[1:3] == (side, side):
            return self._towers.few(self.cropper.pixels(crops))[int(unprojected)]
        return super().encode_for_prediction(crops, unprojected=unprojected)

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._towers.image(pixels)[0]

    def _encode_unprojected(self, crops: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._towers.image(self._pixels(crops))

    def _normalised(self, chunk: torch.Tensor) -> torch.Tensor:
        self._mean, self._std = self._towers.normalisation
        return super()._normalised(chunk)

    def image_tower(self, *, unprojected: bool = False) -> torch.nn.Module:
        """Return the library's image tower, a module of named weights, which an exporter can follow; see the base."""
        tower: torch.nn.Module = self._towers.library.image_tower(unprojected=unprojected)
        return tower

    def projection(self) -> NDArray[np.float32] | None:
        """Return CLIP's projection (w, d), rounded as the tower has it; None for SigLIP."""
        if self._checkpoint.kind != "clip":
            return None
        stored = self._checkpoint.weights.array("visual_projection.weight").copy()  # (d, w)
        if self.dtype != "float32":
            import torch

            stored = torch.from_numpy(stored).to(getattr(torch, self.dtype)).float().numpy()
        return stored.T  # (w, d)

    # ------------------------------------------------------------------ text

    def _text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        import torch

        tokenizer = self._towers.tokenizer
        if tokenizer is None:
            features: torch.Tensor = self._towers.library._text_features(prompts)
            return features
        ids, is_token = (torch.from_numpy(array).to(self.device) for array in tokenizer(prompts))
        return self._towers.text(ids, is_token)

    def text_tower(self) -> TextTower:
        """Return the live text tower, which the library loads."""
        tower: TextTower = self._towers.library.text_tower()
        return tower

    # ------------------------------------------------------------------ identity

    def identity(self) -> dict[str, Any]:
        """Return what changes a feature (``image``, ``text``) and what is only recorded; all of it JSON."""
        libraries = ("torch", "tokenizers", "pillow")
        return {
            "image": self.image_identity(),
            "text": self._text_identity(),
            "recorded": {
                "id": self.id,
                "revision": self._revision,
                "library": "cafe",
                "versions": {name: _version(name) for name in libraries},
                "device": self.device,
            },
        }

    def image_identity(self) -> dict[str, Any]:
        """Return the part that changes an image's feature."""
        return {
            "weights_sha256": self._checkpoint.image_sha256,
            "architecture": dict(self._checkpoint.vision_architecture),
            "preprocessing": self.cropper.specification(),
            "dtype": self.dtype,
        }

    def _text_identity(self) -> dict[str, Any]:
        tokenizer, settings = self._towers.tokenizer, self._checkpoint.text_settings
        if tokenizer is None or settings is None:
            identity: dict[str, Any] = self._towers.library.identity()["text"]
            return identity
        return {
            "weights_sha256": self._checkpoint.text_sha256,
            "architecture": architecture(settings),
            "tokenizer_sha256": tokenizer.sha256(),
            "dtype": self.dtype,
        }


def open_standalone(
    source: str, device: str, dtype: str, model_id: str, *, preferred_dtype: str | None = None
) -> Encoder | None:
    """Open a model from its files alone.

    Parameters
    ----------
    source : str
        A folder in the hub's layout, or a hub id, which is looked for in the local hub cache.
    device, dtype, preferred_dtype : str
        As for :func:`cafe.encoders.open_encoder`.
    model_id : str
        What the encoder calls itself.

    Returns
    -------
    StandaloneCLIP or None
        None where it is another kind of model, or anything is not as expected: the library is asked then.
    """
    checkpoint = read_checkpoint(source)
    if checkpoint is None:
        return None
    try:
        cropper = read_cropper(checkpoint.processor)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    side = checkpoint.vision.image_size
    if cropper.crop_shape != (side, side):
        return None  # images of another size than the tower takes
    chosen = choose_device(device)
    products = checkpoint.vision.width, checkpoint.vision.mlp_width
    taken = choose_encoding_dtype(dtype, chosen, products, preferred=preferred_dtype)
    return StandaloneCLIP(model_id, checkpoint, cropper, chosen, taken, exact=dtype != "auto")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
