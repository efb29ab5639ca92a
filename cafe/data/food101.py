"""Food-101 with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "food101"


class Food101(CoopLayout):
    """Food-101: 101,000 photographs of 101 dishes.

    Expected below the root:
    ``food-101/images/<dish>/N.jpg`` and
    ``food-101/split_zhou_Food101.json``.
    """

    name = DATASET
    templates = ("a photo of {}, a type of food.",)
    homepage = "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
    folder = "food-101"
    image_folder = "images"
    split_file = "split_zhou_Food101.json"
    published = {"classes": 101, "train": 50500, "val": 20200, "test": 30300}
