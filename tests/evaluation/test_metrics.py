"""Metrics against scikit-learn and against hand-worked cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score

from cafe.evaluation.metrics import METRIC_FIELDS, all_metrics, expected_calibration_error, top_k_accuracy


@given(st.integers(0, 10_000))
def test_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(8, 60)), int(rng.integers(6, 12))
    p = rng.dirichlet(np.ones(c), size=n)
    y = rng.integers(0, c, size=n)
    values = all_metrics(p, y)
    assert values["acc1"] == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert values["acc5"] == pytest.approx(top_k_accuracy_score(y, p, k=5, labels=np.arange(c)))
    present = np.isin(p.argmax(1), y)  # balanced_accuracy warns where a class is only predicted
    if present.all():
        assert values["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert values["nll"] == pytest.approx(log_loss(y, p, labels=np.arange(c)))
    assert 0 <= values["ece"] <= 1
    wilson = binomtest(int((p.argmax(1) == y).sum()), n).proportion_ci(0.95, method="wilson")
    assert values["acc1_interval"] == pytest.approx([wilson.low, wilson.high])
    always = DummyClassifier(strategy="most_frequent").fit(p, y)
    assert values["majority_acc1"] == pytest.approx(always.score(p, y))
    assert set(values) == set(METRIC_FIELDS)


def test_calibration_error_by_hand():
    # Confidence 0.9 four times, right three times; confidence 0.6 once, wrong: 0.8 * 0.15 + 0.2 * 0.6.
    p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    y = np.array([0, 0, 0, 1, 0])
    assert expected_calibration_error(p, y) == pytest.approx(0.8 * 0.15 + 0.2 * 0.6)


def test_perfect_and_certain_is_calibrated():
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0


def test_ties_do_not_flatter():
    assert top_k_accuracy(np.zeros((3, 3)), np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(np.zeros((2, 3)), np.array([0, 2]), 5) == 1
