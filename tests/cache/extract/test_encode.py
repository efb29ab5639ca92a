"""Batches side by side give the bytes of batches one after the other, and end when they are told to."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from cafe.cache.extract.encode import BatchEncoder
from cafe.cache.extract.plan import plan_extraction
from cafe.cache.extract.progress import ExtractionInterrupted
from cafe.cache.extract.run import extract
from cafe.cache.extract.views import Views
from cafe.cache.format.reader import read_features
from cafe.encoders.opening import open_encoder
from cafe.encoders.stopping import StoppedError, check_before_every_module, stop_this_thread_on
from cafe.errors import InputError
from cafe.mini import MODEL_FOLDER

COUNTS = {"train": 41, "test": 30}


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2  # whatever happened
    torch.set_num_threads(before)


class Slow:
    """An encoder whose batches take unequal times, so that they end out of order."""

    def __init__(self, encoder):
        self.count, self._real = 0, encoder.encode_images
        encoder.encode_images = self

    def __call__(self, crops):
        self.count += 1
        time.sleep(0.004 * (self.count % 3))
        return self._real(crops)


def test_the_bytes_are_those_of_one_after_the_other(fakes, tmp_path):
    files = []
    for parallel in (False, True):
        encoder = fakes[1](parallel=parallel, batch_size=3)
        Slow(encoder)
        dataset = fakes[0](COUNTS, unreadable=["train/image_03.png"])
        seen = []
        path = extract(
            dataset, encoder, tmp_path / f"{parallel}.h5", views=Views(2), workers=0, progress=seen.append
        ).path
        files.append(read_features(path))
        counts = [state.done for state in seen if state.stage == "images"]
        assert counts == sorted(counts) and counts[-1] == 71
    for name in COUNTS:
        first, other = (features.splits[name] for features in files)
        assert first.image_features.tobytes() == other.image_features.tobytes()
    first, other = (features.splits["train"].view_features for features in files)
    assert first.tobytes() == other.tobytes()


def test_as_many_batches_side_by_side_as_threads_where_there_are_enough(fakes):
    extraction = plan_extraction(fakes[0](), fakes[1](parallel=True))
    for batches, number, threads in ((100, 2, 1), (3, 1, 2)):
        encoder = BatchEncoder([extraction], batches)
        assert (encoder.n_threads, torch.get_num_threads()) == (number, threads)
        encoder.close()
    encoder = BatchEncoder([plan_extraction(fakes[0](), fakes[1]())], 100)
    assert encoder.n_threads == 0
    encoder.close()


def test_an_error_in_a_thread_is_raised_here(fakes, tmp_path):
    encoder = fakes[1](parallel=True, batch_size=2)

    def fail(crops):
        raise InputError("that is no picture")

    encoder.encode_images = fail
    with pytest.raises(InputError, match="no picture"):
        extract(fakes[0](COUNTS), encoder, tmp_path / "a.h5", workers=0)


def test_an_interruption_ends_a_long_batch_at_its_next_layer(fakes, tmp_path):
    encoder = fakes[1](parallel=True, batch_size=1)
    encode_images, is_long, layer = encoder.encode_images, threading.Event(), torch.nn.Identity()
    threads = set(threading.enumerate())

    def encode_for_a_minute(crops):
        if len(encoder.batches) > 11:
            # The batches that wait behind this one are as long, and must not begin.
            is_long.set()
            end = time.monotonic() + 60
            while time.monotonic() < end:
                time.sleep(0.001)
                layer(torch.zeros(1))
        return encode_images(crops)

    encoder.encode_images = encode_for_a_minute

    def tell(state):
        if state.done > 10:
            assert is_long.wait(30)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(ExtractionInterrupted, match="8 of 71 images are kept"):
        extract(fakes[0](COUNTS), encoder, tmp_path / "a.h5", workers=0, progress=tell)
    assert time.monotonic() - started < 30
    assert set(threading.enumerate()) <= threads
    layer(torch.zeros(1))  # this thread was told nothing
    again = fakes[1](parallel=True, batch_size=1)
    assert extract(fakes[0](COUNTS), again, tmp_path / "a.h5", workers=0).kept == 8


@pytest.mark.parametrize("library", [False, True])
def test_a_tower_ends_between_two_of_its_layers(library):
    """Of torch's modules, and of functions alone: few layers run once the thread is told to end."""
    tower = open_encoder("transformers:" + str(MODEL_FOLDER) if library else "cafe:mini", "cpu", "float32")
    crops = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    told, ended = threading.Event(), []
    end_checks = check_before_every_module()

    def work():
        stop_this_thread_on(told)
        assert tower.encode_images(crops).shape == (4, tower.dim)
        told.set()
        try:
            tower.encode_images(crops)
        except StoppedError:
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    end_checks()
    assert ended == [True]
    assert tower.encode_images(crops).shape == (4, tower.dim)  # this thread was told nothing
