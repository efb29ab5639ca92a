"""A server in this process, on a port of its own, with a small real classifier."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

import cafe
from cafe.serving.app import make_app
from cafe.serving.predictor import RunPredictor
from cafe.serving.server import _PunctualProtocol, bind
from cafe.serving.service import Limits


def digit(number: int, place: int = 0) -> Image.Image:
    """Return a real handwritten digit."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    row = np.flatnonzero(labels == number)[40 + place]
    return Image.fromarray(np.uint8(pixels[row].reshape(8, 8) * 15)).resize((40, 40))


def as_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    """Return the file of an image."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, kind)
    return stream.getvalue()


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application in a thread, and return its address."""
    taken = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, http=_PunctualProtocol, ws="none", lifespan="on", access_log=False, log_level="warning")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[taken])), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        taken.close()
        assert not thread.is_alive(), "the server shuts down"


@pytest.fixture(scope="session")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> RunPredictor:
    """A fit on three real digits with the embedded model."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("served")
    pixels, labels = load_digits(return_X_y=True)
    for number, name in enumerate(("zero", "one", "two")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in np.flatnonzero(labels == number)[:30]:
            picture = Image.fromarray(np.uint8(pixels[i].reshape(8, 8) * 15)).resize((40, 40))
            picture.save(folder / "photos" / name / f"{i}.png")
    cafe.Classifier.fit(folder / "photos", cache_dir=folder / "caches", save=folder / "run")
    return RunPredictor(cafe.Classifier.load(folder / "run", dtype="float32", cache_dir=folder / "caches"))


@pytest.fixture(scope="session")
def app(predictor: RunPredictor) -> Any:
    """The application, with limits that a test can reach."""
    limits = Limits(megabytes=4.0, pixels=2_000_000, images=8, waiting=64, seconds=2.0)
    return make_app(predictor, limits, hosts=["127.0.0.1", "localhost"])


@pytest.fixture(scope="session")
def address(app: Any) -> Iterator[str]:
    """Where it is served."""
    with running(app) as where:
        yield where


@pytest.fixture(scope="session")
def photo_folder(predictor: RunPredictor) -> Path:
    """The images that it was fitted on."""
    run = predictor._classifier.run
    assert run is not None
    return run.parent / "photos"
