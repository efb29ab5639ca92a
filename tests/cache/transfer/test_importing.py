"""Features of other tools become caches, from files written as those tools write them."""

import json

import numpy as np
import pytest

from cafe.cache.transfer.importers.arrays import roles_of
from cafe.cache.transfer.importers.base import ImportOptions
from cafe.cache.transfer.importers.clip_benchmark import CLIPBenchmark
from cafe.cache.transfer.importers.tip_adapter import TipAdapterCache
from cafe.cache.transfer.importing import import_features, layouts
from cafe.cli.app import call
from cafe.errors import CacheError, InputError, MissingDependencyError

N, D, C = {"train": 12, "val": 6, "test": 9}, 5, 3


@pytest.fixture
def foreign():
    """Unit-length features and labels by split."""
    generator = np.random.default_rng(0)
    made = {}
    for split, n in N.items():
        rows = generator.standard_normal((n, D)).astype(np.float32)
        made[split] = rows / np.linalg.norm(rows, axis=1, keepdims=True), np.arange(n) % C
    return made


def save_clip_benchmark(folder, splits):
    folder.mkdir()
    return CLIPBenchmark.write_example(folder, splits)


def save_tip_adapter(folder, foreign):
    """Keys of 2 shots and of 4."""
    folder.mkdir()
    rows, labels = foreign["train"]
    TipAdapterCache.write_example(folder, {"train": (rows[: 2 * C], labels[: 2 * C])})
    return TipAdapterCache.write_example(folder, foreign)


def save_clip_retrieval(folder, foreign, parts=2, label=None):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for split, (features, labels) in foreign.items():
        for kind in ("img_emb", "metadata"):
            (folder / split / kind).mkdir(parents=True)
        rows = np.array_split(np.arange(len(labels)), parts)
        for part, own in enumerate(rows):
            np.save(folder / split / "img_emb" / f"img_emb_{part}.npy", features[own].astype(np.float16))
            columns = {"image_path": [f"/photos/class {labels[i]}/{split}{i}.jpg" for i in own]}
            if label:
                columns[label] = [f"named {labels[i]}" for i in own]
            parquet.write_table(pa.table(columns), folder / split / "metadata" / f"metadata_{part}.parquet")
    return folder


def save_npz(folder, foreign, **more):
    arrays = {}
    for split, (features, labels) in foreign.items():
        arrays |= {f"{split}_features": features, f"{split}_labels": labels}
    np.savez(folder.with_suffix(".npz"), **arrays, **more)
    return folder.with_suffix(".npz")


def test_old_clip_benchmark_calls_the_test_set_val(foreign, tmp_path):
    source = save_clip_benchmark(tmp_path / "old", {"train": foreign["train"], "val": foreign["val"]})
    summary = import_features(source, tmp_path / "out.h5")
    assert list(summary.features.splits) == ["train", "test"]
    np.testing.assert_array_equal(summary.features.splits["test"].image_features, foreign["val"][0])
    assert summary.features.splits["test"].image_features.dtype == np.float32
    assert any("became the test split" in note for note in summary.notes)


def test_tip_adapter_takes_the_most_shots_or_those_named(foreign, tmp_path):
    source = save_tip_adapter(tmp_path / "tip", foreign)
    summary = import_features(source, tmp_path / "a.h5")
    assert len(summary.features.splits["train"]) == 12
    assert summary.features.splits["train"].image_features.dtype == np.float16  # as the file has it
    assert any("keys_2shots" in note for note in summary.notes)
    named = import_features(source, tmp_path / "b.h5", options=ImportOptions({"train": ("keys_2shots",)}))
    assert len(named.features.splits["train"]) == 6
    with pytest.raises(InputError, match="keys of 2, 4 shots"):
        import_features(source, tmp_path / "c.h5", options=ImportOptions({"train": ("8",)}))


def test_clip_retrieval_labels(foreign, tmp_path):
    source = save_clip_retrieval(tmp_path / "r", foreign, parts=12)  # twelve: part 10 comes after part 9
    summary = import_features(source, tmp_path / "a.h5")
    assert summary.features.class_names == ("class 0", "class 1", "class 2")
    assert summary.features.splits["train"].sample_ids[11] == "/photos/class 2/train11.jpg"
    assert any("folders" in note for note in summary.notes)
    named = save_clip_retrieval(tmp_path / "n", foreign, label="label")
    assert import_features(named, tmp_path / "b.h5").features.class_names == ("named 0", "named 1", "named 2")
    with pytest.raises(InputError, match="unknown column"):
        import_features(named, tmp_path / "c.h5", options=ImportOptions(label_column="lable"))
    alone = import_features(source / "test", tmp_path / "d.h5", options=ImportOptions(split="test"))
    assert list(alone.features.splits) == ["test"]


