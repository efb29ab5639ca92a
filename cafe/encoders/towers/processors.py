"""A checkpoint's own preprocessing by transformers' image processors, cut where pixels are still bytes.

SigLIP 2's NaFlex keeps the aspect ratio of images, which come as a padded sequence of patches. Such a crop is bytes of
shape (patches + 1, patch pixels, 3), so that it travels and stacks like any other: one header row, that says how many
patches the image is high and wide, then the patches row by row, then padding.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cafe.errors import InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image

_FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_SIZES = ("size", "crop_size")
_MARK = 0xC5  # fills the rest of a header row, so that a row of pixels is not taken for a header


class ProcessorCropper:
    """Resizes and crops with a transformers image processor; picklable, and without the model.

    Rescaling and normalising are left to the device, so that workers hand over a quarter of the bytes.

    Attributes
    ----------
    processor : transformers image processor
        As loaded from the checkpoint, with its backend named.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image: (height, width, 3), uint8."""
        batch = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        pixels = np.asarray(batch["pixel_values"][0])  # (3, height, width)
        if pixels.dtype != np.uint8:
            raise TypeError(f"the image processor returned {pixels.dtype} pixels where bytes were expected")
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def rescale_and_normalise(self) -> tuple[float, list[float], list[float]]:
        """Return (factor, mean, std): a feature sees ``(pixels * factor - mean) / std``, per channel."""
        processor = self.processor
        factor = float(processor.rescale_factor) if processor.do_rescale else 1.0
        mean, std = [0.0] * 3, [1.0] * 3
        if processor.do_normalize:
            mean, std = _three(processor.image_mean), _three(processor.image_std)
        # EfficientNet's, which ALIGN uses: shifted by one on the way, and divided by std once more.
        if processor.do_rescale and getattr(processor, "rescale_offset", False):
            mean = [m + 1.0 for m in mean]
        if getattr(processor, "include_top", False):
            std = [s * t for s, t in zip(std, _three(processor.image_std), strict=True)]
        return factor, mean, std

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a pixel, as JSON; the same for every version of the library."""
        processor = self.processor
        factor, mean, std = self.rescale_and_normalise()
        spec: dict[str, Any] = {
            # The class is called ...Pil or ...Fast in some versions of the library; the backend says that.
            "processor": type(processor).__name__.removesuffix("Pil").removesuffix("Fast"),
            "backend": processor.backend,
            "resample": _resample_name(processor),
            "rescale_factor": factor,
            "image_mean": mean,
            "image_std": std,
        }
        for flag in _FLAGS:
            spec[flag] = bool(getattr(processor, flag, False))
        for name in _SIZES:
            size = getattr(processor, name, None)
            spec[name] = None if size is None else {key: int(value) for key, value in dict(size).items() if value}
        return spec


class WholeCropper(ProcessorCropper):
    """Runs a checkpoint's whole preprocessing, and hands its floats over as bytes; picklable, without the model.

    It is for processors that cannot be cut where pixels are still bytes: DINOv3's rescales before it resizes, timm's
    has transforms of its own. A crop (height, width, 3) of float32 travels as (height, 4 width, 3) of uint8.
    """

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Preprocess one RGB image: (height, 4 width, 3), uint8."""
        batch = self.processor(images=[image], return_tensors="pt")
        pixels = np.asarray(batch["pixel_values"][0], dtype=np.float32).transpose(1, 2, 0)  # (height, width, 3)
        return np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1, 3)  # (height, 4 width, 3)

    def rescale_and_normalise(self) -> tuple[float, list[float], list[float]]:
        """Return (factor, mean, std) that change nothing, since the processor has rescaled and normalised."""
        return 1.0, [0.0] * 3, [1.0] * 3

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a pixel, as JSON."""
        if hasattr(self.processor, "data_config"):  # timm's
            settings = {name: value for name, value in self.processor.data_config.items() if value is not None}
            steps = [type(step).__name__ for step in self.processor.val_transforms.transforms]
            return {"processor": "timm", "backend": "timm", "steps": steps, **json.loads(json.dumps(settings))}
        factor, mean, std = super().rescale_and_normalise()
        return {
            **super().specification(), "whole": True, "rescale_factor": factor, "image_mean": mean, "image_std": std,
        }  # fmt: skip


def floats_of(crops: torch.Tensor) -> torch.Tensor:
    """Turn crops (n, height, 4 width, 3) of :class:`WholeCropper` on a device back into (n, height, width, 3)."""
    import torch

    n, height, width = crops.shape[:3]
    return crops.contiguous().reshape(n, height, width // 4, 12).view(torch.float32)


def probe_picture() -> Image.Image:
    """Return a small picture of noise, the same every time; no processor treats it like another by accident."""
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (53, 37, 3), dtype=np.uint8))


