"""What lies in a folder is said: files left out, nested folders, identical images, formats of other programs."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cafe.data import open_dataset
from cafe.data.images import files as files_module
from cafe.data.images.decoding import read_image
from cafe.data.images.other_formats import kind_by_content, kind_by_name
from cafe.errors import InputError, UnreadableImageError


def fill(folder: Path, n: int, start: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + n):
        Image.new("RGB", (3, 2), (number % 256, number // 256, len(folder.name))).save(folder / f"{number:03d}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for start, name in ((0, "cat"), (20, "dog")):
        fill(tmp_path / name, 10, start)
    return tmp_path


def test_a_plain_folder_has_nothing_to_say(photos: Path) -> None:
    dataset = open_dataset(str(photos))
    assert dataset.notes == []
    assert dataset.contents is not None
    assert dataset.contents.images == 20
    assert (dataset.contents.left_out, dataset.contents.nested, dataset.contents.identical) == ((), {}, ())


def test_files_left_out_are_counted_and_named_by_what_they_are(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "reads_heic", lambda: False)
    for name in ("cat/a.heic", "cat/b.HEIC", "dog/scan.pdf", "notes.txt", "clip.mp4"):
        (photos / name).touch()
    fill(photos, 1, 90)
    (photos / "Thumbs.db").touch()
    dataset = open_dataset(str(photos))
    contents = dataset.contents
    assert contents is not None
    assert sorted(file.path for file in contents.left_out) == [
        "090.png", "cat/a.heic", "cat/b.HEIC", "clip.mp4", "dog/scan.pdf", "notes.txt"
    ]  # fmt: skip
    counts = json.loads(json.dumps(contents.to_json()))["left_out_counts"]
    assert sum(counts.values()) == 6
    assert counts["HEIC, which pip install 'cafe-clip[heic]' reads"] == 2
    (note,) = dataset.notes
    assert note.startswith("6 files were left out: ")
    assert "2 HEIC, which pip install 'cafe-clip[heic]' reads: cat/a.heic, cat/b.HEIC" in note
    assert "1 images in no class folder: 090.png" in note
    assert "scan.pdf" in note and "clip.mp4" in note


def test_a_class_folder_of_heic_alone_says_what_would_read_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "reads_heic", lambda: False)
    (photos / "phone").mkdir()
    (photos / "phone" / "1.heic").touch()
    with pytest.raises(InputError, match=r"phone holds no images \(1 file was left out: HEIC.*cafe-clip\[heic\]"):
        open_dataset(str(photos))


def test_nested_folders_count_to_the_class_above(photos: Path) -> None:
    fill(photos / "cat" / "2024" / "may", 2, 50)
    fill(photos / "dog" / "old", 1, 60)
    dataset = open_dataset(str(photos))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.contents is not None
    assert dataset.contents.nested == {"cat/2024/may": "cat", "dog/old": "dog"}
    assert "the images of 2 nested folders count to the class of the folder above: cat/2024/may to 'cat'" in "".join(
        dataset.notes
    )


def test_a_folder_in_a_folder_is_looked_into(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outer = tmp_path_factory.mktemp("outer") / "pets"
    shutil.copytree(photos, outer / "archive" / "images")
    dataset = open_dataset(str(outer))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.name == "pets"
    assert dataset.notes == ["the classes are the folders in archive/images, the only folder there is"]
    assert dataset.contents is not None
    assert dataset.contents.inside == "archive/images"
    assert dataset.image("train", 0).size == (3, 2)
    fill(outer / "other", 1, 99)
    assert open_dataset(str(outer)).class_names == ("archive", "other")


def test_copies_are_counted_and_stay_on_one_side(photos: Path) -> None:
    for number in range(10):
        shutil.copy(photos / "cat" / f"{number:03d}.png", photos / "cat" / f"copy{number}.png")
    dataset = open_dataset(str(photos))
    assert dataset.contents is not None
    assert dataset.contents.identical is not None
    assert len(dataset.contents.identical) == 10
    for copy, other in dataset.contents.identical:
        assert copy.split == other.split
        assert (photos / copy.sample_id).read_bytes() == (photos / other.sample_id).read_bytes()
    (note,) = dataset.notes
    assert note.startswith("10 images are copies of another of the same class, such as cat/")
    assert note.endswith("copies are kept on one side of the split")


def test_one_image_under_two_labels_is_a_warning_with_both_names(photos: Path) -> None:
    shutil.copy(photos / "cat" / "003.png", photos / "dog" / "really.png")
    dataset = open_dataset(str(photos))
    assert dataset.notes == ["identical images have different labels: cat/003.png (cat) and dog/really.png (dog)"]
    assert {"cat/003.png", "dog/really.png"} <= set(dataset.splits["train"].sample_ids)


def test_identical_images_only(tmp_path: Path) -> None:
    for name in ("a", "bb"):
        fill(tmp_path / name, 1)
        for number in range(5):
            shutil.copy(tmp_path / name / "000.png", tmp_path / name / f"c{number}.png")
    dataset = open_dataset(str(tmp_path))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 12}
    assert "no test is possible: the images of each class are copies of one another" in dataset.notes


def test_what_a_file_is_by_its_name_and_by_its_content() -> None:
    assert kind_by_name("IMG_1.NEF").startswith("raw files of a camera")
    assert kind_by_name("x.tar.gz").startswith("archives")
    assert kind_by_content(b"\0\0\0\x18ftypheic") == kind_by_name("a.heic")
    assert kind_by_content(b"\xff\xd8\xff") is None
    with pytest.raises(UnreadableImageError, match="it is PDF, whose pages"):
        read_image(b"%PDF-1.4 ...", "a.jpg")


def test_heic_is_read_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heic` is not installed")
    picture = Image.linear_gradient("L").convert("RGB").resize((64, 48))
    content = io.BytesIO()
    pillow_heif.from_pillow(picture).save(content, quality=95)
    read = read_image(content.getvalue(), "a.heic")
    assert (read.mode, read.size) == ("RGB", (64, 48))
    pairs = zip(read.convert("L").tobytes(), picture.convert("L").tobytes(), strict=True)
    assert max(abs(a - b) for a, b in pairs) < 16  # a lossy format
    for start, name in ((0, "a"), (50, "b")):
        fill(tmp_path / name, 2, start)
        (tmp_path / name / "phone.HEIC").write_bytes(content.getvalue() + name.encode())
    dataset = open_dataset(str(tmp_path))
    assert dataset.notes == []
    assert sum(sample.endswith(".HEIC") for split in dataset.splits.values() for sample in split.sample_ids) == 2


def test_heic_without_its_extra_says_what_would_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from cafe.data.images import decoding

    monkeypatch.setattr(decoding, "_FORMATS", tuple(name for name in decoding._FORMATS if name != "HEIF"))
    with pytest.raises(UnreadableImageError, match=r"it is HEIC, which pip install 'cafe-clip\[heic\]' reads"):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "phone.heic")


def test_a_hundred_megapixels_are_read(tmp_path: Path) -> None:
    Image.new("L", (12_500, 8_000), 200).save(tmp_path / "big.png", compress_level=1)
    image = read_image(tmp_path / "big.png", "big.png")
    assert (image.mode, image.size, image.getpixel((12_499, 7_999))) == ("RGB", (12_500, 8_000), (200, 200, 200))
