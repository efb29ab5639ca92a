"""A method that trains the projection gets the features before it, where the cache holds them."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from cafe.compare import compare
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.fitting import FitRequest, fit_all, fit_method
from cafe.methods.prolip import ProLIP
from cafe.protocol.base_to_new import split_classes
from cafe.protocol.tasks import make_task


def features(with_projection, n_classes=3):
    rng = np.random.default_rng(0)
    W0 = rng.normal(size=(12, 8)).astype(np.float32)
    text = rng.normal(size=(1, n_classes, 8)).astype(np.float32)
    splits = {}
    for name, n in (("train", 24), ("val", 12), ("test", 30)):
        y = np.arange(n) % n_classes
        before = (np.linalg.pinv(W0.T) @ text[0][y].T).T + 0.3 * rng.normal(size=(n, 12))
        before = before.astype(np.float32)
        ids = np.array([f"{name}-{i}" for i in range(n)])
        splits[name] = Split(before @ W0, y, ids, projection_features=before if with_projection else None)
    return Features(
        splits, tuple("abcdef"[:n_classes]), text, ("a {}",), 20.0, projection=W0 if with_projection else None
    )


def test_prolip_trains_the_projection_that_the_cache_holds():
    data = features(True)
    fitted = fit_method(data, "prolip", {"lr": 1e-3}, shots=4)
    assert fitted.row["trained_map"] == "visual projection"
    assert fitted.estimator.projection_.shape == (12, 8)
    task = make_task(data, 4, 1)
    alone = ProLIP(data.class_embeddings, projection=data.projection, lr=1e-3, logit_scale=20.0)
    alone.fit(task.train.projection_features, task.train.labels)
    expected = alone.predict(task.test.projection_features)
    np.testing.assert_array_equal(fitted.predicted, expected)


def test_without_them_it_is_the_linear_adapter():
    fitted = fit_method(features(False), "prolip", {}, shots=4)
    assert fitted.row["trained_map"] == "identity on image features"


def test_a_mix_of_methods_is_fitted_in_order():
    task = make_task(features(True), 4, 1)
    methods = ["zero-shot", "prolip", "tip-adapter", "prolip"]
    fits = fit_all([task], [FitRequest(method) for method in methods])
    assert [fit.row["method"] for fit in fits] == methods
    assert fits[1].row["acc1"] == pytest.approx(fits[3].row["acc1"])


def test_base_to_new_keeps_the_projection():
    """Splitting the classes once dropped it, and ProLIP was fitted on the projected features without a word."""
    rows = compare("base-to-new", [features(True, 4)], shots=[2], seeds=[1], methods=["prolip"]).rows
    assert {row["trained_map"] for row in rows} == {"visual projection"}
    base, new = split_classes(features(True, 4))
    for half in (base, new):
        np.testing.assert_array_equal(half.projection, features(True, 4).projection)
        assert half.split("test").projection_features.shape == (len(half.split("test")), 12)


def test_shift_reads_the_features_that_the_method_learned_from():
    source, other = features(True), features(True)
    test = other.split("test")
    target = Features({"test": replace(test, sample_ids=np.char.add("b-", test.sample_ids))}, other.class_names)
    moved = replace(target.split("test"), projection_features=1.01 * test.projection_features)
    target = Features({"test": moved}, other.class_names, projection=source.projection)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = replace(source, splits={"train": source.split("train"), "test": source.split("val")})
        result = compare("shift", [source, target], shots=[4], seeds=[1], methods=["prolip"])
    assert [row["trained_map"] for row in result.rows] == ["visual projection"] * 2
    assert result.rows[1]["acc1"] > 0.5  # chance is a third

    bare = Features({"test": replace(moved, projection_features=None)}, other.class_names)
    with pytest.raises(InputError, match="before the encoder's projection"):
        compare("shift", [source, bare], shots=[4], seeds=[1], methods=["prolip"])


def test_base_to_new_keeps_the_prompts_of_each_class():
    data = features(True, 4)
    prompts = np.random.default_rng(3).normal(size=(9, 8)).astype(np.float32)
    owners = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3])
    data = replace(data, prompt_features=prompts, prompt_classes=owners)
    base, new = split_classes(data)
    np.testing.assert_array_equal(base.prompt_classes, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(new.prompt_classes, [0, 0, 1, 1])
    np.testing.assert_array_equal(np.concatenate([base.class_embeddings, new.class_embeddings]), data.class_embeddings)
