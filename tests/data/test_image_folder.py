import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cafe.data import open_dataset
from cafe.data.images import content_keys as keys_module
from cafe.data.images.content_keys import content_keys
from cafe.data.images.files import natural_order
from cafe.errors import InputError, UnreadableImageError


def fill(folder: Path, n: int, start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + n):
        pixel = (number % 256, number // 256, len(folder.name))
        Image.new("RGB", (3, 2), pixel).save(folder / f"{number:03d}.png")


def test_folders_without_splits(tmp_path: Path) -> None:
    for start, name in enumerate(["hot_dog", "class10", "class2"]):
        fill(tmp_path / name, 10, 100 * start)
    dataset = open_dataset(str(tmp_path))
    assert dataset.name == tmp_path.name
    assert dataset.class_names == ("class2", "class10", "hot dog")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 15, "val": 6, "test": 9}
    assert dataset.split_origin == "hash, stratified, 50/20/30"
    ids = [sample for split in dataset.splits.values() for sample in split.sample_ids]
    assert len(set(ids)) == 30
    for name, split in dataset.splits.items():
        assert np.bincount(split.labels).tolist() == {"train": [5] * 3, "val": [2] * 3, "test": [3] * 3}[name]
        for row, sample in enumerate(split.sample_ids):
            folder = dataset.class_names[split.labels[row]].replace(" ", "_")
            assert sample.startswith(f"{folder}/")
            assert split.sizes[row] == (tmp_path / sample).stat().st_size
            assert dataset.image(name, row).getpixel((0, 0)) == Image.open(tmp_path / sample).getpixel((0, 0))


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    for split, classes in {"train": "abc", val: "ab", "test": "bc"}.items():
        for name in classes:
            fill(tmp_path / split / name, 2)
    dataset = open_dataset(str(tmp_path))
    assert list(dataset.splits) == ["train", "val", "test"]
    assert dataset.split_origin == "folders"
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.splits["test"].labels.tolist() == [1, 1, 2, 2]
    assert dataset.splits["test"].sample_ids[0] == "test/b/000.png"
    assert dataset.notes == []


def test_train_and_test_without_val(tmp_path: Path) -> None:
    for split in ("test", "train"):
        for name in "ab":
            fill(tmp_path / split / name, 1)
    assert list(open_dataset(str(tmp_path)).splits) == ["train", "test"]


def test_train_and_val_without_test_is_said(tmp_path: Path) -> None:
    for split in ("val", "train"):
        for name in "ab":
            fill(tmp_path / split / name, 1)
    dataset = open_dataset(str(tmp_path))
    assert list(dataset.splits) == ["train", "val"]
    assert "no test split" in dataset.notes[0]


def test_train_alone_is_divided(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / "train" / name, 10, 50 * ord(name))
    dataset = open_dataset(str(tmp_path))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 10, "val": 4, "test": 6}
    assert dataset.split_origin == "hash, stratified, 50/20/30"
    assert dataset.splits["train"].sample_ids[0].startswith("train/a/")


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        fill(tmp_path / name, 2)
    assert open_dataset(str(tmp_path)).class_names == ("bus", "train")


def test_one_image_of_a_class_is_trained_on(tmp_path: Path) -> None:
    fill(tmp_path / "one", 1)
    fill(tmp_path / "two", 2, 50)
    dataset = open_dataset(str(tmp_path))
    assert {name: split.labels.tolist() for name, split in dataset.splits.items()} == {"train": [0, 1], "test": [1]}


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    for start, name in ((0, "a"), (100, "b")):
        fill(tmp_path / name, 20, start)
        for number in range(start, start + 20):
            shutil.copy(tmp_path / name / f"{number:03d}.png", tmp_path / name / f"copy-of-{number}.png")
    dataset = open_dataset(str(tmp_path))
    contents = [{(tmp_path / sample).read_bytes() for sample in split.sample_ids} for split in dataset.splits.values()]
    assert len(contents) == 3
    assert sum(map(len, contents)) == len(set.union(*contents)) == 40


def test_the_split_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / "here" / "set" / name, 12, 100 * ord(name))
    shutil.copytree(tmp_path / "here" / "set", tmp_path / "elsewhere" / "set")
    here, elsewhere = (open_dataset(str(tmp_path / place / "set")) for place in ("here", "elsewhere"))
    assert here.identity() == elsewhere.identity()
    (tmp_path / "elsewhere" / "set" / "a" / "9700.png").write_bytes(b"replaced")
    assert open_dataset(str(tmp_path / "elsewhere" / "set")).identity() != here.identity()


