"""An image is encoded once, whatever becomes of its folder; and the file is the one that a fresh extraction makes."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from cafe.cache.extract.array_file import ArrayFile
from cafe.cache.extract.known import KnownKeys
from cafe.cache.extract.progress import ExtractionInterrupted
from cafe.cache.extract.run import extract, extract_many
from cafe.cache.extract.views import Views
from cafe.cache.format.reader import read_features
from cafe.cache.format.verify import verify_cache
from cafe.cache.locks import try_claim
from cafe.cache.transfer.merging import merge_caches
from cafe.data import open_dataset
from cafe.encoders import open_encoder
from cafe.errors import CacheError


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (number % 200, number // 200, 7))


def fill(folder: Path, n: int, start: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + n):
        picture(number).save(folder / f"{number:03d}.png")


@pytest.fixture
def photos(tmp_path):
    fill(tmp_path / "photos" / "cat", 14, 0)
    fill(tmp_path / "photos" / "dog", 11, 100)
    return tmp_path / "photos"


@pytest.fixture
def again(photos, fakes, tmp_path_factory):
    """Extract the folder as it is now beside what is there, and compare with a fresh extraction elsewhere."""

    def extract_again(out, encoder=None, **options):
        encoder = encoder or fakes[1]()
        summary = extract(open_dataset(str(photos)), encoder, out, **options)
        elsewhere = tmp_path_factory.mktemp("fresh") / "a.h5"
        fresh = extract(open_dataset(str(photos)), fakes[1](**_changes(encoder)), elsewhere, **options)
        assert verify_cache(summary.path).ok
        assert content(summary.path) == content(fresh.path)
        assert summary.encoded + summary.kept == sum(summary.splits.values()) == fresh.encoded
        return summary, encoder

    return extract_again


def _changes(encoder):
    return {name: getattr(encoder, name) for name in ("batch_size", "image_identity", "text_identity")}


def content(path):
    with h5py.File(path) as file:
        return file.attrs["content_sha256"]


def test_adding_images_encodes_these_alone(photos, again, tmp_path):
    first, encoder = again(tmp_path / "a.h5")
    assert (first.encoded, first.kept, sum(encoder.batches)) == (25, 0, 25)
    fill(photos / "cat", 3, 50)
    fill(photos / "dog", 2, 150)
    grown, encoder = again(tmp_path / "a.h5")
    assert (grown.encoded, grown.kept, sum(encoder.batches)) == (5, 25, 5)
    assert encoder.prompts == []  # the text is the same
    assert grown.path not in (None, first.path)
    assert len(encoder.batches) == 2  # batches of 3: what is missing is packed, though it is spread over all splits


def test_hashes_are_those_of_the_files(photos, again, tmp_path):
    summary, _ = again(tmp_path / "a.h5")
    for split in read_features(summary.path).splits.values():
        for sample_id, row in zip(split.sample_ids, split.image_sha256, strict=True):
            assert row.tobytes() == hashlib.sha256((photos / sample_id).read_bytes()).digest()


@pytest.mark.parametrize("change", ["rename images", "rename a class", "regroup", "add a class", "remove a class"])
def test_whatever_becomes_of_the_folder_no_image_is_encoded_again(photos, again, tmp_path, change):
    again(tmp_path / "a.h5")
    if change == "rename images":
        for path in sorted((photos / "cat").iterdir()):
            path.rename(path.with_name(f"new-{path.name}"))
    elif change == "rename a class":
        (photos / "cat").rename(photos / "tiger")
    elif change == "regroup":
        (photos / "kitten").mkdir()
        for path in sorted((photos / "cat").iterdir())[:5]:
            path.rename(photos / "kitten" / path.name)
    elif change == "add a class":
        fill(photos / "owl", 0, 0)
        for path in sorted((photos / "dog").iterdir())[:4]:
            shutil.copy(path, photos / "owl" / f"copy-{path.name}")
    else:
        fill(photos / "owl", 4, 160)
        again(tmp_path / "a.h5")
        shutil.rmtree(photos / "dog")
    summary, encoder = again(tmp_path / "a.h5")
    assert (summary.encoded, encoder.batches) == (0, [])
    assert bool(encoder.prompts) == (change != "rename images")  # text alone, and that only where classes changed


def test_another_split_encodes_nothing(photos, again, tmp_path):
    again(tmp_path / "a.h5")
    for split, names in {"train": ("cat", "dog"), "test": ("cat", "dog")}.items():
        for name in names:
            (photos / split / name).mkdir(parents=True)
            for path in sorted((photos / name).glob("*.png"))[: 6 if split == "train" else 20]:
                path.rename(photos / split / name / path.name)
    for name in ("cat", "dog"):
        (photos / name).rmdir()
    summary, encoder = again(tmp_path / "a.h5")
    assert summary.splits == {"train": 12, "test": 13}
    assert (summary.encoded, encoder.batches, encoder.prompts) == (0, [], [])


def test_new_templates_make_a_cache_beside_and_going_back_encodes_nothing(photos, fakes, again, tmp_path):
    first, _ = again(tmp_path / "a.h5")
    encoder = fakes[1]()
    second = extract(open_dataset(str(photos)), encoder, tmp_path / "a.h5", templates=["the {}"])
    assert (second.action, second.encoded, second.kept) == ("text encoded again", 0, 25)
    assert encoder.prompts == ["the cat", "the dog"]
    assert second.path != first.path
    before, other = read_features(first.path), read_features(second.path)
    assert before.provenance["image_fingerprint"] == other.provenance["image_fingerprint"]
    assert (before.templates, other.templates) == (("a photo of a {}.",), ("the {}",))
    for templates, path in ((["the {}"], second.path), (None, first.path)):
        summary = extract(open_dataset(str(photos)), encoder, tmp_path / "a.h5", templates=templates)
        assert (summary.action, summary.path, summary.kept) == ("already there", path, 25)
    assert len(encoder.prompts) == 2


def test_nothing_is_taken_from_other_encoders_or_dtypes(photos, fakes, again, tmp_path):
    again(tmp_path / "a.h5")
    fill(photos / "cat", 1, 50)
    for change in ({"weights_sha256": "99" * 32}, {"preprocessing": {"size": 5}}, {"dtype": "bfloat16"}):
        other = fakes[1]()
        other.image_identity = {**other.image_identity, **change}
        summary, _ = again(tmp_path / "a.h5", other)
        assert (summary.encoded, summary.kept) == (26, 0)
    summary, _ = again(tmp_path / "a.h5", stored_dtype="float32")
    assert (summary.encoded, summary.kept) == (26, 0)


@pytest.mark.parametrize("array", ["image_features", "image_sha256"])
def test_nothing_is_taken_from_a_damaged_cache(photos, again, tmp_path, array):
    first, _ = again(tmp_path / "a.h5")
    with h5py.File(first.path) as file:
        offset = file[f"splits/train/{array}"].id.get_offset()
    damaged = bytearray(first.path.read_bytes())
    damaged[offset + 3] ^= 1
    first.path.write_bytes(damaged)
    fill(photos / "cat", 1, 50)
    summary, _ = again(tmp_path / "a.h5")
    assert (summary.encoded, summary.kept) == (26, 0)
    (note,) = summary.notes
    assert note.startswith("nothing was taken from ")
    assert str(first.path) in note and f"array splits/train/{array} differs from its checksum" in note


def test_force_encodes_everything(photos, again, tmp_path):
    again(tmp_path / "a.h5")
    fill(photos / "cat", 1, 50)
    summary, encoder = again(tmp_path / "a.h5", force=True)
    assert (summary.encoded, summary.kept, sum(encoder.batches)) == (26, 0, 26)


def test_views_are_taken_for_the_same_id_alone(photos, again, tmp_path):
    again(tmp_path / "a.h5", views=Views(3))
    fill(photos / "cat", 4, 50)
    grown, _ = again(tmp_path / "a.h5", views=Views(2))
    n_train = sum(sample_id.split("/")[1] in {f"{n:03d}.png" for n in range(50, 54)} for sample_id in ids(grown))
    moved = grown.splits["train"]  # the split is drawn anew: an image that has come to train has no views yet
    assert n_train <= grown.encoded <= 4 + moved
    same, _ = again(tmp_path / "a.h5", views=Views(1))
    assert same.encoded == 0
    (photos / "cat").rename(photos / "tiger")
    renamed, encoder = again(tmp_path / "a.h5", views=Views(1))
    tigers = sum(sample_id.startswith("tiger/") for sample_id in ids(renamed))
    assert 0 < tigers == renamed.encoded
    assert sum(encoder.batches) == 2 * tigers
    (note,) = renamed.notes
    assert note.startswith(f"{tigers} images were encoded again with their views")
    plain, _ = again(tmp_path / "a.h5")
    assert plain.encoded == 0


def ids(summary):
    return read_features(summary.path).splits["train"].sample_ids.tolist()


def test_several_encoders_take_what_each_has(photos, fakes, tmp_path):
    def encoders():
        other = fakes[1](id="other")
        other.image_identity = {**other.image_identity, "weights_sha256": "88" * 32}
        return [fakes[1](), other]

    outs = [tmp_path / "a.h5", tmp_path / "b.h5"]
    extract(open_dataset(str(photos)), encoders()[0], outs[0])
    fill(photos / "dog", 2, 150)
    both = encoders()
    first_result, two = extract_many(open_dataset(str(photos)), both, outs)
    assert [(each.encoded, each.kept) for each in (first_result, two)] == [(2, 25), (27, 0)]
    assert [sum(encoder.batches) for encoder in both] == [2, 27]
    images = [read_features(each.path).splits["train"].image_features.tolist() for each in (first_result, two)]
    assert images[0] == images[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_and_vanished_images_and_workers(photos, fakes, again, tmp_path, workers):
    (photos / "cat" / "x.png").write_bytes(b"nothing")
    (photos / "dog" / "y.png").symlink_to(tmp_path / "nowhere.png")
    dataset = open_dataset(str(photos))
    first = extract(dataset, fakes[1](), tmp_path / "a.h5", workers=workers)
    assert (first.encoded, len(first.unreadable)) == (25, 2)
    fill(photos / "cat", 2, 50)
    grown = open_dataset(str(photos))
    (photos / "cat" / "000.png").unlink()  # after it was listed
    summary = extract(grown, fakes[1](), tmp_path / "a.h5", workers=workers)
    assert (summary.encoded, summary.kept) == (2, 24)
    assert sorted(entry["sample_id"] for entry in summary.unreadable) == ["cat/000.png", "cat/x.png", "dog/y.png"]


def test_a_grown_extraction_is_cut_off_and_carried_on(photos, fakes, tmp_path, tmp_path_factory):
    fill(photos / "dog", 60, 300)
    extract(open_dataset(str(photos)), fakes[1](batch_size=1), tmp_path / "a.h5")
    fill(photos / "cat", 30, 30)
    fresh = extract(open_dataset(str(photos)), fakes[1](batch_size=1), tmp_path_factory.mktemp("fresh") / "a.h5")
    n_encoded = 0
    for calls in (2, 9, 20, 40, None):
        encoder, seen = fakes[1](batch_size=1), []

        def stop(state, seen=seen, calls=calls):
            seen.append(state)
            if state.stage == "images" and len(seen) == calls:
                raise KeyboardInterrupt

        with suppress(ExtractionInterrupted):
            summary = extract(open_dataset(str(photos)), encoder, tmp_path / "a.h5", progress=stop)
        n_encoded += len(encoder.batches)
    assert content(summary.path) == content(fresh.path)
    assert 30 <= n_encoded <= 30 + 4 * 8  # at most the shards under way are done again
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".partial"] == []


def test_merged_caches_are_taken_from(photos, fakes, again, tmp_path):
    parts = [
        extract(open_dataset(str(photos)), fakes[1](), tmp_path / f"{name}.h5", splits=[name]).path
        for name in ("train", "val", "test")
    ]
    merged = merge_caches(parts, tmp_path / "merged.h5")
    assert read_features(merged).splits["test"].image_sha256.shape[1] == 32
    for part in parts:
        part.unlink()
    fill(photos / "cat", 1, 50)
    summary, _ = again(tmp_path / "merged.h5")
    assert (summary.encoded, summary.kept) == (1, 25)


def test_caches_without_hashes_are_left_alone(dataset, encoder, fakes, tmp_path):
    extract(dataset, encoder, tmp_path / "a.h5")  # images in memory
    assert read_features(tmp_path / "a.h5").splits["train"].image_sha256 is None
    other = extract(fakes[0]({"train": 9, "val": 3, "test": 5}), fakes[1](), tmp_path / "a.h5")
    assert (other.encoded, other.kept) == (17, 0)


def test_the_embedded_encoder_gives_the_same_bytes(tmp_path, tmp_path_factory):
    digits, folder = open_dataset("digits"), tmp_path / "digits"
    for row, label in enumerate(digits.splits["train"].labels[:55].tolist()):
        place = folder / f"class {label % 3}" / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        if row < 50:
            digits.image("train", row).resize((40, 30)).save(place)
    encoder = open_encoder("cafe:mini", "cpu")
    extract(open_dataset(str(folder)), encoder, tmp_path / "a.h5", workers=0)
    for row in range(50, 55):
        digits.image("train", row).resize((40, 30)).save(folder / "class 1" / f"{row}.png")
    grown = extract(open_dataset(str(folder)), encoder, tmp_path / "a.h5", workers=0)
    fresh = extract(open_dataset(str(folder)), encoder, tmp_path_factory.mktemp("fresh") / "a.h5", workers=0)
    assert (grown.encoded, grown.kept, fresh.encoded) == (5, 50, 55)
    assert content(grown.path) == content(fresh.path)


def test_small_batches_are_filled_up_so_that_rows_do_not_depend_on_their_number():
    """What else is in a batch, and how much, changes no bit of a row once batches are multiples of ``least_rows``."""
    from cafe.cache.extract.encode import encode_rows

    encoder = open_encoder("cafe:mini", "cpu")
    shape = np.asarray(encoder.cropper(Image.new("RGB", (40, 30)))).shape
    crops = np.random.default_rng(0).integers(0, 256, (encoder.batch_size, *shape), dtype=np.uint8)
    whole = encode_rows(encoder, crops, unprojected=False)
    for n in (1, 2, 5, 16, 20, 33, 65, 100):
        for rows in (slice(n), slice(-n, None)):
            assert encode_rows(encoder, crops[rows], unprojected=False).tobytes() == whole[rows].tobytes()


def test_every_hash_is_found_whatever_its_bytes():
    hashes = [hashlib.sha256(str(number).encode()).digest() for number in range(2000)]  # some end in zeros
    assert any(sha256.endswith(b"\0") for sha256 in hashes)
    keys = KnownKeys(np.unique(np.array(hashes, dtype="S32")))
    assert all(keys.has(sha256, "", 0) for sha256 in hashes)
    assert not any(keys.has(hashlib.sha256(sha256).digest(), "", 0) for sha256 in hashes)
    assert not KnownKeys().has(hashes[0], "", 0)


def cut_off(photos, fakes, out, calls, **options):
    """Extract in batches of one image, and stop after so many: shards are of 8 images."""

    def stop(state):
        nonlocal calls
        calls -= state.stage == "images"
        if calls < 0:
            raise KeyboardInterrupt

    encoder = fakes[1](batch_size=1)
    with pytest.raises(ExtractionInterrupted):
        extract(open_dataset(str(photos)), encoder, out, progress=stop, **options)
    return encoder


@pytest.mark.parametrize("projection", [False, True])
def test_what_an_unfinished_extraction_has_encoded_is_taken_when_its_folder_has_changed(
    photos, fakes, tmp_path, monkeypatch, projection
):
    if projection:
        pytest.importorskip("torch")
        monkeypatch.setattr(fakes[1], "projection", lambda self: np.eye(4, dtype=np.float32), raising=False)
        monkeypatch.setattr(
            fakes[1], "encode_images_unprojected", lambda self, crops: (self.encode_images(crops),) * 2, raising=False
        )
    options = {"projection_features": projection, "workers": 0}
    out = tmp_path / "a.h5"
    fill(photos / "cat", 12, 20)
    first = cut_off(photos, fakes, out, 20, **options)
    shards = [ArrayFile(path) for path in sorted((tmp_path / "a.h5.partial").glob("shard-*.arrays"))]
    done = sum(len(shard.read("image_sha256")) for shard in shards)
    assert 8 <= done < 37 and done <= sum(first.batches)
    fill(photos / "cat", 3, 50)
    (photos / "dog" / "104.png").unlink()
    second = cut_off(photos, fakes, out, 6, **options)  # killed once more, and the folder changes once more
    assert sum(second.batches) <= 39 - done + 8
    fill(photos / "dog", 1, 150)
    encoder = fakes[1](batch_size=1)
    summary = extract(open_dataset(str(photos)), encoder, out, **options)
    fresh = extract(open_dataset(str(photos)), fakes[1](batch_size=1), tmp_path / "fresh" / "a.h5", **options)
    assert verify_cache(summary.path).ok and content(summary.path) == content(fresh.path)
    assert summary.encoded == sum(encoder.batches) <= 40 - (done - 1)  # the image that was removed may be one of these
    assert not (tmp_path / "a.h5.partial").exists()


def test_a_damaged_shard_of_an_unfinished_extraction_is_encoded_again(photos, fakes, tmp_path):
    out = tmp_path / "a.h5"
    fill(photos / "dog", 40, 200)
    cut_off(photos, fakes, out, 60, workers=0)
    shards = sorted((tmp_path / "a.h5.partial").glob("shard-*.arrays"))
    assert len(shards) > 3
    for path, place in ((shards[0], -1), (shards[1], 40)):
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    shards[2].write_bytes(b"")
    fill(photos / "cat", 1, 50)
    summary = extract(open_dataset(str(photos)), fakes[1](batch_size=1), out, workers=0)
    fresh = extract(open_dataset(str(photos)), fakes[1](batch_size=1), tmp_path / "fresh" / "a.h5", workers=0)
    assert content(summary.path) == content(fresh.path)
    assert 66 > summary.encoded >= 66 - 8 * (len(shards) - 3)


def test_another_process_at_work_on_the_folder_as_it_was_is_left_alone(photos, fakes, tmp_path):
    out = tmp_path / "a.h5"
    cut_off(photos, fakes, out, 9, workers=0)
    fill(photos / "cat", 1, 50)
    claim = try_claim(tmp_path / "a.h5.partial" / "shard-000003.claim")
    with claim, pytest.raises(CacheError, match="by another process right now, of images that have changed since"):
        extract(open_dataset(str(photos)), fakes[1](), out)
