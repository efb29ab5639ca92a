"""CLIP and its relatives (SigLIP, ...) as transformers loads them: a local folder or a hub id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cafe.encoders.base import KnownModel, read_known_models
from cafe.encoders.examples import save_tiny_clip
from cafe.encoders.standalone.checkpoint import ARCHITECTURE
from cafe.encoders.text_towers.base import TextTower
from cafe.encoders.text_towers.lower_case import is_siglip_2, lower_case
from cafe.encoders.text_towers.transformers import TransformersTextTower, pooled, tokenize
from cafe.encoders.towers.checkpoints import (
    check_complete,
    has_file,
    load_config,
    load_model,
    load_processor,
    pin_of,
    quiet,
    settings_of,
)
from cafe.encoders.towers.library_encoder import LibraryEncoder
from cafe.encoders.towers.processors import PatchCropper, ProcessorCropper, inputs, probe_picture
from cafe.encoders.towers.refusals import check_widths, why_refused
from cafe.encoders.towers.torch_encoder import PROBES, to_numpy
from cafe.encoders.towers.weights import tower_hashes
from cafe.errors import InputError

if TYPE_CHECKING:
    import torch

ENCODER = "transformers"

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
_NEEDED = ("get_image_features", "get_text_features")
_SCALES = ("logit_scale", "temperature")  # one of them
# Their positions begin after the padding token's own, so that many of the table's rows are never used.
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "altclip_text_model")


class TransformersCLIP(LibraryEncoder):
    """A CLIP of the transformers library, from a local folder or the hub."""

    known_models: ClassVar[Mapping[str, KnownModel]] = read_known_models(ENCODER)

    def __init__(self, model_id: str, checkpoint: TransformersCheckpoint, device: str, dtype: str) -> None:
        """Take a loaded checkpoint and move it to the device, in that dtype; see :meth:`open`."""
        self.id = model_id
        self.device, self.dtype = device, dtype
        self._in_patches = hasattr(checkpoint.processor, "max_num_patches")
        self.cropper: ProcessorCropper = (PatchCropper if self._in_patches else ProcessorCropper)(checkpoint.processor)
        self._revision = checkpoint.revision
        self._tokenizer, self._lower_case = checkpoint.tokenizer, checkpoint.lower_case
        self._image_sha256, self._text_sha256 = tower_hashes(checkpoint.model.state_dict())
        self._config = checkpoint.model.config
        # Before the cast: bfloat16 would make 98.9 of a scale of 100.
        self.logit_scale, self.logit_bias = scale_and_bias(checkpoint.model)
        self._place(checkpoint.model, self.cropper.rescale_and_normalise())
        self._max_tokens = min(context_length(self._config.text_config), int(checkpoint.tokenizer.model_max_length))
        self.dim = self._checked_width()

    @classmethod
    def _load(cls, source: str) -> TransformersCheckpoint:
        return load_checkpoint(source)

    @classmethod
    def _image_shapes(cls, checkpoint: TransformersCheckpoint) -> Iterable[tuple[int, ...]]:
        return (weights.shape for name, weights in checkpoint.model.state_dict().items() if name.startswith("vision_"))

    @classmethod
    def write_example(cls, folder: Path) -> str:
        """Write a tiny CLIP in the hub's layout; see the base class."""
        return str(save_tiny_clip(folder))

    def _encode_crops(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        if self._in_patches:
            given = inputs(crops, self._factor, self._mean, self._std, self._model.dtype)
            return pooled(self._model.get_image_features(**given))
        return super()._encode_crops(crops)

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pooled(self._model.get_image_features(pixel_values=pixels))

    @property
    def takes_views(self) -> bool:
        """Whether augmented views can be encoded; not where images come as patches (NaFlex)."""
        return not self._in_patches

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
        expected = self.cropper.processor(images=[picture], return_tensors="np")["pixel_values"]
        crops = self.cropper(picture)[None]
        with torch.inference_mode():
            given = inputs(crops, self._factor, self._mean, self._std, torch.float32) if self._in_patches else {}
            pixels = given["pixel_values"].cpu().numpy() if given else self._pixels(crops).float().cpu().numpy()
            image, text = self._encode_crops(crops), self._text_features(["a photo."])
        # Both are one picture in float32, or rounded to the model's dtype.
        tolerance = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}[self.dtype]
        most = tolerance * max(1.0, np.abs(expected).max())
        if pixels.shape != expected.shape or np.abs(pixels - expected).max() > most:
            raise InputError(
                f"the image processor of {self.id} ({type(self.cropper.processor).__name__}) does more than resize, "
                f"crop, rescale and normalise, in this order; it cannot be used here"
            )
        check_widths(self.id, image.shape, text.shape)
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
            "image": self._image_part(settings_of(self._config.vision_config, ARCHITECTURE)),
            "text": {
                "weights_sha256": self._text_sha256,
                "architecture": settings_of(self._config.text_config, ARCHITECTURE),
                "tokenizer_sha256": self._tokenizer_sha256(),
                **({"lower_case": True} if self._lower_case else {}),
                "dtype": self.dtype,
            },
            "recorded": self._recorded_part(
                ENCODER, {"torch": torch, "transformers": transformers, "tokenizers": tokenizers, "pillow": PIL}
            ),
        }

    def _tokenizer_sha256(self) -> str:
        # The saved form of a tokenizer changes with the library; what it does to text does not.
        probes = [self._tokenizer(text, truncation=True, max_length=self._max_tokens)["input_ids"] for text in PROBES]
        content = [sorted(self._tokenizer.get_vocab().items()), probes, self._max_tokens, self._tokenizer.pad_token_id]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def scale_and_bias(model: Any) -> tuple[float, float]:
    """Return what logits are multiplied with, and what is added to them.

    Returns
    -------
    scale : float
        ``exp(logit_scale)``, at most the model's own maximum where it has one (AIMv2); or ``1 / temperature`` (ALIGN).
    bias : float
        SigLIP's ``logit_bias``; 0 elsewhere.
    """
    if hasattr(model, "logit_scale"):
        logarithm = model.logit_scale.detach().double()
        if hasattr(model, "max_log_logit_scale"):
            logarithm = logarithm.clamp(max=float(model.max_log_logit_scale))
        scale = float(logarithm.exp())
    else:
        scale = 1.0 / float(model.temperature.detach().double())
    bias = getattr(model, "logit_bias", None)
    return scale, 0.0 if bias is None else float(bias.detach().double())


