import json
from pathlib import Path

import pytest
from PIL import Image

from cafe.data import open_dataset
from cafe.data.layouts.coop import CoopLayout
from cafe.data.opening import known_datasets
from cafe.errors import InputError

SPLIT = {
    "train": [["Faces/image_0001.jpg", 0, "face"], ["car/image_0001.jpg", 1, "car_side"]],
    "val": [["car/image_0002.jpg", 1, "car_side"]],
    "test": [["Faces/image_0002.jpg", 0, "face"]],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "caltech-101"
    for number, path in enumerate(row[0] for rows in SPLIT.values() for row in rows):
        target = folder / "101_ObjectCategories" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10 + number, 5), "red").save(target)
    (folder / "split_zhou_Caltech101.json").write_text(json.dumps(SPLIT))
    return tmp_path


def test_order_labels_and_names_are_the_split_files(root: Path) -> None:
    dataset = open_dataset("caltech101", root)
    assert dataset.class_names == ("face", "car side")
    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.splits["train"].sample_ids == ["Faces/image_0001.jpg", "car/image_0001.jpg"]
    assert dataset.splits["train"].labels.tolist() == [0, 1]
    images = root / "caltech-101" / "101_ObjectCategories"
    assert dataset.splits["val"].sizes.tolist() == [(images / "car" / "image_0002.jpg").stat().st_size]
    assert dataset.image("test", 0).size == (13, 5)
    assert dataset.split_origin == "published"


def test_differing_counts_are_one_note(root: Path) -> None:
    (note,) = open_dataset("caltech101", root).notes
    assert "2 classes, 2 train, 1 val, 1 test" in note
    assert "100 classes, 4128 train, 1649 val, 2465 test" in note


def test_the_published_counts_give_no_note(root: Path) -> None:
    class Small(CoopLayout):
        name = "small"
        folder, image_folder = "caltech-101", "101_ObjectCategories"
        split_file = "split_zhou_Caltech101.json"
        published = {"classes": 2, "train": 2, "val": 1, "test": 1}

    assert Small.open(root).notes == []


def test_root_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFE_DATA", str(root))
    assert len(open_dataset("caltech101").splits["train"]) == 2
    assert {row["name"]: row["available"] for row in known_datasets()}["caltech101"]


def test_missing_images_are_counted_and_the_first_is_named(root: Path) -> None:
    images = root / "caltech-101" / "101_ObjectCategories"
    (images / "car" / "image_0001.jpg").unlink()
    (images / "car" / "image_0002.jpg").unlink()
    (images / "car").rmdir()
    with pytest.raises(InputError, match=r"names 2 images .* the first: 'car/image_0001\.jpg'"):
        open_dataset("caltech101", root)


def test_no_root_no_split_no_images(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAFE_DATA", raising=False)
    with pytest.raises(InputError, match="--root DIR or set CAFE_DATA"):
        open_dataset("caltech101")
    (row,) = [row for row in known_datasets(tmp_path / "nowhere") if row["name"] == "caltech101"]
    assert not row["available"]
    assert str(tmp_path / "nowhere" / "caltech-101" / "split_zhou_Caltech101.json") in row["why"]
    assert "https://github.com/KaiyangZhou/CoOp" in row["why"]
    (root / "caltech-101" / "101_ObjectCategories").rename(root / "moved")
    with pytest.raises(InputError, match=r"images are expected in .*101_ObjectCategories; .*https://data\.caltech"):
        open_dataset("caltech101", root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "line 1: not JSON"),
        ("[]", "not a CoOp split file"),
        (json.dumps({"train": [], "val": []}), "not a CoOp split file"),
        (json.dumps({"train": [["a", 0]], "val": [], "test": []}), "not a CoOp split file"),
        (json.dumps({**SPLIT, "val": [["car/image_0002.jpg", 1, "bus"]]}), "two class names: 'car_side' and 'bus'"),
        (json.dumps({**SPLIT, "val": [["car/image_0002.jpg", 3, "bus"]]}), "without a gap"),
    ],
)
def test_malformed_split_files(root: Path, content: str, words: str) -> None:
    (root / "caltech-101" / "split_zhou_Caltech101.json").write_text(content)
    with pytest.raises(InputError, match=words):
        open_dataset("caltech101", root)


def test_real_photographs(real_data: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(real_data / "caltech101_images.tar") as archive:
        # Python before 3.11.4 has no filter, and takes no argument of that name.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path)
    dataset = open_dataset("caltech101", tmp_path)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 800, "val": 400, "test": 600}
    assert len(dataset.class_names) == 100
    assert "car side" in dataset.class_names
    assert {dataset.image("test", row).mode for row in range(0, 600, 10)} == {"RGB"}
