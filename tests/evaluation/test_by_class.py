"""Results by class against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from cafe.evaluation.by_class import class_results, confused_pairs, untested_classes, weakest_classes


@given(st.integers(0, 10_000))
def test_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(1, 60)), int(rng.integers(2, 9))
    labels, predicted = rng.integers(0, c, n), rng.integers(0, c, n)
    results = class_results(predicted, labels, c)
    matrix = confusion_matrix(labels, predicted, labels=range(c))
    assert [result.n_test for result in results] == matrix.sum(axis=1).tolist()
    assert [result.n_right for result in results] == matrix.diagonal().tolist()
    assert [result.n_predicted for result in results] == matrix.sum(axis=0).tolist()
    for ours, theirs in (("recall", recall_score), ("precision", precision_score)):
        values = [getattr(result, ours) for result in results]
        expected = theirs(labels, predicted, labels=range(c), average=None, zero_division=np.nan)
        np.testing.assert_allclose([np.nan if value is None else value for value in values], expected)
    pairs = confused_pairs(predicted, labels, k=None)
    assert {(pair.label, pair.predicted): pair.count for pair in pairs} == {
        (i, j): matrix[i, j] for i in range(c) for j in range(c) if i != j and matrix[i, j]
    }
    assert [pair.count for pair in pairs] == sorted((pair.count for pair in pairs), reverse=True)
    assert untested_classes(labels, c) == [i for i in range(c) if not (labels == i).any()]
    weak = weakest_classes(results)
    assert len(weak) == min(3, sum(n > 0 and d < n for n, d in zip(matrix.sum(1), matrix.diagonal(), strict=True)))
    assert [result.recall for result in weak] == sorted(result.recall for result in weak)
    assert class_results(np.tile(predicted, 3), np.tile(labels, 3), c, repeats=3) == results


def test_of_equal_recall_the_class_with_more_behind_it_stands_first():
    predicted, labels = np.zeros(6, int), np.array([0, 1, 2, 2, 3, 0])
    assert [result.label for result in weakest_classes(class_results(predicted, labels, 4))] == [2, 1, 3]


def test_nothing_wrong_nothing_shown():
    labels = np.arange(4)
    assert confused_pairs(labels, labels) == [] and weakest_classes(class_results(labels, labels, 4)) == []


@pytest.mark.parametrize("k", [1, 2])
def test_as_many_pairs_as_asked_for(k):
    assert len(confused_pairs(np.array([1, 2, 0, 1]), np.array([0, 0, 1, 0]), k=k)) == k