def test_a_folder_of_two_layouts_says_so(foreign, tmp_path):
    source = save_clip_benchmark(tmp_path / "both", foreign)
    TipAdapterCache.write_example(source, foreign)
    assert layouts()[-1] == "arrays"  # which accepts nearly everything
    summary = import_features(source, tmp_path / "a.h5")
    assert summary.layout == "clip-benchmark"
    assert summary.notes[0] == "read as clip-benchmark; it could be tip-adapter too (choose with --format)"
    named = import_features(source, tmp_path / "b.h5", layout="tip-adapter")
    assert (named.layout, named.notes[0][:10]) == ("tip-adapter", "no class n")
    assert not any(
        "it could be" in note for note in import_features(save_npz(tmp_path / "x", foreign), tmp_path / "c.h5").notes
    )


def test_without_pyarrow(foreign, tmp_path, monkeypatch):
    source = save_clip_retrieval(tmp_path / "r", foreign)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"cafe-clip\[parquet\]"):
        import_features(source, tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("features", "labels", "split", "shots"),
    [
        ("X_train", "y_train", "train", None),
        ("testFeatures", "testLabels", "test", None),
        ("features_4shot", "labels_4shot", None, 4),
        ("train_16shot_features", "train_16shot_labels", "train", 16),
        ("validation.embeddings", "validation.targets", "val", None),
        ("test_f", "test_l", "test", None),
        ("image_features", "labels", None, None),
    ],
)
def test_roles_by_name(features, labels, split, shots):
    roles = roles_of([labels, "text_features", "class_names", features])
    (pair,) = roles.pairs
    assert (pair.features, pair.labels, pair.split, pair.shots) == (features, labels, split, shots)
    assert (roles.text, roles.class_names) == ("text_features", "class_names")


def test_named_arrays_are_joined(foreign, tmp_path):
    (rows, labels), (more, more_labels) = foreign["train"], foreign["val"]
    source = tmp_path / "shots.npz"
    np.savez(source, features_1shot=rows, labels_1shot=labels, features_2shot=more, labels_2shot=more_labels,
             features_4shot=rows[::-1], labels_4shot=labels[::-1])  # fmt: skip
    alone = import_features(source, tmp_path / "a.h5")
    assert list(alone.features.splits) == ["train"]
    np.testing.assert_array_equal(alone.features.splits["train"].image_features, rows[::-1])
    assert any("no test split" in note and "features_1shot" in note for note in alone.notes)
    joined = import_features(source, tmp_path / "b.h5", options=ImportOptions({"test": ("1shot", "features_2shot")}))
    np.testing.assert_array_equal(joined.features.splits["test"].image_features, np.concatenate([rows, more]))
    with pytest.raises(InputError, match="did you mean 'features_1shot'"):
        import_features(source, tmp_path / "c.h5", options=ImportOptions({"test": ("features_1shots",)}))


def test_a_folder_of_npy_and_text_labels(foreign, tmp_path):
    source = tmp_path / "plain"
    source.mkdir()
    for split, (rows, labels) in foreign.items():
        np.save(source / f"{split}_features.npy", 3 * rows.astype(np.float64))
        np.save(source / f"{split}_labels.npy", np.array(["b", "a", "c"])[labels])
    features = import_features(source, tmp_path / "a.h5").features
    assert features.class_names == ("a", "b", "c")
    assert features.splits["test"].labels[:3].tolist() == [1, 0, 2]
    assert features.provenance["normalised"] is False


def test_text_and_class_names_from_files(foreign, tmp_path):
    text = np.random.default_rng(1).standard_normal((C, D)).astype(np.float32)
    np.save(tmp_path / "weights.npy", text.T)  # (d, c), as Tip-Adapter's clip_weights
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    features = import_features(
        save_npz(tmp_path / "x", foreign), tmp_path / "a.h5",
        class_names=tmp_path / "names.txt", text_features=tmp_path / "weights.npy",
    ).features  # fmt: skip
    assert features.class_names == ("cat", "dog", "cow")
    np.testing.assert_array_equal(features.text_features, text[None])
    np.save(tmp_path / "weights.npy", text[:2])
    with pytest.raises(InputError, match=r"must be \(3 classes, 5 wide\)"):
        import_features(tmp_path / "x.npz", tmp_path / "b.h5", text_features=tmp_path / "weights.npy")


def test_labels_that_begin_at_one(foreign, tmp_path):
    shifted = {split: (rows, labels + 1) for split, (rows, labels) in foreign.items()}
    source = save_npz(tmp_path / "x", shifted, class_names=np.array(["a", "b", "c"]))
    with pytest.raises(InputError, match="begin at 1"):
        import_features(source, tmp_path / "a.h5")