def test_what_is_not_an_image_is_left_out_and_counted(tmp_path: Path) -> None:
    for start, name in ((0, "a"), (100, "b")):
        fill(tmp_path / name, 3, start)
    fill(tmp_path / "a" / "deeper", 1, 9)
    (tmp_path / "a" / ".hidden.png").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "readme.md").touch()
    (tmp_path / "b" / "PHOTO.JPG").write_bytes(b"not really")
    dataset = open_dataset(str(tmp_path))
    assert dataset.notes == [
        "2 files were left out: no image by its name: readme.md, a/notes.txt",
        "the images of a nested folder count to the class of the folder above: a/deeper to 'a'; a folder that is to be "
        "a class of its own has to lie beside the others",
    ]
    ids = sorted(sample for split in dataset.splits.values() for sample in split.sample_ids)
    assert ids == sorted(
        [f"{c}/{c == 'b':d}0{n}.png" for c in "ab" for n in range(3)] + ["a/deeper/009.png", "b/PHOTO.JPG"]
    )
    unreadable = [
        (name, split.sample_ids.index("b/PHOTO.JPG"))
        for name, split in dataset.splits.items()
        if "b/PHOTO.JPG" in split.sample_ids
    ]
    with pytest.raises(UnreadableImageError, match=r"b/PHOTO\.JPG"):
        dataset.image(*unreadable[0])


def test_a_link_that_leads_nowhere_is_kept_and_unreadable(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / name, 1)
    (tmp_path / "a" / "000.png").unlink()
    (tmp_path / "a" / "lost.png").symlink_to(tmp_path / "gone.png")
    dataset = open_dataset(str(tmp_path))
    assert dataset.splits["train"].sizes[0] == 0
    with pytest.raises(UnreadableImageError, match="no such file"):
        dataset.image("train", 0)


def _empty_class(root: Path) -> None:
    fill(root / "a", 1)
    (root / "b").mkdir()


def _single_class(root: Path) -> None:
    fill(root / "a", 3)


def _no_folders(root: Path) -> None:
    fill(root, 2)


def _unknown_test_class(root: Path) -> None:
    for place in ("train/a", "train/b", "test/a", "test/zebra"):
        fill(root / place, 1)


def _no_train(root: Path) -> None:
    for place in ("val/a", "test/a"):
        fill(root / place, 1)


def _flat_test(root: Path) -> None:
    for place in ("train/a", "train/b", "test"):
        fill(root / place, 4)


def _two_vals(root: Path) -> None:
    for place in ("train/a", "train/b", "val/a", "valid/a"):
        fill(root / place, 1)


def _equal_names(root: Path) -> None:
    for place in ("hot_dog", "hot dog"):
        fill(root / place, 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_empty_class, "class folder .*b holds no images"),
        (_single_class, "single class, 'a'"),
        (_no_folders, "holds 2 images but no class folders"),
        (_unknown_test_class, "the first: 'zebra'"),
        (_no_train, "no 'train' folder"),
        (_flat_test, "holds 4 images but no class folders"),
        (_two_vals, "two folders for one split"),
        (_equal_names, "both mean 'hot dog'"),
        (lambda root: None, "holds no class folders"),
    ],
)
def test_bad_folders_get_one_clear_sentence(tmp_path: Path, make, words: str) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        open_dataset(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_files_of_different_size_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_digest_of_ends", lambda path: pytest.fail(f"{path} was opened"))
    monkeypatch.setattr(keys_module, "_digest_of_file", lambda path: pytest.fail(f"{path} was read"))
    keys = content_keys(tmp_path, [(f"a/{n}.png", 100 + n) for n in range(50)])
    assert len(set(keys)) == 50


def test_copies_in_both_ends_but_not_between_are_different(tmp_path: Path) -> None:
    ends = b"x" * 5000
    for name, middle in {"a": b"1", "b": b"2", "c": b"1"}.items():
        (tmp_path / name).write_bytes(ends + middle + ends)
    keys = content_keys(tmp_path, [(name, 10001) for name in "abc"])
    assert keys[0] == keys[2] != keys[1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(contents=st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=12))
def test_keys_are_equal_exactly_for_equal_contents(tmp_path: Path, contents: list[bytes]) -> None:
    files = []
    for number, content in enumerate(contents):
        (tmp_path / f"{number}").write_bytes(content)
        files.append((f"{number}", len(content)))
    keys = content_keys(tmp_path, files)
    for i, a in enumerate(contents):
        for j, b in enumerate(contents):
            assert (keys[i] == keys[j]) == (a == b)
    assert content_keys(tmp_path, files[::-1]) == keys[::-1]


def test_natural_order() -> None:
    assert sorted(["10", "9", "1a", "a10", "a9", "B"], key=natural_order) == ["1a", "9", "10", "B", "a9", "a10"]


def test_ten_thousand_files(tmp_path: Path) -> None:
    import time
    import tracemalloc

    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5000):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"%d" % number)
    tracemalloc.start()
    start = time.perf_counter()
    dataset = open_dataset(str(tmp_path))
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, dataset.splits.values())) == 10_000
    assert seconds < 20
    assert peak < 30e6  # names and keys, never pixels
