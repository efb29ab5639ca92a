"""Real features of others come in, and every verb works on them (never in the repository; see CONTRIBUTING)."""

import json

import pytest

from cafe.cache.format.verify import verify_cache
from cafe.cli.app import call

OPTIONS = {
    "caltech69": [],
    # Rows of which the training set holds another view are dropped, as the data's own README asks.
    "imagenet": ["--test", "features_1shot,features_2shot", "--drop-similar", "0.93"],
    "oxford_flowers": [],
    "dtd": [],
}
ZERO_SHOT = {"caltech69": 90.74, "imagenet": 60.70}  # as published beside the features
SPLITS = {
    "caltech69": {"train": 1104, "val": 1300, "test": 1944},
    "imagenet": {"train": 4000, "test": 2911},
    "oxford_flowers": {"train": 1632, "val": 1633, "test": 2463},
    "dtd": {"train": 47, "val": 1128, "test": 1692},
}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_import_fit_and_compare(name, real_data, tmp_path, capfd):
    source = real_data / "clip_features" / f"{name}_vitb32.npz"
    where = ["--cache-dir", str(tmp_path), "--json"]
    assert call(["cache", "import", str(source), "--name", name, "--model", "ViT-B/32", *OPTIONS[name], *where]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["splits"] == SPLITS[name]
    assert document["normalised"] is True
    assert verify_cache(document["path"]).ok
    shots = "1" if name in ("dtd", "imagenet") else "4"
    assert call(["fit", "--shots", shots, "--alpha", "0.2", "--out", str(tmp_path / "run"), *where]) == 0
    (row,) = json.loads(capfd.readouterr().out)["rows"]
    assert row["n_test"] == SPLITS[name]["test"]
    if name in ZERO_SHOT:
        assert 100 * row["zero_shot_acc1"] == pytest.approx(ZERO_SHOT[name], abs=0.05)
    else:
        assert row["zero_shot_acc1"] is None
    if name == "imagenet":
        return  # a comparison on 1,000 classes takes minutes
    command = ["compare", "baselines", "--shots", "1", "--seeds", "1", "--out", str(tmp_path / "out"), *where]
    assert call(command) == 0
    assert len(json.loads(capfd.readouterr().out)["rows"]) >= 4
