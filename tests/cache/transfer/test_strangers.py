"""Features from strangers: every odd array, label and file is one sentence with exit code 2, and nothing grows."""

import os
import re
import warnings
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from cafe.cache.transfer.importers.base import ImportOptions
from cafe.cache.transfer.importing import import_features
from cafe.errors import InputError

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
Y = np.arange(8) % 2


def refusal(source: Path, tmp_path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        import_features(source, tmp_path / "out.h5", **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.h5").exists()
    return str(caught.value)


def saved(tmp_path: Path, **arrays: object) -> Path:
    whole = {"train_features": X, "train_labels": Y, "test_features": X, "test_labels": Y, **arrays}
    np.savez(tmp_path / "f.npz", **whole)
    return tmp_path / "f.npz"


ODD = {
    "no rows": ({"train_features": X[:0], "train_labels": Y[:0]}, "is empty"),
    "no columns": ({"train_features": X[:, :0]}, "is empty|different widths"),
    "text features": ({"train_features": X.astype(str)}, "numbers"),
    "0-d features": ({"train_features": np.float32(3)}, "features must be|needs features"),
    "3-d features": ({"train_features": X[None]}, "features must be"),
    "complex features": ({"train_features": X * 1j}, "complex"),
    "objects": ({"train_features": np.array([{"a": 1}] * 8, dtype=object)}, "cannot be read|objects|pickle|Object"),
    "NaN": ({"test_features": np.where(np.arange(8)[:, None] == 3, np.nan, X)}, "row 3 .* holds NaN"),
    "beyond float32": ({"test_features": X.astype(np.float64) * 1e300}, "holds NaN, infinity, or numbers"),
    "another width": ({"test_features": np.hstack([X, X])}, "different widths"),
    "0-d labels": ({"train_labels": np.int64(3)}, "one for each row|one label"),
    "one-hot labels": ({"train_labels": np.eye(2)[Y]}, "argmax"),
    "too few labels": ({"train_labels": Y[:5]}, "one label for each"),
    "dates": ({"train_labels": np.array(["2020-01-01"] * 8, dtype="M8[D]")}, "datetime64"),
    "structs": ({"train_labels": np.zeros(8, dtype=[("a", int)])}, "numbers or texts"),
    "fractions": ({"train_labels": Y + 0.5}, "whole numbers"),
    "infinite labels": ({"train_labels": np.full(8, np.inf)}, "whole numbers"),
    "labels beyond whole floats": ({"train_labels": np.full(8, 1e300)}, "whole numbers"),
    "negative labels": ({"train_labels": Y - 5}, "go from -5"),
    "far label": ({"train_labels": np.where(np.arange(8) == 3, 10**8, Y)}, "the highest label is 100,000,000"),
    "text and numbers": ({"train_labels": Y.astype(str), "test_labels": Y.astype("M8[D]")}, "datetime64"),
    "text of another width": ({"text_features": np.ones((2, 9))}, "text features must be"),
    "text that is no numbers": ({"text_features": np.full((2, 4), "a")}, "text features must be finite numbers"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_arrays_are_a_sentence(tmp_path: Path, case: str) -> None:
    arrays, words = ODD[case]
    message = refusal(saved(tmp_path, **arrays), tmp_path)
    assert re.search(words, message), message


def test_arrays_of_two_encoders_are_not_mixed(tmp_path: Path) -> None:
    source = saved(tmp_path, train_big_features=np.hstack([X, X]), train_big_labels=Y)
    message = refusal(source, tmp_path, options=ImportOptions(arrays={"train": ("train_big",)}))
    assert "different widths" in message
    assert "train_big_features" in message


def test_a_bomb_in_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (20 * 2**20, 1)})
        for _ in range(80):
            file.write(bytes(2**20))
    assert "would grow" in refusal(tmp_path / "b.npz", tmp_path)


@pytest.mark.parametrize("kind", ["sparse", "nested", "list", "complex", "meta"])
def test_odd_tensors_are_a_sentence(tmp_path: Path, kind: str) -> None:
    import torch

    dense = torch.from_numpy(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = {
            "sparse": lambda: dense.to_sparse(),
            "nested": lambda: torch.nested.nested_tensor([dense[0], dense[1, :2]]),
            "list": lambda: [dense, dense],
            "complex": lambda: dense * 1j,
            "meta": lambda: dense.to("meta"),
        }[kind]()
    torch.save(odd, tmp_path / "features_train.pt")
    torch.save(torch.from_numpy(Y), tmp_path / "targets_train.pt")
    refusal(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "label", [None, {"a": 1}, [1, 2], b"x", 1e999, date(2020, 1, 1), 2**62], ids=lambda label: str(label)
)
def test_odd_labels_of_parquet_are_a_sentence(tmp_path: Path, label: object) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", X)
    parquet.write_table(pa.table({"label": [label] * 8}), tmp_path / "metadata" / "metadata_0.parquet")
    refusal(tmp_path, tmp_path)


def test_a_pipe_and_a_name_with_nul_are_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.npz")
    assert "is a pipe" in refusal(tmp_path / "f.npz", tmp_path)
    refusal(tmp_path / "a\0b.npz", tmp_path)
    refusal(Path("/dev/zero"), tmp_path)


def test_any_flipped_bit_is_a_sentence_or_an_import(tmp_path: Path) -> None:
    """Seeded; whatever NumPy and zipfile raise for a damaged archive comes out as one sentence."""
    content = saved(tmp_path).read_bytes()
    for bit in np.random.default_rng(3).choice(8 * len(content), size=60, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "f.npz").write_bytes(damaged)
        try:
            import_features(tmp_path / "f.npz", tmp_path / "out.h5", force=True)
        except InputError as error:
            assert "\n" not in str(error)
