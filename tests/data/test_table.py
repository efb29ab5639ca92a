import json
import shutil
import time
from pathlib import Path

import pytest

from cafe.data import open_dataset
from cafe.errors import InputError, UnreadableImageError


def sizes(dataset) -> dict[str, int]:
    return {name: len(split) for name, split in dataset.splits.items()}


def test_csv_with_a_split_column_and_semicolons(tmp_path: Path, make_files) -> None:
    names = make_files(tmp_path, [f"p/{n}.png" for n in range(6)])
    rows = zip(names, ["hot_dog", "cat"] * 3, ["train", "Train", "valid", "dev", "testing", "test"], strict=True)
    text = "\ufeffPath;Class;Split\n" + "\n".join(";".join(row) for row in rows)  # as a spreadsheet writes it
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    dataset = open_dataset(str(tmp_path / "mine.csv"))
    assert dataset.name == "mine"
    assert dataset.class_names == ("cat", "hot dog")
    assert sizes(dataset) == {"train": 2, "val": 2, "test": 2}
    assert dataset.split_origin == "published"
    assert list(dataset.splits["train"].sample_ids) == ["p/0.png", "p/1.png"]
    assert dataset.splits["train"].labels.tolist() == [1, 0]
    assert dataset.splits["train"].sizes[0] == (tmp_path / "p/0.png").stat().st_size
    assert dataset.image("val", 1).getpixel((0, 0)) == (3, 0, 30)


def test_jsonl_without_splits_is_divided(tmp_path: Path, make_files) -> None:
    names = make_files(tmp_path, [f"{n}.png" for n in range(20)])
    lines = [json.dumps({"image_path": name, "category": number % 2}) for number, name in enumerate(names)]
    (tmp_path / "t.jsonl").write_text("\n\n".join(lines))
    dataset = open_dataset(str(tmp_path / "t.jsonl"))
    assert sizes(dataset) == {"train": 10, "val": 4, "test": 6}
    assert dataset.split_origin == "hash, stratified, 50/20/30"
    assert dataset.class_names == ("0", "1")
    assert "called by numbers" in dataset.notes[0]
    (tmp_path / "classnames.txt").write_text("cat\nhot dog\n")
    named = open_dataset(str(tmp_path / "t.jsonl"))
    assert (named.class_names, named.notes) == (("cat", "hot dog"), [])
    assert named.splits["train"].labels.tolist() == dataset.splits["train"].labels.tolist()


