"""Every method with device="cuda": it runs there, on tensors of the device alone, and does not wait in its loops.

There is no GPU: tensors are on the CPU and labelled, see tests/helpers/labelled_device.py.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from labelled_device import LabelledDevice

import cafe.compute
import cafe.methods.base
import cafe.training.trainer
from cafe import CoOp
from cafe.encoders import open_encoder
from cafe.errors import InputError
from cafe.fitting import check_device_and_dtype
from cafe.methods import fit_many, make_method, method_names
from cafe.methods.inputs.stored_rows import StoredRows

# Its card has no kernels of Triton's, and a fit says so.
pytestmark = pytest.mark.filterwarnings("ignore:training goes without Triton")

METHODS = [name for name in method_names() if name != "coop"]  # which needs a tower, and has a test of its own
# How each method takes longer.
LONGER = {"epochs": (2, 8), "steps": (3, 12), "iterations": (5, 20)}


def problem(n_classes=4, per_class=6, d=12, seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(n_classes, d)).astype(np.float32)
    y = np.arange(n_classes * per_class) % n_classes
    X = (text[y] + 0.6 * rng.normal(size=(len(y), d))).astype(np.float32)
    return X, y, text


def make(name, text, device, longer=False):
    model = make_method(name, class_embeddings=text)
    known = model.get_params(deep=False)
    if "device" not in known:  # a newcomer may do without, and is refused by name
        with pytest.raises(InputError, match="runs on the CPU alone"), LabelledDevice():
            check_device_and_dtype("cuda", "auto", name)
        pytest.skip(f"{name} has no choice of device")
    model.set_params(device=device)
    changes = {k: v[longer] for k, v in LONGER.items() if k in known}
    changes |= {k: v for k, v in {"random_state": 0, "C": 1.0, "batch_size": 8}.items() if k in known}
    return model.set_params(**changes)


@pytest.mark.filterwarnings("ignore:the batch of")
@pytest.mark.parametrize("name", METHODS)
def test_runs_on_the_device_and_gives_what_a_cpu_gives(name):
    X, y, text = problem()
    with LabelledDevice() as device:
        model = make(name, text, "cuda").fit(X, y)
        assert device.operations or name in ("zero-shot", "tip-adapter", "stat-a", "trans-clip")  # which learn nothing
        fitted, device.operations = device.reads, 0
        logits = model.logits(X)
        assert device.operations > 0, "rows were scored somewhere else"
        # Whether all are finite, and the logits themselves.
        assert device.reads - fitted <= 2, device.read_at
    assert model.device_ == "cuda:0"
    assert not model.kernel_.startswith(("numpy", "cpu"))
    plain = make(name, text, "cpu").fit(X, y)
    assert plain.device_ == "cpu"
    np.testing.assert_allclose(logits, plain.logits(X), atol=3e-4 * np.abs(logits).max())
    # Without the device it scores on the CPU, as a run that is opened elsewhere does.
    np.testing.assert_allclose(model.logits(X), plain.logits(X), atol=3e-4 * np.abs(logits).max())


@pytest.mark.filterwarnings("ignore:the batch of")
@pytest.mark.parametrize("name", METHODS)
def test_does_not_wait_in_its_loop(name):
    X, y, text = problem()
    waits = []
    for longer in (False, True):
        with LabelledDevice() as device:
            make(name, text, "cuda", longer).fit(X, y).logits(X)
        waits.append((device.reads, device.uploads, dict(device.read_at)))
    assert waits[0][:2] == waits[1][:2], waits


@pytest.fixture(scope="module")
def tower():
    return open_encoder("cafe:mini", device="cpu", dtype="float32").text_tower()


@pytest.mark.parametrize("class_specific", [False, True])
def test_coop_moves_its_tower_to_the_device_and_does_not_wait_in_its_loop(tower, class_specific):
    names = ["circle", "square", "triangle"]
    y = np.arange(12) % 3
    X = tower.encode(names).numpy()[y] + 0.1 * np.random.default_rng(0).normal(size=(12, tower.dim)).astype(np.float32)
    given = {"class_names": names, "text_tower": tower, "n_context": 4, "class_specific": class_specific}
    waits = []
    for epochs in (8, 2):
        model = CoOp(**given, epochs=epochs, batch_size=4, random_state=0, device="cuda")
        with LabelledDevice() as device:
            logits = model.fit(X, y).logits(X)
        waits.append((device.reads, device.uploads, dict(device.read_at)))
    assert model.device_ == "cuda:0"
    assert waits[0][:2] == waits[1][:2], waits
    plain = CoOp(**given, epochs=2, batch_size=4, random_state=0, device="cpu").fit(X, y)
    np.testing.assert_allclose(logits, plain.logits(X), atol=2e-3)
    assert tower.device == "cpu"  # a copy went


def test_tip_adapters_search_runs_on_the_device():
    X, y, text = problem(per_class=8)
    chosen = []
    for device in ("cuda", "cpu"):
        with LabelledDevice() as watched:
            model = make_method("tip-adapter", class_embeddings=text, device=device, alpha="auto", beta="auto")
            model.set_params(random_state=0).fit(X, y)
        chosen.append((model.alpha_, model.beta_))
        # Each fold's accuracies, once; not one number for each pair of alpha and beta.
        assert watched.reads <= (16 if device == "cuda" else 0), watched.read_at
    assert chosen[0] == chosen[1]


def test_the_probes_solver_never_reads_from_the_device_in_its_turns():
    from cafe.solvers.logistic import logistic_path

    rng = np.random.default_rng(0)
    y = np.arange(120) % 5
    X = rng.normal(size=(120, 20)).astype(np.float32) + 0.5 * np.eye(20, dtype=np.float32)[y]
    X = torch.from_numpy(X)
    plain = logistic_path(X, y, 5, [0.1, 1.0], tolerance=1e-7)
    reads = []
    for tolerance in (1e-3, 1e-7):
        with LabelledDevice() as device:
            fits = logistic_path(X.to("cuda"), y, 5, [0.1, 1.0], tolerance=tolerance)
        reads.append((device.reads, sum(fit.iterations for (fit,) in fits)))
        assert not [place for place in device.read_at if "lbfgs.py" in place], device.read_at
    assert reads[0][0] == reads[1][0] and reads[1][1] > reads[0][1]  # more turns, no more reads
    for (own,), (other,) in zip(fits, plain, strict=True):
        assert own.converged
        np.testing.assert_allclose(own.objective, other.objective, rtol=1e-5)
        np.testing.assert_allclose(own.coef, other.coef, atol=5e-3)


def test_a_solver_on_the_device_keeps_what_it_learned_and_drops_the_turn_after_the_end():
    from cafe.solvers.lbfgs import HISTORY, Point, minimise

    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.normal(size=(30, 20)))
    b = torch.from_numpy(rng.normal(size=(1, 30)))
    with LabelledDevice():
        A, b = A.to("cuda"), b.to("cuda")
        evaluations = 0

        def function(x):
            nonlocal evaluations
            evaluations += 1
            error = x @ A.T - b
            return Point(x, 0.5 * error.square().sum(1), error @ A)

        start, memory = function(torch.zeros(1, 20, dtype=torch.float64, device="cuda")), []
        ridge = torch.full((1, 1), 0.1, dtype=torch.float64, device="cuda")
        minimum = minimise(function, start, ridge, lambda q: q, 1e-10, 100, memory)
        assert bool(minimum.done.cpu().all())
        assert evaluations == minimum.iterations + 2  # the start, and the one after the end
        assert len(memory) == min(HISTORY, minimum.iterations)
        assert bool(memory[-1][2].cpu().all()), "the last pair is that of the last turn that moved"
        stopped = minimise(function, start, ridge, lambda q: q, 1e-10, 3, [])
        assert stopped.iterations == 3 and not bool(stopped.done.cpu().any())


def costly(*arguments):
    """Make a method that says of itself that a CPU takes long for it."""
    model = make(*arguments)
    model._multiply_adds = lambda n, d, c: 1e12
    return model


def test_a_small_problem_stays_on_the_cpu_and_a_large_one_does_not():
    X, y, text = problem()
    with LabelledDevice() as device:
        assert make("gda", text, "auto").fit(X, y).device_ == "cpu"
        assert device.operations == 0
        assert costly("gda", text, "auto").fit(X, y).device_ == "cuda:0"


def test_a_device_that_is_not_here_is_refused():
    X, y, text = problem()
    for name in ("zero-shot", "gda", "task-res", "clip-adapter", "trans-clip"):
        with pytest.raises(InputError, match="is not here"):
            make(name, text, "cuda").fit(X, y)
    with LabelledDevice(), pytest.raises(InputError, match="sees 1 CUDA devices"):
        make("gda", text, "cuda:1").fit(X, y)
    with LabelledDevice(), pytest.raises(InputError, match="scikit-learn' runs on the CPU alone"):
        make("linear-probe", text, "cuda").set_params(solver="scikit-learn").fit(X, y)


def test_a_grid_runs_where_single_fits_run():
    X, y, text = problem()
    with LabelledDevice():
        fits = fit_many(X, y, [make(name, text, "cuda") for name in ("gda", "task-res", "tip-adapter-f")])
    assert [fit.device_ for fit in fits] == ["cuda:0"] * 3


SETTINGS = {
    "nothing": "",
    "allow_tf32": "torch.backends.cuda.matmul.allow_tf32 = True",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "of the product": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "of everything": "torch.backends.fp32_precision = 'tf32'",
}
# In a process of its own: one that used PyTorch's newer settings cannot go back to where nobody had.
WATCHED_SETTING = """
import sys
from threading import Barrier, Thread
import torch
from cafe.compute import exact_products

