"""Describable Textures (DTD) with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "dtd"


class DTD(CoopLayout):
    """Describable Textures (DTD): 5,640 pictures of 47 textures.

    Expected below the root:
    ``dtd/images/<texture>/<texture>_NNNN.jpg`` and
    ``dtd/split_zhou_DescribableTextures.json``.
    """

    name = DATASET
    templates = ("{} texture.",)
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/dtd/"
    folder = "dtd"
    image_folder = "images"
    split_file = "split_zhou_DescribableTextures.json"
    published = {"classes": 47, "train": 2820, "val": 1128, "test": 1692}
