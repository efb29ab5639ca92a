"""A method that trains the projection gets the features before it, where the cache holds them."""

import numpy as np
import pytest

from cafe.features import Features, Split
from cafe.fitting import Job, fit_jobs, fit_method
from cafe.methods.prolip import ProLIP
from cafe.protocol.tasks import make_task


def features(with_projection):
    rng = np.random.default_rng(0)
    W0 = rng.normal(size=(12, 8)).astype(np.float32)
    text = rng.normal(size=(1, 3, 8)).astype(np.float32)
    splits = {}
    for name, n in (("train", 24), ("val", 12), ("test", 30)):
        y = np.arange(n) % 3
        before = (np.linalg.pinv(W0.T) @ text[0][y].T).T + 0.3 * rng.normal(size=(n, 12))
        before = before.astype(np.float32)
        ids = np.array([f"{name}-{i}" for i in range(n)])
        splits[name] = Split(before @ W0, y, ids, projection_features=before if with_projection else None)
    return Features(splits, ("a", "b", "c"), text, ("a {}",), 20.0, projection=W0 if with_projection else None)


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
    fits = fit_jobs([Job(task, method, {}) for method in methods])
    assert [fit.row["method"] for fit in fits] == methods
    assert fits[1].row["acc1"] == pytest.approx(fits[3].row["acc1"])
