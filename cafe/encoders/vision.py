"""Models of images alone (DINOv2, DINOv3, AIMv2, timm's): image features, no text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from cafe.compute import choose_device, choose_encoding_dtype, heaviest_products
from cafe.encoders.base import KnownModel
from cafe.encoders.examples import save_tiny_dinov2
from cafe.encoders.text_towers.base import TextTower
from cafe.encoders.towers.checkpoints import is_image_tower_alone, load_processor, quiet, revision_of
from cafe.encoders.towers.processors import ProcessorCropper, WholeCropper, floats_of, image_cropper
from cafe.encoders.towers.refusals import check_sides, trying, why_refused
from cafe.encoders.towers.torch_encoder import TorchEncoder
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


class VisionEncoder(TorchEncoder):
    """A model of images alone, from a local folder or the hub: facebook/dinov2-base, ./my-dino, timm/NAME.

    Notes
    -----
    An image's feature is the class token after the last norm where the model reads its output there (DINOv2, DINOv3,
    ViT), else what the model itself calls its pooled output (AIMv2's and SigLIP's attention, the average of ConvNeXt),
    else the mean of the tokens. Which it is stands as ``pooling`` in the identity, and so in every cache.
    """

    known_models: ClassVar[Mapping[str, KnownModel]] = {
        "facebook/dinov2-small": KnownModel(
            "DINOv2",
            "DINOv2 ViT-S/14, images alone",
            "fine distinctions among photographs, quick",
            22.1,
            384,
            224,
            "Apache-2.0",
        ),
        "facebook/dinov2-base": KnownModel(
            "DINOv2",
            "DINOv2 ViT-B/14, images alone",
            "fine distinctions among photographs",
            86.6,
            768,
            224,
            "Apache-2.0",
        ),
        "facebook/dinov2-large": KnownModel(
            "DINOv2",
            "DINOv2 ViT-L/14, images alone",
            "fine distinctions among photographs",
            304.4,
            1024,
            224,
            "Apache-2.0",
        ),
        "facebook/dinov3-vits16-pretrain-lvd1689m": KnownModel(
            "DINOv3",
            "DINOv3 ViT-S/16, images alone",
            "fine distinctions among photographs, quick",
            21.6,
            384,
            224,
            "DINOv3 licence, on request",
        ),
        "facebook/dinov3-vitb16-pretrain-lvd1689m": KnownModel(
            "DINOv3",
            "DINOv3 ViT-B/16, images alone",
            "fine distinctions among photographs",
            85.7,
            768,
            224,
            "DINOv3 licence, on request",
        ),
        "facebook/dinov3-vitl16-pretrain-lvd1689m": KnownModel(
            "DINOv3",
            "DINOv3 ViT-L/16, images alone",
            "fine distinctions among photographs",
            303.1,
            1024,
            224,
            "DINOv3 licence, on request",
        ),
        "timm/aimv2_large_patch14_224.apple_pt": KnownModel(
            "AIMv2",
            "AIMv2 ViT-L/14, images alone, by timm",
            "photographs in general",
            None,
            1024,
            224,
            "Apple sample code (ASCL)",
        ),
    }

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
    def open(cls, source: str, device: str, dtype: str, model_id: str | None = None) -> VisionEncoder:
        """Load a checkpoint.

        Parameters
        ----------
        source : str
            A folder in the hub's layout, or a hub id.
        device, dtype : str
            As for :func:`cafe.encoders.open_encoder`.
        model_id : str or None
            What the encoder calls itself; None takes ``source``.

        Returns
        -------
        VisionEncoder

        Raises
        ------
        InputError
            If it is not there, is no model of images alone, or the device or dtype cannot be had.
        """
        chosen = choose_device(device)
        checkpoint = load_image_checkpoint(source)
        with trying(source):
            products = heaviest_products(own.shape for own in checkpoint.model.parameters())
            return cls(model_id or source, checkpoint, chosen, choose_encoding_dtype(dtype, chosen, products))

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

        from cafe.encoders.towers.processors import probe_picture

        crops = self.cropper(probe_picture())[None]
        with torch.inference_mode():
            pixels = self._pixels(crops)
            output = self._model(pixel_values=pixels)
            self.pooling = _pooling(checkpoint.model, output)
            # Of a head for one vector, which features do not come from, weights may be missing.
            unused = () if self.pooling == "pooler_output" else (_POOLER,)
            missing = sorted(name for name in checkpoint.missing if not name.startswith(unused))
            if missing:
                raise InputError(f"{self.id} lacks {len(missing)} of the model's weights, such as {missing[0]!r}")
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

        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "pillow": PIL.__version__}
        specification = self.cropper.specification()
        if specification["backend"] != "pil":
            import torchvision

            versions["torchvision"] = torchvision.__version__
        architecture = {name: getattr(self._config, name, None) for name in _ARCHITECTURE}
        return {
            "image": {
                "weights_sha256": self._image_sha256,
                "architecture": {
                    **{name: value for name, value in architecture.items() if value is not None},
                    "pooling": self.pooling,
                },
                "preprocessing": specification,
                "dtype": self.dtype,
            },
            "text": None,
            "recorded": {
                "id": self.id,
                "revision": self._revision,
                "library": "transformers",
                "versions": versions,
                "device": self.device,
            },
        }


def _pooling(model: Any, output: Any) -> str:
    """Say where the feature of an image stands: ``"cls"``, ``"pooler_output"`` or ``"mean"``."""
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
    from transformers import AutoModel

    if not is_image_tower_alone(source):
        raise InputError(f"{source} is no model of images alone; give it without the leading {ENCODER}:")
    with quiet():
        revision = revision_of(source)
        # All files come from the one commit that the configuration came from.
        pin = {} if revision is None else {"revision": revision}
        processor = load_processor(source, pin, other_backends=True)
        if hasattr(processor, "data_config"):
            check_sides(source, "input_size", tuple(processor.data_config["input_size"][1:]))
        try:
            model, info = AutoModel.from_pretrained(
                source, dtype="auto", output_loading_info=True, trust_remote_code=False, **pin
            )
        except Exception as error:
            raise InputError(f"the weights of {source} cannot be loaded: {why_refused(error)}") from error
    return ImageCheckpoint(model.eval().requires_grad_(False), processor, frozenset(info["missing_keys"]), revision)
