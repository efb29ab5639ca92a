"""An extraction on a device: what is copied, registered, recorded and read, on tensors that are labelled as a GPU's."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
from labelled_device import LabelledDevice
from PIL import Image

from cafe.cache.extract import local_engine
from cafe.cache.extract.run import extract
from cafe.cache.format.reader import read_features
from cafe.data import open_dataset
from cafe.encoders import open_encoder


@pytest.fixture
def photographs(tmp_path):
    """72 images of two classes, each of its own."""
    rng = np.random.default_rng(0)
    for i in range(72):
        place = tmp_path / "photographs" / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path / "photographs"


def test_batches_are_copied_from_registered_memory_and_the_forward_pass_is_replayed(photographs, tmp_path):
    options = {"splits": ["train"], "batch_size": 8, "workers": 0}
    dataset = open_dataset(str(photographs))
    with LabelledDevice() as device:
        encoder = open_encoder("cafe:mini", device="cuda", dtype="float32")
        assert encoder.device == "cuda:0"
        extract(dataset, encoder, tmp_path / "device.h5", **options)
        n = dataset.splits["train"].labels.size
        batches = -(-n // 8)
        # The same array is filled again and again, and registered once for each size: nothing is copied twice.
        assert 1 <= len(device.registered) <= 2
        (graph,) = device.graphs  # of full batches; a last, smaller one is filled up or runs as it is
        assert batches - 5 <= graph.replays <= batches - 3
        waits = [place for place in device.read_at if "torch_encoder.py" in place or "encode.py" in place]
        assert sum(device.read_at[place] for place in waits) <= 1, device.read_at  # class names, once
        del encoder
        gc.collect()  # memory is let go of while the device is there
    extract(dataset, open_encoder("cafe:mini", device="cpu", dtype="float32"), tmp_path / "cpu.h5", **options)
    on_device, here = (read_features(tmp_path / f"{name}.h5").splits["train"] for name in ("device", "cpu"))
    assert list(on_device.sample_ids) == list(here.sample_ids)
    np.testing.assert_allclose(on_device.image_features.astype(float), here.image_features.astype(float), atol=2e-3)


@pytest.mark.parametrize(
    ("device", "images", "expected"),
    [
        ("cuda:0", 10_000, 13),  # 10 ms to decode, 1 to encode: ten, and a quarter more
        ("cuda:0", 100, 0),  # done in less time than processes take to start: threads
        ("cpu", 10_000, 32),  # whatever time the encoder leaves
    ],
)
def test_as_many_processes_decode_as_the_device_can_use(monkeypatch, device, images, expected):
    extraction = SimpleNamespace(n_images=images, known=(), encoder=SimpleNamespace(device=device))
    sample = local_engine._Sample(0.010, (np.zeros((1, 8, 8, 3), np.uint8),))
    monkeypatch.setattr(local_engine, "processors", lambda: 32)
    monkeypatch.setattr(local_engine, "_encoding_seconds", lambda extraction, crops: 0.001)
    assert local_engine._choose_number("a decoder that can be pickled", [extraction], sample) == expected
    monkeypatch.setattr(local_engine, "processors", lambda: 4)
    assert local_engine._choose_number("a decoder", [extraction], sample) == min(
        expected, 4 - device.startswith("cuda")
    )
