"""ImageNet-R."""

from __future__ import annotations

from cafe.data.layouts.imagenet import ImageNetLayout

DATASET = "imagenet-r"


class ImageNetR(ImageNetLayout):
    """ImageNet-R: 30,000 renditions (art, toys, ...) of 200 of ImageNet's classes; for testing only.

    Expected below the root: ``imagenet-rendition/imagenet-r/<n01443537, ...>/*.jpg`` and
    ``imagenet-rendition/classnames.txt`` (or ImageNet's own).
    """

    name = DATASET
    homepage = "https://github.com/hendrycks/imagenet-r"
    folder = "imagenet-rendition"
    split_folders = {"test": "imagenet-r"}
    published = {"classes": 200, "test": 30000}