def settings():
    readers = (
        lambda: torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.fp32_precision, lambda: torch.backends.mkldnn.matmul.fp32_precision,
    )
    found = []
    for read in readers:
        try:
            found.append(read())
        except (AttributeError, RuntimeError) as error:  # an older PyTorch; a reader that refuses
            found.append(type(error).__name__)
    return found

def exact():
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision in ("ieee", "none") if hasattr(matmul, "fp32_precision") else not matmul.allow_tf32

for words in sys.argv[1].split(";;"):
    exec(words)
before = settings()
with exact_products("cpu"):
    assert settings() == before
in_first, second_is_in, first_is_out = Barrier(2), Barrier(2), Barrier(2)
seen = []

def first():
    with exact_products("cuda:0"):
        in_first.wait()
        second_is_in.wait()
    first_is_out.wait()

def second():
    in_first.wait()
    with exact_products("cuda:0"):
        second_is_in.wait()
        first_is_out.wait()
        seen.append(exact())  # the other, which came earlier, has left

threads = [Thread(target=run) for run in (first, second)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert seen == [True]
assert settings() == before, (before, settings())
try:
    with exact_products("cuda:0"):
        assert exact()
        raise KeyError
except KeyError:
    pass
assert settings() == before, (before, settings())
"""


# The others with CAFE_LONG_TESTS=1: each is a process.
@pytest.mark.parametrize("setting", SETTINGS if "CAFE_LONG_TESTS" in os.environ else ["medium", "of the product"])
def test_products_are_exact_in_every_thread_and_the_setting_comes_back(setting):
    if setting.startswith("of ") and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this PyTorch has no such setting")
    command = [sys.executable, "-c", WATCHED_SETTING, SETTINGS[setting] or "pass"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_fit_and_its_scores_have_exact_products(monkeypatch):
    """On CUDA, training and scoring have float32 products without tf32; the user's setting comes back afterwards."""
    X, y, text = problem()
    seen = []
    for place, name in ((cafe.training.trainer, "train_step_by_step"), (cafe.methods.base, "on_device")):
        plain = getattr(place, name)

        def watched(*arguments, plain=plain):
            seen.append(cafe.compute._product_precision())
            return plain(*arguments)

        monkeypatch.setattr(place, name, watched)
    before = cafe.compute._product_precision()
    cafe.compute._product_precision("tf32")
    try:
        with LabelledDevice():
            make("task-res", text, "cuda").fit(X, y).logits(X)
        assert cafe.compute._product_precision() == "tf32"
    finally:
        cafe.compute._product_precision(before)
    assert len(seen) == 2 and set(seen) <= {"ieee", "none"}


@pytest.fixture
def mapped(tmp_path):
    X, y, text = problem(per_class=10)
    X.astype(np.float16).tofile(tmp_path / "x")
    return np.memmap(tmp_path / "x", np.float16, mode="r", shape=X.shape), y, text


@pytest.mark.parametrize("name", ["clip-adapter", "task-res", "linear-probe", "gda"])
def test_features_on_disk_lie_whole_on_a_device_that_has_room(mapped, name):
    X, y, text = mapped
    in_blocks, waits = StoredRows(X, block_rows=16), []
    for longer in (False, True):
        with LabelledDevice() as device:
            model = make(name, text, "cuda", longer).fit(in_blocks, y)
        assert model.device_ == "cuda:0"
        waits.append((device.reads, device.uploads))
    assert waits[0] == waits[1], "a step reads its rows from the host"
    whole = make(name, text, "cpu", True).fit(np.array(X, np.float32), y)
    np.testing.assert_allclose(model.logits(X), whole.logits(X), atol=2e-3 * np.abs(whole.logits(X)).max())


def test_features_that_a_device_has_no_room_for_stay_where_they_are(mapped):
    X, y, text = mapped
    with LabelledDevice(memory=X.size * 4):
        assert costly("clip-adapter", text, "auto").fit(X, y).device_ == "cpu"
        with pytest.raises(
            InputError, match=r"the features need 0.0 GiB in float32, and cuda:0 has .* use device='cpu'"
        ):
            make("clip-adapter", text, "cuda").fit(X, y)
    with LabelledDevice(memory=X.size * 4 * 2):
        assert costly("clip-adapter", text, "auto").fit(X, y).device_ == "cuda:0"
