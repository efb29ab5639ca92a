"""Label issues against cleanlab, where it is installed, against its rule written as loops, and on labels that were
really exchanged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe.evaluation.label_issues import find_label_issues


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, c = int(rng.integers(10, 120)), int(rng.integers(2, 9))
    truth = rng.permutation(np.r_[np.arange(c), rng.integers(0, c, n - c)])  # each class has a label
    logits = 2.5 * rng.random() * np.eye(c)[truth] + rng.standard_normal((n, c))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.where(rng.random(n) < 0.15, rng.integers(0, c, n), truth)
    labels[:c] = np.arange(c)
    return p, labels


@pytest.mark.filterwarnings("ignore")
def test_are_those_of_cleanlab():
    cleanlab_filter = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")
    n_issues = 0
    for seed in range(40):
        p, labels = sample(seed)
        expected = cleanlab_filter.find_label_issues(
            labels, p, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
        )
        issues = find_label_issues(p, labels)
        assert [issue.row for issue in issues] == expected.tolist(), seed
        n_issues += len(issues)
    assert n_issues > 100  # there was something to agree on


@given(st.integers(0, 10_000))
def test_follow_the_rule_of_the_paper(seed):
    """Row by row, as equations 1 and 2 are written."""
    p, labels = sample(seed)
    classes = range(p.shape[1])
    thresholds = [p[labels == j, j].mean() for j in classes]
    expected = set()
    for i, row in enumerate(p):
        reached = [j for j in classes if row[j] >= thresholds[j] - 1e-6]
        if not reached:
            continue
        guess = reached[0] if len(reached) == 1 else int(row.argmax())
        if guess != labels[i] and row.argmax() != labels[i]:
            expected.add(i)
    issues = find_label_issues(p, labels)
    assert {issue.row for issue in issues} == expected
    assert all(issue.suggested == p[issue.row].argmax() != issue.label for issue in issues)


def test_exchanged_labels_are_found():
    """Of four images that are typical of their class the labels are exchanged: they are the most doubtful."""
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 50)
    logits = 4 * np.eye(4)[truth] + rng.standard_normal((200, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = truth.copy()
    exchanged = [int(np.flatnonzero(truth == c)[p[truth == c, c].argmax()]) for c in range(4)]
    labels[exchanged] = (truth[exchanged] + 1) % 4
    rows = [issue.row for issue in find_label_issues(p, labels)]
    assert set(rows[:4]) == set(exchanged) and len(rows) < 12


def test_classes_without_a_label_are_never_suggested_by_their_threshold():
    p = np.array([[0.4, 0.1, 0.5], [0.3, 0.7, 0.0]])
    assert find_label_issues(p, np.array([0, 1])) == []
