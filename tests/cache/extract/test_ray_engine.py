"""Ray writes the shards that a local run writes, and outlives a worker."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cafe.cache.extract import ray_engine
from cafe.cache.extract.run import extract
from cafe.cache.extract.shards import Shard
from cafe.cache.extract.views import Views
from cafe.cache.format.reader import read_features
from cafe.data import open_dataset
from cafe.encoders import open_encoder
from cafe.errors import CafeError, InputError, MissingDependencyError


def test_an_engine_that_is_not_there(fakes, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"--engine ray needs .*pip install 'cafe-clip\[ray\]'"):
        extract(fakes[0](), fakes[1](), tmp_path / "a.h5", engine="ray")
    with pytest.raises(InputError, match="unknown engine 'rai'; did you mean 'ray'"):
        extract(fakes[0](), fakes[1](), tmp_path / "a.h5", engine="rai")
    with pytest.raises(InputError, match="give --engine ray with it"):
        extract(fakes[0](), fakes[1](), tmp_path / "a.h5", ray_address="auto")


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1:1", "refused"), ("cluster", "auto or HOST:PORT")])
def test_a_cluster_that_is_not_there(dataset, encoder, tmp_path, address, said):
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    with pytest.raises(CafeError, match=f"no Ray cluster could be had at {address}: .*{said}"):
        extract(dataset, encoder, tmp_path / "a.h5", engine="ray", ray_address=address)


@pytest.mark.parametrize(("length", "views", "size"), [(11, 2, 4), (8, 0, 8), (5, 1, 100)])
def test_batches_are_cut_where_a_local_run_cuts_them(length, views, size):
    shard = Shard(3, "train", 16, 16 + length, views)
    places = [place for batch in range(shard.n_batches(size)) for place in shard.places(batch, size)]
    assert places == [(view, position) for position in range(length) for view in range(1 + views)]
    assert all(len(shard.places(batch, size)) == size for batch in range(shard.n_batches(size) - 1))


@pytest.fixture
def photos(tmp_path):
    """Two classes of 24 pictures and one broken file, and four to test on."""
    for split, count in (("train", 24), ("test", 2)):
        for label, name in enumerate("ab"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([label, i, count]).integers(0, 256, (40, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (tmp_path / "photos" / "train" / "a" / "07.png").write_bytes(b"broken")
    return tmp_path / "photos"


def _kill_a_worker(when: threading.Event, killed: list[int]) -> None:
    """Kill the actor that encodes, found among the processes that this one's cluster has begun."""
    when.wait(60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not killed:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = path.read_bytes()
                mine = f"CAFE_TEST_RAY={os.getpid()}".encode() in (path.parent / "environ").read_bytes()
            except OSError:
                continue
            if mine and b"ray::" in title and b"Encode" in title:
                killed.append(int(path.parent.name))
                os.kill(killed[0], signal.SIGKILL)
                return
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for a worker in /proc")
def test_the_same_bytes_with_a_worker_killed(photos, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    monkeypatch.setenv("CAFE_TEST_RAY", str(os.getpid()))
    options = {"views": Views(1), "batch_size": 3, "projection_features": True}
    whole = extract(open_dataset(str(photos)), open_encoder("cafe:mini", "cpu"), tmp_path / "a.h5", **options)
    # The rows of the test split are taken from a cache at hand; the others are encoded.
    known = {"batch_size": 3, "projection_features": True, "splits": ["test"], "known_in": ()}
    extract(open_dataset(str(photos)), open_encoder("cafe:mini", "cpu"), tmp_path / "known" / "test.h5", **known)
    begun, killed = threading.Event(), []
    killer = threading.Thread(target=_kill_a_worker, args=(begun, killed))
    killer.start()
    seen = []

    def tell(state):
        seen.append(state)
        if state.done >= 4:
            begun.set()

    by_ray = extract(
        open_dataset(str(photos)), open_encoder("cafe:mini", "cpu"), tmp_path / "b.h5",
        engine="ray", progress=tell, known_in=[tmp_path / "known"], **options,
    )  # fmt: skip
    begun.set()
    killer.join()
    assert len(killed) == 1
    alone, other = read_features(whole.path), read_features(by_ray.path)
    for name in ("train", "test"):
        for array in (
            "image_features",
            "view_features",
            "projection_features",
            "labels",
            "sample_ids",
            "image_sha256",
        ):
            a, b = getattr(alone.splits[name], array), getattr(other.splits[name], array)
            assert (a is None) == (b is None) and (a is None or a.tobytes() == b.tobytes())
    assert alone.text_features.tobytes() == other.text_features.tobytes()
    assert alone.provenance["unreadable"] == other.provenance["unreadable"]
    assert len(alone.provenance["unreadable"]) == 1
    assert (by_ray.encoded, by_ray.kept) == (whole.splits["train"], whole.splits["test"]) and seen[-1].stage == "write"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_no_import_of_ray_at_the_top():
    assert "ray" not in vars(ray_engine)
