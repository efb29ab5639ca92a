"""Oxford-IIIT Pets with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "oxford-pets"


class OxfordPets(CoopLayout):
    """Oxford-IIIT Pets: 7,349 photographs of 37 breeds of cats and dogs.

    Expected below the root:
    ``oxford_pets/images/<Breed>_N.jpg`` and
    ``oxford_pets/split_zhou_OxfordPets.json``.
    """

    name = DATASET
    templates = ("a photo of a {}, a type of pet.",)
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
    folder = "oxford_pets"
    image_folder = "images"
    split_file = "split_zhou_OxfordPets.json"
    published = {"classes": 37, "train": 2944, "val": 736, "test": 3669}
