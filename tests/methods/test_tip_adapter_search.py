"""Tip-Adapter's shared scoring against scoring each fit by itself, and what is chosen by it."""

import numpy as np

from cafe import TipAdapter
from cafe.methods import fit_many
from cafe.protocol.selection import score_all, score_fitted


def problem(seed=0, n=60, c=5, d=16):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(c, d)).astype(np.float32)
    y = np.arange(n) % c
    return (text[y] + 1.5 * rng.normal(size=(n, d))).astype(np.float32), y, text


def test_scores_together_are_scores_one_by_one():
    X, y, text = problem()
    queries, labels, _ = problem(seed=1)
    for embeddings in (text, None):
        grid = [TipAdapter(embeddings, alpha=a, beta=b, logit_scale=10.0) for a in (0.0, 1.0, 20.0) for b in (0.5, 5.5)]
        fits = fit_many(X, y, grid, [np.arange(40)] * len(grid))
        assert all(fit.keys_ is fits[0].keys_ for fit in fits)
        together = TipAdapter.score_grid(fits, queries, labels)
        for score, fit in zip(together, fits, strict=True):
            alone = score_fitted(fit, queries, labels)
            assert score == alone
            np.testing.assert_array_equal(score.correct, alone.correct)


def test_a_class_without_a_column_or_keys_of_their_own_are_scored_one_by_one():
    X, y, _ = problem()
    some = np.flatnonzero(y < 4)
    fits = fit_many(X, y, [TipAdapter(alpha=a) for a in (0.5, 1.0)], [some, some])
    assert TipAdapter.score_grid(fits, X, y) is None  # class 4 has no mean, so no column
    assert score_all(fits, X, y) == [score_fitted(fit, X, y) for fit in fits]
    apart = fit_many(X, y, [TipAdapter(), TipAdapter()], [np.arange(40), np.arange(50)])
    assert TipAdapter.score_grid(apart, X[:5], y[:5]) is None
