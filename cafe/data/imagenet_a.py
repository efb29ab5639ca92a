"""ImageNet-A."""

from __future__ import annotations

from cafe.data.layouts.imagenet import ImageNetLayout

DATASET = "imagenet-a"


class ImageNetA(ImageNetLayout):
    """ImageNet-A: 7,500 photographs that are hard to classify, of 200 of ImageNet's classes; for testing only.

    Expected below the root: ``imagenet-adversarial/imagenet-a/<n01498041, ...>/*.jpg`` and
    ``imagenet-adversarial/classnames.txt`` (or ImageNet's own).
    """

    name = DATASET
    homepage = "https://github.com/hendrycks/natural-adv-examples"
    folder = "imagenet-adversarial"
    split_folders = {"test": "imagenet-a"}
    published = {"classes": 200, "test": 7500}