def test_soft_values_are_no_labels(foreign, tmp_path):
    import torch

    source = save_tip_adapter(tmp_path / "tip", foreign)
    torch.save(torch.full((12, C), 1 / C), source / "values_4shots.pt")
    with pytest.raises(InputError, match="one-hot"):
        import_features(source, tmp_path / "a.h5")


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_nothing_in_a_file_is_run(foreign, tmp_path, capfd):
    import pickle

    import torch

    source = save_clip_benchmark(tmp_path / "b", foreign)
    torch.save(Evil(), source / "targets_train.pt")
    with pytest.raises(InputError, match="could run code"):
        import_features(source, tmp_path / "a.h5")
    np.savez(tmp_path / "o.npz", train_features=foreign["train"][0], train_labels=np.array([Evil()] * 12, dtype=object))
    with pytest.raises(InputError, match="allow_pickle=False"):
        import_features(tmp_path / "o.npz", tmp_path / "a.h5")
    (tmp_path / "p.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError):
        import_features(tmp_path / "p.pt", tmp_path / "a.h5")
    assert "this must never run" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.pt", "x.safetensors", "x.txt"])
def test_damaged_files(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK\x03\x04 nothing of the kind")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        import_features(tmp_path / name, tmp_path / "a.h5")


def test_truncated_arrays(foreign, tmp_path):
    for split, (rows, labels) in foreign.items():
        np.save(tmp_path / f"{split}_features.npy", rows)
        np.save(tmp_path / f"{split}_labels.npy", labels)
    path = tmp_path / "val_features.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="val_features.npy cannot be read"):
        import_features(tmp_path, tmp_path / "a.h5")


def test_an_existing_cache_is_not_replaced_unasked(foreign, tmp_path):
    source = save_npz(tmp_path / "x", foreign)
    first = import_features(source, tmp_path / "a.h5")
    assert import_features(source, tmp_path / "a.h5").to_json()["fingerprint"] == first.to_json()["fingerprint"]
    with pytest.raises(CacheError, match="holds other features"):
        import_features(source, tmp_path / "a.h5", encoder="another")
    import_features(source, tmp_path / "a.h5", encoder="another", force=True)


def test_similar_rows_are_dropped(foreign, tmp_path):
    rows, labels = foreign["test"]
    near = rows.copy()
    near[4] = foreign["train"][0][7] + 0.01 * rows[4]
    source = save_npz(tmp_path / "x", {**foreign, "test": (near, labels)})
    features = import_features(source, tmp_path / "a.h5", similar=0.99).features
    assert features.splits["test"].labels.tolist() == np.delete(labels, 4).tolist()
    assert features.provenance["image"]["imported"]["dropped_similar"] == 0.99
    with pytest.raises(InputError, match="above 0"):
        import_features(source, tmp_path / "b.h5", similar=1.5)


def test_a_run_on_imported_features_predicts_with_a_warning(tmp_path, monkeypatch, capfd):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("new.png")
    for grey in range(20):
        folder = tmp_path / "photos" / ("dark" if grey < 10 else "bright")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * grey).save(folder / f"{grey}.png")
    where = ["--cache-dir", str(tmp_path / "c")]
    assert call(["extract", "photos", "--model", "cafe:mini", *where]) == 0
    assert call(["cache", "export", "photos", "--out", "photos.npz", *where]) == 0
    assert call(["cache", "import", "photos.npz", "--name", "theirs", "--model", "cafe:mini", *where]) == 0
    assert call(["fit", "--cache", "theirs", "--method", "linear-probe", "--shots", "4", "--out", "run", *where]) == 0
    capfd.readouterr()
    assert call(["predict", "--run", "run", "new.png", "--json"]) == 0
    captured = capfd.readouterr()
    assert "imported features, said to be of 'cafe:mini'" in captured.err
    assert "predictions" in captured.out or "class" in captured.out


def test_the_command_line(foreign, tmp_path, capfd):
    source = save_npz(tmp_path / "x", foreign)
    folder = str(tmp_path / "caches")
    words = ["cache", "import", str(source), "--name", "toys", "--model", "RN50", "--cache-dir", folder, "--json"]
    assert call(words) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["splits"] == N
    assert document["path"].endswith("toys--RN50.h5")
    for command in (
        ["cache", "ls"],
        ["cache", "info"],
        ["fit", "--shots", "2", "--no-promises"],
        ["compare", "baselines", "--shots", "2", "--seeds", "1"],
    ):
        assert call([*command, "--cache-dir", folder, *(["--json"] if command[0] == "cache" else [])]) == 0, command
    assert call(["cache", "import", str(tmp_path / "nowhere"), "--cache-dir", folder]) == 2
    assert "there is no file or folder" in capfd.readouterr().err
    assert call(["cache", "import", str(source), "--format", "cop", "--cache-dir", folder]) == 2
    assert "did you mean 'coop'" in capfd.readouterr().err
