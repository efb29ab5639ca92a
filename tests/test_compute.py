"""Device, precision and threads: what is asked for by name is met or refused."""

import json
import threading

import pytest
import torch

from cafe.compute import (
    SMALL,
    choose_device,
    choose_encoding_dtype,
    choose_training_dtypes,
    leave_if_given_up,
    may_have_accelerator,
    measured_encoding_dtype,
    run_each,
    threads_for,
)
from cafe.errors import InputError
from cafe.measured import MEASURED_FILE, keep_in


@pytest.fixture(autouse=True)
def this_processor(monkeypatch, tmp_path):
    """The suite encodes in float32 everywhere (tests/conftest.py); here the processor is asked."""
    monkeypatch.setattr("cafe.compute.measured_encoding_dtype", measured_encoding_dtype)
    keep_in(tmp_path)
    yield
    keep_in(None)


def test_automatic_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    here = {"cuda": False, "mps": False}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here["cuda"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * here["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: here["mps"])
    assert choose_device("auto") == "cpu"
    with pytest.raises(InputError, match="sees 0 CUDA devices"):
        choose_device("cuda")
    with pytest.raises(InputError, match="'mps' is not here"):
        choose_device("mps")
    here["mps"] = True
    assert choose_device("auto") == choose_device("mps") == "mps"
    here["cuda"] = True
    assert choose_device("auto") == choose_device("cuda") == "cuda:0"
    assert choose_device("cuda:1") == "cuda:1"


def test_ranks_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (choose_device("auto"), choose_device("cuda")) == ("cuda:1", "cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")  # more processes than devices share them
    assert choose_device("auto") == "cuda:0"


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    for bad in ("gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "mps:1", ""):
        with pytest.raises(InputError, match="unknown device"):
            choose_device(bad)
    with pytest.raises(InputError, match="is not here"):
        choose_device("cuda:99")


def test_encoding_dtypes() -> None:
    assert choose_encoding_dtype("auto", "cuda:1") == "bfloat16"
    assert choose_encoding_dtype("float16", "cpu") == "float16"
    with pytest.raises(InputError, match="unknown dtype 'fp16'"):
        choose_encoding_dtype("fp16", "cpu")


@pytest.mark.parametrize(
    ("bfloat16", "taken"), [(1.0, "float32"), (0.76, "float32"), (0.75, "bfloat16"), (0.2, "bfloat16")]
)
def test_bfloat16_is_taken_where_it_is_a_third_faster(bfloat16, taken, monkeypatch, tmp_path):
    import torch

    asked: list[str] = []

    def seconds(question, names, make, *, library, threads, at_least):
        assert at_least == 2
        assert set(names) == set(make())
        assert all(way().shape == (128, 64) for way in make().values())
        assert torch.get_num_threads() == 1
        asked.append(f"{question}, {library}, {threads}")
        return {"float32": 1.0, "bfloat16": bfloat16}

    monkeypatch.setattr("cafe.compute.seconds_of", seconds)
    before = torch.get_num_threads()
    assert choose_encoding_dtype("auto", "cpu", (64, 96)) == taken
    assert torch.get_num_threads() == before
    assert asked == [f"encoding, layers of 64 and 96, torch {torch.__version__}, {before}"]
    assert choose_encoding_dtype("auto", "cpu", (64, 96), preferred="float16") == "float16"
    assert choose_encoding_dtype("auto", "cuda:0", preferred="float32") == "float32"
    assert choose_encoding_dtype("auto", "mps") == "float32"
    assert len(asked) == 1


def test_the_measurement_is_kept(tmp_path, monkeypatch):
    first = choose_encoding_dtype("auto", "cpu", (32, 48))
    assert first in ("float32", "bfloat16")
    note = tmp_path / MEASURED_FILE
    (key,) = json.loads(note.read_text())["seconds"]
    assert "layers of 32 and 48" in key
    monkeypatch.setattr("cafe.measured.time_ways", lambda *a, **k: pytest.fail("measured again"))
    assert choose_encoding_dtype("auto", "cpu", (32, 48)) == first


def test_an_accelerator_is_looked_for_where_one_may_be(monkeypatch, tmp_path):
    import sys

    monkeypatch.setattr("cafe.compute._DEVICE_FILES", (str(tmp_path / "nothing"), str(tmp_path)))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "torch")
    assert may_have_accelerator()
    monkeypatch.setattr("cafe.compute._DEVICE_FILES", (str(tmp_path / "nothing"),))
    assert not may_have_accelerator()
    assert choose_device() == choose_device("cpu") == "cpu"
    assert "torch" not in sys.modules
    monkeypatch.setattr(sys, "platform", "darwin")
    assert may_have_accelerator()


def test_training_dtypes():
    with pytest.raises(InputError, match="no bfloat16 products"):
        choose_training_dtypes("bfloat16", "reference")
    with pytest.raises(InputError, match="kernel 'cpu' has no tf32 products"):
        choose_training_dtypes("tf32", "cpu")
    with pytest.raises(InputError, match="sums in float32"):
        choose_training_dtypes("float64", "triton")
    assert choose_training_dtypes("tf32", "triton") == (torch.float32, torch.float32)
    assert choose_training_dtypes("bfloat16", "cpu") == (torch.float32, torch.bfloat16)
    assert choose_training_dtypes("auto", "cpu") == (torch.float32, torch.float32)
    assert choose_training_dtypes("auto", "reference") == (torch.float32, torch.float32)
    with pytest.raises(InputError, match="unknown dtype of clip-adapter 'half'"):
        choose_training_dtypes("half", "cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_steps_run_on_one_thread_and_leave_threads_as_they_were(two_threads):
    with threads_for(SMALL):
        assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError), threads_for(SMALL - 1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_jobs_run_side_by_side_each_on_one_thread(two_threads):
    together, threads = threading.Barrier(2, timeout=30), []

    def job():
        together.wait()  # passed only where both jobs run at once
        threads.append(torch.get_num_threads())

    run_each([job, job])
    assert threads == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("reason", [InputError("no"), KeyboardInterrupt()], ids=["a failure", "Ctrl-C"])
def test_jobs_that_run_beside_one_that_fails_leave_at_their_next_step(reason, two_threads):
    running, ended, begun = threading.Event(), [], []

    def endless():
        running.set()
        try:
            while True:
                leave_if_given_up()
        finally:
            ended.append(1)

    def failing():
        assert running.wait(30)
        raise reason

    with pytest.raises(type(reason)):
        run_each([endless, failing, lambda: begun.append(1)])
    assert ended == [1]
    assert not begun
    leave_if_given_up()  # nothing of it is left in this thread


def test_a_job_that_fails_is_heard(two_threads):
    def failing():
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        run_each([failing, lambda: None, lambda: None])
    assert torch.get_num_threads() == 2
