"""The 15 named data sets on tiny trees with the published names; what is there, what is missing, and why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cafe.data import open_dataset
from cafe.data.opening import known_datasets
from cafe.errors import InputError, UnreadableImageError
from cafe.registry import entries

SHIFTED = ["imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2"]
# CLIP-Adapter's eleven with the counts of its paper and CoOp's (Lin et al. 2023, Table 6), and the shifted four.
PUBLISHED = {
    "imagenet": (1000, 1281167, 0, 50000),
    "caltech101": (100, 4128, 1649, 2465),
    "oxford-pets": (37, 2944, 736, 3669),
    "stanford-cars": (196, 6509, 1635, 8041),
    "flowers102": (102, 4093, 1633, 2463),
    "food101": (101, 50500, 20200, 30300),
    "fgvc-aircraft": (100, 3334, 3333, 3333),
    "sun397": (397, 15880, 3970, 19850),
    "dtd": (47, 2820, 1128, 1692),
    "eurosat": (10, 13500, 5400, 8100),
    "ucf101": (101, 7639, 1898, 3783),
    "imagenet-v2": (1000, 0, 0, 10000),
    "imagenet-sketch": (1000, 0, 0, 50889),
    "imagenet-a": (200, 0, 0, 7500),
    "imagenet-r": (200, 0, 0, 30000),
}
NAMES = sorted(PUBLISHED)


def first_file(root: Path) -> Path:
    return next(path for path in sorted(root.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg"))


def test_fifteen_and_all_with_a_tree(tree_names) -> None:
    assert len(NAMES) == 15
    assert sorted(tree_names) == NAMES
    assert {"digits", *NAMES} <= set(entries("data", "DATASET"))


@pytest.mark.parametrize("name", NAMES)
def test_published_counts(name: str) -> None:
    counts = entries("data", "DATASET")[name].load().published
    assert (counts["classes"], *(counts.get(split, 0) for split in ("train", "val", "test"))) == PUBLISHED[name]


@pytest.mark.parametrize("name", NAMES)
def test_layout(name: str, tmp_path: Path, plant) -> None:
    cls = entries("data", "DATASET")[name].load()
    assert cls.missing(tmp_path) is not None
    plant(name, tmp_path)
    assert cls.missing(tmp_path) is None
    dataset = open_dataset(name, tmp_path)
    assert dataset.name == name
    (note,) = dataset.notes  # the counts differ from the published ones
    assert note.startswith(f"this is not the full {name}: ")
    assert f"published are {PUBLISHED[name][0]} classes" in note
    files = {path.name for path in tmp_path.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")}
    ids = [sample for split in dataset.splits.values() for sample in split.sample_ids]
    assert {Path(sample).name for sample in ids} == files
    assert len(ids) == len(set(ids)) >= len(files)
    for split in dataset.splits:
        for index in range(len(dataset.splits[split])):
            assert dataset.image(split, index).size[1] == 6


@pytest.mark.parametrize("name", NAMES)
def test_no_root_and_every_published_piece_missing(name: str, tmp_path: Path, plant, monkeypatch) -> None:
    monkeypatch.delenv("CAFE_DATA", raising=False)
    with pytest.raises(InputError, match=r"--root DIR or set CAFE_DATA, where DIR/.* exist.*https://"):
        open_dataset(name)
    plant(name, tmp_path)
    (folder,) = tmp_path.iterdir()
    pieces = list(folder.iterdir())
    for piece in pieces:
        piece.rename(tmp_path / "away")
        if name == "stanford-cars" and piece.suffix != ".json":  # the images lie directly in its folder
            with pytest.raises(InputError, match=f"not in {folder}, the first: 'cars_"):
                open_dataset(name, tmp_path)
        else:
            why = {row["name"]: row["why"] for row in known_datasets(tmp_path)}[name]
            assert str(piece) in why
            assert "https://" in why
            with pytest.raises(InputError) as caught:
                open_dataset(name, tmp_path)
            assert str(caught.value) == why
        (tmp_path / "away").rename(piece)
    assert open_dataset(name, tmp_path).splits


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("imagenet")])
def test_a_file_that_is_named_and_lacking(name: str, tmp_path: Path, plant) -> None:
    plant(name, tmp_path)
    whole = open_dataset(name, tmp_path)
    gone = first_file(tmp_path)
    gone.unlink()
    with pytest.raises(InputError, match=r"names 1 image that is not in .*--on-error skip") as caught:
        open_dataset(name, tmp_path)
    assert gone.name in str(caught.value)
    lenient = open_dataset(name, tmp_path, lenient=True)
    assert [list(s.sample_ids) for s in lenient.splits.values()] == [list(s.sample_ids) for s in whole.splits.values()]
    assert lenient.identity() != whole.identity()  # so that a cache made without the file is not taken for whole
    failed = []
    for split, samples in lenient.splits.items():
        for index, sample in enumerate(samples.sample_ids):
            try:
                lenient.image(split, index)
            except UnreadableImageError as error:
                assert "no such file" in str(error)
                failed.append(sample)
    assert [Path(sample).name for sample in failed] == [gone.name]


def test_class_names(tmp_path: Path, plant) -> None:
    expected = {
        "caltech101": ("face", "car side"),
        "ucf101": ("Apply Eye Makeup", "Yo Yo"),
        "food101": ("apple pie", "waffles"),
        "eurosat": ("Annual Crop Land", "Sea or Lake"),
        "fgvc-aircraft": ("707-320", "F/A-18"),
        "imagenet": ("tench", "goldfish"),
        "imagenet-v2": ("tench", "goldfish", "stingray"),
        "imagenet-a": ("goldfish", "stingray"),
    }
    for name, names in expected.items():
        plant(name, tmp_path)
        assert open_dataset(name, tmp_path).class_names == names


def test_imagenet_is_sorted_and_val_is_the_test_split(tmp_path: Path, plant) -> None:
    plant("imagenet", tmp_path)
    dataset = open_dataset("imagenet", tmp_path)
    assert list(dataset.splits) == ["train", "test"]
    assert list(dataset.splits["train"].sample_ids) == [
        "images/train/n01440764/n01440764_10026.JPEG",
        "images/train/n01440764/n01440764_1003.JPEG",
        "images/train/n01443537/n01443537_10026.JPEG",
        "images/train/n01443537/n01443537_1003.JPEG",
    ]
    assert dataset.splits["train"].labels.tolist() == [0, 0, 1, 1]
    assert dataset.splits["test"].sample_ids[0] == "images/val/n01440764/ILSVRC2012_val_00000293.JPEG"
    assert dataset.class_ids == ("n01440764", "n01443537")
    assert dataset.identity()["class_ids"] == ["n01440764", "n01443537"]


@pytest.mark.parametrize("name", SHIFTED)
def test_the_shifted_sets_are_for_testing_and_score_their_own_classes(name: str, tmp_path: Path, plant) -> None:
    plant(name, tmp_path)
    dataset = open_dataset(name, tmp_path)
    assert list(dataset.splits) == ["test"]
    assert len(dataset.class_ids) == len(dataset.class_names) == max(dataset.splits["test"].labels) + 1
    (tmp_path / "imagenet").mkdir()
    (folder,) = (path for path in tmp_path.iterdir() if path.name != "imagenet")
    (folder / "classnames.txt").rename(tmp_path / "imagenet" / "classnames.txt")  # ImageNet's own will do
    assert open_dataset(name, tmp_path).identity() == dataset.identity()


def test_imagenet_gone_wrong(tmp_path: Path, plant) -> None:
    plant("imagenet", tmp_path)
    images = tmp_path / "imagenet" / "images"
    (images / "train" / "n99999999").mkdir()
    with pytest.raises(InputError, match=r"n99999999 is no class of classnames\.txt, which names 3"):
        open_dataset("imagenet", tmp_path)
    (images / "train" / "n99999999").rmdir()
    (images / "val" / "n01498041").mkdir()
    with pytest.raises(InputError, match="n01498041, which the train folder has not"):
        open_dataset("imagenet", tmp_path)
    for path in sorted((images / "val").rglob("*"), reverse=True):
        path.rename(images / "val" / path.name) if path.is_file() else path.rmdir()
    with pytest.raises(InputError, match="val holds 2 images but no class folders"):
        open_dataset("imagenet", tmp_path)
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01440764 tench\nn01443537\n")
    with pytest.raises(InputError, match="line 2: 'n01443537' is not a new WordNet id"):
        open_dataset("imagenet", tmp_path)


def test_aircraft_gone_wrong(tmp_path: Path, plant) -> None:
    plant("fgvc-aircraft", tmp_path)
    (tmp_path / "fgvc_aircraft" / "images_variant_val.txt").write_text("1056978 F/A-18\n1056979 Zeppelin\n")
    with pytest.raises(InputError, match=r"images_variant_val\.txt, line 2: 'Zeppelin' is not a variant"):
        open_dataset("fgvc-aircraft", tmp_path)


def test_an_image_named_twice(tmp_path: Path, plant) -> None:
    plant("dtd", tmp_path)
    path = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    rows = json.loads(path.read_text())
    rows["test"].append(rows["train"][0])
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match="'banded/banded_0000.jpg' twice"):
        open_dataset("dtd", tmp_path)


def test_the_verb_is_light_and_names_all(tmp_path: Path) -> None:
    code = (
        "import sys; from cafe.cli.app import call; assert call(['datasets', '--json', '--root', sys.argv[1]]) == 0; "
        "heavy = ('torch', 'sklearn', 'transformers', 'h5py', 'datasets', 'pyarrow', 'PIL.Image', 'matplotlib'); "
        "assert not [m for m in heavy if m in sys.modules], [m for m in heavy if m in sys.modules]; "
        "import time; assert time.process_time() < 1.5"  # 0.3 s on an idle core
    )
    # Caches that are there are named too, and their encoder is read from them: here are none.
    environment = {**os.environ, "CAFE_CACHE": str(tmp_path / "caches")}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    rows = json.loads(ran.stdout)["datasets"]
    available = {row["name"]: row["available"] for row in rows}
    assert list(available) == list(entries("data", "DATASET"))
    assert [name for name in ("digits", *NAMES) if available[name]] == ["digits"]
    assert all(str(tmp_path) in row["why"] for row in rows if not row["available"])


@pytest.mark.parametrize(("name", "file"), [("dtd", "DescribableTextures"), ("eurosat", "EuroSAT")])
def test_published_split_files(name: str, file: str, tmp_path: Path, real_data: Path) -> None:
    cls = entries("data", "DATASET")[name].load()
    (tmp_path / cls.folder / cls.image_folder).mkdir(parents=True)
    split = (real_data / "coop_protocol" / cls.split_file).read_bytes()
    (tmp_path / cls.folder / cls.split_file).write_bytes(split)
    n = sum(PUBLISHED[name][1:])
    with pytest.raises(InputError, match=f"names {n} images that are not in"):
        open_dataset(name, tmp_path)
    dataset = open_dataset(name, tmp_path, lenient=True)
    assert dataset.notes == []  # exactly the published counts
    assert cls.split_file == f"split_zhou_{file}.json"


def test_the_verb_says_what_is_expected_and_what_is_missing(tmp_path: Path, plant, capfd, monkeypatch) -> None:
    from cafe.cli.app import call

    monkeypatch.delenv("CAFE_DATA", raising=False)
    assert call(["datasets"]) == 0
    said = capfd.readouterr()
    assert all(name in said.out for name in NAMES)
    assert "give --root DIR or set CAFE_DATA" in said.err
    assert "sun397/split_zhou_SUN397.json, sun397/SUN397" in said.err
    assert all(source in said.err for source in entries("data", "SOURCE"))
    plant("dtd", tmp_path)
    monkeypatch.setenv("CAFE_DATA", str(tmp_path))
    assert call(["datasets"]) == 0
    said = capfd.readouterr()
    assert "dtd              yes" in said.out
    assert "dtd:" not in said.err
    split, images = tmp_path / "sun397" / "split_zhou_SUN397.json", tmp_path / "sun397" / "SUN397"
    assert f"sun397: the split file is expected at {split}; it is published at https" in said.err
    assert f"and the images are expected in {images}; they are published at https" in said.err
