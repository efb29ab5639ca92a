"""Measures of arrangement by class: against scikit-learn, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import calinski_harabasz_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from cafe.evaluation.geometry import knn_accuracy, measures, scatter_ratio, silhouette


def clusters(seed=0, n=60, spread=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(size=(3, 6))[y] + spread * rng.normal(size=(n, 6))
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def test_scatter_ratio_is_calinski_harabasz_without_its_degrees_of_freedom():
    x, y = clusters()
    assert scatter_ratio(x, y) == pytest.approx(calinski_harabasz_score(x, y) * (3 - 1) / (len(x) - 3))


def test_one_neighbour_is_scikit_learns_leave_one_out():
    x, y = clusters()
    expected = cross_val_score(KNeighborsClassifier(1, metric="cosine"), x, y, cv=LeaveOneOut()).mean()
    assert knn_accuracy(x, y, k=1) == pytest.approx(expected)


def test_votes_by_hand():
    # Angles on a circle; the row at 0 degrees has neighbours B (1), A (2), A (3): two votes for A.
    degrees, y = np.array([0, 1, -2, 3, 90, 91, 92]), np.array([0, 1, 0, 0, 1, 1, 1])
    x = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)
    # Row 1 (class 1) is outvoted by its neighbours of class 0; all others are right.
    assert knn_accuracy(x, y, k=3) == pytest.approx(6 / 7)


def test_order_of_arrangement_is_seen_by_all():
    tight, loose = (measures(*clusters(spread=s)) for s in (0.3, 1.5))
    assert all(tight[name] > loose[name] for name in tight)


def test_length_does_not_matter():
    x, y = clusters()
    own, other = measures(x, y), measures(7 * x, y)
    assert own == pytest.approx(other, rel=1e-4)


def test_a_fixed_part_of_many_rows_stands_for_all():
    x, y = clusters(n=600)
    whole, part = silhouette(x, y), silhouette(x, y, max_rows=300)
    assert part == silhouette(x, y, max_rows=300) != whole
    assert part == pytest.approx(whole, abs=0.05)
