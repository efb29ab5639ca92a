"""ImageNet-Sketch."""

from __future__ import annotations

from cafe.data.layouts.imagenet import ImageNetLayout

DATASET = "imagenet-sketch"


class ImageNetSketch(ImageNetLayout):
    """ImageNet-Sketch: 50,889 sketches of ImageNet's 1,000 classes; for testing only.

    Expected below the root: ``imagenet-sketch/images/<n01440764, ...>/*.JPEG`` and
    ``imagenet-sketch/classnames.txt`` (or ImageNet's own).
    """

    name = DATASET
    homepage = "https://github.com/HaohanWang/ImageNet-Sketch"
    folder = "imagenet-sketch"
    split_folders = {"test": "images"}
    published = {"classes": 1000, "test": 50889}
