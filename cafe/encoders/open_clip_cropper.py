"""open_clip's own preprocessing, cut where pixels are still bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image


class OpenCLIPCropper:
    """Resizes and crops with open_clip's transforms; picklable, and without the model.

    Parameters
    ----------
    config : dict
        The ``preprocess_cfg`` of a loaded model: size, interpolation, resize_mode, fill_color, mean, std.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import ToTensor

        self.config = dict(config)
        steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
        # What follows ToTensor works on floats, and is done on the device.
        self._steps = steps[: next(i for i, step in enumerate(steps) if isinstance(step, ToTensor))]

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image: (height, width, 3), uint8."""
        for step in self._steps:
            image = step(image)
        pixels = np.array(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise TypeError(f"open_clip's transforms returned {pixels.dtype} {pixels.shape} where bytes were expected")
        return pixels

    def rescale_and_normalise(self) -> tuple[float, list[float], list[float]]:
        """Return (factor, mean, std): a feature sees ``(pixels * factor - mean) / std``, per channel."""
        mean, std = (np.broadcast_to(self.config[key], 3).astype(float).tolist() for key in ("mean", "std"))
        return 1 / 255, mean, std

    def specification(self) -> dict[str, Any]:
        """Return everything that changes a pixel, as JSON."""
        size = self.config["size"]
        factor, mean, std = self.rescale_and_normalise()
        return {
            "processor": "open_clip",
            "backend": "pil",
            "size": list(size) if isinstance(size, tuple | list) else [size, size],
            "resample": self.config["interpolation"],
            "resize_mode": self.config["resize_mode"],
            "fill_color": self.config["fill_color"],
            "rescale_factor": factor,
            "image_mean": mean,
            "image_std": std,
        }
