"""Splits, tables, tars and folders from strangers: nothing that was not named is read, nothing hangs or grows."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from cafe.classifier.images import files_of
from cafe.data.images.decoding import read_image
from cafe.data.images.examples import example_picture
from cafe.data.images.files import natural_order
from cafe.data.opening import open_dataset
from cafe.errors import InputError, UnreadableImageError

LONG = "9" * 5000


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture that lies beside the data set, not in it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.png").write_bytes(example_picture(99) + bytes(77))  # of a size of its own
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for n in range(6):
        (folder / "images" / f"{n}.png").write_bytes(example_picture(n))
    return tmp_path / "secret" / "s.png"


def outside(secret: Path) -> list[str]:
    return ["../secret/s.png", "../../secret/s.png", str(secret), "images/../../secret/s.png", "a\0.png"]


@pytest.mark.parametrize("way", range(5))
def test_a_split_file_reads_nothing_outside(secret: Path, way: int) -> None:
    folder = secret.parents[1] / "data"
    rows = {"train": [["0.png", 0, "a"], ["1.png", 1, "b"]], "val": [], "test": [[outside(secret)[way], 0, "a"]]}
    (folder / "split.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(InputError, match="not inside"):
        open_dataset(str(folder / "split.json"))
    with pytest.raises(InputError, match="not inside"):
        open_dataset(f"{folder / 'split.json'}?images={folder / 'images'}")


@pytest.mark.parametrize("way", range(5))
@pytest.mark.parametrize("extension", [".csv", ".jsonl"])
def test_a_table_reads_nothing_outside(secret: Path, way: int, extension: str) -> None:
    folder = secret.parents[1] / "data"
    rows = [(f"images/{n}.png", "ab"[n % 2]) for n in range(4)] + [(outside(secret)[way], "a")]
    if extension == ".csv":
        text = "path,label\n" + "\n".join(f"{path},{label}" for path, label in rows)
    else:
        text = "\n".join(json.dumps({"path": path, "label": label}) for path, label in rows)
    (folder / f"t{extension}").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        open_dataset(str(folder / f"t{extension}"))


def test_rows_of_parquet_read_nothing_outside(secret: Path) -> None:
    pytest.importorskip("datasets")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = secret.parents[1] / "data"
    paths = [str(secret), "../secret/s.png", "images/0.png", "images/1.png"]
    images = pa.array(
        [{"bytes": None, "path": path} for path in paths], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    parquet.write_table(pa.table({"image": images, "label": ["a", "b"] * 2}), folder / "train.parquet")
    dataset = open_dataset(str(folder))
    read = 0
    for split, part in dataset.splits.items():
        for index in range(len(part)):
            if part.sizes[index] == secret.stat().st_size:
                pytest.fail("the size of a file outside was read")
            try:
                image = dataset.image(split, index)
            except UnreadableImageError:
                continue
            read += 1
            assert image.tobytes() != read_image(secret, "s").tobytes()
    assert read == 2  # those inside


# ---------------------------------------------------------------------- tars


def member(tar: tarfile.TarFile, name: str, content: bytes, **changes: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def shard(folder: Path) -> tarfile.TarFile:
    folder.mkdir(exist_ok=True)
    tar = tarfile.open(folder / "train-0.tar", "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (the caller closes it)
    for n in range(4):
        member(tar, f"s{n}.png", example_picture(n))
        member(tar, f"s{n}.cls", "ab"[n % 2].encode())
    return tar


def test_a_sparse_label_of_64_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with shard(tmp_path / "tars") as tar:
        member(tar, "s9.png", example_picture(9))
        # PAX 0.1 of GNU tar: a member of 64 GB that is one hole, in a tar of a few KB.
        size = str(64 * 10**9)
        pax = {"GNU.sparse.map": f"{size},0", "GNU.sparse.size": size, "GNU.sparse.numblocks": "1"}
        member(tar, "s9.cls", b"", pax_headers={**pax, "GNU.sparse.name": "s9.cls"})
    with pytest.raises(InputError, match="64,000,000,000 bytes"):
        open_dataset(str(tmp_path / "tars"))


def test_a_sparse_image_is_refused(tmp_path: Path) -> None:
    with shard(tmp_path / "tars") as tar:
        pax = {"GNU.sparse.map": "500,0", "GNU.sparse.size": "500", "GNU.sparse.numblocks": "1"}
        member(tar, "s9.png", b"", pax_headers={**pax, "GNU.sparse.name": "s9.png"})
        member(tar, "s9.cls", b"a")
    with pytest.raises(InputError, match="with holes"):
        open_dataset(str(tmp_path / "tars"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("name", ["s9.png", "s9.cls"])
def test_links_and_devices_in_a_tar_are_not_followed(secret: Path, kind: bytes, name: str) -> None:
    folder = secret.parents[1] / "tars"
    with shard(folder) as tar:
        for own, content in (("s9.png", example_picture(9)), ("s9.cls", b"a")):
            if own == name:
                member(tar, name, b"", type=kind, linkname=str(secret))
            else:
                member(tar, own, content)
    with pytest.raises(InputError, match="sample 's9' has no"):
        open_dataset(str(folder))


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"label": ' + LONG.encode() + b"}", b'{"label": 1e999}', b"\xff"]
)
def test_a_json_label_that_no_parser_takes(tmp_path: Path, content: bytes) -> None:
    with shard(tmp_path / "tars") as tar:
        member(tar, "s9.png", example_picture(9))
        member(tar, "s9.json", content)
    with pytest.raises(InputError, match="sample 's9'"):
        open_dataset(str(tmp_path / "tars"))


@pytest.mark.parametrize("pattern", ["t-{0..999999999}.tar", "t-{0..9}" * 12 + ".tar", "t-{0.." + LONG + "}.tar"])
def test_a_pattern_of_too_many_shards(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError):
        open_dataset(str(tmp_path / pattern))


# ---------------------------------------------------------------------- names, numbers, pipes


def test_class_folders_that_are_not_utf8_are_a_sentence(tmp_path: Path) -> None:
    for name in (b"cat", b"caf\xe9"):
        folder = tmp_path / os.fsdecode(name)
        try:
            folder.mkdir()
        except OSError:
            pytest.skip("this file system takes UTF-8 names alone")
        for n in range(3):
            (folder / f"{n}.png").write_bytes(example_picture(n))
    with pytest.raises(InputError, match="not UTF-8"):
        open_dataset(str(tmp_path))


def test_an_image_whose_name_is_not_utf8_is_left_out_and_named(tmp_path: Path) -> None:
    """The folder is read without it, whether it is a data set or images to predict."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(4):
            (tmp_path / name / f"{n}.png").write_bytes(example_picture(n))
    try:
        (tmp_path / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(example_picture(9))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    dataset = open_dataset(str(tmp_path))
    assert sum(map(len, dataset.splits.values())) == 8
    assert dataset.notes[0] == "1 file was left out: a name that is not UTF-8, to be renamed: cat/caf\\xe9.png"
    left_out: list[str] = []
    assert len(list(files_of(tmp_path, left_out.append))) == 8
    assert left_out == [str(tmp_path / "cat" / "caf\\xe9.png")]


def test_numbers_of_any_length_are_ordered_as_numbers() -> None:
    names = [f"c{LONG}9", "c10", f"c{LONG}", "c009", "c9", "c2"]
    assert sorted(names, key=natural_order) == ["c2", "c009", "c9", "c10", f"c{LONG}", f"c{LONG}9"]


def test_a_label_of_thousands_of_digits_is_a_sentence(secret: Path) -> None:
    folder = secret.parents[1] / "data"
    rows = "\n".join(f"images/{n}.png,{n % 2}" for n in range(4))
    (folder / "t.csv").write_text(f"path,label\n{rows}\nimages/5.png,{LONG}\n", encoding="utf-8")
    (folder / "classnames.txt").write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(InputError, match="is none of the 2 classes"):
        open_dataset(str(folder / "t.csv"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"train": ' + LONG + "}", '{"train": [["a", 1e999, "b"]]}', "\x00"])
def test_a_split_file_that_no_parser_takes(tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        open_dataset(str(tmp_path / "split.json"))


def test_a_pipe_or_a_device_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), Path("/dev/stdin"), tmp_path, tmp_path / "a\0b"):
        with pytest.raises(UnreadableImageError):
            read_image(path, "given")


def test_a_bomb_is_refused_before_its_pixels(tmp_path: Path) -> None:
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(10_000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data, b"IEND")]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(UnreadableImageError):
        read_image(tmp_path / "bomb.png", "bomb")
