"""Exported files hold the cache's arrays, and come back as they went."""

import json
from pathlib import Path

import numpy as np
import pytest

from cafe.cache.format.reader import read_features
from cafe.cache.transfer.exporting import FORMATS, export_features
from cafe.cache.transfer.importing import import_features
from cafe.cli.app import call
from cafe.errors import InputError


@pytest.mark.parametrize("layout", ["npz", "safetensors"])
def test_there_and_back(layout, full_cache, tmp_path):
    features = read_features(full_cache)
    (path,) = export_features(features, tmp_path / f"out.{layout}")
    back = import_features(path, tmp_path / "back.h5", dataset="toys", encoder="cafe:mini").features
    assert back.class_names == features.class_names
    np.testing.assert_array_equal(back.text_features, features.text_features)
    for name, split in features.splits.items():
        assert back.splits[name].image_features.dtype == split.image_features.dtype
        np.testing.assert_array_equal(back.splits[name].image_features, split.image_features)
        np.testing.assert_array_equal(back.splits[name].labels, split.labels)
        np.testing.assert_array_equal(back.splits[name].sample_ids, split.sample_ids)


def test_npz_needs_numpy_alone(full_cache, tmp_path):
    features = read_features(full_cache)
    (path,) = export_features(features, tmp_path / "out.npz")
    with np.load(path, allow_pickle=False) as file:
        metadata = json.loads(str(file["metadata"]))
        assert file["view_features_of_train"].shape == features.splits["train"].view_features.shape
        assert file["templates"].tolist() == list(features.templates)
        assert np.array_equal(file["image_sha256_of_train"], features.splits["train"].image_sha256)
    assert metadata["logit_scale"] == features.logit_scale
    assert metadata["provenance"]["fingerprint"] == features.provenance["fingerprint"]


def test_parquet(full_cache, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    features = read_features(full_cache)
    paths = export_features(features, tmp_path / "out.parquet")
    assert [path.name for path in paths] == ["out.parquet", "out.text.parquet"]
    table = parquet.read_table(paths[0])
    rows = np.array(table["image_features"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(rows, np.concatenate([s.image_features for s in features.splits.values()]))
    assert table["split"].to_pylist() == [name for name, split in features.splits.items() for _ in range(len(split))]
    hashes = [bytes(row) for split in features.splits.values() for row in split.image_sha256]
    assert table["image_sha256"].to_pylist() == hashes
    labels = table["label"].to_pylist()
    assert table["class_name"].to_pylist() == [features.class_names[label] for label in labels]
    assert json.loads(table.schema.metadata[b"cafe"])["templates"] == list(features.templates)
    text = parquet.read_table(paths[1])
    m, c, d = features.text_features.shape
    np.testing.assert_array_equal(
        np.array(text["text_features"].to_pylist(), dtype=np.float32).reshape(m, c, d), features.text_features
    )
    assert text["template"].to_pylist()[c] == features.templates[1]


def test_an_interrupted_export_leaves_no_images_beside_the_text_of_another(full_cache, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    features = read_features(full_cache)
    paths = export_features(features, tmp_path / "out.parquet")
    rename, renamed = Path.replace, []

    def interrupted(path, target):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(target)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_features(features, tmp_path / "out.parquet", force=True)
    assert list(tmp_path.glob("out*")) == [paths[1]] == renamed


def test_prompts_are_exported(dataset, encoder, tmp_path):
    from cafe.cache.extract.run import extract

    path = extract(dataset, encoder, tmp_path / "a.h5", prompts=[["aa", "b"], ["x"]]).path
    features = read_features(path)
    export_features(features, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["text_prompt_features"], features.prompt_features)
    back = import_features(tmp_path / "a.npz", tmp_path / "b.h5").features
    np.testing.assert_array_equal(back.text_features, features.text_features)


def test_refusals(full_cache, tmp_path):
    features = read_features(full_cache)
    with pytest.raises(InputError, match="names no format; end it in one of .npz"):
        export_features(features, tmp_path / "x.npzz")
    export_features(features, tmp_path / "x.npz")
    with pytest.raises(InputError, match="exists already"):
        export_features(features, tmp_path / "x.npz")
    export_features(features, tmp_path / "x.npz", force=True)


def test_the_command_line(full_cache, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for layout in FORMATS:
        if layout == "parquet":
            pytest.importorskip("pyarrow")
        assert call(["cache", "export", str(full_cache), "--format", layout, "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["files"][0] == f"features.{layout}"
        assert (tmp_path / f"features.{layout}").is_file()
    assert call(["cache", "export", str(full_cache)]) == 2
    assert "--out FILE" in capfd.readouterr().err
