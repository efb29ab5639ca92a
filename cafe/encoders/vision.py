"""Models of images alone (DINOv2, DINOv3, AIMv2, timm's): image features, no text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from cafe.encoders.base import KnownModel, read_known_models
from cafe.encoders.examples import save_tiny_dinov2
from cafe.encoders.text_towers.base import TextTower
from cafe.encoders.towers.checkpoints import (
    check_complete,
    is_image_tower_alone,
    load_model,
    load_processor,
    pin_of,
    quiet,
    settings_of,
)
from cafe.encoders.towers.library_encoder import LibraryEncoder
from cafe.encoders.towers.processors import ProcessorCropper, WholeCropper, floats_of, image_cropper, probe_picture
from cafe.encoders.towers.refusals import check_sides
from cafe.encoders.towers.weights import tower_hashes
from cafe.errors import InputError

if TYPE_CHECKING:
    import torch

ENCODER = "vision"
# The scale of OpenAI's CLIP, which methods that start from class means are used with; there is none to learn here.
LOGIT_SCALE = 100.0
_POOLER = "pooler."
# What a tower computes with, beside its weights.
_ARCHITECTURE = (
    "model_type", "architecture", "model_args", "hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size",
    "image_size", "num_register_tokens", "rope_theta", "use_head", "use_swiglu_ffn", "use_gated_mlp",
)  # fmt: skip


class VisionEncoder(LibraryEncoder):
    """A model of images alone, from a local folder or the hub: facebook/dinov2-base, ./my-dino, timm/NAME.

    Notes
    -----
    An image's feature is the class token after the last norm where the model reads its output there (DINOv2, DINOv3,
    ViT), else what the model itself calls its pooled output (AIMv2's and SigLIP's attention, the average of ConvNeXt),
    else the mean of the tokens. The choice is recorded as ``pooling`` in the identity, and so in every cache.
    """

    known_models: ClassVar[Mapping[str, KnownModel]] = read_known_models(ENCODER)

    def __init__(self, model_id: str, checkpoint: ImageCheckpoint, device: str, dtype: str) -> None:
        """Take a loaded checkpoint and move it to the device, in that dtype; see :meth:`open`."""
        self.id = model_id
        self.device, self.dtype = device, dtype
        self.cropper: ProcessorCropper = image_cropper(model_id, checkpoint.processor)
        self._revision, self._config = checkpoint.revision, checkpoint.model.config
        self.logit_scale, self.logit_bias = LOGIT_SCALE, 0.0
        self._place(checkpoint.model, self.cropper.rescale_and_normalise())
        self.pooling, self.dim = self._read_probe(checkpoint)
        state = checkpoint.model.state_dict()
        self._image_sha256, _ = tower_hashes({k: v for k, v in state.items() if k not in checkpoint.missing})

    @property
    def has_text(self) -> bool:
        """False."""
        return False

    @property
    def takes_views(self) -> bool:
        """Whether augmented views, which are made of bytes, can be encoded."""
        return not isinstance(self.cropper, WholeCropper)

    @classmethod
    def _load(cls, source: str) -> ImageCheckpoint:
        return load_image_checkpoint(source)

    @classmethod
    def _image_shapes(cls, checkpoint: ImageCheckpoint) -> Iterable[tuple[int, ...]]:
        return (weights.shape for weights in checkpoint.model.parameters())

    @classmethod
    def write_example(cls, folder: Path) -> str:
        """Write a tiny DINOv2 in the hub's layout; see the base class."""
        return str(save_tiny_dinov2(folder))

    def _normalised(self, chunk: torch.Tensor) -> torch.Tensor:
        if isinstance(self.cropper, WholeCropper):
            chunk = floats_of(chunk)
        return super()._normalised(chunk)

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._pooled(self._model(pixel_values=pixels))

    def _pooled(self, output: Any) -> torch.Tensor:
        """Take one vector of each image out of what the model returns: (n, d)."""
        hidden: torch.Tensor = output.last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "mean":
            return hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)
        pooled: torch.Tensor = output.pooler_output.flatten(1)
        return pooled

    def _read_probe(self, checkpoint: ImageCheckpoint) -> tuple[str, int]:
        """Encode one picture twice: how features are pooled, and how wide they are.

        Raises
        ------
        InputError
            If the file lacks weights that features need, or the two differ.
        """
        import torch

        crops = self.cropper(probe_picture())[None]
        with torch.inference_mode():
            pixels = self._pixels(crops)
            output = self._model(pixel_values=pixels)
            self.pooling = _pooling(checkpoint.model, output)
            # Of a head for one vector, which features do not come from, weights may be missing.
            unused = () if self.pooling == "pooler_output" else (_POOLER,)
            check_complete(self.id, [name for name in checkpoint.missing if not name.startswith(unused)])
            features, again = self._pooled(output), self._image_features(pixels)
        if features.ndim != 2 or not torch.equal(features, again):
            raise InputError(
                f"{self.id} gives other features of one picture each time, as models that hide parts of it do; "
                f"it cannot be used here"
            )
        return self.pooling, int(features.shape[1])

    def _text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        self._refuse_text()

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Refuse; see the base class.

        Raises
        ------
        InputError
            Always: there is no text tower.
        """
        self._refuse_text()

    def text_tower(self) -> TextTower:
        """Refuse; see the base class.

        Raises
        ------
        InputError
            Always: there is none.
        """
        self._refuse_text()

    def _refuse_text(self) -> NoReturn:
        raise InputError(
            f"{self.id} is a model of images alone, without a text tower, so it cannot name what it has seen no image "
            f"of; fit it on labelled images (cafe fit FOLDER --model {self.id}), or take a CLIP here, such as cafe:mini"
        )

    def identity(self) -> dict[str, Any]:
        """Return what changes a feature (``image``; ``text`` is None) and what is only recorded; all of it JSON."""
        import PIL
        import torch
        import transformers

        libraries = {"torch": torch, "transformers": transformers, "pillow": PIL}
        if self.cropper.specification()["backend"] != "pil":
            import torchvision

            libraries["torchvision"] = torchvision
        return {
            "image": self._image_part({**settings_of(self._config, _ARCHITECTURE), "pooling": self.pooling}),
            "text": None,
            "recorded": self._recorded_part("transformers", libraries),
        }


def _pooling(model: Any, output: Any) -> str:
    """Say which output is the feature of an image: ``"cls"``, ``"pooler_output"`` or ``"mean"``."""
    import torch

    hidden, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
    # A dense layer with tanh behind the class token serves one task of pre-training, and is often not even saved.
    if pooled is not None and not hasattr(getattr(model, "pooler", None), "dense"):
        is_first = hidden.ndim == 3 and pooled.shape == hidden[:, 0].shape and torch.equal(pooled, hidden[:, 0])
        return "cls" if is_first else "pooler_output"
    has_class_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())
    return "cls" if hidden.ndim == 3 and has_class_token else "mean"


@dataclass(frozen=True)
class ImageCheckpoint:
    """The parts of a checkpoint of images alone as transformers loads them.

    Attributes
    ----------
    model : torch.nn.Module
        In the dtype that it was saved in, on the CPU, in evaluation mode.
    processor : object
        Transformers' image processor.
    missing : frozenset of str
        Weights that the file lacks, which are random numbers.
    revision : str or None
        Commit of the hub's repository; None for a folder.
    """

    model: Any
    processor: Any
    missing: frozenset[str]
    revision: str | None


def load_image_checkpoint(source: str) -> ImageCheckpoint:
    """Load model and image processor of a folder in the hub's layout, or a hub id.

    Raises
    ------
    InputError
        If it is not there, is no model of images alone, or lacks weights or an image processor.
    """
    if not is_image_tower_alone(source):
        raise InputError(f"{source} is no model of images alone; give it without the leading {ENCODER}:")
    with quiet():
        pin = pin_of(source)
        processor = load_processor(source, pin, other_backends=True)
        if hasattr(processor, "data_config"):
            check_sides(source, "input_size", tuple(processor.data_config["input_size"][1:]))
        model, missing = load_model(source, pin)
    return ImageCheckpoint(model, processor, missing, pin.get("revision"))
