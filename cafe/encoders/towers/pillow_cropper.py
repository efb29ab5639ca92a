"""A checkpoint's resizing and cropping by Pillow and NumPy alone, from what the cropper says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cafe.errors import InputError

_OPEN_CLIP = "open_clip"


class PillowCropper:
    """Resizes and crops as a specification says; picklable, without the model and without its library.

    It is for places that have neither torch nor transformers. Whoever writes a specification down compares the pixels
    of both croppers first: processors do other things as well.

    Parameters
    ----------
    specification : mapping
        As ``specification()`` of the encoder's cropper returns it: ``resample``, ``size`` (``shortest_edge``, or
        ``height`` and ``width``), ``do_resize``, ``do_center_crop``, ``crop_size``; or open_clip's ``size``,
        ``resize_mode`` and ``resample``.

    Raises
    ------
    InputError
        If it asks for something else.

    Examples
    --------
    >>> cropper = PillowCropper({
    ...     "resample": "bicubic", "do_resize": True, "size": {"shortest_edge": 4},
    ...     "do_center_crop": True, "crop_size": {"height": 4, "width": 4},
    ... })
    >>> cropper(Image.new("RGB", (16, 9))).shape
    (4, 4, 3)
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        self._specification = dict(specification)
        plain = self._specification
        if plain.get("processor") == _OPEN_CLIP:
            if plain.get("resize_mode") not in ("shortest", "squash"):
                raise InputError(f"images resized by {plain.get('resize_mode')!r} are not read with Pillow alone")
            height, width = plain["size"]
            square = plain["resize_mode"] == "shortest"
            if square and height != width:
                raise InputError("images cropped to another shape than a square are not read with Pillow alone")
            size = {"shortest_edge": height} if square else {"height": height, "width": width}
            plain |= {"do_resize": True, "size": size, "crop_size": {"height": height, "width": width}}
            plain["do_center_crop"] = square
        if plain.get("whole") or plain.get("backend", "pil") != "pil" or "max_num_patches" in plain:
            raise InputError(
                f"its images are prepared by {plain.get('processor')} with {plain.get('backend', 'pil')}, which is "
                "more than resizing and cropping with Pillow"
            )
        wanted = set(plain.get("size") or {})
        if plain.get("do_resize") and wanted not in ({"shortest_edge"}, {"height", "width"}):
            raise InputError(
                f"images resized by {', '.join(sorted(wanted)) or 'nothing'} are not read with Pillow alone"
            )
        resample = str(plain.get("resample", "bicubic")).upper()
        if resample not in Image.Resampling.__members__:
            raise InputError(f"images resampled by {resample.lower()!r} are not read with Pillow alone")
        self._resample = Image.Resampling[resample]

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image: (height, width, 3), uint8."""
        plain = self._specification
        if plain.get("do_resize"):
            size = plain["size"]
            if "shortest_edge" in size:
                short, long = sorted(image.size)
                edge = int(size["shortest_edge"])
                longer = int(edge * long / short)  # cut off, not rounded, as both libraries do
                target = (edge, longer) if image.width <= image.height else (longer, edge)
            else:
                target = (int(size["width"]), int(size["height"]))
            if plain.get("processor") != _OPEN_CLIP or target != image.size:
                image = image.resize(target, self._resample)
        pixels: NDArray[np.uint8] = np.array(image)  # (height, width, 3), which may be written to
        if plain.get("do_center_crop"):
            height, width = int(plain["crop_size"]["height"]), int(plain["crop_size"]["width"])
            pixels = _centre(pixels, height, width, rounded=plain.get("processor") == _OPEN_CLIP)
        return np.ascontiguousarray(pixels)


class PairPillowCropper:
    """Crops an image for two encoders: the bytes of both crops, one after the other, in one row.

    Parameters
    ----------
    specifications : sequence of mapping
        Of each, as of :class:`PillowCropper`.
    """

    def __init__(self, specifications: Sequence[Mapping[str, Any]]) -> None:
        self._croppers = tuple(map(PillowCropper, specifications))

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop one RGB image: (bytes,), uint8."""
        return np.concatenate([cropper(image).reshape(-1) for cropper in self._croppers])


def cropper_of(specification: Mapping[str, Any]) -> PillowCropper | PairPillowCropper:
    """Make the cropper of one encoder, or of two, whose specifications are then under ``first`` and ``second``."""
    if "second" in specification:
        return PairPillowCropper([specification["first"], specification["second"]])
    return PillowCropper(specification)


def _centre(pixels: NDArray[np.uint8], height: int, width: int, *, rounded: bool) -> NDArray[np.uint8]:
    """Cut out the middle (height, width, 3); what is too small is padded with black on all sides.

    Where the margin is odd, transformers cuts less above and left, and torchvision rounds half to even.
    """
    top, left = pixels.shape[0] - height, pixels.shape[1] - width
    if top < 0 or left < 0:
        taller, wider = max(height, pixels.shape[0]), max(width, pixels.shape[1])
        above, before = -(-(taller - pixels.shape[0]) // 2), -(-(wider - pixels.shape[1]) // 2)
        padded = np.zeros((taller, wider, 3), dtype=np.uint8)
        padded[above : above + pixels.shape[0], before : before + pixels.shape[1]] = pixels
        # Of the padded picture the library cuts by the margins of the one before, which stand for the same middle.
        y, x = max(0, top // 2 + above), max(0, left // 2 + before)
        return padded[y : y + height, x : x + width]
    y, x = (round(top / 2), round(left / 2)) if rounded else (top // 2, left // 2)
    return pixels[y : y + height, x : x + width]
