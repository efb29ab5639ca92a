"""Fitting many methods on many tasks: every fit gets its own task, and what cannot be had is refused."""

import gc

import numpy as np
import pytest

from cafe.compare import compare
from cafe.compare.base import Experiment
from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.fitting import FitRequest, fit_all, fit_method
from cafe.protocol.tasks import make_task


def features(seed=0, text=True):
    """Three classes around fixed directions; another seed gives other images under the same names and ids."""
    directions = np.random.default_rng(7).normal(size=(3, 8))
    rng = np.random.default_rng(seed)

    def split(n, name):
        y = np.arange(n) % 3
        X = (directions[y] + 1.5 * rng.normal(size=(n, 8))).astype(np.float32)
        return Split(X, y, np.array([f"{name}-{i}" for i in range(n)]))

    provenance = {"dataset": "made", "encoder": "none", "fingerprint": "f" * 64}
    embeddings = directions[None].astype(np.float32) if text else None
    splits = {"train": split(60, "train"), "test": split(90, "test")}
    return Features(splits, ("a", "b", "c"), embeddings, logit_scale=20.0, provenance=provenance)


def without_time(row):
    return {key: value for key, value in row.items() if key != "fit_seconds"}


def test_requests_are_answered_from_the_task_at_their_position():
    """Also where the same position comes twice, out of order, and where two tasks look equal (same shots and seed)."""
    data = features()
    tasks = [make_task(data, 2, 1), make_task(data, 2, 2), make_task(data, 2, 1)]
    order = [1, 0, 2, 1]
    fits = fit_all(tasks, [FitRequest("tip-adapter", {"alpha": 1.0, "beta": 5.5}, task=i) for i in order])
    assert all(fit.task is tasks[i] for fit, i in zip(fits, order, strict=True))
    assert [fit.row["seed"] for fit in fits] == [2, 1, 1, 2]
    for fit in fits:
        alone = fit_method(data, "tip-adapter", {"alpha": 1.0, "beta": 5.5}, shots=2, seed=fit.row["seed"])
        np.testing.assert_array_equal(fit.predicted, alone.predicted)
    np.testing.assert_array_equal(fits[1].predicted, fits[2].predicted)


def test_tasks_of_two_data_sets_are_refused_however_alike():
    """One stack of rows and one zero-shot accuracy serve all tasks of a call, so they must be of one data set."""
    tasks = [make_task(features(), 2, 1), make_task(features(), 2, 1)]
    with pytest.raises(InputError, match="one data set"):
        fit_all(tasks, [FitRequest("zero-shot", task=0), FitRequest("zero-shot", task=1)])
    with pytest.raises(InputError, match="no task 1"):
        fit_all(tasks[:1], [FitRequest("zero-shot", task=1)])


def test_an_experiment_never_answers_with_the_tasks_of_another_data_set():
    """Memory that is freed is used again: a new data set may stand where an old one stood, under the same names."""
    from dataclasses import replace

    first = features(0)
    old = Experiment((first,), (1,), (1,))
    before = old.tasks(0)[0].train.image_features.copy()
    new = replace(old, features=(features(1),))
    del first
    gc.collect()
    assert new.tasks(0)[0].features is new.features[0]
    assert not np.array_equal(new.tasks(0)[0].train.image_features, before)
    np.testing.assert_array_equal(old.tasks(0)[0].train.image_features, before)


def test_two_caches_that_look_alike_are_compared_each_on_its_own_rows():
    """The suites that keep something for each data set: base-to-new and shift."""

    def accuracies(seeds):
        caches = [wider(seed) for seed in seeds]
        rows = compare("base-to-new", caches, shots=[1], seeds=[1], methods=["zero-shot"]).rows
        return [row["acc1"] for row in rows]

    assert accuracies([0, 1]) == accuracies([0]) + accuracies([1])


def wider(seed):
    """Four classes, since base-to-new needs them."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(7).normal(size=(4, 8))

    def split(n, name):
        y = np.arange(n) % 4
        X = (directions[y] + 1.5 * rng.normal(size=(n, 8))).astype(np.float32)
        return Split(X, y, np.array([f"{name}-{i}" for i in range(n)]))

    provenance = {"dataset": "made", "encoder": "none"}
    splits = {"train": split(40, "train"), "test": split(80, "test")}
    return Features(splits, tuple("abcd"), directions[None].astype(np.float32), provenance=provenance)


@pytest.mark.parametrize("wrong", [{"device": "abacus"}, {"dtype": "float12"}])
def test_python_refuses_a_device_or_dtype_that_is_not_there(wrong):
    """Before anything is drawn or fitted, and also for methods that do not train and would never have asked."""
    with pytest.raises(InputError, match=next(iter(wrong.values()))):
        compare("baselines", [features()], shots=[1], seeds=[1], methods=["zero-shot"], **wrong)
    with pytest.raises(InputError, match=next(iter(wrong.values()))):
        fit_method(features(), "zero-shot", shots=1, **wrong)


@pytest.mark.parametrize(
    ("method", "parameters", "shots", "selection", "expected"),
    [
        ("zero-shot", {}, 2, "auto", "nothing"),
        ("tip-adapter", {"alpha": "auto", "beta": "auto"}, 4, "cross-validation", "cross-validation"),
        ("tip-adapter", {"alpha": "auto", "beta": "auto"}, 1, "auto", "nothing"),  # nothing to split
        ("tip-adapter", {"alpha": "auto", "beta": "auto"}, 4, "oracle-test", "TEST"),
        ("trans-clip", {}, 2, "auto", "the batch"),
        ("trans-clip", {"gamma": "auto"}, 4, "cross-validation", "cross-validation and the batch"),
        ("auto", {}, 4, "auto", "cross-validation"),
    ],
)  # fmt: skip
def test_a_row_says_what_was_chosen_on(method, parameters, shots, selection, expected):
    row = fit_method(features(), method, parameters, shots=shots, selection=selection).row
    assert row["chosen_on"] == expected


def test_a_row_holds_every_field_of_the_contract():
    row = fit_method(features(), "clip-adapter", {"epochs": 2}, shots=2).row
    contract = (
        "dataset encoder method variant shots seed n_train n_test acc1 acc1_interval acc5 mean_per_class_recall "
        "majority_acc1 ece zero_shot_acc1 params selection chosen_on fit_seconds kernel device dtype cafe_version "
        "cache_fingerprint"
    )
    assert not set(contract.split()) - set(row)
    assert row["acc1_interval"][0] < row["acc1"] < row["acc1_interval"][1]
    assert row["majority_acc1"] == pytest.approx(1 / 3)
