import sys
from pathlib import Path

import pytest

from cafe.data import open_dataset
from cafe.errors import InputError, MissingDependencyError, UnreadableImageError

datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")


def sizes(dataset) -> dict[str, int]:
    return {name: len(split) for name, split in dataset.splits.items()}


def rows(make_png, start: int, n: int, **columns):
    images = [{"bytes": make_png(start + i), "path": f"{start + i}.png"} for i in range(n)]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "hot_dog"])}
    data = {"image": images, "label": [i % 2 for i in range(n)], **columns}
    return datasets.Dataset.from_dict(data, features=datasets.Features(features) if not columns else None)


def test_parquet(tmp_path: Path, bring, make_png) -> None:
    dataset = open_dataset(str(bring["hugging-face"](tmp_path)))
    assert dataset.class_names == ("cat", "hot dog")
    assert sizes(dataset) == {"train": 4, "val": 4, "test": 4}
    assert dataset.splits["val"].sample_ids[1] == "validation/0000001"
    assert dataset.splits["val"].sizes[1] == len(make_png(11))
    assert dataset.image("val", 1).getpixel((0, 0)) == (11, 0, 30)


def test_saved_to_disk_with_and_without_splits(tmp_path: Path, make_png) -> None:
    datasets.DatasetDict(train=rows(make_png, 0, 4), test=rows(make_png, 4, 4)).save_to_disk(tmp_path / "both")
    assert sizes(open_dataset(str(tmp_path / "both"))) == {"train": 4, "test": 4}
    rows(make_png, 0, 20).shuffle(seed=0).save_to_disk(tmp_path / "one")
    dataset = open_dataset(str(tmp_path / "one"))
    assert sizes(dataset) == {"train": 10, "val": 4, "test": 6}
    assert dataset.split_origin == "hash, stratified, 50/20/30"


def test_one_parquet_file_with_other_columns(tmp_path: Path, make_png) -> None:
    columns = {"photo": [make_png(i) for i in range(4)], "kind": ["x_y", "b", "b", "x_y"]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(InputError, match=r"none of the usual ones \(photo, kind\) for the image.*\?image=COLUMN"):
        open_dataset(str(tmp_path / "mine.parquet"))
    dataset = open_dataset(f"{tmp_path}/mine.parquet?image=photo&label=kind")
    assert dataset.name == "mine"
    assert dataset.class_names == ("b", "x y")
    assert dataset.image("train", 0).size == (8, 6)
    with pytest.raises(InputError, match="no column 'kinds'; it has: photo, kind"):
        open_dataset(f"{tmp_path}/mine.parquet?image=photo&label=kinds")


def test_two_class_labels_have_to_be_told_apart(tmp_path: Path, make_png) -> None:
    label = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"img": datasets.Image(), "fine_label": label, "coarse_label": label})
    images = [{"bytes": make_png(i), "path": None} for i in range(4)]
    data = {"img": images, "fine_label": [0, 1, 0, 1], "coarse_label": [0, 0, 1, 1]}
    datasets.Dataset.from_dict(data, features=features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match="has fine_label, coarse_label for the label column"):
        open_dataset(str(tmp_path / "train.parquet"))
    assert open_dataset(f"{tmp_path}/train.parquet?label=coarse_label").class_names == ("a", "b")


def test_splits_without_labels_are_left_out(tmp_path: Path, make_png) -> None:
    unlabelled = rows(make_png, 8, 2).map(lambda row: {"label": -1})
    parts = {"train": rows(make_png, 0, 4), "validation": rows(make_png, 4, 4), "test": unlabelled, "extra": unlabelled}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    dataset = open_dataset(str(tmp_path / "set"))
    assert sizes(dataset) == {"train": 4, "val": 4}
    assert dataset.notes == [
        "split 'test' was left out: it has rows without a label",
        "split 'extra' was left out: it is none of train, validation, test",
        "there is no test split, so nothing can be scored here",
    ]


