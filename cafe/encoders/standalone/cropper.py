"""A CLIP's or SigLIP's own preprocessing with Pillow and NumPy: resize, crop in the middle, rescale, normalise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe.encoders.towers.pillow_cropper import PillowCropper

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


class CheckpointCropper(PillowCropper):
    """Resizes and crops as transformers' image processor on Pillow does, and rescales and normalises in NumPy.

    Parameters
    ----------
    specification : mapping
        As of :class:`~cafe.encoders.towers.pillow_cropper.PillowCropper`, with ``rescale_factor``, ``image_mean`` and
        ``image_std``: everything that changes a pixel.

    Attributes
    ----------
    factor : float
        A feature sees ``(pixels * factor - mean) / std``.
    mean, std : tuple of float
        For each channel.
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        super().__init__(specification)
        self.factor = float(specification["rescale_factor"])
        self.mean: tuple[float, ...] = tuple(specification["image_mean"])
        self.std: tuple[float, ...] = tuple(specification["image_std"])

    @property
    def crop_shape(self) -> tuple[int, int] | None:
        """Height and width of every crop; None where images come out in different sizes."""
        setting = self._specification
        size = setting["crop_size"] if setting["do_center_crop"] else setting["size"] if setting["do_resize"] else None
        return None if size is None or "shortest_edge" in size else (size["height"], size["width"])

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
        return dict(self._specification)


def read_cropper(settings: Mapping[str, Any]) -> CheckpointCropper:
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
    flags = {name: chosen[name] for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")}
    if not all(isinstance(flag, bool) for flag in flags.values()) or chosen["resample"] not in range(len(_RESAMPLE)):
        raise ValueError("a flag that is no flag, or an unknown filter")
    size, crop_size = chosen["size"], chosen["crop_size"]
    if isinstance(size, int):
        size = {"shortest_edge": size} if name == "CLIPImageProcessor" else {"height": size, "width": size}
    if isinstance(crop_size, int):
        crop_size = {"height": crop_size, "width": crop_size}
    factor = float(chosen["rescale_factor"]) if chosen["do_rescale"] else 1.0
    mean, std = (_three(chosen[f"image_{of}"]) for of in ("mean", "std"))
    if not chosen["do_normalize"]:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if not math.isfinite(factor) or min(std) <= 0:
        raise ValueError("numbers that no pixel can be rescaled with")
    shortest = size.keys() == {"shortest_edge"}
    return CheckpointCropper(
        {
            "processor": name,
            "backend": "pil",
            "resample": _RESAMPLE[int(chosen["resample"])],
            "rescale_factor": factor,
            "image_mean": list(mean),
            "image_std": list(std),
            **flags,
            "size": {"shortest_edge": _side(size["shortest_edge"])} if shortest else _pair(size),
            "crop_size": None if crop_size is None else _pair(crop_size),
        }
    )


def _pair(size: Mapping[str, Any]) -> dict[str, int]:
    if size.keys() != {"height", "width"}:
        raise ValueError(f"a size of {sorted(size)}")
    return {"height": _side(size["height"]), "width": _side(size["width"])}


def _side(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ValueError(f"a side of {value!r} pixels")
    return value


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError("numbers that are not finite")
    return first, second, third
