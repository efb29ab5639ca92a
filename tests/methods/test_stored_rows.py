"""Features on disk give the fits of features in memory, and are never read as a whole by what streams them."""

import numpy as np
import pytest

from cafe import CLIPAdapter, LinearProbe, fit_many
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.kernels.choose import CPU_FORMS
from cafe.methods.inputs.stored_rows import StoredRows, stays_stored


@pytest.fixture
def problem(tmp_path):
    """Return float16 features as an array and on disk, read in blocks of 16 rows, labels, and text."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(5, 12)).astype(np.float32)
    y = np.arange(90) % 5
    X = (3 * (text[y] + 0.8 * rng.normal(size=(90, 12)))).astype(np.float16)
    X.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float16, mode="r", shape=X.shape)
    return X, StoredRows(mapped, block_rows=16), y, text


@pytest.fixture
def read(monkeypatch):
    """Note how many rows each read of stored features makes."""
    seen = []
    get = StoredRows.__getitem__

    def noted(self, key):
        rows_read = get(self, key)
        seen.append(len(rows_read))
        return rows_read

    monkeypatch.setattr(StoredRows, "__getitem__", noted)
    return seen


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
@pytest.mark.parametrize("variant", ["image", "text", "both"])
@pytest.mark.parametrize("normalize", [True, False])
def test_adapter_is_the_same_number_for_number(problem, read, kernel, variant, normalize):
    X, mapped, y, text = problem
    models = [
        CLIPAdapter(text, variant, kernel=kernel, normalize=normalize, epochs=3, batch_size=32, lr=lr, random_state=s)
        for s, lr in ((0, 1e-2), (1, 1e-3))
    ]
    rows = [np.arange(90), np.arange(80)[::-1]]
    for memory, disk in zip(fit_many(X, y, models, rows), fit_many(mapped, y, models, rows), strict=True):
        assert disk.kernel_ == memory.kernel_
        assert memory.kernel_ in CPU_FORMS if kernel == "cpu" else memory.kernel_ == kernel
        for name, value in memory.parameters_.items():
            np.testing.assert_array_equal(disk.parameters_[name], value)
        np.testing.assert_allclose(disk.feature_mean_, memory.feature_mean_, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(disk.logits(X), memory.logits(X))
    assert read
    assert max(read) <= 64  # two batches of 32


def test_learned_ratios_agree_up_to_the_rounding_of_a_mean(problem, read):
    X, mapped, y, text = problem
    model = CLIPAdapter(text, "both", alpha="learned", beta="learned", epochs=5, batch_size=32, random_state=0)
    memory, disk = model.fit(X, y).logits(X), CLIPAdapter(**model.get_params()).fit(mapped, y)
    np.testing.assert_allclose(disk.logits(X), memory, rtol=1e-4, atol=1e-4)
    assert disk.ratio_summary_ == pytest.approx(model.ratio_summary_, rel=1e-4)
    assert max(read) <= 32


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_probe_is_the_same(problem, read, normalize):
    X, mapped, y, text = problem
    rows = [np.arange(90), np.flatnonzero(np.arange(90) % 4)]
    models = [LinearProbe(text, C=10.0, normalize=normalize)] * 2
    for memory, disk in zip(fit_many(X, y, models, rows), fit_many(mapped, y, models, rows), strict=True):
        np.testing.assert_allclose(disk.coef_, memory.coef_, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(disk.predict_proba(X), memory.predict_proba(X), atol=1e-5)
    assert max(read) <= 16


def test_class_means_are_the_same(problem, read):
    X, mapped, y, _ = problem
    memory, disk = (CLIPAdapter(epochs=2, batch_size=32, random_state=0).fit(v, y) for v in (X, mapped))
    np.testing.assert_array_equal(disk.class_embeddings_, memory.class_embeddings_)
    np.testing.assert_array_equal(disk.logits(X), memory.logits(X))
    assert max(read) <= 32
    rows = [np.arange(90)[::2]]
    memory, disk = (fit_many(v, y, [CLIPAdapter(epochs=2, random_state=0)], rows)[0] for v in (X, mapped))
    np.testing.assert_array_equal(disk.logits(X), memory.logits(X))


def test_a_cache_on_disk_reaches_the_fit_as_it_is(problem, read):
    X, mapped, y, text = problem
    ids = np.array([f"i{i}" for i in range(90)])

    def features(train):
        splits = {
            "train": Split(train, y, ids),
            "test": Split(X[:20] + np.float16(0.5), y[:20], np.char.add("t", ids[:20])),
        }
        provenance = {"dataset": "d", "encoder": "e", "fingerprint": "f"}
        return Features(splits, tuple("abcde"), text[None], provenance=provenance)

    parameters = {"epochs": 3, "batch_size": 32}
    memory, disk = (fit_method(features(v), "clip-adapter", parameters) for v in (X, mapped.stored))
    np.testing.assert_array_equal(disk.estimator.parameters_["image_up"], memory.estimator.parameters_["image_up"])
    assert disk.row["acc1"] == memory.row["acc1"]
    assert read  # no copy was made of all rows


def test_what_is_wrong_is_found_on_disk_too(problem, tmp_path):
    X, mapped, y, text = problem
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        CLIPAdapter(text).fit(mapped, y[:-1])
    broken = np.memmap(tmp_path / "broken", np.float16, mode="w+", shape=X.shape)
    broken[:] = X
    broken[70, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        LinearProbe(text, C=1.0).fit(broken, y)


def test_which_arrays_stay_where_they_are(problem):
    X, mapped, _, _ = problem
    assert stays_stored(mapped) and stays_stored(mapped.stored)
    assert not stays_stored(X)
    assert stays_stored(X, large=X.nbytes)
    assert not stays_stored(X.astype(np.float32), large=X.nbytes)


def test_rows_are_those_of_the_array(problem):
    X, mapped, _, _ = problem
    unit = X.astype(np.float32) / np.linalg.norm(X.astype(np.float32), axis=1, keepdims=True)
    rows = mapped.normalised()
    chosen = np.array([7, 3, 80])
    for got, wanted in (
        (rows[2:9], unit[2:9]),
        (rows[chosen], unit[chosen]),
        (rows.take(chosen)[1:], unit[chosen[1:]]),
        (rows.take(chosen).take(np.array([2]))[:], unit[[80]]),
        (np.asarray(rows), unit),
        (rows[np.arange(90) == 4], unit[4:5]),
    ):
        np.testing.assert_array_equal(got, wanted)
    assert rows.take(np.arange(90)) is rows
