"""Caltech-101 with CoOp's split."""

from __future__ import annotations

from cafe.data.layouts.coop import CoopLayout

DATASET = "caltech101"


class Caltech101(CoopLayout):
    """Caltech-101: 8,242 photographs of 100 kinds of objects, with CoOp's split.

    ``BACKGROUND_Google`` and ``Faces_easy`` are left out, as published. Expected below the root:
    ``caltech-101/101_ObjectCategories/<class>/image_NNNN.jpg`` and ``caltech-101/split_zhou_Caltech101.json``.
    """

    name = DATASET
    templates = ("a photo of a {}.",)
    homepage = "https://data.caltech.edu/records/mzrjq-6wc02"
    folder = "caltech-101"
    image_folder = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
    published = {"classes": 100, "train": 4128, "val": 1649, "test": 2465}
