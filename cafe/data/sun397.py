"""SUN397 with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "sun397"


class SUN397(CoopLayout):
    """SUN397: 39,700 photographs of 397 kinds of scenes.

    Expected below the root:
    ``sun397/SUN397/<letter>/<scene>/sun_*.jpg`` and
    ``sun397/split_zhou_SUN397.json``.
    """

    name = DATASET
    templates = ("a photo of a {}.",)
    homepage = "https://vision.princeton.edu/projects/2010/SUN/"
    folder = "sun397"
    image_folder = "SUN397"
    split_file = "split_zhou_SUN397.json"
    published = {"classes": 397, "train": 15880, "val": 3970, "test": 19850}
