"""Which rows stand for "unlabelled": never a labelled shot, never a tested image that nothing is said of."""

import numpy as np
import pytest

from cafe.errors import InputError
from cafe.features import Features, Split
from cafe.fitting import fit_method
from cafe.protocol.tasks import make_task
from cafe.protocol.unlabelled import unlabelled_rows


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 16))

    def split(name, n):
        y = np.arange(n) % 3
        X = (directions[y] + rng.normal(size=(n, 16))).astype(np.float16)
        return Split(X, y, np.array([f"{name}/{i}" for i in range(n)]))

    splits = {"train": split("train", 60), "val": split("val", 9), "test": split("test", 30)}
    return Features(splits, ("a", "b", "c"), directions[None].astype(np.float32))


def rows(features, given, shots=2):
    task = make_task(features, shots, 1)
    return unlabelled_rows(features, task.train, task.test, given, "a folder")


def test_a_split_gives_its_rows_without_the_labelled_ones(features):
    chosen = rows(features, "train")
    assert (chosen.name, len(chosen.features), chosen.is_test) == ("split train", 54, False)
    shots = make_task(features, 2, 1).train.image_features
    assert not (chosen.features[:, None] == shots[None]).all(axis=2).any()
    assert len(rows(features, "val").features) == 9


def test_tested_images_are_left_out_though_they_were_encoded_again(features):
    """Another batch or dtype moves the last bits."""
    again = features.splits["test"].image_features[:4].astype(np.float32) * (1 + 1e-4)
    new = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    with pytest.warns(UserWarning, match="4 of 9 unlabelled images are tested on, and were left out"):
        chosen = rows(features, np.concatenate([again, new]))
    np.testing.assert_array_equal(chosen.features, new)
    assert chosen.name == "a folder"


def test_naming_the_test_split_warns_that_the_method_is_transductive(features):
    with pytest.warns(UserWarning, match="transductive"):
        chosen = rows(features, "test")
    assert chosen.is_test and len(chosen.features) == 30


def test_impossible_requests_are_refused(features):
    with pytest.raises(InputError, match="no split 'tset'"):
        rows(features, "tset")
    with pytest.raises(InputError, match=r"must be \(images, 16\)"):
        rows(features, np.zeros((3, 5)))
    with pytest.raises(InputError, match="no unlabelled image is left of split train"):
        rows(features, "train", shots=None)
    with pytest.raises(InputError, match="gda does not learn from unlabelled images; possible: ss-text"):
        fit_method(features, "gda", shots=2, unlabelled="train")


def test_a_fit_learns_from_unlabelled_images_and_its_row_says_so(features):
    alone = fit_method(features, "ss-text", shots=1)
    both = fit_method(features, "ss-text", shots=1, unlabelled="train")
    given = fit_method(features, "ss-text", shots=1, unlabelled=rows(features, "train", 1).features)
    assert (both.row["n_train"], both.row["n_unlabelled"], both.row["chosen_on"]) == (3, 57, "unlabelled rows")
    assert (both.row["unlabelled"], given.row["unlabelled"]) == ("split train", "given")
    np.testing.assert_array_equal(both.estimator.weights_, given.estimator.weights_)
    assert np.abs(both.estimator.weights_ - alone.estimator.weights_).max() > 0.01
