"""An extraction on a device: what is copied, registered, recorded and read, on tensors that are labelled as a GPU's."""

import gc
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.cache.extract.run import extract
from cafe.cache.format.reader import load_features
from cafe.data import open_dataset
from cafe.encoders import open_encoder

_spec = importlib.util.spec_from_file_location("labelled_device", Path(__file__).parents[2] / "labelled_device.py")
labelled = importlib.util.module_from_spec(_spec)
sys.modules["labelled_device"] = labelled
_spec.loader.exec_module(labelled)
LabelledDevice = labelled.LabelledDevice


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
    there, here = (load_features(tmp_path / f"{name}.h5").splits["train"] for name in ("device", "cpu"))
    assert list(there.sample_ids) == list(here.sample_ids)
    np.testing.assert_allclose(there.image_features.astype(float), here.image_features.astype(float), atol=2e-3)
