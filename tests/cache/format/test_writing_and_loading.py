"""Round trips, determinism, damage: a cache loads as it was written, or says in one sentence why not."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cafe
from cafe.cache.format.arrays import text_array, texts_of
from cafe.cache.format.checksums import array_sha256
from cafe.cache.format.layout import arrays_to_store, attributes_to_store
from cafe.cache.format.provenance import Provenance
from cafe.cache.format.reader import load_projection, load_sizes, read_features, summarise
from cafe.cache.format.verify import verify_cache
from cafe.cache.format.writer import StreamedArray, write_arrays, write_cache
from cafe.errors import CacheError, InputError
from cafe.features import Features, Split

PROVENANCE = Provenance("toys", "cafe:mini", {"weights": "ab"}, {"templates": []})


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 9),
    d=st.sampled_from([1, 3, 8, 513]),
    c=st.integers(1, 4),
    m=st.integers(1, 3),
    views=st.integers(0, 2),
    dtype=st.sampled_from(["float16", "float32"]),
    memmap=st.sampled_from([False, True, "auto"]),
    name=st.text(min_size=1).filter(lambda text: not text.endswith("\0")),
)
def test_round_trip(n, d, c, m, views, dtype, memmap, name):
    rng = np.random.default_rng(n * d)
    image = rng.standard_normal((n, d)).astype(dtype)
    view = rng.standard_normal((views, n, d)).astype(dtype) if views else None
    ids = np.array([f"{name}{i}" for i in range(n)], dtype=np.str_)
    text = rng.standard_normal((m, c, d)).astype(dtype)
    names = tuple(f"{name}{i}x" for i in range(c))
    given = Features({"test": Split(image, rng.integers(0, c, n), ids, view)}, names, text, ("{}",) * m, 7.5, -1.25)
    with tempfile.TemporaryDirectory() as folder:
        loaded = read_features(write_cache(Path(folder) / "a.h5", given, PROVENANCE, stored_dtype=dtype), memmap=memmap)
        split = loaded.splits["test"]
        assert split.image_features.dtype == dtype
        np.testing.assert_array_equal(split.image_features, image)
        np.testing.assert_array_equal(split.labels, given.splits["test"].labels)
        assert split.sample_ids.tolist() == ids.tolist()
        assert (split.view_features is None) == (views == 0)
        if views:
            np.testing.assert_array_equal(split.view_features, view)
        np.testing.assert_array_equal(loaded.text_features, text)
        assert (loaded.class_names, loaded.templates) == (names, ("{}",) * m)
        assert (loaded.logit_scale, loaded.logit_bias) == (7.5, -1.25)
        del split, loaded  # maps are closed before the folder goes


@given(st.lists(st.text(st.characters(codec="utf-8")).filter(lambda text: not text.endswith("\0"))))
def test_any_text_survives(texts):
    assert texts_of(text_array(texts)) == texts


def test_file_name_that_is_not_utf8_survives(make, tmp_path):
    features = make.features({"test": 2})
    ids = np.array(["a/\udcff.jpg", "b"], dtype=np.str_)
    split = features.splits["test"]
    odd = Features({"test": Split(split.image_features, split.labels, ids)}, features.class_names)
    path = write_cache(tmp_path / "a.h5", odd, make.provenance(text=False))
    assert read_features(path).splits["test"].sample_ids.tolist() == ids.tolist()


def test_everything_optional_comes_back(full_cache, make):
    features, given = read_features(full_cache), make.features(views=2, width=5)
    assert features.splits["test"].view_features.shape == (2, 4, 6)
    expected = given.splits["train"].projection_features.astype(np.float16)
    np.testing.assert_array_equal(features.splits["train"].projection_features, expected)
    np.testing.assert_array_equal(
        load_projection(full_cache), np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)
    )
    assert load_sizes(full_cache)["train"].tolist() == [0, 1, 2, 3, 4]
    assert features.provenance["seeds"] == [1, 2]
    assert features.provenance["unreadable"] == [{"split": "train", "sample_id": "x.jpg", "reason": "truncated"}]
    assert features.provenance["recorded"] == {"image": {"device": "cpu"}}


def test_without_text_features_and_sizes(make, tmp_path):
    path = write_cache(tmp_path / "a.h5", make.features(text=False), make.provenance(text=False))
    features = read_features(path)
    assert features.text_features is None
    assert features.templates == ()
    assert features.provenance["text_fingerprint"] == ""
    assert load_sizes(path)["train"].tolist() == [-1] * 5
    assert load_projection(path) is None
    assert verify_cache(path).ok


def test_exported_from_cafe_and_rewritten_from_loaded(full_cache, tmp_path):
    features = cafe.load_features(full_cache)
    copy = write_cache(tmp_path / "copy.h5", features, projection=load_projection(full_cache))
    again = read_features(copy).provenance
    assert {again[key] for key in ("fingerprint",)} == {features.provenance["fingerprint"]}
    with pytest.raises(InputError, match="provenance lacks dataset, encoder, image"):
        write_cache(tmp_path / "b.h5", Features(features.splits, features.class_names))


def test_text_is_marked_as_utf8(full_cache):
    with h5py.File(full_cache) as file:
        for name in ("class_names", "templates", "provenance", "splits/train/sample_ids"):
            kind = h5py.check_string_dtype(file[name].dtype)
            assert kind.encoding == "utf-8"
            assert kind.length is not None
        assert file["splits/train/sample_ids"].asstr()[0] == "train/é_0.jpg"


def test_splits_keep_their_order(make, tmp_path):
    path = write_cache(tmp_path / "a.h5", make.features({"train": 2, "val": 2, "test": 2}), make.provenance())
    assert list(read_features(path).splits) == ["train", "val", "test"]


def test_same_data_give_the_same_file(make, tmp_path):
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path in paths:
        write_cache(path, make.features(), make.provenance(), created=moment)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    write_cache(paths[1], make.features(), make.provenance())
    sums = [read_features(path).provenance["content_sha256"] for path in paths]
    assert sums[0] == sums[1]


@pytest.mark.parametrize("in_order", ["all", "rows", "none"])
def test_arrays_that_arrive_in_parts(make, tmp_path, monkeypatch, in_order):
    """Parts in the order of the bytes are hashed as they pass; others from the file; the file is the same."""
    features = make.features({"test": 7}, views=2)
    arrays = arrays_to_store(features, make.provenance(), "float16", None, None)
    attributes = attributes_to_store(features, make.provenance(), False, None, datetime(2026, 1, 31, tzinfo=UTC))
    write_arrays(tmp_path / "whole.h5", arrays, attributes)
    rows, views = "splits/test/image_features", "splits/test/view_features"
    whole = {name: arrays[name] for name in (rows, views)}
    streamed = {name: StreamedArray(array.shape, array.dtype) for name, array in whole.items()}
    cuts = [slice(0, 3), slice(3, 6), slice(6, 7)]
    parts = [(rows, cut, whole[rows][cut]) for cut in (cuts[::-1] if in_order == "none" else cuts)]
    if in_order == "all":
        parts += [(views, (view, cut), whole[views][view, cut]) for view in range(2) for cut in cuts]
    else:
        parts += [(views, (slice(None), cut), whole[views][:, cut]) for cut in cuts]
    read_again = []
    monkeypatch.setattr(
        "cafe.cache.format.writer.array_sha256", lambda array: read_again.append(array.name[1:]) or array_sha256(array)
    )
    write_arrays(tmp_path / "parts.h5", {**arrays, **streamed}, attributes, parts)
    assert read_again == {"all": [], "rows": [views], "none": [rows, views]}[in_order]
    assert verify_cache(tmp_path / "parts.h5").ok
    assert (tmp_path / "parts.h5").stat().st_size == (tmp_path / "whole.h5").stat().st_size
    sums = [read_features(tmp_path / f"{name}.h5").provenance["content_sha256"] for name in ("whole", "parts")]
    assert sums[0] == sums[1]


def test_a_cache_from_memory_is_not_read_again_for_its_checksums(make, tmp_path, monkeypatch):
    def refuse(array):
        raise AssertionError(f"{array.name} was read again")

    monkeypatch.setattr("cafe.cache.format.writer.array_sha256", refuse)
    path = write_cache(tmp_path / "a.h5", make.features({"train": 5, "test": 1}, views=1), make.provenance())
    assert verify_cache(path).ok


def test_memory_map_reads_from_the_file(full_cache):
    features = read_features(full_cache, memmap=True)
    image = features.splits["train"].image_features
    assert isinstance(image, np.memmap)
    assert not image.flags.writeable
    np.testing.assert_array_equal(image, read_features(full_cache).splits["train"].image_features)


def test_arrays_are_contiguous_and_uncompressed(full_cache):
    with h5py.File(full_cache) as file:
        for name in ("splits/train/image_features", "splits/train/sample_ids", "text_features", "provenance"):
            assert file[name].chunks is None
            assert file[name].compression is None
            assert file[name].id.get_offset() is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.splits["train"].image_features.__setitem__((0, 0), np.nan), "not finite"),
        (lambda f: f.splits["train"].image_features.__setitem__((0, 0), 1e5), r"100000, too large for float16"),
        (lambda f: f.splits["train"].labels.__setitem__(0, 3), "labels outside 0 to 2"),
        (lambda f: f.splits["train"].labels.__setitem__(0, -1), "labels outside 0 to 2"),
        (lambda f: f.splits.__setitem__("a/b", f.splits["train"]), "cannot be named 'a/b'"),
    ],
)
def test_what_cannot_be_stored_is_refused(make, tmp_path, change, message):
    features = make.features()
    change(features)
    with pytest.raises(InputError, match=message):
        write_cache(tmp_path / "a.h5", features, make.provenance())
    assert list(tmp_path.iterdir()) == []


def test_projection_features_need_the_projection(make, tmp_path):
    with pytest.raises(InputError, match="projection itself was not given"):
        write_cache(tmp_path / "a.h5", make.features(width=5), make.provenance())


READERS = [read_features, lambda path: read_features(path, memmap=True), verify_cache, summarise, load_sizes]


@pytest.mark.parametrize("reader", READERS)
def test_truncation_anywhere_is_a_cache_error(full_cache, tmp_path, reader):
    content = full_cache.read_bytes()
    cut = tmp_path / "cut.h5"
    for size in sorted({*range(0, 100, 9), *range(100, len(content), 997), len(content) - 1}):
        cut.write_bytes(content[:size])
        with pytest.raises(CacheError, match=r"cut\.h5 is truncated"):
            reader(cut)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_cache_is_named_so(tmp_path, reader):
    with pytest.raises(CacheError, match=r"there is no cache .*missing\.h5"):
        reader(tmp_path / "missing.h5")
    with pytest.raises(CacheError, match="is not a file"):
        reader(tmp_path)
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    with pytest.raises(CacheError, match="not an HDF5 file"):
        reader(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["data"] = [1, 2]
    with pytest.raises(CacheError, match="an HDF5 file, but not a cache of cafe"):
        reader(tmp_path / "foreign.h5")


def test_newer_format_version_is_refused(full_cache):
    with h5py.File(full_cache, "r+") as file:
        file.attrs["format_version"] = 3
    with pytest.raises(CacheError, match="format version 3, but this cafe reads up to version 2; upgrade"):
        read_features(full_cache)


def test_unknown_additions_are_ignored(full_cache, reseal):
    before = read_features(full_cache)
    with h5py.File(full_cache, "r+", libver=("v108", "v108")) as file:
        file["extra/array"] = [1.0]
        file.attrs["extra"] = np.bytes_("more")
    reseal(full_cache)
    assert verify_cache(full_cache).ok
    assert read_features(full_cache).class_names == before.class_names


@pytest.mark.parametrize("name", ["class_names", "provenance", "splits/train/labels", "splits/test", "templates"])
def test_missing_piece_is_named(full_cache, name):
    with h5py.File(full_cache, "r+") as file:
        del file[name]
    with pytest.raises(CacheError, match=f"damaged.*{name.split('/')[-1]}"):
        read_features(full_cache)
