"""Decoding in processes gives the bytes of decoding in threads, and outlives a worker."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from PIL import Image

from cafe.cache.extract.decode import Chunk, DecoderThreads, ImageDecoder
from cafe.cache.extract.decode_processes import DecoderProcesses
from cafe.cache.extract.run import extract
from cafe.cache.extract.views import Views
from cafe.cache.format.reader import read_features
from cafe.data import open_dataset
from cafe.errors import CafeError

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


def chunks():
    return [Chunk("train", tuple(range(i, i + 4)), 2, (0, 1)) for i in (0, 4, 8)] + [Chunk("test", (0, 1), 0, (1,))]


def everything(pool):
    decoded, waiting = [], chunks()
    while waiting or pool.n_pending:
        while waiting and not pool.is_full:
            pool.submit(waiting.pop(0))
        for image in pool.next_result():
            if image.unreadable is not None:
                decoded.append((image.unreadable.sample_id, image.unreadable.reason))
            else:
                decoded.append([np.array(crops) for crops in image.crops])
    return decoded


@pytest.fixture
def decoder(folder):
    return ImageDecoder(folder, (np.asarray, np.asarray), Views(2, 3))


@pytest.fixture
def expected(decoder):
    pool = DecoderThreads(decoder, ahead=2)
    try:
        return everything(pool)
    finally:
        pool.close()


def processes(decoder, workers=2, ahead=3):
    return DecoderProcesses(decoder, ((5, 6), (5, 6)), views=2, ahead=ahead, workers=workers, beside_encoder=True)


def same(decoded, expected):
    assert len(decoded) == len(expected) == 14
    for image, other in zip(decoded, expected, strict=True):
        if isinstance(image, tuple):
            assert image == other
        else:
            assert [crops.tobytes() for crops in image] == [crops.tobytes() for crops in other]


def test_processes_give_what_threads_give(decoder, expected):
    pool = processes(decoder)
    try:
        same(everything(pool), expected)
    finally:
        pool.close()
    assert sum(isinstance(image, tuple) for image in expected) == 1
    assert expected[-1][0].shape == (1, 5, 6, 3)


def test_a_killed_worker_is_replaced(decoder, expected):
    pool = processes(decoder, workers=1)
    first = pool._workers[0].process
    try:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        same(everything(pool), expected)
        assert pool._workers[0].process is not first
    finally:
        pool.close()
    assert pool._workers == []


def test_a_crop_of_another_size_is_an_error(folder):
    pool = DecoderProcesses(
        ImageDecoder(folder, (np.asarray,)), ((4, 4),), views=0, ahead=1, workers=1, beside_encoder=False
    )
    try:
        pool.submit(Chunk("train", (0,), 0, (0,)))
        with pytest.raises(CafeError, match="image 0 of split 'train'"):
            pool.next_result()
    finally:
        pool.close()


def test_what_cannot_be_pickled_is_an_error(folder):
    with pytest.raises(CafeError, match="--workers 0"):
        processes(ImageDecoder(folder, (lambda image: np.asarray(image),) * 2))


def test_extraction_with_workers_gives_the_same_bytes(folder, fakes, tmp_path):
    files = []
    for workers in (0, 2):
        summary = extract(folder, fakes[1](), tmp_path / f"{workers}.h5", workers=workers, views=Views(2))
        assert summary.workers == workers
        files.append(read_features(summary.path))
    for name in ("image_features", "view_features"):
        first, other = (getattr(features.splits["train"], name) for features in files)
        assert first.tobytes() == other.tobytes()
    assert [row["reason"] for row in files[1].provenance["unreadable"]] == [
        row["reason"] for row in files[0].provenance["unreadable"]
    ]
