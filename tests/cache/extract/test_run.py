"""Extraction end to end with fakes whose features are known by hand."""

from __future__ import annotations

import inspect
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from cafe import files as atomic
from cafe.cache.extract import run, unfinished
from cafe.cache.extract.finish import finish
from cafe.cache.extract.run import extract, extract_many
from cafe.cache.extract.views import Views
from cafe.cache.format.reader import load_sizes, read_features
from cafe.cache.format.verify import verify_cache
from cafe.cache.locate import list_caches
from cafe.cache.locks import wait_for_claim
from cafe.errors import CacheError, CafeError, InputError


def image_arrays(features):
    return {name: split.image_features.tobytes() for name, split in features.splits.items()}


def test_features_by_hand(dataset, encoder, tmp_path):
    summary = extract(dataset, encoder, tmp_path / "a.h5")
    features = read_features(summary.path)
    assert summary.action == "extracted"
    assert list(features.splits) == ["train", "val", "test"]
    # Red 10 * i, green the split's number, blue the label, and 1.
    assert features.splits["test"].image_features.tolist() == [[10 * i, 2, i % 2, 1] for i in range(5)]
    assert features.splits["test"].image_features.dtype == np.float16
    assert features.splits["val"].labels.tolist() == [0, 1, 0]
    assert features.splits["val"].sample_ids.tolist() == ["val/image_00.png", "val/image_01.png", "val/image_02.png"]
    # Template outermost: (m, c, d) with the prompt's length, blanks, first letter, 1.
    assert features.text_features.tolist() == [
        [[5, 1, 97, 1], [5, 1, 97, 1]],
        [[7, 1, 116, 1], [7, 1, 116, 1]],
    ]
    assert features.class_names == ("cat", "dog")
    assert features.templates == ("a {}", "the {}")
    assert features.logit_scale == 50.0
    assert load_sizes(summary.path)["test"].tolist() == [100, 101, 102, 103, 104]
    assert verify_cache(summary.path).ok


def test_provenance_is_complete(dataset, encoder, tmp_path):
    provenance = read_features(extract(dataset, encoder, tmp_path / "a.h5").path).provenance
    assert provenance["dataset"] == "squares"
    assert provenance["encoder"] == "fake/encoder"
    assert provenance["image"]["encoder"] == encoder.image_identity
    assert provenance["image"]["dataset"]["splits"]["val"] == dataset.identity()["splits"]["val"]
    assert provenance["image"]["splits"] == ["train", "val", "test"]
    assert provenance["text"]["class_names"] == ["cat", "dog"]
    recorded = provenance["recorded"]["image"]
    assert recorded["revision"] == "main"
    assert recorded["device"] == "cpu"
    assert {"numpy", "h5py", "python"} <= set(recorded["libraries"])
    assert provenance["created"].endswith("+00:00")
    assert provenance["cafe_version"]


def test_batches_are_cut_at_fixed_positions(fakes, tmp_path):
    dataset, encoder = fakes[0](unreadable=["train/image_01.png"]), fakes[1]()
    extract(dataset, encoder, tmp_path / "a.h5")
    # 7, 3 and 5 images in batches of 3; the second image of the first batch has no row, and nothing moves up.
    assert encoder.batches == [2, 3, 1, 3, 3, 2]


def test_unreadable_images_are_recorded_and_rows_do_not_shift(fakes, tmp_path):
    dataset = fakes[0](unreadable=["train/image_03.png", "test/image_00.png"])
    summary = extract(dataset, fakes[1](), tmp_path / "a.h5")
    features = read_features(summary.path)
    expected = [
        {"split": "train", "sample_id": "train/image_03.png", "reason": "cannot identify image file"},
        {"split": "test", "sample_id": "test/image_00.png", "reason": "cannot identify image file"},
    ]
    assert list(summary.unreadable) == expected
    assert features.provenance["unreadable"] == expected
    train = features.splits["train"]
    assert train.image_features[:, 0].tolist() == [0, 10, 20, 40, 50, 60]
    assert train.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert train.sample_ids[3] == "train/image_04.png"
    assert load_sizes(summary.path)["train"].tolist() == [100, 101, 102, 104, 105, 106]
    assert summary.splits == {"train": 6, "val": 3, "test": 4}