def test_copies_stay_on_one_side(tmp_path: Path, make_files) -> None:
    names = make_files(tmp_path, [f"{n}.png" for n in range(20)])
    for name in names:
        shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
    rows = [f"{file},{int(name[:-4]) % 2}" for name in names for file in (name, f"copy-{name}")]
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    for split in open_dataset(str(tmp_path / "t.csv")).splits.values():
        assert {f"copy-{file}".replace("copy-copy-", "") for file in split.sample_ids} == set(split.sample_ids)


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
def test_hugging_face_image_folders(tmp_path: Path, table: str, make_files) -> None:
    for split in ("train", "test"):
        names = make_files(tmp_path / split, ["a.png", "b.png"])
        rows = [{"file_name": name, "label": kind} for name, kind in zip(names, ("cat", "dog"), strict=True)]
        as_csv = "\n".join(["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)])
        text = as_csv if table.endswith("csv") else "\n".join(map(json.dumps, rows))
        (tmp_path / split / table).write_text(text)
    dataset = open_dataset(str(tmp_path))
    assert dataset.name == tmp_path.name
    assert list(dataset.splits["test"].sample_ids) == ["test/a.png", "test/b.png"]


def test_tables_named_after_splits(tmp_path: Path, make_files) -> None:
    make_files(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "train.tsv").write_text("file\tlabel\na.png\tx\nb.png\ty\n")
    (tmp_path / "test.csv").write_text('file,label\n"c.png","x"\nd.png,y\n')
    assert sizes(open_dataset(str(tmp_path))) == {"train": 2, "test": 2}


def test_columns_by_name(tmp_path: Path, make_files) -> None:
    names = make_files(tmp_path, [f"{n}.png" for n in range(4)])
    rows = [f"{name},x,{'ab'[n % 2]},{'train' if n < 2 else 'test'}" for n, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["photo,label,kind,fold", *rows]))
    dataset = open_dataset(f"{tmp_path}/t.csv?path=photo&label=kind&split=fold")
    assert dataset.class_names == ("a", "b")
    assert sizes(dataset) == {"train": 2, "test": 2}
    for reference, words in {
        "t.csv": r"no column for the path: it has photo, label, kind, fold; call it 'file_name', or .*\?path=COLUMN",
        "t.csv?path=photos": "no column 'photos'; it has: photo, label, kind, fold",
        "t.csv?paths=photo": "unknown option of .*'paths'; did you mean 'path'",
        "t.csv?path=": "option 'path' has no value",
        "t.csv?": r"after \? come options such as path=",
    }.items():
        with pytest.raises(InputError, match=words):
            open_dataset(f"{tmp_path}/{reference}")


def test_paths_that_lie_elsewhere_do_not_enter_the_identity(tmp_path: Path, make_files) -> None:
    identities = []
    for place in ("here", "there"):
        names = make_files(tmp_path / place / "photos", [f"{n}.png" for n in range(4)])
        (tmp_path / place / "tables").mkdir()
        rows = [f"{tmp_path / place / 'photos' / name},{n % 2},train" for n, name in enumerate(names[:2])]
        rows += [f"{name},{n % 2},test" for n, name in enumerate(names[2:])]
        (tmp_path / place / "tables" / "t.csv").write_text("\n".join(["path,label,split", *rows]))
        table = tmp_path / place / "tables" / "t.csv"
        with pytest.raises(InputError, match="is not inside"):
            open_dataset(str(table))
        dataset = open_dataset(f"{table}?images={tmp_path / place / 'photos'}")
        assert dataset.splits["train"].sample_ids[0] == "0.png"
        assert dataset.image("test", 1).mode == "RGB"
        identities.append(dataset.identity())
    assert identities[0] == identities[1]


def test_lacking_images(tmp_path: Path, make_files) -> None:
    make_files(tmp_path, ["a.png", "b.png"])
    (tmp_path / "t.csv").write_text("path,label,split\na.png,x,train\nb.png,y,train\nlost.png,x,test\n")
    with pytest.raises(InputError, match=r"names 1 image that is not in .*'lost\.png'.*--on-error skip"):
        open_dataset(str(tmp_path / "t.csv"))
    dataset = open_dataset(str(tmp_path / "t.csv"), lenient=True)
    assert dataset.splits["test"].sizes.tolist() == [0]
    with pytest.raises(UnreadableImageError, match="no such file"):
        dataset.image("test", 0)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "", "has no rows"),
        ("t.csv", "path,label\n", "has no rows"),
        ("t.csv", "path,kind\na.png,x\n", "no column for the label: it has path, kind"),
        ("t.csv", "path,label\na.png,x\nb.png,\n", "line 3: column 'label' is empty"),
        ("t.csv", "path,label\na.png,x\nb.png\n", "line 3: column 'label' is empty"),
        ("t.csv", "path,label,split\na.png,x,left\n", "line 2: split 'left' is none of train, val, test"),
        ("t.csv", "path,label\na.png,x\na.png,y\n", r"line 3: 'a\.png' is already in t\.csv, line 2"),
        ("t.csv", "path,label\na.png,x\nb.png,x\n", "has 1 class"),
        ("t.csv", "path,label\na.png,a_b\nb.png,a b\n", "two classes called 'a b'"),
        ("t.csv", "path,label\nhttps://x.org/a.png,x\n", "is an address"),
        (
            "t.csv",
            "path,label,split\na.png,x,train\nb.png,y,test\n",
            "1 of its classes have test images but no training",
        ),
        ("t.jsonl", "{}\n", "no column for the path"),
        ("t.jsonl", "[1]\n", "line 1: a JSON object is needed"),
        ("t.jsonl", '{"path": "a.png", "label": ["x", "y"]}\n', r"column 'label' is \['x', 'y'\], not one"),
        ("t.jsonl", '{"path": "a.png", "label": true}\n', "column 'label' is True"),
        ("t.jsonl", "{'path'\n", "line 1: not JSON"),
    ],
)
def test_bad_tables_get_one_clear_sentence(tmp_path: Path, make_files, name: str, text: str, words: str) -> None:
    make_files(tmp_path, ["a.png", "b.png"])
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        open_dataset(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert "t." in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(InputError, match="cannot be read as a table"):
        open_dataset(str(tmp_path / "t.csv"))


def test_a_label_that_is_not_listed(tmp_path: Path, make_files) -> None:
    make_files(tmp_path, ["a.png", "b.png"])
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    for label, words in (("2", r"label '2' is none of the 2 classes listed: 'cat' \(0\) to 'dog'"), ("cow", "'cow'")):
        (tmp_path / "t.csv").write_text(f"path,label\na.png,{label}\nb.png,{'cat' if label == 'cow' else 0}\n")
        with pytest.raises(InputError, match=words):
            open_dataset(str(tmp_path / "t.csv"))


def test_a_folder_of_classes_stays_one(tmp_path: Path, make_files) -> None:
    make_files(tmp_path, ["train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/d.png"])
    (tmp_path / "labels.csv").write_text("this is no metadata table\n")
    assert type(open_dataset(str(tmp_path))).__name__ == "ImageFolder"


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    rows = [f"{number % 50}/{number}.jpg,{number % 7},train" for number in range(99_999)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows, "last.jpg,0,test"]))
    start = time.perf_counter()
    dataset = open_dataset(str(tmp_path / "t.csv"), lenient=True)
    assert time.perf_counter() - start < 15  # 0.7 s on an idle core
    assert sizes(dataset) == {"train": 99_999, "test": 1}
