"""Oxford Flowers 102 with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "flowers102"


class Flowers102(CoopLayout):
    """Oxford Flowers 102: 8,189 photographs of 102 kinds of flowers.

    Expected below the root:
    ``oxford_flowers/jpg/image_NNNNN.jpg`` and
    ``oxford_flowers/split_zhou_OxfordFlowers.json``.
    """

    name = DATASET
    templates = ("a photo of a {}, a type of flower.",)
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    folder = "oxford_flowers"
    image_folder = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    published = {"classes": 102, "train": 4093, "val": 1633, "test": 2463}
