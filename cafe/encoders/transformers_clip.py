"""CLIP and its relatives (SigLIP, ...) as transformers loads them: a local folder or a hub id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.compute import choose_device, choose_encoding_dtype
from cafe.encoders.checkpoint import Checkpoint, load_checkpoint
from cafe.encoders.cropper import ProcessorCropper
from cafe.encoders.naflex import PatchCropper, inputs
from cafe.encoders.text_tower import TextTower
from cafe.encoders.towers import PROBES, TorchEncoder, to_numpy
from cafe.encoders.transformers_kinds import context_length, probe_picture, scale_and_bias
from cafe.encoders.transformers_text import TransformersTextTower, pooled, tokenize
from cafe.encoders.weights import tower_hashes
from cafe.errors import InputError

if TYPE_CHECKING:
    import torch

ENCODER = "transformers"

# What a tower computes with, beside its weights; a change of any of these changes features.
_ARCHITECTURE = (
    "model_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "image_size",
    "max_position_embeddings", "eos_token_id", "pad_token_id",
)  # fmt: skip


class TransformersCLIP(TorchEncoder):
    """A CLIP of the transformers library, from a local folder or the hub.

    Notes
    -----
    ``dtype="auto"`` is float32 on the CPU. bfloat16 would pay there only on processors with bfloat16
    matrix units, and is there for the asking.
    """

    def __init__(self, model_id: str, checkpoint: Checkpoint, device: str, dtype: str) -> None:
        """Take a loaded checkpoint and move it to the device, in that dtype; see :meth:`open`."""
        self.id = model_id
        self.device, self.dtype = device, dtype
        self._in_patches = hasattr(checkpoint.processor, "max_num_patches")
        self.cropper: ProcessorCropper = (PatchCropper if self._in_patches else ProcessorCropper)(checkpoint.processor)
        self._revision = checkpoint.revision
        self._tokenizer = checkpoint.tokenizer
        self._image_sha256, self._text_sha256 = tower_hashes(checkpoint.model.state_dict())
        self._place(checkpoint.model, self.cropper.rescale_and_normalise())
        self._config = checkpoint.model.config
        self._max_tokens = min(context_length(self._config.text_config), int(checkpoint.tokenizer.model_max_length))
        self.logit_scale, self.logit_bias = scale_and_bias(self._model)
        self.dim = self._checked_width()

    @classmethod
    def open(cls, source: str, device: str, dtype: str, model_id: str | None = None) -> TransformersCLIP:
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
        TransformersCLIP

        Raises
        ------
        InputError
            If it is not there or not a CLIP, or the device or dtype cannot be had.
        """
        chosen = choose_device(device)
        return cls(model_id or source, load_checkpoint(source), chosen, choose_encoding_dtype(dtype, chosen))

    def _encode_crops(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        if self._in_patches:
            given = inputs(crops, self._factor, self._mean, self._std, self._model.dtype)
            return pooled(self._model.get_image_features(**given))
        return super()._encode_crops(crops)

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pooled(self._model.get_image_features(pixel_values=pixels))

    def projection(self) -> NDArray[np.float32] | None:
        """Return ``visual_projection`` as (w, d); None where it is missing, has a bias, or is more than one layer."""
        import torch

        layer = getattr(self._model, "visual_projection", None)
        if not isinstance(layer, torch.nn.Linear) or layer.bias is not None:
            return None
        return to_numpy(layer.weight.detach().T)

    def _encode_unprojected(self, crops: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        taken: list[torch.Tensor] = []
        hook = self._model.visual_projection.register_forward_pre_hook(lambda module, given: taken.append(given[0]))
        try:
            return self._encode_crops(crops), taken[0]
        finally:
            hook.remove()

    def _checked_width(self) -> int:
        """Compare one picture with the image processor's own pixels, and the widths of both towers."""
        import torch

        picture = probe_picture()
        own = self.cropper.processor(images=[picture], return_tensors="np")["pixel_values"]
        crops = self.cropper(picture)[None]
        with torch.inference_mode():
            given = inputs(crops, self._factor, self._mean, self._std, torch.float32) if self._in_patches else {}
            pixels = given["pixel_values"].cpu().numpy() if given else self._pixels(crops).float().cpu().numpy()
            image, text = self._encode_crops(crops), self._text_features(["a photo."])
        # Both are one picture in float32, or rounded to the model's dtype.
        tolerance = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}[self.dtype]
        if pixels.shape != own.shape or np.abs(pixels - own).max() > tolerance * max(1.0, np.abs(own).max()):
            raise InputError(
                f"the image processor of {self.id} ({type(self.cropper.processor).__name__}) does more than resize, "
                f"crop, rescale and normalise, in this order; it cannot be used here"
            )
        if image.ndim != 2 or image.shape[1:] != text.shape[1:]:
            raise InputError(
                f"{self.id} gives image features of shape {tuple(image.shape[1:])} and text features of shape "
                f"{tuple(text.shape[1:])}; one vector each of the same width is needed"
            )
        return int(image.shape[1])

    def _text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        return pooled(self._model.get_text_features(**self._tokenize(prompts)))

    def _tokenize(self, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        tokens = tokenize(self._tokenizer, str(self._config.model_type), self._max_tokens, prompts)
        return {name: value.to(self.device) for name, value in tokens.items()}

    def text_tower(self) -> TextTower:
        """Return the live text tower; it shares this encoder's weights."""
        return TransformersTextTower(self.id, self._model, self._text_sha256, self._tokenizer, self._max_tokens)

    def identity(self) -> dict[str, Any]:
        """Return what changes a feature (``image``, ``text``) and what is only recorded; all of it JSON."""
        import PIL
        import tokenizers
        import torch
        import transformers

        return {
            "image": {
                "weights_sha256": self._image_sha256,
                "architecture": _architecture(self._config.vision_config),
                "preprocessing": self.cropper.specification(),
                "dtype": self.dtype,
            },
            "text": {
                "weights_sha256": self._text_sha256,
                "architecture": _architecture(self._config.text_config),
                "tokenizer_sha256": self._tokenizer_sha256(),
                "dtype": self.dtype,
            },
            "recorded": {
                "id": self.id,
                "revision": self._revision,
                "library": ENCODER,
                "versions": {
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "tokenizers": tokenizers.__version__,
                    "pillow": PIL.__version__,
                },
                "device": self.device,
            },
        }

    def _tokenizer_sha256(self) -> str:
        # The saved form of a tokenizer changes with the library; what it does to text does not.
        probes = [self._tokenizer(text, truncation=True, max_length=self._max_tokens)["input_ids"] for text in PROBES]
        content = [sorted(self._tokenizer.get_vocab().items()), probes, self._max_tokens, self._tokenizer.pad_token_id]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _architecture(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _ARCHITECTURE if getattr(config, name, None) is not None}
