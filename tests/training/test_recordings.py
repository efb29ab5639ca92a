"""Recordings that other stacks and later calls use again, and what a graph may hold: captured and replayed on a CPU.

Tensors are labelled as a device's, and a graph there does the captured operations again
(tests/helpers/labelled_device.py).
"""

import numpy as np
import pytest
import torch
from labelled_device import LabelledDevice

from cafe import compute
from cafe.training import steps
from cafe.training.recordings import KeptRecordings, Recording, held_bytes, kept_recordings
from cafe.training.steps import Configuration, LossThenUpdate
from cafe.training.trainer import train_many

D, STEPS = 5, 70


class Momentum:
    """SGD with momentum that keeps everything on the device."""

    def __init__(self, parameters):
        self.velocity = {k: torch.zeros_like(v) for k, v in parameters.items()}

    def state(self):
        return list(self.velocity.values())

    def __call__(self, parameters, gradients, lr):
        for name, value in parameters.items():
            self.velocity[name].mul_(0.9).add_(gradients[name])
            value.sub_(self.velocity[name] * lr[:, None])


class Step:
    """Least squares: half a step of the mean squared error of X w against y."""

    def __init__(self, X, y, careless=False):
        self.X, self.targets, self.careless = X, y.to(X), careless

    def recorded_as(self):
        return "least squares", [self.X, self.targets]

    def __call__(self, parameters, index, with_losses):
        rows = self.X[index]  # (g, b, d)
        error = (rows @ parameters["w"][:, :, None])[..., 0] - self.targets[index]
        if self.careless and float(error.abs().max()) < 0:
            raise AssertionError
        return error.square().mean(1), {"w": (error[..., None] * rows).mean(1)}

    def whole_step(self, optimizer, parameters, decay, n_steps, eps):
        return LossThenUpdate(self, Momentum(parameters), parameters)


class Nameless(Step):
    """Does not say what it was made of."""

    recorded_as = None


class LeastSquares:
    on_device = True

    def __init__(self, step=Step, **options):
        self.step, self.options = step, options

    def initial(self, configuration, generator):
        return {"w": torch.randn(D, generator=generator)}

    def stepper(self, shape, hyper, X, y, feature_mean):
        return self.step(X, y, **self.options)

    def activation_bytes(self, configuration):
        return 1

    def multiply_adds(self, configuration):
        return 1


def configurations(n=20, n_steps=STEPS, count=2):
    rows = np.arange(n)
    return [Configuration(rows, seed, "form", {"scale": 1.0}, n_steps, 4, 0.05, 0.0, "sgd") for seed in range(count)]


def data(seed, n=20):
    rng = np.random.default_rng(seed)
    X = torch.from_numpy(rng.normal(size=(n, D)).astype(np.float32))
    return X, torch.from_numpy(rng.integers(0, 3, n))


def train(objective, seed, fits=None, n=20):
    X, y = (value.to("cuda") for value in data(seed, n))
    return [fit.parameters["w"] for fit in train_many(objective, X, y, fits or configurations(n))]


def plainly(seed, n_steps=STEPS, count=2, n=20):
    """Step by step on the CPU, one configuration after the other."""
    X, y = data(seed, n)
    trained = []
    for configured in configurations(n, n_steps, count):
        generator = torch.Generator().manual_seed(configured.random_state)
        weights = {"w": torch.randn(D, generator=generator)[None]}
        step, update = Step(X, y), Momentum(weights)
        from cafe.training.trainer import _batches

        index = torch.cat(list(_batches(configured, generator)))  # (steps, b)
        factor = steps.schedule(n_steps, 0)
        for t in range(n_steps):
            update(weights, step(weights, index[t][None], True)[1], factor(t, torch.tensor([configured.lr])))
        trained.append(weights["w"][0].numpy())
    return trained


def test_a_later_call_of_the_same_form_replays_what_an_earlier_one_recorded():
    with LabelledDevice() as device:
        first = train(LeastSquares(), 0)
        graphs = list(device.graphs)
        assert len(graphs) == 2  # sixteen steps, and one
        assert [graph.replays for graph in graphs] == [STEPS // 16, STEPS % 16]
        second = train(LeastSquares(), 1)
        assert device.graphs == graphs, "nothing was captured again"
        assert graphs[0].replays == 2 * (STEPS // 16)
        assert len(kept_recordings) == 1
    for trained, seed in ((first, 0), (second, 1)):
        np.testing.assert_allclose(trained, plainly(seed), rtol=1e-4, atol=1e-5)
    assert len(kept_recordings) == 0  # the context lets go of what it made


def test_another_form_is_recorded_on_its_own_and_a_step_that_does_not_say_what_it_is_made_of_is_not_kept():
    with LabelledDevice() as device:
        train(LeastSquares(), 0)
        trained = train(LeastSquares(), 0, n=24)  # more rows: other memory
        assert len(device.graphs) == 4
        train(LeastSquares(Nameless), 0)
        train(LeastSquares(Nameless), 0)
        assert len(device.graphs) == 8
        assert len(kept_recordings) == 2
    np.testing.assert_allclose(trained, plainly(0, n=24), rtol=1e-4, atol=1e-5)


def test_short_fits_have_no_graph():
    with LabelledDevice() as device:
        short = steps.LEAST_FOR_GRAPH - 1
        trained = train(LeastSquares(), 0, configurations(n_steps=short))
        assert device.graphs == [] and len(kept_recordings) == 0
    np.testing.assert_allclose(trained, plainly(0, short), rtol=1e-4, atol=1e-5)


def test_a_step_that_waits_for_the_device_cannot_be_captured():
    with LabelledDevice(), pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        train(LeastSquares(careless=True), 0)


def test_each_device_has_one_capture_stream(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or f"stream {len(made)}")
    compute.capture_stream.cache_clear()
    try:
        trained = [compute.capture_stream(device) for device in (0, 1, 0, 1)]
    finally:
        compute.capture_stream.cache_clear()
    assert made == [0, 1] and trained == ["stream 1", "stream 2"] * 2


def test_a_capture_is_on_the_stream_of_its_device():
    with LabelledDevice() as device:
        train(LeastSquares(), 0)
        assert {graph.stream for graph in device.graphs} == {compute.capture_stream(0)}


def recording(numbers):
    step = Step(torch.zeros(1, numbers), torch.zeros(1))
    return Recording(step, {}, {}, torch.zeros(1), torch.zeros(1))


def test_what_is_kept_is_bounded_and_the_longest_unused_goes_first():
    size = held_bytes(recording(1000))
    assert 4000 <= size < 4100
    kept = KeptRecordings(most_bytes=2 * size, most=3)
    for name in "ab":
        kept.keep(name, recording(1000))
    again = kept.take("a")
    assert kept.take("a") is None, "who takes it has it alone"
    kept.keep("a", again)
    kept.keep("c", recording(1000))  # b was the longest unused
    assert kept.take("b") is None and kept.bytes == 2 * size
    kept.keep("large", recording(10_000))
    assert kept.take("large") is None and len(kept) == 2
    for name in range(5):
        kept.keep(name, recording(1))
    assert len(kept) == 3
    kept.clear()
    assert len(kept) == kept.bytes == 0


def test_memory_that_tensors_share_counts_once():
    whole = torch.zeros(1000)
    made = recording(1)
    made.parameters = {"a": whole, "b": whole[:500].view(5, 100)}
    assert held_bytes(made) < 4100
