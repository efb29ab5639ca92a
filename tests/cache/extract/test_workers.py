"""Decoding in processes gives the bytes of decoding in threads, and outlives a worker."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from PIL import Image

from cafe.cache.extract.decoding import Decoding, Piece, ThreadSource
from cafe.cache.extract.extraction import extract
from cafe.cache.extract.views import Views
from cafe.cache.extract.workers import ProcessSource
from cafe.cache.format.reader import load_features
from cafe.data import open_dataset
from cafe.errors import CafeError, UnreadableImageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need POSIX")


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of 6 x 5 pixels in two classes, the third of them broken."""
    for label, name in enumerate("ab"):
        for i in range(6):
            path = tmp_path / "photos" / "train" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([label, i]).integers(0, 256, (5, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            if (label, i) == (0, 2):
                path.write_bytes(b"broken")
    (tmp_path / "photos" / "test").mkdir()
    for name in "ab":
        (tmp_path / "photos" / "test" / name).mkdir()
        Image.new("RGB", (6, 5), "red").save(tmp_path / "photos" / "test" / name / "0.png")
    return open_dataset(str(tmp_path / "photos"))


def pieces():
    return [Piece("train", tuple(range(i, i + 4)), 2, (0, 1)) for i in (0, 4, 8)] + [Piece("test", (0, 1), 0, (1,))]


def everything(source):
    found, waiting = [], pieces()
    while waiting or source.under_way:
        while waiting and source.has_room:
            source.hand_in(waiting.pop(0))
        for image in source.take():
            if isinstance(image, UnreadableImageError):
                found.append((image.sample_id, image.reason))
            else:
                found.append([np.array(crops) for crops in image])
    return found


@pytest.fixture
def decoding(folder):
    return Decoding(folder, (np.asarray, np.asarray), Views(2, 3))


@pytest.fixture
def expected(decoding):
    source = ThreadSource(decoding, ahead=2)
    try:
        return everything(source)
    finally:
        source.close()


def processes(decoding, workers=2, ahead=3):
    return ProcessSource(decoding, ((5, 6), (5, 6)), views=2, ahead=ahead, workers=workers, beside_encoder=True)


def same(found, expected):
    assert len(found) == len(expected) == 14
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, tuple):
            assert one == other
        else:
            assert [crops.tobytes() for crops in one] == [crops.tobytes() for crops in other]


def test_processes_give_what_threads_give(decoding, expected):
    source = processes(decoding)
    try:
        same(everything(source), expected)
    finally:
        source.close()
    assert sum(isinstance(image, tuple) for image in expected) == 1
    assert expected[-1][0].shape == (1, 5, 6, 3)


def test_a_killed_worker_is_replaced(decoding, expected):
    source = processes(decoding, workers=1)
    first = source._workers[0].process
    try:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        same(everything(source), expected)
        assert source._workers[0].process is not first
    finally:
        source.close()
    assert source._workers == []


def test_a_crop_of_another_size_is_an_error(folder):
    source = ProcessSource(
        Decoding(folder, (np.asarray,)), ((4, 4),), views=0, ahead=1, workers=1, beside_encoder=False
    )
    try:
        source.hand_in(Piece("train", (0,), 0, (0,)))
        with pytest.raises(CafeError, match="image 0 of split 'train'"):
            source.take()
    finally:
        source.close()


def test_what_cannot_be_pickled_is_an_error(folder):
    with pytest.raises(CafeError, match="--workers 0"):
        processes(Decoding(folder, (lambda image: np.asarray(image),) * 2))


def test_extraction_with_workers_gives_the_same_bytes(folder, fakes, tmp_path):
    files = []
    for workers in (0, 2):
        summary = extract(folder, fakes[1](), tmp_path / f"{workers}.h5", workers=workers, views=Views(2))
        assert summary.workers == workers
        files.append(load_features(summary.path))
    for name in ("image_features", "view_features"):
        one, other = (getattr(features.splits["train"], name) for features in files)
        assert one.tobytes() == other.tobytes()
    assert [row["reason"] for row in files[1].provenance["unreadable"]] == [
        row["reason"] for row in files[0].provenance["unreadable"]
    ]
