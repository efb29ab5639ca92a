"""Conformal sets: hand-worked cases, and the promise over many splits, simulated and on real features."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.errors import InputError
from cafe.evaluation.conformal import (
    CONFORMAL_SCORES,
    class_scores,
    conformal_threshold,
    fewest_rows,
    own_scores,
    prediction_sets,
)


@given(st.floats(0.01, 0.999), st.integers(0, 400))
def test_refuses_exactly_where_rows_are_too_few(coverage, n):
    needed = fewest_rows(coverage)
    assert math.ceil((needed + 1) * coverage - 1e-9) <= needed
    assert needed == 1 or math.ceil(needed * coverage - 1e-9) > needed - 1
    if n < needed:
        with pytest.raises(InputError, match="needs"):
            conformal_threshold(np.linspace(0, 1, n), coverage)
    else:
        assert 0 <= conformal_threshold(np.linspace(0, 1, n), coverage) <= 1


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 95])
def test_refuses_what_is_no_coverage(coverage):
    with pytest.raises(InputError, match="between 0 and 1"):
        conformal_threshold(np.linspace(0, 1, 1000), coverage)


def test_scores_by_hand():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    np.testing.assert_allclose(class_scores(p, "lac"), 1 - p)
    np.testing.assert_allclose(class_scores(p, "aps"), [[0.6, 0.9, 1.0], [0.8, 1.0, 0.6]])
    np.testing.assert_allclose(own_scores(p, np.array([1, 2]), "aps"), [0.9, 0.6])


def test_no_set_is_empty_and_a_threshold_of_its_own_row_holds_its_class():
    p = np.array([[0.4, 0.35, 0.25]])
    for score in CONFORMAL_SCORES:
        assert prediction_sets(p, -1.0, score).tolist() == [[True, False, False]]
        for label in range(3):
            threshold = float(own_scores(p, np.array([label]), score)[0])
            assert prediction_sets(p, threshold, score)[0, label]


@pytest.mark.parametrize("score", CONFORMAL_SCORES)
def test_promise_holds_on_average_over_draws_whatever_the_probabilities_are_worth(score):
    """3,000 draws of 39 rows and a new one: the share covered is at least 0.9 less three standard errors (0.016)."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(3000):
        labels = rng.integers(0, 6, 40)
        logits = 0.8 * np.eye(6)[labels] + rng.standard_normal((40, 6))  # weak, and far too sure of itself
        p = np.exp(4 * logits) / np.exp(4 * logits).sum(axis=1, keepdims=True)
        threshold = conformal_threshold(own_scores(p[:-1], labels[:-1], score), 0.9)
        covered.append(prediction_sets(p[-1:], threshold, score)[0, labels[-1]])
    assert np.mean(covered) >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / 3000)


@pytest.mark.parametrize("score", CONFORMAL_SCORES)
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_promise_holds_on_real_features_over_many_splits(score, coverage):
    """A probe on one-shot Cars names 3 of 10 right; 300 splits of its test rows, 200 of them for the threshold."""
    folder = os.environ.get("CAFE_REAL_DATA")
    if not folder:
        pytest.skip("CAFE_REAL_DATA, the folder of real features, is unset")
    from cafe import GDA

    data = np.load(Path(folder) / "clip_features" / "stanford_cars_vitb32.npz")
    fit = GDA().fit(data["train_1shot_features"], data["train_1shot_labels"])
    labels = data["test_labels"]
    p = fit.predict_proba(data["test_features"])
    own, all_scores = own_scores(p, labels, score), class_scores(p, score)
    rng, shares = np.random.default_rng(1), []
    for _ in range(300):
        order = rng.permutation(len(labels))
        rows, new = order[:200], order[200:]
        threshold = conformal_threshold(own[rows], coverage)
        inside = all_scores[new, labels[new]] <= threshold + 1e-9
        shares.append(inside.mean())
    # The mean over splits of a share whose spread is that of a Beta of 200 rows.
    error = math.sqrt(coverage * (1 - coverage) / 200) / math.sqrt(300)
    assert np.mean(shares) >= coverage - 3 * error
    assert np.mean(shares) <= coverage + 1 / 201 + 3 * error + 0.002  # not by sets of all classes
