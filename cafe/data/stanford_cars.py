"""Stanford Cars with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "stanford-cars"


class StanfordCars(CoopLayout):
    """Stanford Cars: 16,185 photographs of 196 models of cars, the year first in each name.

    Expected below the root:
    ``stanford_cars/cars_{train,test}/NNNNN.jpg`` and
    ``stanford_cars/split_zhou_StanfordCars.json``.
    """

    name = DATASET
    templates = ("a photo of a {}.",)
    homepage = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"
    folder = "stanford_cars"
    image_folder = ""
    split_file = "split_zhou_StanfordCars.json"
    published = {"classes": 196, "train": 6509, "val": 1635, "test": 8041}
