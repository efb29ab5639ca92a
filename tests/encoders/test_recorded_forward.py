"""What encoders do on CUDA alone, as far as it can be held without a GPU."""

import numpy as np
import torch

from cafe.encoders.towers.torch_encoder import RecordedForward


class FakeGraph:
    """Replays the forward pass on the tensors that it was recorded with."""

    def __init__(self, encode, given, features):
        self.encode, self.given, self.features, self.replays = encode, given, features, 0

    def replay(self):
        self.replays += 1
        self.features.copy_(self.encode(self.given))


def test_a_shape_that_comes_again_is_recorded_and_replayed(monkeypatch):
    graphs = []

    def encode(crops):
        return crops.float().flatten(1).sum(1, keepdim=True)

    def record(self, on_device):
        given = on_device.clone()
        features = encode(given)
        graphs.append(FakeGraph(encode, given, features))
        return given, graphs[-1], features

    monkeypatch.setattr(RecordedForward, "_record", record)
    forward, kept = RecordedForward(encode), []
    batches = [torch.full((4, 2), number) for number in range(6)]
    for batch in batches:
        kept.append(forward(batch))
    assert torch.equal(forward(torch.ones(3, 2)), torch.full((3, 1), 2.0))  # a last, small batch: as it is
    assert len(graphs) == 1 and graphs[0].replays == 6 - RecordedForward.AFTER
    # Results stay, although each replay writes to the same place.
    assert [float(features[0, 0]) for features in kept] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]


def test_no_more_shapes_are_recorded_than_there_is_memory_for(monkeypatch):
    recorded = []

    def record(self, on_device):
        recorded.append(on_device.shape[0])
        return on_device.clone(), FakeGraph(lambda crops: crops + 1, on_device, on_device + 1), on_device + 1

    monkeypatch.setattr(RecordedForward, "_record", record)
    forward = RecordedForward(lambda crops: crops + 1)
    for size in range(1, 8):
        for _ in range(RecordedForward.AFTER + 2):
            assert forward(torch.zeros(size, 1)).shape == (size, 1)
    assert recorded == list(range(1, RecordedForward.MOST + 1))


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch):
    tried = []

    def record(self, on_device):
        tried.append(on_device)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(RecordedForward, "_record", record)
    forward = RecordedForward(lambda crops: crops + 1)
    for _ in range(6):
        assert float(forward(torch.zeros(1, 1))[0, 0]) == 1
    assert len(tried) == 1


def test_one_pass_of_normalising_is_the_formula():
    """The single operation by which CUDA computes (factor x - mean) / std gives that formula's values, on a CPU too."""
    rng = np.random.default_rng(0)
    crops = torch.from_numpy(rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]))
    factor, planes = 1 / 255, crops.permute(0, 3, 1, 2)
    expected = (planes.double() * factor - mean.double()) / std.double()
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8)):
        out = torch.empty(planes.shape, dtype=dtype)
        pixels = torch.addcmul(-mean / std, planes, factor / std, out=out)
        assert pixels.dtype == dtype
        assert float((pixels.double() - expected).abs().max()) <= bound * 2.7