def image_cropper(source: str, processor: Any) -> ProcessorCropper:
    """Choose how images are preprocessed for a model of images alone.

    Parameters
    ----------
    source : str
        The model, for messages.
    processor : transformers image processor
        Of any backend.

    Returns
    -------
    ProcessorCropper
        One that hands over bytes where these give the processor's own pixels, which is tried on a picture of noise;
        else a :class:`WholeCropper`.

    Raises
    ------
    InputError
        If the processor makes something else than pixels of one picture.
    """
    picture = probe_picture()
    own = processor(images=[picture], return_tensors="pt")
    pixels = np.asarray(own["pixel_values"], dtype=np.float64) if list(own) == ["pixel_values"] else np.empty(0)
    if pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
        raise InputError(
            f"the image processor of {source} ({type(processor).__name__}) makes {', '.join(own)} of one picture; "
            f"pixels of three channels are needed"
        )
    if getattr(processor, "backend", None) == "pil":
        cropper = ProcessorCropper(processor)
        try:
            factor, mean, std = cropper.rescale_and_normalise()
            from_bytes = (cropper(picture) * factor - np.array(mean)) / np.array(std)  # (height, width, 3)
        except (TypeError, ValueError, AttributeError):  # the processor lacks one of these steps
            return WholeCropper(processor)
        if from_bytes.shape == pixels.shape[2:] + (3,) and np.abs(from_bytes - pixels[0].transpose(1, 2, 0)).max() < (
            1e-5 * max(1.0, np.abs(pixels).max())
        ):
            return cropper
    return WholeCropper(processor)


def _resample_name(processor: Any) -> str:
    """Return the name of a processor's resampling filter in lower case, such as "bicubic"."""
    from PIL import Image

    return Image.Resampling(int(processor.resample)).name.lower()


def _three(value: Any) -> list[float]:
    """Return three floats, one for each channel, of a number or of a sequence of one or three numbers."""
    values = [float(v) for v in value] if np.ndim(value) else [float(value)] * 3
    return values * 3 if len(values) == 1 else values


class PatchCropper(ProcessorCropper):
    """Cuts images into patches with a NaFlex image processor; picklable, and without the model."""

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize one RGB image and cut it into patches: (patches + 1, patch pixels, 3), uint8."""
        batch = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np")
        patches = np.asarray(batch["pixel_values"][0])  # (patches, patch pixels * 3), channels last
        if patches.dtype != np.uint8:
            raise TypeError(f"the image processor returned {patches.dtype} pixels where bytes were expected")
        height, width = (int(n) for n in batch["spatial_shapes"][0])
        return np.concatenate([_header(height, width, patches.shape[1] // 3), patches.reshape(len(patches), -1, 3)])

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a pixel, as JSON."""
        sizes = {name: int(getattr(self.processor, name)) for name in ("patch_size", "max_num_patches")}
        return {**super().specification(), **sizes}


def spread(crops: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Take crops of a :class:`PatchCropper` apart into patches, their shapes and a mask.

    Parameters
    ----------
    crops : ndarray of shape (n, patches + 1, patch pixels, 3), uint8
        As :class:`PatchCropper` makes them.

    Returns
    -------
    patches : ndarray of shape (n, patches, patch pixels, 3), uint8
    shapes : ndarray of shape (n, 2), int64
        Patches in height and width.
    mask : ndarray of shape (n, patches), bool
        False where a patch is padding.

    Raises
    ------
    InputError
        If the crops are not those of a :class:`PatchCropper`.
    """
    shapes = np.array(
        [[int.from_bytes(row[0, :2].tobytes()), int.from_bytes(row[1, :2].tobytes())] for row in crops[:, 0]]
    )
    shapes = shapes.astype(np.int64).reshape(-1, 2)
    for row, (height, width) in zip(crops[:, 0], shapes.tolist(), strict=True):
        if not np.array_equal(row, _header(height, width, row.shape[0])[0]):
            raise InputError(
                "this model takes images cut into patches, by its own cropper; augmented views are not possible"
            )
    mask = np.arange(crops.shape[1] - 1) < shapes.prod(axis=1, keepdims=True)
    return crops[:, 1:], shapes, mask


def inputs(
    crops: NDArray[np.uint8], factor: float, mean: torch.Tensor, std: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Make the model's inputs on the device of ``mean``: rescaled and normalised patches, their mask and shapes."""
    import torch

    patches, shapes, mask = spread(crops)
    device = mean.device
    pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(device).float()
    pixels = (pixels * factor - mean.view(1, 1, 1, 3)) / std.view(1, 1, 1, 3)
    kept = torch.from_numpy(mask).to(device)
    # The library pads after normalising, so padding is zero there.
    pixels = pixels * kept[:, :, None, None]
    return {
        "pixel_values": pixels.flatten(2).to(dtype),
        "pixel_attention_mask": kept.to(torch.int32),
        "spatial_shapes": torch.from_numpy(shapes),
    }


def _header(height: int, width: int, pixels: int) -> NDArray[np.uint8]:
    """Return the header row (1, pixels, 3) of a crop: how many patches the image is high and wide, then marks.

    Each of the two numbers is in the first two bytes of one pixel; ``pixels`` is the number of pixels of a patch.
    """
    row = np.full((1, pixels, 3), _MARK, dtype=np.uint8)
    row[0, 0, :2] = list(height.to_bytes(2))
    row[0, 1, :2] = list(width.to_bytes(2))
    return row
