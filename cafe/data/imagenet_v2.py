"""ImageNet-V2 (matched frequency)."""

from __future__ import annotations

from cafe.data.layouts.imagenet import ImageNetLayout

DATASET = "imagenet-v2"


class ImageNetV2(ImageNetLayout):
    """ImageNet-V2 (matched frequency): 10,000 new photographs of ImageNet's 1,000 classes; for testing only.

    Expected below the root: ``imagenetv2/imagenetv2-matched-frequency-format-val/<0 to 999>/*.jpeg`` and
    ``imagenetv2/classnames.txt`` (or ImageNet's own).
    """

    name = DATASET
    homepage = "https://github.com/modestyachts/ImageNetV2"
    folder = "imagenetv2"
    split_folders = {"test": "imagenetv2-matched-frequency-format-val"}
    published = {"classes": 1000, "test": 10000}
    example_folders = ("0", "1")

    @staticmethod
    def wnid_of(folder: str, wnids: tuple[str, ...]) -> str | None:
        """Return the class of a folder, which is numbered in the order of ``classnames.txt``."""
        return wnids[int(folder)] if folder.isdecimal() and int(folder) < len(wnids) else None
