"""Every data set and source found in the room keeps the contract; a newcomer is found without an edit here."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.data import open_dataset
from cafe.data.base import Dataset, NamedDataset, Source
from cafe.data.images.decoding import read_image
from cafe.data.opening import known_datasets
from cafe.errors import InputError
from cafe.registry import Entry, entries

DATASETS = list(entries("data", "DATASET").values())
SOURCES = list(entries("data", "SOURCE").values())


def check(dataset: Dataset, again: Dataset) -> None:
    assert isinstance(dataset, Dataset)
    assert dataset.name
    assert len(set(dataset.class_names)) == len(dataset.class_names) >= 2
    assert all("{}" in template or "{c}" in template for template in dataset.templates)
    assert dataset.split_origin
    assert all(isinstance(note, str) for note in dataset.notes)
    order = [name for name in ("train", "val", "test") if name in dataset.splits]
    assert list(dataset.splits) == order
    assert "train" in order or order == ["test"]
    ids = [sample for split in dataset.splits.values() for sample in split.sample_ids]
    assert len(set(ids)) == len(ids)
    for name, split in dataset.splits.items():
        assert len(split) == len(split.sample_ids) == len(split.labels) == len(split.sizes) > 0
        assert split.labels.dtype == split.sizes.dtype == np.int64
        assert split.labels.min() >= 0
        assert split.labels.max() < len(dataset.class_names)
        image = dataset.image(name, len(split) - 1)
        assert image.mode == "RGB"
        content = dataset.content(name, len(split) - 1)
        if content is not None:  # the bytes by which extraction recognises an image are the image
            assert np.array_equal(np.asarray(read_image(content, "x")), np.asarray(image))
    identity = dataset.identity()
    assert json.loads(json.dumps(identity)) == identity == again.identity()
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.identity() == identity
    assert np.array_equal(np.asarray(copy.image(order[0], 0)), np.asarray(dataset.image(order[0], 0)))


@pytest.mark.parametrize("entry", DATASETS, ids=lambda entry: entry.name)
def test_named_data_sets(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAFE_DATA", raising=False)
    cls = entry.load()
    assert issubclass(cls, NamedDataset)
    assert cls.__doc__
    assert entry.summary
    assert cls.homepage.startswith("https://")
    why = cls.missing(None)
    if why is not None:
        cls.write_example(tmp_path)
        for path in cls.expected():
            assert (tmp_path / path).exists(), f"{cls.__name__}.write_example wrote no {path}"
        assert open_dataset(entry.name, tmp_path).name == entry.name
        check(open_dataset(entry.name, tmp_path), open_dataset(entry.name, tmp_path))
    if why is None:
        dataset = open_dataset(entry.name)
        assert dataset.name == entry.name
        check(dataset, open_dataset(entry.name))
    else:
        assert len(why) > 20
        assert "\n" not in why
        with pytest.raises(InputError) as caught:
            open_dataset(entry.name)
        assert str(caught.value) == why


@pytest.mark.parametrize("entry", SOURCES, ids=lambda entry: entry.name)
def test_sources(entry: Entry, tmp_path: Path) -> None:
    cls = entry.load()
    assert issubclass(cls, Source)
    assert entry.summary
    assert len(cls.__doc__.split("\n\n")) > 1, f"the docstring of {cls.__name__} must say how it is used"
    assert cls.accepts(tmp_path / "nowhere") is False
    with pytest.raises(InputError) as caught:
        cls.open(tmp_path / "nowhere")
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)
    for place in ("here", "moved"):
        (tmp_path / place / "set").mkdir(parents=True)
    here, moved = (cls.write_example(tmp_path / place / "set") for place in ("here", "moved"))
    assert [source.name for source in SOURCES if source.load().accepts(here) and not source.load().general] in (
        [],
        [entry.name],
    )
    assert cls.accepts(here) is True
    dataset = open_dataset(str(here))
    assert isinstance(dataset, cls)
    check(dataset, open_dataset(str(moved)))
    assert str(tmp_path) not in json.dumps(dataset.identity())
    check(cls.open(here, lenient=True), dataset)


def test_rooms_are_not_empty() -> None:
    assert {"digits", "caltech101"} <= {entry.name for entry in DATASETS}
    sources = {"image-folder", "table", "coop-json", "webdataset", "hugging-face"}
    assert sources <= {entry.name for entry in SOURCES}


def test_images_of_many_threads_are_the_same(tmp_path: Path) -> None:
    # Extraction decodes in threads.
    from concurrent.futures import ThreadPoolExecutor

    for entry in SOURCES:
        (tmp_path / entry.name).mkdir()
        dataset = open_dataset(str(entry.load().write_example(tmp_path / entry.name)))
        rows = list(range(len(dataset.splits["train"]))) * 20
        alone = [np.asarray(dataset.image("train", row)) for row in rows]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda row, data=dataset: np.asarray(data.image("train", row)), rows))
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_known_data_sets() -> None:
    rows = known_datasets()
    assert [row["name"] for row in rows] == sorted(entry.name for entry in DATASETS)
    for row in rows:
        assert row["available"] is (row["why"] == "")
        assert row["summary"]


def test_registered_names_win_and_a_dot_makes_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("left", "right"):
        (tmp_path / "digits" / name).mkdir(parents=True)
        Image.new("L", (2, 2), len(name)).save(tmp_path / "digits" / name / "0.png")
    assert len(open_dataset("digits").class_names) == 10
    assert open_dataset("./digits").class_names == ("left", "right")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("digit", "unknown data set 'digit'; did you mean 'digits'.* or a path: a folder"),
        ("", "unknown data set ''"),
        ("./nowhere", "no such file or folder: './nowhere'"),
        ("some/where", "no such file or folder: 'some/where'"),
    ],
)
def test_unknown(given: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        open_dataset(given)


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(InputError, match=r"photo\.jpg cannot be read as a data set; give a folder"):
        open_dataset(str(tmp_path / "photo.jpg"))


def test_listing_is_light() -> None:
    code = (
        "import sys; from cafe.data.opening import known_datasets; known_datasets(); "
        "print([m for m in ('torch', 'sklearn', 'transformers', 'h5py') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_names_and_folders_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        open_dataset(f"./{'x' * 5000}")
    from cafe.data import table

    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(table.os, "listdir", refuse)  # the tests may run as root, who may read everything
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        open_dataset(str(tmp_path))
