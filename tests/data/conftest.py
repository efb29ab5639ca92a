"""Tiny trees with the published names of the 15 named data sets, written from a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cafe.data.images import examples
from cafe.registry import entries


def four(pattern: str) -> list[str]:
    return [pattern.format(number) for number in range(4)]


# Data set: folder, image folder, split file, and for each of two classes its name in the split file and four paths:
# two of train, one of val, one of test. Names and paths as published.
COOP = {
    "caltech101": (
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        {"face": four("Faces/image_000{}.jpg"), "car_side": four("car_side/image_000{}.jpg")},
    ),
    "oxford-pets": (
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        {"abyssinian": four("Abyssinian_{}.jpg"), "american_bulldog": four("american_bulldog_{}.jpg")},
    ),
    "stanford-cars": (
        "stanford_cars",
        "",
        "split_zhou_StanfordCars.json",
        {
            "2000 AM General Hummer SUV": [*four("cars_train/0000{}.jpg")[:3], "cars_test/00001.jpg"],
            "2012 Acura RL Sedan": [*four("cars_train/0001{}.jpg")[:3], "cars_test/00002.jpg"],
        },
    ),
    "flowers102": (
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        {"pink primrose": four("image_0676{}.jpg"), "globe thistle": four("image_0508{}.jpg")},
    ),
    "food101": (
        "food-101",
        "images",
        "split_zhou_Food101.json",
        {"apple_pie": four("apple_pie/100513{}.jpg"), "waffles": four("waffles/100506{}.jpg")},
    ),
    "sun397": (
        "sun397",
        "SUN397",
        "split_zhou_SUN397.json",
        {
            "abbey": four("a/abbey/sun_aaaulhwrhqgejnyt{}.jpg"),
            "indoor apse": four("a/apse/indoor/sun_aaaulhwrhqgejnyt{}.jpg"),
        },
    ),
    "dtd": (
        "dtd",
        "images",
        "split_zhou_DescribableTextures.json",
        {"banded": four("banded/banded_000{}.jpg"), "zigzagged": four("zigzagged/zigzagged_000{}.jpg")},
    ),
    "eurosat": (
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        {"Annual Crop Land": four("AnnualCrop/AnnualCrop_{}.jpg"), "Sea or Lake": four("SeaLake/SeaLake_{}.jpg")},
    ),
    "ucf101": (
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        {
            "Apply_Eye_Makeup": four("Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c0{}.jpg"),
            "Yo_Yo": four("Yo_Yo/v_YoYo_g01_c0{}.jpg"),
        },
    ),
}
CLASS_NAMES = "n01440764 tench\nn01443537 goldfish\nn01498041 stingray\n"
# ImageNet and its relatives: folder, and the images below it.
IMAGENET = {
    "imagenet": (
        "imagenet",
        [f"images/train/{wnid}/{wnid}_{n}.JPEG" for wnid in ("n01440764", "n01443537") for n in (10026, 1003)]
        + ["images/val/n01440764/ILSVRC2012_val_00000293.JPEG", "images/val/n01443537/ILSVRC2012_val_00000236.JPEG"],
    ),
    "imagenet-v2": (
        "imagenetv2",
        [f"imagenetv2-matched-frequency-format-val/{n}/0{n}bc.jpeg" for n in range(3)],
    ),
    "imagenet-sketch": ("imagenet-sketch", ["images/n01440764/sketch_0.JPEG", "images/n01443537/sketch_1.JPEG"]),
    "imagenet-a": (
        "imagenet-adversarial",
        ["imagenet-a/n01443537/0.001_lemon.jpg", "imagenet-a/n01498041/0.000116_digital clock.jpg"],
    ),
    "imagenet-r": ("imagenet-rendition", ["imagenet-r/n01443537/art_0.jpg", "imagenet-r/n01498041/toy_2.jpg"]),
}
AIRCRAFT = {"train": "1025794 707-320\n1340192 F/A-18\n", "val": "1056978 F/A-18\n", "test": "1514522 707-320\n"}


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8 + number, 6), (number, 90, 20)).save(path, "JPEG")


def plant_coop(name: str, root: Path) -> None:
    folder, image_folder, split_file, classes = COOP[name]
    rows: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for label, (class_name, paths) in enumerate(classes.items()):
        for number, (path, split) in enumerate(zip(paths, ("train", "train", "val", "test"), strict=True)):
            write_image(root / folder / image_folder / path, 4 * label + number)
            rows[split].append([path, label, class_name])
    (root / folder / split_file).write_text(json.dumps(rows))


def plant_imagenet(name: str, root: Path) -> None:
    folder, paths = IMAGENET[name]
    for number, path in enumerate(paths):
        write_image(root / folder / path, number)
    (root / folder / "classnames.txt").write_text(CLASS_NAMES)
    if name in ("imagenet-a", "imagenet-r"):
        (root / folder / name / "README.txt").write_text("as published")


def plant_aircraft(root: Path) -> None:
    folder = root / "fgvc_aircraft"
    for split, text in AIRCRAFT.items():
        for number, line in enumerate(text.splitlines()):
            write_image(folder / "images" / f"{line.partition(' ')[0]}.jpg", number)
        (folder / f"images_variant_{split}.txt").write_text(text)
    (folder / "variants.txt").write_text("707-320\nF/A-18\n")


@pytest.fixture(scope="session")
def tree_names() -> list[str]:
    return [*COOP, *IMAGENET, "fgvc-aircraft"]


@pytest.fixture(scope="session")
def plant() -> Callable[[str, Path], None]:
    """The function that writes the tiny tree of a data set below a root: ``plant(name, root)``."""

    def plant_tree(name: str, root: Path) -> None:
        if name in COOP:
            plant_coop(name, root)
        elif name in IMAGENET:
            plant_imagenet(name, root)
        else:
            plant_aircraft(root)

    return plant_tree


@pytest.fixture(scope="session", autouse=True)
def _caches_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what the `datasets` library writes out of the home folder; it reads the variable when it is imported."""
    import os
    import sys

    folder = tmp_path_factory.mktemp("hf")
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_DATASETS_CACHE = folder


@pytest.fixture(scope="session")
def bring() -> dict[str, Callable[[Path], Path]]:
    """For each source the function that writes its example into a folder and returns what to open."""
    return {entry.name: entry.load().write_example for entry in entries("data", "SOURCE").values()}


@pytest.fixture(scope="session")
def make_tar() -> Callable[[Path, dict[str, bytes]], None]:
    return examples.write_tar


@pytest.fixture(scope="session")
def make_png() -> Callable[[int], bytes]:
    return examples.example_picture


@pytest.fixture(scope="session")
def make_files() -> Callable[[Path, list[str]], list[str]]:
    return examples.write_pictures
