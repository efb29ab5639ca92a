"""A checkpoint's own preprocessing, cut where pixels are still bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

_FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_SIZES = ("size", "crop_size")


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
        from PIL import Image

        processor = self.processor
        factor, mean, std = self.rescale_and_normalise()
        spec: dict[str, Any] = {
            # The class is called ...Pil or ...Fast in some versions of the library; the backend says that.
            "processor": type(processor).__name__.removesuffix("Pil").removesuffix("Fast"),
            "backend": processor.backend,
            "resample": Image.Resampling(int(processor.resample)).name.lower(),
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


def _three(value: Any) -> list[float]:
    values = [float(v) for v in value] if np.ndim(value) else [float(value)] * 3
    return values * 3 if len(values) == 1 else values
