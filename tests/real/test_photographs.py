"""The 1,800 photographs: from their archive to predictions with the README's two commands, and with three lines."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from cafe.cli.app import call


@pytest.fixture(scope="module")
def photographs(real_data, tmp_path_factory):
    """A folder with one folder of photographs for each class, as a person has it, and its caches beside."""
    archive = real_data / "caltech101_images.tar"
    if not archive.is_file():
        pytest.skip(f"CAFE_REAL_DATA has no {archive.name}")
    folder = tmp_path_factory.mktemp("photographs")
    with tarfile.open(archive) as tar:
        # Python before 3.11.4 has no filter, and takes no argument of that name.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(folder)
    return Path(shutil.move(folder / "caltech-101" / "101_ObjectCategories", folder / "my_photos"))


def test_two_commands_and_three_lines(photographs, monkeypatch, capfd):
    monkeypatch.setenv("CAFE_CACHE", str(photographs.parent / "cache"))
    monkeypatch.chdir(photographs.parent)
    assert call(["fit", "./my_photos", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["rows"]
    assert (row["n_train"], row["n_test"], row["refitted_on"]) == (900, 600, 1800)
    assert row["acc1"] > 0.05  # of 100 classes; the embedded encoder knows no photographs
    assert call(["predict", "my_photos/Faces", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [Path(image["image"]).parent.name for image in document["images"]] == ["Faces"] * 18

    import cafe

    classifier = cafe.Classifier.fit("./my_photos")  # its features are there
    names = classifier.predict("my_photos/Faces")
    assert [image["predictions"][0]["class"] for image in document["images"]] == names.tolist()
