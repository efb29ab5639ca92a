"""The search against scoring every pair by itself, with the one-hot product of the paper."""

import numpy as np
import pytest
import torch
from made_up_rows import unit

from cafe.solvers.tip_search import tip_search


def problem(n=83, c=7, d=12, counts=(3, 1, 0, 5, 2, 4, 1), seed=0):
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(c, d))
    key_labels = np.repeat(np.arange(c), counts)
    keys = unit(text[key_labels] + rng.normal(size=(len(key_labels), d)))
    labels = rng.integers(0, c, n)
    queries = unit(text[labels] + 1.5 * rng.normal(size=(n, d)))
    return queries, labels, keys, key_labels, unit(text)


@pytest.mark.parametrize("block_bytes", [None, 1], ids=["one block", "blocks of 16 queries and a rest"])
def test_every_pair_scored_by_itself(block_bytes):
    queries, labels, keys, key_labels, text = problem()
    alphas, betas = [0.0, 0.5, 1.17, 4.0, 30.0], [0.3, 1.0, 5.5, 20.0]
    accuracies = tip_search(
        queries, labels, torch.tensor(keys), key_labels, torch.tensor(text), 10.0, alphas, betas,
        block_bytes=block_bytes,
    )  # fmt: skip
    onehot = np.eye(len(text))[key_labels]
    for i, beta in enumerate(betas):
        votes = np.exp(-beta * (1 - queries @ keys.T)) @ onehot
        for j, alpha in enumerate(alphas):
            logits = 10.0 * queries @ text.T + alpha * votes
            assert accuracies[i, j] == np.mean(logits.argmax(1) == labels)
    assert len(np.unique(accuracies)) > 5  # the pairs differ
