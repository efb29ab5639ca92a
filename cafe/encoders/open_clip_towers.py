"""CLIPs of open_clip: the paper's own ResNets, LAION's models, SigLIP, and any folder that open_clip saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.compute import choose_device, choose_encoding_dtype
from cafe.encoders.open_clip_cropper import OpenCLIPCropper
from cafe.encoders.open_clip_loading import OpenCLIPCheckpoint, load_open_clip
from cafe.encoders.open_clip_text import OpenCLIPTextTower
from cafe.encoders.text_tower import TextTower
from cafe.encoders.towers import PROBES, TorchEncoder, to_numpy
from cafe.encoders.weights import tower_hashes

if TYPE_CHECKING:
    import torch

ENCODER = "open_clip"


class OpenCLIP(TorchEncoder):
    """A CLIP of open_clip: open_clip:RN50/openai, open_clip:hf-hub:owner/name, open_clip:local-dir:PATH.

    Notes
    -----
    Preprocessing, tokenizer and activation (QuickGELU or not) are those that belong to the weights: of the tag, or of
    ``open_clip_config.json``.
    """

    def __init__(self, model_id: str, checkpoint: OpenCLIPCheckpoint, device: str, dtype: str) -> None:
        """Take a loaded checkpoint and move it to the device, in that dtype; see :meth:`open`."""
        self.id = model_id
        self.device, self.dtype = device, dtype
        model = checkpoint.model
        self.cropper: OpenCLIPCropper = OpenCLIPCropper(model.visual.preprocess_cfg)
        self._revision = checkpoint.revision
        self._tokenizer = checkpoint.tokenizer
        self._model_config = checkpoint.config
        self._image_sha256, self._text_sha256 = tower_hashes(_sided(model.state_dict()))
        self._place(model, self.cropper.rescale_and_normalise())
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = 0.0 if bias is None else float(bias.detach().float())
        self.dim = self.encode_text(["a photo."]).shape[1]

    @classmethod
    def open(cls, source: str, device: str, dtype: str, model_id: str | None = None) -> OpenCLIP:
        """Load a checkpoint.

        Parameters
        ----------
        source : str
            See :func:`cafe.encoders.open_clip_loading.load_open_clip`.
        device, dtype : str
            As for :func:`cafe.encoders.open_encoder`.
        model_id : str or None
            What the encoder calls itself; None takes ``source``.

        Returns
        -------
        OpenCLIP

        Raises
        ------
        InputError
            If it is not there, or the device or dtype cannot be had.
        MissingDependencyError
            If open_clip is not installed.
        """
        chosen = choose_device(device)
        return cls(
            model_id or f"{ENCODER}:{source}", load_open_clip(source), chosen, choose_encoding_dtype(dtype, chosen)
        )

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._model.encode_image(pixels)
        return features

    def projection(self) -> NDArray[np.float32] | None:
        """Return the vision transformer's ``proj`` (w, d); None for ResNets and towers of timm."""
        import torch

        matrix = getattr(self._model.visual, "proj", None)
        return to_numpy(matrix.detach()) if isinstance(matrix, torch.Tensor) else None

    def _encode_unprojected(self, crops: NDArray[np.uint8]) -> tuple[torch.Tensor, torch.Tensor]:
        visual = self._model.visual
        matrix, visual.proj = visual.proj, None  # the tower then ends before it
        try:
            before = self._encode_crops(crops)
        finally:
            visual.proj = matrix
        return before @ matrix, before

    def _text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        features: torch.Tensor = self._model.encode_text(self._tokenizer(list(prompts)).to(self.device))
        return features

    def text_tower(self) -> TextTower:
        """Return the live text tower; it shares this encoder's weights.

        Raises
        ------
        InputError
            If the text side is not a causal transformer of open_clip's own that pools at the end token.
        """
        return OpenCLIPTextTower(self.id, self._model, self._text_sha256, self._tokenizer)

    def identity(self) -> dict[str, Any]:
        """Return what changes a feature (``image``, ``text``) and what is only recorded; all of it JSON."""
        import open_clip
        import PIL
        import torch
        import torchvision

        shared = {key: self._model_config.get(key) for key in ("embed_dim", "quick_gelu")}
        return {
            "image": {
                "weights_sha256": self._image_sha256,
                "architecture": {**shared, **self._model_config["vision_cfg"]},
                "preprocessing": self.cropper.specification(),
                "dtype": self.dtype,
            },
            "text": {
                "weights_sha256": self._text_sha256,
                "architecture": {**shared, **self._model_config["text_cfg"]},
                "tokenizer_sha256": self._tokenizer_sha256(),
                "dtype": self.dtype,
            },
            "recorded": {
                "id": self.id,
                "revision": self._revision,
                "library": ENCODER,
                "versions": {
                    "torch": torch.__version__,
                    "open_clip": open_clip.__version__,
                    "torchvision": torchvision.__version__,
                    "pillow": PIL.__version__,
                },
                "device": self.device,
            },
        }

    def _tokenizer_sha256(self) -> str:
        # What it does to text: open_clip's tokenizers have no common way to tell their vocabulary.
        tokens = self._tokenizer([*PROBES, *map(chr, range(33, 0x250))])
        return hashlib.sha256(json.dumps(tokens.tolist()).encode()).hexdigest()


def _sided(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mark every tensor with its side: open_clip's text tensors have no prefix of their own in older models."""
    return {
        name
        if name in ("logit_scale", "logit_bias")
        else f"{'vision' if name.startswith('visual.') else 'text'}_{name}": tensor
        for name, tensor in state.items()
    }
