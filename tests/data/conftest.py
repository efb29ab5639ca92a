"""Tiny trees with the published names of every data set, written from a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


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
            assert name == "fgvc-aircraft", f"add a tree for {name} to this file"
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


def fill(folder: Path, names: list[str]) -> list[str]:
    """Write one picture for each name, all different."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number * 9 % 256, number, 30)).save(folder / name)
    return names


def bring_folder(folder: Path) -> Path:
    fill(folder, [f"{kind}/{n}.png" for kind in ("cat", "dog") for n in range(5)])
    return folder


def bring_table(folder: Path) -> Path:
    names = fill(folder, [f"photos/{kind}{n}.png" for kind in ("cat", "dog") for n in range(5)])
    rows = [f"{name},{name[7:10]}" for name in names]
    (folder / "labels.csv").write_text("\n".join(["file_name,label", *rows]))
    return folder / "labels.csv"


def bring_coop_json(folder: Path) -> Path:
    names = fill(folder, [f"images/{kind}{n}.png" for kind in ("cat", "dog") for n in range(3)])
    rows = [[name.removeprefix("images/"), number // 3, name[7:10]] for number, name in enumerate(names)]
    split = {part: rows[number::3] for number, part in enumerate(("train", "val", "test"))}
    (folder / "split_zhou_Mine.json").write_text(json.dumps(split))
    return folder / "split_zhou_Mine.json"


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    import io
    import tarfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def png(number: int) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number * 7 % 256, number % 256, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def bring_tars(folder: Path) -> Path:
    for number, split in enumerate(("train", "test")):
        members = {}
        for n in range(6):
            members[f"s{n:07d}.png"] = png(10 * number + n)
            members[f"s{n:07d}.cls"] = str(n % 2).encode()
        write_tar(folder / split / "0.tar", members)
    (folder / "classnames.txt").write_text("cat\nhot dog\n")
    return folder


def bring_parquet(folder: Path) -> Path:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "hot_dog"])})
    for number, split in enumerate(("train", "validation", "test")):
        images = [{"bytes": png(10 * number + n), "path": f"{n}.png"} for n in range(4)]
        rows = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0, 1]}, features=features)
        rows.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


BROUGHT = {
    "image-folder": bring_folder,
    "table": bring_table,
    "coop-json": bring_coop_json,
    "webdataset": bring_tars,
    "hugging-face": bring_parquet,
}


@pytest.fixture(scope="session")
def bring() -> dict[str, Callable[[Path], Path]]:
    """For each source a function that writes a small example into a folder and returns what to open."""
    return BROUGHT


@pytest.fixture(scope="session")
def make_tar() -> Callable[[Path, dict[str, bytes]], None]:
    return write_tar


@pytest.fixture(scope="session")
def make_png() -> Callable[[int], bytes]:
    return png


@pytest.fixture(scope="session")
def make_files() -> Callable[[Path, list[str]], list[str]]:
    return fill