def context_length(text_config: Any) -> int:
    """Return how many tokens the text tower has positions for."""
    length = int(text_config.max_position_embeddings)
    if text_config.model_type in _POSITIONS_AFTER_PADDING:
        length -= int(text_config.pad_token_id) + 1
    return length


@dataclass(frozen=True)
class TransformersCheckpoint:
    """The parts of a checkpoint as transformers loads them.

    Attributes
    ----------
    model : torch.nn.Module
        In the dtype that it was saved in, on the CPU, in evaluation mode.
    tokenizer, processor : object
        Transformers' tokenizer and image processor.
    revision : str or None
        Commit of the hub's repository; None for a folder.
    lower_case : bool
        Whether prompts are lower-cased since the model was trained so (SigLIP 2), whatever type it says it is of.
    """

    model: Any
    tokenizer: Any
    processor: Any
    revision: str | None
    lower_case: bool = False


def load_checkpoint(source: str) -> TransformersCheckpoint:
    """Load model, tokenizer and image processor.

    Parameters
    ----------
    source : str
        A folder in the hub's layout, or a hub id. With ``HF_HUB_OFFLINE=1`` a hub id is only looked up
        in the local hub cache.

    Returns
    -------
    TransformersCheckpoint

    Raises
    ------
    InputError
        If it is not there, is not a CLIP, or lacks weights, tokenizer or image processor.
    """
    with quiet():
        config = load_config(source)
        pin = pin_of(source)
        model = _load_model(source, config, pin)
        tokenizer, processor = _load_tokenizer(source, pin), load_processor(source, pin)
        lower = is_siglip_2(source, str(config.model_type), pin)
        if lower:
            lower_case(source, tokenizer)
        checkpoint = TransformersCheckpoint(model, tokenizer, processor, pin.get("revision"), lower)
    _check_vocabulary(source, checkpoint)
    return checkpoint


def _load_model(source: str, config: Any, pin: dict[str, str]) -> Any:
    model, missing = load_model(source, pin)
    if not all(hasattr(model, name) for name in _NEEDED) or not any(hasattr(model, name) for name in _SCALES):
        raise InputError(
            f"{source} is not a CLIP: a model of type {config.model_type!r} has no image and text features"
        )
    check_complete(source, missing)
    return model


def _load_tokenizer(source: str, pin: dict[str, str]) -> Any:
    from transformers import AutoTokenizer

    # Without files the library makes up an empty tokenizer for some models.
    if not any(has_file(source, name, pin) for name in _TOKENIZER_FILES):
        raise InputError(f"{source} has no tokenizer; one of these files is needed: {', '.join(_TOKENIZER_FILES)}")
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **pin)
    except Exception as error:
        raise InputError(f"the tokenizer of {source} cannot be loaded: {why_refused(error)}") from error


def _check_vocabulary(source: str, checkpoint: TransformersCheckpoint) -> None:
    text = checkpoint.model.config.text_config
    tokenizer = checkpoint.tokenizer
    if len(tokenizer) > text.vocab_size:
        raise InputError(
            f"the tokenizer of {source} has {len(tokenizer)} tokens but its text tower knows {text.vocab_size}; "
            f"they do not belong together"
        )
    # CLIP's text feature is read at the end token (2 marks old checkpoints, where it is the highest token); were
    # it never found, every prompt would give the same feature.
    if text.model_type == "clip_text_model" and text.eos_token_id not in (2, tokenizer.eos_token_id):
        raise InputError(
            f"{source} ends prompts with token {tokenizer.eos_token_id} but its text tower reads token "
            f"{text.eos_token_id}; set eos_token_id of text_config in config.json"
        )
