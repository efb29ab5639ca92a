"""EuroSAT with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "eurosat"


class EuroSAT(CoopLayout):
    """EuroSAT: 27,000 satellite pictures of 10 kinds of land use.

    Expected below the root:
    ``eurosat/2750/<Kind>/<Kind>_N.jpg`` and
    ``eurosat/split_zhou_EuroSAT.json``.
    """

    name = DATASET
    templates = ("a centered satellite photo of {}.",)
    homepage = "https://github.com/phelber/EuroSAT"
    folder = "eurosat"
    image_folder = "2750"
    split_file = "split_zhou_EuroSAT.json"
    published = {"classes": 10, "train": 13500, "val": 5400, "test": 8100}