def test_images_that_are_no_images(tmp_path: Path, make_png) -> None:
    # Written without the library, as other tools do: a struct of bytes and path, labels as plain text.
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [("text", b"text", "a.jpg"), ("lost", None, "/nowhere/b.jpg"), ("good", make_png(1), None)]
    images = [{"bytes": content, "path": path} for _, content, path in cells]
    for split in ("train", "test"):
        table = pa.table({"image": images, "label": [kind for kind, _, _ in cells]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    dataset = open_dataset(str(tmp_path))
    assert dataset.class_names == ("good", "lost", "text")
    assert dataset.splits["train"].sizes.tolist() == [4, 0, len(make_png(1))]
    with pytest.raises(UnreadableImageError, match="not an image"):
        dataset.image("train", 0)
    with pytest.raises(UnreadableImageError, match="no file where its path points"):
        dataset.image("test", 1)
    assert dataset.image("test", 2).size == (8, 6)


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match="cannot be read as a Hugging Face data set") as caught:
        open_dataset(str(tmp_path / "train.parquet"))
    assert "\n" not in str(caught.value)


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"hf:nobody/nothing cannot be loaded: .*a local copy works offline") as caught:
        open_dataset("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="did you mean 'config'"):
        open_dataset("hf:nobody/nothing?conf=x")


def test_a_name_that_the_hub_gives(monkeypatch: pytest.MonkeyPatch, make_png) -> None:
    asked = []

    def load_dataset(*given, **options):
        asked.append((given, options))
        return datasets.DatasetDict(train=rows(make_png, 0, 4), test=rows(make_png, 4, 4))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    dataset = open_dataset("hf:owner/pets?config=small&revision=abc")
    assert asked == [(("owner/pets", "small"), {"revision": "abc", "trust_remote_code": False})]
    assert (dataset.name, sizes(dataset)) == ("pets", {"train": 4, "test": 4})


def test_without_the_extra(tmp_path: Path, bring, monkeypatch: pytest.MonkeyPatch) -> None:
    bring["hugging-face"](tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for reference in (str(tmp_path), "hf:nobody/nothing"):
        with pytest.raises(MissingDependencyError, match=r"pip install 'cafe-clip\[datasets\]'"):
            open_dataset(reference)


def test_imagenet_has_the_same_ids_as_folders(tmp_path: Path, plant) -> None:
    plant("imagenet", tmp_path / "folders")
    whole = open_dataset("imagenet", tmp_path / "folders")
    synsets = datasets.ClassLabel(names=["tench, Tinca tinca", "goldfish, Carassius auratus", "stingray"])
    features = datasets.Features({"image": datasets.Image(), "label": synsets})
    target = tmp_path / "hub" / "imagenet"
    for split, word in (("train", "train"), ("test", "validation")):
        images, labels = [], []
        part = whole.splits[split]
        for sample, label in reversed(list(zip(part.sample_ids, part.labels.tolist(), strict=True))):
            path = Path(sample)
            content = (tmp_path / "folders" / "imagenet" / sample).read_bytes()
            images.append({"bytes": content, "path": f"{path.stem}_{path.parent.name}.JPEG"})
            labels.append(label)
        single = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        single.to_parquet(target / "data" / f"{word}-00000-of-00001.parquet")
    (target / "data" / "test-00000-of-00001.parquet").write_bytes(b"unlabelled, and not read")
    with pytest.raises(InputError, match=r"class names are expected in .*hub/imagenet/classnames\.txt"):
        open_dataset("imagenet", tmp_path / "hub")
    (target / "classnames.txt").write_text((tmp_path / "folders" / "imagenet" / "classnames.txt").read_text())
    dataset = open_dataset("imagenet", tmp_path / "hub")
    assert dataset.identity() == whole.identity()
    assert dataset.templates == whole.templates
    for split in whole.splits:
        for index in range(len(whole.splits[split])):
            assert dataset.image(split, index).size == whole.image(split, index).size
