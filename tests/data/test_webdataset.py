import json
import time
import tracemalloc
from pathlib import Path

import pytest

from cafe.data import open_dataset
from cafe.errors import InputError, UnreadableImageError


def sizes(dataset) -> dict[str, int]:
    return {name: len(split) for name, split in dataset.splits.items()}


def test_clip_benchmarks_layout(tmp_path: Path, bring) -> None:
    bring["webdataset"](tmp_path)
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\nart of {c}.\n")
    (tmp_path / "train" / "nshards.txt").write_text("1")
    dataset = open_dataset(str(tmp_path))
    assert dataset.class_names == ("cat", "hot dog")
    assert dataset.templates == ("a photo of {c}.", "art of {c}.")
    assert sizes(dataset) == {"train": 6, "test": 6}
    assert dataset.splits["test"].sample_ids[1] == "test/0/s0000001"
    assert dataset.splits["test"].labels.tolist() == [0, 1] * 3
    assert dataset.image("test", 3).getpixel((0, 0)) == (13, 0, 30)


def test_test_alone_can_be_scored(tmp_path: Path, make_tar, make_png) -> None:
    make_tar(tmp_path / "test" / "0.tar", {"a.png": make_png(1), "a.cls": b"0", "b.png": make_png(2), "b.cls": b"1"})
    (tmp_path / "classnames.txt").write_text("cat\ndog\nowl\n")
    dataset = open_dataset(str(tmp_path))
    assert sizes(dataset) == {"test": 2}
    assert len(dataset.class_names) == 3
    assert dataset.notes == ["there is no train split, so nothing can be fitted here"]


def shard(make_png, start: int, n: int) -> dict[str, bytes]:
    members = {}
    for number in range(start, start + n):
        label = json.dumps({"label": ["cat", "dog"][number % 2], "url": "x"})
        # A .json before its image, folders and dots in names, a caption: all as found in the wild.
        members |= {
            f"x/{number}.json": label.encode(),
            f"x/{number}.input.jpg": make_png(number),
            f"x/{number}.txt": b"?",
        }
    return members


def test_shards_by_pattern_and_by_name(tmp_path: Path, make_tar, make_png) -> None:
    for number in range(11):
        make_tar(tmp_path / f"train-{number:03d}.tar", shard(make_png, 4 * number, 4))
    make_tar(tmp_path / "val-000.tar", shard(make_png, 100, 4))
    make_tar(tmp_path / "test-000.tar", shard(make_png, 200, 4))
    assert sizes(open_dataset(str(tmp_path))) == {"train": 44, "val": 4, "test": 4}
    braced = open_dataset(f"{tmp_path}/train-{{000..001}}.tar")
    assert sum(sizes(braced).values()) == 8
    assert braced.split_origin == "hash, stratified, 50/20/30"
    assert sizes(open_dataset(f"{tmp_path}/{{train,test}}-*.tar")) == {"train": 44, "test": 4}
    assert sum(sizes(open_dataset(f"{tmp_path}/test-000.tar")).values()) == 4
    with pytest.raises(InputError, match=r"names 2 shards that are not there, the first: .*train-011\.tar"):
        open_dataset(f"{tmp_path}/train-{{009..012}}.tar")
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(f"{tmp_path}/nothing-*.tar")


def test_copies_in_two_shards_stay_on_one_side(tmp_path: Path, make_tar, make_png) -> None:
    for name in ("a", "b"):
        make_tar(tmp_path / f"{name}.tar", shard(make_png, 0, 20))
    for split in open_dataset(str(tmp_path)).splits.values():
        keys = [sample_id.partition("/")[2] for sample_id in split.sample_ids]
        assert sorted(keys) == sorted(2 * list(set(keys)))


def test_an_unreadable_image_and_a_shard_that_is_gone(tmp_path: Path, make_tar, make_png) -> None:
    members = {
        "a.png": b"no image",
        "a.cls": b"cat",
        "b.png": make_png(1),
        "b.cls": b"dog",
        "c.png": b"",
        "c.cls": b"dog",
    }
    make_tar(tmp_path / "train-0.tar", members)
    make_tar(tmp_path / "test-0.tar", members)
    dataset = open_dataset(str(tmp_path))
    with pytest.raises(UnreadableImageError, match=r"'train-0/a'.*not an image"):
        dataset.image("train", 0)
    with pytest.raises(UnreadableImageError, match="empty"):
        dataset.image("train", 2)
    (tmp_path / "test-0.tar").unlink()
    with pytest.raises(UnreadableImageError, match=r"test-0\.tar cannot be read"):
        dataset.image("test", 1)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "names no images"),
        ({"a.cls": b"0"}, "sample 'a' has no image"),
        ({"a.png": b"x"}, r"sample 'a' has no label: neither \.cls nor a \.json"),
        ({"a.png": b"x", "a.txt": b"a caption"}, "sample 'a' has no label"),
        ({"a.png": b"x", "a.json": b"{"}, r"the \.json of sample 'a', line 1: not JSON"),
        ({"a.png": b"x", "a.cls": b"\xff"}, r"the \.cls of sample 'a' cannot be read"),
        ({"a.png": b"x", "a.jpg": b"x", "a.cls": b"0"}, "sample 'a' has two images"),
        ({"a.png": b"x", "a.cls": b"cat"}, "has 1 class"),
    ],
)
def test_bad_shards_get_one_clear_sentence(tmp_path: Path, make_tar, members, words: str) -> None:
    make_tar(tmp_path / "shard.tar", members)
    with pytest.raises(InputError, match=words) as caught:
        open_dataset(str(tmp_path / "shard.tar"))
    assert "\n" not in str(caught.value)


def test_truncated_and_compressed(tmp_path: Path, make_tar, make_png) -> None:
    import gzip

    make_tar(tmp_path / "shard.tar", shard(make_png, 0, 4))
    content = (tmp_path / "shard.tar").read_bytes()
    for damaged in (content[:700], b"no tar at all", gzip.compress(content), content[:5]):
        (tmp_path / "shard.tar").write_bytes(damaged)
        with pytest.raises(InputError, match=r"shard\.tar cannot be read as an uncompressed tar"):
            open_dataset(str(tmp_path / "shard.tar"))


def test_some_shards_with_splits_and_some_without(tmp_path: Path, make_tar, make_png) -> None:
    make_tar(tmp_path / "train-0.tar", shard(make_png, 0, 2))
    make_tar(tmp_path / "more.tar", shard(make_png, 0, 2))
    with pytest.raises(InputError, match="some tars belong to a split"):
        open_dataset(str(tmp_path))


def test_five_thousand_samples_in_flat_memory(tmp_path: Path, make_tar, make_png) -> None:
    pixels = make_png(1) + bytes(3000)
    members = {}
    for number in range(5_000):
        members[f"{number:06d}.png"] = pixels
        members[f"{number:06d}.cls"] = b"1" if number % 2 else b"0"
    make_tar(tmp_path / "train" / "0.tar", members)
    make_tar(tmp_path / "test" / "0.tar", {"a.png": pixels, "a.cls": b"0"})
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    tracemalloc.start()
    start = time.perf_counter()
    dataset = open_dataset(str(tmp_path))
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes(dataset) == {"train": 5_000, "test": 1}
    assert seconds < 30  # 1.5 s on an idle core, most of it tracemalloc's
    assert peak < 10e6  # 15 MB of pixels stay where they are