def test_on_error_fail_stops(fakes, tmp_path):
    dataset = fakes[0](unreadable=["val/image_01.png"])
    with pytest.raises(InputError, match=r"val/image_01\.png.*cannot identify"):
        extract(dataset, fakes[1](), tmp_path / "a.h5", on_error="fail")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.partial"]  # the train split is kept
    extract(dataset, fakes[1](), tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    with pytest.raises(InputError, match=r"val/image_01\.png"):
        extract(dataset, fakes[1](), tmp_path / "a.h5", on_error="fail")


def test_split_without_readable_image_is_refused(fakes, tmp_path):
    dataset = fakes[0]({"train": 4, "test": 2}, unreadable=["test/image_00.png", "test/image_01.png"])
    with pytest.raises(InputError, match="no image of split 'test'"):
        extract(dataset, fakes[1](), tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


def test_class_without_readable_image_is_refused(fakes, tmp_path):
    odd = ["train/image_01.png", "train/image_03.png", "test/image_01.png"]
    with pytest.raises(InputError, match="no image of class 'dog'"):
        extract(fakes[0]({"train": 4, "test": 2}, unreadable=odd), fakes[1](), tmp_path / "a.h5")
    summary = extract(fakes[0]({"train": 4, "test": 2}, unreadable=odd[2:]), fakes[1](), tmp_path / "a.h5")
    assert summary.notes == ("no image of class 'dog' in split 'test' could be read",)


def test_same_fingerprint_encodes_nothing(dataset, encoder, fakes, tmp_path):
    first = extract(dataset, encoder, tmp_path / "a.h5")
    before = first.path.read_bytes()
    again, opened = fakes[1](device="cuda:0", recorded={"revision": "other"}), dataset.opened
    summary = extract(dataset, again, tmp_path / "a.h5")
    assert summary.action == "already there"
    assert (again.batches, again.prompts, dataset.opened) == ([], [], opened)
    assert summary.path.read_bytes() == before
    assert summary.splits == first.splits
    assert any('device = "cpu", but "cuda:0" is here now' in note for note in summary.notes)


@pytest.mark.parametrize("change", ["templates", "class_names", "text tower"])
def test_text_alone_is_encoded_again(fakes, tmp_path, change):
    bad = ["train/image_02.png"]
    first = extract(fakes[0](unreadable=bad), fakes[1](), tmp_path / "a.h5")
    before, sizes = read_features(first.path), load_sizes(first.path)
    dataset = fakes[0](unreadable=bad, class_names=("lion", "wolf") if change == "class_names" else ("cat", "dog"))
    encoder = fakes[1]()
    if change == "text tower":
        encoder.text_identity = {**encoder.text_identity, "weights_sha256": "44" * 32}
    templates = ["one more {}", "b {}", "c {}"] if change == "templates" else None
    summary = extract(dataset, encoder, tmp_path / "a.h5", templates=templates)
    after = read_features(summary.path)
    assert summary.action == "text encoded again"
    assert summary.path not in (None, first.path)  # two sets of templates stand side by side
    assert read_features(first.path).provenance["fingerprint"] == before.provenance["fingerprint"]
    assert (encoder.batches, dataset.opened) == ([], 0)
    assert (summary.encoded, summary.kept) == (0, 14)
    assert image_arrays(after) == image_arrays(before)
    assert load_sizes(summary.path)["train"].tolist() == sizes["train"].tolist()
    assert list(summary.unreadable) == list(first.unreadable)
    assert after.class_names == dataset.class_names
    assert after.text_features.shape == (3 if templates else 2, 2, 4)
    assert after.provenance["image_fingerprint"] == before.provenance["image_fingerprint"]
    assert after.provenance["fingerprint"] != before.provenance["fingerprint"]
    assert verify_cache(summary.path).ok


def test_text_is_not_added_to_damaged_images(dataset, encoder, tmp_path):
    path = extract(dataset, encoder, tmp_path / "a.h5").path
    content = bytearray(path.read_bytes())
    position = content.index(read_features(path).splits["train"].image_features.tobytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="train/image_features.*--force"):
        extract(dataset, encoder, path, templates=["new {}"])


def test_other_image_features_go_to_another_name(dataset, encoder, fakes, tmp_path):
    first = extract(dataset, encoder, tmp_path / "a.h5")
    before = first.path.read_bytes()
    other = fakes[1](image_identity={"weights_sha256": "55" * 32})
    second = extract(dataset, other, tmp_path / "a.h5")
    short = read_features(second.path).provenance["image_fingerprint"][:8]
    assert second.path == tmp_path / f"a--{short}.h5"
    assert first.path.read_bytes() == before
    assert extract(dataset, other, tmp_path / "a.h5").action == "already there"
    assert len(list_caches(tmp_path)) == 2


def test_force_encodes_again(dataset, encoder, tmp_path):
    extract(dataset, encoder, tmp_path / "a.h5")
    encoder.batches.clear()
    assert extract(dataset, encoder, tmp_path / "a.h5", force=True).action == "extracted"
    assert sum(encoder.batches) == 15


@pytest.mark.parametrize("content", [b"", b"notes of mine", b"\x89HDF\r\n\x1a\n broken"])
def test_what_is_no_cache_is_not_replaced(dataset, encoder, tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(CacheError, match="--force"):
        extract(dataset, encoder, path)
    assert path.read_bytes() == content
    assert extract(dataset, encoder, path, force=True).action == "extracted"


def test_two_runs_give_the_same_bytes(dataset, encoder, tmp_path):
    first = read_features(extract(dataset, encoder, tmp_path / "a.h5").path)
    second = read_features(extract(dataset, encoder, tmp_path / "b.h5").path)
    assert first.provenance["content_sha256"] == second.provenance["content_sha256"]


def test_chosen_splits_only(dataset, encoder, tmp_path):
    summary = extract(dataset, encoder, tmp_path / "a.h5", splits=["test", "train"])
    assert list(read_features(summary.path).splits) == ["train", "test"]
    with pytest.raises(InputError, match="unknown split of squares 'tets'; did you mean 'test'"):
        extract(dataset, encoder, tmp_path / "a.h5", splits=["tets"])


def test_too_large_for_float16_is_refused(dataset, encoder, tmp_path):
    encoder.encode_images = lambda crops: np.full((len(crops), 4), 70_000, np.float32)
    with pytest.raises(InputError, match="split 'train', images 0 to 2, has values up to 70000.*float32"):
        extract(dataset, encoder, tmp_path / "a.h5")
    summary = extract(dataset, encoder, tmp_path / "a.h5", stored_dtype="float32")
    assert read_features(summary.path).splits["train"].image_features[0, 0] == 70_000


def test_progress_and_clocks(dataset, encoder, tmp_path):
    seen = []
    summary = extract(dataset, encoder, tmp_path / "a.h5", progress=seen.append)
    images = [(p.split, p.done, p.total) for p in seen if p.stage == "images"]
    assert images == [
        ("train", 3, 15),
        ("train", 6, 15),
        ("train", 7, 15),
        ("val", 10, 15),
        ("test", 13, 15),
        ("test", 15, 15),
    ]
    assert [(p.done, p.total) for p in seen if p.stage == "text"] == [(1, 2), (2, 2)]
    assert seen[-1].stage == "write"
    assert set(summary.seconds) == {"read", "encode", "write"}
    assert min(summary.seconds.values()) > 0
    assert summary.images_per_second > 0
    assert summary.to_json()["path"] == str(summary.path)


def test_interrupt_leaves_nothing_behind(dataset, encoder, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(dataset, encoder, tmp_path / "a.h5", progress=interrupt)
    monkeypatch.setattr("cafe.files.sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(dataset, encoder, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_full_disk_is_noticed_before_the_first_image(dataset, encoder, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage(1000, 0, 1000))
    with pytest.raises(CafeError, match=r"needs 0\.3 MB.*only 0\.0 MB are free") as caught:
        extract(dataset, encoder, tmp_path / "a.h5")
    assert caught.value.exit_code == 1
    assert dataset.opened == 0


def test_two_extractors_at_once(fakes, tmp_path):
    start, failures = threading.Barrier(4), []

    def work():
        start.wait()
        try:
            extract(fakes[0](), fakes[1](), tmp_path / "a.h5", force=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert verify_cache(tmp_path / "a.h5").ok


def test_a_cache_finished_while_another_waits_to_begin(fakes, tmp_path, monkeypatch):
    path, results, begun = tmp_path / "a.h5", [], []
    # A folder that is begun though the cache is there gathers shards of others, and then is not empty at the end.
    monkeypatch.setattr(unfinished.UnfinishedCache, "remove_if_empty", lambda self: begun.append(self.folder.exists()))
    made = extract(fakes[0](), fakes[1](), tmp_path / "b.h5").path
    begun.clear()
    with wait_for_claim(unfinished._lock_path(unfinished.partial_folder(path))):
        waiting = threading.Thread(target=lambda: results.append(extract(fakes[0](), fakes[1](), path)))
        waiting.start()
        time.sleep(0.3)  # it has seen that there is no cache
        made.rename(path)
    waiting.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (results[0].path, results[0].encoded, begun) == (path, 0, [False])
    assert verify_cache(path).ok


def read_bytes():
    """Bytes that this process has read so far, from files that are cached in memory too."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts what is read with /proc/self/io")
def test_the_file_is_written_with_one_reading_of_the_shards(fakes, tmp_path, monkeypatch):
    """Neither a shard is read twice, with views and projection features, nor the file itself for its checksums."""
    width = 1024

    class Wide(fakes[1]):
        def encode_images_unprojected(self, crops):
            rows = np.repeat(self.encode_images(crops), width // 4, axis=1)
            return rows, rows

        def projection(self):
            return np.eye(width, dtype=np.float32)

        def encode_text(self, prompts):
            return np.ones((len(prompts), width), np.float32)

    counts = []

    def finish_counted(extraction, reporter):
        shards = sum(path.stat().st_size for path in extraction.partial.folder.glob("shard-*.arrays"))
        before = read_bytes()
        done = finish(extraction, reporter)
        counts.append((read_bytes() - before, shards))
        return done

    monkeypatch.setattr(run, "finish", finish_counted)
    dataset = fakes[0]({"train": 160, "test": 128}, unreadable=["train/image_03.png"])
    # Shards of 128 images: HDF5 gathers what is smaller than 64 kB in a buffer, which it reads from the file first.
    options = {"views": Views(3), "projection_features": True, "workers": 0, "batch_size": 16, "known_in": ()}
    summary = extract(dataset, Wide(dim=width), tmp_path / "warm.h5", **options)  # imports are read too
    summary = extract(dataset, Wide(dim=width), tmp_path / "a.h5", **options)
    assert verify_cache(summary.path).ok
    read, shards = counts[-1]
    # A second reading adds 8 % for the smallest array of the file, and more for a shard; directories are below 1 %.
    assert 0.99 * shards < read < 1.02 * shards
    assert shards > 1_000_000


def test_the_encoder_is_left_as_it_was(dataset, encoder, tmp_path):
    assert extract(dataset, encoder, tmp_path / "a.h5", batch_size=2).batch_size == 2
    assert encoder.batch_size == 3
    assert set(encoder.batches) == {1, 2}


def test_the_options_of_extract_and_extract_many_are_the_same():
    single, many = (inspect.signature(function).parameters for function in (extract, extract_many))
    options = [p for p in single.values() if p.kind is p.KEYWORD_ONLY]
    assert options == [p for p in many.values() if p.kind is p.KEYWORD_ONLY]
    assert {"splits", "views", "batch_size", "named"} < {p.name for p in options}
    assert not any(p.kind is p.VAR_KEYWORD for p in single.values())
