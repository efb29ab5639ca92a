"""A CLIP's or SigLIP's own preprocessing with Pillow and NumPy: resize, crop in the middle, rescale, normalise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# What the library takes where a file says nothing (CLIPImageProcessorPil and SiglipImageProcessorPil, transformers 5).
_CLIP: dict[str, Any] = {
    "resample": 3, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_resize": True,
    "do_center_crop": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255,
}  # fmt: skip
_SIGLIP: dict[str, Any] = {
    **_CLIP, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}, "crop_size": None,
    "do_center_crop": False,
}  # fmt: skip
_DEFAULTS = {"CLIPImageProcessor": _CLIP, "SiglipImageProcessor": _SIGLIP}
_CHANGE_NO_PIXEL = {
    "do_convert_rgb", "image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys",
}  # fmt: skip
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # as Pillow numbers them
_MOST = 4096  # pixels of a side, as everywhere


@dataclass(frozen=True)
class PillowCropper:
    """Resizes and crops as transformers' image processor on Pillow does; picklable, and without the model.

    Attributes
    ----------
    processor : str
        The library's name for this preprocessing.
    resample : int
        Pillow's number of the filter.
    shortest_edge : int or None
        Length that the shorter side is brought to; None where ``size`` is given.
    size : (int, int) or None
        Height and width that images are brought to; None where neither, or only the shorter side, is given.
    crop_size : (int, int) or None
        Height and width that are cut from the middle; None for no cut.
    factor : float
        A feature sees ``(pixels * factor - mean) / std``.
    mean, std : tuple of float
        For each channel.
    flags : tuple of bool
        Whether to resize, crop, rescale and normalise.
    """

    processor: str
    resample: int
    shortest_edge: int | None
    size: tuple[int, int] | None
    crop_size: tuple[int, int] | None
    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flags: tuple[bool, bool, bool, bool]

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image: (height, width, 3), uint8."""
        do_resize, do_crop, _, _ = self.flags
        if do_resize:
            height, width = self._resized(image.height, image.width)
            image = image.resize((width, height), resample=self.resample)
        pixels: NDArray[np.uint8] = np.array(image)  # (height, width, 3)
        return _cut(pixels, *self.crop_size) if do_crop and self.crop_size is not None else pixels

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        assert self.shortest_edge is not None, "one of both is given"
        short, long = sorted((height, width))
        new_long = int(self.shortest_edge * long / short)
        return (new_long, self.shortest_edge) if width <= height else (self.shortest_edge, new_long)

    def rescale_and_normalise(self) -> tuple[float, list[float], list[float]]:
        """Return (factor, mean, std): a feature sees ``(pixels * factor - mean) / std``, per channel."""
        return self.factor, list(self.mean), list(self.std)

    def pixels(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Rescale and normalise crops (n, height, width, 3): (n, 3, height, width), float32."""
        floats = crops.transpose(0, 3, 1, 2).astype(np.float32)
        floats *= np.float32(self.factor)
        floats -= np.array(self.mean, dtype=np.float32)[:, None, None]
        floats /= np.array(self.std, dtype=np.float32)[:, None, None]
        return floats

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a pixel, as :class:`~cafe.encoders.towers.processors.ProcessorCropper`."""
        do_resize, do_crop, do_rescale, do_normalize = self.flags
        size = {"shortest_edge": self.shortest_edge} if self.size is None else _named(self.size)
        return {
            "processor": self.processor,
            "backend": "pil",
            "resample": _RESAMPLE[self.resample],
            "rescale_factor": self.factor,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_resize": do_resize,
            "do_center_crop": do_crop,
            "do_rescale": do_rescale,
            "do_normalize": do_normalize,
            "size": size,
            "crop_size": None if self.crop_size is None else _named(self.crop_size),
        }


def read_cropper(settings: Mapping[str, Any]) -> PillowCropper:
    """Make the cropper of a checkpoint's ``preprocessor_config.json``.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it has a setting that is not known here.
    """
    name = settings.get("image_processor_type", settings.get("feature_extractor_type", ""))
    name = str(name).removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    defaults = _DEFAULTS[name]
    if unknown := {key for key in settings.keys() - defaults.keys() - _CHANGE_NO_PIXEL if settings[key] is not None}:
        raise ValueError(f"settings {unknown}")
    chosen = {**defaults, **{key: settings[key] for key in defaults if settings.get(key) is not None}}
    flags = tuple(chosen[f"do_{step}"] for step in ("resize", "center_crop", "rescale", "normalize"))
    if not all(isinstance(flag, bool) for flag in flags) or chosen["resample"] not in range(len(_RESAMPLE)):
        raise ValueError("a flag that is no flag, or an unknown filter")
    size, crop_size = chosen["size"], chosen["crop_size"]
    if isinstance(size, int):
        size = {"shortest_edge": size} if name == "CLIPImageProcessor" else {"height": size, "width": size}
    if isinstance(crop_size, int):
        crop_size = {"height": crop_size, "width": crop_size}
    short = _side(size["shortest_edge"]) if size.keys() == {"shortest_edge"} else None
    factor = float(chosen["rescale_factor"]) if chosen["do_rescale"] else 1.0
    mean, std = (_three(chosen[f"image_{of}"]) for of in ("mean", "std"))
    if not chosen["do_normalize"]:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not math.isfinite(factor) or min(std) <= 0:
        raise ValueError("numbers that no pixel can be rescaled with")
    return PillowCropper(
        name, int(chosen["resample"]), short, None if short is not None else _pair(size),
        None if crop_size is None else _pair(crop_size), factor, mean, std, flags,
    )  # fmt: skip


def _pair(size: Mapping[str, Any]) -> tuple[int, int]:
    if size.keys() != {"height", "width"}:
        raise ValueError(f"a size of {sorted(size)}")
    return _side(size["height"]), _side(size["width"])


def _named(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _side(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ValueError(f"a side of {value!r} pixels")
    return value


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError("numbers that are not finite")
    return first, second, third


def _cut(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut (height, width, 3) from the middle; what lies outside of the image is black."""
    rows, columns = pixels.shape[:2]
    top, left = (rows - height) // 2, (columns - width) // 2
    if top >= 0 and left >= 0:
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])
    # As the library: the image is centred in what holds both, rounded the other way, and the cut moves with it.
    padded = np.zeros((max(height, rows), max(width, columns), 3), dtype=np.uint8)
    above, before = math.ceil((padded.shape[0] - rows) / 2), math.ceil((padded.shape[1] - columns) / 2)
    padded[above : above + rows, before : before + columns] = pixels
    top, left = max(0, top + above), max(0, left + before)
    return np.ascontiguousarray(padded[top : top + height, left : left + width])
