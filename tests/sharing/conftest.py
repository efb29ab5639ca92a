"""Small fits that are exported, served and shared."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cafe


def save_digits(folder: Path, names=("zero", "one", "two"), n_each: int = 30) -> Path:
    """Save real handwritten digits as a folder of images for each class."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    for digit, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in np.flatnonzero(labels == digit)[:n_each]:
            Image.fromarray(np.uint8(pixels[i].reshape(8, 8) * 15)).resize((40, 40)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def digit_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a fit on three digits with the embedded model; only read it."""
    folder = tmp_path_factory.mktemp("digits")
    photos = save_digits(folder / "photos")
    classifier = cafe.Classifier.fit(photos, cache_dir=folder / "caches", save=folder / "run")
    assert classifier.run is not None
    return classifier.run


@pytest.fixture(scope="session")
def digit_file(digit_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run as an ONNX file; only read it."""
    file = tmp_path_factory.mktemp("exported") / "digits.onnx"
    cafe.Classifier.load(digit_run, device="cpu", dtype="float32", cache_dir=digit_run.parent / "caches").export_onnx(
        file
    )
    return file


@pytest.fixture(scope="session")
def photographs(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs: eight of each of four classes."""
    folder = tmp_path_factory.mktemp("photographs")
    classes: dict[str, int] = {}
    with tarfile.open(real_data / "caltech101_images.tar") as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile() or not member.name.endswith(".jpg"):
                continue
            name = parts[-2]
            if (len(classes) < 4 or name in classes) and classes.get(name, 0) < 8:
                classes[name] = classes.get(name, 0) + 1
                content = archive.extractfile(member)
                assert content is not None
                (folder / name).mkdir(exist_ok=True)
                (folder / name / parts[-1]).write_bytes(content.read())
            if len(classes) == 4 and set(classes.values()) == {8}:
                break
    return folder
