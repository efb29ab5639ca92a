"""cafe's reader of HDF5 agrees with h5py on whatever h5py writes, follows nothing out of a file, and always ends."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe.cache.format import hdf5
from cafe.cache.format.hdf5 import Attributes, DamagedFileError, StoredFile, TruncatedFileError
from cafe.cache.format.reader import read_features, summarise
from cafe.cache.format.verify import verify_cache
from cafe.cache.locate import find_cache, list_caches
from cafe.errors import CacheError

OLD = Path(__file__).parents[2] / "data" / "caches"
KINDS = ["<f2", "<f4", "<f8", "<i8", "<i4", "<u1", "?", "S1", "S7", ">i4"]


def read(path: Path) -> tuple[StoredFile, dict[str, np.ndarray]]:
    with path.open("rb") as stream:
        file = StoredFile(stream.fileno())
        return file, {name: array[()] for name, array in file.arrays.items()}


def same_attributes(ours: Attributes, theirs: h5py.AttributeManager) -> None:
    assert not ours.problems and set(ours) == set(theirs)
    for name, value in theirs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
            value = [text.decode() if isinstance(text, bytes) else text for text in value.tolist()]
        value = value.decode() if isinstance(value, bytes) else value
        np.testing.assert_array_equal(ours[name], value)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_it_reads_what_h5py_writes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("h") / "a.h5"
    libver = data.draw(st.sampled_from(["earliest", ("v108", "v108"), ("v110", "v110"), "latest"]))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    with h5py.File(path, "w", libver=libver) as file:
        for number in range(data.draw(st.sampled_from([0, 1, 7, 9, 60]))):
            kind = KINDS[int(random.integers(len(KINDS)))]
            shape = tuple(random.integers(0, 4, int(random.integers(0, 3))))
            name = f"g{number % 13}/h{number % 3}/n{number}" if number % 2 else f"n{number}"
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            values = random.integers(0, 2, size).astype("u1").tobytes()
            file[name] = np.frombuffer(values, dtype=kind).reshape(shape)
        owner = file[data.draw(st.sampled_from(sorted(file)))] if len(file) else file
        for number in range(data.draw(st.sampled_from([0, 1, 8, 9, 40, 300]))):
            texts = ["", "é" * int(random.integers(30)), f"text {number}"]
            value = [texts[number % 3], texts, number, number / 7, number % 2 == 0, np.arange(number % 5)][number % 6]
            owner.attrs[f"attribute {number}"] = value
    ours, arrays = read(path)
    assert not ours.problems
    with h5py.File(path) as theirs:
        names: list[str] = []
        theirs.visititems(lambda name, item: names.append(name))
        assert sorted(names) == sorted([*ours.arrays, *ours.groups])
        same_attributes(ours.attrs, theirs.attrs)
        for name in names:
            item = theirs[name]
            same_attributes(ours.groups[name] if name in ours.groups else ours.arrays[name].attrs, item.attrs)
            if isinstance(item, h5py.Dataset):
                assert ours.arrays[name].dtype.str == item.dtype.str
                theirs_here = np.asarray(item[()], dtype=item.dtype)  # h5py gives scalars in the machine's byte order
                assert arrays[name].tobytes() == theirs_here.tobytes() and arrays[name].shape == item.shape


def test_every_flip_in_the_heap_of_an_old_file_ends(tmp_path):
    """One flipped bit there made the HDF5 library loop for ever, out of reach of Ctrl-C."""
    content = (OLD / "extracted-0.1.0.h5").read_bytes()
    start, before, path = content.index(b"GCOL"), read_features(OLD / "extracted-0.1.0.h5"), tmp_path / "a.h5"
    begun, refused = time.monotonic(), 0
    for place in range(start, start + 2048, 5):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            after = read_features(path)
            ok = verify_cache(path).ok
        except CacheError:
            refused += 1
            continue
        assert not ok or {**after.provenance, "created": ""} == {**before.provenance, "created": ""}
    assert refused > 10
    assert time.monotonic() - begun < 120


def test_one_bad_file_breaks_no_other(tmp_path, make):
    """`cafe cache ls` and every look-up by name read all files of the folder."""
    from cafe.cache.format.writer import write_cache

    sound = write_cache(tmp_path / "sound.h5", make.features(), make.provenance())
    content = bytearray((OLD / "extracted-0.1.0.h5").read_bytes())
    content[content.index(b"GCOL") + 9] = 0  # of 4,096 bytes, the length of the heap block, 0 are left
    (tmp_path / "heap.h5").write_bytes(content)
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "signature.h5").write_bytes(hdf5.SIGNATURE * 100)
    with h5py.File(tmp_path / "flat.h5", "w") as file:  # features of one axis, and none of no axis
        file.attrs.update({"format": "cafe-features", "format_version": 1, "splits": ["train", "test"]})
        file["splits/train/image_features"], file["splits/test/image_features"] = [1.0], 2.0
        file["class_names"] = 3
    listed = {summary.path.name: summary.damaged for summary in list_caches(tmp_path)}
    assert listed.pop("sound.h5") is None
    assert set(listed) == {"heap.h5", "empty.h5", "signature.h5", "flat.h5"}
    assert all(listed.values())
    assert "array splits/train/image_features has 1 axes, not 2" in str(listed["flat.h5"])
    assert find_cache("toys", tmp_path) == sound


def outside(file: h5py.File, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_bytes(b"12345678" * 8)
    file.create_dataset("x", (4,), "<i8", external=[(str(secret), 0, 32)])


def virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "secret.h5", "w") as other:
        other["data"] = np.arange(4)
    layout = h5py.VirtualLayout((4,), "<i8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "data", (4,))
    file.create_virtual_dataset("x", layout)


FOREIGN = {
    "has its bytes in another file": outside,
    "as a view of other arrays": virtual,
    "is a soft link": lambda file, _: file.__setitem__("x", h5py.SoftLink("/class_names")),
    "is a link to another file": lambda file, _: file.__setitem__("x", h5py.ExternalLink("secret.h5", "data")),
    "leads back to a group above it": lambda file, _: file.__setitem__("splits/x", file["splits"]),
    "is compressed or filtered": lambda file, _: file.create_dataset("x", data=np.zeros(99), compression="gzip"),
    "is stored in chunks": lambda file, _: file.create_dataset("x", data=np.zeros(9), chunks=(3,)),
    "was never written": lambda file, _: file.create_dataset("x", (1 << 40, 1 << 10), "<f4"),
    "variable length": lambda file, _: file.__setitem__("x", ["text"]),
    "neither an array nor a group": lambda file, _: file.__setitem__("x", np.dtype("<f4")),
    "type that is none of those": lambda file, _: file.__setitem__("x", np.zeros(3, dtype="<c8")),
    "is empty, without a shape": lambda file, _: file.__setitem__("x", h5py.Empty("<f4")),
}


@pytest.mark.parametrize("problem", FOREIGN)
def test_nothing_is_followed_out_of_a_file(full_cache, tmp_path, problem):
    with h5py.File(full_cache, "r+", libver=("v110", "v110")) as file:
        FOREIGN[problem](file, tmp_path)
    report = verify_cache(full_cache)
    assert any(problem in finding for finding in report.findings), report.findings
    read_features(full_cache)  # what it does not know it ignores
    with full_cache.open("rb") as stream:
        name = "splits/x" if "leads back" in problem else "x"
        file = StoredFile(stream.fileno())
        with pytest.raises(DamagedFileError):
            file[name][()]


def test_features_in_another_file_are_not_read(full_cache, tmp_path):
    name = "splits/test/image_features"
    with h5py.File(full_cache, "r+", libver=("v110", "v110")) as file:
        shape = file[name].shape
        (tmp_path / "secret").write_bytes(bytes(1000))
        del file[name]
        file.create_dataset(name, shape, "<f2", external=[(str(tmp_path / "secret"), 0, 1000)])
    for memmap in (False, True):
        with pytest.raises(CacheError, match=f"array {name} has its bytes in another file, which is never read"):
            read_features(full_cache, memmap=memmap)
    with pytest.raises(CacheError, match="in another file"):
        summarise(full_cache)


def test_memory_and_time_have_a_limit(full_cache):
    with full_cache.open("rb") as stream, pytest.raises(DamagedFileError, match="which no cache needs"):
        StoredFile(stream.fileno(), metadata_limit=2000)


def test_a_file_that_loses_its_end_while_it_is_read(full_cache):
    with full_cache.open("r+b") as stream:
        file = StoredFile(stream.fileno())
        stream.truncate(4000)
        with pytest.raises(DamagedFileError, match="cut off"):
            [array[()] for array in file.arrays.values()]
        with pytest.raises(TruncatedFileError):
            StoredFile(stream.fileno())
